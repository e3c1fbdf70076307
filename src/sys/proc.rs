//! What `/proc` says of processes (proc(5)), and how ours are called in ps(1).

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};

use super::fork::Pid;

/// All process ids now.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pids() -> io::Result<impl Iterator<Item = Pid>> {
    Ok(std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Pid>().ok()))
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything. One read(2), for each makes
/// the kernel write it all anew, and a master may have to look at thousands.
fn stat_text(pid: Pid) -> Option<String> {
    let mut text = [0; 1024];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut text).ok()?;
    let text = &text[..length];
    let name_ends = text.iter().rposition(|byte| *byte == b')')?;
    Some(String::from_utf8_lossy(&text[name_ends + 1..]).into_owned())
}

fn stat(pid: Pid) -> Option<Vec<String>> {
    Some(stat_text(pid)?.split_whitespace().map(str::to_owned).collect())
}

/// The parent of a process.
pub fn parent_of(pid: Pid) -> Option<Pid> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Whether this process has a controlling terminal (proc_pid_stat(5), tty_nr).
pub fn has_terminal() -> bool {
    let fields = stat(nix::unistd::getpid().as_raw());
    fields.and_then(|fields| fields.get(4)?.parse::<i32>().ok()).is_some_and(|tty| tty != 0)
}

/// The leader of this process's session (getsid(2)).
pub fn session_leader() -> Pid {
    nix::unistd::getsid(None).map(nix::unistd::Pid::as_raw).unwrap_or(0)
}

/// When a process started, in clock ticks since boot: with the pid it names a process for good.
pub fn start_time(pid: Pid) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// Whether the process has ended and is not yet reaped. One whose first thread has ended while others
/// go on is a zombie by its state, too, but alive (proc_pid_stat(5), num_threads).
pub fn has_ended(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| is_ended(&fields))
}

/// Whether a process is known to live: not if nobody can say.
pub fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| !is_ended(&fields))
}

fn is_ended(fields: &[String]) -> bool {
    let threads = fields.get(17).and_then(|count| count.parse::<u32>().ok());
    fields.first().is_some_and(|state| state == "Z") && threads.is_none_or(|count| count < 2)
}

/// The real user id of a process.
pub fn uid_of(pid: Pid) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find(|line| line.starts_with("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The value of a variable in the environment that a process was started with, if the caller may
/// read it. Only a hint: a process can forge or lose it.
pub fn environment_value(pid: Pid, name: &str) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{name}=");
    environ
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(prefix.as_bytes()))
        .map(|value| String::from_utf8_lossy(value).into_owned())
}

/// A process, its parent and its start time at one look. As long as number and start time stay the
/// same it is the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub pid: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// In clock ticks since boot.
    pub start: u64,
}

/// A look at one process; `None`: it is gone.
pub fn look(pid: Pid) -> Option<Seen> {
    let text = stat_text(pid)?;
    let mut fields = text.split_ascii_whitespace().skip(1);
    Some(Seen { pid, parent: fields.next()?.parse().ok()?, start: fields.nth(17)?.parse().ok()? })
}

/// Every descendant of some processes, nearest first, by one look at all processes: as long as that
/// takes for one ancestor, it takes for thousands.
pub fn descendants(ancestors: impl IntoIterator<Item = Pid>) -> Vec<Seen> {
    let Ok(pids) = pids() else { return Vec::new() };
    let mut below: HashMap<Pid, Vec<Seen>> = HashMap::new();
    for seen in pids.filter_map(look) {
        below.entry(seen.parent).or_default().push(seen);
    }
    let mut found: Vec<Seen> =
        ancestors.into_iter().flat_map(|pid| below.remove(&pid).unwrap_or_default()).collect();
    let mut next = 0;
    while let Some(seen) = found.get(next) {
        next += 1;
        found.extend(below.remove(&seen.pid).unwrap_or_default());
    }
    found
}

/// Some processes and every descendant of theirs, by one look.
pub fn with_descendants(roots: &BTreeSet<Pid>) -> BTreeSet<Pid> {
    if roots.is_empty() {
        return BTreeSet::new();
    }
    let below = descendants(roots.iter().copied()).into_iter().map(|seen| seen.pid);
    roots.iter().copied().chain(below).collect()
}

/// Renames this process in ps(1): the command line by writing over the one it was started with
/// (`/proc/self/stat`, fields arg_start to env_end), the short name by prctl(2). The arguments are
/// gone then, and with a title longer than they were the launcher's environment, too.
pub fn set_title(title: &str) {
    let _ = rustix::thread::set_name(
        &std::ffi::CString::new(title.replace('\0', "").into_bytes()).unwrap_or_default(),
    );
    let Some(fields) = stat(nix::unistd::getpid().as_raw()) else { return };
    let at = |index: usize| fields.get(index).and_then(|field| field.parse::<usize>().ok());
    // Fields 48, 49 and 51 of proc(5), counted from 1 with pid and name before ours.
    let (Some(start), Some(end), Some(env_end)) = (at(45), at(46), at(48)) else { return };
    if start == 0 || end <= start || env_end < end {
        return;
    }
    // What fits over the arguments leaves the environment alone, which is still read there.
    let room = if title.len() < end - start { end - start } else { env_end - start };
    let bytes = &title.as_bytes()[..title.len().min(room - 1)];
    // SAFETY: the kernel says that these bytes are this process's own argument and environment
    // strings, one writable area of its stack; the callers need neither where they are
    // overwritten.
    unsafe {
        let area = start as *mut u8;
        std::ptr::write_bytes(area, 0, room);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), area, bytes.len());
    }
}

/// The resident memory of a process in bytes (VmRSS of proc_pid_status(5)).
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}
