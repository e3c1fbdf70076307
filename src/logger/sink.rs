//! The end of the log's way, on slog-async's thread: text by slog-term or JSON lines, into standard
//! error or a file. Only this thread ever waits for the sink. A sink that fails (full disk, EIO,
//! a folder that went away) is tried again until it is back: the record waits, those behind it
//! wait, and in the end the senders drop and count. So nothing is lost that nobody counted, and no
//! line is torn.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slog::{Drain, KV, OwnedKVList};
use slog_term::{FullFormat, PlainSyncDecorator};

use super::drain::Pairs;
use super::health::Health;
use super::rotate::RotatingFile;
use crate::config::model::{Log, LogFormat, LogTarget};
use crate::sys::{append, poll};
use crate::wire::log::Trouble;
use crate::wire::safe;
use crate::wire::time::WallTime;

/// How long a failed sink rests before it is tried again: doubled up to the second value.
const REST: (Duration, Duration) = (Duration::from_millis(125), Duration::from_secs(1));

/// The same for a sink whose reader is gone for good.
const REST_BROKEN: Duration = Duration::from_secs(60);

/// The tag of a record that asks for reopening and is not written itself.
pub(super) const REOPEN: &str = "reopen";

/// What the two threads of the logger share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Records given to slog-async and not yet written.
    pub(super) in_flight: AtomicUsize,
    /// Records written since the start.
    pub(super) written: AtomicU64,
    /// Where trouble is told.
    pub(super) health: Health,
    /// Of the record being written, for the timestamp: milliseconds since 1970.
    at: AtomicU64,
    /// Of the record being written, for journald's prefix.
    level: AtomicU8,
}

impl Shared {
    pub(super) fn new(health: Health) -> Shared {
        let (in_flight, written) = (AtomicUsize::new(0), AtomicU64::new(0));
        Shared { in_flight, written, health, at: AtomicU64::new(0), level: AtomicU8::new(0) }
    }
}

/// The log's file, if it is one; shared with the thread that compresses old ones.
pub(super) type SharedFile = Arc<Mutex<Target>>;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Target {
    /// Descriptor 2: nothing to open or rotate.
    Stderr,
    /// A file that was opened.
    File(RotatingFile),
    /// A file that could not be opened yet.
    Unopened(Log),
}

impl Target {
    /// Opens what `log` says.
    pub(super) fn open(log: &Log) -> Target {
        let mut target = match &log.to {
            LogTarget::Stderr => Target::Stderr,
            LogTarget::File(_) => Target::Unopened(log.clone()),
        };
        // What fails now is tried again with the first record, and told then.
        let _ = target.ensure_open();
        target
    }

