//! The chain process: forked without exec by the master, it lets go of everything that is the
//! master's, takes its lock and writes its pidfile while still root, becomes its user for good,
//! and runs its tasks one after the other for ever.
//!
//! It ends at SIGTERM (the current run is ended), at SIGQUIT and SIGHUP (after the current run),
//! and when its master is gone, told by PDEATHSIG (prctl(2)) or by the closed end of their pair.

mod call;
pub(crate) mod kept;
mod lines;
pub(crate) mod marks;
mod memory;
mod orphans;
mod output;
mod relay;
mod reports;
mod run;
mod source;
mod tail;
mod take_up;
mod worker;
mod world;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::config::model::{Chain, Task};
use crate::policy::task_loop::{Step, TaskLoop, resume_at};
use crate::sys::account::Account;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::fork::{EXIT_OSERR, leave};
use crate::sys::signals::{SIGCHLD, SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, Signals};
use crate::sys::spawn::Image;
use crate::sys::wait::OpenChildren;
use crate::sys::{clock, poll};
use crate::wire::report::{Order, Report};
use crate::wire::time::Timestamp;
use crate::worker::Live;
use memory::Memory;
use output::Output;
use reports::{FromMaster, ReportSender};
use run::Ended;
use worker::Keeper;

/// Everything that a chain process is born with.
pub struct Setup<'a> {
    /// What it is.
    pub chain: &'a Chain,
    /// Who it becomes; `None`: looked up here, where waiting for a name service harms nobody.
    pub account: Option<&'a Account>,
    /// Its name is looked up once more, for that was long ago.
    pub look_again: bool,
    /// The master.
    pub master: i32,
    /// Its end of the pair.
    pub reports: OwnedFd,
    /// `run_root`, for the pidfile.
    pub run_root: &'a File,
    /// `run_root/lock`.
    pub locks: &'a File,
    /// Where the output lane to the logger begins.
    pub lane: Option<BorrowedFd<'a>>,
    /// The master's side of the link to the logger, to be let go of after a Hello.
    pub link: Option<BorrowedFd<'a>>,
    /// The name of this run_root among others ([`crate::policy::environment::instance_of`]).
    pub instance: &'a str,
    /// Where chains have their control groups.
    pub cgroups: Option<&'a CgroupRoot>,
    /// Where earlier masters with this run_root had them: what still lives there is an orphan.
    pub old_cgroups: &'a [CgroupRoot],
    /// Whether orphans are looked for by their marks: the master before this one did not end as it
    /// should, and no process of this chain was ready since.
    pub search: bool,
    /// The users that its processes may have had under that master.
    pub former_users: Vec<u32>,
    /// Other chains of that master which had a command of this one, with their users: what they left may
    /// be a run of this chain, which had another name, or now does what another one did.
    pub others: Vec<(&'a str, Vec<u32>)>,
    /// The clock tick after which nothing began that is of that master.
    pub until: u64,
    /// Where it goes on: the next task and the end of the pause before it.
    pub resume: Option<(&'a str, Option<Timestamp>)>,
}

/// What the chain was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Go on.
    GoOn,
    /// Leave after the current run, because of this signal.
    LeaveAfterRun(i32),
    /// End the current run and leave.
    StopNow,
}

/// How long a process that cannot wait for its descriptors sleeps between two looks at them.
const BLIND: Duration = Duration::from_millis(50);

/// A chain process at work.
struct Runner<'a> {
    chain: &'a Chain,
    /// The tasks with what a worker's functions say of themselves.
    tasks: Cow<'a, [Task]>,
    images: Vec<Image>,
    /// `Some` iff a worker runs tasks of this chain.
    keeper: Option<Keeper>,
    /// A child may have ended since the last look.
    children_changed: bool,
    signals: Signals,
    reports: ReportSender,
    output: Output,
    null: OwnedFd,
    wish: Wish,
    /// A second SIGTERM came: no more patience.
    hurry: bool,
    /// A task to run now, whatever the cooldown.
    run_now: Option<Option<usize>>,
    run_number: u64,
    memory: Memory,
    /// The master is gone.
    alone: bool,
    /// Children that earlier runs left and that the configuration keeps.
    kept: Vec<i32>,
    /// What earlier processes of this chain kept, no children of this one.
    kept_before: BTreeSet<i32>,
    /// Holds the record lock, and says what is kept.
    lock: File,
}

/// The life of a chain process.
pub fn run(setup: Setup<'_>) -> Infallible {
    let mut reports = take_up::detach(&setup);
    match take_up::become_chain(&setup, &mut reports) {
        Ok(parts) => {
            let resume = setup
                .resume
                .map_or((0, None), |(next, pause)| resume_at(&setup.chain.tasks, next, pause));
            let order =
                TaskLoop::new(resume.0, resume.1.map(to_chain_clock), setup.chain.on_failure);
            let mut runner = Runner {
                chain: setup.chain,
                tasks: Cow::Borrowed(&setup.chain.tasks),
                images: parts.world.images,
                keeper: parts.world.worker.zip(setup.chain.worker.clone()).map(
                    |(program, rules)| {
                        let children = OpenChildren::open().ok();
                        Keeper { program, rules, live: None, known: false, children }
                    },
                ),
                children_changed: false,
                signals: parts.signals,
                reports,
                output: parts.output,
                null: parts.null,
                wish: Wish::GoOn,
                hurry: false,
                run_now: None,
                run_number: 0,
                memory: Memory::default(),
                alone: false,
                kept: Vec::new(),
                kept_before: parts.kept,
                lock: parts.lock,
            };
            runner.reports.send(Report::Ready);
            runner.prepare_worker();
            runner.live(order);
            runner.reports.flush_waiting(Duration::from_secs(2));
            leave(0)
        }
        Err(what) => {
            reports.send(Report::CannotStart { what });
            reports.flush_waiting(Duration::from_secs(2));
            leave(EXIT_OSERR)
        }
    }
}

