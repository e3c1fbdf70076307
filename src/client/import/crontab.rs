//! Lines of a crontab (crontab(5)). A chain knows no calendar: the period becomes a cooldown, and
//! a comment keeps what the line said.

use super::command::{interpret, statements};
use super::draft::{Draft, TaskDraft, What, base_name, text};
use super::lex::{Variables, is_name, lex};

/// Whether the text looks like such a table: most of its lines are entries, and some are.
pub(super) fn is_one(text: &str) -> bool {
    let (mut entries, mut others) = (0, 0);
    for line in text.lines().map(str::trim) {
        if schedule(line).is_some() {
            entries += 1;
        } else if !line.is_empty() && !line.starts_with('#') && assignment(line).is_none() {
            others += 1;
        }
    }
    entries > others
}

/// The chains of its lines, and what else it says. `with_user`: the sixth word is a user, as in
/// /etc/crontab; a table that says `root` there is of that kind wherever it lies.
pub(super) fn import(table: &str, with_user: bool) -> (Vec<Draft>, Vec<String>) {
    let (mut drafts, mut other, mut env) = (Vec::new(), Vec::new(), Vec::new());
    let entries = || table.lines().filter_map(|line| schedule(line.trim()));
    let with_user = with_user
        || entries().any(|(_, _, command)| command.split_whitespace().next() == Some("root"));
    for line in table.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = assignment(line) {
            env.push((name.to_owned(), value.to_owned()));
        } else if let Some((period, exact, command)) = schedule(line) {
            drafts.push(one(line, period, exact, command, with_user, &env));
        } else {
            other.push(line.to_owned());
        }
    }
    (drafts, other)
}

fn one(
    line: &str,
    period: Option<u64>,
    exact: bool,
    command: &str,
    with_user: bool,
    env: &[(String, String)],
) -> Draft {
    let mut draft = Draft::default();
    draft.note(line);
    let command = if with_user {
        let (user, command) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        draft.user = Some(user.to_owned());
        command.trim()
    } else {
        draft.note("Whose crontab was it? Put the user in.");
        draft.user = Some("nobody".to_owned());
        command
    };
    for (name, value) in env {
        match name.as_str() {
            "SHELL" => {}
            "MAILTO" if value.contains('@') => draft.note(format!(
                "MAILTO was {value}: with `mail` in the configuration, say `to: [{}]`.",
                text(value)
            )),
            "MAILTO" => {}
            _ => draft.env.push((name.clone(), value.clone())),
        }
    }
    let (command, input) = at_percent(command);
    let line = command.as_str();
    if let Some(input) = input {
        draft.note(format!("Its standard input was {input:?}; here it is /dev/null."));
    }
    let tokens = lex(line);
    let mut read = Draft::default();
    let all = statements(line, &tokens);
    let understood = matches!(all.as_slice(), [only] if interpret(only, &mut Variables::default(), &mut read))
        && matches!(read.tasks.as_slice(), [TaskDraft { what: What::Run(_), .. }])
        && !line.contains('$');
    if understood {
        draft.tasks = read.tasks;
        draft.cwd = read.cwd;
        draft.path = read.path;
        draft.env.extend(read.env);
        draft.fields = read.fields;
        draft.notes.extend(read.notes);
        draft.user = read.user.or(draft.user);
    } else {
        // It goes to the shell whole; only its name is taken from what was understood.
        let name = read.tasks.first().map(|task| task.name.clone());
        let name = name.unwrap_or_else(|| {
            let words = || {
                let dull = ["cd", "test", "sleep", "if", "then"];
                let words = line.split(['(', ')', ';', '&', '|', ' ', '\t']);
                words.filter(move |word| word.len() > 1 && !dull.contains(word))
            };
            words()
                .find(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
                .or_else(|| words().find(|word| word.starts_with('/')))
                .map_or("task".to_owned(), base_name)
        });
        draft.tasks.push(TaskDraft {
            notes: Vec::new(),
            name,
            what: What::Sh(line.to_owned()),
            fields: Vec::new(),
        });
    }
    match period {
        Some(seconds) => {
            let time = match seconds % 86_400 {
                // Not in years and months of a mean length.
                0 => format!("{}d", seconds / 86_400),
                _ => {
                    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
                }
            };
            if !exact {
                draft.note("It ran at set times; a cooldown begins when a run ends.");
            }
            draft.set("success_cooldown", text(&time));
            draft.set("fail_cooldown", text(&time));
        }
        None => draft
            .note("It ran once after a boot, or at times that are no period: choose a cooldown."),
    }
    draft
}

/// A command up to its first bare `%`, and what follows as standard input, `%` as newlines.
fn at_percent(command: &str) -> (String, Option<String>) {
    const KEPT: &str = "\u{1}";
    let kept = command.replace("\\%", KEPT);
    let back = |text: &str| text.replace(KEPT, "%");
    match kept.split_once('%') {
        Some((command, input)) => {
            (back(command).trim().to_owned(), Some(back(&input.replace('%', "\n"))))
        }
        None => (back(&kept), None),
    }
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    is_name(name.trim()).then(|| (name.trim(), value.trim().trim_matches(['"', '\''])))
}

/// The period in seconds, whether it is all that the schedule says, and the command.
fn schedule(line: &str) -> Option<(Option<u64>, bool, &str)> {
    if let Some(rest) = line.strip_prefix('@') {
        let (word, command) = rest.split_once(char::is_whitespace)?;
        let period = match word {
            "hourly" => Some(3_600),
            "daily" | "midnight" => Some(86_400),
            "weekly" => Some(7 * 86_400),
            "monthly" => Some(30 * 86_400),
            "yearly" | "annually" => Some(365 * 86_400),
            "reboot" => None,
            _ => return None,
        };
        return Some((period, false, command.trim()));
    }
    let mut rest = line;
    let mut fields = [""; 5];
    for field in &mut fields {
        let (word, after) = rest.split_once(char::is_whitespace)?;
        if !word.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-".contains(c))
            || !word
                .starts_with(|c: char| c.is_ascii_digit() || c == '*' || c.is_ascii_alphabetic())
        {
            return None;
        }
        *field = word;
        rest = after.trim_start();
    }
    if !fields[0].starts_with(|c: char| c.is_ascii_digit() || c == '*') {
        return None;
    }
    let (period, exact) = period(fields);
    Some((Some(period), exact, rest))
}

fn period([minute, hour, day, month, weekday]: [&str; 5]) -> (u64, bool) {
    let step = |field: &str| {
        // `*/2` and, from a minute on, `1-59/2`.
        let number = field.split_once('/').and_then(|(_, n)| n.parse::<u64>().ok());
        number.filter(|n| (1..=60).contains(n))
    };
    let times = |field: &str| field.split(',').count() as u64;
    let free = |field: &str| field == "*";
    if !free(month) {
        (365 * 86_400, false)
    } else if !free(day) {
        (step(day).map_or(30 * 86_400 / times(day), |days| days * 86_400), false)
    } else if !free(weekday) && !weekday.contains('-') {
        (7 * 86_400 / times(weekday), false)
    } else if let Some(hours) = step(hour) {
        (hours * 3_600, false)
    } else if !free(hour) && !hour.contains('-') {
        (86_400 / times(hour), false)
    } else if let Some(minutes) = step(minute) {
        (minutes * 60, free(hour) && free(weekday))
    } else if free(minute) {
        (60, free(hour) && free(weekday))
    } else {
        (3_600 / times(minute), false)
    }
}
