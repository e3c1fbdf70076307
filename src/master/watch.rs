//! The master's ground taken away while it runs: a cleaner of temporary files, a boot script or an
//! operator removes or moves run_root, `lock/` or the lock's file. What is held then lies nowhere, and
//! the next start would find nobody. So the kernel tells the master (inotify(7)), which makes
//! everything anew at once: folders, lock, control socket, pidfiles. The admins are told.
//!
//! If a start comes first, or this process is stopped meanwhile, that start finds it by the lock that
//! it still holds ([`super::takeover`]) and ends it; until then it must not let go of that. A master
//! beside this one that does not find it (another mount or pid namespace, no `/proc`) keeps the
//! place, and this one stops: it can tell, the other one cannot.
//!
//! What remains uncovered: a folder further up that is moved is not told; the next start sees it. The
//! locks of living chains stay those of the removed files, so what `leftovers: Keep` keeps is known
//! to the master alone until a chain's process is replaced.

use std::fs::File;
use std::time::Duration;

use super::ground::Ground;
use super::takeover::LOCK;
use super::{GROUND, Master, Phase, now, wall};
use crate::sys::poll::Interest;
use crate::sys::watch::Watcher;
use crate::sys::{fs, locks};
use crate::wire::time::Timestamp;

/// Between two tries to have the ground back.
const AGAIN: Duration = Duration::from_secs(2);

/// How long a master that came to the place of this one has to end it.
const RIVAL_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the ground.
#[derive(Debug, Default)]
pub(super) struct Watch {
    watcher: Option<Watcher>,
    /// When it is tried again to have it back; `None`: everything is in its place.
    pub(super) retry_at: Option<Timestamp>,
    /// Since when it could not be had back.
    since: Option<Timestamp>,
    /// Why it could not be had back, as it was told.
    told: Option<String>,
    /// Who has the lock that is in place now, and since when.
    rival: Option<(i32, Timestamp)>,
}

impl Master {
    /// At a start and after an upgrade.
    pub(super) fn watch_ground(&mut self) {
        self.watch_folders();
        self.mend_ground();
    }

    /// Something in the folders went.
    pub(super) fn ground_changed(&mut self) {
        if let Some(watcher) = &self.watch.watcher {
            watcher.clear();
        }
        self.mend_ground();
    }

