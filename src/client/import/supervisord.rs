//! `[program:NAME]` sections of a supervisord.conf.

use super::command::run;
use super::draft::{Draft, text};
use super::lex::{Token, Variables, lex};
use super::redirect::output;

/// Whether the text is such a file.
pub(super) fn is_one(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("[program:"))
}

/// The chains of its programs, and what else it says.
pub(super) fn import(file: &str) -> (Vec<Draft>, Vec<String>) {
    let mut drafts = Vec::new();
    let mut other = Vec::new();
    let all = sections(file);
    let common = all.iter().filter(|(section, _)| section == "supervisord");
    let common: Vec<(String, String)> = common
        .flat_map(|(_, keys)| keys)
        .filter(|(key, _)| key == "environment")
        .flat_map(|(_, value)| environment(value))
        .collect();
    for (section, keys) in all {
        let Some(name) = section.strip_prefix("program:") else {
            if !matches!(
                section.as_str(),
                "supervisord" | "supervisorctl" | "unix_http_server" | "inet_http_server" | ""
            ) && !section.starts_with("rpcinterface:")
            {
                other.push(format!("[{section}]"));
            }
            continue;
        };
        let said = |key: &str| keys.iter().rev().find(|(known, _)| known == key);
        let number = |key: &str| said(key).and_then(|(_, value)| value.parse::<usize>().ok());
        let (copies, first) = (number("numprocs").unwrap_or(1), number("numprocs_start"));
        for copy in (first.unwrap_or(0)..).take(copies.clamp(1, MOST_COPIES)) {
            match program(name.trim(), &keys, (copies > 1).then_some(copy), &common) {
                Some(draft) => drafts.push(draft),
                None => other.push(format!("[{section}] without a command")),
            }
        }
    }
    (drafts, other)
}

/// More processes of one program than that are a mistake.
const MOST_COPIES: usize = 100;

type Keys = Vec<(String, String)>;

