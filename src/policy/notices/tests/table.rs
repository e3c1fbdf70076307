//! The table of notices row by row, the faults of the program that this one replaces, and what the
//! mails say.

use std::collections::BTreeMap;

use super::*;

#[test]
fn the_seed_s_example_mails_at_failures_1_4_7_10_whatever_the_timers_do() {
    for late in [0, 1, 7, 40] {
        let task = "fail_cooldown: \"1s\", non_recoverable_downtime: \"3s\"";
        let mut desk = Desk::new(config(&chain("c", task)));
        let mut told = Vec::new();
        let mut at = 0;
        for failure in 1..=12 {
            let took = (late * failure) % 23;
            desk.run(at, at + took, "exit 1", "integer division or modulo by zero");
            at += took + 1000 + late;
            told.extend(desk.told().into_iter().map(|(_, notice)| (failure, notice)));
        }
        assert_eq!(
            told,
            [(1, "FIRST"), (4, "REACHED"), (7, "AGAIN"), (10, "AGAIN")],
            "late {late}"
        );
        let said: Vec<&str> = desk.logs.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            said[0],
            "Sent email to admins: First exception caught: integer division or modulo by zero"
        );
        assert_eq!(said[1], "Sent email to admins: Non recoverable downtime reached");
        assert!(desk.logs.iter().all(|(level, _)| *level == Level::Debug));
        let thread = desk.mails[0].thread.clone();
        assert!(thread.is_some() && desk.mails.iter().all(|mail| mail.thread == thread));
    }
}

#[test]
fn new_is_told_once_and_healed_only_after_a_told_outage() {
    let mut desk = Desk::plain();
    desk.fail(0, "one");
    desk.fail(1200, "two");
    desk.fail(2400, "one");
    desk.fail(3600, "two");
    desk.ok(4800);
    desk.ok(5000);
    assert_eq!(desk.told(), [(0, "FIRST"), (1200, "NEW"), (4800, "HEALED")]);
    // An outage that was not mailed heals in silence: the flap is no 144 mails.
    desk.fail(5100, "one");
    desk.ok(6300);
    assert_eq!(desk.told(), []);
}

#[test]
fn a_second_outage_does_not_begin_with_again() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.fail(12 * HOUR, "x");
    desk.ok(13 * HOUR);
    desk.fail(14 * HOUR, "x");
    desk.fail(26 * HOUR - 1, "x");
    desk.fail(26 * HOUR, "x");
    desk.fail(38 * HOUR, "x");
    let told = [(0, "FIRST"), (12, "REACHED"), (13, "HEALED"), (26, "REACHED"), (38, "AGAIN")];
    assert_eq!(desk.told(), told.map(|(hour, notice)| (hour * HOUR, notice)));
}

#[test]
fn a_new_generation_forgets_what_was_told_and_not_the_outage() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.deploy(60);
    desk.fail(1200, "x");
    desk.fail(12 * HOUR, "x");
    desk.deploy(13 * HOUR);
    // FIRST goes before AGAIN, and tells it.
    desk.fail(24 * HOUR, "x");
    desk.fail(25 * HOUR, "x");
    let told = [(0, "FIRST"), (1200, "FIRST"), (12 * HOUR, "REACHED"), (24 * HOUR, "FIRST")];
    assert_eq!(desk.told(), told);
    assert!(
        desk.mails[3].body.contains("Non recoverable downtime reached"),
        "{}",
        desk.mails[3].body
    );
    let threads: Vec<_> = desk.mails.iter().map(|mail| mail.thread.clone()).collect();
    assert!(threads.iter().all(|thread| *thread == threads[0]));
}

#[test]
fn reached_goes_before_new_and_tells_it() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.fail(12 * HOUR, "y");
    desk.fail(13 * HOUR, "y");
    assert_eq!(desk.told(), [(0, "FIRST"), (12 * HOUR, "REACHED")]);
}

