//! What must hold for every history, whatever its length: runs that succeed, fail, are killed or
//! interrupted, upgrades, restarts of the master, deaths of the chain, silences.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

/// `non_recoverable_downtime`, and everything that follows from it here, in seconds.
const LIMIT: i64 = 12 * HOUR;

/// One step of a random history; times in seconds.
#[derive(Debug, Clone)]
enum Step {
    Run { after: i64, seconds: i64, outcome: &'static str, message: usize },
    Deploy,
    Restart,
    Died,
    Silence(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let after = prop_oneof![6 => 0_i64..2_000, 2 => 0_i64..40_000, 1 => 0_i64..400_000];
    let seconds = prop_oneof![4 => 0_i64..100, 1 => 0_i64..200_000];
    let outcome = prop_oneof![
        4 => Just("exit 1"), 2 => Just("exit 0"), 1 => Just("signal 9"), 1 => Just("interrupted")
    ];
    let run =
        (after, seconds, outcome, 0_usize..30).prop_map(|(after, seconds, outcome, message)| {
            Step::Run { after, seconds, outcome, message }
        });
    prop_oneof![20 => run, 2 => Just(Step::Deploy), 1 => Just(Step::Restart), 1 => Just(Step::Died)]
}

/// A task that fails in ever new ways while it is deployed again and again: what uses up the bound
/// on FIRST and NEW.
fn bad_day() -> impl Strategy<Value = Step> {
    let run = (0_i64..2_500, 0_usize..200).prop_map(|(after, message)| Step::Run {
        after,
        seconds: 1,
        outcome: "exit 1",
        message,
    });
    prop_oneof![8 => run, 2 => Just(Step::Deploy), 1 => Just(Step::Restart), 1 => Just(Step::Died)]
}

/// The same with silences.
fn step_or_silence() -> impl Strategy<Value = Step> {
    prop_oneof![6 => step(), 1 => (1_i64..200_000).prop_map(Step::Silence)]
}

/// A desk that lives through a history, and everything that it decided.
struct Life {
    desk: Desk,
    /// In seconds.
    now: i64,
    decided: Vec<Decision>,
}

impl Life {
    fn new() -> Life {
        Life { desk: Desk::plain(), now: 0, decided: Vec::new() }
    }

    /// Takes a step; what was decided in it, and for a run when it began.
    fn step(&mut self, step: &Step) -> (Vec<Decision>, Option<i64>) {
        let mut began = None;
        match step {
            Step::Deploy => self.desk.deploy(self.now),
            Step::Died => {
                let at = self.now * 1000;
                self.desk.desk.chain_failed("c", "killed", Timestamp(at), Desk::wall(at));
            }
            Step::Restart => self.restart(),
            Step::Silence(seconds) => {
                let (at, until) = (self.now * 1000, (self.now + seconds) * 1000);
                let until = Some(Timestamp(until));
                self.desk.desk.silence("c", until, "", Timestamp(at), Desk::wall(at));
            }
            Step::Run { after, seconds, outcome, message } => {
                let from = self.now + after;
                began = Some(from);
                self.now = from + seconds;
                self.desk.run(from * 1000, self.now * 1000, outcome, &format!("m{message}"));
            }
        }
        self.desk.collect();
        let decided = self.desk.desk.take_decisions();
        self.decided.extend(decided.iter().cloned());
        (decided, began)
    }

    fn restart(&mut self) {
        self.restart_at(self.now, true);
    }

    /// The master starts again at once, on a clock that says `then` (seconds).
    fn restart_at(&mut self, then: i64, same_boot: bool) {
        let (now, wall) = (Timestamp(self.now * 1000), Desk::wall(self.now * 1000));
        self.desk.collect();
        self.decided.extend(self.desk.desk.take_decisions());
        let text = serde_json::to_string(&self.desk.desk.save(now, wall)).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        let config = &self.desk.config;
        self.now = then;
        let now = Timestamp(then * 1000);
        self.desk.desk = NoticeDesk::restore(saved, "web1", config, now, wall, same_boot);
        self.desk.desk.take_decisions();
    }

    /// What is not of a run: a refused upgrade, a pause, logs that cannot be written.
    fn troubles(&mut self, hour: i64) {
        self.now += hour * HOUR;
        self.desk.pass(self.now * 1000);
        let (now, wall) = (Timestamp(self.now * 1000), Desk::wall(self.now * 1000));
        let desk = &mut self.desk.desk;
        desk.upgrade_refused("no such field", now, wall);
        desk.pause("c", "moving", now, wall);
        desk.log_works(0, now, wall);
        desk.log_fails("cannot write", now, wall);
        desk.output_works("c", 0, now, wall);
        desk.output_fails("c", "cannot write", now, wall);
    }

    /// The times of all notices about the task (or the chain's process), by what they are.
    fn times(&self, of_task: bool, kinds: &[NoticeKind]) -> Vec<i64> {
        (self.decided.iter())
            .filter(|decision| decision.task.is_some() == of_task && kinds.contains(&decision.kind))
            .map(|decision| decision.at.0)
            .collect()
    }
}

/// How many of these times lie in the fullest window of a limit.
fn densest(times: &[i64]) -> usize {
    let within = |at: i64| times.iter().filter(|&&t| (at..at + LIMIT * 1000).contains(&t)).count();
    times.iter().map(|&at| within(at)).max().unwrap_or(0)
}

fn of_task(decisions: &[Decision]) -> impl Iterator<Item = &Decision> {
    decisions.iter().filter(|decision| decision.task.is_some())
}

/// One notice for a run at its end, and a reminder while it is going only where its end brings none.
fn one_notice_per_run(
    decided: &[Decision],
    began: i64,
    ended: i64,
    outcome: &str,
) -> Result<(), TestCaseError> {
    let (at_end, before): (Vec<_>, Vec<_>) =
        of_task(decided).partition(|decision| decision.at.0 == ended * 1000);
    prop_assert!(at_end.len() <= 1, "more than one notice at the end of a run: {decided:?}");
    let (mut reminder, mut last) = (false, i64::MIN / 2);
    for decision in before {
        let at = decision.at.0;
        let in_run = at >= began * 1000;
        let kinds = [NoticeKind::Reached, NoticeKind::Again, NoticeKind::Overdue];
        prop_assert!(in_run && kinds.contains(&decision.kind), "out of nothing: {decision:?}");
        prop_assert!(
            at - last >= LIMIT * 1000,
            "two reminders of a run within a limit: {decided:?}"
        );
        last = at;
        reminder |= decision.kind != NoticeKind::Overdue;
    }
    if let (true, Some(decision), true) = (reminder, at_end.first(), outcome != "exit 0") {
        prop_assert_eq!(decision.kind, NoticeKind::Again, "a run that was told is told again");
        prop_assert!(decision.at.0 - last >= LIMIT * 1000);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_notice_per_run(steps in proptest::collection::vec(step(), 0..150)) {
        let mut life = Life::new();
        for step in &steps {
            let (decided, began) = life.step(step);
            if let (Some(began), Step::Run { outcome, .. }) = (began, step) {
                one_notice_per_run(&decided, began, life.now, outcome)?;
            }
        }
    }

    #[test]
    fn mails_are_bounded_per_task_and_window(
        steps in prop_oneof![
            proptest::collection::vec(step(), 0..300), proptest::collection::vec(bad_day(), 100..300)
        ],
    ) {
        use NoticeKind::{Again, First, Healed, New, Overdue, Reached, Unstable};
        let mut life = Life::new();
        for step in &steps {
            life.step(step);
        }
        for task in [true, false] {
            prop_assert!(densest(&life.times(task, &[First, New])) <= 20);
            prop_assert!(densest(&life.times(task, &[Reached, Again])) <= 1);
            prop_assert!(densest(&life.times(task, &[Overdue])) <= 1);
            prop_assert!(densest(&life.times(task, &[Unstable])) <= 1);
            let all = [First, New, Reached, Again, Overdue, Unstable, Healed];
            prop_assert!(densest(&life.times(task, &all)) <= 20 + 3 + 23);
        }
    }

    #[test]
    fn every_outage_of_a_limit_is_told_within_it(steps in proptest::collection::vec(step(), 0..150)) {
        let mut life = Life::new();
        let (mut down, mut heard) = (None, i64::MIN);
        for step in &steps {
            let (decided, began) = life.step(step);
            heard = of_task(&decided).map(|decision| decision.at.0 / 1000).chain([heard]).max().unwrap_or(heard);
            if let (Some(began), Step::Run { outcome, .. }) = (began, step) {
                match *outcome {
                    "exit 0" => down = None,
                    "interrupted" => {}
                    _ => {
                        let start = *down.get_or_insert(began);
                        prop_assert!(life.now - start.max(heard) < LIMIT, "an outage of a limit was not told");
                    }
                }
            }
        }
    }

    #[test]
    fn healed_only_after_a_told_outage_and_once(steps in proptest::collection::vec(step_or_silence(), 0..150)) {
        let mut life = Life::new();
        for step in &steps {
            life.step(step);
        }
        for task in [true, false] {
            let mut open = false;
            for decision in life.decided.iter().filter(|decision| decision.task.is_some() == task) {
                match decision.kind {
                    NoticeKind::Healed => {
                        prop_assert!(open, "HEALED of nothing that was told");
                        open = false;
                    }
                    NoticeKind::Unstable => prop_assert!(!open, "UNSTABLE closes nothing that was told"),
                    _ => open = true,
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded(steps in proptest::collection::vec(step_or_silence(), 0..400)) {
        let mut life = Life::new();
        for step in &steps {
            life.step(step);
        }
        life.all_is_bounded();
        life.restart();
        life.all_is_bounded();
    }

    #[test]
    fn a_reboot_is_a_restart_on_another_clock(
        before in prop_oneof![
            proptest::collection::vec(step_or_silence(), 0..60), proptest::collection::vec(bad_day(), 30..60)
        ],
        after in prop_oneof![
            proptest::collection::vec(step_or_silence(), 0..60), proptest::collection::vec(bad_day(), 30..60)
        ],
    ) {
        let mut lives = [Life::new(), Life::new()];
        let mut told = Vec::new();
        for (life, same_boot) in lives.iter_mut().zip([true, false]) {
            before.iter().for_each(|step| _ = life.step(step));
            life.troubles(0);
            let new = if same_boot { life.now } else { 5 };
            life.restart_at(new, same_boot);
            life.decided.clear();
            life.troubles(1);
            after.iter().for_each(|step| _ = life.step(step));
            life.now += 30 * HOUR;
            life.desk.pass(life.now * 1000);
            life.decided.extend(life.desk.desk.take_decisions());
            let seen = life.decided.iter();
            let seen = seen.map(|d| (d.at.0 - new * 1000, d.kind, d.task.clone(), d.withheld));
            told.push(seen.collect::<Vec<_>>());
        }
        prop_assert_eq!(&told[0], &told[1]);
    }

    #[test]
    fn one_outage_is_one_thread_that_begins_once(steps in proptest::collection::vec(step_or_silence(), 0..150)) {
        let mut life = Life::new();
        for step in &steps {
            life.step(step);
        }
        let mut begun = BTreeSet::new();
        for mail in &life.desk.mails {
            let root = Envelope::root(mail.thread.as_deref().unwrap());
            match mail.answers_to() {
                None => prop_assert!(mail.id == root && begun.insert(root), "a thread begins once"),
                Some(id) => prop_assert!(begun.contains(&id), "an answer to nothing: {mail:?}"),
            }
        }
        let ids: BTreeSet<&str> = life.desk.mails.iter().map(|mail| mail.id.as_str()).collect();
        prop_assert_eq!(ids.len(), life.desk.mails.len(), "an id twice");
    }

    #[test]
    fn a_silence_is_quiet_and_its_end_tells_what_is_open(
        steps in proptest::collection::vec(step(), 0..60), silence in 1_i64..200_000, later in 0_i64..200_000,
    ) {
        let mut life = Life::new();
        let (before, within) = steps.split_at(steps.len() / 2);
        for step in before {
            life.step(step);
        }
        let (begin, end) = (life.now * 1000, (life.now + silence) * 1000);
        life.step(&Step::Silence(silence));
        let told = life.decided.len();
        for step in within {
            life.step(step);
            if life.now * 1000 > end {
                break;
            }
        }
        let quiet = |decision: &&Decision| (begin..end).contains(&decision.at.0);
        let since: Vec<_> = life.decided[told..].iter().filter(quiet).collect();
        prop_assert!(since.is_empty(), "told in a silence: {since:?}");
        // If it ends in an outage that no run ended before, that is told in this very moment.
        if life.now * 1000 < end {
            let open = life.desk.desk.task_status("c", "job").unwrap().down_since.is_some();
            life.desk.pass(end + 1 + later);
            let at_end: Vec<_> = life.desk.desk.take_decisions();
            let of_it = of_task(&at_end).filter(|decision| decision.at.0 == end).count();
            prop_assert!(!open || of_it == 1 || life.spent(), "an open outage was not told: {at_end:?}");
            prop_assert_eq!(life.desk.desk.silenced_until("c"), None);
        }
    }

    #[test]
    fn a_timeout_that_is_not_due_does_nothing(steps in proptest::collection::vec(step(), 0..30), at in 0_i64..1_000_000) {
        let mut life = Life::new();
        for step in &steps {
            life.step(step);
        }
        let desk = &mut life.desk;
        let begin = life.now * 1000 + 1000;
        desk.start(begin);
        desk.told();
        let due = desk.desk.next_timeout();
        let now = Timestamp(begin + at);
        if due.is_none_or(|due| due > now) {
            desk.desk.handle_timeout(now, Desk::wall(now.0));
            prop_assert_eq!(desk.told(), vec![]);
            prop_assert_eq!(desk.desk.next_timeout(), due);
        }
        let far = due.map_or(now, |due| due + Duration::from_secs(1));
        desk.desk.handle_timeout(far, Desk::wall(far.0));
        prop_assert!(desk.desk.next_timeout().is_none_or(|next| next > far), "a timeout must lie ahead");
    }
}

/// Every list that the desk keeps, by its name in what is saved, and the most entries of it.
const LISTS: [(&str, usize); 8] = [
    ("known", 64),
    ("tally", 12),
    ("firsts", 20),
    ("entries", 100),
    ("texts", 8),
    ("recent", 200),
    ("causes", 32),
    ("sent", 20),
];
/// Bytes of the longest text that is kept: of what a run said last.
const LONGEST: usize = 1_100;

/// Checks the length of each list and text in `value`; notes in `seen` the lists that are full.
fn bounded(name: &str, value: &serde_json::Value, seen: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(list) => {
            if let Some((_, most)) = LISTS.iter().find(|(of, _)| *of == name) {
                assert!(list.len() <= *most, "{} entries in {name}", list.len());
                if list.len() == *most {
                    seen.insert(name.to_owned());
                }
            } else {
                assert!(list.len() <= 2, "a list of no known bound: {name}");
            }
            list.iter().for_each(|entry| bounded("", entry, seen));
        }
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| bounded(name, value, seen));
        }
        serde_json::Value::String(text) => assert!(text.len() <= LONGEST, "{name}: {}", text.len()),
        _ => {}
    }
}

/// Ten thousand failures, each unlike the others, in one outage, and refused upgrades besides: every
/// list is full and none is longer; the same of a file that somebody made longer.
#[test]
fn no_list_or_text_outgrows_its_bound() {
    let mut life = Life::new();
    let mut text = String::new();
    for n in 0..10_000_i64 {
        let word: String = n.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
        text = format!("{word} {}", "long ".repeat(500));
        life.desk.fail(n * 60, &text);
        life.desk.desk.upgrade_refused(&text, Timestamp(n * 60_000), Desk::wall(n * 60_000));
        life.desk.desk.chain_failed("c", &text, Timestamp(n * 60_000), Desk::wall(n * 60_000));
        life.desk.desk.output_fails("c", &text, Timestamp(n * 60_000), Desk::wall(n * 60_000));
    }
    life.now = 600_000;
    life.desk.desk.pause("c", &text, Timestamp(600_000_000), Desk::wall(600_000_000));
    let full = life.all_is_bounded();
    let all: BTreeSet<String> = LISTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(full, all, "a bound that this does not reach is not tried");
    let mut saved = life.saved();
    lengthen(&mut saved);
    let (now, wall) = (Timestamp(600_000_000), Desk::wall(600_000_000));
    let saved = serde_json::from_value(saved).unwrap();
    let config = &life.desk.config;
    life.desk.desk = NoticeDesk::restore(saved, "web1", config, now, wall, true);
    life.all_is_bounded();
}

/// Every list of known bound three times as long.
fn lengthen(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(list) => {
            list.iter_mut().for_each(lengthen);
            if list.len() > 2 {
                *list = [list.clone(), list.clone(), list.clone()].concat();
            }
        }
        serde_json::Value::Object(fields) => fields.values_mut().for_each(lengthen),
        _ => {}
    }
}

impl Life {
    fn saved(&self) -> serde_json::Value {
        let (now, wall) = (Timestamp(self.now * 1000), Desk::wall(self.now * 1000));
        serde_json::to_value(self.desk.desk.save(now, wall)).unwrap()
    }

    /// Which of [`LISTS`] are full; none is longer.
    fn all_is_bounded(&self) -> BTreeSet<String> {
        let mut full = BTreeSet::new();
        bounded("", &self.saved(), &mut full);
        full
    }

    /// The bound on FIRST and NEW is used up: what it holds back is told by the next notice.
    fn spent(&self) -> bool {
        use NoticeKind::{First, New};
        densest(&self.times(true, &[First, New])) >= 20
    }
}
