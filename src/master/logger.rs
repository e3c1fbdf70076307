//! The logger, seen from the master: it is started, replaced, told to reopen, heard, and waited for
//! at the end. Nothing here waits for it but the last.

use std::os::fd::AsFd;
use std::time::Duration;

use super::{Child, LOGGER, Master, now, wall};
use crate::logger;
use crate::sys::fork::{Pid, fork_child};
use crate::sys::poll::Interest;
use crate::sys::signals::{SIGKILL, SIGTERM, SIGUSR1};
use crate::sys::wait::signal_child;
use crate::sys::{clock, privileges};
use crate::wire::log::Trouble;

/// A logger that lived so long was well: the next one is started at once.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// A pause before its next start that tells of several deaths in a row.
const MANY_DEATHS: Duration = Duration::from_secs(4);

impl Master {
    /// Starts the logger, or sets the alarm to try again.
    pub(super) fn start_logger(&mut self) {
        self.close_link();
        let started = logger::link::link().and_then(|(ours, theirs)| {
            let log = &self.plan.config.log;
            let account = privileges::is_root().then_some(&self.plan.log_account);
            let lanes = &self.lanes;
            let chains = self.chain_processes();
            self.epoll.add(&ours, LOGGER, Interest::Read)?;
            let forked = fork_child(|| logger::run(log, account, lanes, &theirs, chains));
            match forked {
                Ok(pid) => Ok((pid, ours)),
                Err(cause) => {
                    self.epoll.remove(&ours);
                    Err(cause)
                }
            }
        });
        match started {
            Ok((pid, link)) => {
                self.children.insert(pid, Child::Logger);
                self.logger = Some(pid);
                self.link = Some(link);
                self.logger_since = now();
            }
            Err(cause) => {
                self.logger_at = Some(now() + self.logger_deaths.next_delay());
                self.log.error(&format!("cannot start the logger: {cause}"));
            }
        }
    }

    fn chain_processes(&self) -> Vec<(Pid, String)> {
        let chains = self.children.iter().filter_map(|(pid, child)| match child {
            Child::Chain(name) => Some((*pid, name.clone())),
            _ => None,
        });
        chains.collect()
    }

    fn close_link(&mut self) {
        if let Some(link) = self.link.take() {
            self.epoll.remove(&link);
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
    pub(super) fn logger_died(&mut self) {
        self.hear_logger();
        self.close_link();
        self.logger = None;
        if now().since(self.logger_since) >= WELL_AFTER {
            self.logger_deaths.reset();
        }
        if self.phase <= super::Phase::Killing {
            let delay = self.logger_deaths.next_delay();
            self.logger_at = Some(now() + delay);
            let text = format!("the logger ended; starting it again in {} s", delay.as_secs());
            if delay >= MANY_DEATHS {
                self.desk.log_fails("cannot keep a logger: it ends at once", now(), wall());
            }
            self.log_trouble = Some(Trouble::Fails(text));
        }
    }

    /// What the logger says of itself.
    pub(super) fn hear_logger(&mut self) {
        loop {
            let Some(link) = &self.link else { return };
            match logger::link::receive_state(link.as_fd()) {
                Ok(Some(state)) => self.log_is(state.trouble),
                Ok(None) => return,
                // Its death is told by SIGCHLD.
                Err(_) => return self.close_link(),
            }
        }
    }

    fn log_is(&mut self, trouble: Option<Trouble>) {
        match &trouble {
            Some(Trouble::Fails(text)) => {
                self.log.error(text);
                self.desk.log_fails(text, now(), wall());
            }
            Some(Trouble::Blocks(text)) => self.log.warn(text),
            None => {
                if self.log_trouble.is_some() {
                    self.log.info("the log is written again");
                }
                self.desk.log_works(self.log.dropped(), now(), wall());
            }
        }
        self.log_trouble = trouble;
        self.saver.important(now());
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
        let Master { lanes, log, signals, mut systemd, .. } = self;
        drop(log);
        drop(lanes);
        let deadline =
            clock::monotonic().saturating_add(logger::GRACE).saturating_add(Duration::from_secs(1));
        loop {
            match crate::sys::wait::reap(false) {
                Ok(crate::sys::wait::Reaped::One(
                    crate::sys::wait::Change::Exited(child, _)
                    | crate::sys::wait::Change::Killed(child, _),
                )) if child == pid => return,
                Ok(crate::sys::wait::Reaped::NoChildren) | Err(_) => return,
                Ok(crate::sys::wait::Reaped::One(_)) => continue,
                Ok(crate::sys::wait::Reaped::Nothing) => {}
            }
            let left = deadline.saturating_sub(clock::monotonic());
            if left.is_zero() {
                let _ = signal_child(pid, SIGKILL);
                return;
            }
            systemd.handle_timeout(now());
            let look = systemd.next_timeout().map_or(left, |next| left.min(next.since(now())));
            let _ = crate::sys::poll::wait_readable(&[signals.as_fd()], Some(look));
            while let Ok(Some(_)) = signals.read() {}
        }
    }
}
