//! Lists and maps of a file's text, and where what was opened ends.

use super::problem::{Problem, Span};
use super::scan::{Lost, Scanner};
use super::tree::{Kind, Node};

impl Scanner<'_, '_> {
    pub(super) fn list(&mut self, opening: Span) -> Result<Kind, Lost> {
        let mut values = Vec::new();
        while !self.closes(']', &opening)? {
            values.push(self.value("the list")?);
            self.separator(']')?;
        }
        Ok(Kind::List(values))
    }

    pub(super) fn map(&mut self, opening: Span) -> Result<Kind, Lost> {
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
    pub(super) fn closes(&mut self, closer: char, opening: &Span) -> Result<bool, Lost> {
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
    pub(super) fn separator(&mut self, closer: char) -> Result<(), Lost> {
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
                if let Some(span) = self.last_text.clone().filter(|span| span.end == end) {
                    let problem = Problem::error(
                        self.file,
                        span.start..span.start + 1,
                        "the closing quote of this text seems to be missing",
                    )
                    .also(self.place(end - 1..end), "it goes on to this quote");
                    return self.give_up(problem);
                }
                let problem = Problem::error(self.file, end..end, "a comma is missing here");
                self.count(problem)
            }
        }
    }
}
