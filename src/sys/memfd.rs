//! Sealed memory as a message: what was written is what is read, and nobody changes it in between
//! (memfd_create(2), F_ADD_SEALS of fcntl(2)).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Makes a memory file that a child of ours may fill and seal.
///
/// # Errors
/// When memory or descriptors are short.
pub fn create(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(File::from(memfd_create(name, flags)?))
}

/// Writes everything and seals it.
///
/// # Errors
/// When memory is short.
pub fn fill_and_seal(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    Ok(fcntl_add_seals(&*file, SEALS)?)
}

/// Reads a sealed memory file from its start, at most `limit` bytes.
///
/// # Errors
/// When it is not sealed, larger than `limit`, or no memory file.
pub fn read_sealed(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    if fcntl_get_seals(&file)? & SEALS != SEALS {
        return Err(io::Error::other("it is not sealed"));
    }
    if file.metadata()?.len() > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