#[test]
fn a_reminder_waits_for_the_end_of_a_run_at_most_a_minute_from_its_start() {
    let (limit, second) = (12 * HOUR * 1000, 1000);
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.run(limit - 30 * second, limit + 20 * second, "exit 1", "x");
    assert_eq!(desk.told(), [(0, "FIRST"), (12 * HOUR + 20, "REACHED")]);

    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.run(limit - 30 * second, limit + 90 * second, "exit 1", "new one");
    // The run was told; what it failed with is told of the next.
    desk.fail(13 * HOUR, "new one");
    assert_eq!(desk.told(), [(0, "FIRST"), (12 * HOUR + 30, "REACHED"), (13 * HOUR, "NEW")]);

    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.run(limit - 300 * second, limit + 90 * second, "exit 0", "");
    assert_eq!(desk.told(), [(0, "FIRST"), (12 * HOUR, "REACHED"), (12 * HOUR + 90, "HEALED")]);

    // A run that hangs in an outage is told for as long as it lasts.
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.start(HOUR * 1000);
    desk.pass(40 * HOUR * 1000);
    let told = [(0, "FIRST"), (12 * HOUR, "REACHED"), (24 * HOUR, "AGAIN"), (36 * HOUR, "AGAIN")];
    assert_eq!(desk.told(), told);
}

#[test]
fn an_overdue_run_is_told_and_healed() {
    let hours = HOUR * 1000;
    let mut desk = Desk::plain();
    desk.run(0, 13 * hours, "exit 0", "");
    desk.run(14 * hours, 26 * hours, "exit 0", "");
    assert_eq!(desk.told(), [(12 * HOUR, "OVERDUE"), (13 * HOUR, "HEALED")]);
    assert_eq!(desk.mails[0].subject, "[job] Run still going after 12h");
    assert_eq!(desk.mails[0].thread, desk.mails[1].thread);

    let mut desk = Desk::plain();
    desk.start(0);
    desk.pass(37 * hours);
    assert_eq!(desk.told(), [12, 24, 36].map(|hour| (hour * HOUR, "OVERDUE")));

    // One that fails is one outage from its start on, in one thread.
    let mut desk = Desk::plain();
    desk.run(0, 13 * hours, "exit 1", "x");
    desk.ok(14 * HOUR);
    assert_eq!(desk.told(), [(12 * HOUR, "OVERDUE"), (13 * HOUR, "FIRST"), (14 * HOUR, "HEALED")]);
    assert!(desk.mails.iter().all(|mail| mail.thread == desk.mails[0].thread));
    assert!(desk.desk.next_timeout().is_none());
}

#[test]
fn runs_that_are_always_a_little_overdue_are_no_flood() {
    let mut desk = Desk::new(config(&chain("c", "overdue: \"1m\"")));
    for run in 0..500 {
        let at = run * 400_000;
        desk.run(at, at + 120_000, "exit 0", "");
    }
    let told = desk.told();
    assert!(told.len() <= 2 * (500 * 400 / (12 * 3600) + 1), "{told:?}");
}

#[test]
fn a_flapping_task_is_told_as_unstable_twice_a_day() {
    let mut desk = Desk::plain();
    for flap in 0..144 {
        desk.fail(flap * 1500, "x");
        desk.ok(flap * 1500 + 1200);
    }
    let told = desk.told();
    assert_eq!(told[..2], [(0, "FIRST"), (1200, "HEALED")]);
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told[2..].iter().all(|(_, notice)| *notice == "UNSTABLE"));
    assert_eq!(told[2].0, 29 * 1500 + 1200);
    assert_eq!(desk.mails[2].subject, "[job] Unstable: 29 of 58 runs failed");
}

#[test]
fn unstable_needs_five_unmailed_outages() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    desk.ok(1);
    for flap in 1..=4 {
        desk.fail(flap * 12 * HOUR, "x");
        desk.ok(flap * 12 * HOUR + 60);
    }
    assert_eq!(desk.told().len(), 2);
    desk.fail(60 * HOUR, "x");
    desk.ok(60 * HOUR + 60);
    assert_eq!(desk.told(), [(60 * HOUR + 60, "UNSTABLE")]);
}

#[test]
fn an_interrupted_run_is_neither_success_nor_failure() {
    let mut desk = Desk::plain();
    desk.run(0, 5000, "interrupted", "");
    desk.fail(60, "x");
    desk.run(70_000, 75_000, "interrupted", "");
    desk.fail(12 * HOUR + 60, "x");
    assert_eq!(desk.told(), [(60, "FIRST"), (12 * HOUR + 60, "REACHED")]);
    let status = desk.desk.task_status("c", "job").unwrap();
    assert_eq!((status.ok, status.failed, status.notices), (0, 2, 2));
}

