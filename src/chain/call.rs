//! Runs that a worker does, and the worker's start and end.
//!
//! A worker is started before its first run, so that what its tasks say of themselves is known
//! early, and after it was replaced in good order; after a failure the next run starts a fresh one,
//! so the pause after a failure is the pause between two tries. It is asked to end with STOP; one
//! that failed, or that does not end, gets the chain's stop_signal and then SIGKILL, with all that
//! it started.

use std::collections::BTreeMap;
use std::time::Duration;

use super::output::Tails;
use super::run::Done;
use super::{Runner, Wish};
use crate::config::model::{Command, Task};
use crate::policy::{fingerprint, options};
use crate::sys::clock;
use crate::sys::spawn::{Failure, Step};
use crate::sys::wait::Change;
use crate::wire::outcome::Outcome;
use crate::wire::report::{MAX_TAIL, Report};
use crate::wire::worker::{Options, Raised, Ready, Request};
use crate::worker::{Heard, Live, manner};

/// Tasks whose options go into one report.
const OPTIONS_AT_ONCE: usize = 50;

/// How a call ended.
enum End {
    Done,
    Raised(Raised),
    /// The worker broke its protocol.
    Broken(String),
    /// The worker is gone.
    Gone(Change),
    CannotStart(Failure),
    Timeout,
    Interrupted,
}

