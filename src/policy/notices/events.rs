//! What happens, as the desk is told of it. A chain's times are its own words: they are clamped
//! to what can be, and decide about that chain only.

use std::time::Duration;

use super::desk::{ChainState, Notice, NoticeDesk, Pause, Running, Silence, Thread, fnv};
use super::history::Remembered;
use super::rules::ChainRules;
use super::text::{Body, RunFacts, message, span, when};
use super::throttle::{FIRSTS, Failure, Throttle};
use super::troubles::What;
use crate::config::model::{Chain, Config};
use crate::policy::safe;
use crate::wire::mail::NoticeKind;
use crate::wire::outcome::Outcome;
use crate::wire::report::RunEnd;
use crate::wire::time::{Timestamp, WallTime};
use crate::wire::words::counted;

/// After which a refused upgrade of one cause is told again, and the window of the bound on all.
const REFUSED_AGAIN: Duration = Duration::from_secs(12 * 3600);
/// Milliseconds before the last report of a chain that the next one may speak of: they wait in a
/// short queue, and a master that stood still finds all of them at once.
const LATE: i64 = 60_000;
/// Causes of refused upgrades that are remembered.
const CAUSES: usize = 32;

impl NoticeDesk {
    /// An accepted upgrade: a new generation of every chain. Chains and tasks that are gone are
    /// forgotten; one that has the same name goes on with its outage, clocks, pause and silence.
    pub fn reconfigure(&mut self, config: &Config, now: Timestamp, wall: WallTime) {
        self.admins = config.mail.as_ref().map(|mail| mail.to.clone());
        let mut old: Vec<Option<ChainState>> =
            std::mem::take(&mut self.chains).into_iter().map(Some).collect();
        let index = std::mem::take(&mut self.index);
        self.agenda.clear();
        for rules in ChainRules::all(config) {
            let known = index.get(&rules.name).and_then(|&place| old.get_mut(place)?.take());
            let mut chain = match known {
                Some(known) => known.with_rules(rules, now),
                None => ChainState::new(rules, now),
            };
            chain.new_generation(wall);
            chain.deadline = None;
            self.add(chain);
        }
    }

    /// The chain's worker says what its tasks are like: other clocks, nothing else.
    pub fn adjust(&mut self, chain: &Chain) {
        let Some(&place) = self.index.get(&chain.name) else { return };
        let rules = ChainRules::of(chain, self.admins.as_deref().unwrap_or_default());
        let state = &mut self.chains[place];
        let same = |(one, other): (&(String, _), &(String, _))| one.0 == other.0;
        if state.rules.tasks.len() == rules.tasks.len()
            && state.rules.tasks.iter().zip(&rules.tasks).all(same)
        {
            state.rules = rules;
            self.rearm(place);
        }
    }

    /// `restart CHAIN`: what was told of this chain is forgotten, its outages are not.
    pub fn new_generation(&mut self, chain: &str, wall: WallTime) {
        if let Some(&place) = self.index.get(chain) {
            self.chains[place].new_generation(wall);
        }
    }

    /// A run began at `at`, as the chain says, of which the master hears at `now`.
    pub fn run_started(
        &mut self,
        chain: &str,
        task: &str,
        run: u64,
        at: Timestamp,
        now: Timestamp,
    ) {
        let Some(&place) = self.index.get(chain) else { return };
        let chain = &mut self.chains[place];
        let Some(task) = chain.rules.position(task) else { return };
        let at = chain.believed(at, now);
        chain.running = Some(Running { task, run, started: at, told: false });
        self.rearm(place);
    }

    /// The chain has no process now, or a fresh one that has not begun a run: whatever run was
    /// thought to be going is not.
    pub fn chain_down(&mut self, chain: &str) {
        let Some(&place) = self.index.get(chain) else { return };
        self.chains[place].running = None;
        self.rearm(place);
    }

