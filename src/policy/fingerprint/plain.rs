//! Everything without a stack trace: the lines that carry the error. Many programs end every
//! failure with the same words, so the last line is often not the one that tells.

use std::borrow::Cow;

use super::logged::{self, Logged};
use super::{Said, bounded, normalised};

/// Lines that carry the error and count for its identity, from the last.
const TELLING: usize = 3;
/// Lines from the end that are looked at.
const LOOKED_AT: usize = 200;

/// The lines that carry the error. Always gives something; `sure` says whether it is one.
pub(super) fn find(lines: &[&str]) -> Said {
    let mut telling: Vec<(Cow<'_, str>, String)> = Vec::new();
    let mut other: Option<(Cow<'_, str>, &str)> = None;
    let mut last: Option<(Cow<'_, str>, &str)> = None;
    for (at, Logged { text, whole, error }) in lines
        .iter()
        .enumerate()
        .rev()
        .map(|(at, line)| (at, logged::read(line)))
        .filter(|(_, line)| !is_noise(bounded(&line.text)))
        .take(LOOKED_AT)
    {
        let line = bounded(&text);
        if last.is_none() {
            last = Some((text.clone(), whole));
        }
        let weight = match error {
            Some(true) => Weight::Error,
            Some(false) => Weight::Less,
            None => weight(line),
        };
        match weight {
            Weight::Error if telling.len() < TELLING => {
                let mut normal = normalised(bounded(whole));
                if let Some(number) = source_line(line, lines.get(at + 1)) {
                    normal.push_str(&format!(" in line {number}"));
                }
                if !telling.iter().any(|(_, known)| *known == normal) {
                    telling.push((text, normal));
                }
            }
            Weight::Nothing if other.is_none() => other = Some((text, whole)),
            _ => {}
        }
    }
    let mut said = Said { end: lines.len(), ..Said::default() };
    if let Some((line, _)) = telling.first() {
        said.sure = true;
        reason(line).clone_into(&mut said.message);
        for (_, normal) in &telling {
            said.identity.push_str(normal);
            said.identity.push('\n');
        }
    } else if let Some((line, whole)) = other.or(last) {
        said.add(whole);
        said.message = line.into_owned();
    }
    said
}

/// The line of source that a compiler complains of: the same words of another line are another
/// error. `FILE:LINE:` begins the line, or `--> FILE:LINE:COLUMN` follows it.
fn source_line<'a>(line: &'a str, next: Option<&&'a str>) -> Option<&'a str> {
    let arrow = next.and_then(|next| next.trim_start().strip_prefix("--> "));
    let mut parts = arrow.unwrap_or(line).split(':');
    let (file, number) = (parts.next()?, parts.next()?);
    let (_, kind) = file.rsplit_once('.')?;
    let known = SOURCES.contains(&kind) && !file.contains(' ');
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (known && is_number && parts.next().is_some()).then_some(number)
}

/// Files that a compiler reads. The lines of data have numbers that change.
const SOURCES: [&str; 18] = [
    "c", "cc", "cpp", "cxx", "h", "hpp", "rs", "go", "java", "kt", "cs", "swift", "scala", "ts",
    "tsx", "hs", "ml", "zig",
];

/// What a promise of Node was rejected with, where it was no error.
pub(super) fn reason(line: &str) -> &str {
    let reason = line.split_once("The promise rejected with the reason \"");
    reason.and_then(|(_, reason)| reason.rsplit_once("\".")).map_or(line, |(reason, _)| reason)
}

enum Weight {
    /// Says what is wrong.
    Error,
    /// Says that something is wrong, but not what.
    Phrase,
    /// A warning, or news.
    Less,
    /// Anything.
    Nothing,
}

/// Words, in lower case, of which one stands in a line that says what is wrong.
const ERRORS: [&str; 98] = [
    "error",
    "fatal",
    "fail",
    "exception",
    "panic",
    "abort",
    "critical",
    "emerg",
    "cannot",
    "can't",
    "can\u{2019}t",
    "couldn't",
    "could not",
    "unable",
    "not able",
    "no such",
    "not found",
    "missing",
    "does not exist",
    "doesn't exist",
    "already exists",
    "denied",
    "refused",
    "rejected",
    "forbidden",
    "unauthorized",
    "not permitted",
    "not allowed",
    "permission",
    "invalid",
    "illegal",
    "malformed",
    "unknown",
    "unrecognized",
    "unexpected",
    "undefined",
    "unbound",
    "not set",
    "not defined",
    "unsupported",
    "not supported",
    "timed out",
    "timeout",
    "unreachable",
    "unavailable",
    "no route",
    "reset by peer",
    "broken pipe",
    "disconnect",
    "closed",
    "exceeded",
    "no space",
    "quota",
    "out of memory",
    "too many",
    "too large",
    "too long",
    "too small",
    "too old",
    "overflow",
    "double free",
    "smashing",
    "killed",
    "segmentation",
    "core dumped",
    "bus error",
    "corrupt",
    "conflict",
    "locked",
    "busy",
    "expired",
    "mismatch",
    "violat",
    "deadlock",
    "duplicate",
    "stale",
    "crash",
    "died",
    "lost",
    "bad ",
    "wrong",
    "syntax",
    "no rule",
    "not a ",
    "not enough",
    "insufficient",
    "must ",
    "uncaught",
    "unhandled",
    "halt",
    "don't know",
    "stopped",
    "never",
    "outdated",
    "mandatory",
    "required",
    "traceback",
    "oops",
];

/// Words that say nothing of what is wrong: a line of only these is a closing phrase.
const PHRASES: [&str; 108] = [
    "error",
    "errors",
    "err",
    "fatal",
    "failed",
    "fails",
    "failing",
    "failure",
    "failures",
    "fail",
    "exit",
    "exited",
    "exiting",
    "status",
    "code",
    "codes",
    "abort",
    "aborted",
    "aborting",
    "terminated",
    "terminating",
    "stop",
    "stopped",
    "stopping",
    "quit",
    "quitting",
    "job",
    "jobs",
    "task",
    "tasks",
    "script",
    "command",
    "line",
    "build",
    "backup",
    "run",
    "process",
    "program",
    "operation",
    "step",
    "stage",
    "finished",
    "completed",
    "complete",
    "ended",
    "ending",
    "done",
    "with",
    "without",
    "the",
    "a",
    "an",
    "in",
    "on",
    "at",
    "by",
    "of",
    "for",
    "to",
    "from",
    "see",
    "above",
    "below",
    "log",
    "logs",
    "output",
    "messages",
    "message",
    "details",
    "detail",
    "more",
    "information",
    "info",
    "please",
    "check",
    "previous",
    "is",
    "was",
    "were",
    "are",
    "has",
    "have",
    "not",
    "recoverable",
    "unrecoverable",
    "returned",
    "child",
    "non",
    "zero",
    "nonzero",
    "now",
    "due",
    "because",
    "this",
    "that",
    "it",
    "some",
    "one",
    "or",
    "and",
    "there",
    "occurred",
    "encountered",
    "while",
    "running",
    "compilation",
    "recipe",
    "unsuccessful",
];

fn weight(line: &str) -> Weight {
    let lower = line.to_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| lower.starts_with(word));
    if begins(&[
        "warn", "[warn", "info", "[info", "debug", "[debug", "notice", "[notice", "trace:",
        "[trace",
    ]) || lower.contains(" warn ")
        || lower.contains("warning:")
        || lower.contains(" info ")
        || lower.contains(" info: ")
        || lower.contains(" debug ")
        || lower.contains("deprecat")
        || counts_none(&lower)
    {
        return Weight::Less;
    }
    let error = ERRORS.iter().any(|word| lower.contains(word)) || is_perl(line);
    let of_make = line.contains(": *** [") || line.contains("]: *** ");
    // A code for what the lines before it said.
    let of_rsync = lower.starts_with("rsync error: ");
    if is_phrase(&lower)
        || of_make
        || of_rsync
        || lower.starts_with("begin failed--compilation aborted")
        || lower.starts_with("error: could not compile `")
        || lower.starts_with("collect2: error: ld returned")
        || lower.starts_with("nginx: configuration file ")
        || lower.contains("renew failure(s)")
        || lower.starts_with("=====")
        || lower.starts_with("\u{2716} ")
    {
        return Weight::Phrase;
    }
    // What follows from what was said before, by ssh or the other side, if they said anything.
    if [
        "rsync: connection unexpectedly closed",
        "fatal: could not read from remote repository",
        "error: failed to push some refs to ",
        "scp: connection closed",
        "connection closed",
        "lost connection",
        "caused by: ",
        "rsync: [sender] write error: broken pipe",
        "detail: ",
        "hint: ",
        "context: ",
    ]
    .iter()
    .any(|follows| lower.starts_with(follows))
    {
        return Weight::Nothing;
    }
    if error { Weight::Error } else { Weight::Nothing }
}

/// Says that nothing is wrong: `0 errors`, but not `10 errors` or `0.0.0.0:80 failed`.
fn counts_none(lower: &str) -> bool {
    ["0 errors", "no errors", "0 failed", "0 failures", "without error"].iter().any(|fine| {
        lower.match_indices(fine).any(|(at, _)| {
            !lower[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | ':'))
        })
    })
}

/// Only words of closing phrases, apart from the program's name in front.
fn is_phrase(lower: &str) -> bool {
    let rest = match lower.split_once(": ") {
        Some((name, rest)) if !name.contains(' ') => rest,
        _ => lower,
    };
    let mut words = rest
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !word.bytes().all(|byte| byte.is_ascii_digit()))
        .peekable();
    words.peek().is_some() && words.all(|word| PHRASES.contains(&word))
}

