//! Becoming somebody else for good. The order holds: what needs root first, then groups, gid, uid
//! ("Setuid Demystified"), then the proof that there is no way back, and only then PDEATHSIG,
//! which a change of uid clears (prctl(2)).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Gid, Uid, getgroups, setgroups, setresgid, setresuid};
use rustix::process::{
    DumpableBehavior, Pid as RustixPid, Signal, child_subreaper, dumpable_behavior,
    parent_process_death_signal, set_child_subreaper, set_dumpable_behavior,
    set_parent_process_death_signal,
};

use super::account::Account;
use super::priorities::Priorities;
use super::{launcher, limits, priorities};

/// What a chain process becomes. Everything is a plain number: no name is looked up here.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    /// The account, with group and groups already as configured.
    pub account: &'a Account,
    /// How the kernel treats it.
    pub priorities: Priorities<'a>,
    /// By the name of setrlimit(2) without `RLIMIT_`: soft and hard, `None` is infinity. Here only
    /// hard limits are raised above the standard ones; a task gets both, see [`super::spawn`].
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
    limits::become_standard()?;
    for (name, (_, hard)) in identity.rlimits {
        limits::raise_hard(name, *hard)?;
    }
    priorities::set(&identity.priorities, is_root())?;
    launcher::forget_personality();
    super::stdio::set_umask(identity.umask);
    become_account(identity.account)?;
    if identity.no_new_privs {
        rustix::thread::set_no_new_privs(true)
            .map_err(|cause| format!("cannot set no_new_privs: {cause}"))?;
    }
    close_the_doors()?;
    let status = own_status()?;
    let umask = u32::from_str_radix(field(&status, "Umask:"), 8);
    if umask != Ok(identity.umask) {
        return Err(format!("cannot set umask to {:03o}: it did not change", identity.umask));
    }
    if identity.no_new_privs && field(&status, "NoNewPrivs:") != "1" {
        return Err("cannot set no_new_privs: it did not change".to_owned());
    }
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
    if parent_process_death_signal().ok().flatten() != Some(Signal::TERM) {
        return Err("cannot ask for a signal at the master's death: nothing changed".to_owned());
    }
    if nix::unistd::getppid().as_raw() != parent {
        return Err("cannot start: the master is gone".to_owned());
    }
    Ok(())
}

fn become_account(account: &Account) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let may = is_root();
    if may {
        launcher::forget_privileges()?;
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)
            .map_err(|e| format!("cannot set the groups of {}: {e}", account.name))?;
        setresgid(gid, gid, gid)
            .map_err(|e| format!("cannot become group {}: {e}", account.gid))?;
        setresuid(uid, uid, uid)
            .map_err(|e| format!("cannot become user {} ({}): {e}", account.name, account.uid))?;
        launcher::own_session_keyring();
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
    let status = own_status()?;
    for (key, id) in [("Uid:", account.uid), ("Gid:", account.gid)] {
        let ids = field(&status, key);
        if ids.is_empty() || ids.split_whitespace().any(|word| word.parse() != Ok(id)) {
            return wrong(key.trim_end_matches(':'));
        }
    }
    // CapInh, CapPrm, CapEff and CapAmb: what securebits(7) of a launcher may have kept.
    let kept = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
    if account.uid != 0 && kept.iter().any(|key| !field(&status, key).bytes().all(|b| b == b'0')) {
        return Err(format!("cannot become user {}: capabilities are left", account.name));
    }
    if account.uid != 0 {
        let root = Uid::from_raw(0);
        if setresuid(root, root, root).is_ok() {
            return Err(format!("cannot become user {} for good: root came back", account.name));
        }
    }
    Ok(())
}

fn own_status() -> Result<String, String> {
    std::fs::read_to_string("/proc/self/status")
        .map_err(|e| format!("cannot verify the drop in /proc/self/status: {e}"))
}

/// A line of proc_pid_status(5) without its name; empty if it is not there.
fn field<'s>(status: &'s str, key: &str) -> &'s str {
    status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim()
}

/// The chain's own user must not read this process: it was root and shares the master's memory.
fn close_the_doors() -> Result<(), String> {
    let cannot =
        |cause: &dyn std::fmt::Display| format!("cannot switch ptrace and core dumps off: {cause}");
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|cause| cannot(&cause))?;
    // A process's files in /proc are its own user's only while it is dumpable (proc(5)).
    let closed = is_root() || {
        let files = std::fs::metadata("/proc/self/stat").map_err(|cause| cannot(&cause))?;
        files.uid() != my_uid()
    };
    if !closed || dumpable_behavior().ok() != Some(DumpableBehavior::NotDumpable) {
        return Err(cannot(&"nothing changed"));
    }
    limits::no_core()
}

/// Becomes the reaper of orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// On kernels before 3.4.
pub fn become_subreaper() -> Result<(), String> {
    let cannot = |cause: &dyn std::fmt::Display| format!("cannot become a subreaper: {cause}");
    let pid = RustixPid::from_raw(nix::unistd::getpid().as_raw());
    set_child_subreaper(pid).map_err(|cause| cannot(&cause))?;
    match child_subreaper() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(cannot(&"nothing changed")),
        Err(cause) => Err(cannot(&cause)),
    }
}
