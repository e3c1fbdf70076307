//! The decision for one task: which run brings which notice. No names, no texts, no recipients;
//! the desk adds them.
//!
//! A failed run is told as the first of these that applies:
//!
//! 1. FIRST: nothing was told of this task in this generation.
//! 2. REACHED: the outage is `non_recoverable_downtime` old at the run's end, for the first time
//!    in this outage. AGAIN: the last REACHED or AGAIN is `remind_every` ago.
//! 3. NEW: the failure is none of those known in this generation.
//!
//! What loses counts as told, since the body says it. FIRST and NEW together are bounded
//! ([`FIRSTS`] in a sliding window, generations do not reset it); what the bound holds back is
//! counted and told in the next notice. A success that ends a told outage is HEALED; one that
//! ends the fifth unmailed outage or a later one, the last notice being
//! `non_recoverable_downtime` ago, is UNSTABLE.
//!
//! An outage begins at the *start* of its first failed run and is measured at the *end* of the
//! run that is decided: with a cooldown of 1 s, the fourth failure always ends 3 s or more after
//! the first began, however late timers are. Reminders count from the end of the run that
//! brought the last one, for the same reason.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::policy::safe;
use crate::wire::mail::NoticeKind;
use crate::wire::report::MAX_MESSAGE;
use crate::wire::time::{Timestamp, WallTime};

/// FIRST and NEW notices of one task in any [`Rules::window`].
pub(crate) const FIRSTS: usize = 20;
/// Fingerprints remembered per task; the one seen longest ago goes first.
const KNOWN: usize = 64;
/// Distinct failures remembered per outage; the rest are only counted.
const TALLY: usize = 12;
/// Unmailed outages since the last notice that make a task unstable.
const FLAPS: u64 = 5;
/// How long a reminder waits for the end of a run, from the run's start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// When something happened and whether mail about it is silenced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Decides.
    pub(crate) at: Timestamp,
    /// For people.
    pub(crate) wall: WallTime,
    /// The chain is silenced.
    pub(crate) quiet: bool,
    /// Names a mail thread that begins now.
    pub(crate) thread: u64,
}

/// A failure, as far as the decision needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure<'a> {
    /// When the (first) run began.
    pub(crate) started: Timestamp,
    /// How many runs it stands for.
    pub(crate) count: u64,
    /// Its identity.
    pub(crate) fingerprint: u64,
    /// The line a person would quote.
    pub(crate) message: &'a str,
    /// A reminder went out while this run was going.
    pub(crate) told_in_run: bool,
}

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
    fingerprint: u64,
    /// Runs.
    pub(crate) count: u64,
    /// Its first MESSAGE.
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
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
struct Overdue {
    /// OVERDUE went out and no success has followed.
    told: bool,
    /// The last OVERDUE, sent or silenced.
    last: Option<Timestamp>,
    /// The last one was silenced.
    silenced: bool,
    thread: u64,
}

/// A notice that goes out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// What it is.
    pub(crate) kind: NoticeKind,
    /// What applied as well and is told in the body.
    pub(crate) lost: Vec<NoticeKind>,
    /// What was held back before.
    pub(crate) withheld: Withheld,
    /// Names the mail thread.
    pub(crate) thread: u64,
    /// It is the first mail of the thread.
    pub(crate) begins: bool,
    /// The outage that it closes; an open one stays in the throttle.
    pub(crate) closed: Option<Outage>,
    /// Since the notice before.
    pub(crate) since: Since,
    /// It comes because a silence ended.
    pub(crate) after_silence: bool,
}

/// The state of one task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Throttle {
    first_told: bool,
    known: Vec<Known>,
    firsts: Vec<Timestamp>,
    /// Open outage.
    pub(crate) outage: Option<Outage>,
    overdue: Overdue,
    /// Since the last notice.
    pub(crate) since: Since,
    /// Since the last notice.
    pub(crate) withheld: Withheld,
    unstable_silenced: bool,
    /// A told outage that ended during a silence.
    healed_quietly: Option<Outage>,
    /// When a success was heard of last: no outage began earlier.
    pub(crate) well: Timestamp,
    /// Successful runs.
    pub(crate) ok: u64,
    /// Failed runs.
    pub(crate) failed: u64,
    /// Notices sent.
    pub(crate) notices: u64,
    /// Notices held back, ever.
    pub(crate) withheld_ever: u64,
}

impl Throttle {
    /// A task that nothing is known of.
    pub(crate) fn new(now: Timestamp) -> Throttle {
        let since = Since { at: now, ..Since::default() };
        Throttle { since, well: Timestamp(i64::MIN), ..Throttle::default() }
    }

    /// Forgets what was told: the code may be another. The outage and its clocks go on.
    pub(crate) fn new_generation(&mut self) {
        self.first_told = false;
        self.known = Vec::new();
    }

