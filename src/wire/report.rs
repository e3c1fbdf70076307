//! What a chain process tells the master, and what the master tells a chain: one JSON object per
//! packet of a SOCK_SEQPACKET pair, at most [`MAX_PACKET`] bytes.
//!
//! A chain runs as a user who may be hostile: decoding is total, every text is bounded, and the
//! master believes nothing but what concerns that chain. An unknown message is an error that is
//! logged and ignored: after an upgrade the other end may be older or newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::safe::safe_line;
use super::time::{Timestamp, WallTime};
use super::worker::Options;

/// The largest packet either side sends or accepts, in bytes.
pub const MAX_PACKET: usize = 64 * 1024;

/// The bytes of one stream's tail that go into a report. Base64-free JSON escapes at worst six
/// bytes per byte, so two tails and the rest stay below [`MAX_PACKET`].
pub const MAX_TAIL: usize = 4 * 1024;

/// The bytes of a MESSAGE.
pub const MAX_MESSAGE: usize = 240;

/// The bytes of a line for the log, before unsafe characters become escapes.
const MAX_LINE: usize = 1000;

/// The bytes of a task's name: one more than the longest that a configuration may have, so that a
/// longer one stays a stranger when it is cut.
const MAX_NAME: usize = 101;

/// A report of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// Privileges are dropped and verified, the lock is held, the pidfile is written.
    Ready,
    /// The chain process cannot be set up, or found a fault of its own; it exits after this. `what`
    /// says "cannot VERB OBJECT: CAUSE".
    CannotStart {
        /// For people.
        what: String,
    },
    /// A run begins.
    Started {
        /// Counts the runs of this chain process from 1.
        run: u64,
        /// The task's name.
        task: String,
        /// When, to decide.
        at: Timestamp,
    },
    /// A run ended, or several like it did while the master could not be told.
    Ended(RunEnd),
    /// The chain waits until `until`, then runs `next`.
    Cooling {
        /// The task that will run next.
        next: String,
        /// When that will be.
        until: Timestamp,
        /// Whether this is the pause after a failure.
        after_failure: bool,
    },
    /// The chain leaves at a run boundary because it was asked to.
    Leaving {
        /// The task that would have run next.
        next: String,
        /// When the pause before it would have been over; `None`: no pause was left.
        until: Option<Timestamp>,
        /// Whether that pause follows a failure.
        after_failure: bool,
        /// The signal that asked for it (signal(7)).
        signal: i32,
    },
    /// Something for the log that is no run: level by slog's names ("debug", "info", …).
    Said {
        /// slog's level in lower case.
        level: String,
        /// One line.
        text: String,
    },
    /// What tasks of a worker say of themselves; the last word on each counts.
    Options {
        /// By the task's name.
        tasks: BTreeMap<String, Options>,
    },
    /// Lines of its tasks could not be written. Told when that begins, while it goes on once in a
    /// while, and when it is over.
    Lost {
        /// Lines since the last report of this kind.
        lines: u64,
        /// Why, as long as it goes on: "cannot VERB OBJECT: CAUSE".
        cause: Option<String>,
        /// Whether it is the main log that does not take them.
        #[serde(default)]
        main: bool,
    },
    /// A run left processes behind.
    Leftovers {
        /// The task whose run left them.
        task: String,
        /// Their number.
        count: u32,
        /// Whether all of them are gone now; if not (a setuid program), the chain exits and the
        /// master ends them with its own rights.
        ended: bool,
    },
}

impl Report {
    /// Whether this may come in the packet of a run's end: what a chain does at once after it.
    pub fn may_follow(&self) -> bool {
        matches!(self, Report::Started { .. } | Report::Cooling { .. })
    }

    /// What came in one packet, each to be taken as if it had come alone. Nothing but what
    /// [`Report::may_follow`] comes second, whatever the packet says.
    pub fn parts(mut self) -> (Report, Option<Report>) {
        let next = match &mut self {
            Report::Ended(end) => end.next.take(),
            _ => None,
        };
        (self, next.map(|next| *next).filter(Report::may_follow))
    }

