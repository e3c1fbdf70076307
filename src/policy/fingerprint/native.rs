//! Rust, Go, Ruby, PHP and Lua: each has its own form of a last word.

use super::{Said, quoted};

/// The last of any of them.
pub(super) fn find(lines: &[&str]) -> Option<Said> {
    [rust(lines), causes(lines), go(lines), ruby(lines), php(lines), lua(lines)]
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
        end = after_backtrace(lines, end);
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

/// The line after a panic's backtrace: its frames look like those of other languages. They do not
/// count, so a fault is the same with and without `RUST_BACKTRACE`.
fn after_backtrace(lines: &[&str], mut end: usize) -> usize {
    if lines.get(end) != Some(&"stack backtrace:") {
        return end;
    }
    end += 1;
    let frame = |line: &str| {
        let bare = line.trim_start();
        let numbered = bare.split_once(": ").is_some_and(|(number, _)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        line.starts_with(' ') && (numbered || bare.starts_with("at "))
    };
    while lines.get(end).is_some_and(|line| frame(line) || line.starts_with("note: ")) {
        end += 1;
    }
    end
}

/// An error and, below `Caused by:`, its causes, as Rust's error reports print them. The first
/// line says what was to be done, so that is quoted.
fn causes(lines: &[&str]) -> Option<Said> {
    const JOINT: &str = "Caused by:";
    let mut at = lines.iter().rposition(|line| *line == JOINT)?;
    // Cargo writes the words once more in front of each cause.
    let error = loop {
        let above = lines[..at].iter().rev().take(2).find(|line| !line.trim().is_empty())?;
        if above.to_lowercase().starts_with("error") {
            break above;
        }
        at = lines[..at].iter().rposition(|line| *line == JOINT)?;
    };
    let mut said = Said { sure: true, message: (*error).to_owned(), ..Said::default() };
    said.add(error);
    said.end = at + 1;
    let mut next = said.end;
    while let Some(line) = lines.get(next) {
        next += 1;
        if line.starts_with(' ') {
            said.add(line.trim());
            said.end = next;
        } else if !line.is_empty() && *line != JOINT {
            break;
        }
    }
    Some(said)
}

/// `PROGRAM: FILE:LINE: TEXT`, then `stack traceback:` and its frames.
fn lua(lines: &[&str]) -> Option<Said> {
    let at = lines.iter().rposition(|line| *line == "stack traceback:")?;
    let error = lines[..at].last().filter(|line| !line.trim().is_empty())?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut parts = error.splitn(4, ':').map(str::trim);
    let text = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(line), Some(text)) if is_number(line) => text,
        _ => error,
    };
    let mut said = Said { sure: true, message: text.to_owned(), ..Said::default() };
    said.add(text);
    said.end = at + 1;
    // The innermost frame's line is kept: no source text tells the place.
    let mut frames = 0;
    while let Some(frame) = lines.get(said.end).filter(|line| line.starts_with('\t')) {
        let frame = frame.trim();
        if !frame.starts_with("[C]") {
            if frames == 0 {
                said.identity.push_str(frame);
            } else if frames < 12 {
                said.add(frame);
            }
            frames += 1;
        }
        said.end += 1;
    }
    Some(said)
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
