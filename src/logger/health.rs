//! How the log is doing: told to the master over the link when it changes, by whichever thread sees
//! it first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::sys::{clock, socket};
use crate::wire::log::{SinkState, Trouble};

/// After which a write that has not come back counts as blocked.
const BLOCKED: Duration = Duration::from_secs(3);

/// What the master was told last.
#[derive(Debug)]
pub(super) struct Health {
    link: OwnedFd,
    told: Mutex<Option<SinkState>>,
}

impl Health {
    /// Nothing is told yet. `link` is the logger's side.
    pub(super) fn new(link: OwnedFd) -> Health {
        Health { link, told: Mutex::new(None) }
    }

    /// Tells it unless that is known.
    pub(super) fn tell(&self, trouble: Option<Trouble>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.as_ref().map(|state| &state.trouble);
        // The cause of a failure says more than that it takes long.
        let is_known = match (known, &trouble) {
            (Some(Some(Trouble::Fails(_))), Some(Trouble::Blocks(_))) => true,
            (known, trouble) => known == Some(trouble),
        };
        if is_known {
            return;
        }
        let state = SinkState { trouble };
        let packet = serde_json::to_vec(&state).unwrap_or_default();
        // A master that does not listen just now is told with the next record.
        if socket::send_packet(self.link.as_fd(), &packet).unwrap_or(false) {
            *told = Some(state);
        }
    }
}

/// Whether records get written while some wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    written: u64,
    since: Duration,
}

impl Pace {
    /// With `waiting` records and so many `written` ever: since when nothing moves, once that is
    /// too long.
    pub(super) fn is_stuck(&mut self, waiting: usize, written: u64) -> bool {
        let now = clock::monotonic();
        if waiting == 0 || written != self.written || self.since.is_zero() {
            *self = Pace { written, since: now };
        }
        now.saturating_sub(self.since) >= BLOCKED
    }
}
