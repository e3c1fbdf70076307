//! Questions about files that change nothing: what would this process be allowed?

use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

/// What one would like to do with a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Read a file, list a folder.
    Read,
    /// Write a file, make files in a folder.
    Write,
    /// Execute a file, enter a folder.
    Execute,
}

/// Whether this process may do it, by its effective ids (faccessat(2)).
///
/// # Errors
/// ENOENT, EACCES and the like: why not.
pub fn may(path: &Path, wish: Wish) -> io::Result<()> {
    let access = match wish {
        Wish::Read => Access::READ_OK,
        Wish::Write => Access::WRITE_OK,
        Wish::Execute => Access::EXEC_OK,
    };
    Ok(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)?)
}
