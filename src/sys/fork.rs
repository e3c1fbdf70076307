//! fork(2) without exec, made safe to use: one thread only, a child that cannot return into its
//! parent's frames, descriptors let go of in one place.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::{ForkResult, fork};

/// A process id that fork(2) gave us.
pub type Pid = i32;

/// Exit status of a child that failed by a fault of ours or of the system (`EX_OSERR`).
pub const EXIT_OSERR: i32 = 71;

/// Forks a child that runs `body` and then leaves by [`leave`]: a plain return ran the parent's
/// destructors and flushed its buffers a second time. All signals that this program handles are
/// blocked in the caller ([`super::signals::block`]), so none is lost between fork and the moment
/// when the child has its own delivery.
///
/// # Errors
/// When this process has more than one thread (the others would be lost in the child with their
/// locks held), or fork(2) fails (EAGAIN, ENOMEM).
pub fn fork_child<F>(body: F) -> io::Result<Pid>
where
    F: FnOnce() -> Infallible,
{
    let threads = threads()?;
    if threads != 1 {
        return Err(io::Error::other(format!("cannot fork: {threads} threads run, not 1")));
    }
    // SAFETY: this process has one thread (checked above; nobody else could start one), so the
    // child may run any code; it never returns into the caller's frames.
    #[allow(clippy::disallowed_methods)]
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let _ = catch_unwind(AssertUnwindSafe(body));
            leave(EXIT_OSERR)
        }
    }
}

/// The number of threads of this process.
///
/// # Errors
/// When `/proc` cannot be read: without it nothing here works.
pub fn threads() -> io::Result<u64> {
    let links = rustix::fs::stat("/proc/self/task")
        .map_err(|cause| {
            io::Error::other(format!("cannot count my threads in /proc/self/task: {cause}"))
        })?
        .st_nlink;
    Ok(links.saturating_sub(2))
}

/// Gives freed memory back to the kernel (malloc_trim(3)): every page that this process has touched
/// is paid for again at each fork, and decoding a large record leaves many that are free.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions; it only touches what nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ends this process at once (_exit(2)): no destructors, no exit handlers, no flushing.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Leaves the caller's session and terminal (setsid(2)); a leader of a process group stays.
pub fn new_session() {
    let _ = nix::unistd::setsid();
}

/// Closes every descriptor from 3 on but those in `keep` (close_range(2)).
pub fn keep_only(keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        close_between(first, fd - 1);
        first = fd + 1;
    }
    close_between(first, RawFd::MAX);
}

fn close_between(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: the callers own the whole process and never use the closed numbers again.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done != 0 {
        for fd in first..=last.min(65_536) {
            // SAFETY: as above; a number that is not open gives EBADF.
            unsafe { libc::close(fd) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        std::thread::scope(|scope| {
            let (go, stop) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || stop.recv());
            let refused = fork_child(|| leave(0)).unwrap_err().to_string();
            assert!(refused.contains("threads run, not 1"), "{refused}");
            drop(go);
        });
    }
}