impl Runner<'_> {
    /// Has the worker run a task.
    pub(super) fn call(&mut self, task: &Task, name: &str, run: u64, started: Duration) -> Done {
        self.settle_worker();
        let fresh = !self.worker().is_some_and(|live| live.ready);
        self.output.begin_call(&task.name, run, fresh);
        let end = self.converse(task, name, run, started);
        let when = if self.worker().is_some_and(Live::is_running) {
            "in the middle of the run"
        } else {
            "before it was ready"
        };
        let well = matches!(end, End::Done | End::Raised(_));
        let stuck = if well {
            self.end_leftovers(&task.name, false)
        } else {
            // Its last words are read when nobody can add to them.
            self.end_worker()
        };
        let mut tails = self.output.finish();
        if !well {
            self.output.end_worker();
        }
        let Told { outcome, finding } = tell(end, when, &mut tails);
        Done { outcome, success: finding.is_none(), finding, tails, stuck }
    }

    /// From the request to the end of the run. The worker may have to be started first.
    fn converse(&mut self, task: &Task, name: &str, run: u64, started: Duration) -> End {
        let times_out = task.timeout.map(|timeout| started.saturating_add(timeout));
        let mut asked = false;
        loop {
            if self.worker().is_none()
                && let Err(failure) = self.start_worker(true)
            {
                return End::CannotStart(failure);
            }
            let now = clock::monotonic();
            match self.attend(now) {
                Some(Heard::Done) => return End::Done,
                Some(Heard::Raised(raised)) => return End::Raised(raised),
                Some(Heard::Broken(what)) => return End::Broken(what),
                Some(Heard::Ready(_)) | None => {}
            }
            let ready_timeout =
                self.keeper.as_ref().map_or(Duration::ZERO, |keeper| keeper.rules.ready_timeout);
            let Some(live) = self.worker_mut() else { return End::Interrupted };
            if live.ready && !asked {
                match live.give(run, name) {
                    Ok(()) => asked = true,
                    // It was left in this state by an earlier run: that is no fault of this one.
                    Err(what) if live.runs > 0 => {
                        self.replace_worker(&what);
                        continue;
                    }
                    Err(what) => return End::Broken(what),
                }
            }
            let Some(live) = self.worker() else { return End::Interrupted };
            let ready_by = (!live.ready).then(|| live.started.saturating_add(ready_timeout));
            let look_again = live.look_again();
            if let Some(change) = self.reap_worker() {
                // Its last words may say more than its end.
                return match self.last_heard(now) {
                    Some(Heard::Done) => End::Done,
                    Some(Heard::Raised(raised)) => End::Raised(raised),
                    Some(Heard::Broken(what)) => End::Broken(what),
                    Some(Heard::Ready(_)) | None => End::Gone(change),
                };
            }
            if self.wish == Wish::StopNow {
                return End::Interrupted;
            }
            if times_out.is_some_and(|at| at <= now) {
                return End::Timeout;
            }
            if ready_by.is_some_and(|at| at <= now) {
                let patience = humantime::format_duration(ready_timeout);
                return End::Broken(format!("was not ready after {patience}"));
            }
            let deadline = [times_out, ready_by, look_again].into_iter().flatten().min();
            self.wait(deadline.map(|at| at.saturating_sub(now)));
        }
    }

    pub(super) fn worker(&self) -> Option<&Live> {
        self.keeper.as_ref()?.live.as_ref()
    }

    pub(super) fn worker_mut(&mut self) -> Option<&mut Live> {
        self.keeper.as_mut()?.live.as_mut()
    }

    /// Starts the worker ahead of its first run, if the chain has one.
    pub(super) fn prepare_worker(&mut self) {
        if self.keeper.is_some()
            && let Err(failure) = self.start_worker(false)
        {
            self.reports.say("warning", format!("cannot start its worker: {failure}"));
        }
    }

    fn start_worker(&mut self, awaited: bool) -> Result<(), Failure> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let cannot = |cause| Failure { step: Step::Descriptors, cause };
        let (stdout, stderr) = self.output.begin_worker(awaited).map_err(cannot)?;
        use std::os::fd::AsFd;
        let started = keeper.program.start([self.null.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        let text = format!("started its worker as process {}", started.pid);
        keeper.live = Some(Live::new(started, clock::monotonic()));
        self.reports.say("debug", text);
        Ok(())
    }

    /// What the worker has said, as far as somebody has to act; that it is ready is dealt with.
    fn attend(&mut self, now: Duration) -> Option<Heard> {
        let heard = self.worker_mut()?.next(now)?;
        if let Heard::Ready(ready) = &heard {
            self.learn(ready);
            if let Some(live) = self.worker() {
                let took = now.saturating_sub(live.started);
                let text = format!(
                    "its worker ({}) is ready after {:.1} s",
                    live.name(),
                    took.as_secs_f64()
                );
                self.reports.say("debug", text);
            }
        }
        Some(heard)
    }

    /// The process is gone: what is left in the pipe counts.
    fn last_heard(&mut self, now: Duration) -> Option<Heard> {
        loop {
            let more = self.worker_mut()?.hear(now);
            match self.attend(now) {
                Some(Heard::Ready(_)) => {}
                Some(heard) => return Some(heard),
                // Who else holds the other end is not waited for.
                None if !more => return None,
                None => {}
            }
        }
    }

    /// Before a run: a worker that has closed its replies is given the time to exit, so that the
    /// run does not begin with one that cannot answer.
    fn settle_worker(&mut self) {
        self.look_after_worker();
        while let Some(at) = self.worker().and_then(Live::look_again) {
            let now = clock::monotonic();
            self.wait(Some(at.saturating_sub(now)));
            self.look_after_worker();
        }
    }

    /// Between runs: what it says, whether it is still there, whether something was left behind.
    pub(super) fn look_after_worker(&mut self) {
        let Some(live) = self.worker() else { return };
        if !live.has_news() && !self.children_changed {
            return;
        }
        let now = clock::monotonic();
        let mut fault = None;
        while let Some(heard) = self.attend(now) {
            if let Heard::Broken(what) = heard {
                fault = Some(what);
                break;
            }
        }
        let good = self.worker().is_some_and(|live| live.leaving);
        let Some(fault) = fault.or_else(|| self.reap_worker().map(manner)) else {
            if good {
                self.retire_worker();
            }
            return;
        };
        if good {
            self.end_worker();
            self.output.end_worker();
        } else {
            self.replace_worker(&fault);
        }
    }

    /// No run is at fault for it: the next one starts a fresh worker.
    fn replace_worker(&mut self, fault: &str) {
        let text = format!("its worker {fault} between two runs; the next run starts a fresh one");
        self.reports.say("warning", text);
        self.end_worker();
        self.output.end_worker();
    }

    /// After a run: a worker that has had its time is replaced.
    pub(super) fn renew_worker(&mut self) {
        let Some(why) = self.keeper.as_ref().and_then(super::worker::Keeper::due) else { return };
        self.reports.say("debug", format!("replacing its worker: {why}"));
        self.retire_worker();
        if self.wish == Wish::GoOn {
            self.prepare_worker();
        }
    }

    /// Asks the worker to end, and sees to it that it does.
    pub(super) fn retire_worker(&mut self) {
        let Some(live) = self.worker_mut() else { return };
        let asked = live.ask(Request::Stop).is_ok();
        let patience = self.chain.kill_timeout / 2;
        let give_up = clock::monotonic().saturating_add(patience);
        let mut ended = false;
        while asked && self.wish != Wish::StopNow {
            let now = clock::monotonic();
            ended = self.reap_worker().is_some();
            if ended || now >= give_up {
                break;
            }
            if let Some(live) = self.worker_mut() {
                live.hear_out();
            }
            self.wait(Some(give_up.saturating_sub(now)));
        }
        if asked && !ended && self.wish != Wish::StopNow {
            let text = format!(
                "its worker did not end within {} after STOP: it is ended by signals",
                humantime::format_duration(patience)
            );
            self.reports.say("warning", text);
        }
        self.end_worker();
        self.output.end_worker();
    }

    /// Ends the worker, unless it is gone, and everything that it started; whether something
    /// cannot be ended with this user's rights.
    fn end_worker(&mut self) -> bool {
        // From here on it is one of the processes that are left.
        if let Some(keeper) = &mut self.keeper {
            keeper.live = None;
        }
        self.end_everything()
    }

    /// Reaps what has ended; how the worker did, if it has.
    fn reap_worker(&mut self) -> Option<Change> {
        if self.worker()?.exited.is_none() && std::mem::take(&mut self.children_changed) {
            self.nothing_left();
        }
        self.worker()?.exited
    }

    /// What the worker's tasks say of themselves: the pauses are used here, the rest is for the
    /// master.
    fn learn(&mut self, ready: &Ready) {
        let mut told: BTreeMap<String, Options> = BTreeMap::new();
        let chain = self.chain;
        let first =
            self.keeper.as_mut().is_some_and(|keeper| !std::mem::replace(&mut keeper.known, true));
        for (index, task) in chain.tasks.iter().enumerate() {
            let Command::Call(name) = &task.command else { continue };
            let own = ready.tasks.get(name).copied().unwrap_or_default();
            // At first it is told also where it is nothing: an earlier process may have said more.
            if first || !own.is_empty() || options::apply(task, &own) != self.tasks[index] {
                self.tasks.to_mut()[index] = options::apply(task, &own);
                told.insert(task.name.clone(), own);
            }
            if let Some(raised) = ready.errors.get(name) {
                let text = format!("[{}] cannot be run: {}", task.name, raised.text());
                self.reports.say("warning", text);
            }
        }
        let told: Vec<_> = told.into_iter().collect();
        for part in told.chunks(OPTIONS_AT_ONCE) {
            self.reports.send(Report::Options { tasks: part.iter().cloned().collect() });
        }
    }
}

