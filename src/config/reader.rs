//! Typed reading of values: each function takes a value or tells why it cannot, and the reading
//! goes on.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

use super::fields::{self, Section};
use super::problem::{Place, Problem, Problems, Span, closest, quoted};
use super::tree::{Body, Entry, Kind, Node};

/// Reads the values of one file.
pub(crate) struct Reader<'a> {
    pub(crate) file: usize,
    /// Where relative paths start.
    pub(crate) folder: &'a Path,
    pub(crate) problems: &'a mut Problems,
}

/// The fields of one `( … )`.
pub(crate) struct Fields<'n> {
    /// By the names that were meant: a misspelt field is told, and its value is read all the same.
    entries: Vec<(&'n str, &'n Entry)>,
    /// What unknown names were probably meant to be.
    meant: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, name: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|(meant, _)| *meant == name).map(|(_, entry)| *entry)
    }

    /// Whether `name` is left out, and not only misspelt: that is told already.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.get(name).is_none() && !self.meant.contains(&name)
    }
}

/// What a file says of a field; `None` as the value is an explicit `None`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said<T> {
    pub(crate) value: Option<T>,
    pub(crate) place: Place,
}

impl Reader<'_> {
    pub(crate) fn place(&self, span: &Span) -> Place {
        Place { file: self.file, span: span.clone() }
    }

    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem::error(self.file, span.clone(), message).maybe_help(help));
    }

    pub(crate) fn warn(&mut self, span: &Span, message: impl Into<String>, help: &str) {
        self.problems.push(Problem::warning(self.file, span.clone(), message).help(help));
    }

    /// Tells that a field has a value of the wrong kind.
    pub(crate) fn wrong(&mut self, name: &str, node: &Node, wanted: &str, help: Option<String>) {
        if node.kind != Kind::Broken {
            let message = format!("{} takes {wanted}, not {}", named(name), node.describe());
            self.error(&node.span, message, help);
        }
    }

    /// The fields of a `( … )`, unknown and repeated ones told. A name in front of the
    /// parentheses is accepted.
    pub(crate) fn fields<'n>(
        &mut self,
        name: &str,
        node: &'n Node,
        section: Section,
    ) -> Option<Fields<'n>> {
        let entries: &[Entry] = match &node.kind {
            Kind::Named { body: Body::Struct(entries), .. } => entries,
            Kind::Named { body: Body::Tuple(values), .. } if values.is_empty() => &[],
            Kind::Named { body: Body::Tuple(values), .. } => {
                for value in values.iter().filter(|value| value.kind != Kind::Broken) {
                    let message = "this value has no name in front of it";
                    let help = match (&value.kind, section) {
                        (Kind::Text(text), Section::Smtp) => {
                            let (host, port) = text.split_once(':').unwrap_or((text, "587"));
                            format!("write Smtp(host: {host:?}, port: {port})")
                        }
                        _ => "write NAME: value".to_owned(),
                    };
                    self.error(&value.span, message, Some(help));
                }
                return None;
            }
            Kind::Map(_) => {
                let help = "fields stand in `( … )`, without quotes around their names";
                self.wrong(name, node, "`( … )`", Some(help.to_owned()));
                return None;
            }
            _ => {
                let help = match (&node.kind, section) {
                    (Kind::Text(text), Section::Task) => {
                        Some(format!("write ( run: [{}] )", words(text)))
                    }
                    (Kind::List(_), Section::Task) => Some("write ( run: [ … ] )".to_owned()),
                    (Kind::Bool(false), _) => Some("write None, or leave the field out".to_owned()),
                    (_, Section::Limit) => Some("write ( mails: 30, per: \"1h\" )".to_owned()),
                    (Kind::List(_), _) => Some("fields stand in `( … )`".to_owned()),
                    _ => None,
                };
                self.wrong(name, node, "`( … )`", help);
                return None;
            }
        };
        let mut kept: Vec<(&str, &Entry)> = Vec::new();
        let mut meant = Vec::new();
        for entry in entries {
            let word = &entry.name;
            if !fields::known(section, word) {
                let message = format!("{} has no field {}", section.name(), quoted(word));
                let (mut advice, near) = fields::advice(section, word);
                // A letter of another alphabet looks like ours.
                if let (Some(advice), Some(c)) =
                    (&mut advice, word.chars().find(|c| !c.is_ascii() && !c.is_control()))
                {
                    let _ = write!(advice, " (`{c}` is U+{:04X}, no Latin letter)", u32::from(c));
                }
                self.error(&entry.name_span, message, advice);
                let Some(near) = near else { continue };
                meant.push(near);
                // Another program's word may take another kind of value, a slip of the pen does not.
                if closest(word, [near]).is_some() && entries.iter().all(|other| other.name != near)
                {
                    kept.push((near, entry));
                }
            } else if let Some((_, first)) = kept.iter().find(|(first, _)| first == word) {
                let problem = Problem::error(
                    self.file,
                    entry.name_span.clone(),
                    format!("`{word}` is said twice"),
                )
                .label("said again here")
                .also(self.place(&first.name_span), "first said here");
                self.problems.push(problem);
            } else {
                kept.push((word, entry));
            }
        }
        Some(Fields { entries: kept, meant })
    }

    /// What the fields say of `name`, if it can be read.
    pub(crate) fn said<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        read: impl Fn(&mut Self, &str, &Node) -> Option<T>,
    ) -> Option<Said<T>> {
        let entry = fields.get(name)?;
        let place = self.place(&entry.value.span);
        if entry.value.kind == Kind::None {
            return Some(Said { value: None, place });
        }
        read(self, name, &entry.value).map(|value| Said { value: Some(value), place })
    }

    /// The same where neither place nor an explicit `None` matters.
    pub(crate) fn take<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        read: impl Fn(&mut Self, &str, &Node) -> Option<T>,
    ) -> Option<T> {
        self.said(fields, name, read).and_then(|said| said.value)
    }

    /// A list; faulty members are told and left out.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        node: &Node,
        read: impl Fn(&mut Self, &str, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        match &node.kind {
            Kind::List(nodes) => {
                Some(nodes.iter().filter_map(|node| read(self, name, node)).collect())
            }
            Kind::Text(text) => {
                let help = format!("as a list: [{text:?}]");
                self.wrong(name, node, "a list `[…]`", Some(help));
                None
            }
            _ => {
                self.wrong(name, node, "a list `[…]`", None);
                None
            }
        }
    }

    /// A word, as in `Main` or `Lines("file")`, and what stands in its parentheses.
    pub(crate) fn word<'n>(
        &mut self,
        name: &str,
        node: &'n Node,
        words: &[&'static str],
    ) -> Option<(&'static str, &'n Body)> {
        let (written, body) = match &node.kind {
            Kind::Named { name: Some(written), body } => (written.as_str(), body),
            Kind::None if words.contains(&"None") => return Some(("None", &Body::Unit)),
            Kind::Text(text) => {
                // A path alone, where a word says what it is.
                let path = text.starts_with('/').then_some(["File", "Sendmail", "Python"]);
                let path = path.and_then(|all| all.into_iter().find(|word| words.contains(word)));
                let help = match (path, closest(text, words.iter().copied())) {
                    (Some(word), _) => format!("write {word}({text:?})"),
                    (None, Some(word)) => format!("without quotes: {word}"),
                    (None, None) => one_of(words),
                };
                self.wrong(name, node, "a word", Some(help));
                return None;
            }
            _ => {
                self.wrong(name, node, "a word", Some(one_of(words)));
                return None;
            }
        };
        if let Some(word) = words.iter().find(|word| **word == written) {
            return Some((word, body));
        }
        let meant = closest(written, words.iter().copied());
        let help = meant.map_or_else(|| one_of(words), |word| format!("did you mean `{word}`?"));
        // Only the word: what stands in its parentheses is read as that of the word that was meant.
        let word = node.span.start..node.span.start + written.len();
        self.error(&word, format!("`{name}` has no {}", quoted(written)), Some(help));
        words.iter().find(|word| Some(**word) == meant).map(|word| (*word, body))
    }

    /// A word that stands alone.
    pub(crate) fn lone_word(
        &mut self,
        name: &str,
        node: &Node,
        words: &[&'static str],
    ) -> Option<&'static str> {
        let (word, body) = self.word(name, node, words)?;
        self.no_body(word, node, body).then_some(word)
    }

    /// Whether a word stands without parentheses, as it should.
    pub(crate) fn no_body(&mut self, word: &str, node: &Node, body: &Body) -> bool {
        match body {
            Body::Unit => true,
            _ => {
                self.error(&node.span, format!("`{word}` takes nothing in parentheses"), None);
                false
            }
        }
    }

    /// The one value in the parentheses of a word.
    pub(crate) fn one_value<'n>(
        &mut self,
        word: &str,
        node: &Node,
        body: &'n Body,
        example: &str,
    ) -> Option<&'n Node> {
        match body {
            Body::Tuple(values) if values.len() == 1 => values.first(),
            _ => {
                let help = Some(format!("write {word}({example})"));
                self.error(&node.span, format!("`{word}` takes one value in parentheses"), help);
                None
            }
        }
    }
}

/// A field's name in backquotes; a description ("a key") as it is.
fn named(name: &str) -> Cow<'_, str> {
    if name.contains(' ') { Cow::Borrowed(name) } else { Cow::Owned(format!("`{name}`")) }
}

/// A shell's simple line as the members of a list.
pub(crate) fn words(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
    words.join(", ")
}

fn one_of(words: &[&str]) -> String {
    format!("one of: {}", words.join(", "))
}