    fn watch_folders(&mut self) {
        if let Some(watcher) = self.watch.watcher.take() {
            self.epoll.remove(&watcher);
        }
        let watched = Watcher::new().and_then(|watcher| {
            watcher.removals(&self.ground.run_root)?;
            watcher.removals_and_moves(&self.ground.locks)?;
            self.epoll.add(&watcher, GROUND, Interest::Read)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => self.watch.watcher = Some(watcher),
            Err(cause) => {
                let cause = crate::sys::error_text(&cause);
                self.log.warn(&format!(
                    "cannot watch run_root: {cause}; if it is removed, only the next start sees it"
                ));
            }
        }
    }

    /// Whether run_root, `lock/` and the lock are what their paths lead to.
    fn is_in_place(&self) -> bool {
        let Ground { run_root, locks, run_root_path, .. } = &self.ground;
        let lock_folder = run_root_path.join("lock");
        let lock = lock_folder.join(LOCK);
        [(run_root, run_root_path), (locks, &lock_folder), (&self.lock, &lock)].into_iter().all(
            |(open, path)| fs::identity(path).is_some_and(|at| fs::identity_of(open) == Some(at)),
        )
    }

    /// Makes anew what is gone. What cannot be made is told once and tried again.
    pub(super) fn mend_ground(&mut self) {
        self.watch.retry_at = None;
        if !self.is_in_place() {
            match self.take_place_again() {
                Ok((ground, lock)) => {
                    self.settle_on(ground, lock);
                    let run_root = self.ground.run_root_path.display().to_string();
                    self.desk.run_root_back(&run_root, now(), wall());
                    self.saver.important(now());
                }
                Err(problem) => return self.wait_for_ground(problem),
            }
        }
        (self.watch.since, self.watch.told, self.watch.rival) = (None, None, None);
        if self.control.as_ref().is_none_or(|control| !control.is_in_place()) {
            if let Some(control) = self.control.take() {
                control.close(&self.epoll);
                self.log.warn("the control socket was removed: it is made anew");
            }
            self.open_control(None);
        }
    }

    /// New folders and a new lock, held; the old one is held as before. `None`: the file of the lock
    /// that is held lies in the new folder (it was put back). Then it is not opened once more: the
    /// close of either descriptor would drop the lock (fcntl(2)).
    fn take_place_again(&mut self) -> Result<(Ground, Option<File>), String> {
        let ground = Ground::prepare(&self.plan.config)?;
        if ground.run_root_path != self.ground.run_root_path {
            return Err(format!("run_root leads to {} now", ground.run_root_path.display()));
        }
        let cannot = |cause: std::io::Error| format!("cannot take {LOCK}: {cause}");
        let there = fs::identity_in(&ground.locks, LOCK);
        if there.is_some() && there == fs::identity_of(&self.lock) {
            return Ok((ground, None));
        }
        let lock = fs::open_or_create(&ground.locks, LOCK, 0o600).map_err(cannot)?;
        if !locks::try_lock(&lock).map_err(cannot)? {
            let pid = locks::holder(&lock).map_err(cannot)?.unwrap_or_default();
            self.meet_rival(pid);
            return Err(format!("another master, process {pid}, has taken its place"));
        }
        self.as_holder(&ground).write(&lock).map_err(cannot)?;
        Ok((ground, Some(lock)))
    }

    /// A start that came to this place ends this process, whose lock it finds, within a moment. One
    /// that does not has not found it.
    fn meet_rival(&mut self, pid: i32) {
        let at = now();
        let since = match self.watch.rival {
            Some((known, since)) if known == pid => since,
            _ => at,
        };
        self.watch.rival = Some((pid, since));
        if at >= since + RIVAL_PATIENCE && self.phase < Phase::Stopping {
            self.log.error(&format!(
                "another master, process {pid}, works in the place of this one and does not see it: stopping"
            ));
            self.shut_down(Phase::Stopping);
        }
    }

    fn settle_on(&mut self, ground: Ground, lock: Option<File>) {
        self.ground = ground;
        if let Some(lock) = lock {
            // The old lock goes when the new one is held: who waits for it looks at the new one next.
            self.lock = lock;
        }
        self.log.warn("run_root or the locks in it were removed: they are made anew");
        self.watch_folders();
        if !self.is_in_place() {
            self.watch.retry_at = Some(now() + AGAIN);
        }
        let pids: Vec<(String, i32)> = self
            .supervisor
            .slots()
            .filter_map(|(name, slot)| Some((name.to_owned(), slot.state.pid()?)))
            .collect();
        let mut failed = self.ground.write_pidfile().err();
        for (name, pid) in pids {
            let file = format!("{name}.pid");
            let text = format!("{pid}\n");
            let written = fs::replace(&self.ground.run_root, &file, text.as_bytes(), 0o644, false);
            failed = failed.or(written.err());
        }
        if let Some(cause) = failed {
            self.log.warn(&format!("cannot write my pidfiles: {cause}"));
        }
    }

    fn wait_for_ground(&mut self, problem: String) {
        let at = now();
        self.watch.retry_at = Some(at + AGAIN);
        // While something is still removing, a try may fail: that alone is no mail.
        if at >= *self.watch.since.get_or_insert(at) + AGAIN {
            let run_root = self.ground.run_root_path.display().to_string();
            let cause = format!("they cannot be made anew: {problem}");
            self.desk.run_root_lost(&run_root, &cause, at, wall());
            self.saver.important(at);
        }
        if self.watch.told.as_ref() != Some(&problem) {
            self.log.error(&format!(
                "run_root or the locks in it were removed and cannot be made anew: {problem}; \
                 trying again every {} s",
                AGAIN.as_secs()
            ));
            self.watch.told = Some(problem);
        }
    }
}
