//! How the log is doing: told to the master over the link when it changes, by whichever thread sees
//! it first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::sys::socket;
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
    /// What had been written when the last thing moved, and when that was; `None` while nothing
    /// waits: how long there was nothing to write says nothing.
    moved: Option<(u64, Duration)>,
}

impl Pace {
    /// With `waiting` records and so many `written` ever at `now`: whether nothing has moved for
    /// too long.
    pub(super) fn is_stuck(&mut self, waiting: usize, written: u64, now: Duration) -> bool {
        if waiting == 0 {
            self.moved = None;
            return false;
        }
        let (_, since) = *match &mut self.moved {
            Some(moved) if moved.0 == written => moved,
            moved => moved.insert((written, now)),
        };
        now.saturating_sub(since) >= BLOCKED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_after_a_long_rest_is_not_one_that_waits_long() {
        let mut pace = Pace::default();
        let at = Duration::from_secs;
        assert!(!pace.is_stuck(0, 1, at(1)));
        assert!(!pace.is_stuck(1, 1, at(100)), "it has just come");
        assert!(!pace.is_stuck(1, 1, at(102)));
        assert!(!pace.is_stuck(2, 2, at(104)), "one was written");
        assert!(!pace.is_stuck(2, 2, at(106)));
        assert!(pace.is_stuck(2, 2, at(107)));
        assert!(!pace.is_stuck(0, 4, at(108)));
        assert!(!pace.is_stuck(1, 4, at(200)));
    }
}
