//! A corpus of what real programs print: the same fault with other values has one identity,
//! other faults have others, and the message is the line that a person would quote.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// Collected from Debian 12's interpreters and tools: every fault at least twice, with other
/// values where it has any.
const CORPUS: &str = include_str!("../../../tests/data/fingerprints/corpus.jsonl");

#[derive(Deserialize)]
struct Case {
    group: String,
    outcome: String,
    message: String,
    stderr: String,
}

fn corpus() -> Vec<(Case, Finding)> {
    let case = |line: &str| -> (Case, Finding) {
        let case: Case = serde_json::from_str(line).unwrap();
        let finding = of(&case.outcome.parse().unwrap(), case.stderr.as_bytes());
        (case, finding)
    };
    CORPUS.lines().map(case).collect()
}

#[test]
fn the_same_fault_is_the_same_and_others_are_others() {
    let corpus = corpus();
    let mut wrong = Vec::new();
    let mut pairs = (0, 0);
    for (place, (case, finding)) in corpus.iter().enumerate() {
        for (other, found) in &corpus[..place] {
            let same = case.group == other.group;
            *(if same { &mut pairs.0 } else { &mut pairs.1 }) += 1;
            if same != (finding.fingerprint == found.fingerprint) {
                wrong.push(format!(
                    "{} / {}: {:?} / {:?}",
                    case.group, other.group, finding.message, found.message
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong pairs:\n{}", wrong.len(), wrong.join("\n"));
    assert!(pairs.0 >= 100 && pairs.1 >= 100, "the corpus is small: {pairs:?}");
}

#[test]
fn the_message_is_what_a_person_would_quote() {
    let mut wrong = BTreeMap::new();
    for (case, finding) in corpus() {
        if case.message != finding.message {
            wrong.insert(format!("{}: {:?}", case.group, finding.message), case.message);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn exit(stderr: &str) -> Finding {
    of(&Outcome::Exit(1), stderr.as_bytes())
}

#[test]
fn the_line_that_tells_is_often_not_the_last() {
    let disk = exit("write: No space left on device\nJob failed, see the log above.\n");
    let quota = exit("write: Disk quota exceeded\nJob failed, see the log above.\n");
    assert_ne!(disk.fingerprint, quota.fingerprint);
    assert_eq!(disk.message, "write: No space left on device");
    let again =
        exit("writing 77 rows\nwrite: No space left on device\nJob failed, see the log above.\n");
    assert_eq!(disk.fingerprint, again.fingerprint);
    let traced = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\nKeyError: 'x'\n";
    let ended = exit(&format!("{traced}backup: job failed\n"));
    assert_eq!(ended.fingerprint, exit(traced).fingerprint);
    assert_eq!(ended.message, "KeyError: 'x'");
}

#[test]
fn the_outcome_is_part_of_it_and_stands_for_an_empty_error() {
    let said = |outcome: &str, text: &str| of(&outcome.parse().unwrap(), text.as_bytes());
    assert_ne!(said("exit 1", "no").fingerprint, said("exit 2", "no").fingerprint);
    assert_eq!(said("exit 3", " \n\n").message, "exit 3");
    assert_eq!(said("signal 9", "").message, "signal 9");
    // Progress is no error: a run that was ended at another place is the same fault.
    let ended = said("timeout", "step one\nstep two: copying\n");
    assert_eq!(ended, said("timeout", "step one\n"));
    assert_eq!(ended.message, "timeout");
    assert_eq!(said("timeout", "cannot reach db\n").message, "timeout: cannot reach db");
}

#[test]
fn a_traceback_without_its_begin_is_one_still() {
    let frames = "  File \"/srv/a.py\", line 9, in f\n    g(x)\nValueError: no good value\n";
    let whole = exit(&format!("Traceback (most recent call last):\n{frames}"));
    assert_eq!(whole, exit(&format!("lf.cut_off()\n{frames}")));
    assert_eq!(whole.message, "no good value");
}

#[test]
fn the_seed_s_own_failure() {
    let text = "Traceback (most recent call last):\n  File \"tasks.py\", line 5, in divide_by_zero\n    1/0\nZeroDivisionError: integer division or modulo by zero\n";
    assert_eq!(exit(text).message, "integer division or modulo by zero");
}

#[test]
fn a_line_of_a_mebibyte_takes_no_time() {
    for piece in
        ["a", "a.", "a:", "1-", "/tmp/", "at ", "panic: ", "File \"", "\u{1b}]", "é", "tmp"]
    {
        let finding = exit(&piece.repeat((1 << 20) / piece.len()));
        assert!(finding.message.len() <= MAX_MESSAGE);
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_give_a_safe_bounded_message(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
        let finding = of(&Outcome::Exit(1), &bytes);
        proptest::prop_assert!(!finding.message.is_empty() && finding.message.len() <= MAX_MESSAGE);
        proptest::prop_assert!(finding.message.chars().all(safe::is_shown));
        proptest::prop_assert_eq!(finding.fingerprint.len(), 16);
    }

    #[test]
    fn any_text_of_traces_gives_a_finding(parts in proptest::collection::vec(0_usize..16, 0..40)) {
        const PARTS: [&str; 16] = [
            "Traceback (most recent call last):\n", "  File \"x\", line 3, in f\n", "    code\n",
            "ValueError: x\n", "\n", "  + Exception Group Traceback (most recent call last):\n",
            "  | ValueError: y\n", "    at f (x.js:1:2)\n", "Caused by: a.B: c\n", "panic: x\n",
            "goroutine 1 [running]:\n", "\tx.go:3 +0x1\n", "a.rb:1:in `f': x (E)\n",
            "thread 'main' panicked at x.rs:1:2:\n", "PHP Fatal error:  Uncaught E: x in y:1\n",
            "Next E: x in y\n",
        ];
        let text: String = parts.iter().map(|part| PARTS[*part]).collect();
        proptest::prop_assert!(!exit(&text).message.is_empty());
    }
}
