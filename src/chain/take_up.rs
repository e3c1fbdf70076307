//! From a fork of the master to a chain of its own: let go, take the lock, wait for orphans, write
//! the pidfile, become the user.
//!
//! The order matters. The lock comes before anything that another process of this chain could do
//! at the same time; the pidfile comes while still root, in a folder that only root writes;
//! nothing of the user's is opened before the drop.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::orphans::ORPHAN_PATIENCE;
use super::output::Output;
use super::reports::ReportSender;
use super::world::World;
use super::{Setup, kept, world};
use crate::config::model::{self, Chain, GroupSpec, IoNice, Leftovers, Scheduler, UserSpec};
use crate::logger::link;
use crate::sys::account::{Account, Who, resolve};
use crate::sys::fork::{EXIT_OSERR, Pid, keep_only, leave, new_session};
use crate::sys::priorities::Priorities;
use crate::sys::privileges::{Identity, become_subreaper, drop_privileges};
use crate::sys::signals::{SIGHUP, SIGQUIT, SIGTERM, Signals};
use crate::sys::spawn::reserve_low_descriptors;
use crate::sys::{clock, fs, locks, poll, proc, stdio};

/// What is left of the way into a chain.
pub(super) struct Parts {
    pub(super) world: World,
    pub(super) signals: Signals,
    pub(super) output: Output,
    pub(super) null: OwnedFd,
    /// Holds the record lock: it is closed by the end of this process alone, since closing any
    /// descriptor of the file drops it.
    pub(super) lock: File,
    /// What earlier processes of this chain kept and what still lives.
    pub(super) kept: BTreeSet<Pid>,
}

/// A pidfile holds a number and a newline; what is longer is none of ours.
const MAX_PIDFILE: u64 = 64;

/// A look at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// Lets go of everything that is the master's, in one place: session and terminal, name,
/// descriptors, standard streams.
pub(super) fn detach(setup: &Setup<'_>) -> ReportSender {
    new_session();
    proc::set_title(&format!("runner: chain {}", setup.chain.name));
    if let (Some(link), model::Output::Main) = (setup.link, &setup.chain.output) {
        link::say_hello(link, &setup.chain.name);
    }
    let mut keep = vec![setup.reports.as_fd(), setup.run_root.as_fd(), setup.locks.as_fd()];
    keep.extend(setup.lane);
    keep_only(&keep);
    let null = stdio::to_null();
    // The master's own end was closed with everything else: this one is a copy of ours.
    let reports = setup.reports.try_clone();
    let mut sender = match reports {
        Ok(reports) => ReportSender::new(reports),
        Err(_) => leave(EXIT_OSERR),
    };
    // Without a descriptor for it the process goes on all the same.
    let _ = sender.tell_panics();
    if let Err(cause) = null.and_then(|()| reserve_low_descriptors(5)) {
        sender.say("warning", format!("cannot open /dev/null: {cause}"));
    }
    sender
}

/// Everything between the fork and the first run.
///
/// # Errors
/// The first thing that failed; the process must end then.
pub(super) fn become_chain(setup: &Setup<'_>, reports: &mut ReportSender) -> Result<Parts, String> {
    let chain = setup.chain;
    become_subreaper()?;
    let signals = Signals::new().map_err(|e| format!("cannot receive signals: {e}"))?;
    let mut taking = Taking { setup, reports, signals: &signals };
    let lock = taking.take_lock()?;
    let kept = match chain.leftovers {
        Leftovers::Keep => kept::read(&lock),
        Leftovers::End => BTreeSet::new(),
    };
    taking.wait_for_orphans(&chain.name, &kept)?;
    taking.wait_for_others()?;
    taking.enter_cgroup();
    taking.write_pidfile();
    let looked_up;
    let account = match setup.account {
        Some(account) => {
            if setup.look_again {
                taking.look_again(account)?;
            }
            account
        }
        None => {
            looked_up = look_up(chain)?;
            &looked_up
        }
    };
    let rlimits = chain
        .rlimits
        .iter()
        .map(|(name, limit)| (name.clone(), (limit.soft, limit.hard)))
        .collect();
    let identity = Identity {
        account,
        priorities: Priorities {
            nice: chain.nice,
            ioprio: chain.ionice.map(ioprio),
            scheduler: chain.scheduler.map(scheduler),
            cpu_affinity: chain.cpu_affinity.as_deref(),
            oom_score_adj: chain.oom_score_adj,
        },
        rlimits: &rlimits,
        umask: chain.umask,
        no_new_privs: chain.no_new_privs,
    };
    if setup.search {
        for former in setup.former_users.iter().filter(|former| **former != account.uid) {
            taking.end_marked_of(taking.marks(&chain.name, *former), &kept)?;
        }
    }
    drop_privileges(&identity, setup.master)?;
    if setup.search {
        taking.end_marked(account.uid, &kept)?;
    }
    let world = world::lay_out(chain, account, setup.instance)?;
    let output = Output::open(chain, setup.lane)?;
    let null = stdio::open_null().map_err(|e| format!("cannot open /dev/null: {e}"))?;
    Ok(Parts { world, signals, output, null, lock, kept })
}

