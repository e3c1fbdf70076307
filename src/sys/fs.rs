//! Files of the master's own ground: made without following links, replaced by rename, never
//! opened where a FIFO or a device could block.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What is known of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits, with the sticky bit.
    pub mode: u32,
}

/// Opens a folder, which may be reached through links but must be a folder.
///
/// # Errors
/// When it is missing, no folder, or not accessible.
pub fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Opens `name` (no slashes) of a folder for reading and writing, made with `mode` if it is
/// missing; only a regular file with one link, never a link, a FIFO or a device.
///
/// # Errors
/// When it is something else, or cannot be opened.
pub fn open_or_create(folder: &File, name: &str, mode: u32) -> io::Result<File> {
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode))?;
    regular(File::from(fd))
}

/// As [`open_or_create`] for reading alone; a missing file is an error.
///
/// # Errors
/// As [`open_or_create`].
pub fn open_read_only(folder: &File, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    regular(File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?))
}

fn regular(file: File) -> io::Result<File> {
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if stat.st_nlink > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has more than one name"));
    }
    Ok(file)
}

/// Reads at most `limit` bytes of `name` in a folder, if it is a regular file; a link, FIFO,
/// device or folder of that name is an error and is not waited for.
///
/// # Errors
/// When it is missing, something else, or cannot be read.
pub fn read_small(folder: &File, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let file = File::from(fd);
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How the name of a file ends that is still being written.
const UNFINISHED: &str = ".new";

/// Puts `bytes` in place as `name` of a folder: written beside it and renamed, so a reader sees
/// the old or the new, and whatever stood there (a link, a FIFO) is replaced, not followed. A
/// folder of that name is moved out of the way as `NAME.old` only if it is empty.
///
/// # Errors
/// When the folder cannot be written.
pub fn replace(
    folder: &File,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durable: bool,
) -> io::Result<()> {
    let temporary = format!(".{name}.{}{UNFINISHED}", nix::unistd::getpid());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(folder, &temporary, flags, Mode::from_raw_mode(mode));
    let fd = match open() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(folder, &temporary, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    let mut file = File::from(fd);
    let written = (|| {
        // The mode that is meant, whatever the umask.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        match rustix::fs::renameat(folder, &temporary, folder, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
                rustix::fs::renameat(folder, &temporary, folder, name)?;
            }
            other => other?,
        }
        if durable {
            folder.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(folder, &temporary, AtFlags::empty());
    }
    written
}

/// What makes a file this one, whatever path names it: device and inode number; `None` if nothing is
/// there.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// As [`identity`], of `name` in a folder; a link is not followed, and nothing is opened.
pub fn identity_in(folder: &File, name: &str) -> Option<(u64, u64)> {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// As [`identity`], of an open file.
pub fn identity_of(file: &File) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    file.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// Takes away what a process that was killed in the midst of [`replace`] left in a folder. Only for
/// a moment at which nobody replaces anything there.
///
/// # Errors
/// When the folder cannot be read; one file that cannot be removed hinders no other.
pub fn remove_unfinished(folder: &File) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if bytes.starts_with(b".") && bytes.ends_with(UNFINISHED.as_bytes()) {
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        }
    }
    Ok(())
}

/// Takes `name` of a folder away, whatever it is but a folder; one that is not there is no error.
///
/// # Errors
/// When the folder cannot be written.
pub fn remove(folder: &File, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

/// Empties `name` of a folder if it is a regular file.
///
/// # Errors
/// When it cannot be opened.
pub fn truncate(folder: &File, name: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let file = regular(File::from(fd))?;
    file.set_len(0)
}

/// Makes a folder with exactly `mode` if it is missing, with its parents (0755).
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?),
        Err(Errno::EXIST) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

/// Whether this process may make files in a folder (access(2) with its effective ids).
///
/// # Errors
/// When it may not: EACCES, or EROFS on a file system that is mounted read-only or has become so.
pub fn may_write(folder: &Path) -> io::Result<()> {
    use rustix::fs::{Access, CWD};
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, folder, wanted, AtFlags::EACCESS)?;
    // After an error of its disk a file system says so only to who writes. A file without a name is
    // gone at once; that there is no room for one, or no such files here, is another matter.
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, folder, flags, Mode::from_raw_mode(0o600)) {
        Err(Errno::ROFS) => Err(Errno::ROFS.into()),
        _ => Ok(()),
    }
}

/// Who owns an open file or folder.
///
/// # Errors
/// When it cannot be looked at.
pub fn owner_of(file: impl AsFd) -> io::Result<Owner> {
    let stat = rustix::fs::fstat(file)?;
    Ok(Owner { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 })
}

/// Whether a folder lies on a network file system, where locks cannot be trusted: NFS, SMB, 9P,
/// Ceph, AFS, Coda, FUSE (statfs(2)).
///
/// # Errors
/// When it cannot be looked at.
pub fn is_remote(folder: &File) -> io::Result<bool> {
    const REMOTE: [u64; 8] = [
        0x6969,      // NFS
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x517b,      // SMB
        0x0102_1997, // 9P
        0x00c3_6400, // Ceph
        0x5346_414f, // AFS
        0x7375_7245, // Coda
    ];
    let kind = rustix::fs::fstatfs(folder)?.f_type;
    #[allow(clippy::cast_sign_loss)]
    Ok(REMOTE.contains(&((kind as u64) & 0xffff_ffff)))
}

/// Gives a file or folder to an account.
///
/// # Errors
/// When not root.
pub fn give(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

/// Opens a regular file to read it, through links if need be: with the rights of a chain's own
/// user. A FIFO or device is refused, not waited for.
///
/// # Errors
/// When it is missing, something else, or cannot be read.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

/// The text of a regular file of at most `most` bytes, opened as [`open_to_read`] does.
///
/// # Errors
/// As [`open_to_read`]; when it is larger, or not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_to_read(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Opens a file for reading without following any link on the way.
///
/// # Errors
/// ELOOP for a link; ENOSYS on kernels before 5.6.
pub fn open_without_links(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_up_to_its_bound_and_only_as_utf_8() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "A=1\n").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "A=1\n");
        let fault = |most| read_text(&path, most).unwrap_err().to_string();
        assert_eq!(fault(3), "it is larger than 3 bytes");
        std::fs::write(&path, b"A=\xff\n").unwrap();
        assert_eq!(fault(4), "it is not UTF-8");
    }
}