#[test]
fn first_and_new_are_bounded_over_generations_and_the_rest_is_told() {
    let mut desk = Desk::plain();
    for deploy in 0..50 {
        desk.fail(deploy * 60, &format!("words {deploy} of it"));
        desk.deploy(deploy * 60 + 30);
    }
    let told = desk.told();
    assert_eq!(told.len(), 20, "{told:?}");
    desk.fail(12 * HOUR, "more");
    let decision = desk.desk.take_decisions().remove(0);
    // The oldest of the twenty has left the window in this very moment.
    assert_eq!((decision.kind, decision.withheld), (NoticeKind::First, 30));
    assert!(desk.mails[20].body.contains("30 about new failures"), "{}", desk.mails[20].body);
}

#[test]
fn a_fingerprint_is_new_again_after_forget_after() {
    let mut desk =
        Desk::new(config(&chain("c", "forget_after: \"1d\", non_recoverable_downtime: \"365d\"")));
    desk.fail(0, "x");
    desk.fail(20 * HOUR, "x");
    desk.fail(44 * HOUR - 1, "x");
    desk.fail(68 * HOUR - 1, "x");
    assert_eq!(desk.told(), [(0, "FIRST"), (68 * HOUR - 1, "NEW")]);
}

#[test]
fn silence_keeps_quiet_and_not_blind() {
    let hour = |hour: i64| Timestamp(hour * HOUR * 1000);
    let silence = |desk: &mut Desk, from: i64, to: i64| {
        desk.pass(from * HOUR * 1000);
        desk.desk.silence("c", Some(hour(to)), "moving", hour(from), Desk::wall(hour(from).0));
    };
    // An outage that is open at the end is told then.
    let mut desk = Desk::plain();
    silence(&mut desk, 0, 2);
    desk.fail(HOUR, "x");
    desk.fail(HOUR + 1200, "x");
    desk.pass(3 * HOUR * 1000);
    desk.ok(4 * HOUR);
    assert_eq!(desk.told(), [(2 * HOUR, "FIRST"), (4 * HOUR, "HEALED")]);
    assert_eq!(desk.desk.silenced_until("c"), None);
    // One that healed in it is not; a told one that healed in it is closed.
    let mut desk = Desk::plain();
    silence(&mut desk, 0, 2);
    desk.fail(HOUR, "x");
    desk.ok(HOUR + 1);
    desk.fail(3 * HOUR, "x");
    silence(&mut desk, 4, 6);
    desk.ok(5 * HOUR);
    desk.pass(7 * HOUR * 1000);
    assert_eq!(desk.told(), [(3 * HOUR, "FIRST"), (6 * HOUR, "HEALED")]);
    // A limit that passes in it is told at its end, as reached, not again.
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    silence(&mut desk, 1, 30);
    for n in 2..30 {
        desk.fail(n * HOUR, "x");
    }
    desk.pass(31 * HOUR * 1000);
    assert_eq!(desk.told(), [(0, "FIRST"), (30 * HOUR, "REACHED")]);
    assert!(desk.desk.task_status("c", "job").unwrap().withheld > 0);
    // An end before its time is an end.
    let mut desk = Desk::plain();
    silence(&mut desk, 0, 9);
    desk.fail(HOUR, "x");
    desk.desk.silence("c", None, "", hour(2), Desk::wall(hour(2).0));
    assert_eq!(desk.told(), [(2 * HOUR, "FIRST")]);
}

#[test]
fn a_chain_whose_process_dies_is_told_and_heals_when_a_run_completes() {
    let mut desk = Desk::plain();
    for n in 0..5 {
        desk.desk.chain_failed(
            "c",
            "killed by signal 9",
            Timestamp(n * 60_000),
            Desk::wall(n * 60_000),
        );
    }
    assert!(desk.desk.chain_is_failing("c"));
    desk.fail(600, "x");
    assert!(desk.desk.chain_is_failing("c"));
    let subjects: Vec<_> = desk.mails.iter().map(|mail| mail.subject.as_str()).collect();
    let expected = [
        "[chain c] First exception caught: killed by signal 9",
        "[chain c] Process healed",
        "[job] First exception caught: x",
    ];
    assert_eq!(subjects, expected);
}

