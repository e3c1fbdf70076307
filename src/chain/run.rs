//! One run of a task, from its start to the moment when nothing that it started is left.

use std::os::fd::AsFd;
use std::time::Duration;

use super::output::Tails;
use super::{Runner, Wish, kept, world};
use crate::config::model::{Command, Leftovers, Task};
use crate::policy::fingerprint::{self, Finding};
use crate::sys::clock;
use crate::sys::fork::Pid;
use crate::sys::pidfd::PidFd;
use crate::sys::signals::{SIGCONT, SIGKILL};
use crate::sys::spawn::{self, Failure, Step};
use crate::sys::tree::signal_descendants;
use crate::sys::wait::{Change, Reaped, reap, signal_child};
use crate::wire::outcome::Outcome;
use crate::wire::report::{MAX_TAIL, Report, RunEnd};
use crate::wire::time::{Timestamp, WallTime};
use crate::wire::words::counted;

/// Pause between two rounds of SIGKILL: a fork bomb may outrun one.
const KILL_ROUND: Duration = Duration::from_millis(50);

/// After that long of SIGKILL in vain the master is asked to help with its own rights.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Why and since when a run is being ended.
struct Ending {
    why: Outcome,
    kill_at: Duration,
    next_round: Duration,
}

/// A run that is over.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) success: bool,
    /// `Some` iff it failed.
    pub(super) finding: Option<Finding>,
    pub(super) tails: Tails,
    /// Something that it started cannot be ended with this user's rights.
    pub(super) stuck: bool,
}

/// What came of a run, for the order of the tasks.
pub(super) enum Ended {
    /// It succeeded or failed.
    ByItself {
        /// Whether by the task's `ok_exit`.
        success: bool,
    },
    /// We ended it.
    Interrupted,
    /// Something that it started cannot be ended with this user's rights: the chain must leave.
    Stuck,
}

