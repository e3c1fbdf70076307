//! Bytes of unknown origin as text that can stand in a log, on a terminal and in one line: control
//! characters, what is not UTF-8, and the characters that reorder or break a line are shown as
//! escapes (`\x1b`, `\u{202e}`). A tab stays. A backslash stays too: the form is for people and is
//! not meant to be undone.

use std::borrow::Cow;

/// Whether the byte is printable ASCII or a tab.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t')
}

/// Whether a character outside ASCII may stand as it is: no C1 control (ISO 6429), nothing
/// that changes the direction of text (Unicode TR 9), no line or paragraph separator, no byte
/// order mark.
fn is_harmless(character: char) -> bool {
    !matches!(character,
        '\u{80}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Whether a character may stand as it is.
pub fn is_safe(character: char) -> bool {
    match u8::try_from(character) {
        Ok(byte) if character.is_ascii() => is_plain(byte),
        _ => is_harmless(character),
    }
}

/// Appends `bytes` in their safe form.
pub fn push_safe(out: &mut Vec<u8>, bytes: &[u8]) {
    // Without an early end: the compiler makes vector instructions of it.
    if bytes.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        push_text(out, chunk.valid());
        for byte in chunk.invalid() {
            push_hex(out, *byte);
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut from = 0;
    for (at, character) in text.char_indices() {
        if is_safe(character) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[from..at]);
        from = at + character.len_utf8();
        match character {
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            _ if character.is_ascii() => push_hex(out, character as u8),
            _ => out.extend_from_slice(character.escape_unicode().to_string().as_bytes()),
        }
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    out.extend_from_slice(b"\\x");
    out.extend_from_slice(&digits);
}

/// `text` as one safe line.
pub fn safe_line(text: &str) -> Cow<'_, str> {
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(safe_bytes(text.as_bytes()))
}

/// Any bytes as one safe line.
pub fn safe_bytes(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    push_safe(&mut out, bytes);
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_harm_a_terminal_or_a_line_is_shown_as_an_escape() {
        assert_eq!(safe_line("a\x1b[31mb\nc\r\0"), "a\\x1b[31mb\\nc\\r\\x00");
        assert_eq!(safe_line("\u{9b}1m \u{202e}x \u{2028}"), "\\u{9b}1m \\u{202e}x \\u{2028}");
        assert_eq!(safe_bytes(b"a\xffb\xc3"), "a\\xffb\\xc3");
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(safe_line("Grüße, 日本\t\\n"), "Grüße, 日本\t\\n");
        assert!(matches!(safe_line("plain"), Cow::Borrowed(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_one_line_without_controls_and_twice_is_the_same(bytes: Vec<u8>) {
            let once = safe_bytes(&bytes);
            let bad = once.chars().any(|c| c.is_control() && c != '\t');
            proptest::prop_assert!(!bad, "{once:?}");
            proptest::prop_assert_eq!(safe_line(&once).into_owned(), once.clone());
        }
    }
}