#[test]
fn a_pause_is_told_each_limit_until_it_ends() {
    let mut desk = Desk::plain();
    desk.desk.pause("c", "moving", Timestamp(0), Desk::wall(0));
    desk.pass(25 * HOUR * 1000);
    assert_eq!(desk.told(), [(12 * HOUR, "PAUSED"), (24 * HOUR, "PAUSED")]);
    assert_eq!(desk.mails[0].subject, "[chain c] Paused since 2026-01-02 18:00:00 UTC");
    desk.desk.resume("c", Timestamp(26 * HOUR * 1000), Desk::wall(0));
    assert_eq!(desk.desk.next_timeout(), None);
}

#[test]
fn refused_upgrades_are_told_per_cause_and_the_next_accepted_one() {
    let mut desk = Desk::plain();
    let mut refuse = |hour: i64, cause: &str| {
        let at = hour * HOUR * 1000;
        desk.desk.upgrade_refused(cause, Timestamp(at), Desk::wall(at));
    };
    refuse(0, "line 3: no such field");
    refuse(1, "line 4: no such field");
    refuse(2, "cannot find the binary");
    refuse(11, "line 3: no such field");
    refuse(12, "line 3: no such field");
    desk.desk.upgrade_accepted(Timestamp(13 * HOUR * 1000), Desk::wall(0));
    desk.desk.upgrade_accepted(Timestamp(14 * HOUR * 1000), Desk::wall(0));
    desk.collect();
    let told = [(0, "REFUSED"), (2, "REFUSED"), (12, "REFUSED"), (13, "ACCEPTED")];
    assert_eq!(desk.told(), told.map(|(hour, notice)| (hour * HOUR, notice)));
    assert_eq!(desk.mails[0].subject, "[runner] Upgrade refused: line 3: no such field");
    assert_eq!(desk.mails[3].subject, "[runner] Upgrade accepted");
}

#[test]
fn without_mail_a_notice_is_a_warning() {
    let mut config = config(&chain("c", ""));
    config.mail = None;
    let mut desk = Desk::new(config);
    desk.fail(0, "x");
    assert_eq!(desk.logs, [(Level::Warning, "First exception caught: x".to_owned())]);
    assert!(desk.mails.is_empty());
}

#[test]
fn nothing_waits_for_a_time_while_nothing_goes_on() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    assert_eq!(desk.desk.next_timeout(), None, "an outage in cooldown wakes nobody");
    desk.start(1200 * 1000);
    assert!(desk.desk.next_timeout().is_some());
    desk.desk.handle_timeout(Timestamp(1200 * 1000), Desk::wall(0));
    desk.desk.chain_down("c");
    assert_eq!(desk.desk.next_timeout(), None);
    assert_eq!(desk.told(), [(0, "FIRST")]);
}

#[test]
fn coalesced_runs_count_and_bring_one_notice() {
    let mut desk = Desk::plain();
    let mut end = desk.end_of(0, 60_000, "exit 1", "x");
    end.count = 40;
    desk.desk.run_ended("c", &end, Timestamp(61_000));
    assert_eq!(desk.told(), [(60, "FIRST")]);
    // A success told late, from before the last failure, ends nothing.
    let end = desk.end_of(30_000, 31_000, "exit 0", "");
    desk.desk.run_ended("c", &end, Timestamp(62_000));
    assert!(desk.desk.chain_is_failing("c"));
    assert_eq!(desk.desk.task_status("c", "job").unwrap().failed, 40);
}

/// A chain's process runs as its user, who can make it say anything; what it says of the past is
/// believed as far as a report can be late.
#[test]
fn a_chain_that_claims_long_outages_brings_no_more_mails_than_real_ones_would() {
    let limit = 12 * HOUR * 1000;
    let mut desk = Desk::plain();
    let now = 1000 * limit;
    for n in 0..50_i64 {
        // In a minute of the master's time the claims go through 25 days.
        let at = Timestamp(now + n * 1000);
        let (from, to) = (n * limit, (n + 1) * limit);
        desk.desk.run_started("c", "job", 1, Timestamp(from), at);
        desk.desk.run_ended("c", &desk.end_of(from, to, "exit 1", "lie"), at);
        if n % 2 == 0 {
            desk.desk.run_ended("c", &desk.end_of(to, to, "exit 0", ""), at);
        }
        desk.desk.run_started("c", "job", 2, Timestamp(to), at);
        desk.desk.handle_timeout(at, Desk::wall(at.0));
        desk.desk.chain_down("c");
    }
    let told: Vec<_> = desk.told().into_iter().map(|(_, kind)| kind).collect();
    let count = |wanted: &str| told.iter().filter(|kind| **kind == wanted).count();
    assert!(count("REACHED") <= 1 && count("AGAIN") == 0 && count("OVERDUE") <= 1, "{told:?}");
    assert!(count("HEALED") <= 2, "{told:?}");
}

