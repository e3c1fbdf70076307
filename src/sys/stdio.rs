//! The three standard descriptors of our own processes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

/// `/dev/null`, for reading and writing, close-on-exec.
///
/// # Errors
/// When it cannot be opened.
pub fn open_null() -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    Ok(file.into())
}

/// Puts `/dev/null` on 0, 1 and 2.
///
/// # Errors
/// When it cannot be opened.
pub fn to_null() -> io::Result<()> {
    let null = open_null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Puts `/dev/null` on 0 alone: nothing of ours reads the launcher's input.
///
/// # Errors
/// When it cannot be opened.
pub fn stdin_to_null() -> io::Result<()> {
    rustix::stdio::dup2_stdin(open_null()?)?;
    Ok(())
}

/// Sets the file mode creation mask (umask(2)).
pub fn set_umask(mask: u32) {
    // SAFETY: umask takes an integer and touches no memory. (The wrappers of it end the process if
    // it fails, which it never does by its manual.)
    unsafe { libc::umask(mask) };
}

/// Puts a descriptor on 1 and 2.
///
/// # Errors
/// When it is not open.
pub fn output_to(sink: &OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stdout(sink)?;
    rustix::stdio::dup2_stderr(sink)?;
    Ok(())
}
