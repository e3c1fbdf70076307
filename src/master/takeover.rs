//! One master per run_root, decided by a record lock in the private folder and by nothing else. A
//! second start of the same configuration ends the first and takes its place, or refuses. Nobody
//! is signalled who is not proven to hold the lock at that moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Master;
use super::boot::StartContext;
use super::ground::Ground;
use super::groups::Groups;
use super::systemd::Systemd;
use crate::checker::Plan;
use crate::config::model::Config;
use crate::sys::pidfd::PidFd;
use crate::sys::signals::{self, SIGHUP, SIGKILL, SIGQUIT, SIGTERM, Signals};
use crate::sys::{clock, fs, lockers, locks, poll};

/// exit(3) beside a running master.
pub(super) const EXIT_RUNNING: i32 = 69;

/// After the old master's largest kill_timeout.
const MARGIN: Duration = Duration::from_secs(5);

/// The largest text of a holder, in bytes: it names all chains.
const MAX_HOLDER: u64 = 64 << 20;

/// In the folder of locks.
pub(super) const LOCK: &str = "master.lock";

const LOOK: Duration = Duration::from_millis(50);

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
    /// Its chains and those of masters before it that did not end as they should, with their users:
    /// what such a chain left may carry its marks.
    #[serde(default)]
    pub(super) users: BTreeMap<String, u32>,
    /// The boot in which it runs: nothing of it outlives that.
    #[serde(default)]
    pub(super) boot: String,
    /// It ended, and nothing that it started is left.
    #[serde(default)]
    pub(super) ended: bool,
}

/// What the last holder left.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    /// Where processes of its chains may still be.
    pub(super) cgroups: Vec<PathBuf>,
    /// The users of those chains.
    pub(super) users: BTreeMap<String, u32>,
    /// It did not end as it should: processes of its chains may be anywhere.
    pub(super) unclean: bool,
}

impl Holder {
    pub(super) fn of(plan: &Plan, ground: &Ground, groups: &Groups) -> Holder {
        let config = &plan.config;
        let accounts = plan.accounts.iter().filter_map(|(name, found)| {
            found.as_ref().ok().map(|account| (name.clone(), account.uid))
        });
        let mut users = groups.users.clone();
        users.extend(accounts);
        let largest = |pick: fn(&crate::config::model::Chain) -> Duration| {
            let longest = config.chains.iter().map(pick).max().unwrap_or_default();
            u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
        };
        Holder {
            config: config.file.clone(),
            run_root: ground.run_root_path.clone(),
            drain_ms: largest(|chain| chain.drain_timeout),
            kill_ms: largest(|chain| chain.kill_timeout),
            cgroups: groups.own_path().map(Path::to_path_buf),
            users,
            old_cgroups: groups.old.iter().map(|old| old.path().to_path_buf()).collect(),
            boot: clock::boot_id(),
            ended: false,
        }
    }

    /// Writes it through the descriptor that holds the lock: another one's end would drop it. What
    /// cannot be written leaves nothing, which means an unclean end.
    ///
    /// # Errors
    /// When the disk is full.
    pub(super) fn write(&self, mut lock: &File) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        lock.rewind()?;
        lock.set_len(0)?;
        lock.write_all(&text)
    }

    fn read(mut lock: &File) -> Option<Holder> {
        let mut text = Vec::new();
        lock.rewind().and_then(|()| lock.take(MAX_HOLDER).read_to_end(&mut text)).ok()?;
        Holder::decode(&text)
    }

    /// `None`: a damaged text says nothing of its holder; the lock does.
    pub(super) fn decode(text: &[u8]) -> Option<Holder> {
        serde_json::from_slice(text).ok()
    }
}

impl Before {
    /// From what the last holder wrote; `None`: nothing that can be read.
    fn of(holder: Option<Holder>) -> Before {
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
        let users = if unclean { holder.users } else { BTreeMap::new() };
        Before { cgroups, users, unclean }
    }

    /// Of two masters.
    fn and(mut self, other: Before) -> Before {
        self.cgroups.extend(other.cgroups);
        self.cgroups.sort_unstable();
        self.cgroups.dedup();
        self.users.extend(other.users);
        self.unclean |= other.unclean;
        self
    }
}

