//! The manuals say what the programs do: every verb, option and field has its place in them, with
//! what it takes and what holds without it; the examples are configurations that are accepted;
//! mandoc and groff have nothing to complain about.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use runner::config::model::Config;
use runner::config::{Defaults, FIELDS, Field, Section, parse};

fn page(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

const PAGES: [&str; 5] =
    ["runner.8", "runner-master.8", "runnerctl.8", "runner.ron.5", "runner-worker.7"];

/// mdoc source as the text that it means, as far as these pages use it.
fn plain(text: &str) -> String {
    text.replace("\\(dq", "\"").replace("\\e", "\\").replace("\\&", "")
}

/// The section of runner.ron(5) for a section of the configuration.
fn heading(section: Section) -> &'static str {
    match section {
        Section::Mail => "MAIL",
        Section::Limit => "LIMIT",
        Section::Smtp => "SMTP",
        Section::Log => "LOG",
        Section::Rotate => "ROTATE",
        Section::Chain => "CHAINS",
        Section::Task => "TASKS",
        Section::Rlimit => "RLIMITS",
        _ => "THE FILE",
    }
}

/// (section, field) → the lines of its item.
fn items() -> BTreeMap<(String, String), Vec<String>> {
    let (mut items, mut section, mut field) = (BTreeMap::new(), String::new(), None);
    for line in page("runner.ron.5").lines() {
        if let Some(name) = line.strip_prefix(".Sh ") {
            section = name.trim_matches('"').to_owned();
            field = None;
        } else if let Some(name) = line.strip_prefix(".It Ic ") {
            field = Some(name.to_owned());
        } else if line == ".El" {
            field = None;
        } else if let Some(field) = &field {
            let lines: &mut Vec<String> =
                items.entry((section.clone(), field.clone())).or_default();
            lines.push(plain(line));
        }
    }
    items
}

#[test]
fn every_field_is_described_with_what_it_takes_its_default_and_an_example() {
    let mut items = items();
    for field in FIELDS {
        let key = (heading(field.section).to_owned(), field.name.to_owned());
        let lines = items.remove(&key).unwrap_or_else(|| panic!("{key:?} is not in runner.ron(5)"));
        let text = lines.join(" ");
        let written = |text: &str| text.replace('…', "...").replace("\\\"", "\"");
        let takes = format!("Takes {}", written(field.takes));
        assert!(text.starts_with(&takes), "{key:?} should begin {takes:?}: {text}");
        let default = match field.default {
            "required" => "; required.".to_owned(),
            "one of run, sh and call is required" => ".".to_owned(),
            default => format!("; default {}.", written(default)),
        };
        assert!(text[takes.len()..].starts_with(&default), "{key:?}, {default:?}: {text}");
        assert!(lines.iter().any(|line| line.starts_with(".Dl ")), "{key:?} has no example");
    }
    assert!(items.is_empty(), "runner.ron(5) describes what does not exist: {:?}", items.keys());
}

/// An example of a field as a whole configuration.
fn around(section: Section, field: &str, example: &str) -> String {
    let mail = "from: \"a@example.org\", to: [\"b@example.org\"],";
    let maildir = "transport: Maildir(\"/m\"),";
    let task = "tasks: [(run: [\"true\"])],";
    let inner = match section {
        Section::Mail => {
            let rest: String = [
                ("from", "from: \"a@example.org\","),
                ("to", "to: [\"b@example.org\"],"),
                ("transport", maildir),
            ]
            .iter()
            .filter(|(name, _)| *name != field)
            .map(|(_, text)| *text)
            .collect();
            format!("mail: ({rest} {example}),")
        }
        Section::Limit => format!("mail: ({mail} {maildir} limit: ({example})),"),
        Section::Smtp => {
            let host = if field == "host" { "" } else { "host: \"h\"," };
            let pair = match field {
                "username" => "password_file: \"/p\",",
                "password_file" => "username: \"u\",",
                _ => "",
            };
            format!("mail: ({mail} transport: Smtp({host} {pair} {example})),")
        }
        Section::Log => format!("log: ({example}),"),
        Section::Rotate => format!("log: (rotate: ({example})),"),
        Section::Chain if field == "tasks" => format!("chains: [({example})],"),
        Section::Chain
            if matches!(
                field,
                "max_runs" | "max_rss" | "isolation" | "ready_timeout" | "worker"
            ) =>
        {
            let worker = if field == "worker" { "" } else { "worker: Python(\"/p\")," };
            format!("chains: [({worker} {example} tasks: [(call: \"a.b\")])],")
        }
        Section::Chain => format!("chains: [({example} {task})],"),
        Section::Task if field == "call" => {
            format!("chains: [(worker: Python(\"/p\"), tasks: [({example})])],")
        }
        Section::Task if field == "sh" => {
            format!("chains: [(tasks: [(name: \"a\", {example})])],")
        }
        Section::Task if field == "run" => {
            format!("chains: [(tasks: [({example})])],")
        }
        Section::Task => format!(
            "{}chains: [(tasks: [({example} run: [\"true\"])])],",
            if field == "to" { format!("mail: ({mail} {maildir}),") } else { String::new() }
        ),
        Section::Rlimit => format!("chains: [(rlimits: {{ {example} }}, {task})],"),
        _ => example.to_owned(),
    };
    let root =
        |name: &str| if field == name { String::new() } else { format!("{name}: \"/{name}\",") };
    format!("({} {} {inner})", root("run_root"), root("state_root"))
}

