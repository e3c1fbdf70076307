//! One master per run_root, decided by a record lock in the private folder and by nothing else. A
//! second start of the same configuration ends the first and takes its place, or refuses. Nobody
//! is signalled who is not proven to hold the lock at that moment.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::boot::StartContext;
use super::ground::Ground;
use super::holder::{Before, Holder};
use super::systemd::Systemd;
use crate::config::model::Config;
use crate::sys::pidfd::PidFd;
use crate::sys::signals::{self, SIGHUP, SIGKILL, SIGQUIT, SIGTERM, Signals};
use crate::sys::{clock, fs, lockers, locks, poll};

/// exit(3) beside a running master.
pub(super) const EXIT_RUNNING: i32 = 69;

/// After the old master's largest kill_timeout.
const MARGIN: Duration = Duration::from_secs(5);

/// In the folder of locks.
pub(super) const LOCK: &str = "master.lock";

const LOOK: Duration = Duration::from_millis(50);

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
                let before = before.and(left);
                let until = if before.unclean { tick_over() } else { 0 };
                return Ok((ground, place.lock, Before { until, ..before }));
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

/// The clock tick in which nobody else had the lock any more, once it is over: what begins from now on is
/// not of that one.
fn tick_over() -> u64 {
    let until = clock::ticks();
    while clock::ticks() <= until {
        let _ = poll::wait_readable(&[], Some(clock::TICK));
    }
    until
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
