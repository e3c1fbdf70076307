//! One stream of a run, or of a worker: its pipe, its last bytes, its lines, and what a full lane
//! holds up.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::lines::Cutter;
use super::relay::{Relay, Speaker};
use super::tail::Tail;
use crate::sys::{clock, pipe};
use crate::wire::log::Stream;
use crate::wire::time::WallTime;

/// How often a lane that holds a task is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// The room of a pipe once a single read gave that much: a task that says much waits less for us,
/// and one that does not costs the kernel nothing more.
const WIDE: usize = 256 * 1024;
const WIDE_AFTER: usize = 64 * 1024;

/// Buffers of one stream that are read before something else gets its turn.
const TURNS: usize = 16;

/// One of the two streams.
pub(super) struct Source {
    stream: Stream,
    /// `Some` while the run is read from.
    pipe: Option<OwnedFd>,
    /// `Some` while a worker has the other end: it lives longer than a run.
    worker: Option<OwnedFd>,
    /// Which of the two is read now.
    of_worker: bool,
    /// Whether the pipe was made larger, since this run says much.
    wide: bool,
    tail: Tail,
    cutter: Cutter,
    /// What a full lane refused.
    held: Vec<u8>,
}

impl Source {
    /// Nothing is open.
    pub(super) fn new(stream: Stream) -> Source {
        let (tail, cutter) = (Tail::default(), Cutter::default());
        let held = Vec::new();
        Source {
            stream,
            pipe: None,
            worker: None,
            of_worker: false,
            wide: false,
            tail,
            cutter,
            held,
        }
    }

    /// The end for a new run.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub(super) fn begin(&mut self) -> io::Result<OwnedFd> {
        let (source, sink) = pipe::output_pipe()?;
        self.pipe = Some(source);
        self.of_worker = false;
        self.wide = false;
        Ok(sink)
    }

    /// The end for a new worker.
    ///
    /// # Errors
    /// As [`Source::begin`].
    pub(super) fn begin_worker(&mut self) -> io::Result<OwnedFd> {
        let (source, sink) = pipe::output_pipe()?;
        self.worker = Some(source);
        self.of_worker = true;
        self.wide = false;
        Ok(sink)
    }

    /// What is read now is said by the worker. What it said before counts only for a run that is
    /// as fresh as the worker.
    pub(super) fn turn_to_worker(&mut self, fresh: bool) {
        self.of_worker = true;
        if !fresh {
            self.tail.clear();
        }
    }

    /// Whether a worker is there and read from.
    pub(super) fn reads_worker(&self) -> bool {
        self.worker.is_some() && self.of_worker
    }

    /// The worker is gone.
    pub(super) fn end_worker(&mut self) {
        self.worker = None;
    }

    /// Whether the lane refused something: nothing is read meanwhile.
    pub(super) fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// What the run said last.
    pub(super) fn take_tail(&mut self) -> Vec<u8> {
        self.tail.take()
    }

    /// What is read from now.
    pub(super) fn open(&self) -> Option<&OwnedFd> {
        if self.of_worker { self.worker.as_ref() } else { self.pipe.as_ref() }
    }

    fn close(&mut self) {
        if self.of_worker {
            self.worker = None;
        } else {
            self.pipe = None;
        }
    }

    /// Reads and relays what is there, a bounded amount.
    pub(super) fn pump(&mut self, buffer: &mut [u8], who: &Speaker, relay: &mut Relay) {
        self.offer_held(who, relay);
        for _ in 0..TURNS {
            if self.is_held() || self.read(buffer, who, relay) == 0 {
                return;
            }
        }
    }

    /// Reads and relays one buffer full. 0: nothing is there.
    fn read(&mut self, buffer: &mut [u8], who: &Speaker, relay: &mut Relay) -> usize {
        let Some(pipe) = self.open() else { return 0 };
        match pipe::read(pipe, buffer) {
            pipe::Read::Bytes(count) => {
                if !self.wide && count >= WIDE_AFTER {
                    pipe::make_room(pipe, WIDE);
                    self.wide = true;
                }
                self.tail.push(&buffer[..count]);
                self.relay(&buffer[..count], who, relay);
                return count;
            }
            pipe::Read::Empty => {}
            pipe::Read::Closed => self.close(),
        }
        0
    }

    fn offer_held(&mut self, who: &Speaker, relay: &mut Relay) {
        if self.is_held() {
            let held = std::mem::take(&mut self.held);
            self.relay(&held, who, relay);
        }
    }

    fn relay(&mut self, bytes: &[u8], who: &Speaker, relay: &mut Relay) {
        if matches!(relay, Relay::Nowhere) {
            return;
        }
        let at = WallTime(clock::wall_ms());
        let (piece, stream) = (relay.piece(), self.stream);
        let mut emit = |line: &[u8], more: bool| relay.take(who, stream, line, more, at);
        let taken = self.cutter.feed(bytes, piece, &mut emit);
        self.held.extend_from_slice(&bytes[taken..]);
    }

    /// The end of a run: what is in the pipe now is its last words, whatever somebody who still
    /// holds the other end adds. They may wait for the lane until the patience is used up.
    pub(super) fn read_rest(&mut self, buffer: &mut [u8], who: &Speaker, relay: &mut Relay) {
        let mut left = self.open().map_or(0, pipe::waiting);
        loop {
            self.offer_held(who, relay);
            if self.is_held() {
                relay.wait(LOOK);
                continue;
            }
            let most = left.min(buffer.len());
            let count = if most == 0 { 0 } else { self.read(&mut buffer[..most], who, relay) };
            if count == 0 {
                break;
            }
            left -= count;
        }
        self.pipe = None;
    }

    /// What has no end of line is a line too.
    pub(super) fn finish(&mut self, who: &Speaker, relay: &mut Relay) {
        let (at, stream) = (WallTime(clock::wall_ms()), self.stream);
        loop {
            let mut emit = |line: &[u8], more: bool| relay.take(who, stream, line, more, at);
            if self.cutter.finish(&mut emit) {
                return;
            }
            relay.wait(LOOK);
        }
    }
}