/// The end of a call as it is reported.
struct Told {
    outcome: Outcome,
    /// `Some` iff it is no success and was not ended by us.
    finding: Option<fingerprint::Finding>,
}

fn tell(end: End, when: &str, tails: &mut Tails) -> Told {
    let (outcome, what) = match end {
        End::Done => return Told { outcome: Outcome::Exit(0), finding: None },
        End::Interrupted => return Told { outcome: Outcome::Interrupted, finding: None },
        End::Raised(raised) => {
            let finding = fingerprint::of_raised(&raised);
            append(&mut tails.stderr, &condensed(&raised.text()));
            return Told { outcome: Outcome::Raised, finding: Some(finding) };
        }
        End::Timeout => {
            let finding = fingerprint::of(&Outcome::Timeout, &tails.stderr);
            return Told { outcome: Outcome::Timeout, finding: Some(finding) };
        }
        End::CannotStart(failure) => (Outcome::CannotStart, format!("worker: {failure}")),
        End::Gone(Change::Killed(pid, signal)) => {
            let how = manner(Change::Killed(pid, signal));
            (Outcome::Signal(signal), format!("the worker {how} {when}"))
        }
        End::Gone(change) => (Outcome::Raised, format!("the worker {} {when}", manner(change))),
        End::Broken(what) => {
            // What it cries when it is ended for this is not the cause.
            let what = format!("the worker {what}");
            let finding = fingerprint::of_worker(&Outcome::Raised, &what, &[]);
            append(&mut tails.stderr, &what);
            return Told { outcome: Outcome::Raised, finding: Some(finding) };
        }
    };
    let finding = fingerprint::of_worker(&outcome, &what, &tails.stderr);
    append(&mut tails.stderr, &what);
    Told { outcome, finding: Some(finding) }
}

