//! Becoming another program by an open descriptor (execveat(2)): what was checked is what runs,
//! whatever stands at its path by now.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::fs::identity;

/// Replaces this process by the program that `program` is open on. Returns only if that failed.
pub fn exec(program: impl AsFd, argv: &[OsString], env: &[(OsString, OsString)]) -> io::Error {
    let c_string = |text: Vec<u8>| CString::new(text).unwrap_or_default();
    let argv: Vec<CString> =
        argv.iter().map(|argument| c_string(argument.clone().into_vec())).collect();
    let env: Vec<CString> = env
        .iter()
        .map(|(name, value)| {
            let mut entry = name.clone().into_vec();
            entry.push(b'=');
            entry.extend(value.clone().into_vec());
            c_string(entry)
        })
        .collect();
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    // SAFETY: both arrays end with a null pointer and, like their strings, outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            argv_pointers.as_ptr(),
            env_pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Whether a descriptor is open under that number.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: fcntl with F_GETFD only looks.
    number >= 0 && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0
}

/// Takes a descriptor that an earlier image of this process, or its parent, left open for us by
/// number. It is close-on-exec from now on.
///
/// # Errors
/// When nothing is open under that number.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 || !is_open(number) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is open, and the record that names it says that it was left for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    super::locks::keep_over_exec(&fd, false)?;
    Ok(fd)
}

/// Closes what a launcher left open, but for `keep`, which stays open for [`adopt`].
pub fn close_all_but(keep: &[RawFd]) {
    // SAFETY: each is only borrowed for the call below, which closes none of them.
    let kept: Vec<BorrowedFd<'_>> = keep
        .iter()
        .filter(|number| **number > 2)
        .map(|number| unsafe { BorrowedFd::borrow_raw(*number) })
        .collect();
    super::fork::keep_only(&kept);
}

/// The path by which this program was started, to be opened again at an upgrade: the one that was
/// typed if it still names what runs, for it may go through a link that a deployment turns.
pub fn own_path(argv0: &Path, search: &str, cwd: &Path) -> PathBuf {
    let running = identity(Path::new("/proc/self/exe"));
    let typed = if argv0.components().count() > 1 {
        vec![cwd.join(argv0)]
    } else {
        search
            .split(':')
            .filter(|dir| !dir.is_empty())
            .map(|dir| cwd.join(dir).join(argv0))
            .collect()
    };
    typed
        .into_iter()
        .find(|path| identity(path).is_some() && identity(path) == running)
        .or_else(|| std::fs::read_link("/proc/self/exe").ok())
        .unwrap_or_else(|| argv0.to_path_buf())
}

/// Opens a program to check and execute it.
///
/// # Errors
/// When it is missing, no regular file, or not executable by this process; as root, when others
/// than root can change it.
pub fn open_program(path: &Path) -> io::Result<File> {
    let file = super::fs::open_to_read(path)?;
    let owner = super::fs::owner_of(&file)?;
    if super::privileges::is_root() && (owner.uid != 0 || owner.mode & 0o022 != 0) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "others than root can change it (owner {}, mode {:04o})",
                owner.uid, owner.mode
            ),
        ));
    }
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    )?;
    Ok(file)
}
