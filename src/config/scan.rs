//! A file's text → a tree of values with the place of each.
//!
//! The ron crate is the judge of the syntax, but it stops at the first fault and keeps no
//! positions. This reader accepts what ron accepts, keeps the place of every value, and goes on
//! after the slips that people make (a comma forgotten, `=` for `:`, quotes left out), so that one
//! look tells all of them. Both must be content. Total: any text gives a tree or a problem.

use super::problem::{Problem, Problems, Span, quoted};
use super::tree::{Body, Entry, Kind, Node};

/// How deep values may be nested; a configuration needs about eight.
const DEEPEST: usize = 64;

/// After so many slips the rest of the file is not worth guessing at.
const MOST_SLIPS: usize = 25;

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

fn ron_options() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

/// The byte where ron's line and column (both from 1, columns in characters) lie.
fn offset(text: &str, position: ron::error::Position) -> usize {
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
struct Lost;

struct Scanner<'t, 'p> {
    text: &'t str,
    at: usize,
    file: usize,
    depth: usize,
    slips: usize,
    /// The last text that spans lines: a quote may be missing there.
    last_text: Option<Span>,
    problems: &'p mut Problems,
}

impl<'t> Scanner<'t, '_> {
    fn document(&mut self) -> Result<Node, Lost> {
        self.space()?;
        while self.rest().starts_with("#![") {
            match self.rest().find(']') {
                Some(end) => self.at += end + 1,
                None => return self.lost(self.at..self.text.len(), "this `#![…]` never ends", ""),
            }
            self.space()?;
        }
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

    fn value(&mut self, of: &str) -> Result<Node, Lost> {
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

    /// What starts with a letter: `true`, `None`, `Some(…)`, `Word`, `Word(…)`.
    fn word(&mut self) -> Result<Node, Lost> {
        let start = self.at;
        let name = self.identifier();
        let after = self.peek();
        if after.is_some_and(|c| !c.is_whitespace() && !",()[]{}:;=/\"'".contains(c))
            || self.rest().starts_with('/')
                && !self.rest().starts_with("//")
                && !self.rest().starts_with("/*")
        {
            return self.unquoted(start);
        }
        let span = start..self.at;
        match name.as_str() {
            "true" => return Ok(Node { span, kind: Kind::Bool(true) }),
            "false" => return Ok(Node { span, kind: Kind::Bool(false) }),
            "None" => return Ok(Node { span, kind: Kind::None }),
            "inf" | "NaN" => return Ok(Node { span, kind: Kind::Float }),
            _ => {}
        }
        let back = self.at;
        self.space()?;
        if self.peek() == Some('(') {
            return self.deeper('(', Some(name), start);
        }
        self.at = back;
        Ok(Node { span, kind: Kind::Named { name: Some(name), body: Body::Unit } })
    }

    fn deeper(&mut self, open: char, name: Option<String>, start: usize) -> Result<Node, Lost> {
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
        if let (Some(value), Some(entry)) = (values.first(), entries.first())
            && value.kind != Kind::Broken
        {
            let help = format!("write NAME: value, as in {}: …", entry.name);
            self.slip(value.span.clone(), "this value has no name in front of it", &help)?;
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
        let name = self.identifier();
        let span = start..self.at;
        self.space()?;
        match self.peek() {
            Some(':') => {
                self.at += 1;
                Ok(Some((name, span)))
            }
            Some('=') => {
                let help = format!("{name}: …");
                self.slip(self.at..self.at + 1, "a field is set with `:`, not with `=`", &help)?;
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

    fn list(&mut self, opening: Span) -> Result<Kind, Lost> {
        let mut values = Vec::new();
        while !self.closes(']', &opening)? {
            values.push(self.value("the list")?);
            self.separator(']')?;
        }
        Ok(Kind::List(values))
    }

    fn map(&mut self, opening: Span) -> Result<Kind, Lost> {
        let mut entries = Vec::new();
        while !self.closes('}', &opening)? {
            let key = self.value("the map")?;
            self.space()?;
            let at = self.at;
            match self.peek() {
                Some(':') => self.at += 1,
                Some('=') => {
                    self.slip(at..at + 1, "a key is followed by `:`, not by `=`", "")?;
                    self.at += 1;
                }
                _ => self.slip(
                    key.span.clone(),
                    "this key has no value",
                    "write \"KEY\": \"value\"",
                )?,
            }
            let value = if matches!(self.peek(), Some(',' | '}')) {
                Node { span: at..at, kind: Kind::Broken }
            } else {
                self.value("the key")?
            };
            entries.push((key, value));
            self.separator('}')?;
        }
        Ok(Kind::Map(entries))
    }

    /// Whether what was opened ends here.
    fn closes(&mut self, closer: char, opening: &Span) -> Result<bool, Lost> {
        self.space()?;
        match self.peek() {
            Some(c) if c == closer => {
                self.at += 1;
                Ok(true)
            }
            Some(c @ (')' | ']' | '}')) => {
                let opened = &self.text[opening.clone()];
                let problem = Problem::error(
                    self.file,
                    self.at..self.at + 1,
                    format!("`{c}` cannot close what `{opened}` opened"),
                )
                .label(format!("expected `{closer}`"))
                .also(self.place(opening.clone()), "opened here");
                self.give_up(problem)
            }
            Some(_) => Ok(false),
            None => {
                let opened = &self.text[opening.clone()];
                let problem = Problem::error(
                    self.file,
                    opening.clone(),
                    format!("this `{opened}` is never closed"),
                )
                .label(format!("no `{closer}` up to the end of the file"));
                self.give_up(problem)
            }
        }
    }

    /// A comma, unless what was opened ends here.
    fn separator(&mut self, closer: char) -> Result<(), Lost> {
        let end = self.at;
        self.space()?;
        match self.peek() {
            Some(',') => {
                self.at += 1;
                self.space()?;
                while self.peek() == Some(',') {
                    self.slip(self.at..self.at + 1, "one comma too many", "")?;
                    self.at += 1;
                    self.space()?;
                }
                Ok(())
            }
            Some(c) if c == closer => Ok(()),
            None | Some(')' | ']' | '}') => Ok(()),
            Some(';') => {
                self.slip(self.at..self.at + 1, "values are separated by `,`, not by `;`", "")?;
                self.at += 1;
                Ok(())
            }
            Some(_) => {
                let end = self.text[..end].trim_end().len();
                let problem = Problem::error(self.file, end..end, "a comma is missing here");
                let problem = match self.last_text.clone() {
                    Some(span) if span.end == end => problem
                        .also(self.place(span.start..span.start + 1), "this text began here")
                        .help("the text before it goes over several lines: is its closing quote missing?"),
                    _ => problem,
                };
                self.count(problem)
            }
        }
    }

    fn string(&mut self) -> Result<Node, Lost> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                None => {
                    let line = self.text[start..].find('\n').map_or(self.text.len(), |n| start + n);
                    return self.lost(
                        start..line,
                        "this text never ends",
                        "a closing quote `\"` is missing",
                    );
                }
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        end += 1;
        self.at = end;
        let span = start..end;
        let token = &self.text[span.clone()];
        if token.contains('\n') {
            self.last_text = Some(span.clone());
        }
        match ron::from_str::<String>(token) {
            Ok(text) => Ok(Node { span, kind: Kind::Text(text) }),
            Err(error) => {
                let at = start + offset(token, error.span.start).min(token.len());
                self.slip(
                    at.min(end - 1)..end,
                    format!("this text cannot be read: {}", error.code),
                    "a backslash is written `\\\\`; or use a raw text: r\"…\"",
                )?;
                Ok(Node { span, kind: Kind::Broken })
            }
        }
    }

    /// The `#`s of a raw text that starts after `skip` letters, if one stands here.
    fn raw_string_hashes(&self, skip: usize) -> Option<usize> {
        let rest = self.rest().get(skip..)?;
        if !self.rest()[..skip].ends_with('r') {
            return None;
        }
        let hashes = rest.bytes().take_while(|b| *b == b'#').count();
        rest[hashes..].starts_with('"').then_some(hashes)
    }

    fn raw_string(&mut self, skip: usize) -> Result<Node, Lost> {
        let start = self.at;
        let hashes = self.raw_string_hashes(skip).unwrap_or(0);
        let inner = start + skip + hashes + 1;
        let closing = format!("\"{}", "#".repeat(hashes));
        match self.text[inner..].find(&closing) {
            Some(length) => {
                let text = self.text[inner..inner + length].to_owned();
                self.at = inner + length + closing.len();
                Ok(Node { span: start..self.at, kind: Kind::Text(text) })
            }
            None => {
                let help = format!("{closing} is missing");
                self.lost(start..inner, "this raw text never ends", &help)
            }
        }
    }

    /// `'c'` is a character in RON; people write it for text.
    fn single_quoted(&mut self) -> Result<Node, Lost> {
        let start = self.at;
        let line_end = self.rest().find('\n').map_or(self.text.len(), |n| start + n);
        let escaped = usize::from(self.text[start..].starts_with("'\\"));
        let inner = (start + 1 + 2 * escaped).min(line_end);
        let Some(length) = self.text.get(inner..line_end).and_then(|rest| rest.find('\'')) else {
            return self.lost(
                start..line_end,
                "this `'` is never closed",
                "text stands in double quotes: \"…\"",
            );
        };
        self.at = inner + length + 1;
        let span = start..self.at;
        let token = &self.text[span.clone()];
        if ron::from_str::<char>(token).is_ok() {
            return Ok(Node { span, kind: Kind::Other("a character in `'…'`") });
        }
        let text = token[1..token.len() - 1].to_owned();
        let help = format!("write \"{text}\"");
        self.slip(span.clone(), "text stands in double quotes", &help)?;
        Ok(Node { span, kind: Kind::Text(text) })
    }

    fn number(&mut self) -> Result<Node, Lost> {
        let start = self.at;
        let length = self
            .rest()
            .find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-".contains(c)))
            .unwrap_or(self.rest().len());
        self.at = start + length;
        let span = start..self.at;
        let token = &self.text[span.clone()];
        if let Ok(number) = ron::from_str::<i64>(token) {
            return Ok(Node { span, kind: Kind::Int(number.into()) });
        }
        if let Ok(number) = ron::from_str::<u64>(token) {
            return Ok(Node { span, kind: Kind::Int(number.into()) });
        }
        if ron::from_str::<f64>(token).is_ok() {
            return Ok(Node { span, kind: Kind::Float });
        }
        self.unquoted(start)
    }

    /// Text whose quotes were forgotten: told, and understood as that text.
    fn unquoted(&mut self, start: usize) -> Result<Node, Lost> {
        let rest = &self.text[start..];
        if rest.starts_with(['“', '”', '‘', '’', '„', '«']) {
            let end = rest[3..].find(['”', '“', '’', '\n', ',']).map_or(rest.len(), |n| 3 + n);
            let end = start
                + end
                + rest[end..]
                    .chars()
                    .next()
                    .filter(|c| "”“’".contains(*c))
                    .map_or(0, char::len_utf8);
            self.at = end;
            self.slip(
                start..end,
                "these are typographic quotes",
                "text stands in plain double quotes: \"…\"",
            )?;
            return Ok(Node { span: start..end, kind: Kind::Broken });
        }
        let length = rest.find([',', ')', ']', '}', '\n', '"']).unwrap_or(rest.len());
        let text = rest[..length].trim_end();
        let text = text.split(" //").next().unwrap_or(text).trim_end();
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let span = start..start + text.len().max(first).min(rest.len());
        self.at = span.end;
        let text = &self.text[span.clone()];
        let duration = humantime::parse_duration(text).is_ok();
        let message =
            if duration { "a duration stands in quotes" } else { "text stands in quotes" };
        let help = format!("write \"{}\"", quoted(text).trim_matches('`'));
        self.slip(span.clone(), message, &help)?;
        Ok(Node { kind: Kind::Text(text.to_owned()), span })
    }

    fn identifier(&mut self) -> String {
        let raw = usize::from(self.rest().starts_with("r#")) * 2;
        let start = self.at + raw;
        let rest = &self.text[start..];
        let length = rest
            .find(|c: char| !(c == '_' || c.is_alphanumeric() || (raw > 0 && ".+-".contains(c))))
            .unwrap_or(rest.len());
        self.at = start + length;
        rest[..length].to_owned()
    }

    /// Passes over white space and comments.
    fn space(&mut self) -> Result<(), Lost> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(is_space);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.block_comment()?;
            } else if trimmed.starts_with('\u{a0}') {
                let span = self.at..self.at + 2;
                self.slip(
                    span,
                    "this is a no-break space",
                    "it looks like a space, but is none; type a plain one",
                )?;
                self.at += 2;
            } else {
                return Ok(());
            }
        }
    }

    fn block_comment(&mut self) -> Result<(), Lost> {
        let start = self.at;
        let mut depth = 0usize;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Ok(());
                }
            } else {
                match rest.chars().next() {
                    Some(c) => self.at += c.len_utf8(),
                    None => {
                        return self.lost(
                            start..start + 2,
                            "this comment never ends",
                            "`*/` is missing",
                        );
                    }
                }
            }
        }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn place(&self, span: Span) -> super::problem::Place {
        super::problem::Place { file: self.file, span }
    }

    fn word_end(&self, start: usize) -> usize {
        let rest = &self.text[start..];
        let length = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        start + length.max(1).min(rest.len())
    }

    /// A fault after which reading goes on.
    fn slip(&mut self, span: Span, message: impl Into<String>, help: &str) -> Result<(), Lost> {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.count(Problem::error(self.file, span, message).maybe_help(help))
    }

    fn count(&mut self, problem: Problem) -> Result<(), Lost> {
        self.slips += 1;
        self.problems.push(problem);
        if self.slips < MOST_SLIPS { Ok(()) } else { Err(Lost) }
    }

    /// A fault that ends the reading.
    fn lost<T>(&mut self, span: Span, message: impl Into<String>, help: &str) -> Result<T, Lost> {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.give_up(Problem::error(self.file, span, message).maybe_help(help))
    }

    fn give_up<T>(&mut self, problem: Problem) -> Result<T, Lost> {
        self.slips += 1;
        self.problems.push(problem);
        Err(Lost)
    }
}

fn is_word_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

/// RON's white space.
fn is_space(c: char) -> bool {
    matches!(
        c,
        ' ' | '\t'
            | '\n'
            | '\r'
            | '\u{b}'
            | '\u{c}'
            | '\u{85}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'
            | '\u{2029}'
    )
}
