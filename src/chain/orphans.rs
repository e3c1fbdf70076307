//! What an earlier master's chains left, when that master was killed together with whoever could have
//! ended it: asked to end, waited for, killed, before this chain runs anything. By locks, control
//! groups and marks; what is newer than this master's lock is none of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use super::kept;
use super::marks::{Marks, PATIENCE};
use super::take_up::Taking;
use crate::sys::cgroup::Cgroup;
use crate::sys::fork::{Pid, fork_child, keep_only, leave, new_session};
use crate::sys::pidfd::PidFd;
use crate::sys::signals::{SIGCONT, SIGKILL};
use crate::sys::wait::{self, Change, Reaped};
use crate::sys::{clock, fs, locks, proc};

/// How long an orphan may take beyond its chain's kill_timeout.
pub(super) const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

/// Why a chain cannot start whose orphans are still there then.
const STUCK: &str = "cannot start: processes of an earlier run do not end";

impl<'a> Taking<'a, '_> {
    /// The holder of a chain's lock is let hear of its master's death, and killed at the deadline.
    pub(super) fn press(
        &mut self,
        lock: &File,
        holder: Pid,
        deadline: Duration,
        told: &mut bool,
    ) -> std::io::Result<()> {
        let late = clock::monotonic() >= deadline;
        if *told && !late {
            return Ok(());
        }
        let held = PidFd::open(holder)?;
        let still = locks::holder(lock)? == Some(holder);
        let (Some(held), true) = (held, still) else { return Ok(()) };
        if late {
            self.say(format!("killing process {holder} of an earlier master"));
            let _ = held.signal(SIGKILL);
            let _ = held.wait(Duration::from_secs(1));
        } else {
            self.say(format!("waiting for process {holder} of an earlier master to end"));
            // One that was stopped has not yet heard of its master's death.
            let _ = held.signal(SIGCONT);
            *told = true;
        }
        Ok(())
    }

    /// What a run of this chain may be under another name: its command was another chain's when the
    /// master before this one was killed, together with whoever could have ended that run. Nothing of
    /// that chain's own next process is touched: it began later.
    pub(super) fn wait_for_others(&mut self) -> Result<(), String> {
        let setup = self.setup;
        for (name, users) in &setup.others {
            let lock = format!("{name}.lock");
            self.wait_for_holder(&lock)?;
            let kept = fs::read_small(setup.locks, &lock, kept::MOST).unwrap_or_default();
            let kept = kept::living(&kept);
            self.wait_for_orphans(name, &kept)?;
            for uid in users {
                self.end_marked_of(self.marks(name, *uid), &kept)?;
            }
        }
        Ok(())
    }

    /// Until no process of an earlier master holds another chain's lock.
    fn wait_for_holder(&mut self, name: &str) -> Result<(), String> {
        let cannot = |cause: std::io::Error| format!("cannot look at lock {name}: {cause}");
        let file = fs::open_or_create(self.setup.locks, name, 0o600).map_err(cannot)?;
        let (deadline, mut told) = (self.patience(), false);
        while let Some(holder) = locks::holder(&file).map_err(cannot)?
            && self.is_of_old(holder)
        {
            self.press(&file, holder, deadline, &mut told).map_err(cannot)?;
            self.pause();
        }
        Ok(())
    }

    fn is_of_old(&self, pid: Pid) -> bool {
        proc::start_time(pid).is_some_and(|start| start <= self.setup.until)
    }

    /// What earlier processes of a chain left in its control group and what is not kept: asked to
    /// end, waited for, then killed. Of another chain than this one, only what an earlier master left.
    pub(super) fn wait_for_orphans(
        &mut self,
        name: &str,
        kept: &BTreeSet<Pid>,
    ) -> Result<(), String> {
        let chain = self.setup.chain;
        let roots = self.setup.old_cgroups.iter().chain(self.setup.cgroups);
        let groups: Vec<Cgroup> = roots.filter_map(|root| root.existing(name)).collect();
        for group in groups {
            let deadline = clock::monotonic().saturating_add(chain.kill_timeout);
            let mut told = false;
            loop {
                let mut spared = kept.clone();
                if name != chain.name {
                    let newer = |pid: &Pid| !self.is_of_old(*pid);
                    spared.extend(group.processes().into_iter().filter(newer));
                }
                if !group.is_populated_but(&spared) {
                    break;
                }
                if !told {
                    self.say("ending processes of an earlier run".to_owned());
                    group.signal_but(&spared, chain.stop_signal);
                    group.signal_but(&spared, SIGCONT);
                    told = true;
                }
                let now = clock::monotonic();
                if now >= deadline {
                    group.kill_but(&spared);
                }
                if now.saturating_sub(deadline) > ORPHAN_PATIENCE {
                    return Err(STUCK.to_owned());
                }
                self.pause();
            }
        }
        Ok(())
    }

    /// After an unclean end of the master before this one: processes that carry our marks, looked for with the chain's
    /// own rights, since a mark can be forged. What dropped its marks (`env -i`) is not found.
    pub(super) fn end_marked(&mut self, uid: u32, kept: &BTreeSet<Pid>) -> Result<(), String> {
        let marks = self.marks(&self.setup.chain.name, uid);
        let deadline = self.patience();
        let mut signal = self.setup.chain.stop_signal;
        let mut kill_at = clock::monotonic().saturating_add(self.setup.chain.kill_timeout);
        loop {
            let marked = marks.left(kept);
            if marked.is_empty() {
                return Ok(());
            }
            let now = clock::monotonic();
            if now >= deadline.saturating_add(ORPHAN_PATIENCE) {
                return Err(STUCK.to_owned());
            }
            if now >= kill_at {
                signal = SIGKILL;
                kill_at = now;
            }
            if signal != 0 {
                self.say(format!("ending {} processes of an earlier run", marked.len()));
                for pid in marked {
                    let Ok(Some(held)) = PidFd::open(pid) else { continue };
                    if marks.are_on(pid) {
                        let _ = held.signal(signal);
                    }
                }
                signal = 0;
            }
            self.pause();
        }
    }

    /// As [`Taking::end_marked`], for another user, which the chain had under the master before, or for
    /// another chain: a child looks for them with that one's rights.
    pub(super) fn end_marked_of(
        &mut self,
        marks: Marks<'_>,
        kept: &BTreeSet<Pid>,
    ) -> Result<(), String> {
        let marked = marks.left(kept);
        if marked.is_empty() {
            return Ok(());
        }
        let Marks { chain, uid, .. } = marks;
        let text = format!("ending {} processes of an earlier run", marked.len());
        self.say(format!("{text} as user {uid} in chain {chain}"));
        let patience = self.setup.chain.kill_timeout;
        let child = fork_child(|| {
            new_session();
            keep_only(&[]);
            marks.end_all(kept, patience);
            leave(0)
        })
        .map_err(|cause| format!("cannot end processes of an earlier run: {cause}"))?;
        // That user can stop the child that works with its rights.
        let deadline = self.patience().saturating_add(ORPHAN_PATIENCE).saturating_add(PATIENCE);
        while !matches!(
            wait::reap(false),
            Ok(Reaped::One(Change::Exited(pid, _) | Change::Killed(pid, _))) if pid == child
        ) {
            if clock::monotonic() >= deadline {
                wait::end_child(child);
                break;
            }
            self.pause();
        }
        if marks.left(kept).is_empty() {
            return Ok(());
        }
        Err(STUCK.to_owned())
    }

    pub(super) fn marks(&self, chain: &'a str, uid: u32) -> Marks<'a> {
        Marks { chain, instance: self.setup.instance, uid, until: self.setup.until }
    }
}
