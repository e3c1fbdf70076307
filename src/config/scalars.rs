//! Single values: numbers, texts, paths, durations, sizes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::closest;
use super::reader::Reader;
use super::tree::{Body, Kind, Node};
use super::units;

/// Whether other programs call the absence of a time so.
fn is_no_time(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    ["none", "never", "null", "nil", "off", "no", "infinite", "infinity", "forever"]
        .contains(&word.as_str())
}

/// What to write instead.
const NONE: &str = "write None, without quotes: no such time, or the field's default";

impl Reader<'_> {
    pub(crate) fn bool(&mut self, name: &str, node: &Node) -> Option<bool> {
        match node.kind {
            Kind::Bool(value) => Some(value),
            _ => {
                let help = match &node.kind {
                    Kind::Text(text) if text == "true" || text == "false" => {
                        Some(format!("without quotes: {text}"))
                    }
                    Kind::Int(1) => Some("write true".to_owned()),
                    Kind::Int(0) => Some("write false".to_owned()),
                    Kind::Named { name: Some(word), .. } | Kind::Text(word)
                        if closest(word, ["true", "yes", "on"]).is_some() =>
                    {
                        Some("write true".to_owned())
                    }
                    Kind::Named { name: Some(word), .. } | Kind::Text(word)
                        if closest(word, ["false", "no", "off"]).is_some() =>
                    {
                        Some("write false".to_owned())
                    }
                    _ => None,
                };
                self.wrong(name, node, "`true` or `false`", help);
                None
            }
        }
    }

    /// A whole number of a range.
    pub(crate) fn number(&mut self, name: &str, node: &Node, low: i64, high: i64) -> Option<i64> {
        let wanted = || {
            if high == i64::MAX {
                format!("a number of at least {low}")
            } else {
                format!("a number from {low} to {high}")
            }
        };
        match &node.kind {
            Kind::Int(value) => match i64::try_from(*value) {
                Ok(value) if (low..=high).contains(&value) => Some(value),
                _ => {
                    self.error(&node.span, format!("`{name}` takes {}", wanted()), None);
                    None
                }
            },
            Kind::Text(text) if text.trim().parse::<i64>().is_ok() => {
                let help = format!("without quotes: {}", text.trim());
                self.wrong(name, node, &wanted(), Some(help));
                None
            }
            _ => {
                self.wrong(name, node, &wanted(), None);
                None
            }
        }
    }

    /// A text without NUL, possibly empty.
    pub(crate) fn text(&mut self, name: &str, node: &Node) -> Option<String> {
        match &node.kind {
            Kind::Text(text) if text.contains('\0') => {
                self.error(&node.span, format!("`{name}` cannot hold a NUL"), None);
                None
            }
            Kind::Text(text) => Some(text.clone()),
            Kind::Named { name: Some(word), body: Body::Unit } => {
                let help = format!("in quotes: \"{word}\"");
                self.wrong(name, node, "text in quotes", Some(help));
                None
            }
            Kind::Int(number) => {
                let help = format!("in quotes: \"{number}\"");
                self.wrong(name, node, "text in quotes", Some(help));
                None
            }
            Kind::Bool(value) => {
                let help = format!("in quotes: \"{value}\"");
                self.wrong(name, node, "text in quotes", Some(help));
                None
            }
            Kind::List(_) if name == "sh" => {
                let help = "a program and its arguments as a list are run: [ … ]".to_owned();
                self.wrong(name, node, "text in quotes", Some(help));
                None
            }
            _ => {
                self.wrong(name, node, "text in quotes", None);
                None
            }
        }
    }

    /// A text of one line that says something.
    pub(crate) fn line(&mut self, name: &str, node: &Node) -> Option<String> {
        let text = self.text(name, node)?;
        if text.trim().is_empty() {
            self.error(&node.span, format!("`{name}` is empty"), None);
            return None;
        }
        if text.chars().any(char::is_control) {
            self.error(
                &node.span,
                format!("`{name}` takes one line without control characters"),
                None,
            );
            return None;
        }
        Some(text)
    }

    /// A path; a relative one starts at the folder of the file that names it.
    pub(crate) fn path(&mut self, name: &str, node: &Node) -> Option<PathBuf> {
        let text = self.text(name, node)?;
        if text.trim().is_empty() {
            self.error(&node.span, format!("`{name}` is empty"), None);
            return None;
        }
        if text.starts_with('~') {
            let help = "write the whole path; `~` is a shell's word".to_owned();
            self.error(&node.span, format!("`{name}` cannot begin with `~`"), Some(help));
            return None;
        }
        if is_variable(&text) {
            self.warn(&node.span, "no variables are put in here", "write the whole path");
        }
        Some(tidy(&self.folder.join(text)))
    }

    pub(crate) fn duration(&mut self, name: &str, node: &Node) -> Option<Duration> {
        let result = match &node.kind {
            Kind::Text(word) if is_no_time(word) => {
                Err(("this is no duration".to_owned(), Some(NONE.to_owned())))
            }
            Kind::Named { name: Some(word), body: Body::Unit } if is_no_time(word) => {
                self.wrong(name, node, "a duration in quotes", Some(NONE.to_owned()));
                return None;
            }
            Kind::Bool(false) => {
                self.wrong(name, node, "a duration in quotes", Some(NONE.to_owned()));
                return None;
            }
            Kind::Text(text) => units::duration(text),
            Kind::Int(number) if *number < 0 => units::duration(&format!("{number}s")),
            Kind::Int(number) => Err(units::no_unit(&number.to_string())),
            _ => {
                let help = Some("durations are written \"90s\", \"1h 30m\"".to_owned());
                self.wrong(name, node, "a duration in quotes", help);
                return None;
            }
        };
        match result {
            Ok(duration) => {
                // humantime's month; who writes it has mostly minutes in mind.
                if let Kind::Text(text) = &node.kind
                    && text.contains('M')
                {
                    let help = format!("for minutes write {:?}", text.replace('M', "m"));
                    self.warn(&node.span, "`M` is a month of 30.44 days", &help);
                }
                Some(duration)
            }
            Err((message, help)) => {
                self.error(&node.span, message, help);
                None
            }
        }
    }

    /// A duration that is not zero.
    pub(crate) fn some_time(&mut self, name: &str, node: &Node) -> Option<Duration> {
        let duration = self.duration(name, node)?;
        if duration.is_zero() {
            let help = Some("leave the field out, or write None, for its default".to_owned());
            self.error(&node.span, format!("`{name}` cannot be zero"), help);
            return None;
        }
        Some(duration)
    }

    pub(crate) fn size(&mut self, name: &str, node: &Node) -> Option<u64> {
        let result = match &node.kind {
            Kind::Text(text) => units::size(text),
            Kind::Int(number) => {
                u64::try_from(*number).map_err(|_| ("this is no size".to_owned(), None))
            }
            _ => {
                let help = Some("sizes are written \"512KiB\", \"100MiB\"".to_owned());
                self.wrong(name, node, "a size", help);
                return None;
            }
        };
        match result {
            Ok(size) => Some(size),
            Err((message, help)) => {
                self.error(&node.span, message, help);
                None
            }
        }
    }
}

/// Whether a text has something in it that a shell would replace.
pub(crate) fn is_variable(text: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        text[at + 1..]
            .starts_with(|c: char| c == '{' || c == '(' || c == '_' || c.is_ascii_alphabetic())
    })
}

/// Without `.` and with `..` taken away where the text alone allows it (no links are followed).
fn tidy(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut tidied = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(tidied.components().next_back(), Some(Component::Normal(_))) =>
            {
                tidied.pop();
            }
            Component::ParentDir if tidied.has_root() => {}
            part => tidied.push(part),
        }
    }
    tidied
}