impl Runner<'_> {
    /// Runs a task and ends what it leaves behind.
    pub(super) fn run(&mut self, index: usize) -> Ended {
        let Some(task) = self.chain.tasks.get(index) else { return Ended::Interrupted };
        self.run_number += 1;
        let run = self.run_number;
        let started = (Timestamp(clock::boottime_ms()), clock::monotonic());
        self.reports.send(Report::Started { run, task: task.name.clone(), at: started.0 });
        self.memory.before_run(started.1);
        let mut done = match &task.command {
            Command::Call(name) if self.keeper.is_some() => self.call(task, name, run, started.1),
            _ => self.execute(index, task, run, started.1),
        };
        if let Some(finding) = &mut done.finding {
            self.memory.explain(&done.outcome, finding, clock::monotonic());
        }
        let (stuck, success) = (done.stuck, done.success);
        let interrupted = done.outcome == Outcome::Interrupted;
        self.report_end(task, run, started, done);
        if stuck {
            Ended::Stuck
        } else if interrupted {
            Ended::Interrupted
        } else {
            Ended::ByItself { success }
        }
    }

    /// A run of a command.
    fn execute(&mut self, index: usize, task: &Task, run: u64, started: Duration) -> Done {
        let (outcome, tails, stuck) = match self.start(index, task, run) {
            Ok(pid) => {
                let outcome = self.wait_for_exit(pid, task, started);
                let tails = self.output.finish();
                let ended_by_us = matches!(outcome, Outcome::Timeout | Outcome::Interrupted);
                let stuck = self.end_leftovers(&task.name, ended_by_us);
                (outcome, tails, stuck)
            }
            Err(failure) => {
                drop(self.output.finish());
                let said = describe(task, &failure);
                let stderr = said.into_bytes();
                (Outcome::CannotStart, Tails { stdout: Vec::new(), stderr }, false)
            }
        };
        if let Some(news) = self.output.news(true) {
            self.reports.send(news);
        }
        let success = matches!(&outcome, Outcome::Exit(code) if task.ok_exit.contains(code));
        let failed = !success && outcome != Outcome::Interrupted;
        let finding = failed.then(|| fingerprint::of(&outcome, &tails.stderr));
        Done { outcome, success, finding, tails, stuck }
    }

    fn start(&mut self, index: usize, task: &Task, run: u64) -> Result<Pid, Failure> {
        let no_descriptors = |cause| Failure { step: Step::Descriptors, cause };
        let (stdout, stderr) = self.output.begin(&task.name, run).map_err(no_descriptors)?;
        let image = &mut self.images[index];
        world::number_run(image, run);
        let fds = [self.null.as_fd(), stdout.as_fd(), stderr.as_fd()];
        spawn::spawn(image, &fds)
    }

    /// Waits until the program itself has exited; ends it when it must.
    fn wait_for_exit(&mut self, pid: Pid, task: &Task, started: Duration) -> Outcome {
        let times_out = task.timeout.map(|timeout| started.saturating_add(timeout));
        let mut ending: Option<Ending> = None;
        loop {
            if let Some(exit) = self.reap_program(pid) {
                return match ending {
                    Some(ending) => ending.why,
                    None => exit,
                };
            }
            let now = clock::monotonic();
            if self.wish == Wish::StopNow && ending.is_none() {
                ending = Some(self.begin_ending(Outcome::Interrupted, now));
            }
            if times_out.is_some_and(|at| at <= now) && ending.is_none() {
                ending = Some(self.begin_ending(Outcome::Timeout, now));
            }
            let deadline = match &mut ending {
                Some(ending) => Some(self.press(ending, now)),
                None => times_out,
            };
            self.wait(deadline.map(|at| at.saturating_sub(now)));
        }
    }

    /// Asks everything of the run to end.
    fn begin_ending(&mut self, why: Outcome, now: Duration) -> Ending {
        let spared = self.spared();
        signal_descendants(&spared, self.chain.stop_signal);
        // A stopped process would never see the request.
        signal_descendants(&spared, SIGCONT);
        let kill_at = now.saturating_add(self.chain.kill_timeout);
        Ending { why, kill_at, next_round: kill_at }
    }

    /// Kills what has had its time; returns when to look again.
    fn press(&mut self, ending: &mut Ending, now: Duration) -> Duration {
        if self.hurry {
            ending.kill_at = ending.kill_at.min(now);
            ending.next_round = ending.next_round.min(now);
            self.hurry = false;
        }
        if now >= ending.next_round {
            signal_descendants(&self.spared(), SIGKILL);
            ending.next_round = now.saturating_add(KILL_ROUND);
        }
        ending.next_round
    }

    /// The program's own exit, while others that it started are reaped in passing.
    fn reap_program(&mut self, pid: Pid) -> Option<Outcome> {
        loop {
            match reap(false) {
                Ok(Reaped::One(Change::Exited(child, code))) if child == pid => {
                    return Some(Outcome::Exit(u8::try_from(code).unwrap_or(u8::MAX)));
                }
                Ok(Reaped::One(Change::Killed(child, signal))) if child == pid => {
                    return Some(Outcome::Signal(signal));
                }
                Ok(Reaped::One(change)) => self.take_note_of(change),
                Ok(Reaped::Nothing) => return None,
                // The program is nobody's child any more: it cannot be waited for.
                Ok(Reaped::NoChildren) | Err(_) => return Some(Outcome::Interrupted),
            }
        }
    }

    /// Ends what the program left behind, or keeps it as configured; whether something cannot be
    /// ended with this user's rights.
    pub(super) fn end_leftovers(&mut self, task: &str, ended_by_us: bool) -> bool {
        if self.only_worker_left() || self.nothing_left() {
            return false;
        }
        let left = self.living_children();
        if left.as_ref().is_ok_and(Vec::is_empty) {
            return false;
        }
        let count = left.as_ref().map_or(1, |left| u32::try_from(left.len()).unwrap_or(u32::MAX));
        if let Ok(left) = left
            && self.chain.leftovers == Leftovers::Keep
            && !ended_by_us
        {
            self.kept.extend(left);
            self.write_down_kept();
            let what =
                counted(count, "process behind; it is kept", "processes behind; they are kept");
            self.reports.say("info", format!("[{task}] left {what}"));
            return false;
        }
        let stuck = self.end_everything();
        self.reports.send(Report::Leftovers { task: task.to_owned(), count, ended: !stuck });
        stuck
    }

    /// Ends all that is not spared; whether something cannot be ended.
    pub(super) fn end_everything(&mut self) -> bool {
        if self.nothing_left() {
            return false;
        }
        let begun = clock::monotonic();
        let mut ending = self.begin_ending(Outcome::Interrupted, begun);
        loop {
            if self.nothing_left() {
                return false;
            }
            let now = clock::monotonic();
            if now >= ending.kill_at.saturating_add(KILL_PATIENCE) {
                return true;
            }
            let again = self.press(&mut ending, now);
            self.wait(Some(again.saturating_sub(now)));
        }
    }

    /// Before the next run begins: whoever ends what this process leaves when it dies reads it.
    fn write_down_kept(&mut self) {
        let all = self.kept.iter().chain(&self.kept_before).copied().collect();
        if let Err(cause) = kept::write(&self.lock, &all) {
            let what =
                format!("cannot write down what is kept, it ends with this process: {cause}");
            self.reports.say("warning", what);
        }
    }

    /// The usual case after a call, told by one look: the worker is all that there is. If it has
    /// ended, that is noticed before the next run.
    fn only_worker_left(&self) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let live = keeper.live.as_ref().filter(|live| live.exited.is_none());
        match (live, &keeper.children) {
            (Some(live), Some(children)) => self.kept.is_empty() && children.is_only(live.pid),
            _ => false,
        }
    }

    /// Reaps whatever has ended; whether nothing but what is spared remains. For a subreaper this
    /// is exact: double-forked and setsid'd processes included.
    pub(super) fn nothing_left(&mut self) -> bool {
        loop {
            match reap(false) {
                Ok(Reaped::One(change)) => self.take_note_of(change),
                Ok(Reaped::NoChildren) | Err(_) => {
                    self.kept.clear();
                    return true;
                }
                Ok(Reaped::Nothing) => {
                    let some_are_spared = !self.kept.is_empty() || self.worker_pid().is_some();
                    return some_are_spared && self.living_children().is_ok_and(|l| l.is_empty());
                }
            }
        }
    }

    /// A child that is none any more: one that was kept, or the worker.
    fn take_note_of(&mut self, change: Change) {
        let (Change::Exited(child, _) | Change::Killed(child, _)) = change else { return };
        self.kept.retain(|kept| *kept != child);
        if let Some(live) = self.worker_mut().filter(|live| live.pid == child) {
            live.exited = Some(change);
        }
    }

    /// The worker, while it is an unreaped child.
    fn worker_pid(&self) -> Option<Pid> {
        let live = self.keeper.as_ref()?.live.as_ref()?;
        live.exited.is_none().then_some(live.pid)
    }

    /// What does not end with a run: neither it nor what is below it.
    fn spared(&self) -> Vec<Pid> {
        self.kept.iter().copied().chain(self.worker_pid()).collect()
    }

    /// What a look shows; where none is possible (a limit that somebody lowered), nothing is gone.
    fn living_children(&self) -> std::io::Result<Vec<Pid>> {
        let mut children = crate::sys::wait::children()?;
        let worker = self.worker_pid();
        children.retain(|child| !self.kept.contains(child) && Some(*child) != worker);
        Ok(children)
    }

    /// Told to stop at once: what was kept goes, too, also by earlier processes of this chain.
    pub(super) fn end_kept(&mut self) {
        for child in std::mem::take(&mut self.kept) {
            let _ = signal_child(child, self.chain.stop_signal);
        }
        for pid in std::mem::take(&mut self.kept_before) {
            let Ok(Some(held)) = PidFd::open(pid) else { continue };
            // Held first, then looked at: it is the one that was written down.
            if kept::read(&self.lock).contains(&pid) {
                let _ = held.signal(self.chain.stop_signal);
            }
        }
    }

    fn report_end(&mut self, task: &Task, run: u64, started: (Timestamp, Duration), done: Done) {
        let Done { outcome, success, finding, tails, .. } = done;
        let took = clock::monotonic().saturating_sub(started.1);
        let mut end = RunEnd {
            run,
            task: task.name.clone(),
            success,
            started: started.0,
            ended: Timestamp(clock::boottime_ms()),
            wall: WallTime(clock::wall_ms()),
            millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            count: 1,
            fingerprint: String::new(),
            message: String::new(),
            stderr: String::new(),
            stdout: String::new(),
            next: None,
            outcome,
        };
        if let Some(finding) = finding {
            end.fingerprint = finding.fingerprint;
            end.message = finding.message;
            end.stderr = last_text(&tails.stderr);
            end.stdout = last_text(&tails.stdout);
        }
        self.reports.send_end(end);
    }
}

