//! The logger: the only process that writes the main log. It runs as an account of its own, so the
//! log's folder must be writable for that account (for rotation too): the file is opened after
//! root was dropped, at the start as at each USR1.
//!
//! Records come in packets over two [`Lanes`]; the master's own go first. [`run`] passes
//! them to slog-async, whose thread writes them (see `sink`). When the sink blocks, at most
//! [`QUEUE`] records wait here, then those in the lanes, then the senders drop and count. This
//! process itself always answers: USR1 reopens the file; TERM, INT and QUIT write what is here and
//! leave the rest in the lanes to the next logger; when all senders are gone it writes the rest and
//! exits 0. A sink that does not move for [`GRACE`] does not hold up that end.

pub mod drain;
mod health;
pub mod lanes;
pub mod link;
mod pack;
pub mod rotate;
mod sink;

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slog::{Drain, KV, Key, Level, OwnedKVList, Serializer};
use slog_async::{Async, OverflowStrategy};

pub use drain::PacketDrain;
pub use lanes::Lanes;
pub use rotate::RotatingFile;

use crate::config::model::Log;
use crate::sys::account::Account;
use crate::sys::signals::{self, Signals};
use crate::sys::{append, clock, fork, poll, privileges, socket};
use crate::wire::log::{MAX_RECORD, OutputLine, Record, Trouble};
use crate::wire::safe;
use crate::wire::words::counted;
use health::{Health, Pace};
use link::Senders;
use sink::{REOPEN, Shared, SharedFile, Sink, Target};

/// Which of [`Logger::lanes`] is the master's.
const MASTER: usize = 0;

/// Records that wait inside this process, at most; of tasks' output half as many, so that there is
/// always room for the master's own.
pub const QUEUE: usize = 256;

/// How long the end of this process waits for a sink that does not move.
pub const GRACE: Duration = Duration::from_secs(1);

/// How often it is looked whether records that wait get written.
const LOOK_AT_PACE: Duration = Duration::from_secs(1);

/// How often a full queue is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The life of the logger, from the fork on: for [`fork::fork_child`]. It lets go of everything but
/// standard error and the reading ends of `lanes`, and becomes `account` (as root; `None` keeps
/// who it is). Before that nothing of the caller's is touched, so an error is told on standard
/// error and ends the process with 71.
///
/// `link` is its side of the link to the master, `chains` the processes that are chains already.
pub fn run(
    log: &Log,
    account: Option<&Account>,
    lanes: &Lanes,
    link: &OwnedFd,
    chains: Vec<(i32, String)>,
) -> Infallible {
    fork::keep_only(&[lanes.master_out.as_fd(), lanes.output_out.as_fd(), link.as_fd()]);
    match Logger::start(log, account, lanes, link, chains) {
        Ok(mut logger) => {
            if logger.serve() {
                logger.finish();
            }
            fork::leave(0)
        }
        Err(cause) => {
            let line = format!("cannot start the logger: {cause}\n");
            let _ = append::write_stderr(line.as_bytes());
            fork::leave(fork::EXIT_OSERR)
        }
    }
}

struct Logger<'a> {
    lanes: [Lane<'a>; 2],
    signals: Signals,
    target: SharedFile,
    shared: Arc<Shared>,
    queue: Async,
    senders: Senders<'a>,
    /// Packets of the output lane that no chain sent, not yet told.
    strangers: u64,
    pace: Pace,
}

/// A reading end. `limit`: how many records may wait here for this lane to be read.
struct Lane<'a> {
    end: BorrowedFd<'a>,
    open: bool,
    limit: usize,
    form: fn(Packet<'_>) -> Result<Line, String>,
}

/// What came over a lane: a record of the master's, or a line of the chain that is named here.
#[derive(Clone, Copy)]
struct Packet<'a> {
    bytes: &'a [u8],
    chain: &'a str,
}

/// A record on its way into slog-async.
struct Line {
    at: u64,
    level: Level,
    text: String,
    pairs: Pairs,
}

