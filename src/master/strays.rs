//! What dead chains leave. The master is a subreaper (prctl(2)): orphans of a chain become its
//! children, so every child that it does not know is a stray. As long as a chain lives its orphans
//! are its own children: so a stray was left by one of the chains that were dead when it came up,
//! and by no other. None of those is started again before it is gone: one too many waits rather than
//! one too few. A stray that nobody can end (state D of proc(5)) holds up no chain but those.
//!
//! What is not found this way: a process that left the tree before the master was its reaper, and
//! what an earlier master left (see `chain::orphans`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::time::Duration;

use super::{Master, now};
use crate::chain::kept;
use crate::config::model::Leftovers;
use crate::policy::supervisor::SlotState;
use crate::sys::cgroup::Cgroup;
use crate::sys::fork::Pid;
use crate::sys::signals::{SIGCONT, SIGINT, SIGKILL, SIGTERM};
use crate::sys::tree::signal_trees;
use crate::sys::wait::{Change, Reaped, children, reap, signal_child};
use crate::sys::{clock, fs, poll, proc};

/// How long the last strays have before they are killed, and before they are given up (a process
/// in the kernel's hands, state D of proc(5), cannot be ended by anybody).
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);
const SWEEP_LIMIT: Duration = Duration::from_secs(10);
const SWEEP_LOOK: Duration = Duration::from_millis(20);

/// Unknown children.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Children that the process had before it became the master.
    pub(super) inherited: BTreeSet<Pid>,
    /// What runs left and the configuration keeps, with the chain.
    pub(super) kept: BTreeMap<Pid, String>,
    /// Strays that came up so far.
    pub(super) seen: BTreeSet<Pid>,
    /// For each chain that was dead when one came up: those that it may have left.
    pub(super) left: BTreeMap<String, BTreeSet<Pid>>,
    /// Chains that wait until those are gone.
    pub(super) waiting: BTreeSet<String>,
}

impl Strays {
    pub(super) fn new(inherited: Vec<Pid>) -> Strays {
        Strays { inherited: inherited.into_iter().collect(), ..Strays::default() }
    }

    pub(super) fn reaped(&mut self, pid: Pid) {
        self.inherited.remove(&pid);
        self.kept.remove(&pid);
        self.forget(pid);
    }

    /// Its number may be another process's next time.
    fn forget(&mut self, pid: Pid) {
        if self.seen.remove(&pid) {
            for strays in self.left.values_mut() {
                strays.remove(&pid);
            }
        }
    }

    /// Whether nothing that a run left is alive.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.waiting.is_empty()
    }
}

impl Master {
    /// Chains were reaped: what they left is asked to end, and waited for, but for what their ended
    /// runs left and the configuration keeps. A look at the strays goes through every child of the
    /// master, so there is one for all of them.
    pub(super) fn end_strays(&mut self, chains: &[String]) {
        if chains.is_empty() {
            return;
        }
        let mut spared = Vec::with_capacity(chains.len());
        for chain in chains {
            let kept = self.kept_of(chain);
            if kept.is_empty() {
                // They come up as what it left.
                self.strays.kept.retain(|_, whose| whose != chain);
            }
            self.strays.waiting.insert(chain.clone());
            spared.push(kept);
        }
        let seen = self.see_strays();
        // What one of them keeps came up as what any of them may have left.
        for (chain, spared) in chains.iter().zip(&spared) {
            self.keep_strays(chain, spared);
        }
        for (chain, spared) in chains.iter().zip(&spared) {
            self.ask_to_end(chain, spared);
        }
        if seen.is_some() {
            self.let_go_on();
        }
    }

    fn keep_strays(&mut self, chain: &str, spared: &BTreeSet<Pid>) {
        let left = self.strays.left.get(chain).into_iter().flatten();
        for pid in left.copied().filter(|pid| spared.contains(pid)).collect::<Vec<_>>() {
            self.strays.forget(pid);
            self.strays.kept.insert(pid, chain.to_owned());
        }
    }

