//! What a master writes into its lock file for the one that comes after it: how long its end may take, and
//! where something may be left should it not end as it should. The lock decides who is the master;
//! this text never does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Master;
use super::ground::Ground;
use super::groups::Groups;
use super::takeover::LOCK;
use crate::checker::Plan;
use crate::config::model::{Chain, Command};
use crate::policy::supervisor::{Slot, SlotState, Supervisor};
use crate::sys::clock;

/// The largest file, in bytes: a text names all chains and what they run.
const MAX_HOLDER: u64 = 64 << 20;

/// A file that is longer begins anew: until then each text comes after the one before it, which
/// counts as long as the next is not whole.
const MANY: u64 = 1 << 20;

/// What the lock file says of its holder: written by the holder, read by a successor. Only the
/// master's account can write it; the lock, not this text, decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The configuration file.
    #[serde(default)]
    pub(super) config: PathBuf,
    /// The folder whose lock this is, without links: the file may be removed or moved away.
    #[serde(default)]
    pub(super) run_root: PathBuf,
    /// The largest drain_timeout of its chains, in milliseconds.
    #[serde(default)]
    pub(super) drain_ms: u64,
    /// The largest kill_timeout of its chains, in milliseconds.
    #[serde(default)]
    pub(super) kill_ms: u64,
    /// Where its chains have their control groups.
    #[serde(default)]
    pub(super) cgroups: Option<PathBuf>,
    /// Where chains of masters before it had theirs, as long as something lives there.
    #[serde(default)]
    pub(super) old_cgroups: Vec<PathBuf>,
    /// Its chains, those that left the file and have not yet ended, and those of masters before it
    /// that did not end as they should.
    #[serde(default)]
    pub(super) chains: BTreeMap<String, Former>,
    /// The boot in which it runs: nothing of it outlives that.
    #[serde(default)]
    pub(super) boot: String,
    /// It ended, and nothing that it started is left.
    #[serde(default)]
    pub(super) ended: bool,
}

/// What is known of a chain that may have left something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    /// The users that its processes may have: what they left may carry its marks.
    #[serde(default)]
    pub(super) users: BTreeSet<u32>,
    /// What they may run.
    #[serde(default)]
    pub(super) commands: BTreeSet<Command>,
}

impl Former {
    fn and(&mut self, other: &Former) {
        self.users.extend(&other.users);
        self.commands.extend(other.commands.iter().cloned());
    }

    /// Whether something of it may be a run of that chain, whatever its name.
    pub(super) fn shares_a_command(&self, chain: &Chain) -> bool {
        chain.tasks.iter().any(|task| self.commands.contains(&task.command))
    }
}

/// What the last holder left.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    /// Where processes of its chains may still be.
    pub(super) cgroups: Vec<PathBuf>,
    /// Those chains.
    pub(super) chains: BTreeMap<String, Former>,
    /// It did not end as it should: processes of its chains may be anywhere.
    pub(super) unclean: bool,
    /// Then: the clock tick after which nothing began that is of it.
    pub(super) until: u64,
}

impl Holder {
    pub(super) fn of(plan: &Plan, ground: &Ground, groups: &Groups) -> Holder {
        let config = &plan.config;
        let mut chains = groups.former.clone();
        for chain in &config.chains {
            let former = chains.entry(chain.name.clone()).or_default();
            former.commands.extend(chain.tasks.iter().map(|task| task.command.clone()));
            if let Some(Ok(account)) = plan.accounts.get(&chain.name) {
                former.users.insert(account.uid);
            }
        }
        let largest = |pick: fn(&Chain) -> Duration| {
            let longest = config.chains.iter().map(pick).max().unwrap_or_default();
            u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
        };
        Holder {
            config: config.file.clone(),
            run_root: ground.run_root_path.clone(),
            drain_ms: largest(|chain| chain.drain_timeout),
            kill_ms: largest(|chain| chain.kill_timeout),
            cgroups: groups.own_path().map(Path::to_path_buf),
            chains,
            old_cgroups: groups.old.iter().map(|old| old.path().to_path_buf()).collect(),
            boot: clock::boot_id(),
            ended: false,
        }
    }

    /// Adds what processes of an older configuration may still do: they run what they were started
    /// with, as whom `earlier` says.
    fn with_living(mut self, supervisor: &Supervisor, earlier: Option<&Holder>) -> Holder {
        let lives = |slot: &Slot| {
            slot.state.pid().is_some() || matches!(slot.state, SlotState::Clearing { .. })
        };
        for (name, slot) in supervisor.slots().filter(|(_, slot)| lives(slot)) {
            let former = self.chains.entry(name.to_owned()).or_default();
            former.commands.extend(slot.terms.commands.iter().cloned());
            if let Some(earlier) = earlier.and_then(|earlier| earlier.chains.get(name)) {
                former.users.extend(&earlier.users);
            }
        }
        self
    }

    /// Writes it through the descriptor that holds the lock: another one's end would drop it. Killed
    /// half-way, this process leaves what it wrote before. What cannot be written leaves nothing,
    /// which means an unclean end.
    ///
    /// # Errors
    /// When the disk is full.
    pub(super) fn write(&self, mut lock: &File) -> std::io::Result<()> {
        // What is before it may be torn: it has a line of its own.
        let mut text = vec![b'\n'];
        serde_json::to_writer(&mut text, self)?;
        text.push(b'\n');
        if lock.seek(SeekFrom::End(0))? > MANY {
            lock.set_len(0)?;
            lock.rewind()?;
        }
        let written = lock.write_all(&text);
        if written.is_err() {
            lock.set_len(0)?;
        }
        written
    }