impl<'a> Logger<'a> {
    fn start(
        log: &Log,
        account: Option<&Account>,
        lanes: &'a Lanes,
        link: &'a OwnedFd,
        chains: Vec<(i32, String)>,
    ) -> Result<Logger<'a>, String> {
        signals::block();
        let signals = Signals::new().map_err(|e| format!("cannot watch signals: {e}"))?;
        fork::new_session();

        std::env::set_current_dir("/").map_err(|e| format!("cannot change to /: {e}"))?;
        if let Some(account) = account {
            privileges::drop_to(account)?;
        }
        let copy = link.try_clone().map_err(|e| format!("cannot keep the link: {e}"))?;
        let shared = Arc::new(Shared::new(Health::new(copy)));
        let target = Arc::new(Mutex::new(Target::open(log)));
        let sink = Sink::new(log, Arc::clone(&target), Arc::clone(&shared));
        // Last of what reads the environment: the title is written over it.
        crate::sys::proc::set_title("runner: logger");
        // `in_flight` keeps the channel from ever being full.
        let queue = Async::new(sink)
            .chan_size(QUEUE + 8)
            .overflow_strategy(OverflowStrategy::Block)
            .build();
        let json = log.format == crate::config::model::LogFormat::Json;
        let master = Lane {
            end: lanes.master_out.as_fd(),
            open: true,
            limit: QUEUE,
            form: if json { record } else { record_text },
        };
        let output = Lane {
            end: lanes.output_out.as_fd(),
            open: true,
            limit: QUEUE / 2,
            form: if json { output_pairs } else { output_text },
        };
        let senders = Senders::new(link, chains);
        let (lanes, pace) = ([master, output], Pace::default());
        Ok(Logger { lanes, signals, target, shared, queue, senders, strangers: 0, pace })
    }

    /// Until all senders are gone or a signal says so. Returns whether the sink may still take
    /// what waits here. From here on nothing is fatal.
    fn serve(&mut self) -> bool {
        while self.lanes.iter().any(|lane| lane.open) {
            let waiting = self.waiting();
            let reading = self.lanes.each_ref().map(|lane| lane.open && waiting < lane.limit);
            let packing = self.with_file(|file| file.wants_packing());
            let held_back = self.lanes.iter().zip(reading).any(|(lane, reads)| lane.open && !reads);
            if held_back && self.is_left_alone() && !self.moves() {
                // Nobody sends any more and the sink takes nothing: what is left is lost.
                return false;
            }
            let written = self.shared.written.load(Ordering::Relaxed);
            if self.pace.is_stuck(waiting, written, clock::monotonic()) {
                let whose = self.target.try_lock().map_or_else(
                    |_| "the log".to_owned(),
                    |target| target.path().display().to_string(),
                );
                let text = format!("a write to {whose} does not come back: nobody reads it");
                self.shared.health.tell(Some(Trouble::Blocks(text)));
            }
            let timeout = match (packing && waiting == 0, held_back) {
                (true, _) => Some(Duration::ZERO),
                (false, true) => Some(LOOK_AGAIN),
                (false, false) if waiting > 0 => Some(LOOK_AT_PACE),
                (false, false) => None,
            };
            let mut fds = vec![self.signals.as_fd()];
            fds.extend(
                self.lanes.iter().zip(reading).filter(|(_, reads)| *reads).map(|(l, _)| l.end),
            );
            let Ok(ready) = poll::wait_readable(&fds, timeout) else { return true };
            if ready[0] && self.answer_signals() {
                return true;
            }
            if !ready.contains(&true) && packing && waiting == 0 {
                self.with_file(RotatingFile::pack_some);
                continue;
            }
            // The master's lane first, and again before each batch of the other.
            for lane in [0, 1] {
                if reading[lane] {
                    self.read(lane);
                }
            }
        }
        true
    }

    /// Asks the file, unless the other thread has it just now: this one never waits for the sink.
    fn with_file(&self, ask: impl FnOnce(&mut RotatingFile) -> bool) -> bool {
        match self.target.try_lock() {
            Ok(mut target) => target.file().is_some_and(ask),
            Err(_) => false,
        }
    }

    /// Whether all senders are gone, although what they sent may not be read yet.
    fn is_left_alone(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.open || poll::is_hung_up(lane.end))
    }

    /// Waits until at least one record was written, at most [`GRACE`].
    fn moves(&self) -> bool {
        let before = self.waiting();
        let mut patience = GRACE;
        while self.waiting() == before && !patience.is_zero() {
            std::thread::sleep(LOOK_AGAIN);
            patience = patience.saturating_sub(LOOK_AGAIN);
        }
        self.waiting() != before
    }

    fn waiting(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// Returns whether one of them ends this process.
    fn answer_signals(&self) -> bool {
        const USR1: i32 = 10;
        const ENDING: [i32; 3] = [2, 3, 15];
        while let Ok(Some(signal)) = self.signals.read() {
            if signal.number == USR1 {
                let reopen = Line {
                    at: 0,
                    level: Level::Info,
                    text: String::new(),
                    pairs: Pairs::default(),
                };
                self.enqueue(REOPEN, &reopen);
            }
            if ENDING.contains(&signal.number) {
                return true;
            }
        }
        false
    }

    /// Takes some records of one lane.
    fn read(&mut self, lane: usize) {
        let mut buffer = [0; MAX_RECORD];
        for _ in 0..64 {
            let Lane { end, limit, form, .. } = self.lanes[lane];
            if self.waiting() >= limit {
                return;
            }
            if lane != MASTER && !self.senders.hear_hellos() && !self.is_left_alone() {
                // The master became another image and has a new logger, which knows the chains
                // that come now: what they say is for that one.
                return;
            }
            let (received, sender) = match lane {
                MASTER => (socket::receive_packet(end, &mut buffer), None),
                _ => match socket::receive_packet_from(end, &mut buffer) {
                    Ok((received, sender)) => (Ok(received), sender),
                    Err(cause) => (Err(cause), None),
                },
            };
            let length = match received {
                Ok(socket::Received::Packet(length)) => length,
                Ok(socket::Received::Oversized) => {
                    self.complain("a record was too long");
                    continue;
                }
                Ok(socket::Received::Empty) => return self.tell_strangers(),
                Ok(socket::Received::Closed) | Err(_) => {
                    self.lanes[lane].open = false;
                    return;
                }
            };
            let bytes = &buffer[..length];
            let line = match lane {
                MASTER => form(Packet { bytes, chain: "" }),
                _ => match self.senders.chain_of(sender) {
                    Some(chain) => form(Packet { bytes, chain }),
                    None => {
                        self.strangers += 1;
                        continue;
                    }
                },
            };
            match line {
                Ok(line) => self.enqueue(&line.at.to_string(), &line),
                Err(cause) => self.complain(&cause),
            }
        }
    }

    /// A process that is no chain has got hold of the lane: nothing of it is written but that.
    fn tell_strangers(&mut self) {
        if self.strangers > 0 {
            let count = std::mem::take(&mut self.strangers);
            let text =
                format!("{} dropped: no chain sent them", counted(count, "line was", "lines were"));
            self.say(Level::Warning, text);
        }
    }

    /// Of a packet that says nothing: it comes from a chain's user, or from another version.
    fn complain(&self, cause: &str) {
        let text = format!("a packet for the log was ignored: {}", safe::safe_line(cause));
        self.say(Level::Debug, text);
    }

    fn say(&self, level: Level, text: String) {
        let at = crate::sys::clock::wall_ms();
        self.enqueue(&at.to_string(), &Line { at, level, text, pairs: Pairs::default() });
    }

    fn enqueue(&self, tag: &str, line: &Line) {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        let location =
            &slog::RecordLocation { file: "", line: 0, column: 0, function: "", module: "" };
        let place = slog::RecordStatic { location, tag, level: line.level };
        let text = format_args!("{}", line.text);
        let record = slog::Record::new(&place, &text, slog::BorrowedKV(&line.pairs));
        let none = OwnedKVList::from(slog::o!());
        if self.queue.log(&record, &none).is_err() {
            // The writing thread is gone: the master starts a fresh logger.
            fork::leave(fork::EXIT_OSERR);
        }
    }

    /// Waits until everything is written, as long as the sink moves.
    fn finish(&self) {
        while self.waiting() > 0 && self.moves() {}
    }
}

