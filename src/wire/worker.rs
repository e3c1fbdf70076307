//! What a chain and its worker say to each other: UTF-8 lines of at most [`MAX_LINE`] bytes,
//! described for people in runner-worker(7). Decoding is total: any bytes give a message, or an
//! error that says what is wrong with them; a word that is not known is no error, for the other
//! end may be newer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;

/// The longest line, in bytes, its newline included.
pub const MAX_LINE: usize = 64 * 1024;

/// The longest word, in bytes.
const MAX_WORD: usize = 32;

/// The longest option: 100 years, as in a configuration.
const LONGEST: f64 = 100.0 * 366.0 * 24.0 * 3600.0;

/// What the runner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Run a task; its end is told by `DONE` or `FAIL` with the same number.
    Run {
        /// Counts up from run to run.
        id: u64,
        /// The name that `call` says.
        name: &'a str,
    },
    /// Are you there?
    Ping,
    /// The answer to that.
    Pong,
    /// End when nothing runs.
    Stop,
    /// This word is not known here.
    Unsupported {
        /// The word.
        word: &'a str,
    },
}

impl Request<'_> {
    /// The line, with its newline.
    pub fn encode(&self) -> String {
        match self {
            Request::Run { id, name } => format!("RUN {id} {name}\n"),
            Request::Ping => "PING\n".to_owned(),
            Request::Pong => "PONG\n".to_owned(),
            Request::Stop => "STOP\n".to_owned(),
            Request::Unsupported { word } => format!("UNSUPPORTED {word}\n"),
        }
    }
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Its first word: the version that it speaks, and its name.
    Hello {
        /// 1.
        version: u32,
        /// For people.
        name: String,
    },
    /// What it knows of some tasks, ahead of READY: for those that do not fit into its line.
    Tasks(Ready),
    /// It can run tasks from now on.
    Ready(Ready),
    /// The run ended well.
    Done {
        /// Of which run.
        id: u64,
    },
    /// The run failed.
    Fail {
        /// Of which run.
        id: u64,
        /// What was raised.
        raised: Raised,
    },
    /// Are you there?
    Ping,
    /// The answer to that.
    Pong,
    /// It ends now.
    Bye,
    /// A word of ours that it does not know.
    Unsupported {
        /// The word.
        word: String,
    },
    /// A word that we do not know.
    Unknown {
        /// The word.
        word: String,
    },
}

/// What a worker knows of its tasks when it is ready. Keys that are not known are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// What each task says of itself, by the name that `call` says.
    #[serde(default)]
    pub tasks: BTreeMap<String, Options>,
    /// Tasks that cannot be run, and why.
    #[serde(default)]
    pub errors: BTreeMap<String, Raised>,
}

/// Options that a task says of itself. The file's own word is stronger, a default is weaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// In seconds on the wire, 0 or more.
    #[serde(default, with = "seconds", skip_serializing_if = "Option::is_none")]
    pub success_cooldown: Option<Duration>,
    /// In seconds on the wire, 0 or more.
    #[serde(default, with = "seconds", skip_serializing_if = "Option::is_none")]
    pub fail_cooldown: Option<Duration>,
    /// In seconds on the wire, more than 0.
    #[serde(default, with = "seconds_above_zero", skip_serializing_if = "Option::is_none")]
    pub non_recoverable_downtime: Option<Duration>,
}

impl Ready {
    /// Adds what another line says.
    pub fn extend(&mut self, more: Ready) {
        self.tasks.extend(more.tasks);
        self.errors.extend(more.errors);
    }

    /// About how many bytes it takes to keep.
    pub fn weight(&self) -> usize {
        const ENTRY: usize = 100;
        let text = |said: &Raised| said.kind.len() + said.message.len() + said.traceback.len();
        let tasks = self.tasks.keys().map(|name| ENTRY + name.len());
        let errors = self.errors.iter().map(|(name, said)| ENTRY + name.len() + text(said));
        ENTRY + tasks.sum::<usize>() + errors.sum::<usize>()
    }
}

impl Options {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Options::default()
    }
}

/// An exception. Every part may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// Its type.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its text.
    #[serde(default)]
    pub message: String,
    /// Where it came from, in the language's own form.
    #[serde(default)]
    pub traceback: String,
}

impl Raised {
    /// The exception in one piece: the traceback, and what it says if that does not stand
    /// in it.
    pub fn text(&self) -> String {
        let traceback = self.traceback.trim_end();
        let said = match (self.kind.is_empty(), self.message.is_empty()) {
            (false, false) => format!("{}: {}", self.kind, self.message),
            (false, true) => self.kind.clone(),
            _ => self.message.clone(),
        };
        if traceback.is_empty() {
            said
        } else if told(traceback, &said) {
            traceback.to_owned()
        } else {
            format!("{traceback}\n{said}")
        }
    }
}

