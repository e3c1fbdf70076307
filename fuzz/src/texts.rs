//! Foreign text: what a task wrote, made into something that may be shown.

use runner::policy::{fingerprint as identity, safe as shows};
use runner::wire::outcome::Outcome;
use runner::wire::report::MAX_MESSAGE;
use runner::wire::safe as wire;

/// Panics unless the text is one line that a log and a terminal may have.
pub fn plain(text: &str) {
    assert!(!text.chars().any(|c| c != '\t' && (c.is_control() || !wire::is_safe(c))), "{text:?}");
}

/// Panics unless the text is one line that a mail may have.
pub fn shown(text: &str) {
    assert!(text.chars().all(shows::is_shown), "{text:?}");
}

/// Of any standard error and any end: a short number, the same each time, and a line that may be
/// shown, never empty and never long. The first byte is the end.
pub fn fingerprint(bytes: &[u8]) {
    let Some((first, stderr)) = bytes.split_first() else { return };
    let outcome = match first {
        b't' => Outcome::Timeout,
        b'c' => Outcome::CannotStart,
        b'r' => Outcome::Raised,
        b's' => Outcome::Signal(9),
        code => Outcome::Exit(*code),
    };
    let found = identity::of(&outcome, stderr);
    assert!(found.fingerprint.len() == 16);
    assert!(found.fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!((1..=MAX_MESSAGE).contains(&found.message.len()), "{:?}", found.message);
    shown(&found.message);
    assert_eq!(identity::of(&outcome, stderr), found);
    let normalised = identity::normalised(&String::from_utf8_lossy(stderr));
    assert!(normalised.len() <= 8 * stderr.len() + 64, "{} bytes", normalised.len());
}

/// Both forms of foreign text: bounded, without anything that acts, and once is as good as twice.
/// The first two bytes are the bound.
pub fn safe(bytes: &[u8]) {
    let Some((bound, rest)) = bytes.split_first_chunk::<2>() else { return };
    let max = usize::from(u16::from_le_bytes(*bound));
    let text = String::from_utf8_lossy(rest);
    let line = shows::line(&text, max);
    assert!(line.len() <= max);
    shown(&line);
    assert_eq!(shows::line(&line, max), line);
    let (lines, width) = (max % 64, max / 64);
    let last = shows::last_lines(&text, lines, width, max);
    assert!(last.len() <= lines);
    assert!(last.iter().all(|line| line.len() <= width));
    assert!(last.iter().map(|line| line.len() + 1).sum::<usize>() <= max.max(1));
    last.iter().for_each(|line| shown(line));
    assert!(shows::keep_blanks(&text).len() <= text.len());
    let once = wire::safe_bytes(rest);
    plain(&once);
    assert!(once.len() <= rest.len() * 8);
    assert_eq!(wire::safe_line(&once), once);
    plain(&wire::safe_line(&text));
}