/// Keys and values as slog takes them, in order.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl KV for Pairs {
    fn serialize(&self, _: &slog::Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        for (key, value) in &self.0 {
            serializer.emit_str(Key::from(key.clone()), value)?;
        }
        Ok(())
    }
}

/// A packet as the log will say it: its text, then its keys and values. `of_tasks`: it came by the
/// output lane of a chain named `chain`. `json`: for the JSON form, else for text, where all of it is safe. The door by
/// which tests and fuzzers reach the readers.
///
/// # Errors
/// When the packet says nothing.
#[doc(hidden)]
pub fn told(
    packet: &[u8],
    of_tasks: bool,
    json: bool,
) -> Result<(String, Vec<(String, String)>), String> {
    let packet = Packet { bytes: packet, chain: "chain" };
    let line = match (of_tasks, json) {
        (false, true) => record(packet),
        (false, false) => record_text(packet),
        (true, true) => output_pairs(packet),
        (true, false) => output_text(packet),
    }?;
    Ok((line.text, line.pairs.0))
}

/// A packet of the master's lane.
fn record(packet: Packet<'_>) -> Result<Line, String> {
    let record = Record::decode(packet.bytes)?;
    let level = Level::from_usize(usize::from(record.level)).unwrap_or(Level::Info);
    Ok(Line { at: record.at.0, level, text: record.msg, pairs: Pairs(record.kv) })
}

