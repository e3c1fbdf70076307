//! What the master knows of one chain.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::model::{Chain, Command, Drain, Leftovers};
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
        /// When it should have been ready.
        #[serde(default)]
        deadline: Option<Timestamp>,
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
            SlotState::Starting { pid, .. }
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
            SlotState::Starting { deadline, .. } | SlotState::Draining { deadline, .. } => {
                *deadline
            }
            SlotState::Stopping { kill_at, .. } | SlotState::Clearing { kill_at, .. } => {
                Some(*kill_at)
            }
            SlotState::Down | SlotState::Up { .. } => None,
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

/// What a chain's configuration says of its end. A process lives and dies by the configuration that
/// it was started with, whatever the file says by now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// signal(7), asks what it left to end.
    pub stop_signal: i32,
    /// From there to SIGKILL.
    pub kill_timeout: Duration,
    /// How long the end of the master lets a run finish.
    pub drain_timeout: Duration,
    /// How long an upgrade does.
    pub upgrade_drain: Drain,
    /// What becomes of what a run left.
    pub leftovers: Leftovers,
    /// What it runs, each once.
    pub commands: Vec<Command>,
}

/// Those of a record that does not say them: the defaults of a configuration.
impl Default for Terms {
    fn default() -> Terms {
        Terms {
            stop_signal: super::SIGTERM,
            kill_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(60),
            upgrade_drain: Drain::Forever,
            leftovers: Leftovers::End,
            commands: Vec::new(),
        }
    }
}

impl From<&Chain> for Terms {
    fn from(chain: &Chain) -> Terms {
        Terms {
            stop_signal: chain.stop_signal,
            kill_timeout: chain.kill_timeout,
            drain_timeout: chain.drain_timeout,
            upgrade_drain: chain.upgrade_drain,
            leftovers: chain.leftovers,
            commands: {
                let all: BTreeSet<&Command> =
                    chain.tasks.iter().map(|task| &task.command).collect();
                all.into_iter().cloned().collect()
            },
        }
    }
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
    /// By what its process lives; that of the last one while there is none.
    #[serde(default)]
    pub terms: Terms,
    /// By what its next process will live.
    #[serde(default)]
    pub next_terms: Terms,
    /// Whether a process of it was ready under this master: before that an earlier master's orphans
    /// are looked for.
    #[serde(default)]
    pub was_ready: bool,
    /// It said that it leaves, because of this signal.
    #[serde(default)]
    pub said_leaving: Option<i32>,
    /// How often what its process left was killed in vain.
    #[serde(default)]
    pub kill_rounds: u32,
    /// Why it cannot start, in its own words.
    #[serde(default)]
    pub last_words: Option<String>,
    /// Why its process died last; forgotten when a run completes.
    #[serde(default)]
    pub last_failure: Option<String>,
    /// Chains whose old process may still run a command of this one's: it must have ended first.
    #[serde(default)]
    pub after: Vec<String>,
}

impl Slot {
    /// A chain that had no process yet.
    pub(super) fn new(terms: Terms, after: Vec<String>, generation: u64, now: Timestamp) -> Slot {
        Slot {
            state: SlotState::Down,
            since: now,
            wanted: Wanted::Running,
            generation,
            doing: Doing::Unknown,
            resume: None,
            backoff: Backoff::default(),
            next_generation: generation,
            terms: terms.clone(),
            next_terms: terms,
            was_ready: false,
            said_leaving: None,
            kill_rounds: 0,
            last_words: None,
            last_failure: None,
            after,
        }
    }
}