#[test]
fn every_example_is_accepted() {
    let who = Defaults {
        as_root: true,
        uid: 0,
        user: Some("root".to_owned()),
        run_root: None,
        state_root: None,
    };
    let items = items();
    for field in FIELDS {
        let lines = &items[&(heading(field.section).to_owned(), field.name.to_owned())];
        let example = lines.iter().find_map(|line| line.strip_prefix(".Dl ")).unwrap();
        let mut text = around(field.section, field.name, example);
        if !text.contains("user: ")
            || field.section == Section::Mail
            || field.section == Section::Log
        {
            text = format!("(defaults: (user: \"shop\"), {}", &text[1..]);
        }
        if field.name == "defaults" {
            text = text.replacen("defaults: (user: \"shop\"), ", "", 1);
            text = text.replace("defaults: (", "defaults: (user: \"shop\", ");
        }
        let loaded = parse(Path::new("/etc/runner/runner.ron"), &text, &who);
        let told: Vec<&str> = loaded.problems.iter().map(|p| p.message.as_str()).collect();
        assert!(loaded.checked.is_some(), "{text}\n{told:?}");
    }
}

#[test]
fn every_verb_and_option_of_runnerctl_is_described_and_no_other() {
    let text = page("runnerctl.8");
    let described: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix(".It Ic ")).collect();
    let mut verbs = Vec::new();
    for verb in runner::client::cli::Cli::command().get_subcommands() {
        let name = verb.get_name().to_owned();
        let below: Vec<&clap::Command> = verb.get_subcommands().collect();
        if below.is_empty() {
            verbs.push((name, verb.clone()));
        } else {
            verbs.extend(
                below.into_iter().map(|one| (format!("{name} {}", one.get_name()), one.clone())),
            );
        }
    }
    for (name, verb) in &verbs {
        let is_it = |line: &&&str| **line == name || line.starts_with(&format!("{name} "));
        // A verb with two forms has two lines.
        let line = described.iter().filter(is_it).copied().collect::<Vec<&str>>().join(" ");
        assert!(!line.is_empty(), "{name} is not described");
        for argument in verb.get_arguments().filter(|argument| !argument.is_global_set()) {
            let Some(long) = argument.get_long().filter(|long| *long != "help") else {
                let value = argument.get_id().as_str().trim_end_matches('s').to_uppercase();
                assert!(
                    line.contains(&format!("Ar {value}")),
                    "{name} should name {value}: {line}"
                );
                continue;
            };
            assert!(line.contains(&format!("Fl -{long}")), "{name} should name --{long}: {line}");
        }
        for option in line.split("Fl -").skip(1) {
            let option = option.split([' ', '=']).next().unwrap_or_default();
            let has = verb.get_arguments().any(|argument| argument.get_long() == Some(option));
            assert!(has, "{name} has no --{option}");
        }
    }
    for line in described {
        let known =
            verbs.iter().any(|(name, _)| line == name || line.starts_with(&format!("{name} ")));
        assert!(known, "there is no verb {line:?}");
    }
    for option in ["-config", "-run-root", "-help", "-version"] {
        let described =
            text.lines().any(|line| line.starts_with(".It Fl") && line.contains(option));
        assert!(described, "{option} is not described");
    }
}

