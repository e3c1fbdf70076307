//! What the master says: slog records for the logger, and notes by people's names.

use slog::{Drain, Logger, Never, OwnedKVList, Record};

use crate::config::model::Level;
use crate::logger::PacketDrain;

/// Every line of the master comes from here; its text says what it is about.
const PLACE: slog::RecordLocation =
    slog::RecordLocation { file: "", line: 0, column: 0, function: "", module: "" };

/// The master's log.
pub(super) struct Log {
    logger: Logger,
    drain: std::sync::Arc<PacketDrain>,
}

/// slog owns its drain; the level and the count of drops are asked of it from outside.
struct Shared(std::sync::Arc<PacketDrain>);

impl Drain for Shared {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let _ = self.0.log(record, values);
        Ok(())
    }
}

impl Log {
    pub(super) fn new(drain: PacketDrain) -> Log {
        let drain = std::sync::Arc::new(drain);
        let logger = Logger::root(Shared(std::sync::Arc::clone(&drain)), slog::o!());
        Log { logger, drain }
    }

    /// Records that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.drain.dropped()
    }

    /// Of these it was not yet told that they were lost.
    pub(super) fn untold(&self) -> u64 {
        self.drain.untold()
    }

    /// Records that the image before this one lost, and how many of them are untold.
    pub(super) fn add_dropped(&self, records: u64, untold: u64) {
        self.drain.add_dropped(records, untold);
    }

    pub(super) fn set_level(&self, level: Level) {
        self.drain.set_level(level);
    }

    /// One line about a chain and a task, or about the runner itself.
    pub(super) fn say(&self, level: Level, chain: Option<&str>, task: Option<&str>, text: &str) {
        let tag = match (task, chain) {
            (Some(task), _) => format!("[{task}] "),
            (None, Some(chain)) => format!("[chain {chain}] "),
            (None, None) => String::new(),
        };
        let place = slog::RecordStatic {
            location: &PLACE,
            tag: "",
            level: crate::logger::drain::slog_level(level),
        };
        let line = format_args!("{tag}{text}");
        match (chain, task) {
            (Some(chain), Some(task)) => {
                let pairs = slog::b!("chain" => chain, "task" => task);
                self.logger.log(&Record::new(&place, &line, pairs));
            }
            (Some(chain), None) => {
                self.logger.log(&Record::new(&place, &line, slog::b!("chain" => chain)));
            }
            (None, _) => self.logger.log(&Record::new(&place, &line, slog::b!())),
        }
    }

    pub(super) fn info(&self, text: &str) {
        self.say(Level::Info, None, None, text);
    }

    pub(super) fn warn(&self, text: &str) {
        self.say(Level::Warning, None, None, text);
    }

    pub(super) fn error(&self, text: &str) {
        self.say(Level::Error, None, None, text);
    }
}