fn sections(file: &str) -> Vec<(String, Keys)> {
    let mut all: Vec<(String, Keys)> = vec![(String::new(), Vec::new())];
    for line in file.lines() {
        let bare = line.split(" ;").next().unwrap_or(line).trim_end();
        if bare.trim_start().starts_with([';', '#']) || bare.trim().is_empty() {
            continue;
        }
        let Some((_, keys)) = all.last_mut() else { continue };
        if bare.starts_with([' ', '\t']) {
            if let Some((_, value)) = keys.last_mut() {
                value.push('\n');
                value.push_str(bare.trim());
            }
        } else if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            all.push((name.to_owned(), Vec::new()));
        } else if let Some((key, value)) = bare.split_once(['=', ':']) {
            keys.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all
}

/// One program, or with `copy` one of its processes: a chain runs one at a time.
fn program(
    name: &str,
    keys: &Keys,
    copy: Option<usize>,
    common: &[(String, String)],
) -> Option<Draft> {
    let number = copy.unwrap_or(0);
    let chain = copy.map_or_else(|| name.to_owned(), |copy| format!("{name}_{copy}"));
    let mut draft = Draft { name: Some(chain), ..Draft::default() };
    draft.set("success_cooldown", text("1s"));
    draft.set("fail_cooldown", text("10s"));
    draft.set("overdue", "None".to_owned());
    let mut variables = Variables::default();
    let get = |key: &str| {
        let found = keys.iter().rev().find(|(known, _)| known == key);
        found.map(|(_, value)| {
            value
                .replace("%(program_name)s", name)
                .replace("%(process_num)02d", &format!("{number:02}"))
                .replace("%(process_num)d", &number.to_string())
                .replace("%(process_num)s", &number.to_string())
                .replace("%%", "%")
        })
    };
    let command = get("command")?;
    // supervisord has quotes but no shell: what only a shell knows means itself.
    let hidden: String = command.chars().map(|c| hide(c, OPERATORS, HIDDEN)).collect();
    let argv: Vec<String> = lex(&hidden)
        .into_iter()
        .filter_map(|placed| match placed.token {
            Token::Word(parts) => Some(variables.expand(&parts)),
            _ => None,
        })
        .map(|word| word.chars().map(|c| hide(c, HIDDEN, OPERATORS)).collect())
        .collect();
    run(argv, &mut draft).then_some(())?;
    if let Some(task) = draft.tasks.first_mut() {
        task.name = name.to_owned();
    }
    draft.user = Some(get("user").unwrap_or_else(|| "root".to_owned()));
    draft.cwd = get("directory");
    let own = get("environment").map(|own| environment(&own)).unwrap_or_default();
    draft.env =
        common.iter().filter(|(name, _)| own.iter().all(|(o, _)| o != name)).cloned().collect();
    for (name, value) in own {
        // Put ahead of PATH, as here.
        match value.strip_suffix(":%(ENV_PATH)s").filter(|_| name == "PATH") {
            Some(folders) => draft.path = folders.split(':').map(str::to_owned).collect(),
            None => draft.env.push((name, value)),
        }
    }
    if let Some(file) =
        get("stdout_logfile").filter(|file| !matches!(file.as_str(), "AUTO" | "NONE"))
    {
        draft.set("output", output(&file));
    }
    if get("redirect_stderr").as_deref() != Some("true")
        && get("stderr_logfile").is_some_and(|file| !matches!(file.as_str(), "AUTO" | "NONE"))
    {
        draft.note("stderr_logfile: both streams have one place here.");
    }
    if let Some(signal) = get("stopsignal") {
        draft.set("stop_signal", text(&format!("SIG{}", signal.trim_start_matches("SIG"))));
    }
    if let Some(seconds) = get("stopwaitsecs").filter(|value| value.parse::<u32>().is_ok()) {
        draft.set("kill_timeout", text(&format!("{seconds}s")));
    }
    if let Some(mask) = get("umask") {
        draft.set("umask", text(&mask));
    }
    if let Some(codes) = get("exitcodes") {
        let codes: Vec<&str> =
            codes.split(',').map(str::trim).filter(|code| code.parse::<u8>().is_ok()).collect();
        draft.set("ok_exit", format!("[{}]", codes.join(", ")));
    }
    for (key, value) in keys {
        match key.as_str() {
            "autostart" if value == "false" => {
                draft.note("autostart=false: `runnerctl stop` it after the first start.")
            }
            "autorestart" if value == "false" => {
                draft.note("autorestart=false: a chain runs for ever; is it one?")
            }
            _ => {}
        }
    }
    let left: Vec<&str> = keys
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|key| *key != "process_name")
        .filter(|key| {
            get(key).is_some_and(|value| value.replace("%(ENV_PATH)s", "").contains("%("))
        })
        .collect();
    if !left.is_empty() {
        draft.note(format!("%(...)s is not expanded in {}.", left.join(", ")));
    }
    Some(draft)
}

/// What means something to a shell, and what stands for it meanwhile (private use of Unicode).
const OPERATORS: [char; 8] = ['(', ')', '<', '>', '&', '|', ';', '$'];
const HIDDEN: [char; 8] = [
    '\u{f8f0}', '\u{f8f1}', '\u{f8f2}', '\u{f8f3}', '\u{f8f4}', '\u{f8f5}', '\u{f8f6}', '\u{f8f7}',
];

fn hide(c: char, from: [char; 8], to: [char; 8]) -> char {
    from.iter().position(|one| *one == c).map_or(c, |at| to[at])
}

/// `A="b",C=d`.
fn environment(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, next) = match quote {
            Some(quote) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
            None => after
                .split_once(',')
                .map_or((after, ""), |(value, _)| (value, &after[value.len()..])),
        };
        pairs.push((name.trim().to_owned(), value.trim().to_owned()));
        rest = next.trim_start().trim_start_matches(',');
    }
    pairs
}
