//! Becoming somebody else for good. The order holds: what needs root first, then groups, gid, uid
//! ("Setuid Demystified"), then the proof that there is no way back, and only then PDEATHSIG,
//! which a change of uid clears (prctl(2)).

use std::collections::BTreeMap;
use std::io;

use nix::unistd::{Gid, Uid, getgroups, setgroups, setresgid, setresuid};
use rustix::process::{
    DumpableBehavior, Pid as RustixPid, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setpriority_process, setrlimit,
};

use super::account::Account;

/// What a chain process becomes. Everything is a plain number: no name is looked up here.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    /// The account, with group and groups already as configured.
    pub account: &'a Account,
    /// setpriority(2), -20 to 19.
    pub nice: i32,
    /// The value of ioprio_set(2) (class << 13 | level).
    pub ioprio: Option<u16>,
    /// Policy and static priority of sched_setscheduler(2).
    pub scheduler: Option<(i32, i32)>,
    /// CPUs of sched_setaffinity(2).
    pub cpu_affinity: Option<&'a [u32]>,
    /// proc_pid_oom_score_adj(5).
    pub oom_score_adj: i32,
    /// By the name of setrlimit(2) without `RLIMIT_`: soft and hard, `None` is infinity. Here only
    /// hard limits are raised; a task gets both, see [`super::spawn`].
    pub rlimits: &'a BTreeMap<String, (Option<u64>, Option<u64>)>,
    /// File mode creation mask.
    pub umask: u32,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
}

/// Drops to `identity`, verified, with core dumps and ptrace off and SIGTERM at the parent's death.
///
/// # Errors
/// The first step that failed, as "cannot VERB OBJECT: CAUSE". The caller must leave then: it may
/// be half way.
pub fn drop_privileges(identity: &Identity<'_>, parent: i32) -> Result<(), String> {
    for (name, (_, hard)) in identity.rlimits {
        raise_hard_limit(name, *hard)?;
    }
    set_nice(identity.nice)?;
    if let Some(ioprio) = identity.ioprio {
        set_ioprio(ioprio)?;
    }
    if let Some((policy, priority)) = identity.scheduler {
        set_scheduler(policy, priority)?;
    }
    if let Some(cpus) = identity.cpu_affinity {
        set_affinity(cpus)?;
    }
    set_oom_score_adj(identity.oom_score_adj)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(identity.umask));
    become_account(identity.account)?;
    if identity.no_new_privs {
        rustix::thread::set_no_new_privs(true)
            .map_err(|cause| format!("cannot set no_new_privs: {cause}"))?;
    }
    close_the_doors()?;
    die_with_parent(parent)
}

/// Groups, gid and uid, with the proof; nothing else. For the mailer, the logger and the checker,
/// which have no chain's settings.
///
/// # Errors
/// As [`drop_privileges`].
pub fn drop_to(account: &Account) -> Result<(), String> {
    become_account(account)?;
    close_the_doors()
}

/// Whether this process may become anybody.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Raises the soft limit of descriptors to the hard one: a master holds one for each chain.
/// Returns the soft limit that was, which chains get back; `None`: infinity.
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    limit.current
}

/// Sets the soft limit of descriptors.
pub fn set_descriptor_limit(soft: Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: soft, maximum: limit.maximum });
}

/// The effective user id of this process.
pub fn my_uid() -> u32 {
    Uid::effective().as_raw()
}

/// SIGTERM when the parent dies (prctl(2), PR_SET_PDEATHSIG); fails if it is dead already.
///
/// # Errors
/// When the parent is not `parent` any more.
pub fn die_with_parent(parent: i32) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|cause| format!("cannot ask for a signal at the master's death: {cause}"))?;
    if nix::unistd::getppid().as_raw() != parent {
        return Err("cannot start: the master is gone".to_owned());
    }
    Ok(())
}

fn become_account(account: &Account) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let may = is_root();
    if may {
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)
            .map_err(|e| format!("cannot set the groups of {}: {e}", account.name))?;
        setresgid(gid, gid, gid)
            .map_err(|e| format!("cannot become group {}: {e}", account.gid))?;
        setresuid(uid, uid, uid)
            .map_err(|e| format!("cannot become user {} ({}): {e}", account.name, account.uid))?;
    }
    verify(account, may)
}

