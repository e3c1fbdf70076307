//! Processes that are no children of ours, held by a pidfd (pidfd_open(2)): a number can be given
//! to another process at any moment, a descriptor cannot.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::fork::Pid;

/// A held process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Holds a process. `Ok(None)`: it is gone. Numbers below 2 are refused.
    ///
    /// # Errors
    /// On kernels before 5.3, or when descriptors are short.
    pub fn open(pid: Pid) -> io::Result<Option<PidFd>> {
        let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|pid| !pid.is_init()) else {
            return Err(io::Error::other("a process id must be at least 2"));
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(PidFd(fd))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(cause) => Err(cause.into()),
        }
    }

    /// Sends a signal to exactly this process. `Ok(false)`: it is gone.
    ///
    /// # Errors
    /// When it belongs to somebody else.
    pub fn signal(&self, number: i32) -> io::Result<bool> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| io::Error::other(format!("{number} is no signal")))?;
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(cause) => Err(cause.into()),
        }
    }

    /// Waits until it has ended, at most `timeout`; whether it has.
    ///
    /// # Errors
    /// When waiting is not possible.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        Ok(super::poll::wait_readable(&[self.0.as_fd()], Some(timeout))?.first() == Some(&true))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