/// The last bytes as text; what is no UTF-8 becomes U+FFFD.
fn last_text(bytes: &[u8]) -> String {
    let mut start = bytes.len().saturating_sub(MAX_TAIL);
    // Not with the rest of a character, of which there are three bytes at most.
    let first = start;
    while start > 0 && start < first + 3 && bytes.get(start).is_some_and(|byte| byte & 0xc0 == 0x80)
    {
        start += 1;
    }
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

fn describe(task: &Task, failure: &Failure) -> String {
    let program = match &task.command {
        Command::Run(argv) => argv.first().cloned().unwrap_or_default(),
        Command::Sh(_) => "/bin/sh".to_owned(),
        Command::Call(name) => name.clone(),
    };
    let cause = crate::sys::error_text(&failure.cause);
    match failure.step {
        Step::Exec => format!("cannot execute {program}: {cause}"),
        Step::Cwd => format!("cannot enter the working folder for {program}: {cause}"),
        _ => format!("cannot start {program}: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_begins_with_a_whole_character_and_loses_nothing_else() {
        let text = "ä".repeat(MAX_TAIL);
        assert_eq!(last_text(text.as_bytes()), "ä".repeat(MAX_TAIL / 2));
        assert_eq!(last_text(format!("{text}x").as_bytes()).len(), MAX_TAIL - 1);
        let junk = last_text(&[0x80; MAX_TAIL + 7]);
        assert_eq!(junk.chars().count(), MAX_TAIL - 3);
        assert_eq!(last_text(b"short"), "short");
    }
}