/// Why there is no lock.
pub(super) struct Refused {
    pub(super) text: String,
    pub(super) exit: i32,
}

/// Takes the master's lock, ending its holder where that is wanted, and a master before it whose lock
/// was removed from its place. `say` tells people what is waited for. Returns the ground, the locked
/// file in it and what the last holder left. Told to stop meanwhile, this process leaves; an upgrade
/// that is asked for meanwhile is for the loop to come.
pub(super) fn take_lock(
    mut ground: Ground,
    config: &Config,
    replace: bool,
    ear: (&StartContext, &Signals, &mut Systemd),
    say: &mut dyn FnMut(&str),
) -> Result<(Ground, File, Before), Refused> {
    let (context, signals, systemd) = ear;
    let cannot = |cause: &dyn std::fmt::Display| Refused {
        text: format!("cannot take {LOCK}: {cause}"),
        exit: crate::sys::fork::EXIT_OSERR,
    };
    let mut place = Place::open(&ground).map_err(|e| cannot(&e))?;
    let mut older: Option<File> = None;
    let mut left = Before::default();
    let mut ending: Option<Ending> = None;
    let mut upgrade = false;
    loop {
        let mine = locks::try_lock(&place.lock).map_err(|e| cannot(&e))?;
        if mine && !place.is_still(&ground) {
            // Removed while it was waited for: nobody else would find it there.
            ground = Ground::prepare(config).map_err(|problem| cannot(&problem))?;
            place = Place::open(&ground).map_err(|e| cannot(&e))?;
            continue;
        }
        if mine && older.is_none() {
            older = find_older(&place, &ground, say);
            if older.is_none() {
                let before = if place.is_new() {
                    Before::default()
                } else {
                    Before::of(Holder::read(&place.lock))
                };
                if upgrade {
                    signals::raise(SIGHUP);
                }
                return Ok((ground, place.lock, before.and(left)));
            }
        }
        let lock = older.as_ref().filter(|_| mine).unwrap_or(&place.lock);
        let Some(pid) = locks::holder(lock).map_err(|e| cannot(&e))? else {
            if let Some(ended) = older.take_if(|_| mine) {
                left = left.and(Before::of(Holder::read(&ended)));
            }
            continue;
        };
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        if pid <= 1 || pid == me {
            let text = format!("cannot replace the running master: its process is seen as {pid}");
            return Err(Refused { text, exit: EXIT_RUNNING });
        }
        if ending.as_ref().is_none_or(|ending| ending.pid != pid) {
            let holder = Holder::read(lock).unwrap_or_default();
            may_replace(config, &holder, pid, replace)?;
            let held = PidFd::open(pid).map_err(|e| cannot(&e))?;
            // Held first, then looked at again: this is the holder or nobody.
            let still = locks::holder(lock).map_err(|e| cannot(&e))? == Some(pid);
            let (Some(held), true) = (held, still) else { continue };
            say(&format!("replacing the running master, process {pid}"));
            held.signal(SIGQUIT).map_err(|e| cannot(&e))?;
            ending = Some(Ending::begin(pid, held, &holder));
        }
        if let Some(ending) = &mut ending {
            upgrade |= ending.press(lock, (context, signals), say).map_err(|e| cannot(&e))?;
            systemd.handle_timeout(super::now());
        }
    }
}

/// The lock's file, as it is in its place.
struct Place {
    lock: File,
    missing: bool,
}

impl Place {
    fn open(ground: &Ground) -> std::io::Result<Place> {
        let missing = fs::read_small(&ground.locks, LOCK, 1)
            .is_err_and(|cause| cause.kind() == std::io::ErrorKind::NotFound);
        Ok(Place { lock: fs::open_or_create(&ground.locks, LOCK, 0o600)?, missing })
    }

    fn is_still(&self, ground: &Ground) -> bool {
        let path = ground.run_root_path.join("lock").join(LOCK);
        fs::identity(&path).is_some_and(|found| fs::identity_of(&self.lock) == Some(found))
    }

    /// Nobody has had it before.
    fn is_new(&self) -> bool {
        self.missing && self.lock.metadata().is_ok_and(|found| found.len() == 0)
    }
}