    fn ensure_open(&mut self) -> io::Result<()> {
        if let Target::Unopened(log) = self
            && let LogTarget::File(path) = &log.to
        {
            *self = Target::File(RotatingFile::open(path, log.rotate).map_err(io::Error::other)?);
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ensure_open()?;
        match self {
            Target::File(file) => file.write_some(bytes),
            Target::Stderr | Target::Unopened(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Where lines go, for people.
    pub(super) fn path(&self) -> &Path {
        match self {
            Target::File(file) => file.path(),
            Target::Unopened(Log { to: LogTarget::File(path), .. }) => path,
            Target::Stderr | Target::Unopened(_) => Path::new("standard error"),
        }
    }

    /// The file, if it is open.
    pub(super) fn file(&mut self) -> Option<&mut RotatingFile> {
        match self {
            Target::File(file) => Some(file),
            Target::Stderr | Target::Unopened(_) => None,
        }
    }
}

/// Locks whatever happened to the other thread: a torn line is better than no log.
fn lock(target: &SharedFile) -> MutexGuard<'_, Target> {
    target.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes whole records; gives up never.
struct Writer {
    /// `None`: standard error, which may block in write(2) and has no lock therefore.
    target: Option<SharedFile>,
    shared: Arc<Shared>,
    prefix: bool,
}

impl Write for Writer {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if self.prefix {
            // One write per record for journald too: a prefix in a write of its own is a line
            // of its own when another process writes in between.
            let mut prefixed = Vec::with_capacity(record.len() + 3);
            let _ = write!(prefixed, "<{}>", priority(self.shared.level.load(Ordering::Relaxed)));
            prefixed.extend_from_slice(record);
            self.write_whole(&prefixed);
        } else {
            self.write_whole(record);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    fn write_whole(&self, mut bytes: &[u8]) {
        let mut rest = REST.0;
        let mut told = false;
        while !bytes.is_empty() {
            // The lock is not held while resting.
            let result = match &self.target {
                None => append::write_stderr(bytes),
                Some(target) => lock(target).write_some(bytes),
            };
            match result {
                Ok(written) if written > 0 => {
                    bytes = &bytes[written..];
                    rest = REST.0;
                    if bytes.is_empty() {
                        self.shared.health.tell(None);
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll::wait_writable(io::stderr().as_fd(), Some(REST.1));
                }
                failed => {
                    let cause = failed.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    if !std::mem::replace(&mut told, true) {
                        self.tell(&cause);
                    }
                    let broken = cause.kind() == io::ErrorKind::BrokenPipe;
                    std::thread::sleep(if broken { REST_BROKEN } else { rest });
                    rest = (rest * 2).min(REST.1);
                }
            }
        }
    }

    /// Tells the master, and says on standard error that the log's file fails, if that can be said
    /// without waiting.
    fn tell(&self, cause: &io::Error) {
        let cause = crate::sys::error_text(cause);
        let Some(target) = &self.target else {
            let text = format!("cannot write the log to standard error: {cause}");
            return self.shared.health.tell(Some(Trouble::Fails(text)));
        };
        let path = lock(target).path().display().to_string();
        let text =
            safe::safe_line(&format!("cannot write the log to {path}: {cause}")).into_owned();
        self.shared.health.tell(Some(Trouble::Fails(text.clone())));
        if poll::wait_writable(io::stderr().as_fd(), Some(Duration::ZERO)).unwrap_or(false) {
            let _ = append::write_stderr(format!("{text}; records wait for it\n").as_bytes());
        }
    }
}

/// syslog(3)'s priority for slog's level number.
fn priority(level: u8) -> u8 {
    match level {
        1 => 2,
        2 => 3,
        3 => 4,
        4 => 6,
        _ => 7,
    }
}

/// Whether standard error is connected to journald (sd-daemon(3)).
fn is_journal(journal_stream: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let parts = journal_stream.and_then(|value| value.split_once(':'));
    let wanted = parts.and_then(|(dev, ino)| Some((dev.parse().ok()?, ino.parse().ok()?)));
    wanted.is_some() && wanted == stderr
}

/// The drain behind slog-async.
pub(super) struct Sink {
    form: Form,
    target: SharedFile,
    shared: Arc<Shared>,
}

enum Form {
    Text(Box<FullFormat<PlainSyncDecorator<Writer>>>),
    Json(Mutex<RefCell<Writer>>),
}

impl Sink {
    /// A sink of this log.
    pub(super) fn new(log: &Log, target: SharedFile, shared: Arc<Shared>) -> Sink {
        let text = log.format == LogFormat::Text;
        let stream = std::env::var("JOURNAL_STREAM").ok();
        let journal =
            log.to == LogTarget::Stderr && is_journal(stream.as_deref(), append::stderr_identity());
        let writer = Writer {
            target: (log.to != LogTarget::Stderr).then(|| Arc::clone(&target)),
            shared: Arc::clone(&shared),
            prefix: text && journal,
        };
        let form = if text {
            let clock = Arc::clone(&shared);
            let format = FullFormat::new(PlainSyncDecorator::new(writer))
                .use_custom_timestamp(move |out: &mut dyn Write| {
                    let at = WallTime(clock.at.load(Ordering::Relaxed));
                    write!(out, "{}", humantime::format_rfc3339_millis(at.system_time()))
                })
                .build();
            Form::Text(Box::new(format))
        } else {
            Form::Json(Mutex::new(RefCell::new(writer)))
        };
        Sink { form, target, shared }
    }

    fn write(&self, record: &slog::Record<'_>, values: &OwnedKVList) {
        match &self.form {
            // The writer itself never fails.
            Form::Text(format) => drop(format.log(record, values)),
            Form::Json(writer) => {
                let line = json_line(self.shared.at.load(Ordering::Relaxed), record);
                let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = writer.borrow_mut().write(line.as_bytes());
            }
        }
    }
}

impl Drain for Sink {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        if record.tag() == REOPEN {
            // On an error the old file stays in use; the next record tries again and tells.
            if let Some(file) = lock(&self.target).file() {
                let _ = file.reopen();
            }
        } else {
            // slog-async carries the record's own time as its tag.
            self.shared.at.store(record.tag().parse().unwrap_or(0), Ordering::Relaxed);
            let level = u8::try_from(record.level().as_usize()).unwrap_or(4);
            self.shared.level.store(level, Ordering::Relaxed);
            self.write(record, values);
        }
        self.shared.written.fetch_add(1, Ordering::Relaxed);
        self.shared.in_flight.fetch_sub(1, Ordering::Release);
        Ok(())
    }
}

/// The record as one JSON object and a newline: `ts`, `level`, `msg`, then its pairs in order. A
/// pair with one of these three names gets `_` behind it.
fn json_line(at: u64, record: &slog::Record<'_>) -> String {
    let mut pairs = Pairs::default();
    let _ = record.kv().serialize(record, &mut pairs);
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let at = humantime::format_rfc3339_millis(WallTime(at).system_time()).to_string();
    let mut line = format!(
        "{{\"ts\":{},\"level\":{},\"msg\":{}",
        quoted(&at),
        quoted(&record.level().as_str().to_ascii_lowercase()),
        quoted(&record.msg().to_string())
    );
    for (key, value) in pairs.0 {
        let taken = matches!(key.as_str(), "ts" | "level" | "msg");
        let _ = write!(line, ",{}:", quoted(&if taken { key + "_" } else { key }));
        line.push_str(&quoted(&value));
    }
    line.push_str("}\n");
    without_controls(&line)
}

/// JSON with what serde_json leaves as it is although a terminal or a reader of lines may act
/// upon it. Such characters stand in strings only, so the standard's escape is always right there.
fn without_controls(json: &str) -> String {
    if json.is_ascii() {
        return json.replace('\u{7f}', "\\u007f");
    }
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || safe::is_safe(character) {
            safe.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_is_recognised_by_device_and_inode_only() {
        assert!(is_journal(Some("8:1234"), Some((8, 1234))));
        assert!(!is_journal(Some("8:1235"), Some((8, 1234))));
        assert!(!is_journal(None, Some((8, 1234))));
        assert!(!is_journal(Some("nonsense"), None));
    }

    #[test]
    fn levels_become_priorities_of_syslog() {
        assert_eq!((1..=6).map(priority).collect::<Vec<_>>(), [2, 3, 4, 6, 7, 7]);
    }

    #[test]
    fn json_stays_json_and_harmless() {
        let text = without_controls("{\"a\":\"\u{9b}\u{202e}ä\u{7f}\"}\n");
        assert_eq!(text, "{\"a\":\"\\u009b\\u202eä\\u007f\"}\n");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["a"], "\u{9b}\u{202e}ä\u{7f}");
    }
}
