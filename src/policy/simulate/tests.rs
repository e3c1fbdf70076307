//! The weekends that the mails were made for, and recorded runs.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::{Defaults, parse};
use crate::wire::mail::NoticeKind;

const HOUR: u64 = 3600;
const DAYS: Duration = Duration::from_secs(60 * HOUR);

fn config(chains: &str) -> Config {
    let text = format!(
        "(run_root: \"/r\", state_root: \"/s\", mail: (from: \"a@example.org\", \
         to: [\"ops@example.org\"], transport: Maildir(\"/m\")), chains: [{chains}])"
    );
    let who = Defaults { as_root: false, uid: 1, user: None, run_root: None, state_root: None };
    let loaded = parse(Path::new("/etc/runner.ron"), &text, &who);
    loaded.checked.unwrap_or_else(|| panic!("{:?}", loaded.problems)).config
}

fn one() -> Config {
    config("(name: \"c\", tasks: [(name: \"t\", run: [\"/bin/t\"], ok_exit: [0, 24])]),")
}

fn kinds(done: &Simulated) -> Vec<(i64, &'static str)> {
    done.decisions.iter().map(|d| (d.at.0 / 1000, d.kind.word())).collect()
}

fn fails(specs: &[&str]) -> Vec<FailSpec> {
    specs.iter().map(|spec| spec.parse().unwrap()).collect()
}

#[test]
fn the_weekend_of_750_mails_is_five() {
    let done = weekend(&one(), &fails(&["c/t"]), DAYS).unwrap();
    let told = [(0, "FIRST"), (12, "REACHED"), (24, "AGAIN"), (36, "AGAIN"), (48, "AGAIN")];
    assert_eq!(kinds(&done), told.map(|(hour, kind)| (hour * 3600, kind)));
    assert_eq!((done.mails.len(), done.runs, done.failed), (5, 180, 180));
}

#[test]
fn a_flapping_weekend_is_a_handful() {
    let done = weekend(&one(), &fails(&["c/t:every=2"]), DAYS).unwrap();
    assert!(done.mails.len() <= 7, "{:?}", kinds(&done));
}

#[test]
fn a_weekend_of_ever_new_messages_is_bounded() {
    let done = weekend(&one(), &fails(&["c/t:message=random"]), DAYS).unwrap();
    let first = done.decisions.iter().filter(|d| d.at.0 < 12 * 3_600_000).count();
    assert_eq!(first, 20);
    assert!(done.mails.len() <= 5 * 20 + 5, "{}", done.mails.len());
    let withheld: u64 = done.decisions.iter().map(|d| d.withheld).sum();
    assert!(withheld > 0);
}

#[test]
fn fifty_chains_that_fail_together_are_six_mails() {
    let chains: String = (0..50)
        .map(|n| format!("(name: \"c{n}\", tasks: [(name: \"t\", run: [\"/bin/t\"])]),"))
        .collect();
    let done = weekend(&config(&chains), &fails(&["*/t"]), Duration::from_secs(HOUR)).unwrap();
    assert_eq!((done.decisions.len(), done.mails.len()), (50, 6));
    assert_eq!(done.mails[5].mail.subject, "[runner] 45 notices");
    assert_eq!(done.mails[5].at, Timestamp(60_000));
}

#[test]
fn ten_deploys_in_a_row_are_ten_mails() {
    let mut text = String::new();
    for deploy in 0..10 {
        text += &format!("{{\"at\": {}, \"upgrade\": true}}\n", deploy * 60);
        text += &format!(
            "{{\"at\": {}, \"chain\": \"c\", \"task\": \"t\", \"seconds\": 1.5, \"outcome\": \"exit 1\", \"stderr\": \"no such table\"}}\n",
            deploy * 60 + 5
        );
    }
    let done = replay(&one(), &text).unwrap();
    assert_eq!(done.decisions.len(), 10);
    assert!(done.decisions.iter().all(|d| d.kind == NoticeKind::First));
    assert_eq!(done.decisions[1].at, Timestamp(66_500));
    assert_eq!(done.decisions[0].subject, "[t] First exception caught: no such table");
}

#[test]
fn at_is_the_start_of_a_run() {
    let line = |at: f64, seconds: f64, outcome: &str| {
        format!(
            "{{\"at\": {at}, \"chain\": \"c\", \"task\": \"t\", \"seconds\": {seconds}, \"outcome\": \"{outcome}\"}}\n"
        )
    };
    let text = line(0.0, 46_800.0, "exit 24") + "\n" + &line(50_000.0, 10.0, "timeout");
    let done = replay(&one(), &text).unwrap();
    assert_eq!(kinds(&done), [(43_200, "OVERDUE"), (46_800, "HEALED"), (50_010, "FIRST")]);
    assert_eq!(done.decisions[2].subject, "[t] First exception caught: timeout");
    // In the order of their ends they say the same.
    let mixed = line(50_000.0, 10.0, "timeout") + &line(0.0, 46_800.0, "exit 24");
    assert_eq!(kinds(&replay(&one(), &mixed).unwrap()), kinds(&done));
    // The limit is exact.
    let late = |end: f64| line(1e9, 100.0, "exit 1") + &line(1e9 + 43_200.0 - 5.0, end, "exit 1");
    assert_eq!(replay(&one(), &late(4.999)).unwrap().decisions.len(), 1);
    assert_eq!(replay(&one(), &late(5.0)).unwrap().decisions.len(), 2);
}