/// `… at FILE line N.`: what Perl dies with.
fn is_perl(line: &str) -> bool {
    let Some((_, rest)) = line.rsplit_once(" line ") else { return false };
    let number = rest.trim_end_matches('.');
    line.ends_with('.')
        && line.contains(" at ")
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// Lines that say nothing to anybody.
fn is_noise(line: &str) -> bool {
    !line.chars().any(char::is_alphabetic)
        || line.starts_with("^---")
        || line.starts_with("CallStack (from HasCallStack)")
        || line.starts_with("error, called at ")
        || line.contains("--:--:--")
        || line.starts_with("% Total")
        || line.starts_with("Dload ")
        || line.starts_with("Node.js v")
        || line.starts_with("(Use `node")
        || line.starts_with("note: ")
        || line == "Stack trace:"
        || is_excerpt(line)
        || line.starts_with("For more information about this error, try ")
        || line.starts_with("Please make sure you have the correct access rights")
        || line == "and the repository exists."
        || line.contains("complete log of this run")
        || line.starts_with("dmesg(1) may have more")
        || (line.contains(" called at ") && line.contains(" line "))
}

/// A line of source, or the marks below it, that a compiler shows: `12 | let x = …`, `| ^^^`.
fn is_excerpt(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.trim_start().starts_with('|') && (rest.len() < line.len() || rest.contains(['^', '~']))
}
