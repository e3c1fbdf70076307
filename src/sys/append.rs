//! Files that we append to: opened with the rights of whoever this process is, never through a
//! symbolic link in the last part of the path, never as a controlling terminal.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens `path` to append, creating it with `mode` (and the umask). A regular file with one name or
/// a character device (`/dev/null`); writing to a device that has no room fails instead of waiting.
///
/// # Errors
/// Those of open(2); ELOOP for a symbolic link; anything else than those two kinds of file; a file
/// that somebody has given a second name (link(2)), for it may be meant for something else.
pub fn open_append(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    match unfit(&found) {
        Some(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
        None => Ok(file),
    }
}

/// Why [`open_append`] refuses what it finds; `None` if it does not. `/dev/tty` is whoever's terminal
/// asks, so that a look from a terminal and the open without one differ.
pub fn unfit(found: &Metadata) -> Option<&'static str> {
    match found.file_type() {
        kind if kind.is_file() && found.nlink() > 1 => Some("it has more than one name"),
        kind if kind.is_char_device() && found.rdev() == libc::makedev(5, 0) => {
            Some("it is a terminal, and a task has none")
        }
        kind if kind.is_file() || kind.is_char_device() => None,
        _ => Some("it is neither a file nor a device"),
    }
}

/// Lets writing to the file wait again, for a program that expects nothing else.
///
/// # Errors
/// Those of fcntl(2).
pub fn make_waiting(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)? - rustix::fs::OFlags::NONBLOCK;
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// Lets writing and reading fail instead of waiting (fcntl(2), O_NONBLOCK).
///
/// # Errors
/// Those of fcntl(2).
pub fn make_not_waiting(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)? | rustix::fs::OFlags::NONBLOCK;
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// Opens a file that we append to for reading, on the same terms as [`open_append`].
///
/// # Errors
/// Those of open(2).
pub fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
}

/// Creates `path`, which must not exist, for writing.
///
/// # Errors
/// Those of open(2).
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Device and inode of what standard error is, as JOURNAL_STREAM names it (sd-daemon(3)).
pub fn stderr_identity() -> Option<(u64, u64)> {
    let stat = rustix::fs::fstat(io::stderr()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Writes to standard error without a buffer or a lock of ours: one write(2).
///
/// # Errors
/// Those of write(2); EAGAIN where somebody made it non-blocking.
pub fn write_stderr(bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(io::stderr(), bytes) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Whether `cause` says that the file is as large as it may be (RLIMIT_FSIZE).
pub fn is_too_large(cause: &io::Error) -> bool {
    cause.raw_os_error() == Some(libc::EFBIG)
}

/// Whether the file behind an open descriptor has no name any more.
///
/// # Errors
/// When it cannot be asked.
pub fn is_deleted(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() == 0)
}
