//! Which task a chain runs next, and when. It calls nobody: the chain process asks for the next
//! [`Step`], does it, and says how it went.

use std::time::Duration;

use crate::config::model::{OnFailure, Task};
use crate::wire::time::Timestamp;

/// What a chain does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Run the task of this index.
    Run(usize),
    /// Wait until then; asking again at or after it gives `Run`.
    Sleep(Timestamp),
}

/// The position of a chain in its list of tasks.
#[derive(Debug, Clone)]
pub struct TaskLoop {
    next: usize,
    pause: Option<Pause>,
    on_failure: OnFailure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pause {
    until: Timestamp,
    after_failure: bool,
}

impl TaskLoop {
    /// Begins at task `first`, after a pause where one is left of an earlier process.
    pub fn new(first: usize, pause_until: Option<Timestamp>, on_failure: OnFailure) -> TaskLoop {
        let pause = pause_until.map(|until| Pause { until, after_failure: false });
        TaskLoop { next: first, pause, on_failure }
    }

    /// What to do at `now`. Asking twice gives the same answer.
    #[must_use]
    pub fn step(&self, now: Timestamp) -> Step {
        match self.pause {
            Some(pause) if pause.until > now => Step::Sleep(pause.until),
            _ => Step::Run(self.next),
        }
    }

    /// The task that runs next.
    pub fn next(&self) -> usize {
        self.next
    }

    /// The pause before it: its end, and whether it follows a failure.
    pub fn pause(&self, now: Timestamp) -> Option<(Timestamp, bool)> {
        self.pause.filter(|pause| pause.until > now).map(|pause| (pause.until, pause.after_failure))
    }

    /// A run of the next task ended at `now`; returns the cooldown that follows.
    pub fn run_ended(&mut self, tasks: &[Task], success: bool, now: Timestamp) -> Duration {
        let Some(task) = tasks.get(self.next) else {
            self.next = 0;
            self.pause = None;
            return Duration::ZERO;
        };
        let cooldown = if success { task.success_cooldown } else { task.fail_cooldown };
        self.next = if success || self.on_failure == OnFailure::Continue {
            (self.next + 1) % tasks.len()
        } else {
            0
        };
        self.pause = Some(Pause { until: now + cooldown, after_failure: !success });
        cooldown
    }

    /// A run that we ended ourselves: the order goes on after it, with no pause.
    pub fn run_interrupted(&mut self, tasks: &[Task]) {
        self.next = (self.next + 1) % tasks.len().max(1);
        self.pause = None;
    }

    /// Skips the pause, and the order where a task is named.
    pub fn run_now(&mut self, task: Option<usize>) {
        if let Some(task) = task {
            self.next = task;
        }
        self.pause = None;
    }
}

/// Where a replaced chain goes on: by the name of its next task, for the list may have changed.
/// A task that is gone means the first one, at once.
pub fn resume_at(
    tasks: &[Task],
    next: &str,
    pause: Option<Timestamp>,
) -> (usize, Option<Timestamp>) {
    let position = |name: &str| tasks.iter().position(|task| task.name == name);
    let index = match next.strip_suffix(AFTER) {
        Some(before) => position(before).map(|index| (index + 1) % tasks.len()),
        None => position(next),
    };
    index.map_or((0, None), |index| (index, pause))
}

/// Names the task that follows `task`, whatever that is when the list is known.
pub fn after_task(task: &str) -> String {
    format!("{task}{AFTER}")
}

/// No task's name ends so.
const AFTER: char = '>';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Command;

    fn task(name: &str, success: u64, fail: u64) -> Task {
        Task {
            name: name.into(),
            command: Command::Sh("true".into()),
            success_cooldown: Duration::from_secs(success),
            fail_cooldown: Duration::from_secs(fail),
            non_recoverable_downtime: Duration::from_secs(60),
            remind_every: Duration::from_secs(60),
            timeout: None,
            overdue: None,
            forget_after: Duration::from_secs(60),
            ok_exit: vec![0],
            to: vec![],
            said: vec![],
        }
    }

    #[test]
    fn a_chain_runs_its_tasks_in_order_for_ever_each_with_its_own_cooldown() {
        let tasks = [task("a", 1, 10), task("b", 2, 20)];
        let mut order = TaskLoop::new(0, None, OnFailure::Continue);
        let mut now = Timestamp(0);
        let mut ran = Vec::new();
        for turn in 0..6 {
            if let Step::Sleep(until) = order.step(now) {
                now = until;
            }
            let Step::Run(index) = order.step(now) else { panic!("the pause is over") };
            ran.push((index, now.0 / 1000));
            order.run_ended(&tasks, turn != 1, now);
        }
        assert_eq!(ran, [(0, 0), (1, 1), (0, 21), (1, 22), (0, 24), (1, 25)]);
    }

    #[test]
    fn first_task_starts_the_chain_over_after_the_fail_cooldown() {
        let tasks = [task("dump", 0, 5), task("prune", 0, 0)];
        let mut order = TaskLoop::new(0, None, OnFailure::FirstTask);
        order.run_ended(&tasks, false, Timestamp(0));
        assert_eq!(order.step(Timestamp(4999)), Step::Sleep(Timestamp(5000)));
        assert_eq!(order.step(Timestamp(5000)), Step::Run(0));
        order.run_ended(&tasks, true, Timestamp(5000));
        order.run_ended(&tasks, false, Timestamp(5000));
        assert_eq!(order.step(Timestamp(5000)), Step::Run(0));
    }

    #[test]
    fn a_replaced_chain_goes_on_at_its_next_task_by_name() {
        let tasks = [task("new", 0, 0), task("b", 0, 0), task("a", 0, 0)];
        let pause = Some(Timestamp(7));
        assert_eq!(resume_at(&tasks, "a", pause), (2, pause));
        assert_eq!(resume_at(&tasks, "gone", pause), (0, None));
        assert_eq!(resume_at(&tasks, &after_task("a"), None), (0, None));
        assert_eq!(resume_at(&tasks, &after_task("new"), pause), (1, pause));
    }

    #[test]
    fn run_now_skips_the_pause_and_the_order() {
        let tasks = [task("a", 100, 0), task("b", 0, 0)];
        let mut order = TaskLoop::new(0, None, OnFailure::Continue);
        order.run_ended(&tasks, true, Timestamp(0));
        order.run_now(None);
        assert_eq!(order.step(Timestamp(0)), Step::Run(1));
        order.run_now(Some(0));
        assert_eq!(order.step(Timestamp(0)), Step::Run(0));
    }
}
