//! Becoming what is on disk now, program and configuration, with everything kept: same process,
//! same children, same memory of outages.
//!
//! The new program is opened once, by a child: a file system may hang (NFS, FUSE). The child sends
//! the descriptor here and executes it to check the configuration with a deadline; it gives the
//! checked plan back in sealed memory. Only then is the same descriptor executed here. Whatever is
//! wrong changes nothing, is logged, mailed and shown.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::boot::CHECK_TIME;
use super::handover::{Handover, VERSION};
use super::verbs::refused;
use super::wishes::{Wish, Wishes};
use super::{CHECK_OUTPUT, Child, Master, Phase, now, wall};
use crate::policy::supervisor::ExitReason;
use crate::sys::fork::{EXIT_OSERR, Pid, fork_child, leave};
use crate::sys::poll::Interest;
use crate::sys::signals::SIGKILL;
use crate::sys::wait::signal_child;
use crate::sys::{clock, exec, locks, memfd, pipe, socket, stdio};
use crate::wire::control::{Answer, Wait};
use crate::wire::safe::safe_line;
use crate::wire::time::{Timestamp, WallTime};

/// The largest output of a check that is kept, in bytes.
const MAX_OUTPUT: usize = 16 * 1024;

/// How long a killed check may take to die.
const KILL_TIME: Duration = Duration::from_secs(30);

/// How often it is tried to leave a makeshift (see [`Upgrade::retry_at`]).
pub(super) const RETRY: Duration = Duration::from_secs(60);

/// How the last upgrade went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastUpgrade {
    pub(super) at: WallTime,
    /// Why it was refused; `None`: it was accepted.
    pub(super) cause: Option<String>,
}

/// Upgrades, at most one at a time and one that waits: HUPs coalesce.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    pub(super) last: Option<LastUpgrade>,
    /// How many checks of upgrades have begun since the master's start; a mere look counts not.
    pub(super) begun: u64,
    /// Of those the newest that is decided: `last` tells how.
    pub(super) decided: u64,
    check: Option<Check>,
    /// What this image could not open, it works without: when it asks for the next upgrade, which is
    /// refused with the cause or mends it.
    pub(super) retry_at: Option<Timestamp>,
    /// Asked for while a check was going.
    pub(super) next: Wishes,
}

/// A check at work.
#[derive(Debug)]
struct Check {
    pid: Pid,
    wish: Wish,
    /// Where the child sends the program that it has opened.
    program: OwnedFd,
    plan: File,
    output: OwnedFd,
    said: Vec<u8>,
    deadline: Timestamp,
    late: bool,
}

impl Upgrade {
    #[must_use]
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let check = self.check.as_ref().map(|check| check.deadline);
        [check, self.retry_at].into_iter().flatten().min()
    }
}

impl Master {
    /// Begins with the check, or remembers that one more is wanted.
    pub(super) fn begin_upgrade(&mut self, mut wish: Wish) {
        if self.phase != Phase::Running {
            return self.answer_all(&wish, &refused("the master is stopping"));
        }
        if self.upgrade.check.is_some() {
            self.answer_early(&mut wish);
            return self.upgrade.next.push(wish);
        }
        if !wish.dry_run {
            self.upgrade.begun += 1;
            self.systemd.reloading();
        }
        match self.start_check(&wish) {
            Ok(mut check) => {
                self.answer_early(&mut check.wish);
                self.upgrade.check = Some(check);
            }
            Err(cause) => self.refuse(&cause, &cause, &wish),
        }
    }

    /// Answers those who do not wait for the decision.
    fn answer_early(&mut self, wish: &mut Wish) {
        if wish.dry_run {
            return;
        }
        let begun = Answer::Done("upgrade begun; see status".to_owned());
        for (id, _) in wish.waits.extract_if(.., |(_, wait)| *wait == Wait::No) {
            self.answer(id, &begun);
        }
    }

    fn answer_all(&mut self, wish: &Wish, answer: &Answer) {
        for (id, _) in &wish.waits {
            self.answer(*id, answer);
        }
    }