    /// The strays that a reaped chain may have left, and what is in its group, but for `spared`.
    fn ask_to_end(&mut self, chain: &str, spared: &BTreeSet<Pid>) {
        let Some(slot) = self.supervisor.slot(chain) else { return };
        let hurried = self.phase == super::Phase::Killing;
        let signal = if hurried { SIGKILL } else { slot.terms.stop_signal };
        let left = self.strays.left.entry(chain.to_owned()).or_default();
        signal_trees(&left.iter().copied().collect::<Vec<_>>(), signal);
        for pid in &*left {
            let _ = signal_child(*pid, SIGCONT);
        }
        if !left.is_empty() {
            let text = format!("ending {} processes that it left", left.len());
            self.log.say(crate::config::model::Level::Info, Some(chain), None, &text);
        }
        if let Some(group) = self.group_of(chain)
            && group.is_populated_but(spared)
        {
            group.signal_but(spared, signal);
        }
    }

    /// What a chain keeps of what its ended runs left, as long as its next process does, too.
    fn kept_of(&self, chain: &str) -> BTreeSet<Pid> {
        let keeps = self.supervisor.slot(chain).is_some_and(|slot| {
            [&slot.terms, &slot.next_terms].iter().all(|terms| terms.leftovers == Leftovers::Keep)
        });
        if !keeps || self.phase != super::Phase::Running {
            return BTreeSet::new();
        }
        let lock = fs::read_small(&self.ground.locks, &format!("{chain}.lock"), kept::MOST);
        let mut all = kept::living(&lock.unwrap_or_default());
        let known = self.strays.kept.iter().filter(|(_, whose)| *whose == chain);
        all.extend(known.map(|(pid, _)| *pid));
        all
    }

    fn group_of(&self, chain: &str) -> Option<Cgroup> {
        self.groups.own.as_ref().and_then(|cgroups| cgroups.existing(chain))
    }

    /// Kills whatever is in a chain's group and is not kept; whether it has one.
    pub(super) fn kill_group(&self, chain: &str) -> bool {
        let group = self.group_of(chain);
        if let Some(group) = &group {
            group.kill_but(&self.kept_of(chain));
        }
        group.is_some()
    }

    /// After each reaping: an orphan's own orphans come up, and chains whose strays are all gone
    /// go on.
    pub(super) fn look_for_strays(&mut self) {
        let Some(fresh) = self.see_strays() else { return };
        let signal = if self.phase == super::Phase::Killing { SIGKILL } else { SIGTERM };
        signal_trees(&fresh, signal);
        self.let_go_on();
    }

    /// Chains of which nothing is left go on.
    fn let_go_on(&mut self) {
        let is_clear = |chain: &&String| {
            self.strays.left.get(*chain).is_none_or(BTreeSet::is_empty)
                && self.group_of(chain).is_none_or(|group| {
                    !group.is_populated() || !group.is_populated_but(&self.kept_of(chain))
                })
        };
        let clear: Vec<String> = self.strays.waiting.iter().filter(is_clear).cloned().collect();
        for chain in clear {
            self.strays.waiting.remove(&chain);
            self.strays.left.remove(&chain);
            self.supervisor.cleared(&chain, now());
        }
    }

    /// Takes note of strays that came up since the last look, and of whose they may be; returns them
    /// if all those wait already: what one that is yet to wait has left is dealt with then, for it
    /// may keep it. `None`: nobody can say what is there (no descriptor is left for a look),
    /// so nothing is gone either.
    fn see_strays(&mut self) -> Option<Vec<Pid>> {
        let unknown: BTreeSet<Pid> = self.unknown_children().ok()?.into_iter().collect();
        for gone in self.strays.seen.difference(&unknown).copied().collect::<Vec<_>>() {
            self.strays.forget(gone);
        }
        let fresh: Vec<Pid> = unknown.difference(&self.strays.seen).copied().collect();
        if fresh.is_empty() {
            return Some(fresh);
        }
        self.strays.seen.extend(&fresh);
        // Looked at after the strays: a chain that lives now had not left them.
        let dead: Vec<(String, Option<u32>)> = self
            .supervisor
            .slots()
            .filter(|(_, slot)| match slot.state.pid() {
                Some(pid) => !proc::is_alive(pid),
                None => matches!(slot.state, SlotState::Clearing { .. }),
            })
            .map(|(name, _)| (name.to_owned(), self.uid_of(name)))
            .collect();
        let mut all_wait = Vec::new();
        for pid in fresh {
            let whose = self.may_have_left(pid, &dead);
            if !whose.is_empty() && whose.iter().all(|chain| self.strays.waiting.contains(*chain)) {
                all_wait.push(pid);
            }
            for chain in whose {
                self.strays.left.entry(chain.clone()).or_default().insert(pid);
            }
        }
        Some(all_wait)
    }

