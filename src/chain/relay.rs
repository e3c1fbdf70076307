//! Where the lines of a chain's tasks go: into its own file, or over the output lane into the main
//! log. Each line is stamped with time, chain, task, run and stream:
//!
//! ```text
//! 2026-11-24T04:05:06.789Z mail send_mail 12 out: sent 3 mails
//! ```
//!
//! `out+:` says that the line goes on in the next one of that stream, `runner:` that this program
//! itself says something. What a file does not take (a full disk) is dropped at once and counted;
//! a full lane holds the task for a while, see [`PATIENCE`]. Either is told as "N lines dropped"
//! when there is room again.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::logger::RotatingFile;
use crate::sys::{clock, error_text, poll, socket};
use crate::wire::log::{MAX_RECORD, OutputLine, Stream, cut};
use crate::wire::safe;
use crate::wire::time::WallTime;

/// How long all runs of a chain together may be held because the lane is full: this at once, then
/// a thirtieth of the time that passes.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes collected for one write(2) into a file.
const BATCH: usize = 128 * 1024;

/// Who says what is relayed now.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    pub(super) chain: String,
    pub(super) task: String,
    pub(super) run: u64,
}

/// The way of lines.
#[derive(Debug)]
pub(super) enum Relay {
    /// Into a file of the chain's.
    File(Box<LinesFile>),
    /// Into the main log.
    Lane(Lane),
    /// Nowhere.
    Nowhere,
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss<'a> {
    pub(super) lines: u64,
    pub(super) cause: Option<&'a str>,
    /// Whether the lines are for the main log.
    pub(super) main: bool,
}

/// Why a lane loses lines.
const NO_ROOM: &str = "the main log takes no more";

impl Relay {
    /// The bytes of a piece of a long line.
    pub(super) fn piece(&self) -> usize {
        match self {
            Relay::File(_) => 8 * 1024,
            Relay::Lane(_) | Relay::Nowhere => 3000,
        }
    }

    /// The bytes that are worth reading at once: what a full lane refuses must be kept.
    pub(super) fn chunk(&self) -> usize {
        match self {
            Relay::File(_) | Relay::Nowhere => 256 * 1024,
            Relay::Lane(_) => 4 * 1024,
        }
    }

    /// Takes a line, or a piece of one that goes on (`more`). `false`: not now.
    pub(super) fn take(
        &mut self,
        who: &Speaker,
        stream: Stream,
        line: &[u8],
        more: bool,
        at: WallTime,
    ) -> bool {
        match self {
            Relay::File(file) => {
                file.add(who, stream, line, more, at);
                true
            }
            Relay::Lane(lane) => lane.send(who, stream, line, more, at),
            Relay::Nowhere => true,
        }
    }

    /// The lines that were lost in all, and why some are being lost now.
    pub(super) fn loss(&self) -> Loss<'_> {
        match self {
            Relay::File(file) => Loss {
                lines: file.lost,
                cause: (file.dropped > 0).then_some(&file.cause),
                main: false,
            },
            Relay::Lane(lane) => {
                Loss { lines: lane.lost, cause: (lane.dropped > 0).then_some(NO_ROOM), main: true }
            }
            Relay::Nowhere => Loss { lines: 0, cause: None, main: false },
        }
    }

    /// Waits for room in a lane, at most so long.
    pub(super) fn wait(&self, patience: Duration) {
        if let Relay::Lane(lane) = self {
            let _ = poll::wait_writable(lane.lane.as_fd(), Some(patience));
        }
    }

    /// Whether a lane is known to be full.
    #[cfg(test)]
    pub(super) fn is_holding(&self) -> bool {
        matches!(self, Relay::Lane(lane) if lane.dropped > 0)
    }

    /// After some lines: what was collected goes out.
    pub(super) fn flush(&mut self, who: &Speaker) {
        if let Relay::File(file) = self {
            file.flush(who);
        }
    }
}

/// A chain's own file.
#[derive(Debug)]
pub(super) struct LinesFile {
    pub(super) file: RotatingFile,
    batch: Vec<u8>,
    stamp: Stamp,
    /// Lines that are lost and not yet told in the file.
    dropped: u64,
    /// Lines that were ever lost.
    lost: u64,
    cause: String,
}

/// The beginning of lines, made once for all that were read together.
#[derive(Debug, Default)]
struct Stamp {
    of: Option<(WallTime, u64, Stream, bool)>,
    text: Vec<u8>,
}

impl LinesFile {
    pub(super) fn new(file: RotatingFile) -> LinesFile {
        let (batch, cause) = (Vec::new(), String::new());
        LinesFile { file, batch, stamp: Stamp::default(), dropped: 0, lost: 0, cause }
    }

    /// Another task's name may be at the same time and run: forget what was made.
    pub(super) fn begin_run(&mut self) {
        self.stamp.of = None;
    }

