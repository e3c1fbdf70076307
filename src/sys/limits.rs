//! Resource limits (setrlimit(2)). A task's limits do not depend on who started the master, or
//! when: they are the ones that Linux gives its first process and systemd a service
//! (systemd.exec(5), systemd-system.conf(5)), but for what the configuration says.

use std::io;

use libc::rlimit;

const UNLIMITED: u64 = libc::RLIM_INFINITY;

/// A name, its resource and its limits.
type Standard = (&'static str, u32, Option<(u64, u64)>);

/// Every resource by its name without `RLIMIT_`, with the standard soft and hard limit. `None`:
/// half of what the kernel can hold, as it computed for its first process (fork.c's
/// max_threads / 2).
const STANDARD: [Standard; 16] = [
    ("AS", libc::RLIMIT_AS, Some((UNLIMITED, UNLIMITED))),
    ("CORE", libc::RLIMIT_CORE, Some((0, UNLIMITED))),
    ("CPU", libc::RLIMIT_CPU, Some((UNLIMITED, UNLIMITED))),
    ("DATA", libc::RLIMIT_DATA, Some((UNLIMITED, UNLIMITED))),
    ("FSIZE", libc::RLIMIT_FSIZE, Some((UNLIMITED, UNLIMITED))),
    ("LOCKS", libc::RLIMIT_LOCKS, Some((UNLIMITED, UNLIMITED))),
    ("MEMLOCK", libc::RLIMIT_MEMLOCK, Some((8 << 20, 8 << 20))),
    ("MSGQUEUE", libc::RLIMIT_MSGQUEUE, Some((819_200, 819_200))),
    ("NICE", libc::RLIMIT_NICE, Some((0, 0))),
    ("NOFILE", libc::RLIMIT_NOFILE, Some((1024, 524_288))),
    ("NPROC", libc::RLIMIT_NPROC, None),
    ("RSS", libc::RLIMIT_RSS, Some((UNLIMITED, UNLIMITED))),
    ("RTPRIO", libc::RLIMIT_RTPRIO, Some((0, 0))),
    ("RTTIME", libc::RLIMIT_RTTIME, Some((UNLIMITED, UNLIMITED))),
    ("SIGPENDING", libc::RLIMIT_SIGPENDING, None),
    ("STACK", libc::RLIMIT_STACK, Some((8 << 20, UNLIMITED))),
];

/// Gives this process the standard limits, read back. A hard limit that the launcher lowered stays
/// where it may not be raised (without CAP_SYS_RESOURCE, as in many containers).
///
/// # Errors
/// The first one that cannot be set, as "cannot VERB OBJECT: CAUSE".
pub fn become_standard() -> Result<(), String> {
    for (name, resource, said) in STANDARD {
        let Some((soft, hard)) = said.or_else(half_of_all_threads) else { continue };
        restore(resource, soft, hard)
            .map_err(|cause| format!("cannot set the limit {name}: {cause}"))?;
    }
    Ok(())
}

/// As [`become_standard`] for a master, as far as that can be: what the launcher was restricted to
/// must not end it. It holds a descriptor for each chain, so the soft limit of descriptors is the
/// hard one.
pub fn become_masters() {
    for (_, resource, said) in STANDARD {
        let Some((soft, hard)) = said.or_else(half_of_all_threads) else { continue };
        if resource != libc::RLIMIT_NOFILE {
            let _ = restore(resource, soft, hard);
            continue;
        }
        let Ok(now) = read(resource) else { continue };
        let most = now.rlim_max.max(hard);
        let _ = restore(resource, most, most);
    }
}

/// No core dumps of this process; the hard limit stays.
///
/// # Errors
/// As [`become_standard`].
pub(super) fn no_core() -> Result<(), String> {
    let off = || {
        let now = read(libc::RLIMIT_CORE)?;
        set(libc::RLIMIT_CORE, rlimit { rlim_cur: 0, rlim_max: now.rlim_max })
    };
    off().map_err(|cause: io::Error| format!("cannot switch core dumps off: {cause}"))
}

/// Raises the hard limit of `name` to `hard` (`None`: infinity) where it is lower: the soft one is
/// set in each task.
///
/// # Errors
/// As [`become_standard`].
pub fn raise_hard(name: &str, hard: Option<u64>) -> Result<(), String> {
    let resource = by_name(name)?;
    let wanted = hard.unwrap_or(UNLIMITED);
    let raise = || {
        let now = read(resource)?;
        if now.rlim_max >= wanted {
            return Ok(());
        }
        set(resource, rlimit { rlim_cur: now.rlim_cur, rlim_max: wanted })
    };
    raise().map_err(|cause: io::Error| format!("cannot raise the hard limit of {name}: {cause}"))
}

/// A task's limit as [`super::spawn::Image::limits`] wants it; `None` is infinity.
///
/// # Errors
/// For a name that setrlimit(2) does not know.
pub fn for_task(name: &str, soft: Option<u64>, hard: Option<u64>) -> Result<(u32, rlimit), String> {
    let value = |limit: Option<u64>| limit.unwrap_or(UNLIMITED);
    Ok((by_name(name)?, rlimit { rlim_cur: value(soft), rlim_max: value(hard) }))
}

fn by_name(name: &str) -> Result<u32, String> {
    STANDARD
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, resource, _)| *resource)
        .ok_or_else(|| format!("cannot set limit {name}: setrlimit(2) knows no such resource"))
}

fn half_of_all_threads() -> Option<(u64, u64)> {
    let all = std::fs::read_to_string("/proc/sys/kernel/threads-max").ok()?;
    let half = all.trim().parse::<u64>().ok()? / 2;
    Some((half, half))
}

fn restore(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let now = read(resource)?;
    if (now.rlim_cur, now.rlim_max) == (soft, hard) {
        return Ok(());
    }
    match set(resource, rlimit { rlim_cur: soft, rlim_max: hard }) {
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied && hard > now.rlim_max => {
            let most = now.rlim_max;
            set(resource, rlimit { rlim_cur: soft.min(most), rlim_max: most })
        }
        done => done,
    }
}

fn read(resource: u32) -> io::Result<rlimit> {
    // No kernel has a soft limit above the hard one: a call that wrote nothing is found out.
    let mut now = rlimit { rlim_cur: 1, rlim_max: 0 };
    // SAFETY: `now` outlives the call.
    if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if now.rlim_cur > now.rlim_max {
        return Err(io::Error::other("it cannot be read"));
    }
    Ok(now)
}

fn set(resource: u32, value: rlimit) -> io::Result<()> {
    // SAFETY: `value` outlives the call.
    if unsafe { libc::setrlimit(resource, &raw const value) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let now = read(resource)?;
    if (now.rlim_cur, now.rlim_max) == (value.rlim_cur, value.rlim_max) {
        return Ok(());
    }
    Err(io::Error::other("it did not change"))
}