    fn start_check(&mut self, wish: &Wish) -> Result<Check, String> {
        let path = self.context.program.clone();
        let short = |cause: std::io::Error| format!("cannot check: {cause}");
        let plan = memfd::create("plan").map_err(short)?;
        let mut handover = memfd::create("handover").map_err(short)?;
        memfd::fill_and_seal(&mut handover, &self.handover(wish).encode()?).map_err(short)?;
        let (output, sink) = pipe::output_pipe().map_err(short)?;
        let (program, sender) = socket::packet_pair().map_err(short)?;
        self.epoll.add(&output, CHECK_OUTPUT, Interest::Read).map_err(short)?;
        let mut argv = self.arguments("--internal-check", &plan, &handover);
        if wish.force {
            argv.insert(1, "--internal-force".into());
        }
        let env = self.context.env.clone();
        let forked = fork_child(|| {
            crate::sys::fork::new_session();
            let ready = locks::keep_over_exec(&plan, true)
                .and_then(|()| locks::keep_over_exec(&handover, true))
                .and_then(|()| stdio::output_to(&sink));
            if ready.is_ok() {
                let (what, cause) = match exec::open_program(&path) {
                    Err(cause) => ("open the program", cause),
                    Ok(program) => match socket::send_descriptor(&sender, &program) {
                        Err(cause) => ("hand over", cause),
                        Ok(()) => ("execute", exec::exec(&program, &argv, &env)),
                    },
                };
                let cause = crate::sys::error_text(&cause);
                eprintln!("cannot {what} {}: {cause}", path.display());
            }
            leave(EXIT_OSERR)
        });
        match forked {
            Ok(pid) => {
                self.children.insert(pid, Child::Check);
                let deadline = now() + CHECK_TIME;
                let wish = wish.clone();
                let said = Vec::new();
                Ok(Check { pid, wish, program, plan, output, said, deadline, late: false })
            }
            Err(cause) => {
                self.epoll.remove(&output);
                Err(short(cause))
            }
        }
    }

    fn arguments(&self, word: &str, plan: &File, handover: &File) -> Vec<OsString> {
        vec![
            self.context.argv0.clone(),
            word.into(),
            format!("{},{}", locks::number(plan), locks::number(handover)).into(),
            self.context.config.clone().into_os_string(),
        ]
    }

    pub(super) fn read_check_output(&mut self) {
        let Some(check) = &mut self.upgrade.check else { return };
        let mut buffer = [0_u8; 4096];
        loop {
            match pipe::read(&check.output, &mut buffer) {
                pipe::Read::Bytes(count) => {
                    let room = MAX_OUTPUT.saturating_sub(check.said.len());
                    check.said.extend_from_slice(&buffer[..count.min(room)]);
                }
                pipe::Read::Empty => return,
                pipe::Read::Closed => {
                    self.epoll.remove(&check.output);
                    return;
                }
            }
        }
    }

    /// A check that is late is killed; one that does not even die (state D of proc(5)) is left to
    /// itself: its end is somebody's, some day.
    pub(super) fn upgrade_timeout(&mut self, now: Timestamp) {
        if self.upgrade.retry_at.is_some_and(|at| at <= now) {
            let going_on = self.phase == Phase::Running;
            self.upgrade.retry_at = going_on.then(|| now + RETRY);
            if going_on && self.upgrade.check.is_none() {
                self.begin_upgrade(Wish::default());
            }
        }
        let Some(check) = self.upgrade.check.as_mut().filter(|check| check.deadline <= now) else {
            return;
        };
        let _ = signal_child(check.pid, SIGKILL);
        if !check.late {
            check.late = true;
            check.deadline = now + KILL_TIME;
            return;
        }
        let Some(check) = self.upgrade.check.take() else { return };
        self.epoll.remove(&check.output);
        let cause = "the check took more than 30 s and cannot be killed";
        self.refuse(cause, cause, &check.wish);
        self.go_on_with_wishes();
    }

    /// The master ends: a check that is going is of no use.
    pub(super) fn abandon_check(&mut self) {
        if let Some(check) = &self.upgrade.check {
            let _ = signal_child(check.pid, SIGKILL);
        }
        self.go_on_with_wishes();
    }

