//! How the kernel treats a process among others: nice, I/O class, scheduler, CPUs, OOM score. Each
//! is set and read back: a call that says it succeeded and did nothing is an error like any other.
//!
//! What the configuration does not name gets the value of a fresh system, whatever the launcher
//! had: nice 0, no I/O class, SCHED_OTHER, every CPU that cpuset(7) allows, score 0.

use std::io;

use rustix::process::{getpriority_process, setpriority_process};

/// ioprio_set(2): IOPRIO_WHO_PROCESS.
const WHO_PROCESS: libc::c_int = 1;

/// The class of an I/O priority stands in its upper three bits.
const IO_CLASS: u16 = 13;

/// As many CPUs as a kernel is built for (CONFIG_NR_CPUS of x86-64), as bits.
const CPU_WORDS: usize = 8192 / 64;

/// How a process is treated; see [`super::privileges::Identity`].
#[derive(Debug, Clone)]
pub struct Priorities<'a> {
    /// setpriority(2), -20 to 19.
    pub nice: i32,
    /// The value of ioprio_set(2) (class << 13 | level); `None`: no class, it follows from nice.
    pub ioprio: Option<u16>,
    /// Policy and static priority of sched_setscheduler(2); `None`: SCHED_OTHER.
    pub scheduler: Option<(i32, i32)>,
    /// CPUs of sched_setaffinity(2); `None`: all.
    pub cpu_affinity: Option<&'a [u32]>,
    /// proc_pid_oom_score_adj(5).
    pub oom_score_adj: i32,
}

/// Sets all of them. `privileged`: whether this process may set any value; if not, what nobody
/// asked for stays as the launcher left it where the kernel insists.
///
/// # Errors
/// The first that cannot be set, as "cannot VERB OBJECT: CAUSE".
pub(super) fn set(wanted: &Priorities<'_>, privileged: bool) -> Result<(), String> {
    let settle = |done: io::Result<()>, asked: bool, what: &dyn Fn() -> String| match done {
        Err(cause) if !asked && !privileged && cause.kind() == io::ErrorKind::PermissionDenied => {
            Ok(())
        }
        Err(cause) => Err(format!("cannot set {}: {}", what(), super::error_text(&cause))),
        Ok(()) => Ok(()),
    };
    settle(set_nice(wanted.nice), wanted.nice != 0, &|| format!("nice to {}", wanted.nice))?;
    let ioprio = wanted.ioprio.unwrap_or(0);
    settle(set_ioprio(ioprio), wanted.ioprio.is_some(), &|| format!("ionice to {ioprio:#x}"))?;
    let (policy, priority) = wanted.scheduler.unwrap_or((libc::SCHED_OTHER, 0));
    settle(set_scheduler(policy, priority), wanted.scheduler.is_some(), &|| {
        format!("scheduler {policy} with priority {priority}")
    })?;
    match wanted.cpu_affinity {
        Some(cpus) => {
            settle(set_affinity(cpus), true, &|| format!("cpu_affinity to {cpus:?}"))?;
        }
        None => settle(set_cpus(&[u64::MAX; CPU_WORDS]), false, &|| "all CPUs".to_owned())?,
    }
    let score = wanted.oom_score_adj;
    settle(set_oom_score_adj(score), score != 0, &|| format!("oom_score_adj to {score}"))
}

fn unchanged() -> io::Error {
    io::Error::other("it did not change")
}

fn done(code: libc::c_long) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_nice(nice: i32) -> io::Result<()> {
    if getpriority_process(None)? == nice {
        return Ok(());
    }
    setpriority_process(None, nice)?;
    if getpriority_process(None)? == nice { Ok(()) } else { Err(unchanged()) }
}

fn set_ioprio(value: u16) -> io::Result<()> {
    // SAFETY: ioprio_set takes three integers and touches no memory.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, libc::c_int::from(value)) })?;
    // SAFETY: ioprio_get takes two integers and touches no memory.
    let now = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
    done(now)?;
    // Without a class the level means nothing, and kernels differ in what they tell.
    let same = match value >> IO_CLASS {
        0 => now >> IO_CLASS == 0,
        _ => now == libc::c_long::from(value),
    };
    if same { Ok(()) } else { Err(unchanged()) }
}

fn set_scheduler(policy: i32, priority: i32) -> io::Result<()> {
    // SAFETY: an all-zero sched_param is valid on every C library.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority;
    // SAFETY: `param` outlives the call.
    done(unsafe { libc::sched_setscheduler(0, policy, &raw const param) }.into())?;
    param.sched_priority = -1;
    // SAFETY: it takes an integer and touches no memory.
    let now = unsafe { libc::sched_getscheduler(0) };
    done(now.into())?;
    // SAFETY: `param` outlives the call.
    done(unsafe { libc::sched_getparam(0, &raw mut param) }.into())?;
    if (now, param.sched_priority) == (policy, priority) { Ok(()) } else { Err(unchanged()) }
}

fn set_affinity(cpus: &[u32]) -> io::Result<()> {
    let mut wanted = [0_u64; CPU_WORDS];
    for cpu in cpus {
        let word = usize::try_from(*cpu / 64).unwrap_or(usize::MAX);
        let word = wanted.get_mut(word).ok_or_else(|| io::Error::other("no such CPU"))?;
        *word |= 1 << (*cpu % 64);
    }
    set_cpus(&wanted)?;
    let mut now = [0_u64; CPU_WORDS];
    // SAFETY: the kernel writes at most the size that it is told.
    done(unsafe { libc::sched_getaffinity(0, size_of_val(&now), now.as_mut_ptr().cast()) }.into())?;
    // What this machine has not, or cpuset(7) refuses, the kernel leaves out without a word.
    let within = now.iter().zip(&wanted).all(|(now, wanted)| now & !wanted == 0);
    let some = now.iter().any(|word| *word != 0);
    if within && some { Ok(()) } else { Err(unchanged()) }
}

fn set_cpus(cpus: &[u64; CPU_WORDS]) -> io::Result<()> {
    // SAFETY: the kernel reads at most the size that it is told.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(cpus), cpus.as_ptr().cast()) }.into())
}

fn set_oom_score_adj(wanted: i32) -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    let read = || -> io::Result<i32> {
        let text = std::fs::read_to_string(path)?;
        text.trim().parse().map_err(|_| io::Error::other("it cannot be read"))
    };
    let now = read()?;
    if now == wanted {
        return Ok(());
    }
    match std::fs::write(path, wanted.to_string()) {
        // Lowering it needs CAP_SYS_RESOURCE, which a container's root often lacks: who asked for
        // nothing is ended a bit sooner than others then, never later.
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied && wanted == 0 && now > 0 => {
            return Ok(());
        }
        written => written?,
    }
    if read()? == wanted { Ok(()) } else { Err(unchanged()) }
}
