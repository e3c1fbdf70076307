//! Signals to everything below this process. What is no direct child may end and give its number
//! to a stranger at any moment, so each is held by a pidfd and looked at once more before the
//! signal goes out. Each call looks at all processes once, however many it is for: a user can leave as
//! many as the limits allow, one below the other or all side by side, and the master sweeps them.

use std::collections::HashSet;

use super::fork::Pid;
use super::pidfd::PidFd;
use super::{proc, wait};

/// What became of a signal to many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Processes that got it.
    pub reached: usize,
    /// Processes that may not be signalled by this user: setuid programs.
    pub refused: usize,
}

/// Sends `signal` to every descendant of this process but those in `spared` and their own.
pub fn signal_descendants(spared: &[Pid], signal: i32) -> Sent {
    let mut children = wait::children().unwrap_or_default();
    children.retain(|child| !spared.contains(child));
    signal_trees(&children, signal)
}

/// Sends `signal` to direct children and everything below them.
pub fn signal_trees(children: &[Pid], signal: i32) -> Sent {
    let mut sent = Sent::default();
    if children.is_empty() {
        return sent;
    }
    let me = nix::unistd::getpid().as_raw();
    let mut ours: HashSet<Pid> = children.iter().copied().collect();
    for seen in proc::descendants(children.iter().copied()) {
        // Held first, then looked at: it is the one that was seen, and it is still below one of
        // these, or has come up to this process since that one ended.
        let Ok(Some(held)) = PidFd::open(seen.pid) else { continue };
        let Some(still) = proc::look(seen.pid) else { continue };
        if still.start == seen.start && (still.parent == me || ours.contains(&still.parent)) {
            ours.insert(seen.pid);
            count(&mut sent, held.signal(signal).map(|_| ()));
        }
    }
    for child in children {
        count(&mut sent, wait::signal_child(*child, signal));
    }
    sent
}

fn count(sent: &mut Sent, result: std::io::Result<()>) {
    match result {
        Ok(()) => sent.reached += 1,
        Err(cause) if cause.raw_os_error() == Some(libc::EPERM) => sent.refused += 1,
        Err(_) => {}
    }
}
