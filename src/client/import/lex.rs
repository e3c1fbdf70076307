//! Shell text as words and operators (sh(1p), bash(1)), as far as start scripts need it. Nothing
//! is run: what only a shell could know stays as it is written.

use std::collections::BTreeMap;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text that means itself.
    Text(String),
    /// `$name` or `${name}`.
    Variable(String),
    /// `${name:-text}` and `${name:=text}`: the name, and the text if nothing else is known.
    Default(String, String),
    /// `$(…)`, `` `…` ``, `${name##…}`: only a shell knows.
    Opaque(String),
}

/// What a text is made of, and where each piece stands in it (bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word.
    Word(Vec<Part>),
    /// `&&`, `;`, a newline and so on.
    Operator(&'static str),
    /// A redirection without its target: the descriptor before it, and the operator.
    Redirect(Option<char>, &'static str),
}

/// A token and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Longest first.
const REDIRECTS: [&str; 9] = ["&>>", "&>", "<<-", "<<", "<", ">>", ">&", ">|", ">"];
const OPERATORS: [&str; 9] = ["&&", "||", ";;", "|&", "|", ";", "&", "(", ")"];

/// Cuts a text into tokens. Total: what is not closed ends with the text.
pub(super) fn lex(text: &str) -> Vec<Placed> {
    let mut tokens: Vec<Placed> = Vec::new();
    let mut at = 0;
    // What ends the here-documents that begin at the next line.
    let mut ends: Vec<String> = Vec::new();
    while at < text.len() {
        let rest = &text[at..];
        let start = at;
        let mut push = |token, length: usize| {
            at = start + length;
            tokens.push(Placed { token, start, end: start + length });
        };
        if rest.starts_with("\\\n") {
            at += 2;
        } else if rest.starts_with('\n') {
            push(Token::Operator("\n"), 1);
            for end in ends.drain(..) {
                let body = text[at..].split_inclusive('\n');
                let lines = body.take_while(|line| line.trim() != end);
                at += lines.map(str::len).sum::<usize>();
                at += text[at..].find('\n').unwrap_or(text.len() - at);
            }
        } else if rest.starts_with([' ', '\t', '\r']) {
            at += 1;
        } else if rest.starts_with('#') {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some((fd, operator)) = redirect(rest) {
            push(Token::Redirect(fd, operator), operator.len() + fd.map_or(0, char::len_utf8));
        } else if let Some(operator) = OPERATORS.iter().find(|one| rest.starts_with(**one)) {
            push(Token::Operator(operator), operator.len());
        } else {
            let (parts, length) = word(rest);
            push(Token::Word(parts), length.max(1));
            if let [.., Placed { token: Token::Redirect(_, "<<" | "<<-"), .. }, end] =
                tokens.as_slice()
                && let Token::Word(parts) = &end.token
            {
                ends.push(Variables::default().expand(parts));
            }
        }
    }
    tokens
}

fn redirect(rest: &str) -> Option<(Option<char>, &'static str)> {
    let fd = rest.chars().next().filter(char::is_ascii_digit);
    let after = &rest[fd.map_or(0, char::len_utf8)..];
    let found = REDIRECTS.iter().find(|one| after.starts_with(**one))?;
    (fd.is_none() || !found.starts_with('&')).then_some((fd, *found))
}

/// The word at the start of `text` and its length.
fn word(text: &str) -> (Vec<Part>, usize) {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut quote = None;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        match (quote, c) {
            (None, ' ' | '\t' | '\r' | '\n' | ';' | '|' | '(' | ')' | '<' | '>' | '&') => break,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (Some('\''), _) => plain.push(c),
            (_, '\\') => {
                let next = rest[1..].chars().next();
                match (quote, next) {
                    (_, Some('\n')) | (_, None) => {}
                    (Some(_), Some(other)) if !"$`\"\\".contains(other) => {
                        plain.extend(['\\', other]);
                    }
                    (_, Some(other)) => plain.push(other),
                }
                at += next.map_or(0, char::len_utf8);
            }
            (_, '$' | '`') => {
                let (part, length) = match quote {
                    None if rest.starts_with("$'") => ansi_c(rest),
                    _ => expansion(rest),
                };
                if let Part::Text(text) = part {
                    plain.push_str(&text);
                } else {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(part);
                }
                at += length;
                continue;
            }
            _ => plain.push(c),
        }
        at += c.len_utf8();
    }
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain));
    }
    (parts, at)
}

