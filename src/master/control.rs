//! The control socket's server: takes requests from runnerctl and gives answers, without ever
//! waiting for anybody. It knows nothing of chains; the master decides what a request may do
//! ([`super::authorise`]) and does it.
//!
//! One connection is one request: a line of JSON, then the answer in one or more lines, then the
//! end. A client has [`PATIENCE`] to send its request and as long to read the answer; one that
//! does neither costs a descriptor for that time and delays nobody. Connections are bounded, and
//! each account but root's, the master's own and those of `control_group` has a bound of its own, so a
//! stranger cannot lock the operator out. When descriptors run out, the listener rests a second instead
//! of spinning.
//!
//! The socket is no lock and no proof of life. It is bound beside its place and renamed into it,
//! so a predecessor's is replaced in one step; it is 0660 and of `control_group`, or 0666 where
//! chains have users who must reach it: every request is judged by its sender's credentials
//! (SO_PEERCRED), never by who could open the socket.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::authorise::may_do_all;
use super::connection::{Connection, Progress, State};
use crate::sys::peer::{Peer, peer};
use crate::sys::poll::{Epoll, Interest};
use crate::wire::control::{Answer, Request, SOCKET};
use crate::wire::time::Timestamp;

/// How long a client may take to send its request, and then to read the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a request may wait for its answer (the check of an upgrade has 30 s).
const LONGEST_WORK: Duration = Duration::from_secs(120);

/// How long the listener rests when no connection can be accepted.
const REST: Duration = Duration::from_secs(1);

/// Connections at one time; the last [`RESERVED`] of them are for root, the master's account and the
/// members of `control_group`, who may do everything.
const MAX_CONNECTIONS: usize = 64;
const RESERVED: usize = 16;

/// Connections of one account that is none of these.
const MAX_PER_UID: usize = 8;

/// Bytes of answers that wait for slow readers, all together.
const MAX_UNREAD: usize = 64 << 20;

/// Connections accepted in one turn of the loop.
const MAX_ACCEPTED: usize = 16;

/// Names a connection for ever: never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// A request that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where the answer goes.
    pub id: ConnId,
    /// Who asks.
    pub peer: Peer,
    /// What for.
    pub request: Request,
}

/// Who can open the socket at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doors {
    /// The group of the socket file; `None`: the master's own.
    pub gid: Option<u32>,
    /// Whether everybody can connect, because a chain's user is neither root nor the master's own
    /// account.
    pub everybody: bool,
}

/// The listening socket and its connections.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file that is ours.
    identity: (u64, u64),
    own_uid: u32,
    control_gid: Option<u32>,
    first_token: u64,
    /// Until when the listener rests; `None`: it listens.
    resting: Option<Timestamp>,
    connections: BTreeMap<ConnId, Connection>,
    last_id: u64,
}

