//! Signals are never handled asynchronously here: every process of ours keeps the signals it cares
//! for blocked, with their default dispositions, and reads them from a signalfd(2). So nothing
//! runs inside a handler, a forked child inherits no delivery of its parent's, and neither fork
//! nor exec has a gap in which a signal is lost: a blocked signal stays pending (signal(7)).
//!
//! What means a broken process (SIGSEGV, SIGABRT, …) stays unblocked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Numbers of signal(7) that this program sends or waits for.
pub use libc::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1};

/// One signal that was sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number (signal(7)).
    pub number: i32,
    /// Whether the kernel itself sent it (`SI_KERNEL`), as it does when a terminal goes away.
    pub from_kernel: bool,
    /// The process that sent it; 0 for the kernel.
    pub sender: i32,
}

/// Gives every signal its default disposition, whatever the launcher ignored (nohup(1), a Rust
/// runtime that ignores SIGPIPE): what runs below us must not inherit it.
pub fn reset_dispositions() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition for every signal; for SIGKILL, SIGSTOP and the
        // two that the C library keeps for itself the call fails and changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // The C library's wrapper refuses 32 and 33; a launcher made with posix_spawn may have left
    // them ignored.
    for number in [32, 33] {
        let default = [0_u64; 4];
        // SAFETY: an all-zero kernel sigaction is SIG_DFL without flags; 8 is the kernel's
        // sigset size.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8_usize,
            )
        };
    }
}

/// Blocks every signal but those that mean a broken process.
pub fn block() {
    let mut mask = SigSet::all();
    for fatal in [
        Signal::SIGABRT,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGSEGV,
        Signal::SIGSYS,
        Signal::SIGTRAP,
    ] {
        mask.remove(fatal);
    }
    // It only fails for a wrong `how`.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
}

/// Unblocks everything: for a child that is about to run somebody else's code.
pub fn unblock() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// The signals of this process, as a descriptor to poll.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Delivery for HUP, INT, QUIT, TERM, USR1, USR2 and CHLD.
    ///
    /// # Errors
    /// When the descriptor cannot be made (EMFILE, ENFILE).
    pub fn new() -> io::Result<Signals> {
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGCHLD,
        ] {
            mask.add(signal);
        }
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals(fd))
    }

    /// The next signal that waits; `None`: no more now. Several of one kind may come as one.
    ///
    /// # Errors
    /// When the descriptor is broken.
    pub fn read(&self) -> io::Result<Option<Received>> {
        loop {
            match self.0.read_signal() {
                Ok(None) => return Ok(None),
                Ok(Some(info)) => {
                    return Ok(Some(Received {
                        number: i32::try_from(info.ssi_signo).unwrap_or(0),
                        from_kernel: info.ssi_code == libc::SI_KERNEL,
                        sender: i32::try_from(info.ssi_pid).unwrap_or(0),
                    }));
                }
                Err(Errno::EINTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether one of these blocked signals waits for this process (sigpending(2)).
pub fn is_pending(numbers: &[i32]) -> bool {
    // SAFETY: both calls only write into and read from the set that is given to them.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigpending(&raw mut set) == 0
            && numbers.iter().any(|number| libc::sigismember(&raw const set, *number) == 1)
    }
}

/// Sends a signal to this process: blocked, it waits for its own [`Signals`].
pub fn raise(number: i32) {
    // SAFETY: kill takes two integers, and the process is this one.
    unsafe { libc::kill(libc::getpid(), number) };
}

/// The name of a signal for people ("SIGTERM"), or its number.
pub fn name(number: i32) -> String {
    signal_hook::low_level::signal_name(number)
        .map_or_else(|| format!("signal {number}"), str::to_owned)
}
