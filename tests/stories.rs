//! Stories of the real program, told by what its tasks write into a ledger. No root needed.
#![allow(clippy::unwrap_used)]

mod common;

use common::Story;

const LONG: &str = r#"(name: "long", tasks: [(name: "long",
    sh: "echo start >> {dir}/ledger; sleep 1; echo end >> {dir}/ledger", success_cooldown: "50ms")])"#;

#[test]
fn tasks_run_in_order_for_ever_and_a_failing_one_does_not_stop_the_chain() {
    let story = Story::new()
        .chain(
            r#"(name: "order", tasks: [
                (name: "a", sh: "echo a >> {dir}/ledger", success_cooldown: "20ms"),
                (name: "b", sh: "echo b >> {dir}/ledger; exit 4", fail_cooldown: "20ms"),
                (name: "c", run: ["/nonexistent/program"], fail_cooldown: "300ms"),
                (name: "d", sh: "echo d >> {dir}/ledger", success_cooldown: "20ms"),
            ])"#,
        )
        .start();
    story.until("three rounds", |it| it.ledger().len() >= 9);
    let tasks = story.chain("order")["tasks"].clone();
    assert_eq!(tasks[1]["last"]["outcome"], "exit 4");
    assert_eq!(tasks[2]["last"]["outcome"], "cannot start");
    let ended = story.end("TERM");
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.ledger[..9].join(""), "abdabdabd");
    assert!(ended.log.contains("[c] Execution failed"));
}

#[test]
fn the_seeds_example_is_mailed_at_failures_1_4_and_7_and_never_between() {
    let story = Story::new()
        .chain(
            r#"(tasks: [(name: "divide_by_zero",
                sh: "echo 'integer division or modulo by zero' >&2; exit 1",
                fail_cooldown: "1s", non_recoverable_downtime: "3s")])"#,
        )
        .start();
    story.until("eight failures", |it| {
        it.chain("divide_by_zero")["tasks"][0]["failed"].as_u64() >= Some(8)
    });
    story.until("three mails", |it| it.subjects().len() >= 3);
    assert_eq!(
        story.subjects(),
        [
            "[divide_by_zero] First exception caught: integer division or modulo by zero",
            "[divide_by_zero] Non recoverable downtime reached",
            "[divide_by_zero] Non recoverable downtime reached again",
        ]
    );
    let ended = story.end("TERM");
    let mut failure = 0;
    let mut told = Vec::new();
    for line in ended.log.lines() {
        failure += usize::from(line.contains("[divide_by_zero] Execution failed"));
        if line.contains("[divide_by_zero] Sent email to admins: ") {
            told.push(failure);
        }
    }
    assert_eq!(told, [1, 4, 7]);
}

#[test]
fn a_chain_that_is_killed_is_replaced_and_its_run_never_runs_twice_at_once() {
    for signal in ["KILL", "ABRT"] {
        let mut story = Story::new().chain(LONG).start();
        story.expect_error("its process was killed by signal");
        story.until("a run", |it| it.ledger() == ["start"]);
        let old = story.chain("long")["pid"].as_i64().unwrap();
        story.signal(signal, old);
        story.until("a replacement", |it| {
            it.chain("long")["pid"].as_i64().is_some_and(|pid| pid != old)
        });
        story.until("a run of it", |it| it.ledger().contains(&"end".to_owned()));
        // The killed run was ended: it never reached its end.
        assert_eq!(story.ledger()[..3], ["start", "start", "end"]);
        assert_eq!(story.end("TERM").code, Some(0));
    }
}

#[test]
fn term_int_and_quit_end_everything_and_quit_lets_the_run_finish() {
    for (signal, finished) in [("TERM", false), ("INT", false), ("QUIT", true)] {
        let story = Story::new().chain(LONG).start();
        story.until("a run", |it| it.ledger() == ["start"]);
        let chain = story.chain("long")["pid"].as_i64().unwrap();
        let ended = story.end(signal);
        assert_eq!(ended.code, Some(0));
        assert!(!std::path::Path::new(&format!("/proc/{chain}")).exists());
        assert_eq!(ended.ledger.contains(&"end".to_owned()), finished, "{signal}");
    }
}