/// Puts a text behind what was said on standard error.
fn append(stderr: &mut Vec<u8>, text: &str) {
    if stderr.last().is_some_and(|last| *last != b'\n') {
        stderr.push(b'\n');
    }
    stderr.extend_from_slice(text.as_bytes());
    stderr.push(b'\n');
}

/// A traceback in what one report has room for: how its cause ends, where it begins itself, the
/// task's own code, and where it ends, the exception.
fn condensed(text: &str) -> String {
    const CAUSE: usize = MAX_TAIL / 8;
    const HEAD: usize = MAX_TAIL / 4;
    const TAIL: usize = MAX_TAIL / 2;
    if text.len() <= HEAD + TAIL {
        return text.to_owned();
    }
    let own = text.rfind("\nTraceback (most recent call last)").map_or(0, |before| before + 1);
    let (causes, own) = text.split_at(own);
    shortened(causes, 0, CAUSE) + &shortened(own, HEAD, TAIL)
}

/// Whole lines of both ends of a text, if it is longer than both together.
fn shortened(text: &str, head: usize, tail: usize) -> String {
    if text.len() <= head + tail {
        return text.to_owned();
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = &text[..(0..=head).rev().find(boundary).unwrap_or(0)];
    let head = &head[..head.rfind('\n').unwrap_or(head.len())];
    let tail = &text[(text.len() - tail..text.len()).find(boundary).unwrap_or(text.len())..];
    let tail = &tail[tail.find('\n').map_or(0, |end| end + 1)..];
    let left_out = text[head.len()..text.len() - tail.len()].trim_matches('\n').lines().count();
    let line_end = if head.is_empty() { "" } else { "\n" };
    format!("{head}{line_end}  ... {left_out} lines are left out here ...\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_traceback_keeps_both_ends() {
        assert_eq!(condensed("short\ntext"), "short\ntext");
        let lines: Vec<String> =
            (0..1000).map(|n| format!("  frame {n} of the tr\u{e4}ce")).collect();
        let cut = condensed(&lines.join("\n"));
        assert!(cut.len() <= MAX_TAIL, "{}", cut.len());
        assert!(cut.starts_with("  frame 0 of") && cut.ends_with("frame 999 of the tr\u{e4}ce"));
        let kept = cut.lines().filter(|line| line.contains("frame")).count();
        assert!(cut.contains(&format!("  ... {} lines are left out", 1000 - kept)), "{cut}");
        assert!(cut.lines().all(|line| line.starts_with("  frame") || line.contains("left out")));
        let chained = format!(
            "Traceback (most recent call last):\n{}\nRootError: first\n\nThe above exception was the \
             direct cause of the following exception:\n\nTraceback (most recent call last):\n  tasks.py\n{}\n\
             LastError: second",
            lines.join("\n"),
            lines.join("\n")
        );
        let cut = condensed(&chained);
        assert!(cut.len() <= MAX_TAIL, "{}", cut.len());
        for kept in ["RootError: first\n\nThe above", "last):\n  tasks.py\n", "LastError: second"] {
            assert!(cut.contains(kept), "{kept}: {cut}");
        }
        let one = condensed(&"x".repeat(1 << 16));
        assert!(one.len() <= MAX_TAIL);
    }
}