/// Whether each line of `said` is one of the traceback's, also behind the margin that Python draws
/// around the exceptions of a group, and before the notes of an exception.
fn told(traceback: &str, said: &str) -> bool {
    let bare = |line: &'_ str| line.trim_start_matches([' ', '|', '+']).trim_end().to_owned();
    let lines: BTreeSet<String> = traceback.lines().map(bare).collect();
    said.lines().map(bare).all(|line| line.is_empty() || lines.contains(&line))
}

/// Decodes one line, with or without its newline.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with "the worker".
pub fn decode(line: &[u8]) -> Result<Reply, String> {
    if line.len() > MAX_LINE {
        return Err(too_long());
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| "sent a line that is not UTF-8".to_owned())?;
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if !is_word(word) {
        return Err(format!("sent a line that begins with no word: {}", shown(text)));
    }
    let wrong = |why: &str| format!("sent a {word} that {why}: {}", shown(text));
    let alone = |reply: Reply| {
        if rest.is_empty() { Ok(reply) } else { Err(wrong("says more than that")) }
    };
    let number = |word: &str| word.parse::<u64>().map_err(|_| wrong("has no number"));
    match word {
        "HELLO" => {
            let (version, name) = rest.split_once(' ').unwrap_or((rest, ""));
            let version = version.parse().map_err(|_| wrong("has no version"))?;
            Ok(Reply::Hello { version, name: name.chars().take(100).collect() })
        }
        "READY" if rest.trim().is_empty() => Ok(Reply::Ready(Ready::default())),
        "READY" | "TASKS" => match object(rest) {
            Ok(ready) if word == "READY" => Ok(Reply::Ready(ready)),
            Ok(some) => Ok(Reply::Tasks(some)),
            Err(cause) => Err(wrong(&format!("cannot be read ({cause})"))),
        },
        "DONE" => Ok(Reply::Done { id: number(rest)? }),
        "FAIL" => {
            let (id, raised) = rest.split_once(' ').unwrap_or((rest, ""));
            let id = number(id)?;
            if raised.trim().is_empty() {
                return Ok(Reply::Fail { id, raised: Raised::default() });
            }
            match object(raised) {
                Ok(raised) => Ok(Reply::Fail { id, raised }),
                Err(cause) => Err(wrong(&format!("cannot be read ({cause})"))),
            }
        }
        "PING" => alone(Reply::Ping),
        "PONG" => alone(Reply::Pong),
        "BYE" => alone(Reply::Bye),
        "UNSUPPORTED" => Ok(Reply::Unsupported { word: rest.chars().take(MAX_WORD).collect() }),
        word => Ok(Reply::Unknown { word: word.to_owned() }),
    }
}

fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    if !json.trim_start().starts_with('{') {
        return Err("it is no JSON object".to_owned());
    }
    serde_json::from_str(json).map_err(|cause| cause.to_string())
}

fn too_long() -> String {
    format!("sent a line of more than {MAX_LINE} bytes")
}

/// A word of the protocol, known or not.
fn is_word(word: &str) -> bool {
    (1..=MAX_WORD).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The begin of a line, safe to show.
fn shown(text: &str) -> String {
    let begin: String = text.chars().take(60).collect();
    let dots = if begin.len() < text.len() { "..." } else { "" };
    format!("\"{}\"{dots}", super::safe::safe_line(&begin))
}

/// Bytes as they come in, lines as they go out. Who stops at the first error keeps less than two
/// lines' worth.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Where the first line that was not given out begins.
    from: usize,
}

impl Lines {
    /// Takes note of the next bytes, at most [`MAX_LINE`] at a time.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.from);
        self.from = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, decoded. `None`: more bytes are needed.
    pub fn next_reply(&mut self) -> Option<Result<Reply, String>> {
        let rest = &self.bytes[self.from..];
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let reply = decode(&rest[..=end]);
                self.from += end + 1;
                Some(reply)
            }
            None if rest.len() >= MAX_LINE => Some(Err(too_long())),
            None => None,
        }
    }

    /// Whether something was said that is not given out yet, be it half a line.
    pub fn is_empty(&self) -> bool {
        self.from == self.bytes.len()
    }
}

/// Durations as seconds: what a decorator says in any language.
mod seconds {
    use super::{Duration, LONGEST};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_f64(value.as_secs_f64()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds: Option<f64> = Option::deserialize(deserializer)?;
        let Some(seconds) = seconds else { return Ok(None) };
        if !(0.0..=LONGEST).contains(&seconds) {
            return Err(D::Error::custom(format!("{seconds} seconds are out of range")));
        }
        Ok(Some(Duration::from_secs_f64(seconds)))
    }
}

mod seconds_above_zero {
    use super::Duration;
    use serde::{Deserializer, de::Error};

    pub(super) use super::seconds::serialize;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        match super::seconds::deserialize(deserializer)? {
            Some(Duration::ZERO) => Err(D::Error::custom("0 seconds are out of range")),
            value => Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reply: &str) -> Result<Reply, String> {
        decode(reply.as_bytes())
    }