    /// A run ended, or several like it did.
    pub fn run_ended(&mut self, chain: &str, end: &RunEnd, now: Timestamp) {
        let Some(&place) = self.index.get(chain) else { return };
        let at = self.chains[place].believed(end.ended, now);
        let started = end.started.min(at);
        self.settle(place, at, end.wall, true);
        let chain = &mut self.chains[place];
        let Some(task) = chain.rules.position(&end.task) else { return };
        let of_it = |running: &Running| {
            running.task == task && (running.run == end.run || at > running.started)
        };
        let told_in_run = chain.running.take_if(|running| of_it(running)).is_some_and(|r| r.told);
        let count = end.count.max(1);
        let failed = !end.success && end.outcome != Outcome::Interrupted;
        let fingerprint = if failed { fnv(0, end.fingerprint.as_bytes()) } else { 0 };
        let took = u64::try_from(at.since(started).as_millis()).unwrap_or(u64::MAX);
        let millis = if count == 1 { took } else { end.millis.min(took) };
        let began = WallTime(end.wall.0.saturating_sub(millis));
        let outcome = end.outcome.to_string();
        chain.history.push(Remembered {
            task,
            started: began,
            millis,
            outcome: &end.outcome,
            count,
            fingerprint,
            stderr: &end.stderr,
        });
        if end.outcome == Outcome::Interrupted {
            self.rearm(place);
            return;
        }
        self.process_works(place, at, end.wall);
        let moment = self.moment(place, Some(task), at, end.wall);
        let chain = &mut self.chains[place];
        let (Some(state), Some((_, rules))) =
            (chain.tasks.get_mut(task), chain.rules.tasks.get(task))
        else {
            return;
        };
        let verdict = if failed {
            let said = message(&end.message, &outcome);
            let stderr = safe::last_lines(&end.stderr, 20, 400, 1024).join("\n");
            let started = started.max(state.well);
            let failure = Failure { started, count, fingerprint, message: &said, told_in_run };
            state.failed(rules, failure, &stderr, moment)
        } else {
            state.well = now;
            state.succeeded(rules, count, moment)
        };
        if let Some(verdict) = verdict {
            let run =
                RunFacts { outcome: &outcome, millis, stderr: &end.stderr, stdout: &end.stdout };
            self.tell(place, Some(task), &verdict, Some(run), moment);
        }
        self.rearm(place);
    }

    /// The chain's process died by itself, or cannot be set up. It is well again when a run
    /// completes.
    pub fn chain_failed(&mut self, chain: &str, what: &str, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        self.settle(place, now, wall, true);
        let moment = self.moment(place, None, now, wall);
        let chain = &mut self.chains[place];
        chain.running = None;
        let said = message(what, "the chain's process ended");
        let failure = Failure {
            started: now,
            count: 1,
            fingerprint: fnv(0, crate::policy::fingerprint::normalised(&said).as_bytes()),
            message: &said,
            told_in_run: false,
        };
        if let Some(verdict) = chain.whole.failed(&chain.rules.whole, failure, "", moment) {
            let run = RunFacts { outcome: &said, millis: 0, stderr: "", stdout: "" };
            self.tell(place, None, &verdict, Some(run), moment);
        }
        self.rearm(place);
    }

    /// A run has completed, so the chain's process works.
    fn process_works(&mut self, place: usize, at: Timestamp, wall: WallTime) {
        let Some(chain) = self.chains.get_mut(place) else { return };
        if chain.whole.outage.is_none() {
            chain.whole.ok = chain.whole.ok.saturating_add(1);
            chain.whole.since.runs = chain.whole.since.runs.saturating_add(1);
            return;
        }
        let moment = self.moment(place, None, at, wall);
        let chain = &mut self.chains[place];
        if let Some(verdict) = chain.whole.succeeded(&chain.rules.whole, 1, moment) {
            self.tell(place, None, &verdict, None, moment);
        }
    }

    /// An operator holds the chain. Told each `non_recoverable_downtime` while it lasts. Pausing
    /// a paused chain changes the reason only.
    pub fn pause(&mut self, chain: &str, reason: &str, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        let thread = self.unique(chain, wall);
        let reason = safe::line(reason, 200);
        let chain = &mut self.chains[place];
        match &mut chain.pause {
            Some(pause) => pause.reason = reason,
            none => {
                *none = Some(Pause { since: now, wall, reason, thread, ..Pause::default() });
            }
        }
        self.rearm(place);
    }

    /// The pause ends; that is not mailed.
    pub fn resume(&mut self, chain: &str, _now: Timestamp, _wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        self.chains[place].pause = None;
        self.rearm(place);
    }

    /// No mail about the chain until then; `None` ends a silence now. What is open at its end is
    /// told then.
    pub fn silence(
        &mut self,
        chain: &str,
        until: Option<Timestamp>,
        reason: &str,
        now: Timestamp,
        wall: WallTime,
    ) {
        let Some(&place) = self.index.get(chain) else { return };
        self.settle(place, now, wall, true);
        let chain = &mut self.chains[place];
        match until {
            Some(until) if until > now => {
                chain.silence = Some(Silence { until, reason: safe::line(reason, 200) });
            }
            _ => {
                if let Some(silence) = &mut chain.silence {
                    silence.until = now;
                }
                self.settle(place, now, wall, true);
            }
        }
        self.rearm(place);
    }