impl ControlServer {
    /// Makes `run_root/control.sock` and watches it. All tokens from `first_token` up are the
    /// server's.
    ///
    /// # Errors
    /// When the socket cannot be made: run_root is not writable, or its path is longer than a
    /// socket's name can be (107 bytes, unix(7)).
    pub fn open(
        run_root: &Path,
        doors: Doors,
        own_uid: u32,
        epoll: &Epoll,
        first_token: u64,
    ) -> io::Result<ControlServer> {
        let path = run_root.join(SOCKET);
        let fresh = run_root.join(format!(".control.{}.new", std::process::id()));
        let said = |verb: &str, path: &Path, cause: &io::Error| {
            io::Error::new(cause.kind(), format!("cannot {verb} {}: {cause}", path.display()))
        };
        match fs::remove_file(&fresh) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                return Err(said("remove", &fresh, &cause));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(|cause| said("bind", &fresh, &cause))?;
        let made = open_doors(&fresh, doors)
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::symlink_metadata(&fresh))
            .and_then(|found| fs::rename(&fresh, &path).map(|()| found));
        let found = match made {
            Ok(found) => found,
            Err(cause) => {
                let _ = fs::remove_file(&fresh);
                return Err(said("make", &path, &cause));
            }
        };
        let identity = (found.dev(), found.ino());
        ControlServer::serving(listener, path, identity, (own_uid, doors.gid), epoll, first_token)
    }

    /// Goes on listening where the last image of this process did: whoever connected meanwhile
    /// waits in the socket's queue and notices nothing.
    ///
    /// # Errors
    /// When the file is no longer that socket's or its mode cannot be changed; then
    /// [`ControlServer::open`] makes a new one.
    pub fn take_over(
        (listener, identity): (UnixListener, (u64, u64)),
        run_root: &Path,
        doors: Doors,
        own_uid: u32,
        epoll: &Epoll,
        first_token: u64,
    ) -> io::Result<ControlServer> {
        let path = run_root.join(SOCKET);
        if !is_at(&path, identity) {
            return Err(io::Error::other("somebody else replaced it"));
        }
        open_doors(&path, doors)?;
        listener.set_nonblocking(true)?;
        ControlServer::serving(listener, path, identity, (own_uid, doors.gid), epoll, first_token)
    }

    fn serving(
        listener: UnixListener,
        path: PathBuf,
        identity: (u64, u64),
        (own_uid, control_gid): (u32, Option<u32>),
        epoll: &Epoll,
        first_token: u64,
    ) -> io::Result<ControlServer> {
        epoll.add(&listener, first_token, Interest::Read)?;
        Ok(ControlServer {
            listener,
            path,
            identity,
            own_uid,
            control_gid,
            first_token,
            resting: None,
            connections: BTreeMap::new(),
            last_id: 0,
        })
    }

    /// What [`ControlServer::take_over`] needs: the listener, and its file's device and inode.
    pub fn hand_over(&self) -> (&UnixListener, (u64, u64)) {
        (&self.listener, self.identity)
    }

    /// Whether its file is where clients look for it.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.path, self.identity)
    }

    /// Whether an event with this token is for the server.
    pub fn owns(&self, token: u64) -> bool {
        token >= self.first_token
    }

    /// Handles readiness of one token of [`ControlServer::owns`]; returns the requests that are
    /// complete. A token of a connection that is gone is harmless.
    pub fn ready(&mut self, epoll: &Epoll, token: u64, now: Timestamp) -> Vec<Asked> {
        if token == self.first_token {
            self.accept(epoll, now);
            return Vec::new();
        }
        let id = ConnId(token.wrapping_sub(self.first_token));
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        match connection.state {
            State::Asking(_) => match connection.read() {
                Progress::More => Vec::new(),
                Progress::Gone => {
                    self.drop_connection(epoll, id);
                    Vec::new()
                }
                Progress::Line(line) => self.asked(epoll, id, &line, now).into_iter().collect(),
            },
            State::Working => Vec::new(),
            State::Answering(_) => {
                self.flush(epoll, id);
                Vec::new()
            }
        }
    }

    /// Sends one line of an answer; `last`: and then ends the connection. A client that is gone
    /// already is none of the master's concern.
    pub fn answer(
        &mut self,
        epoll: &Epoll,
        id: ConnId,
        answer: &Answer,
        last: bool,
        now: Timestamp,
    ) {
        let unread: usize = self.connections.values().map(|other| other.unread.len()).sum();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let line = match serde_json::to_vec(answer) {
            Ok(line) if unread + line.len() <= MAX_UNREAD => line,
            _ => {
                let error = "too many unread answers; try again in 5 s".to_owned();
                serde_json::to_vec(&Answer::Refused { error, exit: 75 }).unwrap_or_default()
            }
        };
        if connection.unread.is_empty() {
            connection.deadline = now + if last { PATIENCE } else { LONGEST_WORK };
        }
        connection.unread.extend_from_slice(&line);
        connection.unread.push(b'\n');
        connection.state = State::Answering(last);
        self.flush(epoll, id);
    }

    /// Takes a connection out of the server, for a child that answers itself.
    pub fn give_away(&mut self, epoll: &Epoll, id: ConnId) -> Option<UnixStream> {
        let connection = self.connections.remove(&id)?;
        if connection.watched.is_some() {
            epoll.remove(&connection.stream);
        }
        Some(connection.stream)
    }

    /// The next moment at which [`ControlServer::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.connections.values().map(|one| one.deadline).chain(self.resting).min()
    }

    /// Ends connections whose time is over and lets a rested listener listen again.
    pub fn handle_timeout(&mut self, epoll: &Epoll, now: Timestamp) {
        if self.resting.is_some_and(|until| until <= now) {
            let listens = epoll.add(&self.listener, self.first_token, Interest::Read).is_ok();
            self.resting = (!listens).then_some(now + REST);
        }
        let late: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.drop_connection(epoll, id);
        }
    }

    /// Ends every connection and removes the socket file, unless a successor has replaced it.
    pub fn close(mut self, epoll: &Epoll) {
        let all: Vec<ConnId> = self.connections.keys().copied().collect();
        for id in all {
            self.flush(epoll, id);
            self.drop_connection(epoll, id);
        }
        epoll.remove(&self.listener);
        if is_at(&self.path, self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn accept(&mut self, epoll: &Epoll, now: Timestamp) {
        for _ in 0..MAX_ACCEPTED {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(epoll, stream, now),
                Err(cause) => match cause.kind() {
                    ErrorKind::WouldBlock => return,
                    // The client gave up, or a signal came.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    // Most likely no descriptors are left: the listener stays ready, so watching
                    // it would spin.
                    _ => {
                        epoll.remove(&self.listener);
                        self.resting = Some(now + REST);
                        return;
                    }
                },
            }
        }
    }

    fn admit(&mut self, epoll: &Epoll, stream: UnixStream, now: Timestamp) {
        let Ok(peer) = peer(&stream) else { return };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        // One account may have thousands of others (subuid(5)), so these have room of their own.
        let trusted = may_do_all(&peer, self.own_uid, self.control_gid);
        let of_uid = self.connections.values().filter(|other| other.peer.uid == peer.uid).count();
        let room = if trusted { MAX_CONNECTIONS } else { MAX_CONNECTIONS - RESERVED };
        if self.connections.len() >= room || (!trusted && of_uid >= MAX_PER_UID) {
            let error = "too many connections; try again in 5 s".to_owned();
            let mut line =
                serde_json::to_vec(&Answer::Refused { error, exit: 75 }).unwrap_or_default();
            line.push(b'\n');
            let _ = (&stream).write(&line);
            return;
        }
        self.last_id += 1;
        let id = ConnId(self.last_id);
        if epoll.add(&stream, self.first_token.wrapping_add(id.0), Interest::Read).is_ok() {
            let connection = Connection {
                stream,
                peer,
                state: State::Asking(Vec::new()),
                unread: Vec::new(),
                deadline: now + PATIENCE,
                watched: Some(Interest::Read),
            };
            self.connections.insert(id, connection);
        }
    }

    fn asked(&mut self, epoll: &Epoll, id: ConnId, line: &[u8], now: Timestamp) -> Option<Asked> {
        let connection = self.connections.get_mut(&id)?;
        connection.state = State::Working;
        connection.deadline = now + LONGEST_WORK;
        // Unwatched while the master works: a client that closed its end would be ready for ever.
        connection.unwatch(epoll);
        match Request::decode(line) {
            Ok(request) => Some(Asked { id, peer: connection.peer.clone(), request }),
            Err(error) => {
                self.answer(epoll, id, &Answer::Refused { error, exit: 2 }, true, now);
                None
            }
        }
    }

    fn flush(&mut self, epoll: &Epoll, id: ConnId) {
        let token = self.first_token.wrapping_add(id.0);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.write() {
            Progress::Gone => self.drop_connection(epoll, id),
            Progress::More => connection.watch_write(epoll, token),
            Progress::Line(_) => {
                if matches!(connection.state, State::Answering(true)) {
                    self.drop_connection(epoll, id);
                } else {
                    connection.unwatch(epoll);
                }
            }
        }
    }

    fn drop_connection(&mut self, epoll: &Epoll, id: ConnId) {
        if let Some(mut connection) = self.connections.remove(&id) {
            connection.unwatch(epoll);
        }
    }
}

/// Whether that very socket's file lies there.
fn is_at(path: &Path, identity: (u64, u64)) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.file_type().is_socket() && (found.dev(), found.ino()) == identity)
}

fn open_doors(path: &Path, doors: Doors) -> io::Result<()> {
    if doors.gid.is_some() {
        chown(path, None, doors.gid)?;
    }
    let mode = match doors {
        Doors { everybody: true, .. } => 0o666,
        Doors { gid: Some(_), .. } => 0o660,
        Doors { gid: None, .. } => 0o600,
    };
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests;