/// On the way into a chain.
pub(super) struct Taking<'a, 'b> {
    pub(super) setup: &'a Setup<'b>,
    reports: &'a mut ReportSender,
    signals: &'a Signals,
}

impl Taking<'_, '_> {
    /// The chain's lock. Somebody else's is an orphan of a dead master: it is on its way out, for
    /// its death signal came; one that stays is killed, once it is proven to be the holder. On a file
    /// system that has become read-only it is a shared one, so a chain comes back there, too.
    fn take_lock(&mut self) -> Result<File, String> {
        let name = format!("{}.lock", self.setup.chain.name);
        let cannot = |cause: &dyn std::fmt::Display| format!("cannot take lock {name}: {cause}");
        let locks = self.setup.locks;
        let mut try_lock: fn(&File) -> std::io::Result<bool> = locks::try_lock;
        let opened = fs::open_or_create(locks, &name, 0o600).or_else(|cause| {
            let read_only = cause.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
            let file = read_only.then(|| fs::open_read_only(locks, &name).ok()).flatten();
            try_lock = locks::try_lock_read_only;
            file.ok_or(cause)
        });
        let file = opened.map_err(|cause| cannot(&cause))?;
        let deadline = self.patience();
        let mut told = false;
        loop {
            if try_lock(&file).map_err(|cause| cannot(&cause))? {
                return Ok(file);
            }
            let holder = locks::holder(&file).map_err(|cause| cannot(&cause))?;
            let Some(holder) = holder else {
                self.pause();
                continue;
            };
            if holder <= 1 {
                return Err(cannot(&"its holder cannot be seen from here"));
            }
            self.press(&file, holder, deadline, &mut told).map_err(|cause| cannot(&cause))?;
            self.pause();
        }
    }

    fn enter_cgroup(&mut self) {
        let Some(root) = self.setup.cgroups else { return };
        let entered = root.group(&self.setup.chain.name).and_then(|group| group.enter());
        if let Err(cause) = entered {
            self.reports.say("warning", format!("cannot use a control group: {cause}"));
        }
    }

    /// Between the check and now a user may have been deleted, and its number given to another one: no
    /// process starts as whoever has it now. With a name service that fails it stays as it was checked.
    fn look_again(&mut self, checked: &Account) -> Result<(), String> {
        let UserSpec::Name(name) = &self.setup.chain.user else { return Ok(()) };
        match Account::by_name(name) {
            Ok(Some(found)) if found.uid == checked.uid => Ok(()),
            Ok(Some(found)) => Err(format!(
                "cannot start: user {name:?} was {} when the configuration was read and is {} now; \
                 reload to run it as that",
                checked.uid, found.uid
            )),
            Ok(None) => Err(format!("cannot start: there is no user {name:?} any more")),
            Err(problem) => {
                self.reports.say("warning", format!("{problem}; going on as user {}", checked.uid));
                Ok(())
            }
        }
    }