    /// What was asked for meanwhile. One that is refused at once does not stand in the way of the
    /// others.
    fn go_on_with_wishes(&mut self) {
        while self.upgrade.check.is_none() || self.phase != Phase::Running {
            let Some(wish) = self.upgrade.next.pop() else { return };
            self.begin_upgrade(wish);
        }
    }

    pub(super) fn check_exited(&mut self, pid: Pid, reason: ExitReason) {
        self.read_check_output();
        let Some(check) = self.upgrade.check.take_if(|check| check.pid == pid) else { return };
        self.epoll.remove(&check.output);
        if self.phase != Phase::Running {
            return self.answer_all(&check.wish, &refused("the master is stopping"));
        }
        let said = String::from_utf8_lossy(&check.said).into_owned();
        let refusal = match reason {
            _ if check.late => Some("the check took more than 30 s".to_owned()),
            // A program that is not this one may end with 0, too: only the sealed plan counts.
            ExitReason::Code(0) => no_plan(&check.plan),
            ExitReason::Code(_) if !said.trim().is_empty() => Some(first_problem(&said)),
            ExitReason::Code(code) => Some(format!("the new program exited with status {code}")),
            ExitReason::Signal(signal) => {
                Some(format!("the new program was killed by signal {signal}"))
            }
        };
        match refusal {
            Some(cause) => self.refuse(&cause, &said, &check.wish),
            None if check.wish.dry_run => {
                let answer = Answer::Done("the upgrade would be accepted".to_owned());
                self.answer_all(&check.wish, &answer);
            }
            None => {
                let cause = self.reexec(&check);
                self.refuse(&cause, &cause, &check.wish);
            }
        }
        self.go_on_with_wishes();
    }

    /// Told by log, mail and runnerctl; nothing has changed.
    fn refuse(&mut self, cause: &str, whole: &str, wish: &Wish) {
        let cause = safe_line(cause).into_owned();
        if !wish.dry_run {
            self.log.error(&format!("upgrade refused: {cause}"));
            self.desk.upgrade_refused(&cause, now(), wall());
            self.upgrade.last = Some(LastUpgrade { at: wall(), cause: Some(cause) });
            self.upgrade.decided = self.upgrade.begun;
            self.saver.important(now());
            self.systemd.still_ready();
        }
        self.answer_all(wish, &refused(&format!("upgrade refused: {}", whole.trim_end())));
    }

    fn handover(&self, wish: &Wish) -> Handover {
        let number = |fd: &OwnedFd| locks::number(fd);
        let before = self.groups.before();
        Handover {
            version: VERSION,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            boot: clock::boot_id(),
            since: self.since,
            generation: self.generation,
            program: self.context.program.clone(),
            run_root: self.ground.run_root_path.clone(),
            ground: Some(self.ground.folders().map(locks::number)),
            lock: locks::number(&self.lock),
            lanes: self.lanes.ends().map(locks::number),
            control: self.control.as_ref().map(|control| {
                let (listener, identity) = control.hand_over();
                (locks::number(listener), identity)
            }),
            logger: self.logger,
            links: self
                .links
                .iter()
                .map(|(name, link)| (name.clone(), number(&link.socket)))
                .collect(),
            supervisor: self.supervisor.clone(),
            desk: self.desk.save(now(), wall()),
            mails: self.post.unconfirmed().cloned().collect(),
            mailers: self.mailers.handed(),
            others: self
                .children
                .iter()
                .filter(|(pid, child)| match child {
                    Child::Chain(_) | Child::Logger => false,
                    Child::Mailer => !self.mailers.is_handed(**pid),
                    Child::Saver | Child::Check | Child::Sweep(..) | Child::Other => true,
                })
                .map(|(pid, _)| *pid)
                .collect(),
            inherited: self.strays.inherited.iter().copied().collect(),
            kept: self.strays.kept.clone(),
            strays: self
                .strays
                .left
                .iter()
                .map(|(chain, strays)| (chain.clone(), strays.iter().copied().collect()))
                .collect(),
            seen: self.strays.seen.iter().copied().collect(),
            had_terminal: self.context.had_terminal,
            cgroups: self.groups.own_path().map(std::path::Path::to_path_buf),
            old_cgroups: before.cgroups,
            old_chains: before.chains,
            old_until: before.until,
            unclean: before.unclean,
            only: wish.chains.clone(),
            next: self.upgrade.next.upgrade().cloned(),
            last_upgrade: self.upgrade.last.clone(),
            upgrades: self.upgrade.begun,
            log_dropped: self.log.dropped(),
            log_untold: self.log.untold(),
            output_lost: self
                .losses
                .iter()
                .map(|(chain, loss)| (chain.clone(), loss.lines))
                .collect(),
            pauses: self.pauses.clone(),
            options: self.options.clone(),
        }
    }

