//! Where the master's records leave it: one packet each, sent without waiting. No thread, no lock,
//! no buffer: a fork finds nothing half done. What does not fit because the logger does not read is
//! dropped and counted, and told as soon as there is room.

use std::fmt::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use slog::{Drain, KV, Key, OwnedKVList, Serializer};

use crate::config::model::Level;
use crate::sys::{clock, socket};
use crate::wire::log::Record;
use crate::wire::time::WallTime;
use crate::wire::words::counted;

/// An [`slog::Drain`] that sends each record as a packet. Kept in an [`std::sync::Arc`], of which
/// the root logger has a copy, it can be asked and changed at any time.
pub struct PacketDrain {
    lane: OwnedFd,
    now: fn() -> WallTime,
    level: AtomicUsize,
    dropped: AtomicU64,
    untold: AtomicU64,
}

impl PacketDrain {
    /// A drain into `lane` (a copy of the master lane's writing end) for records of `level` and
    /// more severe.
    pub fn new(lane: OwnedFd, level: Level) -> PacketDrain {
        PacketDrain::with_clock(lane, level, || WallTime(clock::wall_ms()))
    }

    /// The same with a clock of the caller's.
    pub fn with_clock(lane: OwnedFd, level: Level, now: fn() -> WallTime) -> PacketDrain {
        PacketDrain {
            lane,
            now,
            level: AtomicUsize::new(number(level)),
            dropped: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }

    /// Changes at run time which records are sent.
    pub fn set_level(&self, level: Level) {
        self.level.store(number(level), Ordering::Relaxed);
    }

    /// The records dropped since this drain was made, told or not, and those that were added.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Those of them of which no record tells yet.
    pub fn untold(&self) -> u64 {
        self.untold.load(Ordering::Relaxed)
    }

    /// Counts records that an earlier drain dropped, and tells of the untold ones among them.
    pub fn add_dropped(&self, records: u64, untold: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
        self.untold.fetch_add(untold, Ordering::Relaxed);
    }

    fn send(&self, record: Record) {
        let untold = self.untold.load(Ordering::Relaxed);
        if untold > 0 {
            let told = Record {
                at: record.at,
                level: 3,
                msg: format!(
                    "{} dropped: the log could not be written",
                    counted(untold, "record", "records")
                ),
                kv: Vec::new(),
            };
            if !self.send_packet(&told.encode()) {
                return self.lose();
            }
            self.untold.fetch_sub(untold, Ordering::Relaxed);
        }
        if !self.send_packet(&record.encode()) {
            self.lose();
        }
    }

    fn send_packet(&self, packet: &[u8]) -> bool {
        // The read end is held by the master itself, so an error (EPIPE) has no remedy here and
        // is one more record that nobody takes.
        socket::send_packet(&self.lane, packet).unwrap_or(false)
    }

    fn lose(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.untold.fetch_add(1, Ordering::Relaxed);
    }
}

/// slog's number of a level.
pub fn number(level: Level) -> usize {
    slog_level(level).as_usize()
}

/// slog's own form of a level.
pub fn slog_level(level: Level) -> slog::Level {
    match level {
        Level::Critical => slog::Level::Critical,
        Level::Error => slog::Level::Error,
        Level::Warning => slog::Level::Warning,
        Level::Info => slog::Level::Info,
        Level::Debug => slog::Level::Debug,
        Level::Trace => slog::Level::Trace,
    }
}

impl Drain for PacketDrain {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        // slog gives the newest pair first; people expect the order of writing, the record's own
        // pairs before those of its logger.
        let mut own = Pairs::default();
        let _ = record.kv().serialize(record, &mut own);
        own.0.reverse();
        let mut loggers = Pairs::default();
        let _ = values.serialize(record, &mut loggers);
        own.0.extend(loggers.0.into_iter().rev());
        let level = u8::try_from(record.level().as_usize()).unwrap_or(4);
        self.send(Record { at: (self.now)(), level, msg: record.msg().to_string(), kv: own.0 });
        Ok(())
    }

    fn is_enabled(&self, level: slog::Level) -> bool {
        level.as_usize() <= self.level.load(Ordering::Relaxed)
    }
}

/// Keys and values as text.
#[derive(Default)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let mut text = String::new();
        text.write_fmt(*value)?;
        self.0.push((key.as_ref().to_owned(), text));
        Ok(())
    }

    fn emit_str(&mut self, key: Key, value: &str) -> slog::Result {
        self.0.push((key.as_ref().to_owned(), value.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slog::{Logger, debug, info, o};

    use super::super::lanes::Lanes;
    use super::*;
    use crate::sys::socket::{Received, receive_packet};

    fn logger(level: Level) -> (Lanes, Arc<PacketDrain>, Logger) {
        let lanes = Lanes::new().unwrap();
        let lane = lanes.master_in.try_clone().unwrap();
        let drain = Arc::new(PacketDrain::with_clock(lane, level, || WallTime(42)));
        let logger = Logger::root(Arc::clone(&drain).fuse(), o!("pid" => 7, "host" => "here"));
        (lanes, drain, logger)
    }

    fn next(lanes: &Lanes) -> Option<Record> {
        let mut buffer = [0; crate::wire::log::MAX_RECORD];
        match receive_packet(&lanes.master_out, &mut buffer).unwrap() {
            Received::Packet(length) => Some(Record::decode(&buffer[..length]).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn a_record_arrives_with_time_level_and_pairs_in_the_order_of_writing() {
        let (lanes, _, logger) = logger(Level::Info);
        info!(logger, "Execution {}", "failed"; "chain" => "mail", "run" => 3);
        let record = next(&lanes).unwrap();
        assert_eq!(
            (record.at, record.level, record.msg.as_str()),
            (WallTime(42), 4, "Execution failed")
        );
        let keys: Vec<&str> = record.kv.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["chain", "run", "pid", "host"]);
        assert_eq!(record.kv[1].1, "3");
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let (lanes, drain, logger) = logger(Level::Info);
        debug!(logger, "not yet");
        drain.set_level(Level::Debug);
        debug!(logger, "now");
        assert_eq!(next(&lanes).unwrap().msg, "now");
        assert!(next(&lanes).is_none());
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_when_there_is_room() {
        let (lanes, drain, logger) = logger(Level::Info);
        let mut sent = 0_u64;
        while drain.dropped() < 10 {
            info!(logger, "record {}", sent);
            sent += 1;
            assert!(sent < 100_000, "the lane has no end");
        }
        let mut got = 0;
        while next(&lanes).is_some() {
            got += 1;
        }
        assert_eq!(got + 10, sent);
        info!(logger, "after");
        assert!(next(&lanes).unwrap().msg.starts_with("10 records dropped"));
        assert_eq!(next(&lanes).unwrap().msg, "after");
        assert_eq!(drain.dropped(), 10);
        info!(logger, "told once");
        assert_eq!(next(&lanes).unwrap().msg, "told once");
    }
}
