//! One request to the master and its answer.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::wire::control::{Answer, Request, SOCKET, Status, Wait};

/// How long the master may take for anything that it answers by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until a request whose connection ended is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long an upgrade may take to be decided: a check has 30 s, and may wait for another one.
const CHECKING: Duration = Duration::from_secs(100);

/// Why there is no answer. Its exit status is runnerctl's.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens.
    NotRunning(PathBuf),
    /// The socket may not be opened.
    NoRight(PathBuf),
    /// The master does not answer in time.
    Silent,
    /// The connection ended without an answer: a re-exec, or the master's end.
    Ended,
    /// The master says no.
    Refused(String, u8),
    /// Anything else; with an exit status.
    Other(String, u8),
}

impl Failure {
    /// runnerctl's exit status.
    pub fn exit(&self) -> u8 {
        match self {
            Failure::NotRunning(_) => 3,
            Failure::NoRight(_) => 77,
            Failure::Silent | Failure::Ended => 4,
            Failure::Refused(_, exit) | Failure::Other(_, exit) => *exit,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotRunning(socket) => {
                write!(f, "no master runs: nobody listens at {}", socket.display())
            }
            Failure::NoRight(socket) => write!(
                f,
                "cannot open {}: only root, the master's account and members of control_group may",
                socket.display()
            ),
            Failure::Silent => f.write_str("the master does not answer; is it stopped (SIGSTOP)?"),
            Failure::Ended => f.write_str("the master ended the connection without an answer"),
            Failure::Refused(error, _) | Failure::Other(error, _) => f.write_str(error),
        }
    }
}

/// The master of one run_root.
#[derive(Debug, Clone)]
pub struct Master {
    socket: PathBuf,
}

impl Master {
    /// Names it; nothing is opened yet.
    pub fn at(run_root: &Path) -> Master {
        Master { socket: run_root.join(SOCKET) }
    }

    /// Asks, hands every line of progress to `progress`, and returns the answer. An upgrade may
    /// end the connection of a request that the master has not looked at: it is asked again.
    ///
    /// # Errors
    /// When there is none, or it is a refusal.
    pub fn ask(
        &self,
        request: &Request,
        mut progress: impl FnMut(&str),
    ) -> Result<Answer, Failure> {
        let began = Instant::now();
        loop {
            match self.ask_once(request, &mut progress) {
                Err(Failure::Ended) if may_repeat(request) && began.elapsed() < PATIENCE => {
                    sleep(AGAIN);
                }
                answer => return answer,
            }
        }
    }

    fn ask_once(
        &self,
        request: &Request,
        progress: &mut impl FnMut(&str),
    ) -> Result<Answer, Failure> {
        let patience = match request {
            Request::Reload { .. } => CHECKING,
            _ => PATIENCE,
        };
        let stream = self.connect(patience)?;
        let mut line = serde_json::to_vec(request).map_err(other)?;
        line.push(b'\n');
        (&stream).write_all(&line).map_err(|cause| broken(&cause))?;
        for line in BufReader::new(stream).split(b'\n') {
            let line = line.map_err(|cause| broken(&cause))?;
            match serde_json::from_slice(&line) {
                Ok(Answer::Progress(text)) => progress(&text),
                Ok(Answer::Refused { error, exit }) => return Err(Failure::Refused(error, exit)),
                Ok(answer) => return Ok(answer),
                Err(cause) => {
                    let error = format!("cannot read the master's answer: {cause}");
                    return Err(Failure::Other(error, 4));
                }
            }
        }
        Err(Failure::Ended)
    }

    /// The status of the chains that `chains` mean; none: all.
    ///
    /// # Errors
    /// As [`Master::ask`].
    pub fn status(&self, chains: &[String]) -> Result<Status, Failure> {
        match self.ask(&Request::Status { chains: chains.to_vec() }, |_| ())? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    fn connect(&self, patience: Duration) -> Result<UnixStream, Failure> {
        let stream = UnixStream::connect(&self.socket).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Failure::NotRunning(self.socket.clone())
            }
            ErrorKind::PermissionDenied => Failure::NoRight(self.socket.clone()),
            _ => Failure::Other(format!("cannot open {}: {cause}", self.socket.display()), 1),
        })?;
        let set = stream
            .set_read_timeout(Some(patience))
            .and_then(|()| stream.set_write_timeout(Some(patience)));
        set.map_err(other)?;
        Ok(stream)
    }
}

/// Whether an end without an answer says that nothing was done. For a `reload` that waits it is
/// the acceptance, and the master that shuts down is gone.
fn may_repeat(request: &Request) -> bool {
    !matches!(
        request,
        Request::Shutdown { .. } | Request::Reload { dry_run: false, wait: Wait::Decided, .. }
    )
}

/// An answer of the wrong kind.
pub fn unexpected(answer: &Answer) -> Failure {
    Failure::Other(format!("cannot use the master's answer: {answer:?}"), 4)
}

fn other(cause: impl fmt::Display) -> Failure {
    Failure::Other(format!("cannot talk to the master: {cause}"), 1)
}

fn broken(cause: &io::Error) -> Failure {
    match cause.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Silent,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            Failure::Ended
        }
        _ => other(cause),
    }
}
