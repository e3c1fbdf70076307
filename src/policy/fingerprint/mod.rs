//! The identity of a failure: the same fault with other values is the same, another fault is not.
//!
//! It is made of the outcome (exit code, signal, timeout, cannot start) and of what standard error
//! said: for a stack trace of a known language its exceptions, messages and frames (`python`,
//! `frames`, `native`), else the lines that carry the error (`plain`). Numbers and other values
//! are replaced by marks (`normalise`), words stay. Where a trace shows no source text, the line
//! number of the innermost frame tells two places of one function apart.
//!
//! This runs in the chain process, on text that a task controls: total on any bytes, linear, and
//! nothing is kept afterwards.

mod frames;
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

/// The last bytes of standard error that are looked at.
const MAX_INPUT: usize = 64 * 1024;
/// The bytes of one line that are looked at.
const MAX_LINE: usize = 1024;

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
    let tail = &stderr[stderr.len().saturating_sub(MAX_INPUT)..];
    let text = String::from_utf8_lossy(tail);
    let clean: String;
    let text = if text.contains('\u{1b}') {
        let lines: Vec<String> = text.lines().map(safe::keep_blanks).collect();
        clean = lines.join("\n");
        clean.as_str()
    } else {
        &text
    };
    let lines: Vec<&str> = text.split('\n').map(last_state).collect();
    let found = [python::find(&lines), frames::find(&lines), native::find(&lines)];
    let trace = found.into_iter().flatten().max_by_key(|said| said.end);
    let said = match trace {
        Some(mut trace) => {
            // Often the program goes on to say what it was doing.
            let after = plain::find(lines.get(trace.end..).unwrap_or_default());
            if after.sure {
                trace.identity.push_str(&after.identity);
            }
            trace
        }
        None => plain::find(&lines),
    };
    // Ended from outside: what was printed before counts only if it is an error.
    let from_outside = matches!(outcome, Outcome::Timeout | Outcome::Signal(_));
    let heard = said.sure || !from_outside;
    let mut message = if heard { safe::line(&said.message, MAX_MESSAGE) } else { String::new() };
    if message.is_empty() {
        message = outcome.to_string();
    } else if *outcome == Outcome::Timeout {
        message = safe::line(&format!("timeout: {message}"), MAX_MESSAGE);
    }
    let mut hash = fnv(0, outcome.to_string().as_bytes());
    if heard {
        hash = fnv(hash, said.identity.as_bytes());
    }
    Finding { fingerprint: format!("{hash:016x}"), message }
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
