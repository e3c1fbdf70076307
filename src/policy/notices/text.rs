//! What a notice says: subject and body, plain text for a phone. The most important line comes
//! first, then how long and how often, what happens next, what the program said, and the plain
//! facts last. Every foreign text goes through [`safe`].

use std::fmt::Write as _;
use std::time::Duration;

use super::rules::{ChainRules, Rules};
use super::throttle::{Outage, Verdict};
use crate::policy::safe;
use crate::wire::mail::NoticeKind;
use crate::wire::outcome::RAISED;
use crate::wire::report::MAX_MESSAGE;
use crate::wire::time::{Timestamp, WallTime};

/// No body is longer, in bytes.
pub const MAX_BODY: usize = 32 * 1024;

/// The run that brought a notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunFacts<'a> {
    /// `exit 1`, `signal 9`, …
    pub(crate) outcome: &'a str,
    /// Milliseconds.
    pub(crate) millis: u64,
    /// The last bytes of standard error.
    pub(crate) stderr: &'a str,
    /// The last bytes of standard output.
    pub(crate) stdout: &'a str,
}

/// Everything that a notice about a task, or about a chain's process, can say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) host: &'a str,
    pub(crate) chain: &'a ChainRules,
    /// A position in the chain; `None`: the chain's own process.
    pub(crate) task: Option<usize>,
    pub(crate) verdict: &'a Verdict,
    /// The outage that is open, or the one that this notice closes.
    pub(crate) outage: Option<&'a Outage>,
    pub(crate) run: Option<RunFacts<'a>>,
    /// When the run that is still going began.
    pub(crate) going_since: Option<Timestamp>,
    pub(crate) at: Timestamp,
    pub(crate) wall: WallTime,
}

impl Scene<'_> {
    fn rules(&self) -> &Rules {
        self.task
            .and_then(|task| self.chain.tasks.get(task))
            .map_or(&self.chain.whole, |(_, rules)| rules)
    }

    fn task_name(&self) -> Option<&str> {
        self.task.and_then(|task| self.chain.tasks.get(task)).map(|(name, _)| name.as_str())
    }

    fn message(&self) -> &str {
        self.outage.map_or("", |outage| outage.message.as_str())
    }

    fn wall_of(&self, time: Timestamp) -> WallTime {
        let ahead = time.0.saturating_sub(self.at.0);
        WallTime(self.wall.0.saturating_add_signed(ahead))
    }

    fn down_for(&self) -> Duration {
        self.outage.map_or(Duration::ZERO, |outage| self.at.since(outage.start))
    }
}

/// The part of a subject before the words: `[task]`, or `[chain NAME]`.
pub(crate) fn label(chain: &str, task: Option<&str>) -> String {
    task.map_or_else(|| format!("[chain {chain}]"), |task| format!("[{task}]"))
}

/// The words of a subject.
pub(crate) fn words(scene: &Scene<'_>) -> String {
    let since = scene.verdict.since;
    match scene.verdict.kind {
        NoticeKind::First => format!("First exception caught: {}", scene.message()),
        NoticeKind::New => format!("New exception caught: {}", scene.message()),
        NoticeKind::Reached => "Non recoverable downtime reached".to_owned(),
        NoticeKind::Again => "Non recoverable downtime reached again".to_owned(),
        NoticeKind::Healed => "Process healed".to_owned(),
        NoticeKind::Unstable => {
            format!("Unstable: {} of {} runs failed", since.failed, since.runs)
        }
        NoticeKind::Overdue => {
            let age = scene.going_since.map_or(Duration::ZERO, |start| scene.at.since(start));
            format!("Run still going after {}", span(age))
        }
        other => other.word().to_owned(),
    }
}

/// The body of a notice about a task or a chain's process.
pub(crate) fn body(scene: &Scene<'_>) -> String {
    let mut out = Body::new();
    opening(scene, &mut out);
    out.blank();
    if let Some(outage) = scene.outage {
        let over = scene.verdict.closed.is_some();
        if outage.failures > 0 {
            out.fact(if over { "Was down from" } else { "Down since" }, &when(outage.start_wall));
            if scene.down_for() >= Duration::from_secs(1) {
                out.fact(if over { "Was down for" } else { "Down for" }, &span(scene.down_for()));
            }
            out.fact("Failures", &format!("{} in a row", outage.failures));
        }
    }
    if let Some(run) = scene.run {
        let took = span(Duration::from_millis(run.millis));
        out.fact(
            if scene.task.is_some() { "This run" } else { "Event" },
            &if run.millis > 0 {
                format!("{}, took {took}", run.outcome)
            } else {
                run.outcome.to_owned()
            },
        );
    }
    if let Some(start) = scene.going_since {
        out.fact("Run began", &when(scene.wall_of(start)));
    }
    next(scene, &mut out);
    withheld(scene, &mut out);
    if let Some(run) = scene.run {
        // A traceback of a worker comes whole or not at all: its begin is where the task is.
        let lines = if run.outcome == RAISED { 90 } else { 30 };
        out.output("The last lines of its standard error:", run.stderr, lines, 6 * 1024);
        out.output("The last lines of its standard output:", run.stdout, 15, 3 * 1024);
    } else if let Some(outage) = scene.outage {
        let title = "The last lines of the last failed run's standard error:";
        out.output(title, &outage.stderr, 30, 6 * 1024);
    }
    distinct(scene, &mut out);
    out.blank();
    facts(scene, &mut out);
    out.finish()
}

