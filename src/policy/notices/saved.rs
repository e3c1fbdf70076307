//! How the desk survives the master: one record for the handover of an upgrade and for the file
//! in `state_root`. Reading is total: an unknown field is ignored, a damaged part costs only
//! itself.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::desk::{ChainState, Decision, NoticeDesk, Pause, Running, Silence, Upgrades};
use super::history::History;
use super::throttle::Throttle;
use super::troubles::Trouble;
use crate::config::model::Config;
use crate::wire::time::{Timestamp, WallTime};

/// Of the record's form. A reader of another version takes what it understands.
const VERSION: u32 = 1;

/// A part that is read as its default when it is damaged.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lenient<T>(T);

impl<T: Serialize> Serialize for Lenient<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Lenient(serde_json::from_value(value).unwrap_or_default()))
    }
}

/// Everything that a desk remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedDesk {
    version: Lenient<u32>,
    at: Lenient<Timestamp>,
    wall: Lenient<WallTime>,
    sequence: Lenient<u64>,
    chains: Lenient<BTreeMap<String, Lenient<SavedChain>>>,
    upgrades: Lenient<Upgrades>,
    log_trouble: Lenient<Trouble>,
    run_root_trouble: Lenient<Trouble>,
    recent: Lenient<Vec<Lenient<Option<Decision>>>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct SavedChain {
    /// The tasks' names, in the order that positions mean.
    order: Lenient<Vec<String>>,
    tasks: Lenient<Vec<Lenient<Throttle>>>,
    whole: Lenient<Throttle>,
    running: Lenient<Option<Running>>,
    silence: Lenient<Option<Silence>>,
    pause: Lenient<Option<Pause>>,
    output: Lenient<Trouble>,
    history: Lenient<History>,
}

impl NoticeDesk {
    /// Everything that the desk remembers, at `now`.
    pub fn save(&self, now: Timestamp, wall: WallTime) -> SavedDesk {
        let chain = |chain: &ChainState| SavedChain {
            order: Lenient(chain.rules.tasks.iter().map(|(name, _)| name.clone()).collect()),
            tasks: Lenient(chain.tasks.iter().cloned().map(Lenient).collect()),
            whole: Lenient(chain.whole.clone()),
            running: Lenient(chain.running),
            silence: Lenient(chain.silence.clone()),
            pause: Lenient(chain.pause.clone()),
            output: Lenient(chain.output.clone()),
            history: Lenient(chain.history.clone()),
        };
        let chains = self.chains.iter().map(|c| (c.rules.name.clone(), Lenient(chain(c))));
        SavedDesk {
            version: Lenient(VERSION),
            at: Lenient(now),
            wall: Lenient(wall),
            sequence: Lenient(self.sequence),
            chains: Lenient(chains.collect()),
            upgrades: Lenient(self.upgrades.clone()),
            log_trouble: Lenient(self.log_trouble.clone()),
            run_root_trouble: Lenient(self.run_root_trouble.clone()),
            recent: Lenient(self.recent.iter().cloned().map(|d| Lenient(Some(d))).collect()),
        }
    }

    /// A desk that goes on where a saved one ended, as a new generation: both a start of the
    /// master and an accepted upgrade are one. After a reboot (`same_boot` false) times are
    /// carried over by the wall clock, and no run is thought to be going. After a crash in the
    /// same boot, tell [`NoticeDesk::chain_down`] of the chains that are not running.
    pub fn restore(
        saved: SavedDesk,
        host: &str,
        config: &Config,
        now: Timestamp,
        wall: WallTime,
        same_boot: bool,
    ) -> NoticeDesk {
        let mut desk = NoticeDesk::new(host, config, now, wall);
        let away = i64::try_from(wall.0.saturating_sub(saved.wall.0.0)).unwrap_or(0);
        let shift =
            if same_boot { 0 } else { now.0.saturating_sub(away).saturating_sub(saved.at.0.0) };
        desk.sequence = saved.sequence.0;
        desk.upgrades = saved.upgrades.0;
        desk.upgrades.bound_and_shift(shift);
        desk.log_trouble = saved.log_trouble.0;
        desk.log_trouble.shift(shift);
        desk.run_root_trouble = saved.run_root_trouble.0;
        desk.run_root_trouble.shift(shift);
        desk.recent = saved.recent.0.into_iter().filter_map(|decision| decision.0).collect();
        desk.recent.truncate(200);
        for (name, chain) in saved.chains.0 {
            let Some(&place) = desk.index.get(&name) else { continue };
            desk.chains[place].take_back(chain.0, now, shift, same_boot);
            desk.rearm(place);
        }
        desk.reconfigure(config, now, wall);
        desk
    }
}

impl Upgrades {
    fn bound_and_shift(&mut self, shift: i64) {
        self.causes.truncate(32);
        self.sent.truncate(super::throttle::FIRSTS);
        for time in self.causes.iter_mut().map(|(_, at)| at).chain(&mut self.sent) {
            time.0 = time.0.saturating_add(shift);
        }
    }
}

impl ChainState {
    fn take_back(&mut self, saved: SavedChain, now: Timestamp, shift: i64, same_boot: bool) {
        let SavedChain { order, tasks, whole, running, silence, pause, output, history } = saved;
        self.output = output.0;
        self.output.shift(shift);
        let moved = |time: Timestamp| Timestamp(time.0.saturating_add(shift));
        let back = |mut throttle: Throttle| {
            throttle.bound();
            throttle.shift(shift);
            throttle.not_ahead_of(now);
            throttle
        };
        let places: Vec<Option<usize>> =
            order.0.iter().map(|name| self.rules.position(name)).collect();
        for (place, throttle) in places.iter().zip(tasks.0) {
            if let Some(place) = *place {
                self.tasks[place] = back(throttle.0);
            }
        }
        self.whole = back(whole.0);
        if same_boot {
            self.running = running.0.and_then(|running| {
                let task = places.get(running.task).copied().flatten()?;
                Some(Running { task, ..running })
            });
        }
        self.silence = silence.0.map(|s| Silence { until: moved(s.until), ..s });
        self.pause = pause.0.map(|p| Pause {
            since: moved(p.since).min(now),
            told: p.told.map(|told| moved(told).min(now)),
            ..p
        });
        self.history = history.0;
        self.history.bound();
        self.history.retarget(&places);
    }
}
