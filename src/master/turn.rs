//! The loop. Before [`Master::live`] an error is fatal; after it, it is an event.

use std::time::Duration;

use super::{ALARM, CHECK_OUTPUT, Child, GROUND, LOGGER, Master, Phase, SIGNALS, now, wall};
use crate::config::model::{Level, Transport};
use crate::policy::notices::Deed;
use crate::policy::supervisor::Action;
use crate::sys::fork::{Pid, give_memory_back, leave};
use crate::sys::signals::{self, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1};
use crate::sys::wait::signal_child;
use crate::wire::time::Timestamp;
use crate::wire::words::mails_wait;

/// How long the end waits for deliveries and other helpers before it kills them, for their death
/// after that, and between two looks.
const HELPERS_PATIENCE: Duration = Duration::from_secs(5);
const KILLED_PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

impl Master {
    /// Works until it is told to end; then everything that it started is gone, and it leaves.
    /// From here on nothing is fatal.
    pub(super) fn live(mut self) -> ! {
        // Signals and children may have come before the loop watched for them.
        self.reap_children();
        self.watch_ground();
        // The plan and the handover were decoded; the chains are forked from here on.
        give_memory_back();
        loop {
            self.act();
            if self.phase != Phase::Running && self.all_is_gone() {
                self.say_goodbye();
            }
            let due = self.next_timeout();
            if let Err(cause) = self.alarm.set(due.map(|at| at.0)) {
                self.log.error(&format!("cannot set my alarm: {cause}"));
            }
            match self.epoll.wait() {
                Ok(tokens) => {
                    for token in tokens {
                        self.handle(token);
                    }
                }
                Err(cause) => self.log.error(&format!("cannot wait for events: {cause}")),
            }
            self.handle_timeouts(now());
        }
    }

    /// One turn with a limit, for the end of the master: reports and mailers are still heard.
    pub(super) fn turn_once(&mut self, patience: Duration) {
        let due = self.systemd.next_timeout().into_iter().fold(now() + patience, Timestamp::min);
        let _ = self.alarm.set(Some(due.0));
        if let Ok(tokens) = self.epoll.wait() {
            for token in tokens {
                self.handle(token);
            }
        }
        self.post.handle_timeout(self.mailers.count(), now());
        self.systemd.handle_timeout(now());
    }

    fn handle(&mut self, token: u64) {
        match token {
            SIGNALS => self.take_signals(),
            ALARM => self.alarm.clear(),
            CHECK_OUTPUT => self.read_check_output(),
            LOGGER => self.hear_logger(),
            GROUND => self.ground_changed(),
            _ if self.control.as_ref().is_some_and(|control| control.owns(token)) => {
                self.serve_control(token);
            }
            _ if self.mailers.owns(token) => self.read_mailer(token),
            _ => self.drain_inbox(token),
        }
    }

    fn take_signals(&mut self) {
        let mut children = false;
        loop {
            match self.signals.read() {
                Ok(Some(signal)) => {
                    let terminal_gone = self.context.hung_up(signal);
                    match signal.number {
                        SIGCHLD => children = true,
                        SIGHUP if terminal_gone => {
                            self.log.info("the terminal is gone: stopping after the current runs");
                            self.shut_down(Phase::Draining);
                        }
                        SIGHUP => {
                            self.log.info("got SIGHUP: upgrading");
                            self.begin_upgrade(super::wishes::Wish::default());
                        }
                        SIGINT | SIGTERM => {
                            let next = match self.phase {
                                Phase::Running | Phase::Draining => Phase::Stopping,
                                Phase::Stopping | Phase::Killing => Phase::Killing,
                            };
                            self.log.info(&format!("got {}", signals::name(signal.number)));
                            self.shut_down(next);
                        }
                        SIGQUIT => {
                            self.log.info("got SIGQUIT: stopping after the current runs");
                            self.shut_down(Phase::Draining);
                        }
                        SIGUSR1 => self.reopen_logs(),
                        _ => {}
                    }
                }
                Ok(None) => break,
                Err(cause) => {
                    self.log.error(&format!("cannot read my signals: {cause}"));
                    break;
                }
            }
        }
        if children {
            self.reap_children();
        }
    }

    /// Goes on towards the end, never back.
    pub(super) fn shut_down(&mut self, phase: Phase) {
        if phase <= self.phase {
            return;
        }
        if std::mem::replace(&mut self.phase, phase) == Phase::Running {
            self.systemd.stopping();
            self.abandon_check();
            let all_ready = self.supervisor.slots().all(|(_, slot)| slot.was_ready);
            self.groups.unclean &= !all_ready;
        }
        let now = now();
        match phase {
            Phase::Killing => self.supervisor.kill_all(now),
            _ => self.supervisor.shut_down(phase == Phase::Stopping, now),
        }
        self.end_kept_strays(phase == Phase::Killing);
    }

    /// Does what was decided, until nothing is left to do.
    pub(super) fn act(&mut self) {
        loop {
            let actions = self.supervisor.take_actions();
            let deeds = self.desk.take_deeds();
            if actions.is_empty() && deeds.is_empty() {
                break;
            }
            let mut dead = Vec::new();
            for action in actions {
                match action {
                    Action::EndStrays { chain } => dead.push(chain),
                    action => {
                        self.end_strays(&std::mem::take(&mut dead));
                        self.act_on(action);
                    }
                }
            }
            self.end_strays(&dead);
            self.do_deeds(deeds);
        }
        self.send_mail();
        self.save_if_due();
    }

