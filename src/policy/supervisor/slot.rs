//! What the master knows of one chain.

use serde::{Deserialize, Serialize};

use crate::policy::backoff::Backoff;
use crate::wire::time::Timestamp;

/// Where a chain is in its life. A process exists in `Starting`, `Up`, `Draining` and `Stopping`
/// and in no other state; leaving is a state, not a flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// No process, and none is wanted.
    Down,
    /// No process; one is started then.
    Backoff {
        /// When.
        until: Timestamp,
    },
    /// Forked; it has not yet told that it is ready.
    Starting {
        /// Its process.
        pid: i32,
    },
    /// It runs its tasks.
    Up {
        /// Its process.
        pid: i32,
    },
    /// It was asked to leave after its current run.
    Draining {
        /// Its process.
        pid: i32,
        /// When it is no longer waited for; `None`: never.
        deadline: Option<Timestamp>,
    },
    /// It was told to end its run and leave.
    Stopping {
        /// Its process.
        pid: i32,
        /// When it is killed.
        kill_at: Timestamp,
    },
    /// The process is gone, something that it started is not.
    Clearing {
        /// When that is killed.
        kill_at: Timestamp,
        /// When the next process may start, at the earliest.
        respawn_at: Timestamp,
    },
}

impl SlotState {
    /// The chain's process.
    pub fn pid(&self) -> Option<i32> {
        match self {
            SlotState::Starting { pid }
            | SlotState::Up { pid }
            | SlotState::Draining { pid, .. }
            | SlotState::Stopping { pid, .. } => Some(*pid),
            SlotState::Down | SlotState::Backoff { .. } | SlotState::Clearing { .. } => None,
        }
    }

    /// When something is due in this state.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self {
            SlotState::Backoff { until } => Some(*until),
            SlotState::Draining { deadline, .. } => *deadline,
            SlotState::Stopping { kill_at, .. } | SlotState::Clearing { kill_at, .. } => {
                Some(*kill_at)
            }
            SlotState::Down | SlotState::Starting { .. } | SlotState::Up { .. } => None,
        }
    }
}

/// What a chain should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// At work.
    Running,
    /// Not at work until `start`.
    Stopped,
    /// Not at work until `resume`.
    Paused,
    /// Forgotten as soon as it has ended: it left the configuration, or the master ends.
    Gone,
}

/// What a chain said of itself last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doing {
    /// Nothing yet.
    #[default]
    Unknown,
    /// A run goes on.
    Running {
        /// The task.
        task: String,
        /// Since when.
        since: Timestamp,
    },
    /// It waits.
    Cooling {
        /// What runs next.
        next: String,
        /// When.
        until: Timestamp,
        /// Whether after a failure.
        after_failure: bool,
        /// Since when.
        since: Timestamp,
    },
}

/// Where the next process of a chain goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The next task by name.
    pub next: String,
    /// The end of the pause before it.
    pub until: Option<Timestamp>,
    /// Whether that pause follows a failure: dropped by a new generation.
    pub after_failure: bool,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Where it is in its life.
    pub state: SlotState,
    /// Since when.
    pub since: Timestamp,
    /// What it should be.
    pub wanted: Wanted,
    /// The generation of its process; of its next one while there is none.
    pub generation: u64,
    /// What it said of itself last.
    #[serde(default)]
    pub doing: Doing,
    /// Where its next process goes on; `None`: at the first task.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// How long the next death is answered with waiting.
    #[serde(default)]
    pub backoff: Backoff,
    /// The generation that its next process will have; more than `generation` while it drains.
    pub next_generation: u64,
    /// Whether this master already had a process of it.
    #[serde(default)]
    pub had_process: bool,
    /// It said that it leaves, because of this signal.
    #[serde(default)]
    pub said_leaving: Option<i32>,
    /// Why it cannot start, in its own words.
    #[serde(default)]
    pub last_words: Option<String>,
    /// Why its process died last; forgotten when a run completes.
    #[serde(default)]
    pub last_failure: Option<String>,
    /// Removed chains with a command of this one's: they must have ended first.
    #[serde(default)]
    pub after: Vec<String>,
}
