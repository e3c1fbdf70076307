//! A worker while it lives: what it was asked, what it said, and whether that is according to the
//! protocol (runner-worker(7)). It is ended by whoever started it.
//!
//! Whatever a worker does, it costs a bounded amount: its lines are as long as [`MAX_LINE`] at
//! most, what it says is read as long as [`MOST_HEARD`] replies wait at most, and a word that we
//! do not know is answered so many times.
//!
//! [`MAX_LINE`]: crate::wire::worker::MAX_LINE

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::Started;
use crate::sys::fork::Pid;
use crate::sys::pipe;
use crate::sys::wait::Change;
use crate::wire::worker::{Lines, Raised, Ready, Reply, Request, VERSION};

/// Replies that are kept until they are looked at; further ones stay in the pipe.
const MOST_HEARD: usize = 64;

/// Unknown words of one worker that are answered.
const MOST_UNKNOWN: u32 = 100;

/// The bytes that are kept of what a worker says of its tasks.
const MOST_OF_TASKS: usize = 4 << 20;

/// How long a worker that has closed its replies may take to exit, before it is ended for it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A worker's process.
pub struct Live {
    /// Its number, while it was not reaped.
    pub pid: Pid,
    /// How it ended, once it was reaped.
    pub exited: Option<Change>,
    /// When it was started, CLOCK_MONOTONIC.
    pub started: Duration,
    /// Runs that it was given.
    pub runs: u64,
    /// The run that it was given last and has not ended.
    running: Option<u64>,
    /// What it calls itself, once it has said so.
    name: Option<String>,
    /// It has said READY.
    pub ready: bool,
    /// What it has said of its tasks ahead of that.
    tasks: Ready,
    /// It has said BYE: it will exit.
    pub leaving: bool,
    /// It was started before the log files were opened anew.
    pub stale: bool,
    unknown: u32,
    /// Of all that it has said of its tasks, be it twice.
    weight: usize,
    requests: OwnedFd,
    replies: OwnedFd,
    lines: Lines,
    heard: VecDeque<Result<Reply, String>>,
    /// Since when nobody holds the other end of its replies.
    deaf_since: Option<Duration>,
}

/// What a worker's words come to.
pub enum Heard {
    /// It can be given runs now.
    Ready(Ready),
    /// Its run has succeeded.
    Done,
    /// Its run has failed.
    Raised(Raised),
    /// It broke the protocol: the end of a sentence that begins with "the worker".
    Broken(String),
}

impl Live {
    /// One that was started at `now`.
    pub fn new(started: Started, now: Duration) -> Live {
        let Started { pid, requests, replies } = started;
        Live {
            pid,
            exited: None,
            started: now,
            runs: 0,
            running: None,
            name: None,
            ready: false,
            tasks: Ready::default(),
            leaving: false,
            stale: false,
            unknown: 0,
            weight: 0,
            requests,
            replies,
            lines: Lines::default(),
            heard: VecDeque::new(),
            deaf_since: None,
        }
    }