    /// A run failed.
    pub(crate) fn failed(
        &mut self,
        rules: &Rules,
        failure: Failure<'_>,
        stderr: &str,
        moment: Moment,
    ) -> Option<Verdict> {
        self.failed = self.failed.saturating_add(failure.count);
        self.since.failed = self.since.failed.saturating_add(failure.count);
        self.since.runs = self.since.runs.saturating_add(failure.count);
        let seen_before = self.note(failure, stderr, moment);
        let known = self.is_known(failure.fingerprint, rules, moment.at);
        let first = !self.first_told;
        let limit = self.limit_due(rules).is_some_and(|due| due <= moment.at);
        if moment.quiet {
            if limit {
                self.remind_mark(moment.at, false);
            }
            if limit || (!seen_before && (first || !known)) {
                self.hold_back(true);
            }
            return None;
        }
        if failure.told_in_run && !limit {
            return None; // One notice per run: an unknown failure is told of the next one.
        }
        let mut told = None;
        if first || !known {
            self.learn(failure.fingerprint, moment.at);
            self.first_told = true;
            let kind = if first { NoticeKind::First } else { NoticeKind::New };
            if limit && !first {
                told = None; // REACHED and AGAIN go before NEW and tell it.
            } else if self.spend(rules, moment.at) {
                told = Some(kind);
            } else {
                self.hold_back(false);
            }
        }
        let mut lost = Vec::new();
        if limit {
            let kind = self.remind_mark(moment.at, true);
            if told.is_some() {
                lost.push(kind);
            } else {
                told = Some(kind);
                if !known && !first {
                    lost.push(NoticeKind::New);
                }
            }
        }
        told.map(|kind| self.tell(kind, lost, moment))
    }

    /// A run succeeded.
    pub(crate) fn succeeded(
        &mut self,
        rules: &Rules,
        count: u64,
        moment: Moment,
    ) -> Option<Verdict> {
        self.ok = self.ok.saturating_add(count);
        self.since.runs = self.since.runs.saturating_add(count);
        if let Some(outage) = &mut self.outage
            && moment.at < outage.last_end
        {
            // Reports that were told late: this success lies before the last failure.
            outage.start = outage.start.max(moment.at);
            return None;
        }
        let overdue = std::mem::take(&mut self.overdue.told);
        self.overdue.silenced = false;
        let closed = self.outage.take();
        let told = overdue || closed.as_ref().is_some_and(|outage| outage.told);
        if told {
            let thread = closed.as_ref().map_or(self.overdue.thread, |outage| outage.thread);
            if moment.quiet {
                self.hold_back(true);
                self.healed_quietly = Some(closed.unwrap_or(Outage {
                    thread,
                    start: moment.at,
                    start_wall: moment.wall,
                    ..Outage::default()
                }));
                return None;
            }
            let mut verdict = self.tell(NoticeKind::Healed, Vec::new(), moment);
            (verdict.thread, verdict.begins) = (thread, false);
            verdict.closed = closed;
            return Some(verdict);
        }
        let outage = closed?;
        self.since.outages = self.since.outages.saturating_add(1);
        if self.since.outages < FLAPS || moment.at.since(self.since.at) < rules.limit {
            return None;
        }
        if moment.quiet {
            if !std::mem::replace(&mut self.unstable_silenced, true) {
                self.hold_back(true);
            }
            return None;
        }
        let mut verdict = self.tell(NoticeKind::Unstable, Vec::new(), moment);
        verdict.closed = Some(outage);
        Some(verdict)
    }

    /// When the run that is going, begun at `started`, must be told of if it goes on.
    pub(crate) fn run_due(&self, rules: &Rules, started: Timestamp) -> Option<Timestamp> {
        if self.outage.is_some() {
            return self.limit_due(rules).map(|due| due.max(started + PATIENCE));
        }
        let due = started + rules.overdue?;
        Some(self.overdue.last.map_or(due, |last| due.max(last + rules.remind)))
    }

    /// The run that is going is due to be told of ([`Throttle::run_due`] has come).
    pub(crate) fn run_goes_on(&mut self, moment: Moment) -> Option<Verdict> {
        if self.outage.is_some() {
            let kind = self.remind_mark(moment.at, !moment.quiet);
            if moment.quiet {
                self.hold_back(true);
                return None;
            }
            return Some(self.tell(kind, Vec::new(), moment));
        }
        self.overdue.last = Some(moment.at);
        if moment.quiet {
            self.overdue.silenced = true;
            self.hold_back(true);
            return None;
        }
        Some(self.tell_overdue(moment))
    }

