//! Starting a program as cheaply as the kernel allows and with nothing of ours in it.
//!
//! clone(2) with CLONE_VM | CLONE_VFORK is what posix_spawn(3) does: the child borrows this
//! process's memory until it has called execve(2), so nothing is copied. It differs from
//! posix_spawn in that setsid, PDEATHSIG and limits come for free, that no disposition needs
//! resetting (this program never changes any, see [`super::signals`]), and that the step that
//! failed and its errno come back exactly.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use super::fork::Pid;

/// Bytes of stack for the child: it makes a dozen system calls.
const STACK: usize = 64 * 1024;

/// A program with everything that stays the same from run to run.
#[derive(Debug)]
pub struct Image {
    /// Where the program may lie, tried in this order as execvp(3) does.
    pub candidates: Vec<CString>,
    /// Its argument vector.
    pub argv: Vec<CString>,
    /// Its whole environment, `NAME=value`.
    pub envp: Vec<CString>,
    /// Its working folder.
    pub cwd: CString,
    /// The signal that it gets when this process dies; 0 for none.
    pub death_signal: i32,
    /// The limits that it gets; see [`super::limits::for_task`].
    pub limits: Vec<Limit>,
}

/// A resource, and its soft and hard limit.
pub type Limit = (u32, libc::rlimit);

/// Where a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// clone(2) itself: no process was made.
    Fork,
    /// The session or the death signal.
    Session,
    /// A limit.
    Limit,
    /// The working folder.
    Cwd,
    /// The descriptors.
    Descriptors,
    /// execve(2) of every candidate.
    Exec,
}

/// Why a program could not be started.
#[derive(Debug)]
pub struct Failure {
    /// Where.
    pub step: Step,
    /// The system's reason.
    pub cause: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Fork => "fork",
            Step::Session => "make a session",
            Step::Limit => "set a limit",
            Step::Cwd => "enter the working folder",
            Step::Descriptors => "set up its descriptors",
            Step::Exec => "execute it",
        };
        write!(f, "cannot {what}: {}", self.cause)
    }
}

/// What the child needs, laid out before it exists: it must not allocate.
struct Job {
    candidates: *const CString,
    candidate_count: usize,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    cwd: *const libc::c_char,
    fds: *const RawFd,
    fd_count: usize,
    limits: *const Limit,
    limit_count: usize,
    death_signal: i32,
    parent: Pid,
    step: AtomicI32,
    errno: AtomicI32,
}

/// Where a program may lie: itself if it names a path, else every folder of PATH (execvp(3)).
pub fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|folder| if folder.is_empty() { "." } else { folder })
        .map(|folder| format!("{folder}/{program}"))
        .collect()
}

