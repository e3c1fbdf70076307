//! Rust, Go, Ruby and PHP: each has its own form of a last word.

use super::{Said, quoted};

/// The last of any of them.
pub(super) fn find(lines: &[&str]) -> Option<Said> {
    [rust(lines), go(lines), ruby(lines), php(lines)]
        .into_iter()
        .flatten()
        .max_by_key(|said| said.end)
}

/// `thread 'NAME' panicked at FILE:LINE:COLUMN:` and the message below it; before Rust 1.73 the
/// message stood in the line. Several threads: the one that is not just a consequence.
fn rust(lines: &[&str]) -> Option<Said> {
    let mut found: Option<Said> = None;
    for (at, line) in lines.iter().enumerate() {
        let Some((_, place)) =
            line.split_once("panicked at ").filter(|_| line.contains("thread '"))
        else {
            continue;
        };
        let mut end = at + 1;
        let (place, message) = match place.strip_prefix('\'').and_then(|old| old.rsplit_once("', "))
        {
            Some((message, place)) => (place, message.to_owned()),
            None => {
                while end < lines.len()
                    && end - at <= 6
                    && !["note: ", "stack backtrace:", "thread '"]
                        .iter()
                        .any(|w| lines[end].starts_with(w))
                    && !lines[end].trim().is_empty()
                {
                    end += 1;
                }
                (place.trim_end_matches(':'), lines[at + 1..end].join(" "))
            }
        };
        let follows = message.contains("value: Any { .. }") || message.contains("PoisonError");
        if follows && let Some(found) = &mut found {
            found.end = end;
            continue;
        }
        let mut said = Said { end, sure: true, ..Said::default() };
        said.add(&message);
        // The line is kept, the column not: one binary has one place for it.
        said.identity.push_str(place.rsplit_once(':').map_or(place, |(line, _)| line));
        said.message = message;
        found = Some(said);
    }
    found
}

/// `panic: TEXT` or `fatal error: TEXT`, then goroutines.
fn go(lines: &[&str]) -> Option<Said> {
    let mut found = None;
    for (at, line) in lines.iter().enumerate() {
        let text = line.strip_prefix("panic: ").or_else(|| line.strip_prefix("fatal error: "));
        let Some(text) = text else { continue };
        let ahead = lines.iter().enumerate().skip(at + 1).take(12);
        let Some(stack) =
            ahead.into_iter().find(|(_, l)| l.starts_with("goroutine ")).map(|(n, _)| n)
        else {
            continue;
        };
        let mut said = Said { sure: true, message: text.to_owned(), ..Said::default() };
        said.add(text);
        let (mut frames, mut own, mut end) = (0, false, stack + 1);
        while let Some(line) = lines.get(end).filter(|line| !line.trim().is_empty()) {
            if line.starts_with('\t') {
                if std::mem::take(&mut own) && frames == 1 {
                    let place = line.trim().split(" +0x").next().unwrap_or("");
                    said.identity.push_str(place.rsplit('/').next().unwrap_or(place));
                }
            } else {
                let name = line.rsplit_once('(').map_or(*line, |(name, _)| name);
                own = !name.starts_with("runtime.")
                    && name != "panic"
                    && !line.starts_with("created by");
                if own && frames < 12 {
                    said.add(name);
                    frames += 1;
                }
            }
            end += 1;
        }
        said.end = lines.len().min(end);
        // The other goroutines say nothing of the fault.
        while lines.get(said.end..).is_some_and(|rest| {
            rest.first().is_some_and(|line| {
                line.trim().is_empty() || line.starts_with("goroutine ") || line.starts_with('\t')
            })
        }) {
            said.end += 1;
        }
        found = Some(said);
    }
    found
}

/// ``FILE:LINE:in `NAME': TEXT (Class)``, then `from` lines, then causes in the same form.
fn ruby(lines: &[&str]) -> Option<Said> {
    let mut found: Option<Said> = None;
    for (at, line) in lines.iter().enumerate() {
        let joined = found.as_ref().is_some_and(|said| said.end == at);
        let from = line.trim_start().starts_with("from ") && line.contains(":in ");
        if from {
            if let Some(said) = found.as_mut().filter(|_| joined) {
                said.add(&without_number(line));
                said.end = at + 1;
            }
            continue;
        }
        let Some((place, text)) = line.split_once(":in `").or_else(|| line.split_once(":in '"))
        else {
            continue;
        };
        let Some((name, text)) = text.split_once("': ") else { continue };
        if !place.ends_with(|c: char| c.is_ascii_digit()) || !place.contains(':') {
            continue;
        }
        let (text, kind) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
            Some((text, kind)) if kind.starts_with(char::is_uppercase) => (text, kind),
            _ => (text, ""),
        };
        let mut said = match found.take() {
            Some(said) if joined => said, // The cause of the one above.
            _ => Said { sure: true, message: quoted(kind, text), ..Said::default() },
        };
        if !joined {
            let line = place.rsplit_once(':').map_or("", |(_, line)| line);
            said.identity.push_str(line);
        }
        said.add(&format!("{kind}: {text} in {name} of {}", without_number(place)));
        said.end = at + 1;
        found = Some(said);
    }
    found
}

/// `FILE:LINE` without the line.
fn without_number(place: &str) -> String {
    let mut parts = place.splitn(3, ':');
    let (file, _, rest) = (parts.next(), parts.next(), parts.next());
    format!("{} {}", file.unwrap_or(""), rest.unwrap_or(""))
}

/// `Fatal error: Uncaught CLASS: TEXT in FILE:LINE`, then `Next CLASS: …` for what caused it to
/// be thrown on.
fn php(lines: &[&str]) -> Option<Said> {
    let mut found: Option<Said> = None;
    for (at, line) in lines.iter().enumerate() {
        let uncaught = line
            .split_once("Fatal error: ")
            .and_then(|(_, rest)| rest.trim_start().strip_prefix("Uncaught "));
        let next = line.strip_prefix("Next ").filter(|_| found.is_some());
        let bare = line.trim_start();
        if let Some(thrown) = uncaught.or(next) {
            let (said, place) = thrown.rsplit_once(" in ").unwrap_or((thrown, ""));
            let (kind, text) = said.split_once(": ").unwrap_or((said, ""));
            let mut all = match found.take() {
                Some(all) if uncaught.is_none() => all,
                _ => Said { sure: true, ..Said::default() },
            };
            all.add(said);
            all.identity.push_str(place);
            all.message = quoted(kind, text);
            all.end = at + 1;
            found = Some(all);
        } else if let Some(all) = &mut found
            && (bare.starts_with('#') || bare.starts_with("thrown in ") || bare == "Stack trace:")
        {
            all.end = at + 1;
        }
    }
    found
}
