//! Foreign text made safe for a subject, a body, a log line or a terminal: valid UTF-8 without
//! control characters, escape sequences, invisible or direction-changing characters, and bounded.

/// One safe line of at most `max` bytes: line breaks and runs of blanks become one space; what is
/// cut is marked with `...`.
pub fn line(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut blank = false;
    for c in Plain::new(text) {
        if c.is_whitespace() {
            blank = !out.is_empty();
            continue;
        }
        if out.len() + usize::from(blank) + c.len_utf8() > max {
            return cut(out, max);
        }
        if std::mem::take(&mut blank) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// The last `lines` lines of a text, each of at most `width` bytes, `max` bytes in all; blank
/// lines at either end and the blanks that end a line are dropped. The earliest lines go first.
pub fn last_lines(text: &str, lines: usize, width: usize, max: usize) -> Vec<String> {
    let mut kept = Vec::new();
    let mut room = max;
    for raw in text.trim_end().lines().rev() {
        // A progress bar rewrites its line: the last state is what a person saw.
        let raw = raw.trim_end_matches('\r');
        let raw = raw.rsplit('\r').next().unwrap_or(raw);
        let safe = body_line(raw, width);
        if kept.len() >= lines || safe.len() + 1 > room {
            break;
        }
        room -= safe.len() + 1;
        kept.push(safe);
    }
    while kept.last().is_some_and(String::is_empty) {
        kept.pop();
    }
    kept.reverse();
    kept
}

/// A line without control characters and escape sequences; its blanks stay as they are.
pub fn keep_blanks(line: &str) -> String {
    Plain::new(line).collect()
}

/// One line of a body: blanks kept, tabs as spaces to the next multiple of eight.
pub fn body_line(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut column = 0_usize;
    for c in Plain::new(text) {
        let (c, times) = match c {
            '\t' => (' ', 8 - column % 8),
            c if c.is_whitespace() => (' ', 1),
            c => (c, 1),
        };
        for _ in 0..times {
            if out.len() + c.len_utf8() > max {
                return cut(out, max);
            }
            out.push(c);
            column += 1;
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Room for the mark, then the mark.
fn cut(mut out: String, max: usize) -> String {
    let room = max.saturating_sub(3);
    let mut at = out.len().min(room);
    while !out.is_char_boundary(at) {
        at -= 1;
    }
    out.truncate(at);
    out.truncate(out.trim_end().len());
    out.push_str(if max >= 3 { "..." } else { "" });
    out
}

/// The characters of a text that may be shown: escape sequences (ECMA-48) are skipped whole.
struct Plain<'a> {
    rest: std::str::Chars<'a>,
}

impl<'a> Plain<'a> {
    fn new(text: &'a str) -> Plain<'a> {
        Plain { rest: text.chars() }
    }

    /// Skips what follows an ESC: a control sequence, a string (title, hyperlink) or one letter.
    fn skip_escape(&mut self) {
        let mut ahead = self.rest.clone();
        match ahead.next() {
            Some('[') => {
                for c in ahead.by_ref().take(64) {
                    if ('@'..='~').contains(&c) {
                        self.rest = ahead;
                        return;
                    }
                    if !(' '..='?').contains(&c) {
                        return;
                    }
                }
            }
            Some(']' | 'P' | '_' | '^' | 'X') => {
                let mut before = '\0';
                for c in ahead.by_ref().take(2048) {
                    if c == '\u{7}' || (before == '\u{1b}' && c == '\\') {
                        self.rest = ahead;
                        return;
                    }
                    if c == '\n' {
                        return;
                    }
                    before = c;
                }
            }
            Some('(' | ')') if ahead.next().is_some_and(|c| c.is_ascii_alphanumeric()) => {
                self.rest = ahead;
            }
            Some('=' | '>' | '7' | '8' | 'c' | 'M') => self.rest = ahead,
            _ => {}
        }
    }
}

impl Iterator for Plain<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        loop {
            let c = self.rest.next()?;
            if c == '\u{1b}' {
                self.skip_escape();
            } else if is_shown(c) || c == '\n' || c == '\t' || c == '\r' {
                return Some(c);
            }
        }
    }
}

/// Whether a character may stand in a text of ours: it has a visible form or is a plain blank,
/// and changes nothing around it.
pub fn is_shown(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{e000}'..='\u{f8ff}')
        || (c as u32) >= 0xe_0000
        || (c as u32) & 0xfffe == 0xfffe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_without_tricks() {
        assert_eq!(line("a\r\nBcc: x\0\x07 \u{202e}evil\u{2066}", 99), "a Bcc: x evil");
        assert_eq!(line("\x1b[1;31merror\x1b[0m: no\x1b]0;title\x07 way", 99), "error: no way");
        assert_eq!(line("  spaced \t out  ", 99), "spaced out");
        assert_eq!(line("\x1b", 9), "");
    }

    #[test]
    fn a_line_is_bounded_at_a_character() {
        for max in 0..40 {
            let cut = line("ééééééééééééééééé und so weiter", max);
            assert!(cut.len() <= max, "{cut:?} is longer than {max}");
        }
        assert_eq!(line("abcdefgh", 6), "abc...");
        assert_eq!(line("abcdef", 6), "abcdef");
    }

    #[test]
    fn last_lines_keep_the_end() {
        assert_eq!(last_lines("one\ntwo\n\nthree\n\n", 3, 80, 999), ["two", "", "three"]);
        assert_eq!(last_lines("a\tb\n 10%\r 99%\r\n", 9, 80, 999), ["a       b", " 99%"]);
        assert_eq!(
            last_lines(&"x".repeat(1 << 20), 9, 20, 999),
            [format!("{}...", "x".repeat(17))]
        );
        assert!(last_lines("\n\n", 9, 80, 999).is_empty());
    }
}