#[test]
fn every_option_of_runner_master_is_described() {
    let help = Command::new(env!("CARGO_BIN_EXE_runner-master")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let text = page("runner-master.8");
    for word in help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        if let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) {
            let described = text.lines().any(|line| {
                line.starts_with(".It Fl")
                    && line.split(' ').any(|word| word == format!("-{option}"))
            });
            assert!(described, "--{option} is not in runner-master(8)");
        }
    }
}

#[test]
fn the_formatters_have_nothing_to_complain_about() {
    // Both are packages of that name.
    for program in ["mandoc", "groff"] {
        if Command::new(program).arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
            eprintln!("skipped: {program} is not installed");
            return;
        }
    }
    for name in PAGES {
        let lint = Command::new("mandoc")
            .args(["-T", "lint", name])
            .current_dir(folder())
            .output()
            .unwrap();
        let told = String::from_utf8(lint.stdout).unwrap();
        // Whether other pages are installed says nothing about these.
        let told: Vec<&str> =
            told.lines().filter(|line| !line.contains("referenced manual not found")).collect();
        assert!(told.is_empty(), "{told:#?}");
        let groff = Command::new("groff")
            .args(["-ww", "-mdoc", "-Tutf8", "-z", name])
            .current_dir(folder())
            .output()
            .unwrap();
        assert!(groff.stderr.is_empty(), "{}", String::from_utf8_lossy(&groff.stderr));
    }
}