/// The same for text, which slog-term prints as it is: one record is one line, and a terminal is
/// never told anything.
fn record_text(packet: Packet<'_>) -> Result<Line, String> {
    let mut line = record(packet)?;
    let tag = line.text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(tag, _)| tag);
    // A person has read the tag already.
    line.pairs.0.retain(|(key, value)| match (key.as_str(), tag) {
        ("task", Some(tag)) => tag != value,
        ("chain", Some(tag)) => tag != value && tag.strip_prefix("chain ") != Some(value),
        _ => true,
    });
    let pairs = line.pairs.0.iter_mut().flat_map(|(key, value)| [key, value]);
    for text in std::iter::once(&mut line.text).chain(pairs) {
        if let std::borrow::Cow::Owned(safe) = safe::safe_line(text) {
            *text = safe;
        }
    }
    Ok(line)
}

/// A packet of the output lane for JSON: who wrote the line stands in keys of its own.
fn output_pairs(packet: Packet<'_>) -> Result<Line, String> {
    let line: OutputLine = decode_output(packet.bytes)?;
    let mut pairs = vec![
        ("chain".to_owned(), packet.chain.to_owned()),
        ("task".to_owned(), line.task),
        ("run".to_owned(), line.run.to_string()),
        ("stream".to_owned(), line.stream.word().to_owned()),
    ];
    if line.more {
        pairs.push(("more".to_owned(), "true".to_owned()));
    }
    let (level, text) = output_message(line.dropped, line.line);
    Ok(Line { at: line.at.0, level, text, pairs: Pairs(pairs) })
}

/// The same for text: who wrote the line stands in front of it, where a task's own words cannot
/// come.
fn output_text(packet: Packet<'_>) -> Result<Line, String> {
    let line: OutputLine = decode_output(packet.bytes)?;
    let more = if line.more { "+" } else { "" };
    let (level, text) = output_message(line.dropped, line.line);
    let text =
        format!("[{} {} {} {}{more}] {text}", packet.chain, line.task, line.run, line.stream);
    let text = safe::safe_line(&text).into_owned();
    Ok(Line { at: line.at.0, level, text, pairs: Pairs::default() })
}

/// A chain's user may say anything; only of a task may a line claim to be.
fn decode_output(packet: &[u8]) -> Result<OutputLine, String> {
    let line: OutputLine =
        serde_json::from_slice(packet).map_err(|cause| format!("cannot decode a line: {cause}"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if line.task.is_empty() || line.task.len() > 100 || !line.task.bytes().all(plain) {
        return Err("its task is no name".to_owned());
    }
    Ok(line)
}

fn output_message(dropped: u64, line: String) -> (Level, String) {
    match dropped {
        0 => (Level::Info, line),
        lines => (
            Level::Warning,
            format!("{} dropped: the log took no more", counted(lines, "line", "lines")),
        ),
    }
}
