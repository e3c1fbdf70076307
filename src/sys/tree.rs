//! Signals to everything below this process. What is no direct child may end and give its number
//! to a stranger at any moment, so each is held by a pidfd and looked at once more before the
//! signal goes out.

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
    let me = nix::unistd::getpid().as_raw();
    let mut sent = Sent::default();
    let children: Vec<Pid> = wait::children()
        .unwrap_or_default()
        .into_iter()
        .filter(|child| !spared.contains(child))
        .collect();
    let mut below = Vec::new();
    for child in &children {
        below.extend(proc::descendants(*child).into_iter().map(|pid| (pid, *child)));
    }
    for (pid, _) in &below {
        // Held first, then looked at: it is still below us, or it is not the one we saw.
        let Ok(Some(held)) = PidFd::open(*pid) else { continue };
        if !is_below(*pid, me, spared) {
            continue;
        }
        count(&mut sent, held.signal(signal).map(|_| ()));
    }
    for child in children {
        count(&mut sent, wait::signal_child(child, signal));
    }
    sent
}

/// Sends `signal` to a direct child and everything below it.
pub fn signal_descendants_of(child: Pid, signal: i32) -> Sent {
    let me = nix::unistd::getpid().as_raw();
    let mut sent = Sent::default();
    for pid in proc::descendants(child) {
        let Ok(Some(held)) = PidFd::open(pid) else { continue };
        if is_below(pid, me, &[]) {
            count(&mut sent, held.signal(signal).map(|_| ()));
        }
    }
    count(&mut sent, wait::signal_child(child, signal));
    sent
}

fn count(sent: &mut Sent, result: std::io::Result<()>) {
    match result {
        Ok(()) => sent.reached += 1,
        Err(cause) if cause.raw_os_error() == Some(libc::EPERM) => sent.refused += 1,
        Err(_) => {}
    }
}

fn is_below(pid: Pid, ancestor: Pid, spared: &[Pid]) -> bool {
    let mut at = pid;
    for _ in 0..1000 {
        match proc::parent_of(at) {
            Some(parent) if parent == ancestor => return !spared.contains(&at),
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}
