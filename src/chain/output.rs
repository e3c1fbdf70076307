//! What a run says: its last bytes are kept for the notice. Reading never waits for anybody.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::model::Chain;
use crate::sys::pipe;

/// Bytes of a stream that are kept.
const TAIL: usize = 16 * 1024;

/// Bytes read in one go.
const CHUNK: usize = 64 * 1024;

/// The output of a chain's runs, one after the other.
pub(super) struct Output {
    stdout: Stream,
    stderr: Stream,
    buffer: Vec<u8>,
}

/// What a run said last, to the byte.
pub(super) struct Tails {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

#[derive(Default)]
struct Stream {
    source: Option<OwnedFd>,
    tail: VecDeque<u8>,
}

impl Output {
    pub(super) fn open(_chain: &Chain) -> Output {
        Output { stdout: Stream::default(), stderr: Stream::default(), buffer: vec![0; CHUNK] }
    }

    /// The ends for a new run's descriptors 1 and 2.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub(super) fn begin(&mut self, _task: &str, _run: u64) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((self.stdout.begin()?, self.stderr.begin()?))
    }

    /// What to wait for.
    pub(super) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.stdout, &self.stderr].into_iter().filter_map(|s| s.source.as_ref().map(AsFd::as_fd))
    }

    /// Reads what is there, a bounded amount.
    pub(super) fn pump(&mut self) {
        self.stdout.pump(&mut self.buffer, 16);
        self.stderr.pump(&mut self.buffer, 16);
    }

    /// The program has exited: what is there now is all that counts; somebody who still holds the
    /// other end is not waited for.
    pub(super) fn finish(&mut self) -> Tails {
        Tails {
            stdout: self.stdout.finish(&mut self.buffer),
            stderr: self.stderr.finish(&mut self.buffer),
        }
    }
}

impl Stream {
    fn begin(&mut self) -> io::Result<OwnedFd> {
        let (source, sink) = pipe::output_pipe()?;
        self.source = Some(source);
        self.tail.clear();
        Ok(sink)
    }

    fn pump(&mut self, buffer: &mut [u8], turns: usize) {
        for _ in 0..turns {
            let Some(source) = &self.source else { return };
            match pipe::read(source, buffer) {
                pipe::Read::Bytes(count) => {
                    let keep = &buffer[count.saturating_sub(TAIL)..count];
                    self.tail.extend(keep);
                    let surplus = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..surplus);
                }
                pipe::Read::Empty => return,
                pipe::Read::Closed => self.source = None,
            }
        }
    }

    fn finish(&mut self, buffer: &mut [u8]) -> Vec<u8> {
        self.pump(buffer, 64);
        self.source = None;
        self.tail.drain(..).collect()
    }
}