#[test]
fn reports_that_come_late_because_the_master_stood_still_are_believed() {
    let mut desk = Desk::plain();
    desk.desk.run_started("c", "job", 1, Timestamp(0), Timestamp(0));
    let late = Timestamp(14 * HOUR * 1000);
    let end = desk.end_of(0, 1000, "exit 1", "x");
    desk.desk.run_ended("c", &end, late);
    desk.fail(14 * HOUR, "x");
    assert_eq!(desk.told(), [(1, "FIRST"), (14 * HOUR, "REACHED")]);
}

#[test]
fn hostile_words_are_safe_in_subject_and_body() {
    let mut desk = Desk::plain();
    desk.fail(0, "a\r\nBcc: x@y\0 \u{1b}[31mred\u{1b}[0m \u{202e}evil \u{85}\n.\n");
    let mail = &desk.mails[0];
    assert_eq!(mail.subject, "[job] First exception caught: a Bcc: x@y red evil .");
    let safe = |text: &str| text.chars().all(|c| c == '\n' || crate::policy::safe::is_shown(c));
    assert!(safe(&mail.subject) && safe(&mail.body), "{:?}", mail.body);
    assert!(!mail.subject.contains('\n'));
}

#[test]
fn each_kind_of_mail_reads_well() {
    let task =
        "name: \"sync\", sh: \"python manage.py sync && touch stamp\", fail_cooldown: \"30m\"";
    let mut desk = Desk::plain();
    desk.config = config(&format!(
        "(name: \"c\", on_failure: FirstTask, tasks: [(name: \"job\", run: [\"/bin/job\", \"a b\"]), ({task})]),"
    ));
    desk.deploy(0);
    desk.run(5_000, 7_300, "exit 1", "could not connect to server: Connection refused");
    desk.run(1_200_000, 1_201_000, "signal 9", "relation \"shop_order\" does not exist");
    for n in 1..=40 {
        desk.run(
            n * 1_200_000 + 5_000,
            n * 1_200_000 + 7_000,
            "exit 1",
            "could not connect to server: Connection refused",
        );
    }
    desk.run(90_000_000, 90_001_000, "exit 0", "");
    for n in 0..40 {
        desk.fail(100_000 + n * 3600, "could not connect to server: Connection refused");
        desk.ok(100_000 + n * 3600 + 1200);
    }
    desk.start(400_000_000);
    desk.pass(444_000_000);
    desk.desk.pause("c", "database moves", Timestamp(444_000_000), Desk::wall(444_000_000));
    desk.pass(490_000_000);
    let wall = Desk::wall(500_000_000);
    desk.desk.upgrade_refused(
        "conf/prod.ron:3:5: no such field `usr`\n 3 | usr: 1",
        Timestamp(500_000_000),
        wall,
    );
    desk.desk.upgrade_accepted(Timestamp(500_000_000), wall);
    desk.desk.test_mail(Timestamp(500_000_000), wall);
    desk.collect();
    let mut kinds: BTreeMap<&str, &Envelope> = BTreeMap::new();
    for mail in &desk.mails {
        kinds.entry(mail.kind.word()).or_insert(mail);
        assert!(mail.body.len() <= MAX_BODY);
        assert!(mail.body.lines().all(|line| line.chars().count() <= 78), "{}", mail.body);
    }
    let all: Vec<String> = (kinds.values())
        .map(|mail| format!("Subject: {}\n\n{}", mail.subject, mail.body))
        .collect();
    insta::assert_snapshot!(all.join("\n================\n\n"));
    let mut ids: Vec<&str> = desk.mails.iter().map(|mail| mail.id.as_str()).collect();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    assert!(ids.iter().all(|id| id.len() <= 100 && id.chars().all(allowed)));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), desk.mails.len());
}

#[test]
fn explain_says_what_would_be_told_next() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    let now = Timestamp(60_000);
    desk.desk.silence("c", Some(Timestamp(7_200_000)), "moving", now, Desk::wall(60_000));
    desk.fail(1200, "y");
    insta::assert_snapshot!(desk.desk.explain("c", now, Desk::wall(60_000)).join("\n"));
    assert!(desk.desk.explain("nobody", now, Desk::wall(0)).is_empty());
}
