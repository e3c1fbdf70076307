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

mod memory;

use std::time::Duration;

use memory::{Known, Overdue};
pub(crate) use memory::{Outage, Since, Withheld};
use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::wire::mail::NoticeKind;
use crate::wire::time::{Timestamp, WallTime};

/// FIRST and NEW notices of one task in any [`Rules::window`].
pub(crate) const FIRSTS: usize = 20;
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
