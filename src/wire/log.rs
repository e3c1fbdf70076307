//! One record of the main log on its way to the logger: a JSON object per packet, at most
//! [`MAX_RECORD`] bytes. Two lanes carry them: the master's own [`Record`]s, and the
//! [`OutputLine`]s of tasks whose output goes to the main log. The link between the master and a
//! logger carries [`Hello`]s to it and [`SinkState`]s back.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::time::WallTime;

/// The largest record, in bytes. What is longer is cut by the sender.
pub const MAX_RECORD: usize = 4096;

/// Stands where a record or a line was cut.
pub const CUT_MARK: &str = "[cut]";

/// A record of the main log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was made.
    pub at: WallTime,
    /// slog's level by number, 1 (Critical) to 6 (Trace).
    pub level: u8,
    /// One line.
    pub msg: String,
    /// Keys and values, in the order they are shown.
    #[serde(default)]
    pub kv: Vec<(String, String)>,
}

/// Which of a task's two streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// `out` or `err`, as files and logs show it.
    pub fn word(self) -> &'static str {
        match self {
            Stream::Out => "out",
            Stream::Err => "err",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A chain process says who it is, before it lets go of what is the master's: on the link that
/// nobody else has. From then on lines that the kernel says this process sent are this chain's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The process.
    pub pid: i32,
    /// The chain's name.
    pub chain: String,
}

/// How the log is doing, told when that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkState {
    /// Why nothing can be written; `None`: all is well.
    pub trouble: Option<Trouble>,
}

/// What keeps a log from being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Writing fails: "cannot VERB OBJECT: CAUSE".
    Fails(String),
    /// A write has not come back for a while: a terminal after ^S, a pipe that nobody reads.
    Blocks(String),
}

impl Trouble {
    /// For people.
    pub fn text(&self) -> &str {
        match self {
            Trouble::Fails(text) | Trouble::Blocks(text) => text,
        }
    }
}

/// One line that a task wrote, on its way from a chain process to the logger, which knows by the
/// sender whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputLine {
    /// When it was read.
    pub at: WallTime,
    /// The task's name.
    pub task: String,
    /// The run's number in its chain process.
    pub run: u64,
    /// Where the task wrote it.
    pub stream: Stream,
    /// The line without its end, made safe.
    pub line: String,
    /// Whether the task's line goes on in the next record of this stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// How many lines were dropped before this one because nobody took them; then `line` is
    /// empty.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Record {
    /// The record as one packet of at most [`MAX_RECORD`] bytes: the longest texts are cut, and
    /// keys at the end are left out, until it fits.
    pub fn encode(mut self) -> Vec<u8> {
        loop {
            let packet = serde_json::to_vec(&self).unwrap_or_default();
            if packet.len() <= MAX_RECORD {
                return packet;
            }
            self.shorten(packet.len() - MAX_RECORD);
        }
    }

    /// Makes the record at least one byte shorter, and hardly more than `excess`, which counts
    /// encoded bytes: a byte of text is one to six of them.
    fn shorten(&mut self, excess: usize) {
        let has_pairs = !self.kv.is_empty();
        let values = self.kv.iter_mut().map(|(_, value)| value);
        let longest = std::iter::once(&mut self.msg).chain(values).max_by_key(|text| text.len());
        match longest {
            Some(text) if text.len() > 64 => {
                let less = (excess / 6 + CUT_MARK.len() + 1).min(text.len() / 2);
                cut(text, text.len() - less);
            }
            _ if has_pairs => drop(self.kv.pop()),
            // 64 bytes and a few numbers always fit.
            _ => self.msg.clear(),
        }
    }

    /// Decodes one packet. Total.
    ///
    /// # Errors
    /// When it is no record.
    pub fn decode(packet: &[u8]) -> Result<Record, String> {
        serde_json::from_slice(packet).map_err(|cause| format!("cannot decode a record: {cause}"))
    }
}

/// Shortens `text` to at most `length` bytes at a character's boundary and marks the place.
pub fn cut(text: &mut String, length: usize) {
    if text.len() <= length {
        return;
    }
    let keep = length.saturating_sub(CUT_MARK.len());
    let boundary = (0..=keep).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(boundary);
    text.push_str(CUT_MARK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_any_length_fits_in_its_packet_and_says_that_it_was_cut() {
        for text in ["x".repeat(100_000), "\u{1b}".repeat(10_000), "ä".repeat(5_000)] {
            let record = Record {
                at: WallTime(1),
                level: 4,
                msg: text.clone(),
                kv: vec![
                    ("key".to_owned(), text.clone()),
                    ("other".to_owned(), "short".to_owned()),
                ],
            };
            let packet = record.encode();
            assert!(packet.len() <= MAX_RECORD, "{} bytes", packet.len());
            assert!(packet.len() > MAX_RECORD / 3, "hardly anything is left: {}", packet.len());
            let read = Record::decode(&packet).unwrap();
            assert!(read.msg.ends_with(CUT_MARK));
            assert!(text.starts_with(read.msg.trim_end_matches(CUT_MARK)));
            assert_eq!(read.kv[1].1, "short");
        }
    }

    #[test]
    fn a_thousand_keys_fit_too() {
        let kv = (0..1000).map(|n| (format!("key{n}"), "value".to_owned())).collect();
        let record = Record { at: WallTime(1), level: 4, msg: "kept".to_owned(), kv };
        let read = Record::decode(&record.encode()).unwrap();
        assert_eq!(read.msg, "kept");
        assert!(read.kv.len() > 50);
    }
}
