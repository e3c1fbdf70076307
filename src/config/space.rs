//! What lies between the values of a file's text, and how a fault in it is told.

use super::problem::{Place, Problem, Span};
use super::scan::{Lost, Scanner};

/// After so many slips the rest of the file is not worth guessing at.
const MOST_SLIPS: usize = 25;

impl<'t> Scanner<'t, '_> {
    /// Passes over white space and comments.
    pub(super) fn space(&mut self) -> Result<(), Lost> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(is_space);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.block_comment()?;
            } else if trimmed.starts_with('#') && !trimmed.starts_with("#![") {
                self.slip(self.at..self.at + 1, "a comment begins with `//`, not with `#`", "")?;
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with('\u{a0}') {
                let span = self.at..self.at + 2;
                self.slip(
                    span,
                    "this is a no-break space",
                    "it looks like a space, but is none; type a plain one",
                )?;
                self.at += 2;
            } else if trimmed.starts_with("-- ") {
                self.slip(self.at..self.at + 2, "a comment begins with `//`, not with `--`", "")?;
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if let Some(c) = trimmed.chars().next().filter(|c| is_odd_space(*c)) {
                let end = self.at + c.len_utf8();
                self.slip(
                    self.at..end,
                    format!(
                        "here is U+{:04X}, which looks like a space or like nothing",
                        u32::from(c)
                    ),
                    "delete it, or type a plain space",
                )?;
                self.at = end;
            } else {
                return Ok(());
            }
        }
    }

    pub(super) fn block_comment(&mut self) -> Result<(), Lost> {
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

    pub(super) fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn place(&self, span: Span) -> Place {
        Place { file: self.file, span }
    }

    pub(super) fn word_end(&self, start: usize) -> usize {
        let rest = &self.text[start..];
        let length = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        start + length.max(1)
    }

    /// A fault after which reading goes on.
    pub(super) fn slip(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: &str,
    ) -> Result<(), Lost> {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.count(Problem::error(self.file, span, message).maybe_help(help))
    }

    pub(super) fn count(&mut self, problem: Problem) -> Result<(), Lost> {
        self.slips += 1;
        self.problems.push(self.whole_characters(problem));
        if self.slips < MOST_SLIPS { Ok(()) } else { Err(Lost) }
    }

    /// A fault that ends the reading.
    pub(super) fn lost<T>(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: &str,
    ) -> Result<T, Lost> {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.give_up(Problem::error(self.file, span, message).maybe_help(help))
    }

    pub(super) fn give_up<T>(&mut self, problem: Problem) -> Result<T, Lost> {
        self.slips += 1;
        self.problems.push(self.whole_characters(problem));
        Err(Lost)
    }

    /// A place that begins or ends inside a character is made to hold all of it.
    fn whole_characters(&self, mut problem: Problem) -> Problem {
        if let Some(span) = &mut problem.span {
            while !self.text.is_char_boundary(span.start) {
                span.start -= 1;
            }
            while span.end < self.text.len() && !self.text.is_char_boundary(span.end) {
                span.end += 1;
            }
        }
        problem
    }
}

/// Spaces of typography and characters without width: not RON's, and not to be seen.
fn is_odd_space(c: char) -> bool {
    matches!(
        c,
        '\u{1680}' | '\u{180e}' | '\u{2000}'
            ..='\u{200d}' | '\u{202f}' | '\u{205f}' | '\u{2060}' | '\u{3000}' | '\u{feff}'
    )
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
