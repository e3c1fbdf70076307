//! Lines that a logging library wrote: its level, and what was said without what stands in front of
//! it (date, host, process) or around it (JSON, logfmt, what a container's log wraps).

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The bytes of a line of JSON that is read.
const MAX_JSON: usize = 16 * 1024;

/// A line as a person reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logged<'a> {
    /// What was said, to be quoted.
    pub text: Cow<'a, str>,
    /// All of it that makes a failure this one: other fields may tell two of one text apart.
    pub whole: &'a str,
    /// Whether the library calls it an error; `None`: it does not say.
    pub error: Option<bool>,
}

/// Total on any line, linear.
pub(super) fn read(line: &str) -> Logged<'_> {
    let line = line.trim();
    if let Some(object) = object(line)
        && let Some((text, error)) = of_json(&object)
    {
        return Logged { text: Cow::Owned(text), whole: line, error };
    }
    let (line, priority) = without_priority(line);
    let (text, letter) = unstamped(line);
    let error = priority.or(letter);
    match logfmt(text) {
        Some((said, level)) => {
            Logged { text: Cow::Owned(said), whole: text, error: level.or(error) }
        }
        None => Logged { text: Cow::Borrowed(text), whole: text, error },
    }
}

/// The line of a program that a container's log wraps, as Docker's json-file does.
pub(super) fn unwrapped(line: &str) -> Option<String> {
    match object(line)?.get("log")? {
        Value::String(log) => Some(log.trim_end_matches(['\r', '\n']).to_owned()),
        _ => None,
    }
}

fn object(line: &str) -> Option<Map<String, Value>> {
    if !line.starts_with('{') || !line.ends_with('}') || line.len() > MAX_JSON {
        return None;
    }
    serde_json::from_str(line).ok()
}

fn of_json(object: &Map<String, Value>) -> Option<(String, Option<bool>)> {
    let first = |keys: &[&str]| keys.iter().find_map(|key| object.get(*key));
    let said = first(&["msg", "message", "event", "short_message", "text"])
        .and_then(Value::as_str)
        .map(first_line);
    let cause = first(&["err", "error", "exception", "reason", "cause"]).and_then(|cause| {
        let text = match cause {
            Value::Object(cause) => cause.get("message").or_else(|| cause.get("msg"))?,
            other => other,
        };
        text.as_str().map(first_line)
    });
    let text = together(said.unwrap_or_default(), cause.unwrap_or_default())?;
    let error = first(&["level", "severity", "lvl", "levelname", "log.level"]).and_then(level);
    Some((text, error))
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default().trim_end()
}

/// What was said, and why.
fn together(said: &str, cause: &str) -> Option<String> {
    match (said.is_empty(), cause.is_empty()) {
        (true, true) => None,
        (false, true) => Some(said.to_owned()),
        (true, false) => Some(cause.to_owned()),
        (false, false) if said.contains(cause) => Some(said.to_owned()),
        (false, false) => Some(format!("{said}: {cause}")),
    }
}

/// Whether a level is an error's: a word, or a number of bunyan and pino (from 10) or syslog(3).
fn level(value: &Value) -> Option<bool> {
    match value {
        Value::String(word) => level_of(word),
        Value::Number(number) => match number.as_u64()? {
            number @ 0..=7 => Some(number <= 3),
            number => Some(number >= 50),
        },
        _ => None,
    }
}

fn level_of(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "error" | "err" | "eror" | "fatal" | "critical" | "crit" | "alert" | "emerg"
        | "emergency" | "panic" | "dpanic" | "severe" => Some(true),
        "warn" | "warning" | "notice" | "info" | "information" | "debug" | "trace" => Some(false),
        _ => None,
    }
}

/// `level=error msg="…" err=…`: what is said and the level, if there is one and a message.
fn logfmt(line: &str) -> Option<(String, Option<bool>)> {
    if !line.contains("msg=") && !line.contains("message=") {
        return None;
    }
    let (mut found, mut said, mut cause) = (None, "", "");
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('=') {
        let key = before.rsplit(' ').next().unwrap_or(before);
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = end_of_quoted(quoted);
                (&quoted[..end], quoted.get(end + 1..).unwrap_or_default())
            }
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        match key {
            "level" | "lvl" | "severity" => found = level_of(value),
            "msg" | "message" => said = value,
            "err" | "error" | "reason" => cause = value,
            _ => {}
        }
        rest = next;
    }
    found?;
    let text = together(said, cause)?;
    Some((text.replace("\\\"", "\""), found))
}

/// Where the closing quote stands.
fn end_of_quoted(text: &str) -> usize {
    let mut escaped = false;
    text.char_indices()
        .find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        })
        .map_or(text.len(), |(at, _)| at)
}

/// `<3>` of sd-daemon(3).
fn without_priority(line: &str) -> (&str, Option<bool>) {
    match line.as_bytes() {
        [b'<', digit @ b'0'..=b'7', b'>', ..] => (line[3..].trim_start(), Some(*digit <= b'3')),
        _ => (line, None),
    }
}

