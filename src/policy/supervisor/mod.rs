//! The brain of the master: which chain is started, drained, stopped, killed, and when. It holds
//! no descriptor and reads no clock; events come in with the time, [`Action`]s go out, and the
//! master does them. State × event is one `match` each.

mod events;
mod orders;
mod reconcile;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use slot::{Doing, Resume, Slot, SlotState, Terms, Wanted};

use crate::wire::time::Timestamp;

/// After a chain's own patience with its run (kill_timeout) that long, and it is killed itself.
pub const MARGIN: Duration = Duration::from_secs(3);

/// Between two rounds of killing what a dead chain left.
const KILL_ROUND: Duration = Duration::from_millis(200);

/// What the master is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fork the chain's process, then call [`Supervisor::spawned`] or [`Supervisor::cannot_spawn`].
    Spawn {
        /// The chain.
        chain: String,
    },
    /// Send a signal to the chain's process.
    Signal {
        /// The chain.
        chain: String,
        /// Its process, a child that is not yet reaped.
        pid: i32,
        /// signal(7).
        signal: i32,
    },
    /// Kill everything of the chain: control group, process, strays.
    Kill {
        /// The chain.
        chain: String,
    },
    /// End what the dead chain left, then call [`Supervisor::cleared`].
    EndStrays {
        /// The chain.
        chain: String,
    },
    /// Tell the admins: the chain died by itself, or cannot start.
    Failed {
        /// The chain.
        chain: String,
        /// For people.
        what: String,
    },
    /// The chain begins a new generation: what was notified is forgotten.
    NewGeneration {
        /// The chain.
        chain: String,
    },
    /// The chain has ended for good: its pidfile is emptied, its group removed.
    Forget {
        /// The chain.
        chain: String,
    },
}

/// How a chain's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// exit(3) with this code.
    Code(i32),
    /// This signal of signal(7).
    Signal(i32),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Code(code) => write!(f, "exit {code}"),
            ExitReason::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// All chains.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Supervisor {
    slots: BTreeMap<String, Slot>,
    #[serde(skip)]
    deadlines: BTreeSet<(Timestamp, String)>,
    /// Chains that wait for the end of others.
    #[serde(skip)]
    waiters: BTreeSet<String>,
    #[serde(skip)]
    actions: Vec<Action>,
    /// The highest generation given so far.
    last_generation: u64,
    /// Nothing has any time left: what comes up from now on is killed at once.
    #[serde(skip)]
    hurried: bool,
}

const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;

impl Supervisor {
    /// No chains.
    pub fn new() -> Supervisor {
        Supervisor::default()
    }

    /// After a re-exec: deadlines and waiters are found again.
    pub fn restored(mut self) -> Supervisor {
        self.deadlines = self
            .slots
            .iter()
            .filter_map(|(name, slot)| Some((slot.state.deadline()?, name.clone())))
            .collect();
        let waiters = self.slots.iter().filter(|(_, slot)| !slot.after.is_empty());
        self.waiters = waiters.map(|(name, _)| name.clone()).collect();
        self
    }

    /// Copies what is kept for long into memory of its own, without the gaps that decoding leaves:
    /// a fork(2) pays for every page. Returns what is to be dropped once all is copied.
    #[must_use]
    pub fn pack(&mut self) -> impl Sized + use<> {
        let packed = self.slots.iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        std::mem::replace(&mut self.slots, packed)
    }

    /// A chain by name.
    pub fn slot(&self, chain: &str) -> Option<&Slot> {
        self.slots.get(chain)
    }

    /// All chains, by name.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), slot))
    }

    /// Whether nothing runs and nothing will.
    pub fn is_idle(&self) -> bool {
        self.slots.values().all(|slot| slot.state == SlotState::Down)
    }

    /// The number of a new generation.
    pub fn begin_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    /// What is to be done, once.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether a chain was reaped whose [`Action::EndStrays`] is yet to be taken.
    #[must_use]
    pub fn ends_strays_next(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::EndStrays { .. }))
    }

    /// When [`Supervisor::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A chain without a process either gets one after `delay`, or rests.
    fn start_if_wanted(&mut self, chain: &str, delay: Duration, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        if slot.wanted != Wanted::Running {
            self.rest(chain, now);
            return;
        }
        if slot.next_generation > slot.generation {
            slot.generation = slot.next_generation;
            self.drop_fail_cooldown(chain);
        }
        let waits = self.slots.get(chain).is_some_and(|slot| !slot.after.is_empty());
        let state = if waits { SlotState::Down } else { SlotState::Backoff { until: now + delay } };
        self.set_state(chain, state, now);
    }

    /// No process, and none is wanted.
    fn rest(&mut self, chain: &str, now: Timestamp) {
        let gone = self.slots.get(chain).is_some_and(|slot| slot.wanted == Wanted::Gone);
        self.set_state(chain, SlotState::Down, now);
        if !gone {
            return;
        }
        self.slots.remove(chain);
        self.actions.push(Action::Forget { chain: chain.to_owned() });
        self.release(chain, now);
    }

    /// Nothing of the chain's old process is left: who waited for it waits no longer.
    fn release(&mut self, chain: &str, now: Timestamp) {
        let (slots, mut free) = (&mut self.slots, Vec::new());
        self.waiters.retain(|name| {
            let Some(slot) = slots.get_mut(name) else { return false };
            slot.after.retain(|after| after != chain);
            if slot.after.is_empty() && slot.state == SlotState::Down {
                free.push(name.clone());
            }
            !slot.after.is_empty()
        });
        for name in free {
            self.start_if_wanted(&name, Duration::ZERO, now);
        }
    }

    fn set_state(&mut self, chain: &str, state: SlotState, since: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        if let Some(at) = slot.state.deadline() {
            self.deadlines.remove(&(at, chain.to_owned()));
        }
        if let Some(at) = state.deadline() {
            self.deadlines.insert((at, chain.to_owned()));
        }
        slot.state = state;
        slot.since = since;
    }
}
