//! Single values of a file's text: words, numbers, texts; and texts whose quotes were forgotten.

use super::problem::quoted;
use super::scan::{Lost, Scanner, offset};
use super::tree::{Body, Kind, Node};

impl Scanner<'_, '_> {
    /// What starts with a letter: `true`, `None`, `Some(…)`, `Word`, `Word(…)`.
    pub(super) fn word(&mut self) -> Result<Node, Lost> {
        let start = self.at;
        let name = self.identifier();
        if self.goes_on_as_text() {
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

    /// Whether what follows a word shows that the word is part of a text without quotes: a
    /// character that no word has, or a second word in the same line that is no field's name.
    pub(super) fn goes_on_as_text(&self) -> bool {
        let rest = self.rest();
        if rest.starts_with("//") || rest.starts_with("/*") {
            return false;
        }
        if rest.starts_with(|c: char| !c.is_whitespace() && !",()[]{}:;=\"'#".contains(c)) {
            return true;
        }
        let second = rest.trim_start_matches([' ', '\t']);
        if second.len() == rest.len() || !second.starts_with(is_word_start) {
            return false;
        }
        let after = second.trim_start_matches(|c: char| c == '_' || c.is_alphanumeric());
        !after.trim_start_matches([' ', '\t']).starts_with([':', '=', '('])
    }

    pub(super) fn string(&mut self) -> Result<Node, Lost> {
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
    pub(super) fn raw_string_hashes(&self, skip: usize) -> Option<usize> {
        let rest = self.rest().get(skip..)?;
        if !self.rest()[..skip].ends_with('r') {
            return None;
        }
        let hashes = rest.bytes().take_while(|b| *b == b'#').count();
        rest[hashes..].starts_with('"').then_some(hashes)
    }

    pub(super) fn raw_string(&mut self, skip: usize) -> Result<Node, Lost> {
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
    pub(super) fn single_quoted(&mut self) -> Result<Node, Lost> {
        let start = self.at;
        let mut chars = self.rest().chars().skip(1);
        if let (Some(c), Some('\'')) = (chars.next(), chars.next())
            && c != '\\'
        {
            self.at = start + 2 + c.len_utf8();
            let kind = Kind::Other("a character in `'…'`");
            return Ok(Node { span: start..self.at, kind });
        }
        let line_end = self.rest().find('\n').map_or(self.text.len(), |n| start + n);
        let escaped = usize::from(self.rest().starts_with("'\\"));
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

    pub(super) fn number(&mut self) -> Result<Node, Lost> {
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
        // Too large for any field, but whole.
        if let Ok(number) = token.replace('_', "").parse::<i128>() {
            return Ok(Node { span, kind: Kind::Int(number) });
        }
        if ron::from_str::<f64>(token).is_ok() {
            return Ok(Node { span, kind: Kind::Float });
        }
        self.unquoted(start)
    }

    /// Text whose quotes were forgotten: told, and understood as that text.
    pub(super) fn unquoted(&mut self, start: usize) -> Result<Node, Lost> {
        let rest = &self.text[start..];
        if rest.starts_with(['“', '”', '‘', '’', '„', '«']) {
            let opening = rest.chars().next().map_or(0, char::len_utf8);
            let inner = &rest[opening..];
            let length = inner.find(['”', '“', '’', '»', '\n', ',']).unwrap_or(inner.len());
            let closing = inner[length..].chars().next().filter(|c| "”“’»".contains(*c));
            let end = start + opening + length + closing.map_or(0, char::len_utf8);
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

    /// The length of `-root` behind `run`, if that is the rest of a field's name.
    pub(super) fn goes_on_with_hyphens(&self) -> Option<usize> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c == '_' || c == '-' || c.is_ascii_alphanumeric()))
            .unwrap_or(rest.len());
        let after = rest[length..].trim_start_matches([' ', '\t']);
        (rest.starts_with('-') && after.starts_with([':', '='])).then_some(length)
    }

    pub(super) fn identifier(&mut self) -> String {
        let raw = usize::from(self.rest().starts_with("r#")) * 2;
        let start = self.at + raw;
        let rest = &self.text[start..];
        let length = rest
            .find(|c: char| !(c == '_' || c.is_alphanumeric() || (raw > 0 && ".+-".contains(c))))
            .unwrap_or(rest.len());
        self.at = start + length;
        rest[..length].to_owned()
    }
}

pub(super) fn is_word_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}