#[test]
fn whole_configurations_in_the_manuals_are_accepted() {
    let who = Defaults {
        as_root: true,
        run_root: Some("/r".into()),
        state_root: Some("/s".into()),
        ..Defaults::default()
    };
    let mut seen = 0;
    for name in ["runner.8", "runner.ron.5", "runner-worker.7"] {
        for block in page(name).split(".Bd -literal -offset indent\n").skip(1) {
            let block = plain(block.split(".Ed").next().unwrap());
            if !block.starts_with("(\n") {
                continue;
            }
            let chain = block.trim_end().ends_with("),");
            let text = if chain { format!("(mail: None, chains: [{block}])") } else { block };
            let loaded = parse(Path::new("/etc/runner/runner.ron"), &text, &who);
            let told: Vec<&str> = loaded.problems.iter().map(|p| p.message.as_str()).collect();
            assert!(loaded.checked.is_some(), "{name}: {text}\n{told:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

/// What a configuration with one field comes to: none if it is refused.
fn with_field(section: Section, field: &str, text: &str) -> Option<Config> {
    let mut text = around(section, field, text);
    if field != "defaults" && !(section == Section::Chain && field == "user") {
        text = format!("(defaults: (user: \"shop\"), {}", &text[1..]);
    }
    let who = Defaults { as_root: true, uid: 0, ..Defaults::default() };
    parse(Path::new("/etc/runner/runner.ron"), &text, &who).checked.map(|checked| checked.config)
}

/// RON of what a field has where nothing says it, as the manual has it; none where it is not a value.
fn default_in_ron(field: &Field) -> Option<String> {
    let written = field.default.split(':').next().unwrap_or_default();
    match field.default {
        "required" | "one of run, sh and call is required" => None,
        // Of the machine, of other fields, or of who starts it: told by tests of their own.
        _ if field.section == Section::File && field.name.ends_with("_root") => None,
        "as hard" | "as soft" | "mail.to" | "state_root/spool" => None,
        "the user's own" | "the user's home" => Some("None".to_owned()),
        "587 with StartTls, 465 with Tls, 25 with None" => Some("587".to_owned()),
        "\"runner-mail\" as root, else Current" => Some("\"runner-mail\"".to_owned()),
        "\"runner-log\" as root, else Current" => Some("\"runner-log\"".to_owned()),
        "required as root, else Current" => None,
        "the tasks' names joined by \"_\"" | "the program's name, or the last part of call" => {
            Some("\"true\"".to_owned())
        }
        "as non_recoverable_downtime" => Some("\"12h\"".to_owned()),
        // A text with a unit stands in quotes.
        _ if written.starts_with(|c: char| c.is_ascii_digit())
            && written.ends_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            Some(format!("\"{written}\""))
        }
        default if default.starts_with('(') => Some(default.to_owned()),
        _ => Some(written.to_owned()),
    }
}

#[test]
fn every_default_of_the_manual_is_what_holds_where_nothing_is_said() {
    let mut tried = 0;
    for field in FIELDS {
        let Some(default) = default_in_ron(field) else { continue };
        // Of a pair neither stands alone.
        if field.section == Section::Rlimit
            || ["username", "password_file", "worker"].contains(&field.name)
        {
            continue;
        }
        let said = with_field(field.section, field.name, &format!("{}: {default},", field.name));
        let unsaid = with_field(field.section, field.name, "");
        assert!(said.is_some(), "{:?} {}: {default} is refused", field.section, field.name);
        // The kernel's own policy is the same, said or not; what a task says is noted.
        let mark = format!("said: [{:?}]", field.name);
        let same = |config: Option<Config>| {
            format!("{config:?}")
                .replace("scheduler: Some(Other)", "scheduler: None")
                .replace(&mark, "said: []")
        };
        assert_eq!(same(said), same(unsaid), "{:?} {}: {default}", field.section, field.name);
        tried += 1;
    }
    assert!(tried > 45, "only {tried}");
}

/// Whether the field takes the value.
fn takes(field: &Field, value: &str) -> bool {
    with_field(field.section, field.name, &format!("{}: {value},", field.name)).is_some()
}

#[test]
fn every_range_of_the_manual_is_the_one_that_is_held_to() {
    let mut tried = 0;
    for field in FIELDS.iter().filter(|field| field.section != Section::Rlimit) {
        let has = |value: &str, accepted: bool| {
            let place = (field.section, field.name, value);
            assert_eq!(takes(field, value), accepted, "{place:?}: Takes {}", field.takes);
        };
        tried += 1;
        let number = |text: &str| text.parse::<i64>().unwrap();
        match field.takes.split_once(", ") {
            Some(("number", range)) => {
                let (low, high) = range.split_once(" to ").unwrap_or((range, ""));
                let low = number(low.trim_start_matches("at least "));
                has(&low.to_string(), true);
                has(&(low - 1).to_string(), false);
                if !high.is_empty() {
                    has(high, true);
                    has(&(number(high) + 1).to_string(), false);
                }
                has("\"1\"", false);
            }
            Some(("duration", "more than 0")) => {
                has("\"0s\"", false);
                has("\"1ms\"", true);
                has("1", false);
            }
            Some(("duration", "at least 1m")) => {
                has("\"59s\"", false);
                has("\"60s\"", true);
            }
            Some(("size", "at least 4KiB")) => {
                has("4095", false);
                has("\"4KiB\"", true);
            }
            None if field.takes == "duration" => {
                has("\"0s\"", true);
                has("\"-1s\"", false);
            }
            None if field.takes == "true or false" => {
                has("true", true);
                has("false", true);
                has("\"true\"", false);
            }
            Some(("list of exit codes", "0 to 255")) => {
                has("[0, 255]", true);
                has("[256]", false);
                has("[-1]", false);
            }
            Some(("[A-Za-z0-9._-]", _)) => {
                has(&format!("\"{}\"", "a".repeat(100)), true);
                has(&format!("\"{}\"", "a".repeat(101)), false);
                has("\"a+b\"", false);
            }
            _ if field.takes == "octal text or number" => {
                has("\"777\"", true);
                has("\"1000\"", false);
                has("0o22", true);
            }
            // Words: each of them is taken.
            _ if field.takes.contains(" or ") && field.takes.starts_with(char::is_uppercase) => {
                for word in field.takes.replace(" or ", ", ").split(", ") {
                    if word == "duration" {
                        has("\"1s\"", true);
                        continue;
                    }
                    let value = word.replace('…', "\"x\"");
                    let (low, high) = match word
                        .split_once('(')
                        .and_then(|(_, rest)| rest.trim_end_matches(')').split_once(" to "))
                    {
                        Some((low, high)) => (number(low), number(high)),
                        None if word.chars().all(char::is_alphanumeric) => {
                            has(word, true);
                            has(&format!("{word}(1)"), false);
                            continue;
                        }
                        None => continue,
                    };
                    let name = value.split('(').next().unwrap();
                    for (at, accepted) in
                        [(low, true), (high, true), (low - 1, false), (high + 1, false)]
                    {
                        has(&format!("{name}({at})"), accepted);
                    }
                }
            }
            _ => tried -= 1,
        }
    }
    assert!(tried >= 39, "only {tried}");
}
