//! What stands before a program and only says how it is run: `nice`, `nohup`, `env`, `su` and so on.

use super::draft::{Draft, base_name, text};
use super::lex::is_name;

/// Takes one word off that only changes how the rest is run.
pub(super) fn strip(argv: &mut Vec<String>, draft: &mut Draft) -> bool {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let used = match words.as_slice() {
        ["nohup" | "exec" | "setsid" | "command" | "time" | "builtin", _, ..] => 1,
        ["nice", "-n", number, ..] => nice(number, 3, draft),
        ["nice", option, ..] if option.starts_with("-n") => nice(&option[2..], 2, draft),
        ["nice", option, ..] if option.starts_with("--adjustment=") => {
            nice(&option[13..], 2, draft)
        }
        ["nice", option, ..] if option.starts_with('-') => nice(&option[1..], 2, draft),
        ["nice", _, ..] => nice("10", 1, draft),
        ["ionice", "-c", class, "-n", level, ..] => ionice(class, level, 5, draft),
        ["ionice", "-c", class, ..] => ionice(class, "4", 3, draft),
        ["ionice", class, ..] if class.starts_with("-c") => ionice(&class[2..], "4", 2, draft),
        ["timeout", time, ..] if time.starts_with(|c: char| c.is_ascii_digit()) => {
            let unit = if time.ends_with(|c: char| c.is_ascii_digit()) { "s" } else { "" };
            draft.set("timeout", text(&format!("{time}{unit}")));
            2
        }
        ["env", _, ..] => 1,
        [pair, _, ..] => match pair.split_once('=') {
            Some((name, value)) if is_name(name) => {
                draft.env.push((name.to_owned(), value.to_owned()));
                1
            }
            _ => 0,
        },
        _ => 0,
    };
    argv.drain(..used);
    used > 0
}

fn nice(number: &str, used: usize, draft: &mut Draft) -> usize {
    match number.parse::<i32>() {
        Ok(number) if (-20..=19).contains(&number) => draft.set("nice", number.to_string()),
        _ => draft.note(format!("`nice {number}` is no number from -20 to 19.")),
    }
    used
}

fn ionice(class: &str, level: &str, used: usize, draft: &mut Draft) -> usize {
    let level = level.parse::<u8>().ok().filter(|level| *level < 8).unwrap_or(4);
    match class {
        "1" | "realtime" => draft.set("ionice", format!("Realtime({level})")),
        "3" | "idle" => draft.set("ionice", "Idle".to_owned()),
        _ => draft.set("ionice", format!("BestEffort({level})")),
    }
    used
}

/// `su`, `runuser` and `sudo`: takes the user, and returns the script of `-c`, if there is one.
/// What is left in `argv` is the command.
pub(super) fn become_user(argv: &mut Vec<String>, draft: &mut Draft) -> Option<String> {
    let program = argv.first().map(|program| base_name(program))?;
    if !matches!(program.as_str(), "su" | "runuser" | "sudo") {
        return None;
    }
    let (mut script, mut user, mut login, mut at) = (None, None, false, 1);
    while at < argv.len() {
        let word = argv[at].clone();
        let value = argv.get(at + 1).cloned();
        match word.as_str() {
            "-c" | "--command" if program != "sudo" => script = value,
            "-u" | "--user" => user = value,
            "-s" | "--shell" | "-g" | "--group" => {}
            "--" => {
                at += 1;
                break;
            }
            _ if word.starts_with('-') => {
                login |= matches!(word.as_str(), "-" | "-l" | "--login" | "-i");
                at += 1;
                continue;
            }
            // The first plain word is a user for su, and for runuser unless -u named one; for sudo it
            // is the command.
            _ if program != "sudo" && user.is_none() => {
                user = Some(word);
                at += 1;
                continue;
            }
            _ => break,
        }
        at += 2;
    }
    argv.drain(..at.min(argv.len()));
    draft.user = user.or_else(|| Some("root".to_owned()));
    // sudo(8) and a login begin with a clean environment, a login at home too.
    if program == "sudo" || login {
        draft.env.clear();
        draft.path.clear();
    }
    if login {
        draft.cwd = None;
    }
    script
}
