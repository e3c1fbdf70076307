//! What is remembered of one task, in fixed sizes, and how it stands a clock of another boot and a
//! file that was damaged.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FIRSTS, Failure, Moment, Throttle};
use crate::policy::notices::rules::Rules;
use crate::policy::safe;
use crate::wire::report::MAX_MESSAGE;
use crate::wire::time::{Timestamp, WallTime};

/// Fingerprints remembered per task; the one seen longest ago goes first.
const KNOWN: usize = 64;
/// Distinct failures remembered per outage; the rest are only counted.
const TALLY: usize = 12;
/// From the start of a task's first failed run to its next success.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outage {
    /// The start of the first failed run.
    pub(crate) start: Timestamp,
    /// The same for people.
    pub(crate) start_wall: WallTime,
    /// The end of the last failed run.
    pub(crate) last_end: Timestamp,
    /// Failed runs in a row.
    pub(crate) failures: u64,
    /// Whether a notice of it went out.
    pub(crate) told: bool,
    /// Whether a REACHED went out (or lost to a notice that told it).
    pub(crate) reached: bool,
    /// The last reminder, sent or silenced.
    pub(crate) reminded: Option<Timestamp>,
    /// Names the mail thread.
    pub(crate) thread: u64,
    /// Distinct failures in the order they came, at most [`TALLY`].
    pub(crate) tally: Vec<Tally>,
    /// Failures that the tally has no room for.
    pub(crate) more: u64,
    /// The last MESSAGE.
    pub(crate) message: String,
    /// The last lines of the last failed run's standard error.
    pub(crate) stderr: String,
}

/// How often one failure was seen in an outage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Tally {
    pub(super) fingerprint: u64,
    /// Runs.
    pub(crate) count: u64,
    /// Its first MESSAGE.
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Known {
    fingerprint: u64,
    seen: Timestamp,
}

/// Notices that were decided and not sent, since the last one that was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Withheld {
    /// By the bound on FIRST and NEW.
    pub(crate) bound: u64,
    /// By a silence.
    pub(crate) silence: u64,
}

impl Withheld {
    /// All of them.
    pub(crate) fn total(self) -> u64 {
        self.bound.saturating_add(self.silence)
    }
}

/// What happened since the last notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Since {
    /// When that was; the birth of the task if there was none.
    pub(crate) at: Timestamp,
    /// Outages that ended unmailed.
    pub(crate) outages: u64,
    /// Failed runs.
    pub(crate) failed: u64,
    /// Runs.
    pub(crate) runs: u64,
}

/// The overdue clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Overdue {
    /// OVERDUE went out and no success has followed.
    pub(super) told: bool,
    /// The last OVERDUE, sent or silenced.
    pub(super) last: Option<Timestamp>,
    /// The last one was silenced.
    pub(super) silenced: bool,
    pub(super) thread: u64,
}

impl Throttle {
    /// Notes a failure in the outage, which it may open. Whether the outage saw it before.
    pub(super) fn note(&mut self, failure: Failure<'_>, stderr: &str, moment: Moment) -> bool {
        let overdue = &mut self.overdue;
        let outage = self.outage.get_or_insert_with(|| Outage {
            start: failure.started,
            start_wall: WallTime(
                moment.wall.0.saturating_sub(millis(moment.at.since(failure.started))),
            ),
            // A run that was told as overdue and then failed: one story, one thread.
            thread: if overdue.told { overdue.thread } else { moment.thread },
            told: std::mem::take(&mut overdue.told),
            ..Outage::default()
        });
        overdue.silenced = false;
        outage.failures = outage.failures.saturating_add(failure.count);
        outage.last_end = outage.last_end.max(moment.at);
        failure.message.clone_into(&mut outage.message);
        stderr.clone_into(&mut outage.stderr);
        let of_it = |tally: &&mut Tally| tally.fingerprint == failure.fingerprint;
        if let Some(tally) = outage.tally.iter_mut().find(of_it) {
            tally.count = tally.count.saturating_add(failure.count);
            return true;
        }
        if outage.tally.len() < TALLY {
            outage.tally.push(Tally {
                fingerprint: failure.fingerprint,
                count: failure.count,
                message: failure.message.to_owned(),
            });
        } else {
            outage.more = outage.more.saturating_add(failure.count);
        }
        false
    }

    /// Whether this generation knows the fingerprint; if so it was seen now.
    pub(super) fn is_known(&mut self, fingerprint: u64, rules: &Rules, now: Timestamp) -> bool {
        let Some(known) = self.known.iter_mut().find(|known| known.fingerprint == fingerprint)
        else {
            return false;
        };
        if now.since(known.seen) >= rules.forget_after {
            return false;
        }
        known.seen = now;
        true
    }

    pub(super) fn learn(&mut self, fingerprint: u64, now: Timestamp) {
        self.known.retain(|known| known.fingerprint != fingerprint);
        if self.known.len() >= KNOWN
            && let Some(oldest) = (0..self.known.len()).min_by_key(|&place| self.known[place].seen)
        {
            self.known.remove(oldest);
        }
        self.known.push(Known { fingerprint, seen: now });
    }

    /// Spends one of the FIRST and NEW notices of the window, if one is left.
    pub(super) fn spend(&mut self, rules: &Rules, now: Timestamp) -> bool {
        self.firsts.retain(|&sent| now.since(sent) < rules.window());
        if self.firsts.len() >= FIRSTS {
            return false;
        }
        self.firsts.push(now);
        true
    }

    /// Moves every time by `shift` milliseconds: the clock of another boot begins elsewhere.
    pub(crate) fn shift(&mut self, shift: i64) {
        let moved = |time: &mut Timestamp| time.0 = time.0.saturating_add(shift);
        self.known.iter_mut().for_each(|known| moved(&mut known.seen));
        self.firsts.iter_mut().for_each(moved);
        moved(&mut self.since.at);
        moved(&mut self.well);
        self.overdue.last.iter_mut().for_each(moved);
        for outage in self.outage.iter_mut().chain(self.healed_quietly.iter_mut()) {
            moved(&mut outage.start);
            moved(&mut outage.last_end);
            outage.reminded.iter_mut().for_each(moved);
        }
    }

    /// Cuts what was read from a file to the sizes that hold here, and makes of a message the one
    /// safe line that it was when it was written. What was known is forgotten then in any case.
    pub(crate) fn bound(&mut self) {
        let excess = self.firsts.len().saturating_sub(FIRSTS);
        self.firsts.drain(..excess);
        for outage in self.outage.iter_mut().chain(self.healed_quietly.iter_mut()) {
            outage.tally.truncate(TALLY);
            let of_tally = outage.tally.iter_mut().map(|tally| &mut tally.message);
            for message in of_tally.chain([&mut outage.message]) {
                *message = safe::line(message, MAX_MESSAGE);
            }
        }
    }

    /// Moves what lies ahead of `now` back to it: a clock that was wrong must not hold a notice
    /// back for years.
    pub(crate) fn not_ahead_of(&mut self, now: Timestamp) {
        let bounded = |time: &mut Timestamp| *time = (*time).min(now);
        self.known.iter_mut().for_each(|known| bounded(&mut known.seen));
        self.firsts.iter_mut().for_each(bounded);
        bounded(&mut self.since.at);
        bounded(&mut self.well);
        self.overdue.last.iter_mut().for_each(bounded);
        for outage in self.outage.iter_mut().chain(self.healed_quietly.iter_mut()) {
            bounded(&mut outage.start);
            bounded(&mut outage.last_end);
            outage.reminded.iter_mut().for_each(bounded);
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
