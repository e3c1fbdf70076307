//! Problems as rustc shows them: file:line:column, the line itself, a caret, what to do.

use std::borrow::Cow;

use annotate_snippets::{
    Annotation, AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet,
};

use super::problem::{Place, Problem, Severity, Span};
use super::source::Source;

/// After so many problems the rest is counted only.
const MOST_SHOWN: usize = 50;

/// A line longer than this many bytes is shown around the marked place only.
const LONGEST_LINE: usize = 2048;

/// What is shown of such a line before and after the marked place, in bytes.
const AROUND: usize = 60;

/// The text of all problems, ending in a line that counts them; empty without problems. With
/// `color` it has escape sequences of ours; what comes out of the files is made harmless.
pub fn render(problems: &[Problem], sources: &[Source], color: bool) -> String {
    render_each(problems, sources, color) + &count(problems)
}

/// As [`render`], without the line that counts them.
pub fn render_each(problems: &[Problem], sources: &[Source], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for problem in problems.iter().take(MOST_SHOWN) {
        text.push_str(&renderer.render(&[group(problem, sources)]));
        text.push_str("\n\n");
    }
    if problems.len() > MOST_SHOWN {
        text.push_str(&format!("… and {} more\n", problems.len() - MOST_SHOWN));
    }
    text
}

/// A line that says how many errors and warnings there are; empty without problems.
pub fn count<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> String {
    let (mut errors, mut warnings) = (0_usize, 0_usize);
    for problem in problems {
        match problem.severity {
            Severity::Error => errors += 1,
            Severity::Warning => warnings += 1,
        }
    }
    let told = [(errors, "error"), (warnings, "warning")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}{}", if number == 1 { "" } else { "s" }));
    let told: Vec<String> = told.collect();
    if told.is_empty() { String::new() } else { told.join(", ") + "\n" }
}

/// `file:line:column` of a place (both from 1, columns in characters).
pub fn locate(place: &Place, sources: &[Source]) -> String {
    let Some(source) = sources.get(place.file) else { return String::new() };
    let line = Line::of(&source.text, &place.span);
    format!("{}:{}:{}", source.name.display(), line.number, line.column)
}

fn group<'a>(problem: &'a Problem, sources: &'a [Source]) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group =
        level.primary_title(problem.message.as_str()).elements(Vec::<Element<'_>>::new());
    let Some(source) = sources.get(problem.file) else { return group };
    match &problem.span {
        Some(span) => {
            let first = (span, problem.label.as_str(), AnnotationKind::Primary);
            let near = problem.also.as_ref().filter(|(place, _)| {
                place.file == problem.file && same_line(&source.text, span, &place.span)
            });
            let mut marks = vec![first];
            if let Some((place, label)) = near {
                marks.push((&place.span, label.as_str(), AnnotationKind::Context));
            }
            group = show(group, source, &marks);
            if let (None, Some((place, label))) = (near, &problem.also)
                && let Some(source) = sources.get(place.file)
            {
                let mark = (&place.span, label.as_str(), AnnotationKind::Context);
                group = show(group, source, &[mark]);
            }
        }
        None => group = group.element(Origin::path(source.name.display().to_string())),
    }
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// Adds the line of the first mark, with all marks on it.
fn show<'a>(
    group: Group<'a>,
    source: &'a Source,
    marks: &[(&Span, &'a str, AnnotationKind)],
) -> Group<'a> {
    let Some((first, ..)) = marks.first() else { return group };
    let line = Line::of(&source.text, first);
    let window = line.window(&source.text, first);
    let annotations = marks.iter().map(|(span, label, kind)| {
        let start = span.start.clamp(window.start, window.end) - window.start;
        let end = span.end.clamp(window.start + start, window.end) - window.start;
        let annotation = kind.span(start..end);
        if label.is_empty() { annotation } else { annotation.label(*label) }
    });
    let text = source.text.get(window.clone()).unwrap_or("");
    let snippet = Snippet::<Annotation<'_>>::source(still(text))
        .line_start(line.number)
        .annotations(annotations.collect::<Vec<_>>());
    let path = source.name.display().to_string();
    if window == line.span {
        return group.element(snippet.path(path));
    }
    let origin = Origin::path(path).line(line.number).char_column(line.column);
    group.element(origin).element(snippet)
}

/// A line with what a terminal might obey replaced by as many bytes of something still, so that
/// the places stay where they are. (The renderer itself does that for ESC and its like, and for
/// most of what turns the direction of writing, but not for the controls above 0x7f.)
fn still(line: &str) -> Cow<'_, str> {
    let loud = |c: char| matches!(c, '\u{80}'..='\u{9f}' | '\u{61c}' | '\u{2028}' | '\u{2029}');
    if !line.contains(loud) {
        return Cow::Borrowed(line);
    }
    let replace = |c: char| match c {
        c if !loud(c) => c,
        c if c.len_utf8() == 2 => '·',
        _ => '\u{fffd}',
    };
    Cow::Owned(line.chars().map(replace).collect())
}

fn same_line(text: &str, one: &Span, other: &Span) -> bool {
    let (low, high) = (one.start.min(other.start), one.start.max(other.start));
    !text.get(low..high).is_some_and(|between| between.contains('\n'))
}

/// The line of a text that holds the start of a span.
struct Line {
    /// From 1.
    number: usize,
    /// Of the span's start: from 1, in characters.
    column: usize,
    /// Without its end of line.
    span: Span,
}

impl Line {
    fn of(text: &str, span: &Span) -> Line {
        let mut at = span.start.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let end = if text[start..end].ends_with('\r') { end - 1 } else { end };
        Line {
            number: text[..start].matches('\n').count() + 1,
            column: text[start..at].chars().count() + 1,
            span: start..end.max(start),
        }
    }

    /// The part of the line that is shown: all of it, or what is around `mark` in a long one.
    fn window(&self, text: &str, mark: &Span) -> Span {
        if self.span.len() <= LONGEST_LINE {
            return self.span.clone();
        }
        let boundary = |mut at: usize| {
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = boundary(mark.start.saturating_sub(AROUND).max(self.span.start));
        let end = boundary((mark.start + AROUND).min(self.span.end));
        start..end.max(start)
    }
}
