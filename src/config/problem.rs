//! What is wrong with a configuration: each problem with its place, so that all of them can be
//! told in one go.

use std::collections::HashSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A stretch of bytes of a file's text.
pub type Span = Range<usize>;

/// A place in one of the files that were read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file, as an index into the sources that were read.
    pub file: usize,
    /// The bytes of its text.
    pub span: Span,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is told and accepted.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the configuration is refused for it.
    pub severity: Severity,
    /// The file, as an index into the sources that were read.
    pub file: usize,
    /// Where; `None`: the file as a whole (it cannot be read).
    pub span: Option<Span>,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands under the marked text; may be empty.
    pub label: String,
    /// A second place that matters ("first said here").
    pub also: Option<(Place, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// An error at a place.
    pub fn error(file: usize, span: Span, message: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Error,
            file,
            span: Some(span),
            message: message.into(),
            label: String::new(),
            also: None,
            help: None,
        }
    }

    /// A warning at a place.
    pub fn warning(file: usize, span: Span, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(file, span, message) }
    }

    /// An error that concerns a file as a whole.
    pub fn of_file(file: usize, message: impl Into<String>) -> Problem {
        Problem { span: None, ..Problem::error(file, 0..0, message) }
    }

    /// With a text under the marked place.
    pub fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    /// With what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// With what to do about it, where that is known.
    pub fn maybe_help(mut self, help: Option<String>) -> Problem {
        self.help = help.or(self.help);
        self
    }

    /// With a second place.
    pub fn also(mut self, place: Place, label: impl Into<String>) -> Problem {
        self.also = Some((place, label.into()));
        self
    }
}

/// File, place and message.
type Key = (usize, Option<(usize, usize)>, String);

/// The problems found so far. The same problem at the same place is kept once: a fault in
/// `defaults` is one fault, however many chains it reaches.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    seen: HashSet<Key>,
}

impl Problems {
    pub(crate) fn push(&mut self, mut problem: Problem) {
        problem.message = harmless(&problem.message);
        problem.help = problem.help.map(|help| harmless(&help));
        let span = problem.span.as_ref().map(|span| (span.start, span.end));
        if self.seen.insert((problem.file, span, problem.message.clone())) {
            self.list.push(problem);
        }
    }

    pub(crate) fn any_error(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// In the order of the files and of the places in them.
    pub(crate) fn into_sorted(mut self) -> Vec<Problem> {
        let key = |p: &Problem| (p.file, p.span.as_ref().map_or(0, |span| span.start));
        self.list.sort_by_key(key);
        self.list
    }
}

/// A text of the file inside a message: bounded, nothing in it that a terminal obeys.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let more = if text.chars().nth(LONGEST).is_some() { "…" } else { "" };
    let start: String = text.chars().take(LONGEST).collect();
    format!("`{}{more}`", harmless(&start))
}

/// A text without control characters and without those that turn the direction of writing.
pub(crate) fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let small = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| {
            let theirs = candidate.to_lowercase();
            let begun = small.len() >= 3 && theirs.starts_with(&small);
            (if begun { 1 } else { strsim::osa_distance(&small, &theirs) }, candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