    /// An upgrade was refused. Told once per cause, and again when it is refused for that cause
    /// 12 h later or after an accepted one; 20 of these in 12 h are the most.
    pub fn upgrade_refused(&mut self, cause: &str, now: Timestamp, wall: WallTime) {
        let first = cause.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
        let said = message(first, "unknown cause");
        let cause_id = fnv(0, crate::policy::fingerprint::normalised(&said).as_bytes());
        let thread = self.unique("upgrade", wall);
        let upgrades = &mut self.upgrades;
        upgrades.causes.retain(|(_, told)| now.since(*told) < REFUSED_AGAIN);
        upgrades.sent.retain(|sent| now.since(*sent) < REFUSED_AGAIN);
        if upgrades.causes.iter().any(|(known, _)| *known == cause_id) {
            return;
        }
        if upgrades.causes.len() >= CAUSES {
            upgrades.causes.remove(0);
        }
        upgrades.causes.push((cause_id, now));
        if upgrades.sent.len() >= FIRSTS {
            upgrades.withheld = upgrades.withheld.saturating_add(1);
            return;
        }
        upgrades.sent.push(now);
        let begins = !std::mem::replace(&mut upgrades.told, true);
        if begins {
            upgrades.thread = thread;
        }
        let thread = Thread { of: upgrades.thread, begins };
        let mut out = Body::new();
        out.line(&said);
        out.line("The upgrade was refused; everything goes on as before.");
        out.blank();
        out.fact(
            "Next",
            "mend the cause, then `runnerctl reload --dry-run` and `runnerctl reload`",
        );
        if cause.trim().lines().count() > 1 {
            out.output("All of it:", cause, 60, 8 * 1024);
        }
        out.blank();
        let words = format!("Upgrade refused: {said}");
        self.tell_upgrade(NoticeKind::Refused, words, out, thread, (now, wall));
    }

    /// An upgrade was accepted. Told if a refused one was.
    pub fn upgrade_accepted(&mut self, now: Timestamp, wall: WallTime) {
        self.upgrades.causes.clear();
        if !std::mem::take(&mut self.upgrades.told) {
            return;
        }
        let mut out = Body::new();
        out.line("The upgrade was accepted: the configuration and the program on disk are in use.");
        out.blank();
        let thread = Thread { of: self.upgrades.thread, begins: false };
        let words = "Upgrade accepted".to_owned();
        self.tell_upgrade(NoticeKind::Accepted, words, out, thread, (now, wall));
    }

    fn tell_upgrade(
        &mut self,
        kind: NoticeKind,
        words: String,
        mut out: Body,
        thread: Thread,
        (now, wall): (Timestamp, WallTime),
    ) {
        let withheld = std::mem::take(&mut self.upgrades.withheld);
        if withheld > 0 {
            let more = counted(withheld, "more refused upgrade", "more refused upgrades");
            let why = format!("{more}: at most {FIRSTS} of these go out in 12h");
            out.fact("Not mailed", &why);
        }
        out.fact("Host", &self.host);
        out.fact("Time", &when(wall));
        let notice = Notice { kind, words, body: out.finish(), thread, withheld };
        self.post(None, None, notice, now, wall);
    }

    /// A mail to the admins that tells nothing but that mail works. Never held back.
    pub fn test_mail(&mut self, now: Timestamp, wall: WallTime) {
        let mut out = Body::new();
        out.line("This is the test mail that `runnerctl mail test` asked for. Mail works.");
        out.blank();
        out.fact("Host", &self.host);
        out.fact("Time", &when(wall));
        let thread = Thread { of: self.unique("test", wall), begins: true };
        let words = format!("Test mail from {}", self.host);
        let notice =
            Notice { kind: NoticeKind::Test, words, body: out.finish(), thread, withheld: 0 };
        self.post(None, None, notice, now, wall);
    }

    /// Tells what has fallen due. Harmless at any time; [`NoticeDesk::next_timeout`] says when it
    /// is needed.
    pub fn handle_timeout(&mut self, now: Timestamp, wall: WallTime) {
        self.settle_trouble(What::Log, now, wall);
        self.settle_trouble(What::RunRoot, now, wall);
        while let Some(&(due, place)) = self.agenda.first()
            && due <= now
        {
            self.settle(place, now, wall, false);
            self.rearm(place);
            if self.agenda.first() == Some(&(due, place)) {
                self.agenda.remove(&(due, place)); // Cannot be; a turn must end all the same.
                self.chains[place].deadline = None;
            }
        }
    }

