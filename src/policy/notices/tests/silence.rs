//! A silence keeps quiet, not blind: what it held back and what still lasts is told at its end.

use super::*;

fn at(hour: i64) -> (Timestamp, WallTime) {
    (Timestamp(hour * HOUR * 1000), Desk::wall(hour * HOUR * 1000))
}

impl Desk {
    fn silenced(&mut self, hour: i64, until: i64) {
        let (now, wall) = at(hour);
        self.desk.silence("c", Some(at(until).0), "moving", now, wall);
    }

    fn hours_told(&mut self) -> Vec<(i64, &'static str)> {
        self.told().into_iter().map(|(second, kind)| (second / HOUR, kind)).collect()
    }
}

#[test]
fn output_that_cannot_be_written_in_a_silence_is_told_at_its_end() {
    let mut desk = Desk::plain();
    desk.silenced(0, 5);
    let (now, wall) = at(1);
    desk.desk.output_fails("c", "cannot write /var/log/c: No space left on device", now, wall);
    desk.pass(20 * HOUR * 1000);
    assert_eq!(desk.hours_told(), [(5, "FIRST")]);
    assert_eq!(desk.mails[0].subject, "[chain c] Cannot write /var/log/c: No space left on device");
    assert!(desk.mails[0].body.contains("4h"), "{}", desk.mails[0].body);
    assert_eq!(desk.desk.next_timeout(), None);
}

#[test]
fn output_that_is_written_again_in_a_silence_is_told_at_its_end() {
    let mut desk = Desk::plain();
    desk.desk.output_fails("c", "cannot write /var/log/c", at(0).0, at(0).1);
    desk.silenced(1, 5);
    desk.desk.output_works("c", 7, at(2).0, at(2).1);
    desk.desk.output_fails("c", "cannot write /var/log/c", at(3).0, at(3).1);
    desk.desk.output_works("c", 8, at(4).0, at(4).1);
    assert_eq!(desk.hours_told(), [(0, "FIRST")]);
    desk.pass(20 * HOUR * 1000);
    assert_eq!(desk.hours_told(), [(5, "HEALED")]);
    assert!(desk.mails[1].body.contains("8 lines"), "{}", desk.mails[1].body);
    assert_eq!(desk.mails[1].answers_to().as_ref(), Some(&desk.mails[0].id));
}

#[test]
fn output_trouble_that_came_and_went_in_a_silence_is_not_told() {
    let mut desk = Desk::plain();
    desk.silenced(0, 5);
    desk.desk.output_fails("c", "cannot write /var/log/c", at(1).0, at(1).1);
    desk.desk.output_works("c", 7, at(2).0, at(2).1);
    desk.pass(20 * HOUR * 1000);
    assert_eq!(desk.hours_told(), []);
}

#[test]
fn trouble_that_comes_back_and_lasts_is_told_when_twelve_hours_are_over() {
    let mut desk = Desk::plain();
    desk.desk.log_fails("cannot write /var/log/runner", at(0).0, at(0).1);
    desk.desk.log_works(3, at(1).0, at(1).1);
    desk.desk.log_fails("cannot write /var/log/runner", at(2).0, at(2).1);
    desk.desk.output_fails("c", "cannot write /var/log/c", at(0).0, at(0).1);
    desk.desk.output_works("c", 3, at(1).0, at(1).1);
    desk.desk.output_fails("c", "cannot write /var/log/c", at(2).0, at(2).1);
    desk.pass(30 * HOUR * 1000);
    let told = desk.desk.take_decisions();
    let told: Vec<_> = told.iter().map(|d| (d.at.0 / HOUR / 1000, d.chain.is_some())).collect();
    let both = |hour| [(hour, false), (hour, true)];
    assert_eq!(told[..2], [(0, false), (1, false)]);
    assert_eq!(told[4..], both(12));
    assert_eq!(desk.desk.next_timeout(), None);
}

#[test]
fn a_chain_that_cannot_start_in_a_silence_is_told_at_its_end() {
    let mut desk = Desk::plain();
    desk.silenced(0, 5);
    desk.desk.chain_failed("c", "cannot become user x", at(1).0, at(1).1);
    desk.pass(20 * HOUR * 1000);
    assert_eq!(desk.hours_told(), [(5, "FIRST")]);
    assert_eq!(desk.mails[0].subject, "[chain c] First exception caught: cannot become user x");
}