    pub(super) fn read(mut lock: &File) -> Option<Holder> {
        let mut text = Vec::new();
        lock.rewind().and_then(|()| lock.take(MAX_HOLDER).read_to_end(&mut text)).ok()?;
        Holder::decode(&text)
    }

    /// The last whole text. `None`: a damaged one says nothing of its holder; the lock does.
    pub(super) fn decode(text: &[u8]) -> Option<Holder> {
        let lines = text.split(|byte| *byte == b'\n').rev();
        lines.filter(|line| !line.is_empty()).find_map(|line| serde_json::from_slice(line).ok())
    }
}

impl Before {
    /// From what the last holder wrote; `None`: nothing that can be read.
    pub(super) fn of(holder: Option<Holder>) -> Before {
        let Some(holder) = holder else { return Before { unclean: true, ..Before::default() } };
        let same_boot = holder.boot.is_empty() || holder.boot == clock::boot_id();
        let mut cgroups: Vec<PathBuf> = holder
            .cgroups
            .into_iter()
            .chain(holder.old_cgroups)
            .filter(|path| path.is_dir())
            .collect();
        cgroups.sort_unstable();
        cgroups.dedup();
        let unclean = same_boot && !holder.ended;
        let chains = if unclean { holder.chains } else { BTreeMap::new() };
        Before { cgroups, chains, unclean, until: 0 }
    }

    /// Of two masters.
    pub(super) fn and(mut self, other: Before) -> Before {
        self.cgroups.extend(other.cgroups);
        self.cgroups.sort_unstable();
        self.cgroups.dedup();
        for (name, former) in &other.chains {
            self.chains.entry(name.clone()).or_default().and(former);
        }
        self.unclean |= other.unclean;
        self
    }
}

impl Master {
    /// Says in the lock file who holds it, or that nothing is left of who held it.
    pub(super) fn describe_myself(&self, ended: bool) {
        if let Err(cause) = (Holder { ended, ..self.as_holder(&self.ground) }).write(&self.lock) {
            self.log.warn(&format!("cannot describe myself in {LOCK}: {cause}"));
        }
    }

    /// This master as the holder of the lock in those folders.
    pub(super) fn as_holder(&self, ground: &Ground) -> Holder {
        let earlier = Holder::read(&self.lock);
        let holder = Holder::of(&self.plan, ground, &self.groups);
        holder.with_living(&self.supervisor, earlier.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(ended: bool, boot: &str) -> Holder {
        Holder { ended, boot: boot.to_owned(), ..Holder::default() }
    }

    #[test]
    fn only_a_holder_that_said_so_or_of_another_boot_left_nothing() {
        let boot = clock::boot_id();
        assert!(Before::of(Some(holder(false, &boot))).unclean);
        assert!(!Before::of(Some(holder(true, &boot))).unclean);
        assert!(!Before::of(Some(holder(false, "another"))).unclean);
        assert!(Before::of(Some(holder(false, ""))).unclean);
        assert!(Before::of(None).unclean);
    }

    #[test]
    fn a_holder_of_many_chains_is_read_whole_and_a_clean_end_leaves_no_chains() {
        let one = |n| Former { users: [n].into(), commands: [Command::Sh("x".to_owned())].into() };
        let chains = (0..10_000).map(|n| (format!("{n:0200}"), one(n))).collect();
        let many = Holder { chains, drain_ms: 7, boot: clock::boot_id(), ..Holder::default() };
        let file = tempfile::tempfile().expect("a file");
        many.write(&file).expect("room");
        assert_eq!(Holder::read(&file).as_ref(), Some(&many));
        assert_eq!(Before::of(Some(many.clone())).chains.len(), 10_000);
        assert!(Before::of(Some(Holder { ended: true, ..many })).chains.is_empty());
    }

    #[test]
    fn groups_of_all_crashes_in_a_row_are_remembered_as_long_as_they_exist() {
        let dir = tempfile::tempdir().expect("a folder");
        let old = Holder {
            cgroups: Some(dir.path().to_path_buf()),
            old_cgroups: vec!["/nowhere/at/all".into(), "/".into(), "/".into()],
            ..Holder::default()
        };
        assert_eq!(Before::of(Some(old)).cgroups, [Path::new("/"), dir.path()]);
    }

    #[test]
    fn killed_while_it_writes_it_leaves_what_it_wrote_before() {
        let file = tempfile::tempfile().expect("a file");
        let holder = |drain_ms| Holder { drain_ms, ..Holder::default() };
        let read = || Holder::read(&file).map(|read| read.drain_ms);
        holder(1).write(&file).expect("room");
        let whole = file.metadata().expect("a file").len();
        holder(2).write(&file).expect("room");
        let both = file.metadata().expect("a file").len();
        for length in whole..both - 1 {
            file.set_len(length).expect("a file");
            assert_eq!(read(), Some(1), "{length} bytes");
            holder(3).write(&file).expect("room");
            assert_eq!(read(), Some(3), "{length} bytes");
        }
        for drain_ms in 0..20_000 {
            holder(drain_ms).write(&file).expect("room");
        }
        assert_eq!(read(), Some(19_999));
        assert!(file.metadata().is_ok_and(|found| found.len() <= MANY + whole * 2));
    }
}
