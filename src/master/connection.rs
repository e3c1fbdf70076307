//! One connection of the control socket: what has come in, what waits to go out, and nothing that
//! blocks. [`super::control`] owns them all and decides when one ends.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::sys::peer::Peer;
use crate::sys::poll::{Epoll, Interest};
use crate::wire::control::MAX_REQUEST;
use crate::wire::time::Timestamp;

#[derive(Debug)]
pub(super) enum State {
    /// The request comes in.
    Asking(Vec<u8>),
    /// The master works on the answer.
    Working,
    /// The answer goes out; `true`: nothing follows it.
    Answering(bool),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) peer: Peer,
    pub(super) state: State,
    pub(super) unread: Vec<u8>,
    pub(super) deadline: Timestamp,
    /// What the epoll set watches it for; `None`: it is not in the set.
    pub(super) watched: Option<Interest>,
}

pub(super) enum Progress {
    /// Not done yet.
    More,
    /// The client is gone, or sent what no request is.
    Gone,
    /// Done; for a read: the request's line.
    Line(Vec<u8>),
}

impl Connection {
    pub(super) fn read(&mut self) -> Progress {
        let State::Asking(buffer) = &mut self.state else { return Progress::More };
        let mut chunk = [0_u8; 4096];
        loop {
            match (&self.stream).read(&mut chunk) {
                Ok(0) if buffer.is_empty() => return Progress::Gone,
                // A request without its newline, from a client that has nothing more to say.
                Ok(0) => return Progress::Line(std::mem::take(buffer)),
                Ok(length) => {
                    buffer.extend_from_slice(&chunk[..length]);
                    if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                        buffer.truncate(end);
                        return Progress::Line(std::mem::take(buffer));
                    }
                    if buffer.len() > MAX_REQUEST {
                        return Progress::Line(std::mem::take(buffer));
                    }
                }
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Progress::More,
                Err(_) => return Progress::Gone,
            }
        }
    }

    pub(super) fn write(&mut self) -> Progress {
        let mut done = 0;
        let progress = loop {
            if done == self.unread.len() {
                break Progress::Line(Vec::new());
            }
            match (&self.stream).write(&self.unread[done..]) {
                Ok(0) => break Progress::Gone,
                Ok(length) => done += length,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => break Progress::More,
                Err(_) => break Progress::Gone,
            }
        };
        self.unread.drain(..done);
        if self.unread.is_empty() {
            self.unread = Vec::new();
        }
        progress
    }

    pub(super) fn watch_write(&mut self, epoll: &Epoll, token: u64) {
        let done = match self.watched {
            Some(Interest::Write) => Ok(()),
            Some(_) => epoll.modify(&self.stream, token, Interest::Write),
            None => epoll.add(&self.stream, token, Interest::Write),
        };
        if done.is_ok() {
            self.watched = Some(Interest::Write);
        }
    }

    pub(super) fn unwatch(&mut self, epoll: &Epoll) {
        if self.watched.take().is_some() {
            epoll.remove(&self.stream);
        }
    }
}
