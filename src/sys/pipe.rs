//! Pipes for the output of tasks. The two ends are two open file descriptions: a task cannot
//! change how we read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Every writer is gone.
    Closed,
}

/// A pipe whose read end never waits; (read end, write end), both close-on-exec.
///
/// # Errors
/// When no descriptors are left.
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (source, sink) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&source, OFlags::NONBLOCK)?;
    Ok((source, sink))
}

/// A pipe whose write end never waits; (read end, write end), both close-on-exec.
///
/// # Errors
/// When no descriptors are left.
pub fn request_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (source, sink) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&sink, OFlags::NONBLOCK)?;
    Ok((source, sink))
}

/// Writes everything into an end that never waits, waiting for room at most `patience` each time.
/// SIGPIPE must be blocked.
///
/// # Errors
/// EPIPE when nobody reads; `TimedOut` when there is no room for that long.
pub fn write_all(sink: impl AsFd, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&sink, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if !super::poll::wait_writable(sink.as_fd(), Some(patience))? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(())
}

/// Asks for room for `bytes` in a pipe (fcntl(2), F_SETPIPE_SZ). It stays as it is where the kernel
/// refuses: its limits for one pipe and for all of a user's stand in pipe(7).
pub fn make_room(source: impl AsFd, bytes: usize) {
    let _ = rustix::pipe::fcntl_setpipe_size(source, bytes);
}

/// How many bytes are there to be read (FIONREAD, ioctl_pipe(2)).
pub fn waiting(source: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(source).map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// Reads what is there.
pub fn read(source: impl AsFd, buffer: &mut [u8]) -> Read {
    loop {
        match rustix::io::read(&source, &mut *buffer) {
            Ok(0) => return Read::Closed,
            Ok(count) => return Read::Bytes(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Read::Empty,
            Err(_) => return Read::Closed,
        }
    }
}