/// A system call may lie (a broken sandbox, an injected fault): believe only what can be read back.
fn verify(account: &Account, dropped: bool) -> Result<(), String> {
    let wrong =
        |what: &str| Err(format!("cannot become user {}: {what} did not change", account.name));
    let uids = nix::unistd::getresuid().map_err(|e| format!("cannot read my user ids: {e}"))?;
    let gids = nix::unistd::getresgid().map_err(|e| format!("cannot read my group ids: {e}"))?;
    if [uids.real, uids.effective, uids.saved].iter().any(|id| id.as_raw() != account.uid) {
        return wrong("the user id");
    }
    if !dropped {
        return Ok(());
    }
    if [gids.real, gids.effective, gids.saved].iter().any(|id| id.as_raw() != account.gid) {
        return wrong("the group id");
    }
    let mut groups: Vec<u32> = getgroups()
        .map_err(|e| format!("cannot read my groups: {e}"))?
        .into_iter()
        .map(Gid::as_raw)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let mut wanted = account.groups.clone();
    wanted.sort_unstable();
    wanted.dedup();
    if groups != wanted {
        return wrong("the list of groups");
    }
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| format!("cannot verify the drop in /proc/self/status: {e}"))?;
    for (key, id) in [("Uid:", account.uid), ("Gid:", account.gid)] {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        let all = line.split_whitespace().skip(1).all(|word| word.parse() == Ok(id));
        if !all || line.is_empty() {
            return wrong(key.trim_end_matches(':'));
        }
    }
    if account.uid != 0 {
        let root = Uid::from_raw(0);
        if setresuid(root, root, root).is_ok() {
            return Err(format!("cannot become user {} for good: root came back", account.name));
        }
    }
    Ok(())
}

/// The chain's own user must not read this process: it was root and shares the master's memory.
fn close_the_doors() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|cause| format!("cannot switch ptrace and core dumps off: {cause}"))?;
    let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    setrlimit(Resource::Core, none).map_err(|cause| format!("cannot set RLIMIT_CORE: {cause}"))
}

fn set_nice(nice: i32) -> Result<(), String> {
    let now = rustix::process::getpriority_process(None).unwrap_or(0);
    if now == nice {
        return Ok(());
    }
    match setpriority_process(None, nice) {
        // A normal user who started the master under nice(1) and asks for nothing keeps that.
        Err(rustix::io::Errno::ACCESS) if nice == 0 && !is_root() => Ok(()),
        Err(cause) => Err(format!("cannot set nice to {nice}: {cause}")),
        Ok(()) => match rustix::process::getpriority_process(None) {
            Ok(now) if now == nice => Ok(()),
            _ => Err(format!("cannot set nice to {nice}: it did not change")),
        },
    }
}

fn set_ioprio(value: u16) -> Result<(), String> {
    // IOPRIO_WHO_PROCESS
    let who = 1;
    // SAFETY: ioprio_set takes three integers and touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, who, 0, libc::c_int::from(value)) };
    check(done == 0, || format!("cannot set ionice to {value:#x}"))
}

fn set_scheduler(policy: i32, priority: i32) -> Result<(), String> {
    // SAFETY: an all-zero sched_param is valid on every C library.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority;
    // SAFETY: `param` outlives the call.
    let done = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    check(done == 0, || format!("cannot set scheduler {policy} with priority {priority}"))
}

fn set_affinity(cpus: &[u32]) -> Result<(), String> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus {
        let cpu_index = usize::try_from(*cpu).unwrap_or(usize::MAX);
        set.set(cpu_index).map_err(|e| format!("cannot use CPU {cpu}: {e}"))?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
        .map_err(|e| format!("cannot set cpu_affinity to {cpus:?}: {e}"))
}

fn set_oom_score_adj(wanted: i32) -> Result<(), String> {
    let path = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(path).unwrap_or_default();
    if now.trim() == wanted.to_string() {
        return Ok(());
    }
    match std::fs::write(path, wanted.to_string()) {
        // Lowering needs CAP_SYS_RESOURCE; who asked for nothing keeps what the launcher gave.
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied && wanted == 0 => Ok(()),
        Err(cause) => Err(format!("cannot set oom_score_adj to {wanted}: {cause}")),
        Ok(()) => Ok(()),
    }
}

fn raise_hard_limit(name: &str, hard: Option<u64>) -> Result<(), String> {
    let resource = resource(name)?;
    let now = getrlimit(resource);
    let higher = match (now.maximum, hard) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(now), Some(wanted)) => wanted > now,
    };
    if !higher {
        return Ok(());
    }
    setrlimit(resource, Rlimit { current: now.current, maximum: hard })
        .map_err(|cause| format!("cannot raise the hard limit of {name}: {cause}"))
}

/// The resource of setrlimit(2) that `name` means.
///
/// # Errors
/// For a name that is none.
pub(super) fn resource(name: &str) -> Result<Resource, String> {
    Ok(match name {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return Err(format!("cannot set limit {name}: setrlimit(2) knows no such resource")),
    })
}

fn check(done: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if done { Ok(()) } else { Err(format!("{}: {}", what(), io::Error::last_os_error())) }
}

/// Becomes the reaper of orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// On kernels before 3.4.
pub fn become_subreaper() -> Result<(), String> {
    let pid = RustixPid::from_raw(nix::unistd::getpid().as_raw());
    rustix::process::set_child_subreaper(pid)
        .map_err(|cause| format!("cannot become a subreaper: {cause}"))
}