    fn add(&mut self, who: &Speaker, stream: Stream, line: &[u8], more: bool, at: WallTime) {
        let wanted = Some((at, who.run, stream, more));
        if self.stamp.of != wanted {
            self.stamp.of = wanted;
            self.stamp.text = stamp(who, stream.word(), more, at);
        }
        self.batch.extend_from_slice(&self.stamp.text);
        safe::push_safe(&mut self.batch, line);
        self.batch.push(b'\n');
        if self.batch.len() >= BATCH {
            self.flush(who);
        }
    }

    fn flush(&mut self, who: &Speaker) {
        if self.batch.is_empty() {
            return;
        }
        if self.dropped == 0 || self.tell_dropped(who) {
            self.write_batch();
        } else {
            self.drop_lines(0);
        }
        self.batch.clear();
    }

    fn tell_dropped(&mut self, who: &Speaker) -> bool {
        let mut note = stamp(who, "runner", false, WallTime(clock::wall_ms()));
        let _ = writeln!(note, "{} lines dropped: {}", self.dropped, safe::safe_line(&self.cause));
        let done = self.file.end_torn_line().and_then(|()| self.file.write_some(&note));
        match done {
            Ok(written) if written == note.len() => {
                self.dropped = 0;
                true
            }
            _ => false,
        }
    }

    fn write_batch(&mut self) {
        let mut at = 0;
        while at < self.batch.len() {
            match self.file.write_some(&self.batch[at..]) {
                Ok(written) if written > 0 => at += written,
                failed => {
                    let cause =
                        failed.err().unwrap_or_else(|| std::io::ErrorKind::WriteZero.into());
                    self.cause = error_text(&cause);
                    self.drop_lines(at);
                    return;
                }
            }
        }
    }

    fn drop_lines(&mut self, from: usize) {
        let lines = self.batch[from..].iter().filter(|byte| **byte == b'\n').count();
        let lines = u64::try_from(lines).unwrap_or(0);
        self.dropped += lines;
        self.lost += lines;
    }
}

fn stamp(who: &Speaker, stream: &str, more: bool, at: WallTime) -> Vec<u8> {
    let time = humantime::format_rfc3339_millis(at.system_time());
    let more = if more { "+" } else { "" };
    format!("{time} {} {} {} {stream}{more}: ", who.chain, who.task, who.run).into_bytes()
}

/// The way into the main log.
#[derive(Debug)]
pub(super) struct Lane {
    lane: OwnedFd,
    dropped: u64,
    lost: u64,
    /// What is left of [`PATIENCE`], as of `counted`.
    patience: Duration,
    counted: Duration,
    /// Since when the lane refuses; `None`: it does not.
    held_since: Option<Duration>,
}

impl Lane {
    pub(super) fn new(lane: OwnedFd) -> Lane {
        let counted = clock::monotonic();
        Lane { lane, dropped: 0, lost: 0, patience: PATIENCE, counted, held_since: None }
    }

    fn send(
        &mut self,
        who: &Speaker,
        stream: Stream,
        line: &[u8],
        more: bool,
        at: WallTime,
    ) -> bool {
        let mut record = OutputLine {
            at,
            task: who.task.clone(),
            run: who.run,
            stream,
            line: String::new(),
            more: false,
            dropped: self.dropped,
        };
        if self.dropped > 0 {
            if !self.offer(&record) {
                return self.refuse();
            }
            self.dropped = 0;
            record.dropped = 0;
        }
        record.line = safe::safe_bytes(line);
        record.more = more;
        if self.offer(&record) {
            self.end_hold();
            return true;
        }
        self.refuse()
    }

    fn offer(&self, record: &OutputLine) -> bool {
        let packet = serde_json::to_vec(record).unwrap_or_default();
        if packet.len() <= MAX_RECORD {
            return socket::send_packet(&self.lane, &packet).unwrap_or(false);
        }
        let mut shorter = record.clone();
        let most = shorter.line.len() * MAX_RECORD / packet.len();
        cut(&mut shorter.line, most.saturating_sub(512));
        let packet = serde_json::to_vec(&shorter).unwrap_or_default();
        socket::send_packet(&self.lane, &packet[..]).unwrap_or(false)
    }

    /// No room: `true` when the line is given up, `false` when the task shall wait.
    fn refuse(&mut self) -> bool {
        let now = clock::monotonic();
        let passed = now.saturating_sub(self.counted);
        self.counted = now;
        match self.held_since {
            None => self.patience = (self.patience + passed / 30).min(PATIENCE),
            Some(_) => self.patience = self.patience.saturating_sub(passed),
        }
        // A first bit of patience must have come back, or each line would wait a moment.
        let enough = if self.held_since.is_some() { Duration::ZERO } else { PATIENCE / 20 };
        if self.patience > enough {
            self.held_since = self.held_since.or(Some(now));
            return false;
        }
        self.held_since = None;
        self.dropped += 1;
        self.lost += 1;
        true
    }

    fn end_hold(&mut self) {
        if self.held_since.take().is_some() {
            let now = clock::monotonic();
            self.patience = self.patience.saturating_sub(now.saturating_sub(self.counted));
            self.counted = now;
        }
    }
}
