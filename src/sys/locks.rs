//! POSIX record locks (fcntl(2), F_SETLK): F_GETLK names the holder, fork(2) does not pass them
//! on, execve(2) keeps them, and closing *any* descriptor of the file drops them: so each file is
//! opened once and never again while the lock is held.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::fork::Pid;

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the lock of a file without waiting. `Ok(false)`: somebody else holds it.
///
/// # Errors
/// When the file system has no locks (ENOLCK) or another fault.
pub fn try_lock(file: &File) -> io::Result<bool> {
    take(file, libc::F_WRLCK)
}

/// As [`try_lock`] for a file that can only be read, since its file system is read-only: a shared lock,
/// which holds off every exclusive one and names its holder as well. It is taken where nobody holds
/// any; two that try at the same moment may both get it.
///
/// # Errors
/// As [`try_lock`].
pub fn try_lock_read_only(file: &File) -> io::Result<bool> {
    Ok(holder(file)?.is_none() && take(file, libc::F_RDLCK)?)
}

fn take(file: &File, kind: i32) -> io::Result<bool> {
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole_file(kind))) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Who holds the lock of a file; `None`: nobody, or the caller itself.
///
/// # Errors
/// As [`try_lock`].
pub fn holder(file: &File) -> io::Result<Option<Pid>> {
    let mut lock = whole_file(libc::F_WRLCK);
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut lock)) {
            Ok(_) if i32::from(lock.l_type) == libc::F_UNLCK => return Ok(None),
            Ok(_) => return Ok(Some(lock.l_pid)),
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Keeps a descriptor open over execve(2), or not.
///
/// # Errors
/// Never for an open descriptor.
pub fn keep_over_exec(fd: impl AsFd, keep: bool) -> io::Result<()> {
    use rustix::io::{FdFlags, fcntl_setfd};
    let flags = if keep { FdFlags::empty() } else { FdFlags::CLOEXEC };
    Ok(fcntl_setfd(fd, flags)?)
}

/// The number of a descriptor, for the record that travels over execve(2).
pub fn number(fd: impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}
