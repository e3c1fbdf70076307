//! What the admins would be mailed: the notice desk and the postbox on a virtual clock. A weekend
//! takes a millisecond.
//!
//! Two sources of runs: [`weekend`] makes them up from the configuration and from what is to
//! fail; [`replay`] reads recorded ones (see [`recorded`]).

mod delivery;
pub mod recorded;
mod scenario;
#[cfg(test)]
mod tests;

pub use recorded::replay;
pub use scenario::{FailSpec, check, weekend};

use crate::config::model::Config;
use crate::policy::notices::{Decision, Deed, NoticeDesk};
use crate::wire::mail::Envelope;
use crate::wire::outcome::Outcome;
use crate::wire::report::RunEnd;
use crate::wire::time::{Timestamp, WallTime};

/// What came out of a simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulated {
    /// Every notice as decided, in order of time, before bursts and limits.
    pub decisions: Vec<Decision>,
    /// The mails as they arrive, one per recipient, in order of time; empty without `mail:`.
    pub mails: Vec<Arrival>,
    /// What the virtual clock showed at the begin.
    pub begin: Timestamp,
    /// Runs that ended.
    pub runs: u64,
    /// Failed ones among them.
    pub failed: u64,
}

/// One mail that reaches one recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// When, on the simulation's clock.
    pub at: Timestamp,
    /// Who gets it.
    pub to: String,
    /// The mail.
    pub mail: Envelope,
}

/// One run, made up or recorded.
#[derive(Debug, Clone, PartialEq)]
struct Run<'a> {
    number: u64,
    chain: &'a str,
    task: &'a str,
    started: Timestamp,
    ended: Timestamp,
    outcome: Outcome,
    success: bool,
    count: u64,
    stderr: &'a str,
}

/// The desk on a virtual clock.
struct Stage<'a> {
    config: &'a Config,
    desk: NoticeDesk,
    begin: Timestamp,
    /// The wall clock when the virtual one shows 0, in milliseconds since 1970; may be negative.
    wall_at_zero: i64,
    mails: Vec<(Timestamp, Envelope)>,
    runs: u64,
    failed: u64,
    /// How often something fell due, and how often it may.
    due: usize,
    most_due: usize,
}

impl<'a> Stage<'a> {
    fn new(config: &'a Config, begin: Timestamp, wall_at_zero: i64) -> Stage<'a> {
        let wall = WallTime(u64::try_from(wall_at_zero.saturating_add(begin.0)).unwrap_or(0));
        let mut desk = NoticeDesk::new("this-host", config, begin, wall);
        desk.take_decisions();
        Stage {
            config,
            desk,
            begin,
            wall_at_zero,
            mails: Vec::new(),
            runs: 0,
            failed: 0,
            due: 0,
            most_due: usize::MAX,
        }
    }

    fn wall(&self, at: Timestamp) -> WallTime {
        WallTime(u64::try_from(self.wall_at_zero.saturating_add(at.0)).unwrap_or(0))
    }

    /// Lets everything happen that falls due before `to`, which comes before what happens at `to`;
    /// `false`: it was too much.
    fn advance(&mut self, to: Timestamp) -> bool {
        while let Some(due) = self.desk.next_timeout().filter(|due| *due < to) {
            if self.due >= self.most_due {
                return false;
            }
            self.due += 1;
            self.desk.handle_timeout(due, self.wall(due));
            self.collect(due);
        }
        true
    }

    fn start(&mut self, run: &Run<'_>) {
        self.desk.run_started(run.chain, run.task, run.number, run.started, run.started);
    }

    fn end(&mut self, run: &Run<'_>) {
        self.runs = self.runs.saturating_add(run.count);
        let failed = !run.success && run.outcome != Outcome::Interrupted;
        let (mut fingerprint, mut message) = (String::new(), String::new());
        if failed {
            self.failed = self.failed.saturating_add(run.count);
            let finding = super::fingerprint::of(&run.outcome, run.stderr.as_bytes());
            (fingerprint, message) = (finding.fingerprint, finding.message);
        }
        let end = RunEnd {
            run: run.number,
            task: run.task.to_owned(),
            outcome: run.outcome.clone(),
            success: run.success,
            started: run.started,
            ended: run.ended,
            wall: self.wall(run.ended),
            millis: u64::try_from(run.ended.since(run.started).as_millis()).unwrap_or(u64::MAX),
            count: run.count,
            fingerprint,
            message,
            stderr: if failed { run.stderr.to_owned() } else { String::new() },
            stdout: String::new(),
            next: None,
        };
        self.desk.run_ended(run.chain, &end, run.ended);
        self.collect(run.ended);
    }

    fn upgrade(&mut self, at: Timestamp) {
        self.desk.reconfigure(self.config, at, self.wall(at));
        self.desk.upgrade_accepted(at, self.wall(at));
        self.collect(at);
    }

    fn collect(&mut self, at: Timestamp) {
        for deed in self.desk.take_deeds() {
            if let Deed::Mail(mail) = deed {
                self.mails.push((at, mail));
            }
        }
    }

    fn finish(mut self) -> Simulated {
        let decisions = self.desk.take_decisions();
        let mails = match &self.config.mail {
            Some(mail) => delivery::deliver(&self.mails, mail.limit, self.wall_at_zero),
            None => Vec::new(),
        };
        Simulated { decisions, mails, begin: self.begin, runs: self.runs, failed: self.failed }
    }
}
