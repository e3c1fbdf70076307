//! The identity of a failure: the same fault with other values is the same, another fault is not.
//!
//! It is made of the outcome (exit code, signal, timeout, cannot start) and of what standard error
//! said: for a stack trace of a known language its exceptions, messages and frames (`python`,
//! `frames`, `native`), else the lines that carry the error (`plain`), of which a
//! logging library may have written some (`logged`). Numbers and other values
//! are replaced by marks (`normalise`), words stay. Where a trace shows no source text, the line
//! number of the innermost frame tells two places of one function apart.
//!
//! This runs in the chain process, on text that a task controls: total on any bytes, linear, and
//! nothing is kept afterwards.

mod frames;
mod logged;
mod native;
mod normalise;
mod plain;
mod python;
#[cfg(test)]
mod tests;

pub use normalise::normalised;

use crate::policy::notices::fnv;
use crate::policy::safe;
use crate::wire::outcome::Outcome;
use crate::wire::report::MAX_MESSAGE;
use crate::wire::worker::Raised;

/// The last bytes of standard error that are looked at.
const MAX_INPUT: usize = 64 * 1024;
/// The bytes of one line that are looked at.
const MAX_LINE: usize = 1024;
/// The lines of an exception's message that count.
const RAISED_LINES: usize = 12;

/// A failure's identity and the line that a person would quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A short hexadecimal number, the same for the same fault on every machine.
    pub fingerprint: String,
    /// Safe, never empty, at most [`MAX_MESSAGE`] bytes.
    pub message: String,
}

/// What a stack trace, or the lines that carry an error, say.
#[derive(Debug, Default)]
struct Said {
    /// The line after its last one.
    end: usize,
    /// What makes it this fault and no other: normalised.
    identity: String,
    /// For people; not yet safe.
    message: String,
    /// It is an error by its form or its words, and not just the last thing that was printed.
    sure: bool,
}

impl Said {
    /// Adds a normalised part.
    fn add(&mut self, part: &str) {
        self.identity.push_str(&normalised(bounded(part)));
        self.identity.push('\n');
    }
}

/// Finds both. Total on any bytes, linear in their number (of which the last 64 KiB count).
pub fn of(outcome: &Outcome, stderr: &[u8]) -> Finding {
    let said = look(stderr);
    // Ended from outside: what was printed before counts only if it is an error.
    let from_outside = matches!(outcome, Outcome::Timeout | Outcome::Signal(_));
    let heard = said.sure || !from_outside;
    let mut message = if heard { safe::line(&said.message, MAX_MESSAGE) } else { String::new() };
    if message.is_empty() {
        message = outcome.to_string();
    } else if *outcome == Outcome::Timeout {
        message = safe::line(&format!("timeout: {message}"), MAX_MESSAGE);
    }
    let identity = if heard { said.identity.as_str() } else { "" };
    Finding { fingerprint: hashed(outcome, identity), message }
}

/// The same of a worker's function that raised: type, message and frames.
pub fn of_raised(raised: &Raised) -> Finding {
    let Raised { kind, message, traceback } = raised;
    let trace = look(traceback.as_bytes());
    let mut identity = format!("{}\n", normalised(bounded(kind)));
    for line in message.lines().take(RAISED_LINES) {
        identity.push_str(&normalised(bounded(line)));
        identity.push('\n');
    }
    if trace.sure || message.trim().is_empty() {
        identity.push_str(&trace.identity);
    }
    let said = quoted(kind, message.lines().find(|line| !line.trim().is_empty()).unwrap_or(""));
    let said = if said.is_empty() { &trace.message } else { &said };
    let message = match safe::line(said, MAX_MESSAGE) {
        said if said.is_empty() => Outcome::Raised.to_string(),
        said => said,
    };
    Finding { fingerprint: hashed(&Outcome::Raised, &identity), message }
}

/// The same of a worker that ended or broke its protocol: `what` says how. An error that it told
/// of on standard error says more; what else stands there does not count.
pub fn of_worker(outcome: &Outcome, what: &str, stderr: &[u8]) -> Finding {
    let said = look(stderr);
    let identity = format!("{}\n{}", normalised(what), if said.sure { &said.identity } else { "" });
    let message = if said.sure { said.message.as_str() } else { what };
    let message = match safe::line(message, MAX_MESSAGE) {
        said if said.is_empty() => outcome.to_string(),
        said => said,
    };
    Finding { fingerprint: hashed(outcome, &identity), message }
}

fn hashed(outcome: &Outcome, identity: &str) -> String {
    let hash = fnv(0, outcome.to_string().as_bytes());
    format!("{:016x}", fnv(hash, identity.as_bytes()))
}

/// What the end of a text says of an error: a stack trace, or else the lines that carry it.
fn look(stderr: &[u8]) -> Said {
    let tail = &stderr[stderr.len().saturating_sub(MAX_INPUT)..];
    let text = String::from_utf8_lossy(tail);
    let clean: String;
    let text = if text.contains('\u{1b}') || text.contains("{\"log\":\"") {
        let plain = |line| {
            let line = safe::keep_blanks(line);
            logged::unwrapped(&line).unwrap_or(line)
        };
        let lines: Vec<String> = text.lines().map(plain).collect();
        clean = lines.join("\n");
        clean.as_str()
    } else {
        &text
    };
    let lines: Vec<&str> = text.split('\n').map(last_state).collect();
    let found = [python::find(&lines), frames::find(&lines), native::find(&lines)];
    let trace = found.into_iter().flatten().max_by_key(|said| said.end);
    match trace {
        Some(mut trace) => {
            // Often the program goes on to say what it was doing.
            let after = plain::find(lines.get(trace.end..).unwrap_or_default());
            if after.sure {
                trace.identity.push_str(&after.identity);
            }
            trace
        }
        None => plain::find(&lines),
    }
}

/// What a terminal shows of a line that a progress bar rewrote.
fn last_state(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or(line)
}

/// A line as far as it counts.
fn bounded(line: &str) -> &str {
    if line.len() <= MAX_LINE {
        return line;
    }
    let end = (0..=MAX_LINE).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    &line[..end]
}

/// An exception for people: its text; with the type where the text alone says too little.
fn quoted(kind: &str, text: &str) -> String {
    let text = text.trim();
    let short = kind.rsplit(['.', '$']).next().unwrap_or(kind);
    let words = text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic));
    if text.is_empty() {
        short.to_owned()
    } else if words.count() < 2 {
        format!("{short}: {text}")
    } else {
        text.to_owned()
    }
}

/// Splits `some.Type: text`. `None` where the line does not begin with a type's name.
fn typed(line: &str) -> Option<(&str, &str)> {
    let end = line
        .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '$')))
        .unwrap_or(line.len());
    let (kind, rest) = line.split_at(end);
    let last = kind.rsplit(['.', '$']).next().unwrap_or(kind);
    let is_type = last.starts_with(|c: char| c.is_uppercase() || c == '_')
        || (kind.contains('.') && last.starts_with(char::is_alphabetic));
    if !is_type || kind.ends_with('.') {
        return None;
    }
    // Node adds a code: `Error [ERR_X]: text`.
    let rest = match rest.strip_prefix(" [").and_then(|rest| rest.split_once(']')) {
        Some((_, after)) => after,
        None => rest,
    };
    if rest.is_empty() {
        return Some((kind, ""));
    }
    rest.strip_prefix(':').map(|text| (kind, text.trim_start()))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}
