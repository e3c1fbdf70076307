//! The marks in the environment of whatever a chain runs: how its processes are known where nothing
//! better is. A user can forge them and a program can drop them, so they are looked for with the
//! chain's own rights, and what they find is a help and no proof.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::sys::account::Account;
use crate::sys::fork::Pid;
use crate::sys::pidfd::PidFd;
use crate::sys::signals::{SIGCONT, SIGKILL, SIGTERM};
use crate::sys::{clock, poll, privileges, proc};

/// How long marked processes that were killed have before they are given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A look at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// What a chain's processes carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks<'a> {
    /// The chain's name.
    pub(crate) chain: &'a str,
    /// The name of its run_root among others.
    pub(crate) instance: &'a str,
    /// The user that it runs as.
    pub(crate) uid: u32,
    /// The clock tick after which nothing began that an earlier master's chain has started.
    pub(crate) until: u64,
}

impl Marks<'_> {
    /// Whether a process of that user carries them.
    pub(crate) fn are_on(&self, pid: Pid) -> bool {
        let mark = |name: &str| proc::environment_value(pid, name);
        proc::uid_of(pid) == Some(self.uid)
            && mark("RUNNER_CHAIN").is_some_and(|chain| chain == self.chain)
            && mark("RUNNER_INSTANCE").is_some_and(|instance| instance == self.instance)
    }

    /// The processes of an earlier master's chain that carry them, but for what is kept.
    pub(crate) fn left(&self, kept: &BTreeSet<Pid>) -> Vec<Pid> {
        let kept = proc::with_descendants(kept);
        let is_left = |pid: &Pid| !kept.contains(pid) && self.are_of_old(*pid);
        proc::pids().map(|pids| pids.filter(is_left).collect()).unwrap_or_default()
    }

    fn are_of_old(&self, pid: Pid) -> bool {
        proc::start_time(pid).is_some_and(|start| start <= self.until) && self.are_on(pid)
    }

    /// Becomes that user for good and ends the processes of an earlier master's chain that carry them,
    /// but for what is kept: they are asked to, waited for, killed when that `patience` is over.
    /// Without the right to be that user nothing is done. Returns whether none is left.
    pub(crate) fn end_all(self, kept: &BTreeSet<Pid>, patience: Duration) -> bool {
        let is_allowed = if privileges::is_root() {
            Account::by_id(self.uid).and_then(|account| privileges::drop_to(&account)).is_ok()
        } else {
            privileges::my_uid() == self.uid
        };
        if !is_allowed {
            return false;
        }
        let start = clock::monotonic();
        let (mut asked, mut killed) = (false, false);
        loop {
            let left = self.left(kept);
            let waited = clock::monotonic().saturating_sub(start);
            if left.is_empty() || waited > patience.saturating_add(PATIENCE) {
                return left.is_empty();
            }
            let signal = if waited > patience { SIGKILL } else { SIGTERM };
            if !asked || (signal == SIGKILL && !killed) {
                for pid in left {
                    if let Ok(Some(held)) = PidFd::open(pid)
                        && self.are_of_old(pid)
                    {
                        let _ = held.signal(signal);
                        let _ = held.signal(SIGCONT);
                    }
                }
                (asked, killed) = (true, signal == SIGKILL);
            }
            let _ = poll::wait_readable(&[], Some(LOOK));
        }
    }
}