    fn act_on(&mut self, action: Action) {
        match action {
            Action::Spawn { chain } => self.spawn_chain(&chain),
            Action::Signal { chain, pid, signal } => self.signal_chain(&chain, pid, signal),
            Action::Kill { chain } => self.kill_chain(&chain),
            Action::EndStrays { chain } => self.end_strays(&[chain]),
            Action::Failed { chain, what } => {
                self.log.say(Level::Error, Some(&chain), None, &what);
                self.desk.chain_failed(&chain, &what, now(), wall());
                self.saver.important(now());
            }
            Action::NewGeneration { chain } => self.desk.new_generation(&chain, wall()),
            Action::Forget { chain } => self.forget(&chain),
        }
    }

    fn do_deeds(&mut self, deeds: Vec<Deed>) {
        for deed in deeds {
            match deed {
                Deed::Mail(envelope) => self.post.push(envelope),
                Deed::Log { level, chain, task, text } => {
                    self.log.say(level, chain.as_deref(), task.as_deref(), &text);
                }
            }
            self.saver.important(now());
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        [
            self.supervisor.next_timeout(),
            self.desk.next_timeout(),
            self.control.as_ref().and_then(super::control::ControlServer::next_timeout),
            self.post.next_timeout(),
            self.upgrade.next_timeout(),
            self.saver.next_timeout(),
            self.logger_at,
            self.watch.retry_at,
            self.systemd.next_timeout(),
            self.pauses.values().min().copied(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle_timeouts(&mut self, now: Timestamp) {
        if self.supervisor.next_timeout().is_some_and(|at| at <= now) {
            self.supervisor.handle_timeout(now);
        }
        if self.desk.next_timeout().is_some_and(|at| at <= now) {
            self.desk.handle_timeout(now, wall());
        }
        if let Some(control) = &mut self.control
            && control.next_timeout().is_some_and(|at| at <= now)
        {
            control.handle_timeout(&self.epoll, now);
        }
        self.upgrade_timeout(now);
        self.post.handle_timeout(self.mailers.count(), now);
        if self.logger_at.is_some_and(|at| at <= now) {
            self.logger_at = None;
            self.start_logger();
        }
        if self.watch.retry_at.is_some_and(|at| at <= now) {
            self.mend_ground();
        }
        self.systemd.handle_timeout(now);
        self.end_pauses(now);
    }

    fn end_pauses(&mut self, now: Timestamp) {
        let over: Vec<String> = self
            .pauses
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(chain, _)| chain.clone())
            .collect();
        for chain in over {
            self.resume_chain(&chain);
            self.log.say(Level::Info, Some(&chain), None, "its pause is over");
        }
    }

    /// Ends a pause.
    pub(super) fn resume_chain(&mut self, chain: &str) {
        self.pauses.remove(chain);
        self.desk.resume(chain, now(), wall());
        self.supervisor.start_chain(chain, now());
        self.saver.important(now());
    }

    fn all_is_gone(&self) -> bool {
        self.supervisor.is_idle()
            && self.supervisor.slots().next().is_none()
            && self.strays.is_empty()
    }

    /// The last things, each with its own short patience: mails into the spool, state onto the
    /// disk, the log to its end.
    fn say_goodbye(mut self) -> ! {
        self.finish_mail();
        self.end_helpers();
        // A program that a killed mailer ran has come up by now, too.
        let clean = self.final_sweep();
        self.finish_state();
        self.tidy_ground();
        self.ground.remove_pidfile();
        if let Some(control) = self.control.take() {
            control.close(&self.epoll);
        }
        if let Some(groups) = &self.groups.own {
            groups.remove();
        }
        // Of a chain that was never ready nobody knows what an earlier master left.
        if clean && !self.groups.unclean && self.groups.nothing_is_left() {
            self.describe_myself(true);
        }
        self.log.info("stopped");
        self.finish_log();
        leave(0)
    }

    /// What works for the master alone ends: a delivery within a short patience, for what lies in
    /// the spool is the next master's to deliver; a look at something; the write of a state that
    /// would come after the last one. A second signal cuts the patience.
    fn end_helpers(&mut self) {
        let mut kill_at = now() + HELPERS_PATIENCE;
        let give_up_at = kill_at + KILLED_PATIENCE;
        loop {
            if self.phase == Phase::Killing {
                kill_at = kill_at.min(now());
            }
            let helpers: Vec<Pid> = self
                .children
                .iter()
                .filter(|(_, child)| !matches!(child, Child::Chain(_) | Child::Logger))
                .map(|(pid, _)| *pid)
                .collect();
            let at = now();
            if helpers.is_empty() || at >= give_up_at.min(kill_at + KILLED_PATIENCE) {
                break;
            }
            if at >= kill_at {
                for pid in helpers {
                    let _ = signal_child(pid, SIGKILL);
                }
            }
            self.turn_once(LOOK);
        }
        let waiting = self.post.waiting();
        if waiting > 0 {
            let wait = mails_wait(waiting);
            self.log.info(&format!("{wait} for delivery by the next start"));
        }
    }

    /// Where mail goes, for people.
    pub(super) fn mail_target(&self) -> String {
        match self.plan.config.mail.as_ref().map(|mail| &mail.transport) {
            None => "the log".to_owned(),
            Some(Transport::Maildir(folder)) => format!("the Maildir {}", folder.display()),
            Some(Transport::Sendmail(program)) => program.display().to_string(),
            Some(Transport::Smtp { host, port, .. }) => format!("{host}:{port}"),
        }
    }
}