/// A line without the date, time, host and process that a log puts in front.
fn unstamped(line: &str) -> (&str, Option<bool>) {
    if let Some(found) = of_klog(line) {
        return found;
    }
    let mut rest = of_syslog(line).unwrap_or(line);
    while let Some((word, after)) = rest.split_once(' ')
        && is_stamp(word)
    {
        rest = after.trim_start();
    }
    // A bracket around more than the time: `[DATE TIME: LEVEL/PROCESS] TEXT`.
    if line.starts_with('[')
        && let Some((head, text)) = rest.split_once("] ").filter(|_| rest.len() < line.len())
        && !head.contains('[')
        && let Some(error) = level_of(head.split(['/', ' ']).next().unwrap_or(head))
    {
        return (text.trim_start(), Some(error));
    }
    // npm puts these words in front of everything, its hints too, and Terraform draws a box.
    for before in ["npm error ", "npm ERR! ", "\u{2502} "] {
        rest = rest.strip_prefix(before).unwrap_or(rest);
    }
    (if rest.is_empty() { line } else { rest }, None)
}

fn is_stamp(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    digits >= 4 && word.chars().all(|c| c.is_ascii_digit() || "-:.,/+[]TZ".contains(c))
}

/// `Nov 24 19:01:11 HOST PROGRAM[PID]: TEXT`.
fn of_syslog(line: &str) -> Option<&str> {
    let (month, rest) = line.split_once(' ')?;
    let (day, rest) = rest.trim_start().split_once(' ')?;
    let (time, rest) = rest.split_once(' ')?;
    let is_day = (1..=2).contains(&day.len()) && day.bytes().all(|b| b.is_ascii_digit());
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if !months.contains(&month) || !is_day || time.len() < 8 || !is_stamp(time) {
        return None;
    }
    let (_host, rest) = rest.split_once(' ')?;
    let (program, text) = rest.split_once(": ")?;
    (!program.contains(' ')).then_some(text.trim_start())
}

/// `E1124 19:01:11.123456  1231 FILE.go:178] TEXT`, as Kubernetes' programs write.
fn of_klog(line: &str) -> Option<(&str, Option<bool>)> {
    let letter = *line.as_bytes().first()?;
    if !b"IWEF".contains(&letter) {
        return None;
    }
    let (head, text) = line.split_once("] ")?;
    let mut words = head[1..].split_whitespace();
    let (date, time, process, place) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let number = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    let fits = date.len() == 4 && number(date) && is_stamp(time) && number(process);
    let fits = fits && place.contains(':') && words.next().is_none();
    fits.then(|| (text, Some(b"EF".contains(&letter))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_wrote_is_read_as_a_person_does() {
        for (line, text, error) in [
            ("cannot open", "cannot open", None),
            (
                "{\"level\":\"error\",\"msg\":\"no queue\",\"err\":\"refused\"}",
                "no queue: refused",
                Some(true),
            ),
            (
                "{\"level\":50,\"err\":{\"message\":\"boom\"},\"msg\":\"no sync\"}",
                "no sync: boom",
                Some(true),
            ),
            ("{\"level\":30,\"msg\":\"done\",\"error\":null}", "done", Some(false)),
            ("{\"level\":\"info\"}", "{\"level\":\"info\"}", None),
            ("{not json}", "{not json}", None),
            (
                "time=x level=error msg=\"no \\\"image\\\"\" app=7 error=\"gone away\"",
                "no \"image\": gone away",
                Some(true),
            ),
            ("usage: msg=TEXT", "usage: msg=TEXT", None),
            ("Nov  4 19:01:11 web1 sync[121]: ERROR no lock", "ERROR no lock", None),
            ("2026-11-24 19:01:11,123 ERROR no lock", "ERROR no lock", None),
            ("[2026-11-24 19:01:11,123: ERROR/Main] no queue", "no queue", Some(true)),
            ("[2026-11-24 19:01:11 +0000] [12] [ERROR] no port", "[12] [ERROR] no port", None),
            ("May be: broken", "May be: broken", None),
            ("<3>no module", "no module", Some(true)),
            ("<6>done", "done", Some(false)),
            ("E1124 19:01:11.123456  1231 a.go:178] no pods", "no pods", Some(true)),
            ("I1124 19:01:11.1 7 a.go:1] bye", "bye", Some(false)),
            ("E is 1] no", "E is 1] no", None),
            ("", "", None),
        ] {
            let Logged { text: said, error: found, .. } = read(line);
            assert_eq!((said.as_ref(), found), (text, error), "of {line}");
        }
        assert_eq!(unwrapped("{\"log\":\"a b\\n\",\"stream\":\"stderr\"}").as_deref(), Some("a b"));
    }

    proptest::proptest! {
        #[test]
        fn any_line_can_be_read(line in ".{0,200}", tail in "[={}\":a-z \\\\]{0,60}") {
            let _ = read(&line);
            let _ = read(&format!("{line}msg=\"{tail}"));
            let _ = read(&format!("{{{tail}}}"));
        }
    }
}
