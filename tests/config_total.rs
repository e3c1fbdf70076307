//! Any text gives a configuration or problems, never a panic; and our reader agrees with ron.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use runner::config::{self, MAX_FILE};

#[allow(dead_code, unreachable_pub)]
#[path = "../fuzz/src/lib.rs"]
mod properties;

use properties::configuration::load;

/// Whatever it was: a configuration or an error, every place inside its file, a text that a
/// terminal may see.
fn sound(bytes: &[u8]) {
    properties::check("config", bytes);
}

const GOOD: &str = r##"#![enable(implicit_some)]
// A file with everything in it.
(
    run_root: "/run/runner", kill_concurrent: true, control_group: "adm", include: ["conf.d/*.ron"],
    mail: (from: "a@example.org", to: ["b@example.org"], limit: (mails: 3, per: "1h"),
        transport: Smtp(host: "h", port: 587, security: StartTls, username: "u", password_file: "/p")),
    log: (level: Debug, format: Json, to: File("/l"), rotate: (max_size: "1MiB", keep: 3)),
    defaults: (user: "bin", umask: 0o022, env: { "A": "x\ty", "B": r#"raw"# }),
    chains: [
        ( nice: -5, ionice: BestEffort(7), output: Lines("/o"), rlimits: { "CORE": (soft: 0, hard: Unlimited) },
          tasks: [ (name: "a", run: ["true", "'", "ü"], timeout: "1m"), /* c */ (name: "b", sh: "x", timeout: None) ] ),
    ],
)
"##;

#[test]
fn the_good_file_is_good() {
    let loaded = load(GOOD.as_bytes());
    assert_eq!(config::render(&loaded.problems, &loaded.sources, false), "");
}

#[test]
fn every_beginning_of_a_file_is_told_and_only_the_whole_is_accepted() {
    let whole = GOOD.trim_end().len();
    for end in 0..whole {
        let bytes = &GOOD.as_bytes()[..end];
        sound(bytes);
        assert!(load(bytes).checked.is_none(), "{end}");
    }
}

#[test]
fn every_byte_may_be_lost() {
    for at in 0..GOOD.len() {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.remove(at);
        sound(&bytes);
    }
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let loaded = load(&vec![b' '; MAX_FILE + 1]);
    assert_eq!(loaded.problems[0].message, "the file is too large");
}

#[test]
fn a_mebibyte_of_anything_is_told_in_a_few_lines() {
    for unit in ["(", "[", "\"", "x ", "a: 1, ", "\n", ",", "'", "/*", "{\"a\":", "\u{a0}", "#\n"] {
        let text = format!("({}", unit.repeat((1 << 20) / unit.len()));
        let loaded = load(text.as_bytes());
        assert!(loaded.checked.is_none(), "{unit:?}");
        let told = config::render(&loaded.problems, &loaded.sources, false);
        assert!(told.lines().count() < 400 && told.len() < 100_000, "{unit:?}: {}", told.len());
    }
}

/// Pieces that files are made of, in an order that makes no sense.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("("),
        Just(")"),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just(":"),
        Just("="),
        Just("\""),
        Just("'"),
        Just("r#\""),
        Just("\"#"),
        Just("//"),
        Just("\n"),
        Just("/*"),
        Just("*/"),
        Just(" "),
        Just("\t"),
        Just("Some("),
        Just("None"),
        Just("chains: ["),
        Just("tasks: ["),
        Just("name: \"a\""),
        Just("run: [\"x\"]"),
        Just("user: \"bin\""),
        Just("env: {"),
        Just("mail: ("),
        Just("15m"),
        Just("-1"),
        Just("0x"),
        Just("b'x'"),
        Just("b\""),
        Just("#![enable("),
        Just("“"),
        Just("\u{a0}"),
        Just("\u{202e}"),
        Just("\\"),
        Just("🦀"),
        Just("\r"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Values as the ron crate writes them.
fn value() -> impl Strategy<Value = ron::Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(ron::Value::Bool),
        any::<i64>().prop_map(|n| ron::Value::Number(n.into())),
        ".{0,12}".prop_map(ron::Value::String),
        any::<char>().prop_map(ron::Value::Char),
        Just(ron::Value::Unit),
        Just(ron::Value::Option(None)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(ron::Value::Seq),
            inner.clone().prop_map(|value| ron::Value::Option(Some(Box::new(value)))),
            proptest::collection::vec(("[a-z]{1,4}".prop_map(ron::Value::String), inner), 0..6)
                .prop_map(|entries| ron::Value::Map(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_told(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        sound(&bytes);
    }

    #[test]
    fn any_text_is_told(text in "\\PC{0,80}") {
        sound(text.as_bytes());
    }

    #[test]
    fn any_pieces_are_told(text in pieces()) {
        sound(text.as_bytes());
        sound(format!("({text})").as_bytes());
    }

    /// What the ron crate writes, our reader follows to the end: the only complaint is about
    /// fields, never about syntax.
    #[test]
    fn what_ron_writes_is_followed(value in value(), pretty in any::<bool>()) {
        let text = if pretty {
            ron::ser::to_string_pretty(&value, ron::ser::PrettyConfig::default()).unwrap()
        } else {
            ron::to_string(&value).unwrap()
        };
        // A NUL is refused before anything is read.
        prop_assume!(!text.contains('\0'));
        let loaded = load(format!("(unknown: {text}, chains: [])").as_bytes());
        let messages: Vec<&str> = loaded.problems.iter().map(|p| p.message.as_str()).collect();
        prop_assert_eq!(messages, ["the configuration has no field `unknown`"], "{}", text);
    }
}