    /// What fell due for a chain by `now`: its silence's end, its pause, its run. `at_end`: a run
    /// is about to end at `now`, so what falls due in this very moment is for that end to tell.
    pub(crate) fn settle(&mut self, place: usize, now: Timestamp, wall: WallTime, at_end: bool) {
        let chain = &mut self.chains[place];
        if chain.silence.take_if(|silence| silence.until <= now).is_some() {
            if let Some(pause) = &mut chain.pause {
                // What the silence held back is due now.
                pause.told.take_if(|_| std::mem::take(&mut pause.silenced));
            }
            self.tell_silence_ended(place, now, wall);
        }
        if self.chains[place].pause_due().is_some_and(|due| due <= now) {
            self.tell_paused(place, now, wall);
        }
        self.settle_trouble(What::Output(place), now, wall);
        let Some((task, due)) = self.chains[place].run_due() else { return };
        if due > now || (at_end && due == now) {
            return;
        }
        let at = if at_end { due } else { now };
        let moment = self.moment(place, Some(task), at, wall);
        let chain = &mut self.chains[place];
        let Some(state) = chain.tasks.get_mut(task) else { return };
        let in_outage = state.outage.is_some();
        if let Some(verdict) = state.run_goes_on(moment) {
            if let Some(running) = &mut chain.running {
                running.told |= in_outage;
            }
            self.tell(place, Some(task), &verdict, None, moment);
        }
    }

    fn tell_silence_ended(&mut self, place: usize, now: Timestamp, wall: WallTime) {
        let tasks = self.chains[place].tasks.len();
        for task in (0..tasks).map(Some).chain([None]) {
            let moment = self.moment(place, task, now, wall);
            let chain = &mut self.chains[place];
            let running = chain.running.is_some_and(|running| Some(running.task) == task);
            let verdict = match task {
                Some(task) => {
                    chain.tasks[task].silence_ended(&chain.rules.tasks[task].1, running, moment)
                }
                None => chain.whole.silence_ended(&chain.rules.whole, false, moment),
            };
            if let Some(verdict) = verdict {
                self.tell(place, task, &verdict, None, moment);
            }
        }
    }

    fn tell_paused(&mut self, place: usize, now: Timestamp, wall: WallTime) {
        let chain = &mut self.chains[place];
        let quiet = chain.quiet(now);
        let again = chain.rules.whole.limit;
        let Some(pause) = &mut chain.pause else { return };
        pause.told = Some(now);
        pause.silenced = quiet;
        if quiet {
            chain.whole.hold_back(true);
            return;
        }
        let since = when(pause.wall);
        let mut out = Body::new();
        out.line(&format!(
            "Chain {} has been paused for {}: none of its tasks runs.",
            chain.rules.name,
            span(now.since(pause.since))
        ));
        out.blank();
        out.fact("Paused since", &since);
        if !pause.reason.is_empty() {
            out.fact("Reason", &pause.reason);
        }
        out.fact("Next", &format!("`runnerctl resume {}` ends the pause", chain.rules.name));
        out.fact("Next notice", &format!("in {}, if it is still paused", span(again)));
        out.blank();
        out.fact("Chain", &chain.rules.name);
        out.fact("Host", &self.host);
        out.fact("Time", &when(wall));
        let begins = !std::mem::replace(&mut pause.mailed, true);
        let thread = Thread { of: pause.thread, begins };
        let withheld = std::mem::take(&mut chain.whole.withheld).total();
        chain.whole.notices = chain.whole.notices.saturating_add(1);
        let words = format!("Paused since {since}");
        let notice =
            Notice { kind: NoticeKind::Paused, words, body: out.finish(), thread, withheld };
        self.post(Some(place), None, notice, now, wall);
    }
}

impl ChainState {
    /// The time that a report speaks of, as far as it is believed at `now`: nothing that lies ahead,
    /// and nothing from long before the last report. The chain's process is its user's, so without
    /// this it could tell a year of outages in a minute.
    fn believed(&mut self, at: Timestamp, now: Timestamp) -> Timestamp {
        let heard = self.heard.replace(now);
        let earliest = heard.map(|heard| Timestamp(heard.0.saturating_sub(LATE)));
        earliest.map_or(at, |earliest| at.max(earliest)).min(now)
    }

    fn new_generation(&mut self, wall: WallTime) {
        self.tasks.iter_mut().chain([&mut self.whole]).for_each(Throttle::new_generation);
        self.history.new_generation(wall);
    }

    /// The same chain under other rules: tasks are found again by their names.
    pub(crate) fn with_rules(mut self, rules: ChainRules, now: Timestamp) -> ChainState {
        let moved: Vec<Option<usize>> =
            self.rules.tasks.iter().map(|(name, _)| rules.position(name)).collect();
        let mut tasks: Vec<Throttle> = rules.tasks.iter().map(|_| Throttle::new(now)).collect();
        for (old, new) in moved.iter().enumerate() {
            if let Some(new) = *new {
                tasks[new] = std::mem::take(&mut self.tasks[old]);
            }
        }
        self.history.retarget(&moved);
        self.running = self.running.and_then(|running| {
            let task = moved.get(running.task).copied().flatten()?;
            Some(Running { task, ..running })
        });
        ChainState { rules, tasks, ..self }
    }
}
