//! Reaping: waitpid(2) and what `/proc` says of our children.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::fork::Pid;
use super::pidfd::PidFd;
use super::signals::SIGKILL;

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It exited with this code.
    Exited(Pid, i32),
    /// It was killed by this signal.
    Killed(Pid, i32),
    /// It was stopped (SIGSTOP); it is still a child.
    Stopped(Pid),
    /// It goes on after a stop.
    Continued(Pid),
}

/// What a look at the children gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// One change; there may be more.
    One(Change),
    /// Children exist, nothing changed.
    Nothing,
    /// No child exists: nothing that was started is left. Exact for a subreaper (prctl(2)).
    NoChildren,
}

/// The next change of any child, without waiting. With `stops` also stops and continuations.
///
/// # Errors
/// Never for a correct call.
pub fn reap(stops: bool) -> io::Result<Reaped> {
    let mut flags = WaitPidFlag::WNOHANG;
    if stops {
        flags |= WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
    }
    loop {
        let change = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) => Change::Exited(pid.as_raw(), code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Change::Killed(pid.as_raw(), signal as i32),
            Ok(WaitStatus::Stopped(pid, _)) => Change::Stopped(pid.as_raw()),
            Ok(WaitStatus::Continued(pid)) => Change::Continued(pid.as_raw()),
            Ok(_) => return Ok(Reaped::Nothing),
            Err(Errno::ECHILD) => return Ok(Reaped::NoChildren),
            // A signal number that the crate does not know (real time): the child is reaped.
            Err(Errno::EINTR | Errno::EINVAL) => continue,
            Err(cause) => return Err(cause.into()),
        };
        return Ok(Reaped::One(change));
    }
}

/// Waits for one child of ours to end; its exit code, or 128 + the signal.
///
/// # Errors
/// When it is no child.
pub fn wait_for(pid: Pid) -> io::Result<i32> {
    loop {
        match waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// How long [`end_child`] waits.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Kills a child of ours, if it has not ended, and reaps it. One that the kernel does not let go (a
/// file system that never answers, state D of proc(5)) is left to whoever reaps it later.
pub fn end_child(pid: Pid) {
    let _ = signal_child(pid, SIGKILL);
    let ended = match PidFd::open(pid) {
        Ok(Some(held)) => held.wait(END_PATIENCE).unwrap_or(true),
        _ => true,
    };
    if ended {
        let _ = wait_for(pid);
    }
}

/// The direct children of this (single-threaded) process, zombies included.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn children() -> io::Result<Vec<Pid>> {
    children_of(nix::unistd::getpid().as_raw())
}

/// A list of this process's children that stays open: asked after each run of a worker, it costs
/// one call.
#[derive(Debug)]
pub struct OpenChildren(File);

impl OpenChildren {
    /// Of this single-threaded process; a fork of it needs one of its own.
    ///
    /// # Errors
    /// When `/proc` cannot be read, or the kernel has no such list (CONFIG_PROC_CHILDREN).
    pub fn open() -> io::Result<OpenChildren> {
        File::open("/proc/thread-self/children").map(OpenChildren)
    }

    /// Whether `child` is the only one, zombies included.
    pub fn is_only(&self, child: Pid) -> bool {
        let mut list = [0_u8; 64];
        self.0.read_at(&mut list, 0).is_ok_and(|length| {
            let list = String::from_utf8_lossy(&list[..length]);
            let mut pids = list.split_whitespace().map(str::parse);
            pids.next() == Some(Ok(child)) && pids.next().is_none()
        })
    }
}

/// The direct children of a single-threaded process, by `/proc/PID/task/PID/children`, or where
/// the kernel lacks that by a look at every process.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn children_of(parent: Pid) -> io::Result<Vec<Pid>> {
    // Each further read counts from the first child on: a page holds several hundred.
    let mut list = Vec::with_capacity(8192);
    let path = format!("/proc/{parent}/task/{parent}/children");
    match File::open(path).and_then(|mut file| file.read_to_end(&mut list)) {
        Ok(_) => Ok(list
            .split(u8::is_ascii_whitespace)
            .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
            .collect()),
        Err(_) => super::proc::pids()
            .map(|pids| pids.filter(|pid| super::proc::parent_of(*pid) == Some(parent)).collect()),
    }
}

/// Sends a signal to an unreaped child of ours: its number cannot have been given to another
/// process (kill(2)). Numbers below 2 are refused: they mean groups or init.
///
/// # Errors
/// ESRCH when it is gone, EPERM for a setuid program.
pub fn signal_child(pid: Pid, signal: i32) -> io::Result<()> {
    if pid < 2 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill takes two integers.
    let done = unsafe { libc::kill(pid, signal) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to the process group that an unreaped child of ours leads.
///
/// # Errors
/// As [`signal_child`].
pub fn signal_group(leader: Pid, signal: i32) -> io::Result<()> {
    if leader < 2 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: killpg takes two integers.
    let done = unsafe { libc::killpg(leader, signal) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_list_of_children_tells_of_those_of_now() {
        // The list is one of this thread's children, and tests have several threads.
        let Ok(children) = OpenChildren::open() else { return };
        let start =
            || std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn();
        let id = |child: &std::process::Child| Pid::try_from(child.id()).unwrap();
        let mut one = start().unwrap();
        assert!(children.is_only(id(&one)));
        let mut two = start().unwrap();
        assert!(!children.is_only(id(&one)) && !children.is_only(id(&two)));
        one.kill().unwrap();
        one.wait().unwrap();
        assert!(children.is_only(id(&two)));
        two.kill().unwrap();
        two.wait().unwrap();
        assert!(!children.is_only(id(&two)));
    }
}