    /// What to wait for; `None` while there is nothing to be had or too much is here already.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        let listens = self.deaf_since.is_none() && self.heard.len() < MOST_HEARD;
        listens.then(|| self.replies.as_fd())
    }

    /// Takes in what it has said, a bounded amount; whether there was something.
    pub fn hear(&mut self, now: Duration) -> bool {
        if self.source().is_none() {
            return false;
        }
        let mut buffer = [0; 4 * 1024];
        match pipe::read(&self.replies, &mut buffer) {
            pipe::Read::Bytes(count) => self.lines.push(&buffer[..count]),
            pipe::Read::Empty => return false,
            pipe::Read::Closed => {
                self.deaf_since = Some(now);
                return false;
            }
        }
        while let Some(reply) = self.lines.next_reply() {
            let broken = reply.is_err();
            self.heard.push_back(reply);
            if broken {
                // Nothing that follows can be believed.
                self.deaf_since = Some(now);
                return false;
            }
        }
        true
    }

    /// Whether [`Live::next`] may have something.
    pub fn has_news(&self) -> bool {
        !self.heard.is_empty() || self.deaf_since.is_some() || self.exited.is_some()
    }

    /// The next thing to do because of what it has said.
    pub fn next(&mut self, now: Duration) -> Option<Heard> {
        while let Some(reply) = self.heard.pop_front() {
            match reply.and_then(|reply| self.understand(reply)) {
                Ok(None) => {}
                Ok(Some(heard)) => return Some(heard),
                Err(what) => return Some(Heard::Broken(what)),
            }
        }
        let late = now.saturating_sub(self.deaf_since?) >= LAST_WORDS;
        (late && self.exited.is_none()).then(|| Heard::Broken("closed its descriptor 4".to_owned()))
    }

    /// Answers what it has said, while nothing that it says is of account any more: it was asked to
    /// end.
    pub fn hear_out(&mut self) {
        while let Some(reply) = self.heard.pop_front() {
            let _ = reply.and_then(|reply| self.understand(reply));
        }
    }

    /// When [`Live::next`] may have something without a further word.
    pub fn look_again(&self) -> Option<Duration> {
        self.deaf_since.map(|since| since.saturating_add(LAST_WORDS))
    }

    fn understand(&mut self, reply: Reply) -> Result<Option<Heard>, String> {
        let greets = matches!(reply, Reply::Hello { .. });
        if greets != self.name.is_none() {
            let what = if greets { "said HELLO twice" } else { "did not say HELLO first" };
            return Err(what.to_owned());
        }
        match reply {
            Reply::Hello { version, .. } if version != VERSION => {
                return Err(format!("speaks version {version} of the protocol, not {VERSION}"));
            }
            Reply::Hello { name, .. } => self.name = Some(name),
            Reply::Ready(_) if self.ready => return Err("said READY twice".to_owned()),
            Reply::Tasks(_) if self.ready => return Err("said TASKS after READY".to_owned()),
            Reply::Tasks(some) => self.keep_tasks(some)?,
            Reply::Ready(ready) => {
                self.keep_tasks(ready)?;
                self.ready = true;
                return Ok(Some(Heard::Ready(std::mem::take(&mut self.tasks))));
            }
            Reply::Done { id } => return self.ended(id, Heard::Done).map(Some),
            Reply::Fail { id, raised } => return self.ended(id, Heard::Raised(raised)).map(Some),
            Reply::Ping => self.ask(Request::Pong)?,
            Reply::Pong => {}
            Reply::Bye if self.running.is_some() => {
                return Err("said BYE in the middle of the run".to_owned());
            }
            Reply::Bye => self.leaving = true,
            Reply::Unsupported { word } if word == "RUN" => {
                return Err("does not know the word RUN".to_owned());
            }
            Reply::Unsupported { word } => self.leaving |= word == "STOP",
            Reply::Unknown { word } => {
                self.unknown += 1;
                if self.unknown > MOST_UNKNOWN {
                    return Err(format!("said more than {MOST_UNKNOWN} words that are not known"));
                }
                self.ask(Request::Unsupported { word: &word })?;
            }
        }
        Ok(None)
    }

    fn keep_tasks(&mut self, some: Ready) -> Result<(), String> {
        self.weight += some.weight();
        if self.weight > MOST_OF_TASKS {
            return Err(format!("said more than {} MiB of its tasks", MOST_OF_TASKS >> 20));
        }
        self.tasks.extend(some);
        Ok(())
    }

    fn ended(&mut self, id: u64, heard: Heard) -> Result<Heard, String> {
        if self.running != Some(id) {
            return Err(format!("told the end of run {id}, which was not going"));
        }
        self.running = None;
        // What comes with the end of a run was said in that run.
        let harmless = |next: &Result<Reply, String>| {
            use Reply::{Bye, Ping, Pong, Unknown, Unsupported};
            matches!(next, Ok(Ping | Pong | Bye | Unknown { .. } | Unsupported { .. }))
        };
        if !self.heard.iter().all(harmless) {
            return Err("said more after the end of its run".to_owned());
        }
        Ok(heard)
    }

    /// Gives it a run.
    ///
    /// # Errors
    /// As [`Live::ask`].
    pub fn give(&mut self, id: u64, name: &str) -> Result<(), String> {
        self.ask(Request::Run { id, name })?;
        self.running = Some(id);
        self.runs += 1;
        Ok(())
    }

    /// Whether a run is going.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Says something to it.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence that begins with "the worker".
    pub fn ask(&self, request: Request<'_>) -> Result<(), String> {
        let line = request.encode();
        pipe::write_all(&self.requests, line.as_bytes(), Duration::ZERO).map_err(|cause| {
            if cause.kind() == std::io::ErrorKind::TimedOut {
                "does not read its requests".to_owned()
            } else {
                "closed its descriptor 3".to_owned()
            }
        })
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("worker")
    }
}

/// A worker's own end, as the end of a sentence that begins with "the worker".
pub fn manner(change: Change) -> String {
    match change {
        Change::Killed(_, signal) => format!("was killed by signal {signal}"),
        Change::Exited(_, code) => format!("exited with status {code}"),
        Change::Stopped(_) | Change::Continued(_) => "was stopped".to_owned(),
    }
}
