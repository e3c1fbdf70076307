//! What `/proc` says of processes (proc(5)), and how ours are called in ps(1).

use std::collections::BTreeSet;
use std::io;

use super::fork::Pid;

/// All process ids now.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pids() -> io::Result<impl Iterator<Item = Pid>> {
    Ok(std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Pid>().ok()))
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let rest = &stat[stat.rfind(')')? + 1..];
    Some(rest.split_whitespace().map(str::to_owned).collect())
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

/// Every descendant of a process, nearest first, by one look at all processes.
pub fn descendants(ancestor: Pid) -> Vec<Pid> {
    let Ok(pids) = pids() else { return Vec::new() };
    let parents: Vec<(Pid, Pid)> = pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        next += 1;
        for (pid, their_parent) in &parents {
            if *their_parent == parent && !found.contains(pid) {
                found.push(*pid);
            }
        }
    }
    found.remove(0);
    found
}

/// Whether a process is one of `roots` or, by a look at its parents now, descends from one.
pub fn is_or_descends_from(pid: Pid, roots: &BTreeSet<Pid>) -> bool {
    if roots.is_empty() {
        return false;
    }
    let mut at = pid;
    for _ in 0..1000 {
        if roots.contains(&at) {
            return true;
        }
        match parent_of(at) {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
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
