//! A file's text → a tree of values with the place of each.
//!
//! The ron crate is the judge of the syntax, but it stops at the first fault and keeps no
//! positions. This reader accepts what ron accepts, keeps the place of every value, and goes on
//! after the slips that people make (a comma forgotten, `=` for `:`, quotes left out), so that one
//! look tells all of them. Both must be content. Total: any text gives a tree or a problem.

use super::problem::{Problem, Problems, Span, quoted};
use super::tokens::is_word_start;
use super::tree::{Body, Entry, Kind, Node};

/// How deep values may be nested; a configuration needs about eight.
const DEEPEST: usize = 64;

/// Reads the text of one file. `None`: it could not be followed to its end, and the problem that
/// stopped it is among `problems`.
pub(crate) fn scan(text: &str, file: usize, problems: &mut Problems) -> Option<Node> {
    let mut scanner = Scanner { text, at: 0, file, depth: 0, slips: 0, last_text: None, problems };
    let node = scanner.document().ok();
    let clean = scanner.slips == 0;
    if clean && let Err(error) = ron_options().from_str::<serde::de::IgnoredAny>(text) {
        let (start, end) = (offset(text, error.span.start), offset(text, error.span.end));
        let message =
            format!("this is not RON: {}", quoted(&error.code.to_string()).trim_matches('`'));
        problems.push(Problem::error(file, start..end.max(start), message));
        return None;
    }
    node
}

/// What a field of the file's outermost parentheses says, when that is a text; what comes after it
/// may be broken.
pub fn top_text(text: &str, field: &str) -> Option<String> {
    let problems = &mut Problems::default();
    let mut scanner =
        Scanner { text, at: 0, file: 0, depth: 0, slips: 0, last_text: None, problems };
    scanner.top_text(field).ok().flatten()
}

fn ron_options() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

/// The byte where ron's line and column (both from 1, columns in characters) lie.
pub(super) fn offset(text: &str, position: ron::error::Position) -> usize {
    let mut start = 0;
    for _ in 1..position.line {
        match text[start..].find('\n') {
            Some(newline) => start += newline + 1,
            None => return text.len(),
        }
    }
    let column = position.col.saturating_sub(1);
    text[start..].char_indices().nth(column).map_or(text.len(), |(at, _)| start + at)
}

/// The rest of the file cannot be followed; the problem has been told.
pub(super) struct Lost;

pub(super) struct Scanner<'t, 'p> {
    pub(super) text: &'t str,
    pub(super) at: usize,
    pub(super) file: usize,
    pub(super) depth: usize,
    pub(super) slips: usize,
    /// The last text that spans lines: a quote may be missing there.
    pub(super) last_text: Option<Span>,
    pub(super) problems: &'p mut Problems,
}