    /// The report as far as it is possible: no run began or ended after `now`, no run ended before
    /// it began or stands for less than one, an interrupted run is no success, and names and lines
    /// for the log are short and safe. What is left is the chain's own word for itself.
    #[must_use]
    pub fn bounded(self, now: Timestamp) -> Report {
        match self {
            Report::Ready => Report::Ready,
            Report::CannotStart { what } => Report::CannotStart { what: line(&what, MAX_LINE) },
            Report::Started { run, task, at } => {
                Report::Started { run, task: line(&task, MAX_NAME), at: at.min(now) }
            }
            Report::Ended(end) => Report::Ended(end.bounded(now)),
            Report::Cooling { next, until, after_failure } => {
                Report::Cooling { next: line(&next, MAX_NAME), until, after_failure }
            }
            Report::Leaving { next, until, after_failure, signal } => {
                Report::Leaving { next: line(&next, MAX_NAME), until, after_failure, signal }
            }
            Report::Said { level, text } => Report::Said { level, text: line(&text, MAX_LINE) },
            Report::Options { tasks } => Report::Options { tasks },
            Report::Lost { lines, cause, main } => {
                let cause = cause.map(|cause| line(&cause, MAX_LINE));
                Report::Lost { lines, cause, main }
            }
            Report::Leftovers { task, count, ended } => {
                Report::Leftovers { task: line(&task, MAX_NAME), count, ended }
            }
        }
    }
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The run's number in its chain process; of the last one, if several are told at once.
    pub run: u64,
    /// The task's name.
    pub task: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether `outcome` is a success by the task's `ok_exit`. Never true for Interrupted.
    pub success: bool,
    /// When the (first) run began.
    pub started: Timestamp,
    /// When the (last) run ended.
    pub ended: Timestamp,
    /// The wall clock at `ended`.
    pub wall: WallTime,
    /// Milliseconds that the (last) run took.
    pub millis: u64,
    /// How many runs of this kind this report stands for; 1 but after a full pipe.
    #[serde(default = "one")]
    pub count: u64,
    /// The identity of the failure; empty for a success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// The line a person would quote: safe, at most [`MAX_MESSAGE`] bytes; empty for a success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The last bytes of standard error (of the first run, if several), made valid UTF-8.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// The last bytes of standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// What the chain does now, if it is told in the same packet ([`Report::parts`]): each packet
    /// wakes the master. A master that does not know this field still has the end of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Box<Report>>,
}

fn one() -> u64 {
    1
}

impl RunEnd {
    fn bounded(mut self, now: Timestamp) -> RunEnd {
        self.task = line(&self.task, MAX_NAME);
        self.ended = self.ended.min(now);
        self.started = self.started.min(self.ended);
        self.count = self.count.max(1);
        self.success &= self.outcome != Outcome::Interrupted;
        self
    }
}

/// At most `most` bytes of a text, then safe.
fn line(text: &str, most: usize) -> String {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end));
    safe_line(&text[..end.unwrap_or(0)]).into_owned()
}

/// What the master tells a chain beside signals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Skip the cooldown and run: the named task, or the next one.
    RunNow {
        /// A task of the chain.
        task: Option<String>,
    },
}

/// Encodes a message as one packet.
///
/// # Errors
/// When it is larger than [`MAX_PACKET`].
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, String> {
    let packet = serde_json::to_vec(message).map_err(|cause| format!("cannot encode: {cause}"))?;
    if packet.len() > MAX_PACKET {
        return Err(format!("cannot encode: {} bytes are more than {MAX_PACKET}", packet.len()));
    }
    Ok(packet)
}

/// Decodes one packet. Total: any bytes give a message or an error.
///
/// # Errors
/// When the packet is too large, not JSON, or no message that this version knows.
pub fn decode<'a, M: Deserialize<'a>>(packet: &'a [u8]) -> Result<M, String> {
    if packet.len() > MAX_PACKET {
        return Err(format!("cannot decode: {} bytes are more than {MAX_PACKET}", packet.len()));
    }
    serde_json::from_slice(packet).map_err(|cause| format!("cannot decode: {cause}"))
}