/// The sentence that matters most, then what else applies.
fn opening(scene: &Scene<'_>, out: &mut Body) {
    let what = scene.task_name().map_or_else(
        || format!("The process of chain {}", scene.chain.name),
        |task| format!("Task {task}"),
    );
    let down = span(scene.down_for());
    let message = scene.message();
    let since = scene.verdict.since;
    if scene.verdict.after_silence {
        out.line("The silence of this chain has ended.");
    }
    match scene.verdict.kind {
        NoticeKind::First if scene.verdict.after_silence => {
            out.line(message);
            out.line(&format!("{what} is failing."));
        }
        NoticeKind::First => {
            out.line(message);
            out.line(&format!(
                "{what} failed, for the first time since the last start, upgrade or restart."
            ));
        }
        NoticeKind::New => {
            out.line(message);
            out.line(&format!("{what} failed in a way that was not seen before."));
        }
        NoticeKind::Reached | NoticeKind::Again => {
            out.line(&format!("{what} has been failing for {down}."));
            out.line(message);
        }
        NoticeKind::Healed if scene.outage.is_none_or(|outage| outage.failures == 0) => {
            out.line(&format!("{what} is well: a run has succeeded."));
        }
        NoticeKind::Healed => {
            out.line(&format!("{what} is well again after {down}."));
            if !message.is_empty() {
                out.line(&format!("It had failed with: {message}"));
            }
        }
        NoticeKind::Unstable => {
            out.line(&format!("{what} keeps failing and recovering."));
            out.line(&format!(
                "Since the last notice, {} ago, {} of {} runs failed, in {} outages that ended by themselves. The last failure: {message}",
                span(scene.at.since(since.at)), since.failed, since.runs, since.outages,
            ));
        }
        NoticeKind::Overdue => {
            let age = scene.going_since.map_or(Duration::ZERO, |start| scene.at.since(start));
            out.line(&format!("{what}: a run is still going after {}.", span(age)));
            out.line("It is not ended for that: only `timeout` ends a run.");
        }
        other => out.line(other.word()),
    }
    for lost in &scene.verdict.lost {
        match lost {
            NoticeKind::New => out.line("This failure is a new one."),
            NoticeKind::Again | NoticeKind::Reached => {
                out.line(&format!(
                    "Non recoverable downtime reached: it has been failing for {down}."
                ));
            }
            _ => {}
        }
    }
}

/// What happens next and when.
fn next(scene: &Scene<'_>, out: &mut Body) {
    let rules = scene.rules();
    let open = scene.verdict.closed.is_none() && scene.outage.is_some();
    if scene.going_since.is_some() {
        out.fact("Next", "the chain waits for this run to end");
    } else if let (Some(task), Some(_)) = (scene.task, scene.run) {
        let failed = open;
        let pause = if failed { rules.fail_cooldown } else { rules.success_cooldown };
        let start_over = failed && scene.chain.starts_over;
        let follows = if start_over { 0 } else { (task + 1) % scene.chain.tasks.len().max(1) };
        let name = scene.chain.tasks.get(follows).map_or("", |(name, _)| name.as_str());
        let what = if follows == task { "it runs again" } else { &format!("{name} runs") };
        let then = when(scene.wall_of(scene.at + pause));
        out.fact("Next", &format!("{what} in {}, at {then}", span(pause)));
    } else if scene.task.is_none() && open {
        out.fact("Next", "it is started again, at most a minute later each time");
    }
    if let (true, Some(outage)) = (open, scene.outage) {
        let due = outage.reminded.map_or(outage.start + rules.limit, |last| last + rules.remind);
        out.fact("Next notice", &format!("if it still fails at {}", when(scene.wall_of(due))));
    } else if scene.going_since.is_some() {
        let due = scene.wall_of(scene.at + rules.remind);
        out.fact("Next notice", &format!("if it is still going at {}", when(due)));
    }
}

