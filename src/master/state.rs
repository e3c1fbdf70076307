//! What survives a restart and a reboot: outages, pauses, silences, histories, in
//! `state_root/state.json`. A child that was forked for it writes: it has a copy of everything as
//! it was at that moment, and a slow disk is its own concern.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Child, Master, now, wall};
use crate::policy::notices::{NoticeDesk, SavedDesk};
use crate::policy::supervisor::ExitReason;
use crate::sys::fork::{fork_child, leave};
use crate::sys::{clock, fs};
use crate::wire::time::{Timestamp, WallTime};

const NAME: &str = "state.json";

/// The largest state, in bytes.
const MAX_STATE: u64 = 256 << 20;

/// Changes of this time go together.
const DELAY: Duration = Duration::from_secs(1);

/// The file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Of the boot's clock, as in `now`.
    boot: String,
    /// The clocks at the moment of writing.
    now: Timestamp,
    wall: WallTime,
    desk: SavedDesk,
    /// Chains that are paused, with the time of a pause that ends by itself.
    #[serde(default)]
    pauses: Vec<(String, Option<WallTime>)>,
}

impl State {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Result<State, String> {
        serde_json::from_slice(bytes).map_err(|cause| cause.to_string())
    }
}

/// When to write.
#[derive(Debug, Default)]
pub(super) struct Saver {
    dirty: bool,
    due: Option<Timestamp>,
    running: bool,
    /// Told once until it works again.
    failing: bool,
}

impl Saver {
    /// Something that must survive: written within a second.
    pub(super) fn important(&mut self, now: Timestamp) {
        self.dirty = true;
        if self.due.is_none() {
            self.due = Some(now + DELAY);
        }
    }

    /// Something that may be lost with the process: it goes with the next write.
    pub(super) fn worth_keeping(&mut self) {
        self.dirty = true;
    }

    #[must_use]
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.due.filter(|_| !self.running)
    }
}

impl Master {
    pub(super) fn save_if_due(&mut self) {
        if self.saver.running || self.saver.due.is_none_or(|at| at > now()) {
            return;
        }
        self.saver.due = None;
        self.saver.dirty = false;
        let forked = fork_child(|| {
            crate::sys::fork::new_session();
            leave(i32::from(self.write_state().is_err()))
        });
        match forked {
            Ok(pid) => {
                self.children.insert(pid, Child::Saver);
                self.saver.running = true;
            }
            Err(cause) => self.cannot_save(&format!("cannot fork: {cause}")),
        }
    }

    fn write_state(&self) -> Result<(), String> {
        // The desk knows what is paused; a slot of a master that ends wants nothing any more.
        let pauses = self
            .plan
            .config
            .chains
            .iter()
            .filter(|chain| self.desk.paused(&chain.name).is_some())
            .map(|chain| {
                let until = self.pauses.get(&chain.name).map(|until| self.wall_of(*until));
                (chain.name.clone(), until)
            })
            .collect();
        let state = State {
            version: 1,
            boot: clock::boot_clock_id(),
            now: now(),
            wall: wall(),
            desk: self.desk.save(now(), wall()),
            pauses,
        };
        let bytes = serde_json::to_vec(&state).map_err(|cause| cause.to_string())?;
        fs::replace(&self.ground.state, NAME, &bytes, 0o600, true)
            .map_err(|cause| cause.to_string())
    }

    /// A moment of our clock on people's clock.
    pub(super) fn wall_of(&self, at: Timestamp) -> WallTime {
        WallTime(wall().0.saturating_add_signed(at.0.saturating_sub(now().0)))
    }

    pub(super) fn saver_exited(&mut self, reason: ExitReason) {
        self.saver.running = false;
        if reason == ExitReason::Code(0) {
            self.saver.failing = false;
        } else {
            self.cannot_save("state_root cannot be written");
        }
    }

    fn cannot_save(&mut self, cause: &str) {
        if !self.saver.failing {
            self.log.error(&format!("cannot save my state: {cause}; trying again in 60 s"));
        }
        self.saver.failing = true;
        self.saver.dirty = true;
        self.saver.due = Some(now() + Duration::from_secs(60));
    }

    /// The last write, by the master itself: nothing else is left to do.
    pub(super) fn finish_state(&mut self) {
        if let Err(cause) = self.write_state() {
            self.log.error(&format!("cannot save my state: {cause}"));
        }
    }

    /// What an earlier master left. A damaged file costs only itself.
    pub(super) fn load_state(&mut self) {
        let bytes = match fs::read_small(&self.ground.state, NAME, MAX_STATE) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return,
            Err(cause) => return self.log.warn(&format!("cannot read my old state: {cause}")),
        };
        let state = match State::decode(&bytes) {
            Ok(state) => state,
            Err(cause) => {
                self.log.warn(&format!("my old state is damaged and set aside: {cause}"));
                let _ = fs::replace(&self.ground.state, "state.json.damaged", &bytes, 0o600, false);
                return;
            }
        };
        let same_boot = !state.boot.is_empty() && state.boot == clock::boot_clock_id();
        let config = &self.plan.config;
        self.desk = NoticeDesk::restore(state.desk, &self.host, config, now(), wall(), same_boot);
        for (chain, until) in state.pauses {
            if !self.index.contains_key(&chain) {
                continue;
            }
            let until = until.map(|until| {
                let ahead = until.0.saturating_sub(wall().0);
                now() + Duration::from_millis(ahead)
            });
            self.pauses.insert(chain, until.unwrap_or(NEVER));
        }
    }

    /// Chains whose pause survived begin paused.
    pub(super) fn apply_pauses(&mut self) {
        for chain in self.pauses.keys().cloned().collect::<Vec<String>>() {
            self.supervisor.pause_chain(&chain, now());
        }
        self.pauses.retain(|_, until| *until != NEVER);
    }
}

/// A pause without an end.
const NEVER: Timestamp = Timestamp(i64::MAX);
