//! Making children: chains and the logger. Each is forked without exec and never returns here.

use std::os::fd::AsFd;

use super::{Child, Link, Master, now};
use crate::chain::{self, Setup};
use crate::config::model::Level;
use crate::logger;
use crate::sys::fork::{Pid, fork_child};
use crate::sys::poll::Interest;
use crate::sys::signals::{SIGKILL, SIGTERM, SIGUSR1};
use crate::sys::wait::signal_child;
use crate::sys::{privileges, socket};
use crate::wire::time::Timestamp;

impl Master {
    /// Forks a chain's process; a failure is an event with backoff.
    pub(super) fn spawn_chain(&mut self, name: &str) {
        if let Err(cause) = self.try_spawn(name) {
            let what = format!("cannot start its process: {cause}");
            self.supervisor.cannot_spawn(name, &what, now());
        }
    }

    fn try_spawn(&mut self, name: &str) -> std::io::Result<()> {
        let Some(index) = self.index.get(name).copied() else {
            return Err(std::io::Error::other("it is not in the configuration"));
        };
        let (ours, theirs) = socket::packet_pair()?;
        let token = self.next_token;
        self.epoll.add(&ours, token, Interest::Read)?;
        let slot = self.supervisor.slot(name);
        let resume = slot.and_then(|slot| slot.resume.clone());
        let chain = &self.plan.config.chains[index];
        let account = self.plan.accounts.get(name).and_then(|found| found.as_ref().ok());
        let setup = Setup {
            chain,
            account,
            master: i32::try_from(std::process::id()).unwrap_or(0),
            reports: theirs,
            run_root: &self.ground.run_root,
            locks: &self.ground.locks,
            lane: Some(self.lanes.output_in.as_fd()),
            instance: &self.instance,
            cgroups: self.groups.own.as_ref(),
            old_cgroups: &self.groups.old,
            search: self.groups.unclean && !slot.is_some_and(|slot| slot.was_ready),
            resume: resume.as_ref().map(|resume| (resume.next.as_str(), resume.until)),
        };
        let pid = match fork_child(|| chain::run(setup)) {
            Ok(pid) => pid,
            Err(cause) => {
                self.epoll.remove(&ours);
                return Err(cause);
            }
        };
        self.next_token += 1;
        self.tokens.insert(token, name.to_owned());
        self.links.insert(name.to_owned(), Link { socket: ours, token, last_task: None, bad: 0 });
        self.children.insert(pid, Child::Chain(name.to_owned()));
        self.supervisor.spawned(name, pid, now());
        let text = format!("started as process {pid}");
        self.log.say(Level::Debug, Some(name), None, &text);
        Ok(())
    }

    pub(super) fn signal_chain(&mut self, chain: &str, pid: i32, signal: i32) {
        // Only while it is our unreaped child does its number mean it.
        if self.children.get(&pid) == Some(&Child::Chain(chain.to_owned()))
            && let Err(cause) = signal_child(pid, signal)
        {
            let text = format!("cannot send signal {signal} to process {pid}: {cause}");
            self.log.say(Level::Warning, Some(chain), None, &text);
        }
    }

    /// Starts the logger, or sets the alarm to try again.
    pub(super) fn start_logger(&mut self) {
        let log = &self.plan.config.log;
        let account = privileges::is_root().then_some(&self.plan.log_account);
        let lanes = &self.lanes;
        match fork_child(|| logger::run(log, account, lanes)) {
            Ok(pid) => {
                self.children.insert(pid, Child::Logger);
                self.logger = Some(pid);
            }
            Err(cause) => {
                self.logger_at = Some(now() + self.logger_deaths.next_delay());
                self.log.error(&format!("cannot start the logger: {cause}"));
            }
        }
    }

    /// After an upgrade: the logger of the image before ends when it has written what is in its
    /// hands; what is in the lanes is for the new one, which has the new configuration.
    pub(super) fn replace_logger(&mut self, old: Option<Pid>) {
        if let Some(pid) = old {
            self.children.insert(pid, Child::Other);
            let _ = signal_child(pid, SIGTERM);
        }
        self.start_logger();
    }

    /// The logger died: it is replaced, with backoff if it dies again and again. Records wait in
    /// the lanes meanwhile.
    pub(super) fn logger_died(&mut self, lived_since: Option<Timestamp>) {
        self.logger = None;
        if lived_since.is_some() {
            self.logger_deaths.reset();
        }
        if self.phase <= super::Phase::Killing {
            self.logger_at = Some(now() + self.logger_deaths.next_delay());
        }
    }

    /// SIGUSR1: files are opened anew, by the logger and by the chains that hold some.
    pub(super) fn reopen_logs(&mut self) {
        self.log.info("got SIGUSR1: reopening log files");
        let pids: Vec<i32> = self
            .children
            .iter()
            .filter(|(_, child)| matches!(child, Child::Logger | Child::Chain(_)))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in pids {
            let _ = signal_child(pid, SIGUSR1);
        }
    }

    /// The lanes end; the logger writes what is in them and leaves.
    pub(super) fn finish_log(self) {
        let Some(pid) = self.logger else { return };
        let Master { lanes, log, signals, .. } = self;
        drop(log);
        drop(lanes);
        let deadline = crate::sys::clock::monotonic()
            .saturating_add(logger::GRACE)
            .saturating_add(std::time::Duration::from_secs(1));
        loop {
            match crate::sys::wait::reap(false) {
                Ok(crate::sys::wait::Reaped::One(
                    crate::sys::wait::Change::Exited(child, _)
                    | crate::sys::wait::Change::Killed(child, _),
                )) if child == pid => return,
                Ok(crate::sys::wait::Reaped::NoChildren) | Err(_) => return,
                Ok(_) => {}
            }
            let left = deadline.saturating_sub(crate::sys::clock::monotonic());
            if left.is_zero() {
                let _ = signal_child(pid, SIGKILL);
                return;
            }
            let _ = crate::sys::poll::wait_readable(&[signals.as_fd()], Some(left));
            while let Ok(Some(_)) = signals.read() {}
        }
    }
}
