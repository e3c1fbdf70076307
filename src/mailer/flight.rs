//! One delivery in a child of its own: whatever hangs in there, it is over when its time is.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::desk::Job;
use super::transport::{Outcome, Way, deliver};
use crate::sys::clock::monotonic;
use crate::sys::fork::{Pid, fork_child, keep_only, leave, new_session};
use crate::sys::privileges::die_with_parent;
use crate::sys::wait::{signal_child, signal_group, wait_for};

/// How long one message to one recipient may take, whatever hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take when the master is gone: the next one's mailer waits for it.
const ALONE: Duration = Duration::from_secs(5);
/// How long the child may take for its farewell once the outcome is known.
const FAREWELL: Duration = Duration::from_secs(3);
/// SIGKILL (signal(7)).
const KILL: i32 = 9;

/// A delivery that is going.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) job: Job,
    pid: Pid,
    pipe: PipeReader,
    /// On CLOCK_MONOTONIC.
    deadline: Duration,
    said: Vec<u8>,
    outcome: Option<Outcome>,
}

impl Flight {
    /// Forks the child. `lock` stays open in it: as long as it lives nobody else delivers from the spool.
    pub(super) fn start(
        way: &Way<'_>,
        job: Job,
        lock: Option<&File>,
    ) -> Result<Flight, (Box<Job>, String)> {
        let fail = |cause: std::io::Error| format!("cannot fork a delivery: {cause}");
        let (pipe, writer) = match std::io::pipe() {
            Ok(pair) => pair,
            Err(cause) => return Err((Box::new(job), fail(cause))),
        };
        let parent = i32::try_from(std::process::id()).unwrap_or(0);
        let child = fork_child(|| {
            new_session();
            if die_with_parent(parent).is_err() {
                leave(1);
            }
            let kept: Vec<BorrowedFd<'_>> =
                lock.map(AsFd::as_fd).into_iter().chain([writer.as_fd()]).collect();
            keep_only(&kept);
            let mut out = &writer;
            deliver(way, &job.envelope, job.answers_to.as_deref(), &job.to, &mut |outcome| {
                let mut line = serde_json::to_vec(&outcome).unwrap_or_default();
                line.push(b'\n');
                let _ = out.write_all(&line);
            });
            leave(0)
        });
        match child {
            Ok(pid) => {
                let deadline = monotonic() + DEADLINE;
                Ok(Flight { job, pid, pipe, deadline, said: Vec::new(), outcome: None })
            }
            Err(cause) => Err((Box::new(job), fail(cause))),
        }
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The master is gone: less time is left.
    pub(super) fn hurry(&mut self) {
        self.deadline = self.deadline.min(monotonic() + ALONE);
    }

    /// Whether it is over before anybody knows how it went.
    pub(super) fn is_cut(&self) -> bool {
        self.outcome.is_none() && self.time_left().is_zero()
    }

    /// How long it may still take.
    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_sub(monotonic())
    }

    /// Reads what the child said, once poll(2) has shown that there is something. `true`: it has
    /// ended.
    pub(super) fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.pipe.read(&mut buffer) {
            Ok(0) | Err(_) => true,
            Ok(length) => {
                self.said.extend_from_slice(&buffer[..length]);
                if self.outcome.is_none()
                    && let Some(line) = self.said.split_inclusive(|byte| *byte == b'\n').next()
                    && line.ends_with(b"\n")
                {
                    self.outcome = serde_json::from_slice(line).ok();
                    self.deadline = self.deadline.min(monotonic() + FAREWELL);
                }
                false
            }
        }
    }

    /// Ends what is left of the child and of what it runs, reaps it, and says how it went.
    pub(super) fn land(self) -> (Job, Outcome) {
        let late = self.time_left().is_zero();
        let _ = signal_group(self.pid, KILL);
        let _ = signal_child(self.pid, KILL);
        let status = wait_for(self.pid);
        let outcome = self.outcome.unwrap_or_else(|| {
            Outcome::ServerLater(match status {
                _ if late => format!("no answer within {} s", DEADLINE.as_secs()),
                Ok(code) => format!("the delivery ended with status {code} without a word"),
                Err(cause) => format!("cannot wait for the delivery: {cause}"),
            })
        });
        (self.job, outcome)
    }
}