#[test]
fn hup_takes_the_new_file_at_the_run_boundary_and_a_bad_one_changes_nothing() {
    let mut story = Story::new().chain(LONG).start();
    story.expect_error("upgrade refused");
    story.until("a run", |it| it.ledger() == ["start"]);
    let (master, old) = (i64::from(story.pid()), story.chain("long")["pid"].clone());
    story.write(&format!("{},", LONG.replace("echo end", "echo finished")));
    story.signal("HUP", master);
    story.until("the new task", |it| it.ledger().contains(&"finished".to_owned()));
    assert_eq!(story.ledger()[..3], ["start", "end", "start"], "the old run was to be finished");
    let status = story.status().unwrap();
    assert_eq!(status["master"]["pid"].as_i64(), Some(master));
    assert_eq!(status["master"]["generation"], 2);
    assert_ne!(story.chain("long")["pid"], old);

    let now = story.chain("long")["pid"].clone();
    story.write_text("(chains: [(usr: 1)])");
    story.signal("HUP", master);
    story.until("the refusal", |it| {
        it.status().is_some_and(|status| status["master"]["last_upgrade"]["outcome"] == "refused")
    });
    assert_eq!(story.chain("long")["pid"], now);
    story.until("the mail", |it| {
        it.subjects().iter().any(|subject| subject.starts_with("[runner] Upgrade refused: "))
    });
    assert_eq!(story.end("TERM").code, Some(0));
}

#[test]
fn a_second_start_takes_the_place_of_the_first() {
    let mut story = Story::new().chain(LONG).start();
    story.until("a run", |it| it.ledger() == ["start"]);
    let second = story.spawn();
    let first = story.wait_for_end();
    assert_eq!(first.code, Some(0));
    assert_eq!(first.ledger[..2], ["start", "end"], "the old run was to be finished");
    story.master = Some(second);
    let pid = story.pid();
    story.until("the second answers", |it| {
        it.status().is_some_and(|status| status["master"]["pid"] == pid)
    });
    assert_eq!(story.end("TERM").code, Some(0));
}

#[test]
fn what_a_run_leaves_behind_is_ended_before_the_next_one() {
    let story = Story::new()
        .chain(
            r#"(name: "leaves", kill_timeout: "300ms", tasks: [(name: "leaves",
                sh: "setsid sh -c 'trap \"\" TERM; echo $$ > {dir}/stray; while :; do sleep 1; done' & while [ ! -s {dir}/stray ]; do :; done",
                success_cooldown: "1h")])"#,
        )
        .start();
    story.until("the run is over", |it| it.chain("leaves")["state"] == "cooling");
    let stray = story.read("stray").trim().to_owned();
    assert!(!stray.is_empty());
    assert!(!std::path::Path::new(&format!("/proc/{stray}")).exists(), "{stray} is still there");
    assert_eq!(story.end("TERM").code, Some(0));
}

#[test]
fn a_pause_says_until_when_it_lasts_also_when_it_is_said_again() {
    let story = Story::new().chain(LONG).start();
    let said = |arguments: &[&str]| {
        let done = story.runnerctl(arguments);
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(said(&["pause", "long"]), "long: pauses after its run, until it is resumed\n");
    let until = said(&["pause", "long", "--for", "2h"]);
    let again = said(&["pause", "long", "--for", "4h"]);
    for line in [&until, &again] {
        assert!(line.starts_with("long: pauses after its run, until 20"), "{line}");
        assert!(line.ends_with("Z\n"), "{line}");
    }
    assert_ne!(until, again);
    assert_eq!(story.end("TERM").code, Some(0));
}
