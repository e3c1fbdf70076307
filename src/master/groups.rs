//! Control groups of the chains: those of this master, and those in which chains of masters before
//! it may have left something. A master that starts in another group than the one before it (another
//! unit, another session) finds there what that one left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::takeover::Before;
use super::{Child, Master};
use crate::chain::marks::Marks;
use crate::sys::cgroup::{Cgroup, CgroupRoot};
use crate::sys::fork::{fork_child, keep_only, leave, new_session};
use crate::sys::{clock, poll};

/// How long what is in an old group has before it is killed, and again before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A look at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// Where groups are.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Where chains have theirs; `None`: no version 2 hierarchy can be written here.
    pub(super) own: Option<CgroupRoot>,
    /// Where chains of earlier masters had theirs.
    pub(super) old: Vec<CgroupRoot>,
    /// The users of chains of earlier masters that did not end as they should.
    pub(super) users: BTreeMap<String, u32>,
    /// The master before this one did not end as it should.
    pub(super) unclean: bool,
}

impl Groups {
    /// At a start.
    pub(super) fn find(instance: &str, before: Before) -> Groups {
        let own = CgroupRoot::find(instance);
        Groups::with(own, before)
    }

    /// After an upgrade: as the image before said.
    pub(super) fn at(own: Option<PathBuf>, before: Before) -> Groups {
        Groups::with(own.map(CgroupRoot::at), before)
    }

    fn with(own: Option<CgroupRoot>, before: Before) -> Groups {
        let mut old: Vec<CgroupRoot> = before.cgroups.into_iter().map(CgroupRoot::at).collect();
        // What is empty by now is taken away, and then there is nothing to remember.
        old.retain(|old| Some(old) != own.as_ref() && !old.remove());
        Groups { own, old, users: before.users, unclean: before.unclean }
    }

    pub(super) fn own_path(&self) -> Option<&Path> {
        self.own.as_ref().map(CgroupRoot::path)
    }

    /// What an upgrade hands over.
    pub(super) fn before(&self) -> Before {
        let cgroups = self.old.iter().map(|old| old.path().to_path_buf()).collect();
        Before { cgroups, users: self.users.clone(), unclean: self.unclean }
    }
}

impl Master {
    /// Processes that carry the marks of an earlier master's chain which is not in the file any
    /// more: no chain looks for them at its start. A child for each, with that chain's rights.
    pub(super) fn sweep_old_marks(&mut self) {
        let gone: Vec<(String, u32)> = self
            .groups
            .users
            .iter()
            .filter(|(name, _)| self.supervisor.slot(name).is_none())
            .map(|(name, uid)| (name.clone(), *uid))
            .collect();
        for (chain, uid) in gone {
            self.sweep_marks_of(&chain, uid);
        }
    }

    /// As [`Master::sweep_old_marks`], for one chain that leaves the file and may never have been
    /// ready to look for itself.
    pub(super) fn sweep_marks_of(&mut self, chain: &str, uid: u32) {
        let marks = Marks { chain, instance: &self.instance, uid };
        let forked = fork_child(|| {
            new_session();
            keep_only(&[]);
            marks.end_all(&BTreeSet::new());
            leave(0)
        });
        match forked {
            Ok(pid) => {
                self.children.insert(pid, Child::Other);
            }
            Err(cause) => self.log.error(&format!("cannot end old processes: {cause}")),
        }
    }

    /// Groups that an earlier master's chains left and that no chain of ours has: a child waits a
    /// little for what lives there, then kills it.
    pub(super) fn sweep_old_groups(&mut self) {
        let is_known = |name: &String| self.supervisor.slot(name).is_some();
        let groups: Vec<Cgroup> = self
            .groups
            .old
            .iter()
            .chain(&self.groups.own)
            .flat_map(|root| {
                let gone = root.chains().into_iter().filter(|name| !is_known(name));
                gone.filter_map(|name| root.existing(&name)).collect::<Vec<_>>()
            })
            .collect();
        if groups.is_empty() {
            return;
        }
        let forked = fork_child(|| {
            new_session();
            end_groups(&groups);
            leave(0)
        });
        match forked {
            Ok(pid) => {
                self.children.insert(pid, Child::Other);
            }
            Err(cause) => self.log.error(&format!("cannot end old processes: {cause}")),
        }
    }
}

/// Waits for groups to be empty, kills what does not end, takes them away.
fn end_groups(groups: &[Cgroup]) {
    let start = clock::monotonic();
    for group in groups {
        while group.is_populated() {
            let waited = clock::monotonic().saturating_sub(start);
            if waited > PATIENCE.saturating_add(PATIENCE) {
                return;
            }
            if waited > PATIENCE {
                group.kill_but(&BTreeSet::new());
            }
            let _ = poll::wait_readable(&[], Some(LOOK));
        }
        let _ = group.remove();
    }
}
