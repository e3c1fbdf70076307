//! A folder held by descriptor: every name in it is opened relative to it and never through a
//! symbolic link, so nobody who can write beside us can make us read or write elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fsync, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is a regular file (not a symbolic link to one).
    pub regular: bool,
    /// Bytes.
    pub size: u64,
    /// Last change of its content, seconds since 1970.
    pub modified: i64,
}

impl Folder {
    /// Opens a folder; the last part of `path` must not be a symbolic link.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Folder(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens the folder `name` in this one and makes it (0700) where it is missing.
    ///
    /// # Errors
    /// As mkdir(2) and open(2).
    pub fn sub(&self, name: &str) -> io::Result<Folder> {
        match mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) => self.sync()?,
            Err(Errno::EXIST) => {}
            Err(cause) => return Err(cause.into()),
        }
        self.existing_sub(name)
    }

    /// Opens the folder `name` in this one.
    ///
    /// # Errors
    /// As open(2).
    pub fn existing_sub(&self, name: &str) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Folder(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// The owner's user id and the permission bits.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn owner_and_mode(&self) -> io::Result<(u32, u32)> {
        let found = rustix::fs::fstat(&self.0)?;
        Ok((found.st_uid, found.st_mode & 0o7777))
    }

    /// Gives the folder to an account and closes it to everybody else (0700).
    ///
    /// # Errors
    /// As fchown(2) and fchmod(2).
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        fchown(&self.0, Some(uid), Some(gid))?;
        self.close_to_others()
    }

    /// Mode 0700.
    ///
    /// # Errors
    /// As fchmod(2).
    pub fn close_to_others(&self) -> io::Result<()> {
        Ok(fchmod(&self.0, Mode::RWXU)?)
    }

    /// Makes a new file (0600) for writing; a name that exists is an error.
    ///
    /// # Errors
    /// As open(2).
    pub fn create_new(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Opens a regular file for reading, without waiting on a FIFO and not through a link.
    ///
    /// # Errors
    /// As open(2); `InvalidInput` for what is not a regular file.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Opens a file for a lock and makes it where it is missing.
    ///
    /// # Errors
    /// As open(2).
    pub fn open_lock(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Opens an existing regular file to be written over, without waiting on a FIFO.
    ///
    /// # Errors
    /// As open(2).
    pub fn open_to_overwrite(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Moves a name of this folder to `to` in `target`, over what is there (rename(2)).
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(&self, from: &str, target: &Folder, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, from, &target.0, to)?)
    }

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }

    /// Brings the folder's names to disk (fsync(2)).
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// What a name stands for; symbolic links are not followed.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn entry(&self, name: &str) -> io::Result<Entry> {
        let found = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Entry {
            regular: FileType::from_raw_mode(found.st_mode) == FileType::RegularFile,
            size: u64::try_from(found.st_size).unwrap_or(0),
            modified: found.st_mtime,
        })
    }

    /// The names in the folder without `.` and `..`, at most `most`; names that are not UTF-8 come
    /// with replacement characters.
    ///
    /// # Errors
    /// As getdents(2).
    pub fn names(&self, most: usize) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() >= most {
                break;
            }
            names.push(OsStr::from_bytes(name).to_string_lossy().into_owned());
        }
        Ok(names)
    }
}

/// Takes an exclusive lock (flock(2)) that belongs to the open file: a forked child shares it, and
/// it ends when the last of them is gone. `Ok(false)`: somebody else has it.
///
/// # Errors
/// As flock(2).
pub fn try_flock(file: &File) -> io::Result<bool> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// As [`try_flock`], and waits for it.
///
/// # Errors
/// As flock(2).
pub fn wait_flock(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Opens a file for reading as its path says, without waiting on a FIFO, and returns it with its
/// owner's user id and permission bits.
///
/// # Errors
/// As open(2); `InvalidInput` for what is not a regular file.
pub fn open_with_owner(path: &Path) -> io::Result<(File, u32, u32)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, found.uid(), found.mode() & 0o7777))
}

/// The effective user id of this process.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
