//! A chain's worker: what it is started from, by which rules it is replaced, and its process.

use crate::config::model::Worker;
use crate::sys::proc::resident_bytes;
use crate::sys::wait::OpenChildren;
use crate::worker::{Live, Program};

/// What a chain needs to have a worker.
pub(super) struct Keeper {
    pub(super) program: Program,
    pub(super) rules: Worker,
    /// `Some` while there is a process.
    pub(super) live: Option<Live>,
    /// A worker of this process has said what its tasks are like.
    pub(super) known: bool,
    /// Of this process; `None` where the kernel has none.
    pub(super) children: Option<OpenChildren>,
}

impl Keeper {
    /// Why a fresh worker should take the place of this one, if it should; asked between runs.
    pub(super) fn due(&self) -> Option<String> {
        let live = self.live.as_ref()?;
        if live.stale {
            return Some("its output file was opened anew".to_owned());
        }
        if live.leaving {
            return Some("it wants to end".to_owned());
        }
        if self.rules.max_runs.is_some_and(|most| live.runs >= most) {
            return Some(format!("it has done {} runs", live.runs));
        }
        let most = self.rules.max_rss?;
        let size = resident_bytes(live.pid)?;
        (size >= most).then(|| format!("it has grown to {} MiB", size >> 20))
    }
}