impl Runner<'_> {
    /// The loop: from here on nothing is fatal.
    fn live(&mut self, mut order: TaskLoop) {
        let mut told: Option<Timestamp> = None;
        loop {
            self.take_signals();
            let now = chain_clock();
            if let Some(task) = self.run_now.take() {
                order.run_now(task);
            }
            self.look_after_worker();
            if self.wish != Wish::GoOn {
                self.retire_worker();
                self.say_goodbye(&order, now);
                return;
            }
            match order.step(now) {
                Step::Sleep(until) => {
                    if told != Some(until) {
                        self.tell_cooling(&order, until, now);
                        told = Some(until);
                    }
                    let patience = if self.reports.has_backlog() {
                        until.since(now).min(Duration::from_secs(1))
                    } else {
                        until.since(now)
                    };
                    self.wait(Some(patience));
                }
                Step::Run(index) => match self.run(index) {
                    Ended::ByItself { success } => {
                        order.run_ended(&self.tasks, success, chain_clock());
                        self.renew_worker();
                    }
                    Ended::Interrupted => order.run_interrupted(&self.chain.tasks),
                    Ended::Stuck => {
                        self.say_goodbye(&order, chain_clock());
                        return;
                    }
                },
            }
        }
    }

    fn tell_cooling(&mut self, order: &TaskLoop, until: Timestamp, now: Timestamp) {
        let next = &self.chain.tasks[order.next()].name;
        let after_failure = order.pause(now).is_some_and(|pause| pause.1);
        self.reports.send(Report::Cooling {
            next: next.clone(),
            until: from_chain_clock(until),
            after_failure,
        });
    }

    fn say_goodbye(&mut self, order: &TaskLoop, now: Timestamp) {
        if self.wish == Wish::StopNow {
            self.end_kept();
        }
        let pause = order.pause(now);
        let signal = match self.wish {
            Wish::GoOn => 0,
            Wish::LeaveAfterRun(signal) => signal,
            Wish::StopNow => SIGTERM,
        };
        self.reports.send(Report::Leaving {
            next: self.chain.tasks[order.next()].name.clone(),
            until: pause.map(|(until, _)| from_chain_clock(until)),
            after_failure: pause.is_some_and(|(_, after_failure)| after_failure),
            signal,
        });
    }

    /// Waits for anything, at most `patience`, and takes note of it. Output is read in passing.
    fn wait(&mut self, patience: Option<Duration>) {
        self.reports.flush();
        // The end of a pair whose master is gone would be ready for ever.
        let orders = if self.alone { self.signals.as_fd() } else { self.reports.as_fd() };
        let mut fds = vec![self.signals.as_fd(), orders];
        let replies = self.worker().and_then(Live::source);
        let hears = replies.is_some();
        fds.extend(replies);
        let others = fds.len();
        fds.extend(self.output.sources());
        // Old output is compressed when nothing else is to be done.
        let packing = self.output.wants_packing();
        let look_again = if packing { Some(Duration::ZERO) } else { self.output.look_again() };
        let patience = [patience, look_again].into_iter().flatten().min();
        let Ok(ready) = poll::wait_readable(&fds, patience) else {
            // The user allows this process fewer descriptors than it has (poll(2), EINVAL).
            std::thread::sleep(patience.map_or(BLIND, |patience| patience.min(BLIND)));
            self.take_signals();
            return self.take_order();
        };
        if packing && !ready.contains(&true) {
            self.output.pack_some();
        }
        if look_again.is_some() || ready[others..].contains(&true) {
            self.output.pump();
            if let Some(news) = self.output.news(false) {
                self.reports.send(news);
            }
        }
        if hears
            && ready[2]
            && let Some(live) = self.worker_mut()
        {
            live.hear(clock::monotonic());
        }
        if ready[0] {
            self.take_signals();
        }
        if ready[1] {
            self.take_order();
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read() {
            match signal.number {
                SIGTERM if self.wish == Wish::StopNow => self.hurry = true,
                SIGTERM => self.wish = Wish::StopNow,
                SIGQUIT | SIGHUP if self.wish == Wish::GoOn => {
                    self.wish = Wish::LeaveAfterRun(signal.number);
                }
                SIGCHLD => self.children_changed = true,
                SIGUSR1 => {
                    if self.output.is_raw()
                        && let Some(live) = self.worker_mut()
                    {
                        live.stale = true;
                    }
                    if let Err(cause) = self.output.reopen() {
                        self.reports.say("warning", cause);
                    }
                }
                _ => {}
            }
        }
    }

    fn take_order(&mut self) {
        match self.reports.receive() {
            FromMaster::Order(Order::RunNow { task: None }) => self.run_now = Some(None),
            FromMaster::Order(Order::RunNow { task: Some(name) }) => {
                let index = self.chain.tasks.iter().position(|task| task.name == name);
                if index.is_some() {
                    self.run_now = Some(index);
                }
            }
            FromMaster::Nothing => {}
            FromMaster::Gone => {
                self.alone = true;
                self.wish = Wish::StopNow;
            }
        }
    }
}

/// A chain's pauses stretch over a suspend: they are counted on CLOCK_MONOTONIC.
fn chain_clock() -> Timestamp {
    Timestamp(i64::try_from(clock::monotonic().as_millis()).unwrap_or(i64::MAX))
}

fn from_chain_clock(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_sub(chain_clock().0).saturating_add(clock::boottime_ms()))
}

fn to_chain_clock(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_sub(clock::boottime_ms()).saturating_add(chain_clock().0))
}