    /// Informs people and scripts; nothing of ours believes it, so a full disk costs no more than it.
    fn write_pidfile(&mut self) {
        let chain = &self.setup.chain.name;
        let name = format!("{chain}.pid");
        match fs::read_small(self.setup.run_root, &name, MAX_PIDFILE) {
            Ok(content) if content.trim_ascii().is_empty() => {
                self.say_debug(format!("Found pidfile {chain} empty: no process of it runs"));
            }
            Ok(content) => {
                let content = String::from_utf8_lossy(&content).trim().escape_debug().to_string();
                self.say_debug(format!("Found pidfile {chain} containing: {content}"));
                let alive = content.parse::<i32>().is_ok_and(|pid| proc::parent_of(pid).is_some());
                if !alive {
                    self.say_debug(format!(
                        "Could not find /proc/{content}, wiping pidfile {chain}"
                    ));
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => {
                self.reports.say("warning", format!("replacing pidfile {chain}: {cause}"));
            }
        }
        let pid = format!("{}\n", std::process::id());
        match fs::replace(self.setup.run_root, &name, pid.as_bytes(), 0o644, false) {
            Ok(()) => self.say_debug(format!("Wrote pidfile {chain}")),
            Err(cause) => {
                self.reports.say("warning", format!("cannot write pidfile {name}: {cause}"));
            }
        }
    }

    pub(super) fn patience(&self) -> Duration {
        clock::monotonic()
            .saturating_add(self.setup.chain.kill_timeout)
            .saturating_add(ORPHAN_PATIENCE)
    }

    /// One look's time. Told to stop, to leave or to be another generation, the process leaves: it
    /// has no run to finish. It does, too, when its master is gone, whose death signal is not yet
    /// set here.
    pub(super) fn pause(&mut self) {
        let _ = poll::wait_readable(&[self.signals.as_fd()], Some(LOOK));
        while let Ok(Some(signal)) = self.signals.read() {
            if matches!(signal.number, SIGTERM | SIGQUIT | SIGHUP) {
                leave(0);
            }
        }
        if poll::is_hung_up(self.setup.reports.as_fd()) {
            leave(0);
        }
    }

    pub(super) fn say(&mut self, text: String) {
        self.reports.say("info", text);
    }

    fn say_debug(&mut self, text: String) {
        self.reports.say("debug", text);
    }
}

/// Who a chain is, by its configuration.
///
/// # Errors
/// When an account or group does not exist, or the name service fails.
fn look_up(chain: &Chain) -> Result<Account, String> {
    let group_of = |group: &'_ GroupSpec| -> Result<u32, String> {
        match group {
            GroupSpec::Id(id) => Ok(*id),
            GroupSpec::Name(name) => crate::sys::account::group_id(name)?
                .ok_or_else(|| format!("cannot start: there is no group {name:?}")),
        }
    };
    let user = match &chain.user {
        UserSpec::Current => Who::Current,
        UserSpec::Name(name) => Who::Name(name),
        UserSpec::Id(id) => Who::Id(*id),
    };
    let group = chain.group.as_ref().map(group_of).transpose()?.map(Who::Id);
    let groups = match &chain.groups {
        Some(groups) => {
            Some(groups.iter().map(|g| group_of(g).map(Who::Id)).collect::<Result<Vec<_>, _>>()?)
        }
        None => None,
    };
    resolve(user, group, groups.as_deref()).map_err(|problem| format!("cannot start: {problem}"))
}

/// The value of ioprio_set(2).
fn ioprio(ionice: IoNice) -> u16 {
    let (class, level) = match ionice {
        IoNice::Realtime(level) => (1, level),
        IoNice::BestEffort(level) => (2, level),
        IoNice::Idle => (3, 0),
    };
    (class << 13) | u16::from(level)
}

/// Policy number and static priority of sched_setscheduler(2).
fn scheduler(scheduler: Scheduler) -> (i32, i32) {
    match scheduler {
        Scheduler::Other => (0, 0),
        Scheduler::Fifo(priority) => (1, i32::from(priority)),
        Scheduler::Rr(priority) => (2, i32::from(priority)),
        Scheduler::Batch => (3, 0),
        Scheduler::Idle => (5, 0),
    }
}