#[test]
fn a_line_that_cannot_be_used_is_told_with_its_number() {
    let good =
        "{\"at\": 1, \"chain\": \"c\", \"task\": \"t\", \"outcome\": \"exit 0\", \"more\": 1}\n\n";
    for (bad, why) in [
        (
            "{\"at\": 2, \"chain\": \"d\", \"task\": \"t\", \"outcome\": \"exit 0\"}",
            "line 3: no chain \"d\"",
        ),
        (
            "{\"at\": 2, \"chain\": \"c\", \"task\": \"u\", \"outcome\": \"exit 0\"}",
            "line 3: chain \"c\" has no task \"u\"",
        ),
        (
            "{\"at\": 2, \"chain\": \"c\", \"task\": \"t\", \"outcome\": \"exit 300\"}",
            "line 3: unknown outcome",
        ),
        ("{\"at\": 2, \"chain\": \"c\", \"task\": \"t\"}", "line 3: a run has no \"outcome\""),
        (
            "{\"at\": 2, \"chain\": \"c\", \"task\": \"t\", \"outcome\": \"exit 0\", \"seconds\": -1}",
            "line 3: a run cannot take -1 seconds",
        ),
        ("{\"at\": 1e300, \"upgrade\": true}", "line 3: \"at\" is no time"),
        ("{\"at\": 2, \"upgrade\": false}", "line 3: a run has no \"chain\""),
        ("nonsense", "line 3: cannot read a recorded run"),
        ("{\"chain\": \"c\"}", "line 3: cannot read a recorded run: missing field `at`"),
    ] {
        let error = replay(&one(), &format!("{good}{bad}\n")).unwrap_err();
        assert!(error.starts_with(why), "{error}");
    }
    assert_eq!(replay(&one(), "").unwrap().decisions, []);
}

#[test]
fn a_recorded_run_of_a_thousand_years_is_refused_before_it_fills_the_memory() {
    let line = |at: f64, seconds: f64| {
        format!(
            "{{\"at\": {at}, \"chain\": \"c\", \"task\": \"t\", \"seconds\": {seconds}, \"outcome\": \"exit 1\"}}\n"
        )
    };
    let error = replay(&one(), &(line(0.0, 1.0) + "\n" + &line(9.0, 9e11))).unwrap_err();
    let words = "line 3: more than 100020 reminders fall due on the way here; \
                 cut the recording, or raise remind_every";
    assert_eq!(error, words);
    let years = replay(&one(), &(line(0.0, 1.0) + &line(9.0, 3e8))).unwrap();
    assert!((6_000..8_000).contains(&years.decisions.len()), "{}", years.decisions.len());
}

#[test]
fn what_is_to_fail_must_be() {
    for (spec, why) in [
        ("c", "write CHAIN/TASK"),
        ("c/t:every=0", "N is a whole number"),
        ("c/t:often", "write CHAIN/TASK"),
        ("/t", "write CHAIN/TASK"),
    ] {
        let error = spec.parse::<FailSpec>().unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let error = weekend(&one(), &fails(&["d/t"]), DAYS).unwrap_err();
    assert_eq!(error, "cannot fail \"d\": no such chain in the configuration");
    let error = weekend(&one(), &fails(&["c/u"]), DAYS).unwrap_err();
    assert_eq!(error, "cannot fail \"u\": chain c has no such task");
}

#[test]
fn what_a_history_writes_is_read_again() {
    let config = one();
    let done = |text: &str| kinds(&replay(&config, text).unwrap());
    let text: String = (0..30)
        .map(|n| {
            let (outcome, said) =
                if n % 3 == 0 { ("exit 0", "") } else { ("exit 1", "no such table: x\n") };
            format!(
                "{}\n",
                serde_json::json!({
                    "at": 1_700_000_000 + n * 7200, "chain": "c", "task": "t", "seconds": 0.25,
                    "outcome": outcome, "stderr": said,
                })
            )
        })
        .collect();
    let mut stage = Stage::new(&config, Timestamp(0), 0);
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let at = value["at"].as_i64().unwrap() * 1000;
        let outcome: Outcome = value["outcome"].as_str().unwrap().parse().unwrap();
        let run = Run {
            number: 1,
            chain: "c",
            task: "t",
            started: Timestamp(at),
            ended: Timestamp(at + 250),
            success: outcome == Outcome::Exit(0),
            outcome,
            count: 1,
            stderr: value["stderr"].as_str().unwrap(),
        };
        stage.advance(run.started);
        stage.start(&run);
        stage.advance(run.ended);
        stage.end(&run);
    }
    let written: String = stage.desk.history("c").iter().map(|row| format!("{row}\n")).collect();
    assert_eq!(done(&written), done(&text));
    assert!(done(&text).len() > 2);
}
