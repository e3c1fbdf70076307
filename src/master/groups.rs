//! Control groups of the chains: those of this master, and those in which chains of masters before
//! it may have left something. A master that starts in another group than the one before it (another
//! unit, another session) finds there what that one left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::holder::{Before, Former};
use super::{Child, Master};
use crate::chain::marks::Marks;
use crate::config::model::Chain;
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
    /// Chains of earlier masters that did not end as they should, as long as something that they left
    /// may be there.
    pub(super) former: BTreeMap<String, Former>,
    /// The master before this one did not end as it should.
    pub(super) unclean: bool,
    /// Then: the clock tick after which nothing began that is of it.
    pub(super) until: u64,
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
        Groups { own, old, former: before.chains, unclean: before.unclean, until: before.until }
    }

    pub(super) fn own_path(&self) -> Option<&Path> {
        self.own.as_ref().map(CgroupRoot::path)
    }

    /// What an upgrade hands over.
    pub(super) fn before(&self) -> Before {
        let cgroups = self.old.iter().map(|old| old.path().to_path_buf()).collect();
        Before { cgroups, chains: self.former.clone(), unclean: self.unclean, until: self.until }
    }

    /// Nothing that carries that chain's marks and is that user's is left.
    pub(super) fn swept(&mut self, chain: &str, uid: u32) {
        if let Some(former) = self.former.get_mut(chain) {
            former.users.remove(&uid);
        }
        self.nothing_is_left();
    }

    /// Whether what chains of earlier masters left is gone, as far as it is known by name.
    pub(super) fn nothing_is_left(&mut self) -> bool {
        let (own, old) = (&self.own, &self.old);
        self.former.retain(|chain, former| {
            let mut groups = old.iter().chain(own).filter_map(|root| root.existing(chain));
            !former.users.is_empty() || groups.any(|group| group.is_populated())
        });
        self.former.is_empty()
    }

    /// The chains of earlier masters one of whose runs, if it still goes on, would be a run of this chain.
    pub(super) fn former_with_a_command_of<'a>(
        &'a self,
        chain: &'a Chain,
    ) -> impl Iterator<Item = (&'a str, &'a Former)> {
        self.former
            .iter()
            .filter(|(name, former)| **name != chain.name && former.shares_a_command(chain))
            .map(|(name, former)| (name.as_str(), former))
    }
}

impl Master {
    /// Processes that carry the marks of an earlier master's chain which is not in the file any
    /// more: no chain looks for them at its start. A child for each, with that chain's rights.
    pub(super) fn sweep_old_marks(&mut self) {
        let gone: Vec<String> = self
            .groups
            .former
            .keys()
            .filter(|name| self.supervisor.slot(name).is_none())
            .cloned()
            .collect();
        for chain in gone {
            self.sweep_marks_of(&chain);
        }
    }

    /// As [`Master::sweep_old_marks`], for one chain that leaves the file and may never have been
    /// ready to look for itself.
    pub(super) fn sweep_marks_of(&mut self, chain: &str) {
        let Some(former) = self.groups.former.get(chain) else { return };
        for uid in former.users.clone() {
            let marks = Marks { chain, instance: &self.instance, uid, until: self.groups.until };
            let forked = fork_child(|| {
                new_session();
                keep_only(&[]);
                let ended = marks.end_all(&BTreeSet::new(), PATIENCE);
                leave(i32::from(!ended))
            });
            match forked {
                Ok(pid) => {
                    self.children.insert(pid, Child::Sweep(chain.to_owned(), uid));
                }
                Err(cause) => self.log.error(&format!("cannot end old processes: {cause}")),
            }
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