/// A master with this run_root whose lock is not the one in place any more: run_root was removed or
/// moved away, and it could not make it anew (it is stopped, or this start came first).
fn find_older(place: &Place, ground: &Ground, say: &mut dyn FnMut(&str)) -> Option<File> {
    let run_root = &ground.run_root_path;
    let held = lockers::held(&place.lock, |path| path.ends_with(Path::new("lock").join(LOCK)));
    if let Err(cause) = &held {
        say(&format!("cannot look for masters whose lock was removed: {cause}"));
    }
    let is_older = |held: &lockers::Held| {
        let said = Holder::read(&held.file).unwrap_or_default().run_root;
        match said.as_os_str().is_empty() {
            true => held.path == run_root.join("lock").join(LOCK),
            false => said == *run_root,
        }
    };
    held.unwrap_or_default().into_iter().find(is_older).map(|held| held.file)
}

fn may_replace(config: &Config, holder: &Holder, pid: i32, replace: bool) -> Result<(), Refused> {
    let refuse = |text: String| Err(Refused { text, exit: EXIT_RUNNING });
    if !config.kill_concurrent {
        return refuse(format!(
            "cannot start: process {pid} runs this configuration, and kill_concurrent is false"
        ));
    }
    let another = holder.config != config.file
        && (fs::identity(&config.file).is_none()
            || fs::identity(&holder.config) != fs::identity(&config.file));
    if !replace && !holder.config.as_os_str().is_empty() && another {
        return refuse(format!(
            "cannot start: process {pid} runs {} with the same run_root; name another run_root, \
             or say --replace",
            holder.config.display()
        ));
    }
    Ok(())
}

/// A holder on its way out.
struct Ending {
    pid: i32,
    held: PidFd,
    term_at: Duration,
    kill_at: Duration,
    told_term: bool,
}

impl Ending {
    fn begin(pid: i32, held: PidFd, holder: &Holder) -> Ending {
        let term_at = clock::monotonic().saturating_add(Duration::from_millis(holder.drain_ms));
        let kill_at =
            term_at.saturating_add(Duration::from_millis(holder.kill_ms)).saturating_add(MARGIN);
        Ending { pid, held, term_at, kill_at, told_term: false }
    }

    /// Waits a little; whether an upgrade was asked for meanwhile.
    fn press(
        &mut self,
        lock: &File,
        (context, signals): (&StartContext, &Signals),
        say: &mut dyn FnMut(&str),
    ) -> std::io::Result<bool> {
        let now = clock::monotonic();
        let is_holder =
            |lock: &File| Ok::<bool, std::io::Error>(locks::holder(lock)? == Some(self.pid));
        if now >= self.kill_at {
            if is_holder(lock)? {
                say(&format!("process {} does not end: killing it", self.pid));
                self.held.signal(SIGKILL)?;
            }
            self.kill_at = now.saturating_add(MARGIN);
        } else if now >= self.term_at && !self.told_term {
            if is_holder(lock)? {
                self.held.signal(SIGTERM)?;
            }
            self.told_term = true;
        }
        poll::wait_readable(&[self.held.as_fd(), signals.as_fd()], Some(LOOK))?;
        Ok(context.heard(signals))
    }
}

impl Master {
    /// Says in the lock file who holds it, or that nothing is left of who held it.
    pub(super) fn describe_myself(&self, ended: bool) {
        let holder = Holder::of(&self.plan, &self.ground, &self.groups);
        if let Err(cause) = (Holder { ended, ..holder }).write(&self.lock) {
            self.log.warn(&format!("cannot describe myself in {LOCK}: {cause}"));
        }
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
    fn a_holder_of_many_chains_is_read_whole_and_a_clean_end_leaves_no_users() {
        let users = (0..10_000).map(|n| (format!("{n:0200}"), n)).collect();
        let many = Holder { users, drain_ms: 7, boot: clock::boot_id(), ..Holder::default() };
        let file = tempfile::tempfile().expect("a file");
        many.write(&file).expect("room");
        assert_eq!(Holder::read(&file).as_ref(), Some(&many));
        assert_eq!(Before::of(Some(many.clone())).users.len(), 10_000);
        assert!(Before::of(Some(Holder { ended: true, ..many })).users.is_empty());
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
}