    /// Which of some dead chains may have left a stray. Its control group says it for sure, else its
    /// user does: no user's processes hold up another user's chain. What is of none of their users (a
    /// setuid program, a user that the chain had before) may be of any.
    fn may_have_left<'d>(&self, pid: Pid, dead: &'d [(String, Option<u32>)]) -> Vec<&'d String> {
        let group = self.groups.own.as_ref().and_then(|cgroups| cgroups.chain_of(pid));
        if let Some((name, _)) = dead.iter().find(|(name, _)| Some(name) == group.as_ref()) {
            return vec![name];
        }
        let uid = proc::uid_of(pid);
        let of_user = dead.iter().any(|(_, whose)| whose.is_some() && *whose == uid);
        let may = |whose: &Option<u32>| !of_user || whose.is_none() || *whose == uid;
        dead.iter().filter(|(_, whose)| may(whose)).map(|(name, _)| name).collect()
    }

    fn uid_of(&self, chain: &str) -> Option<u32> {
        Some(self.plan.accounts.get(chain)?.as_ref().ok()?.uid)
    }

    /// Kills what a dead chain left; new orphans are found at the next look.
    pub(super) fn kill_strays_of(&mut self, chain: &str) {
        let left = self.strays.left.get(chain).into_iter().flatten();
        signal_trees(&left.copied().collect::<Vec<_>>(), SIGKILL);
        self.look_for_strays();
    }

    /// At the end nothing is kept: what was becomes a stray like any other.
    pub(super) fn end_kept_strays(&mut self, kill: bool) {
        let signal = if kill { SIGKILL } else { SIGTERM };
        let kept = std::mem::take(&mut self.strays.kept);
        signal_trees(&kept.into_keys().collect::<Vec<_>>(), signal);
    }

    /// The last look before the master leaves: children that no chain waits for any more. Whether
    /// nothing is left.
    pub(super) fn final_sweep(&mut self) -> bool {
        let start = clock::monotonic();
        let mut kill_at = match self.phase {
            super::Phase::Killing => start,
            _ => start.saturating_add(SWEEP_PATIENCE),
        };
        let mut asked = false;
        loop {
            while let Ok(Reaped::One(Change::Exited(pid, _) | Change::Killed(pid, _))) = reap(false)
            {
                self.children.remove(&pid);
                self.strays.reaped(pid);
            }
            let unknown = self.unknown_children();
            let now = clock::monotonic();
            let is_clean = unknown.as_ref().is_ok_and(Vec::is_empty);
            if is_clean || now.saturating_sub(start) > SWEEP_LIMIT {
                return is_clean;
            }
            let signal = if now >= kill_at { SIGKILL } else { SIGTERM };
            if signal == SIGKILL || !asked {
                signal_trees(&unknown.unwrap_or_default(), signal);
            }
            asked = true;
            self.systemd.handle_timeout(super::now());
            let _ = poll::wait_readable(&[self.signals.as_fd()], Some(SWEEP_LOOK));
            while let Ok(Some(signal)) = self.signals.read() {
                if matches!(signal.number, SIGINT | SIGTERM) {
                    kill_at = now;
                }
            }
        }
    }

    fn unknown_children(&self) -> std::io::Result<Vec<Pid>> {
        let mut unknown = children()?;
        unknown.retain(|pid| {
            !self.children.contains_key(pid)
                && !self.strays.inherited.contains(pid)
                && !self.strays.kept.contains_key(pid)
                && !proc::has_ended(*pid)
        });
        if std::process::id() == 1 {
            unknown.retain(|pid| self.is_ours(*pid));
        }
        Ok(unknown)
    }

    /// As PID 1 everybody's orphans end up here: only what is marked as ours is ended.
    fn is_ours(&self, pid: Pid) -> bool {
        proc::environment_value(pid, "RUNNER_INSTANCE")
            .is_some_and(|instance| instance == self.instance)
            || self.groups.own.as_ref().is_some_and(|cgroups| cgroups.holds(pid))
    }
}
