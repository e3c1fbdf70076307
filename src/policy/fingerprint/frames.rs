//! Languages whose traces are lines of `at PLACE`: Java and its kin, Node, .NET.

use super::{Said, plain, quoted, typed};

/// Frames that count, from the innermost.
const FRAMES: usize = 12;
/// Lines of a message above its frames that are looked through.
const ABOVE: usize = 8;

/// The last trace, with its causes.
pub(super) fn find(lines: &[&str]) -> Option<Said> {
    let mut last: Option<Said> = None;
    let (mut frames, mut several) = (0, false);
    for (at, line) in lines.iter().enumerate() {
        let bare = line.trim();
        let ended = last.as_ref().map_or(0, |said| said.end);
        if let Some(place) = frame(bare) {
            if last.is_none() || at > ended {
                let (said, header) = begin(lines, at);
                last = Some(said);
                several = lines[header].trim_start().starts_with('[');
                frames = 0;
            }
            if let Some(said) = &mut last {
                said.end = at + 1;
                if frames < FRAMES && !is_of_the_machine(place) {
                    let (name, number) = without_line(place);
                    said.add(name);
                    if frames == 0 {
                        said.identity.push_str(number); // Kept: no source text tells the place.
                    }
                    frames += 1;
                }
            }
        } else if let Some(said) = last.as_mut().filter(|said| at <= said.end) {
            let one_of_several = several && exception(bare).is_some();
            let cause = cause(bare).or(one_of_several.then_some(bare));
            if let Some(cause) = cause {
                said.add(cause);
                frames = 0;
            }
            if cause.is_some() || is_joint(bare) {
                said.end = at + 1;
            }
        }
    }
    last
}

/// `at PLACE`, where PLACE looks like one.
fn frame(line: &str) -> Option<&str> {
    let place = line.strip_prefix("at ")?.trim_end_matches(',');
    let called = place.ends_with(')') && place.contains('(');
    let number = place.rsplit([':', ' ']).next().unwrap_or("");
    let numbered =
        place.contains(':') && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (called || numbered || place.ends_with('{')).then_some(place)
}

fn is_of_the_machine(place: &str) -> bool {
    let parts =
        ["node:internal", "java.base/", "jdk.", "jdk.internal", "java.lang.reflect", "sun.reflect"];
    parts.iter().any(|part| place.starts_with(part) || place.contains(&format!("({part}")))
}

/// A place without line and column, and the line.
fn without_line(place: &str) -> (&str, &str) {
    let bare = place.trim_end_matches(['{', ' ', ')']);
    match bare.split_once(".java:").or_else(|| bare.split_once(".kt:")) {
        Some((name, line)) => (name, line),
        None => {
            let mut cut = bare;
            let mut number = "";
            // `file:line:column` or `file:line`.
            while let Some((head, tail)) = cut.rsplit_once(':')
                && !tail.is_empty()
                && tail.bytes().all(|byte| byte.is_ascii_digit())
            {
                (cut, number) = (head, tail);
            }
            (cut, number)
        }
    }
}

fn cause(line: &str) -> Option<&str> {
    ["Caused by: ", "Suppressed: ", "[cause]: ", "---> "]
        .into_iter()
        .find_map(|word| line.strip_prefix(word))
}

/// Lines between the frames of one trace.
fn is_joint(line: &str) -> bool {
    (line.starts_with("... ") && (line.ends_with("more") || line.ends_with("...")))
        || line.starts_with("--- End of")
        || line.starts_with(['}', ']'])
        || line.starts_with("[... lines matching")
        || line.starts_with("Emitted 'error' event")
}

/// What stands above the first frame.
fn begin(lines: &[&str], first: usize) -> (Said, usize) {
    let mut said = Said { sure: true, ..Said::default() };
    let mut above = first;
    while above > 0 && first - above < ABOVE {
        let line = lines[above - 1].trim();
        if line.is_empty() || line.bytes().all(|byte| byte == b'^' || byte == b'~') {
            break;
        }
        above -= 1;
    }
    let header = (above..first).find(|&at| exception(lines[at]).is_some());
    let at = header.unwrap_or(first.saturating_sub(1).max(above));
    let line = if at < first { lines[at] } else { "" };
    match exception(line) {
        Some((kind, text)) => {
            said.add(&format!("{kind}: {text}"));
            said.message = quoted(kind, plain::reason(text));
        }
        None => {
            said.add(line);
            line.trim().clone_into(&mut said.message);
        }
    }
    (said, at)
}

fn exception(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let line = match line.strip_prefix("Exception in thread \"") {
        Some(rest) => rest.split_once("\" ").map_or(rest, |(_, rest)| rest),
        None => line,
    };
    let line = line.strip_prefix("Unhandled exception. ").unwrap_or(line);
    let line = line.strip_prefix("Uncaught ").unwrap_or(line);
    let several = line.strip_prefix('[').and_then(|line| line.strip_suffix("] {"));
    let (kind, text) = typed(several.unwrap_or(line))?;
    let known = ["Error", "Exception", "Throwable", "Fault", "Failure", "PromiseRejection"];
    (known.iter().any(|end| kind.ends_with(end)) || kind.contains('.')).then_some((kind, text))
}