#[test]
fn a_pause_that_fell_due_in_a_silence_is_told_at_its_end() {
    let mut desk = Desk::plain();
    desk.desk.pause("c", "moving", at(0).0, at(0).1);
    desk.silenced(0, 15);
    desk.pass(28 * HOUR * 1000);
    assert_eq!(desk.hours_told(), [(15, "PAUSED"), (27, "PAUSED")]);
}

#[test]
fn explain_of_a_silenced_chain_says_what_its_end_will_tell() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.silenced(1, 30);
    desk.fail(2 * HOUR, "x");
    desk.desk.output_fails("c", "cannot write /var/log/c", at(2).0, at(2).1);
    desk.desk.chain_failed("c", "cannot become user x", at(2).0, at(2).1);
    desk.desk.pause("c", "moving", at(2).0, at(2).1);
    insta::assert_snapshot!(desk.desk.explain("c", at(3).0, at(3).1).join("\n"), @r"
silenced until 2026-01-04 00:00:00 UTC (moving): what is open then is mailed then
paused since 2026-01-02 20:00:00 UTC (moving); PAUSED is mailed at 2026-01-04 00:00:00 UTC
the chain's output: FIRST is mailed at 2026-01-04 00:00:00 UTC
job: failing since 2026-01-02 18:00:00 UTC (2 in a row, mailed): x
job: when the silence ends at 2026-01-04 00:00:00 UTC, REACHED is mailed
job: AGAIN is mailed at the first failed run that ends at 2026-01-04 12:00:00 UTC or later
job: when a run succeeds, HEALED is mailed
job: 1 of at most 20 FIRST and NEW in 12h are spent
the chain's process: failing since 2026-01-02 20:00:00 UTC (1 in a row, not mailed yet): cannot become user x
the chain's process: when the silence ends at 2026-01-04 00:00:00 UTC, FIRST is mailed
the chain's process: AGAIN is mailed at the first failed run that ends at 2026-01-04 12:00:00 UTC or later
the chain's process: when a run succeeds, HEALED is mailed
the chain's process: 1 held back by a silence; the next notice tells it
");
    desk.pass(31 * HOUR * 1000);
    assert_eq!(
        desk.hours_told(),
        [(0, "FIRST"), (30, "REACHED"), (30, "FIRST"), (30, "PAUSED"), (30, "FIRST")]
    );
}

#[test]
fn explain_of_a_silence_after_which_there_is_nothing_to_tell() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.silenced(1, 30);
    desk.ok(2 * HOUR);
    insta::assert_snapshot!(desk.desk.explain("c", at(3).0, at(3).1).join("\n"), @r"
silenced until 2026-01-04 00:00:00 UTC (moving): what is open then is mailed then
job: when the silence ends at 2026-01-04 00:00:00 UTC, HEALED is mailed
job: well; a failed run after that is mailed if it is one not known in this generation, or once the outage is 12h old
job: 1 of at most 20 FIRST and NEW in 12h are spent
job: 1 held back by a silence; the next notice tells it
");
}

#[test]
fn an_unstable_task_is_counted_once_in_each_silence() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.ok(60);
    desk.told();
    for (begin, end) in [(13, 20), (21, 30)] {
        desk.silenced(begin, end);
        for n in 0..6 {
            desk.fail(begin * HOUR + n * 1200 + 60, "x");
            desk.ok(begin * HOUR + n * 1200 + 120);
        }
        desk.pass(end * HOUR * 1000);
        assert_eq!(desk.hours_told(), []);
    }
    desk.fail(31 * HOUR, "x");
    desk.ok(31 * HOUR + 60);
    let decided = desk.desk.take_decisions();
    assert_eq!((decided[0].kind, decided[0].withheld), (NoticeKind::Unstable, 2));
}

#[test]
fn an_overdue_run_is_told_at_the_end_of_the_silence_that_held_it_back_alone() {
    let mut desk = Desk::plain();
    desk.start(0);
    desk.pass(10 * HOUR * 1000);
    desk.silenced(10, 14);
    desk.pass(15 * HOUR * 1000);
    desk.silenced(15, 16);
    desk.pass(20 * HOUR * 1000);
    assert_eq!(desk.hours_told(), [(14, "OVERDUE")]);
}
