//! Python: tracebacks, chained ones as one fault, exception groups, syntax errors; also where the
//! begin of the traceback was cut off.

use super::{Said, indent, quoted, typed};

/// Frames that count, from the innermost.
const FRAMES: usize = 12;
/// Exceptions of a group that count.
const GROUP: usize = 32;

/// The last traceback, with those that it is chained to.
pub(super) fn find(lines: &[&str]) -> Option<Said> {
    let mut last: Option<Said> = None;
    let mut chained = false;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let inner = inside(line);
        let header = line.contains("Traceback (most recent call last):");
        if !header && frame(inner).is_none() {
            chained |= inner.starts_with("The above exception was the direct cause of")
                || inner.starts_with("During handling of the above exception");
            at += 1;
            continue;
        }
        let group = line.contains("Exception Group Traceback");
        let (said, end) = block(lines, at, header, group);
        at = end.max(at + 1);
        if let Some(mut said) = said {
            if let (true, Some(before)) = (chained, &last) {
                said.identity.insert_str(0, &before.identity);
            }
            chained = false;
            last = Some(said);
        }
    }
    last
}

/// A line without the margin that a group draws.
fn inside(line: &str) -> &str {
    let bare = line.trim_start();
    match bare.strip_prefix("| ").or_else(|| bare.strip_prefix("+ ")) {
        Some(inner) => inner,
        None if bare == "|" => "",
        None => line,
    }
}

/// `File "PATH", line N, in NAME`: path, number, name.
fn frame(line: &str) -> Option<(&str, &str, &str)> {
    let (path, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    Some((path, number, rest.strip_prefix(", in ").unwrap_or("")))
}

/// One traceback that begins at `begin`, and the line after it.
fn block(lines: &[&str], begin: usize, header: bool, group: bool) -> (Option<Said>, usize) {
    let edge = if header { indent(inside(lines[begin])) } else { 0 };
    let mut frames: Vec<(String, String)> = Vec::new();
    let mut at = begin + usize::from(header);
    let (kind, text) = loop {
        let Some(line) = lines.get(at).map(|line| inside(line)) else { return (None, at) };
        if let Some((path, number, name)) = frame(line) {
            let place = format!("{path} {name}");
            if frames.last().is_none_or(|(before, _)| *before != place) {
                if frames.len() >= FRAMES {
                    frames.remove(0);
                }
                frames.push((place, format!("line {number}!")));
            }
        } else if line.trim().is_empty() {
            // A blank source line.
        } else if indent(line) <= edge {
            match typed(line.trim()) {
                Some(found) => break found,
                None => return (None, at),
            }
        } else if let Some((_, source)) = frames.last_mut()
            && source.ends_with('!')
        {
            line.trim().clone_into(source);
        }
        at += 1;
    };
    at += 1;
    let mut said = Said { sure: true, ..Said::default() };
    let mut text = text.to_owned();
    if text.is_empty()
        && let Some(next) = lines.get(at).filter(|next| !next.trim().is_empty())
        && lines[at - 1].trim_end().ends_with(':')
    {
        text = next.trim().to_owned();
    }
    said.add(&format!("{kind}: {text}"));
    for (place, _) in &frames {
        said.add(place);
    }
    if let Some((_, source)) = frames.last() {
        // A line number is kept as it is: nothing else tells the place.
        match source.strip_suffix('!') {
            Some(number) => said.identity.push_str(number),
            None => said.add(source),
        }
    }
    // Further lines of the message.
    while let Some(more) = lines.get(at).filter(|more| more.starts_with([' ', '\t']))
        && !group
        && !inside(more).trim_start().starts_with("File \"")
        && !more.contains("Traceback (most recent")
    {
        said.add(more);
        at += 1;
    }
    said.message = quoted(kind, &text);
    if group {
        at = of_group(lines, at, &mut said);
    }
    said.end = at;
    (Some(said), at)
}

/// The exceptions of a group, in an order that does not depend on which came first.
fn of_group(lines: &[&str], begin: usize, said: &mut Said) -> usize {
    let mut at = begin;
    let mut found: Vec<String> = Vec::new();
    let mut quote = String::new();
    while let Some(line) = lines.get(at) {
        let bare = line.trim_start();
        if !bare.starts_with(['|', '+']) {
            break;
        }
        let inner = inside(line);
        if indent(inner) == 0
            && let Some((kind, text)) = typed(inner.trim_end())
            && found.len() < GROUP
        {
            found.push(super::normalised(&format!("{kind}: {text}")));
            quote = quoted(kind, text);
        }
        at += 1;
    }
    found.sort();
    found.dedup();
    if found.len() == 1 {
        said.message = quote; // It says more than that there is one.
    }
    for part in found {
        said.identity.push_str(&part);
        said.identity.push('\n');
    }
    at
}