    /// A silence ended: what is still open is told. `running`: a run of this task is going.
    pub(crate) fn silence_ended(
        &mut self,
        rules: &Rules,
        running: bool,
        moment: Moment,
    ) -> Option<Verdict> {
        self.unstable_silenced = false;
        let healed = self.healed_quietly.take();
        let overdue = std::mem::take(&mut self.overdue.silenced);
        let mut verdict = if let Some(outage) = &mut self.outage {
            let reached = moment.at.since(outage.start) >= rules.limit;
            if let Some(healed) = healed.filter(|healed| healed.told) {
                // It is one story for the reader, in one thread: HEALED closes it.
                (outage.told, outage.thread) = (true, healed.thread);
            }
            let seen: Vec<u64> = outage.tally.iter().map(|tally| tally.fingerprint).collect();
            for fingerprint in seen {
                self.learn(fingerprint, moment.at);
            }
            let first = !std::mem::replace(&mut self.first_told, true) || !reached;
            let mut lost = Vec::new();
            let kind = if first && self.spend(rules, moment.at) {
                if reached {
                    lost.push(self.remind_mark(moment.at, true));
                }
                NoticeKind::First
            } else if reached {
                self.remind_mark(moment.at, true)
            } else {
                self.hold_back(false);
                return None;
            };
            self.tell(kind, lost, moment)
        } else if overdue && running {
            self.overdue.last = Some(moment.at);
            self.tell_overdue(moment)
        } else {
            let outage = healed?;
            let mut verdict = self.tell(NoticeKind::Healed, Vec::new(), moment);
            (verdict.thread, verdict.begins) = (outage.thread, false);
            verdict.closed = Some(outage);
            verdict
        };
        verdict.after_silence = true;
        Some(verdict)
    }

    /// When the open outage is due to be told again: at the first failed run that ends then or
    /// later.
    pub(crate) fn limit_due(&self, rules: &Rules) -> Option<Timestamp> {
        let outage = self.outage.as_ref()?;
        Some(match outage.reminded {
            None => outage.start + rules.limit,
            Some(last) => last + rules.remind,
        })
    }

    /// Whether FIRST is still to come in this generation.
    pub(crate) fn first_is_open(&self) -> bool {
        !self.first_told
    }

    /// FIRST and NEW notices that count against the bound at `now`.
    pub(crate) fn spent(&self, rules: &Rules, now: Timestamp) -> usize {
        self.firsts.iter().filter(|&&sent| now.since(sent) < rules.window()).count()
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
    /// safe line that it was when it was written.
    pub(crate) fn bound(&mut self) {
        self.known.truncate(KNOWN);
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

    /// Notes a failure in the outage, which it may open. Whether the outage saw it before.
    fn note(&mut self, failure: Failure<'_>, stderr: &str, moment: Moment) -> bool {
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
    fn is_known(&mut self, fingerprint: u64, rules: &Rules, now: Timestamp) -> bool {
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

    fn learn(&mut self, fingerprint: u64, now: Timestamp) {
        self.known.retain(|known| known.fingerprint != fingerprint);
        if self.known.len() >= KNOWN
            && let Some(oldest) = (0..self.known.len()).min_by_key(|&place| self.known[place].seen)
        {
            self.known.remove(oldest);
        }
        self.known.push(Known { fingerprint, seen: now });
    }

    /// Spends one of the FIRST and NEW notices of the window, if one is left.
    fn spend(&mut self, rules: &Rules, now: Timestamp) -> bool {
        self.firsts.retain(|&sent| now.since(sent) < rules.window());
        if self.firsts.len() >= FIRSTS {
            return false;
        }
        self.firsts.push(now);
        true
    }

    /// The reminder's clock starts anew; which of the two it is.
    fn remind_mark(&mut self, now: Timestamp, sent: bool) -> NoticeKind {
        let Some(outage) = &mut self.outage else { return NoticeKind::Reached };
        outage.reminded = Some(now);
        if !sent {
            return NoticeKind::Reached;
        }
        if std::mem::replace(&mut outage.reached, true) {
            NoticeKind::Again
        } else {
            NoticeKind::Reached
        }
    }

    /// Counts a notice that is not sent.
    pub(crate) fn hold_back(&mut self, silenced: bool) {
        let count = if silenced { &mut self.withheld.silence } else { &mut self.withheld.bound };
        *count = count.saturating_add(1);
        self.withheld_ever = self.withheld_ever.saturating_add(1);
    }

    fn tell_overdue(&mut self, moment: Moment) -> Verdict {
        let begins = !std::mem::replace(&mut self.overdue.told, true);
        if begins {
            self.overdue.thread = moment.thread;
        }
        let thread = self.overdue.thread;
        let mut verdict = self.tell(NoticeKind::Overdue, Vec::new(), moment);
        (verdict.thread, verdict.begins) = (thread, begins);
        verdict
    }

    fn tell(&mut self, kind: NoticeKind, lost: Vec<NoticeKind>, moment: Moment) -> Verdict {
        self.notices = self.notices.saturating_add(1);
        let outage = self.outage.as_mut();
        let begins = outage.is_none_or(|outage| !std::mem::replace(&mut outage.told, true));
        Verdict {
            kind,
            lost,
            withheld: std::mem::take(&mut self.withheld),
            thread: self.outage.as_ref().map_or(moment.thread, |outage| outage.thread),
            begins,
            closed: None,
            since: std::mem::replace(&mut self.since, Since { at: moment.at, ..Since::default() }),
            after_silence: false,
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