/// Starts `image` with `fds` as its descriptors 0, 1, 2, … and no other: all of ours are
/// close-on-exec. It leads a session of its own, has an empty signal mask and default
/// dispositions, and inherits uid, gid, groups, umask and nice from the caller.
///
/// # Errors
/// The step that failed, with errno. No process is left then.
pub fn spawn(image: &Image, fds: &[BorrowedFd<'_>]) -> Result<Pid, Failure> {
    let argv = pointers(&image.argv);
    let envp = pointers(&image.envp);
    let descriptors: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let count = i32::try_from(descriptors.len()).unwrap_or(i32::MAX);
    if descriptors.iter().any(|fd| *fd < count) {
        // dup2 below would overwrite a source before it was used; see `reserve_low_descriptors`.
        let cause = io::Error::other("a descriptor below the reserved ones");
        return Err(Failure { step: Step::Descriptors, cause });
    }
    let job = Job {
        candidates: image.candidates.as_ptr(),
        candidate_count: image.candidates.len(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        cwd: image.cwd.as_ptr(),
        fds: descriptors.as_ptr(),
        fd_count: descriptors.len(),
        limits: image.limits.as_ptr(),
        limit_count: image.limits.len(),
        death_signal: image.death_signal,
        parent: nix::unistd::getpid().as_raw(),
        step: AtomicI32::new(0),
        errno: AtomicI32::new(0),
    };
    let mut stack = vec![0_u64; STACK / 8];
    // SAFETY: one past the end of the allocation; the stack grows down and 16-byte alignment is
    // the C library's own duty in clone(3).
    let top = unsafe { stack.as_mut_ptr().add(stack.len()) }.cast::<libc::c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: CLONE_VFORK suspends this thread until the child has executed or exited, so `job`,
    // `stack` and everything they point to outlive the child's use of them. `child` neither
    // allocates nor unwinds. All signals are blocked or have default dispositions: no handler
    // can run in the shared memory.
    let pid = unsafe { libc::clone(child, top, flags, (&raw const job).cast_mut().cast()) };
    if pid < 0 {
        return Err(Failure { step: Step::Fork, cause: io::Error::last_os_error() });
    }
    let errno = job.errno.load(Ordering::SeqCst);
    if errno == 0 {
        return Ok(pid);
    }
    reap_failed(pid);
    let step = match job.step.load(Ordering::SeqCst) {
        1 => Step::Session,
        2 => Step::Limit,
        3 => Step::Cwd,
        4 => Step::Descriptors,
        _ => Step::Exec,
    };
    Err(Failure { step, cause: io::Error::from_raw_os_error(errno) })
}

fn reap_failed(pid: Pid) {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// The child between clone and exec: system calls only, on memory that the suspended parent keeps.
extern "C" fn child(job: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a `Job` that outlives the child; it is only read, but for two atomics.
    let job = unsafe { &*job.cast::<Job>() };
    let fail = |step: i32| -> ! {
        let errno = errno();
        job.step.store(step, Ordering::SeqCst);
        job.errno.store(if errno == 0 { libc::EIO } else { errno }, Ordering::SeqCst);
        super::fork::leave(127)
    };
    // SAFETY: system calls with integers, and with pointers into the parent's live memory; the
    // slices are described by their own lengths.
    unsafe {
        // Each step is looked at once it is done: a call that says it succeeded and did nothing
        // (a broken sandbox) must not let the program run.
        if libc::setsid() < 0 || libc::getsid(0) != libc::getpid() {
            fail(1);
        }
        if job.death_signal != 0 {
            let mut told: libc::c_int = 0;
            if libc::prctl(libc::PR_SET_PDEATHSIG, job.death_signal) != 0
                || libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut told) != 0
                || told != job.death_signal
            {
                fail(1);
            }
            if libc::getppid() != job.parent {
                super::fork::leave(127);
            }
        }
        for (resource, value) in std::slice::from_raw_parts(job.limits, job.limit_count) {
            let mut told = libc::rlimit { rlim_cur: 1, rlim_max: 0 };
            if libc::setrlimit(*resource, value) != 0
                || libc::getrlimit(*resource, &raw mut told) != 0
                || (told.rlim_cur, told.rlim_max) != (value.rlim_cur, value.rlim_max)
            {
                fail(2);
            }
        }
        if !enter(job.cwd) {
            fail(3);
        }
        for (target, source) in (0..).zip(std::slice::from_raw_parts(job.fds, job.fd_count)) {
            if libc::dup2(*source, target) < 0 {
                fail(4);
            }
        }
        let mut empty: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut());
        // As execvp(3): a candidate that is not there is passed over; what was there but could
        // not be executed is remembered.
        let mut remembered = libc::ENOENT;
        for path in std::slice::from_raw_parts(job.candidates, job.candidate_count) {
            let path: &CStr = path;
            libc::execve(path.as_ptr(), job.argv, job.envp);
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => remembered = libc::EACCES,
                other => {
                    remembered = other;
                    break;
                }
            }
        }
        *libc::__errno_location() = remembered;
    }
    fail(5)
}

/// Makes `path` the working folder; false, with errno, if it is not.
///
/// # Safety
/// `path` is a C string.
unsafe fn enter(path: *const libc::c_char) -> bool {
    // SAFETY: `path` is a C string; the structures outlive the calls; the descriptor is ours alone
    // and closed here or by exec.
    unsafe {
        // Held while it is entered: at a deploy the path may name another folder a moment later.
        let folder = libc::open(path, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        if folder < 0 || libc::fchdir(folder) != 0 {
            return false;
        }
        let mut wanted: libc::stat = std::mem::zeroed();
        let mut now: libc::stat = std::mem::zeroed();
        let seen = libc::fstat(folder, &raw mut wanted) == 0
            && libc::stat(c".".as_ptr(), &raw mut now) == 0;
        libc::close(folder);
        seen && (wanted.st_dev, wanted.st_ino) == (now.st_dev, now.st_ino)
    }
}

fn errno() -> i32 {
    // SAFETY: the C library keeps one errno for the (only) thread.
    unsafe { *libc::__errno_location() }
}

/// Opens `/dev/null` on every number below `count` that is free, so that no descriptor of ours ever
/// gets a number that a task's descriptors are put on.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn reserve_low_descriptors(count: RawFd) -> io::Result<()> {
    loop {
        // SAFETY: a constant path; the new number is checked at once.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        if fd >= count {
            // SAFETY: just opened here, owned by nobody.
            unsafe { libc::close(fd) };
            return Ok(());
        }
        if fd < 3 {
            // The standard three are meant to be inherited.
            // SAFETY: just opened here.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        }
    }
}