/// Bash's `$'…'`, whose escapes only bash knows, and its length.
fn ansi_c(text: &str) -> (Part, usize) {
    let mut escaped = false;
    let end = text.bytes().skip(2).position(|byte| {
        let ends = byte == b'\'' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    let length = end.map_or(text.len(), |end| end + 3);
    (Part::Opaque(text[..length].to_owned()), length)
}

/// What begins with `$` or a backquote, and its length.
fn expansion(text: &str) -> (Part, usize) {
    let upto = |close: char| text[1..].find(close).map_or(text.len(), |end| end + 2);
    let opaque = |length: usize| (Part::Opaque(text[..length].to_owned()), length);
    if text.starts_with('`') {
        return opaque(upto('`'));
    }
    if text.starts_with("$(") {
        return opaque(upto(')'));
    }
    if text.starts_with("${") {
        let length = upto('}');
        let name = text[2..length].trim_end_matches('}');
        if is_name(name) {
            return (Part::Variable(name.to_owned()), length);
        }
        let default = name.split_once(":-").or_else(|| name.split_once(":="));
        let default = default.or_else(|| name.split_once('-'));
        return match default.filter(|(name, text)| is_name(name) && !text.contains(['$', '`'])) {
            Some((name, text)) => (Part::Default(name.to_owned(), text.to_owned()), length),
            None => opaque(length),
        };
    }
    let rest = &text[1..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    if is_name(&rest[..end]) {
        return (Part::Variable(rest[..end].to_owned()), end + 1);
    }
    match rest.chars().next() {
        Some(c) if "@*#?$!-0123456789".contains(c) => opaque(2),
        _ => (Part::Text("$".to_owned()), 1),
    }
}

/// Whether it can be a variable's name.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The variables that a script has set so far, and what was asked for in vain.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables {
    pub(super) known: BTreeMap<String, String>,
    pub(super) unknown: Vec<String>,
    /// Shells within which the text stands that is being read.
    pub(super) depth: usize,
    /// Shells that were looked into so far.
    pub(super) shells: usize,
}

impl Variables {
    /// A word's meaning; what is not known stays as it is written and is remembered.
    pub(super) fn expand(&mut self, parts: &[Part]) -> String {
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Variable(name) => match self.known.get(name) {
                    Some(value) => text.push_str(value),
                    None => {
                        self.miss(format!("${name}"));
                        text.push('$');
                        text.push_str(name);
                    }
                },
                Part::Default(name, default) => {
                    let known = self.known.get(name).filter(|known| !known.is_empty());
                    text.push_str(known.unwrap_or(default));
                }
                Part::Opaque(raw) => {
                    self.miss(raw.clone());
                    text.push_str(raw);
                }
            }
        }
        text
    }

    fn miss(&mut self, what: String) {
        if !self.unknown.contains(&what) {
            self.unknown.push(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut variables = Variables::default();
        variables.known.insert("a".to_owned(), "A B".to_owned());
        lex(text)
            .into_iter()
            .map(|placed| match placed.token {
                Token::Word(parts) => variables.expand(&parts),
                Token::Operator(operator) => format!("<{operator}>"),
                Token::Redirect(fd, operator) => format!("[{}{operator}]", fd.unwrap_or(' ')),
            })
            .collect()
    }

    #[test]
    fn words_quotes_variables_and_redirections() {
        assert_eq!(
            words("x 'y $a' \"z $a \\$b\" ${a}q\\ r &>> log 2>&1 & disown # end"),
            ["x", "y $a", "z A B $b", "A Bq r", "[ &>>]", "log", "[2>&]", "1", "<&>", "disown"]
        );
        assert_eq!(words("a \\\n b\n\"c\\\nd\""), ["a", "b", "<\n>", "cd"]);
        assert_eq!(words("$unknown $(date) \"\""), ["$unknown", "$(date)", ""]);
        assert_eq!(words(r"$'e\'\n f'g $' h"), [r"$'e\'\n f'g", "$' h"]);
        assert_eq!(words("\"$'a'\""), ["$'a'"]);
        assert_eq!(words("${a:-c} ${b:-c d} ${b##x}"), ["A B", "c d", "${b##x}"]);
        assert_eq!(
            words("cat <<EOF >x\nsu me &\nEOF\nrun <<-'E F'\n\tE F\nb"),
            [
                "cat", "[ <<]", "EOF", "[ >]", "x", "<\n>", "<\n>", "run", "[ <<-]", "E F", "<\n>",
                "<\n>", "b"
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_cut_without_panic(text in "[a$`'\"\\\\(){}&|;<>\n 0é]*") {
            let mut end = 0;
            for placed in lex(&text) {
                proptest::prop_assert!(placed.start >= end && placed.end > placed.start);
                end = placed.end;
            }
        }
    }
}
