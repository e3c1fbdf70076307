//! Who holds a record lock on a file that no path leads to any more: it was removed, or moved away
//! with its folder. The kernel lists every lock with its holder (`/proc/locks`, proc_locks(5)), and
//! the holder's descriptors lead to the file (`/proc/PID/fd`, proc_pid_fd(5)).
//!
//! Not seen: a process of another pid namespace, and without the right to look at it (ptrace(2)).

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::fork::Pid;
use super::{privileges, proc};

/// A lock that another process holds.
#[derive(Debug)]
pub struct Held {
    /// Its holder, when it was looked at.
    pub pid: Pid,
    /// Where the file is, or was when it was removed.
    pub path: PathBuf,
    /// The file, opened for reading.
    pub file: File,
}

/// The whole files whose exclusive record locks are held by other processes of this one's user with
/// its view of the file system, and whose path is `wanted`. The same path in another mount namespace
/// or below another root directory (a container) is another file. Of a process of another user
/// nothing is opened: its files may be in a file system of that user's, which never answers. Nor is
/// `mine`, which another process that is just looking may have open, too: closing any descriptor of a
/// file drops this process's lock on it (fcntl(2)). A file that others may read or write is left out: what it
/// says would be anybody's, and who can read it can have it locked by a program that trusts them.
///
/// # Errors
/// When the kernel's list cannot be read. A process that cannot be looked at is left out.
pub fn held(mine: &File, wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<Held>> {
    let list = std::fs::read_to_string("/proc/locks")?;
    let me = nix::unistd::getpid().as_raw();
    let mut pids: Vec<Pid> =
        list.lines().filter_map(holder).filter(|pid| *pid > 1 && *pid != me).collect();
    pids.sort_unstable();
    pids.dedup();
    let user = privileges::my_uid();
    pids.retain(|pid| proc::uid_of(*pid) == Some(user) && sees_the_same(*pid));
    Ok(pids.into_iter().flat_map(|pid| open_files(pid, mine, &wanted)).collect())
}

/// `1: POSIX  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`; one that waits has an arrow.
fn holder(line: &str) -> Option<Pid> {
    let mut words = line.split_whitespace().skip(1);
    let (kind, _, mode) = (words.next()?, words.next()?, words.next()?);
    let pid = words.next()?.parse().ok()?;
    let range = (words.nth(1)?, words.next()?);
    (kind == "POSIX" && mode == "WRITE" && range == ("0", "EOF")).then_some(pid)
}

fn sees_the_same(pid: Pid) -> bool {
    let of = |who: &str| {
        let mounts = std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok()?;
        let root = super::fs::identity(Path::new(&format!("/proc/{who}/root")))?;
        Some((mounts, root))
    };
    let theirs = of(&pid.to_string());
    theirs.is_some() && theirs == of("self")
}

fn open_files(pid: Pid, mine: &File, wanted: impl Fn(&Path) -> bool) -> Vec<Held> {
    let mine = super::fs::identity_of(mine);
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let open = |entry: io::Result<std::fs::DirEntry>| {
        let link = entry.ok()?.path();
        let target = std::fs::read_link(&link).ok()?;
        let bytes = target.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        // Looked at without being opened.
        if !wanted(&path) || super::fs::identity(&link) == mine {
            return None;
        }
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags).open(link).ok()?;
        let owner = super::fs::owner_of(&file).ok()?;
        let mine_alone = owner.uid == privileges::my_uid() && owner.mode & 0o077 == 0;
        let holds = mine_alone && super::locks::holder(&file).ok()? == Some(pid);
        holds.then_some(Held { pid, path, file })
    };
    entries.filter_map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::holder;

    #[test]
    fn a_holder_is_who_locks_a_whole_file_for_itself() {
        let line = "1: POSIX  ADVISORY  WRITE 1234 00:1a:5678 0 EOF";
        assert_eq!(holder(line), Some(1234));
        for (from, to) in [
            ("POSIX", "FLOCK"),
            ("WRITE", "READ "),
            ("1: ", "1: -> "),
            ("0 EOF", "0 7"),
            ("0 EOF", "1 EOF"),
            ("0 EOF", ""),
            ("1234", "x"),
        ] {
            assert_eq!(holder(&line.replace(from, to)), None, "{to}");
        }
        assert_eq!(holder(""), None);
    }
}
