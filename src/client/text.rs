//! Small forms for people: ages, columns, colours. Whatever comes from a task is made safe here.

use std::time::{Duration, SystemTime};

use crate::wire::safe::safe_line;

/// A duration in at most two units and one word: `45s`, `3m20s`, `2h5m`, `3days4h`.
pub fn brief(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return "0s".to_owned();
    }
    let exact = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    exact.split(' ').take(2).collect()
}

/// How long an RFC 3339 time is ago, or ahead: `None` if it is on the other side of `now`, or no
/// time at all.
pub fn ago(time: &str, now: SystemTime) -> Option<Duration> {
    now.duration_since(humantime::parse_rfc3339_weak(time).ok()?).ok()
}

/// How long until an RFC 3339 time.
pub fn ahead(time: &str, now: SystemTime) -> Option<Duration> {
    humantime::parse_rfc3339_weak(time).ok()?.duration_since(now).ok()
}

/// A text as one word that awk(1) sees as one field, never empty.
pub fn word(text: &str) -> String {
    let safe = safe_line(text);
    if safe.is_empty() {
        return "-".to_owned();
    }
    safe.split_whitespace().collect::<Vec<_>>().join("_")
}

/// Rows of words in columns as wide as they need to be; the last one is free text.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(at) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let pad = width - cell.chars().count() + 2;
            line.extend(std::iter::repeat_n(' ', pad));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Colours as SGR parameters (ECMA-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Colour {
    Red,
    Yellow,
    Cyan,
    Dim,
}

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// For standard output: on a terminal that can, unless NO_COLOR is set and not empty
    /// (no-color.org).
    pub fn for_stdout() -> Paint {
        use std::io::IsTerminal;
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Paint(std::io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb)
    }

    /// The text in that colour, or as it is.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        let number = match colour {
            Colour::Red => 31,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
            Colour::Dim => 2,
        };
        if self.0 { format!("\x1b[{number}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_one_short_word() {
        for (seconds, expected) in [
            (0, "0s"),
            (45, "45s"),
            (200, "3m20s"),
            (7_500, "2h5m"),
            (7_261, "2h1m"),
            (273_600, "3days4h"),
        ] {
            assert_eq!(brief(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_word_is_one_field_and_harmless() {
        assert_eq!(word(""), "-");
        assert_eq!(word("exit 1"), "exit_1");
        assert_eq!(word("\x1b[31m"), "\\x1b[31m");
    }
}