    #[test]
    fn requests_are_lines() {
        let run = Request::Run { id: 7, name: "tasks.send_mail" };
        assert_eq!(run.encode(), "RUN 7 tasks.send_mail\n");
        assert_eq!(Request::Unsupported { word: "X" }.encode(), "UNSUPPORTED X\n");
    }

    #[test]
    fn replies_are_read() {
        let hello = Reply::Hello { version: 1, name: "python 3.11".into() };
        assert_eq!(text("HELLO 1 python 3.11\r\n"), Ok(hello));
        assert_eq!(text("DONE 7\n"), Ok(Reply::Done { id: 7 }));
        assert_eq!(text("BYE"), Ok(Reply::Bye));
        assert_eq!(text("SHINY new"), Ok(Reply::Unknown { word: "SHINY".into() }));
        let fail = text(r#"FAIL 7 {"type":"ValueError","message":"bad","traceback":"T","x":1}"#);
        let raised =
            Raised { kind: "ValueError".into(), message: "bad".into(), traceback: "T".into() };
        assert_eq!(raised.text(), "T\nValueError: bad");
        assert_eq!(fail, Ok(Reply::Fail { id: 7, raised }));
        let group = "  + Exception Group Traceback (most recent call last):\n  | ExceptionGroup: many (1 sub-exception)\n  +-+--- 1 ---\n    | ValueError: bad\n    +-----";
        for (kind, message, traceback) in [
            ("ExceptionGroup", "many (1 sub-exception)", group),
            ("ValueError", "bad\n\nworse", "Traceback\nValueError: bad\n\nworse\nand a note"),
        ] {
            let (kind, message) = (kind.to_owned(), message.to_owned());
            let raised = Raised { kind, message, traceback: traceback.to_owned() };
            assert_eq!(raised.text(), traceback, "told once");
        }
        assert_eq!(text("FAIL 7"), Ok(Reply::Fail { id: 7, raised: Raised::default() }));
        let ready = text(r#"READY {"tasks":{"a":{"success_cooldown":900.5,"more":[]},"b":{}}}"#);
        let options = Options {
            success_cooldown: Some(Duration::from_millis(900_500)),
            ..Options::default()
        };
        let tasks = BTreeMap::from([("a".into(), options), ("b".into(), Options::default())]);
        assert_eq!(ready, Ok(Reply::Ready(Ready { tasks, errors: BTreeMap::new() })));
        assert_eq!(text("READY"), Ok(Reply::Ready(Ready::default())));
        assert_eq!(text("TASKS {}"), Ok(Reply::Tasks(Ready::default())));
    }

    #[test]
    fn what_is_no_reply_is_told() {
        for (line, words) in [
            ("", "begins with no word"),
            ("done 7", "begins with no word"),
            ("\u{1b}[31mDONE 7", "begins with no word"),
            ("DONE", "has no number"),
            ("DONE 7 8", "has no number"),
            ("DONE -1", "has no number"),
            ("FAIL x {}", "has no number"),
            ("FAIL 7 {", "cannot be read"),
            ("HELLO", "has no version"),
            ("BYE now", "says more than that"),
            ("READY []", "cannot be read"),
            ("TASKS", "cannot be read"),
            (r#"READY {"tasks":{"a":{"fail_cooldown":-1}}}"#, "-1 seconds are out of range"),
            (r#"READY {"tasks":{"a":{"fail_cooldown":1e300}}}"#, "seconds are out of range"),
            (r#"READY {"tasks":{"a":{"non_recoverable_downtime":0}}}"#, "0 seconds are out"),
        ] {
            let told = text(line).unwrap_err();
            assert!(told.contains(words), "{line:?}: {told}");
            assert!(!told.contains('\u{1b}'), "{told:?}");
        }
        assert!(decode(b"DONE \xff").unwrap_err().contains("not UTF-8"));
        assert!(decode(&vec![b'A'; MAX_LINE + 1]).unwrap_err().contains("more than"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_decoded(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn lines_come_out_however_they_came_in(
            words in proptest::collection::vec("[A-Z]{1,9}( [ -~]{0,20})?", 0..8),
            cut in 1_usize..30,
        ) {
            let all: String = words.iter().map(|word| format!("{word}\n")).collect();
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in all.as_bytes().chunks(cut) {
                lines.push(piece);
                while let Some(reply) = lines.next_reply() {
                    found.push(reply);
                }
            }
            let expected: Vec<_> = words.iter().map(|word| decode(word.as_bytes())).collect();
            proptest::prop_assert_eq!(found, expected);
            proptest::prop_assert!(lines.is_empty());
        }

        #[test]
        fn a_line_without_an_end_is_told_once_it_is_too_long(extra in 0_usize..3000) {
            let mut lines = Lines::default();
            for _ in 0..15 {
                lines.push(&[b'A'; 4096]);
                proptest::prop_assert!(lines.next_reply().is_none());
            }
            lines.push(&vec![b'A'; 4096 + extra]);
            proptest::prop_assert!(lines.next_reply().unwrap().unwrap_err().contains("more than"));
        }
    }
}