fn withheld(scene: &Scene<'_>, out: &mut Body) {
    let held = scene.verdict.withheld;
    if held.bound > 0 {
        let why = format!(
            "{} about new failures: at most {} of these go out in {}",
            held.bound,
            super::throttle::FIRSTS,
            span(scene.rules().window()),
        );
        out.fact("Not mailed", &why);
    }
    if held.silence > 0 {
        out.fact("Not mailed", &format!("{} because the chain was silenced", held.silence));
    }
}

/// The distinct failures of the outage, where there is more than one.
fn distinct(scene: &Scene<'_>, out: &mut Body) {
    let Some(outage) = scene.outage else { return };
    if outage.tally.len() < 2 {
        return;
    }
    out.blank();
    out.line("Failures of this outage:");
    for tally in &outage.tally {
        out.hanging(&format!("{:>6} x ", tally.count), &tally.message);
    }
    if outage.more > 0 {
        out.hanging(&format!("{:>6} x ", outage.more), "others");
    }
}

fn facts(scene: &Scene<'_>, out: &mut Body) {
    if let Some(task) = scene.task_name() {
        out.fact("Task", task);
        out.fact("Command", &scene.rules().command);
    }
    out.fact("Chain", &scene.chain.name);
    out.fact("User", &scene.chain.user);
    out.fact("Host", scene.host);
    out.fact("Time", &when(scene.wall));
}

/// A body in the making: lines of at most 78 columns where words allow it.
#[derive(Debug)]
pub(crate) struct Body {
    text: String,
}

/// Columns of a line.
const WIDTH: usize = 78;

impl Body {
    /// Nothing yet.
    pub(crate) fn new() -> Body {
        Body { text: String::new() }
    }

    /// One paragraph, wrapped.
    pub(crate) fn line(&mut self, text: &str) {
        self.hanging("", text);
    }

    /// An empty line, never two and never first.
    pub(crate) fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A labelled fact.
    pub(crate) fn fact(&mut self, label: &str, text: &str) {
        self.hanging(&format!("{label:<14}"), text);
    }

    /// A paragraph behind a label; its further lines are indented by the label's width.
    pub(crate) fn hanging(&mut self, label: &str, text: &str) {
        let text = safe::line(text, 2048);
        self.text.push_str(label);
        let indent = label.chars().count();
        let mut column = indent;
        for (count, word) in text.split(' ').enumerate() {
            let width = word.chars().count();
            if count > 0 && column + 1 + width > WIDTH {
                let _ = write!(self.text, "\n{:indent$}", "");
                column = indent;
            } else if count > 0 {
                self.text.push(' ');
                column += 1;
            }
            self.text.push_str(word);
            column += width;
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    /// The last lines of what a program said, indented, under a title.
    pub(crate) fn output(&mut self, title: &str, text: &str, lines: usize, max: usize) {
        let kept = safe::last_lines(text, lines, 500, max);
        if kept.is_empty() {
            return;
        }
        self.blank();
        self.line(title);
        for line in kept {
            let _ = writeln!(self.text, "{}", format!("    {line}").trim_end());
        }
    }

    /// The whole, bounded by [`MAX_BODY`].
    pub(crate) fn finish(mut self) -> String {
        if self.text.len() > MAX_BODY {
            let mut at = MAX_BODY - 4;
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            self.text.truncate(at);
            self.text.push_str("...\n");
        }
        self.text
    }
}

/// A wall time for people, in UTC.
pub(crate) fn when(wall: WallTime) -> String {
    let text = wall.to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned() + " UTC"
}

/// A span for people: its two largest units, `12h 20m`; below 10 s with one decimal.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds < 10 {
        let tenths = span.as_millis() / 100 % 10;
        return match (seconds, tenths) {
            (0, 0) => format!("{}ms", span.as_millis()),
            (_, 0) => format!("{seconds}s"),
            _ => format!("{seconds}.{tenths}s"),
        };
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut text = format!("{}{}", seconds / units[first].0, units[first].1);
    if let Some((size, name)) = units.get(first + 1) {
        let rest = seconds % units[first].0 / size;
        if rest > 0 {
            let _ = write!(text, " {rest}{name}");
        }
    }
    text
}

/// A MESSAGE as it may be shown: what came from a chain process is not believed to be safe.
pub(crate) fn message(text: &str, fallback: &str) -> String {
    let safe = safe::line(text, MAX_MESSAGE);
    if safe.is_empty() { safe::line(fallback, MAX_MESSAGE) } else { safe }
}