impl<'t> Scanner<'t, '_> {
    fn top_text(&mut self, wanted: &str) -> Result<Option<String>, Lost> {
        self.attributes()?;
        if self.peek().is_some_and(is_word_start) {
            self.identifier();
            self.space()?;
        }
        let opening = self.at..self.at + 1;
        if self.peek() != Some('(') {
            return Ok(None);
        }
        self.at += 1;
        while !self.closes(')', &opening)? {
            let Some((name, _)) = self.field_name()? else { return Ok(None) };
            let value = self.value(&quoted(&name))?;
            if name == wanted {
                return Ok(if let Kind::Text(text) = value.kind { Some(text) } else { None });
            }
            self.separator(')')?;
        }
        Ok(None)
    }

    fn attributes(&mut self) -> Result<(), Lost> {
        self.space()?;
        while self.rest().starts_with("#![") {
            match self.rest().find(']') {
                Some(end) => self.at += end + 1,
                None => return self.lost(self.at..self.text.len(), "this `#![…]` never ends", ""),
            }
            self.space()?;
        }
        Ok(())
    }

    fn document(&mut self) -> Result<Node, Lost> {
        self.attributes()?;
        let node = self.value("the file")?;
        self.space()?;
        if self.at < self.text.len() {
            let end = self.word_end(self.at);
            return self.lost(
                self.at..end,
                "the configuration ends before this",
                "the file is one `( … )`; is a parenthesis closed too early?",
            );
        }
        Ok(node)
    }

    pub(super) fn value(&mut self, of: &str) -> Result<Node, Lost> {
        self.space()?;
        let start = self.at;
        let Some(first) = self.peek() else {
            return self.lost(start..start, format!("the file ends where {of} needs a value"), "");
        };
        match first {
            '"' => self.string(),
            '(' | '[' | '{' => self.deeper(first, None, start),
            '\'' => self.single_quoted(),
            '0'..='9' | '+' | '-' | '.' => self.number(),
            ',' | ')' | ']' | '}' | ':' | '=' | ';' => {
                if matches!(first, ':' | '=' | ';') {
                    self.at += 1;
                }
                self.slip(
                    start..start + 1,
                    format!("{of} needs a value before this {}", quoted(&first.to_string())),
                    "",
                )?;
                Ok(Node { span: start..start, kind: Kind::Broken })
            }
            'r' if self.raw_string_hashes(1).is_some() => self.raw_string(1),
            'b' if self.rest().starts_with("b\"") => {
                self.at += 1;
                let node = self.string()?;
                Ok(Node { span: start..node.span.end, kind: Kind::Other("bytes") })
            }
            'b' if self.rest().starts_with("br") && self.raw_string_hashes(2).is_some() => {
                let node = self.raw_string(2)?;
                Ok(Node { span: node.span, kind: Kind::Other("bytes") })
            }
            c if is_word_start(c) => self.word(),
            _ => self.unquoted(start),
        }
    }

    pub(super) fn deeper(
        &mut self,
        open: char,
        name: Option<String>,
        start: usize,
    ) -> Result<Node, Lost> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.lost(self.at..self.at + 1, "values are nested too deep here", "");
        }
        let opening = self.at..self.at + 1;
        self.at += 1;
        let kind = match open {
            '(' => self.parenthesised(name, opening)?,
            '[' => self.list(opening)?,
            _ => self.map(opening)?,
        };
        self.depth -= 1;
        Ok(Node { span: start..self.at, kind })
    }

    fn parenthesised(&mut self, name: Option<String>, opening: Span) -> Result<Kind, Lost> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut values: Vec<Node> = Vec::new();
        while !self.closes(')', &opening)? {
            if let Some((name, name_span)) = self.field_name()? {
                let value = self.value(&quoted(&name))?;
                entries.push(Entry { name, name_span, value });
            } else {
                values.push(self.value("this")?);
                self.space()?;
                if self.peek() == Some(':') {
                    self.quoted_name(&mut values, &mut entries)?;
                }
            }
            self.separator(')')?;
        }
        if name.as_deref() == Some("Some") && entries.is_empty() && values.len() == 1 {
            return Ok(values.remove(0).kind);
        }
        if let Some(entry) = entries.first() {
            for value in values.iter().filter(|value| value.kind != Kind::Broken) {
                let (message, help) = match &value.kind {
                    Kind::Named { name: Some(word), body: Body::Unit } => {
                        (format!("{} has no value", quoted(word)), format!("write {word}: …"))
                    }
                    _ => (
                        "this value has no name in front of it".to_owned(),
                        format!("write NAME: value, as in {}: …", entry.name),
                    ),
                };
                self.slip(value.span.clone(), message, &help)?;
            }
        }
        let body = if entries.is_empty() { Body::Tuple(values) } else { Body::Struct(entries) };
        Ok(Kind::Named { name, body })
    }

    /// `"name": value` inside parentheses, as JSON has it: told, and understood.
    fn quoted_name(
        &mut self,
        values: &mut Vec<Node>,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Lost> {
        let Some(Node { span, kind }) = values.pop() else { return Ok(()) };
        let name = match kind {
            Kind::Text(name) => {
                let help = format!("{name}: …");
                self.slip(span.clone(), "the name of a field stands without quotes", &help)?;
                name
            }
            _ => {
                self.slip(span.clone(), "this is no name of a field", "")?;
                String::new()
            }
        };
        self.at += 1;
        let value = self.value(&quoted(&name))?;
        if !name.is_empty() {
            entries.push(Entry { name, name_span: span, value });
        }
        Ok(())
    }

    /// `name:` (or, told, `name =`); nothing is read when something else stands here.
    fn field_name(&mut self) -> Result<Option<(String, Span)>, Lost> {
        let start = self.at;
        if !self.peek().is_some_and(is_word_start) || self.raw_string_hashes(1).is_some() {
            return Ok(None);
        }
        let mut name = self.identifier();
        if let Some(length) = self.goes_on_with_hyphens() {
            self.at += length;
            name = self.text[start..self.at].replace('-', "_");
            let help = format!("{name}: …");
            self.slip(start..self.at, "the name of a field has `_`, not `-`", &help)?;
        }
        let span = start..self.at;
        self.space()?;
        let assigns = ["=>", ":=", "="].into_iter().find(|sign| self.rest().starts_with(sign));
        if let Some(sign) = assigns {
            let help = format!("{name}: …");
            let message = format!("a field is set with `:`, not with `{sign}`");
            self.slip(self.at..self.at + sign.len(), message, &help)?;
            self.at += sign.len();
            return Ok(Some((name, span)));
        }
        match self.peek() {
            Some(':') => {
                self.at += 1;
                Ok(Some((name, span)))
            }
            Some('"' | '0'..='9' | '[') => {
                let help = format!("{name}: …");
                self.slip(
                    span.clone(),
                    format!("a `:` is missing after {}", quoted(&name)),
                    &help,
                )?;
                Ok(Some((name, span)))
            }
            _ => {
                self.at = start;
                Ok(None)
            }
        }
    }
}