    /// Executes the checked program in this process. Returns only if that failed, with the cause;
    /// then everything is as it was.
    fn reexec(&mut self, check: &Check) -> String {
        let cannot = |what: &dyn std::fmt::Display| format!("cannot hand over: {what}");
        let program = match socket::receive_descriptor(&check.program) {
            Ok(Some(program)) => program,
            Ok(None) => return cannot(&"the check gave no program back"),
            Err(cause) => return cannot(&cause),
        };
        self.reap_for_handover();
        self.drain_all();
        let record = match self.handover(&check.wish).encode() {
            Ok(record) => record,
            Err(problem) => return problem,
        };
        let mut handover = match memfd::create("handover") {
            Ok(handover) => handover,
            Err(cause) => return cannot(&cause),
        };
        if let Err(cause) = memfd::fill_and_seal(&mut handover, &record) {
            return cannot(&cause);
        }
        let keep = |keep: bool| -> std::io::Result<()> {
            locks::keep_over_exec(&check.plan, keep)?;
            locks::keep_over_exec(&handover, keep)?;
            locks::keep_over_exec(&self.lock, keep)?;
            for folder in self.ground.folders() {
                locks::keep_over_exec(folder, keep)?;
            }
            for end in self.lanes.ends() {
                locks::keep_over_exec(end, keep)?;
            }
            for link in self.links.values() {
                locks::keep_over_exec(&link.socket, keep)?;
            }
            if let Some(control) = &self.control {
                locks::keep_over_exec(control.hand_over().0, keep)?;
            }
            for mailer in self.mailers.sockets() {
                locks::keep_over_exec(mailer, keep)?;
            }
            Ok(())
        };
        let argv = self.arguments("--internal-resume", &check.plan, &handover);
        let cause = match keep(true) {
            Ok(()) => exec::exec(&program, &argv, &self.context.env),
            Err(cause) => cause,
        };
        let _ = keep(false);
        let path = self.context.program.display();
        format!("cannot execute the program {path}: {}", crate::sys::error_text(&cause))
    }
}

/// Why the program that ended a check well is not to be executed all the same.
fn no_plan(plan: &File) -> Option<String> {
    let read = plan
        .try_clone()
        .and_then(|plan| memfd::read_sealed(plan.into(), super::boot::MAX_RECORD))
        .map_err(|cause| cause.to_string())
        .and_then(|bytes| {
            serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|e| e.to_string())
        });
    read.err().map(|cause| format!("cannot use the new program: it gave no checked plan: {cause}"))
}

/// What stands for a whole output: the first line that names a problem, and where that is.
fn first_problem(said: &str) -> String {
    let all: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let is_problem = |line: &&str| line.starts_with("error") || line.starts_with("cannot");
    let first = all.iter().position(is_problem).unwrap_or(0);
    let mut lines = all.into_iter().skip(first);
    let line = lines.next().unwrap_or_default();
    let problem = line.strip_prefix("error: ").unwrap_or(line);
    let place = lines.next().and_then(|line| line.trim_start().strip_prefix("--> "));
    let cause = match place {
        Some(place) => format!("{place}: {problem}"),
        None => problem.to_owned(),
    };
    cause.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::first_problem;

    #[test]
    fn a_refusal_says_what_is_wrong_and_where() {
        let said = "\nerror: unknown field `usr`\n --> /etc/runner.ron:3:5\n  |\n3 | usr: 1\n";
        assert_eq!(first_problem(said), "/etc/runner.ron:3:5: unknown field `usr`");
        assert_eq!(first_problem("odd words\n"), "odd words");
        assert_eq!(
            first_problem("cannot execute /x: Exec format error\n"),
            "cannot execute /x: Exec format error"
        );
    }
}
