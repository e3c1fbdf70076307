//! A control group of its own for each chain (cgroups(7), version 2), where that can be made: the
//! one thing that finds whatever a chain started, whatever it calls itself and whoever adopted it.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fork::Pid;
use super::pidfd::PidFd;
use super::proc;
use super::signals::SIGKILL;

/// Processes that are held at the same time.
const MOST_HELD: usize = 1000;

/// The folder below which our groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot(PathBuf);

impl CgroupRoot {
    /// Finds a version 2 hierarchy below which this process may make groups, for the instance
    /// called `instance` (a safe file name). `None`: there is none; strays are then found by
    /// subreaper and marks alone.
    ///
    /// The group lies below the one this process is in, so that a unit's limits go on to hold and
    /// systemd finds everything (Delegate= of systemd.resource-control(5)).
    pub fn find(instance: &str) -> Option<CgroupRoot> {
        let mount = mount_of(&fs::read_to_string("/proc/self/mountinfo").ok()?, "cgroup2", None)?;
        let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own_path(&cgroup)?;
        let below = mount.join(own.trim_start_matches('/'));
        let root = CgroupRoot(below.join(format!("runner-{instance}")));
        root.try_it().ok()?;
        Some(root)
    }

    /// As [`CgroupRoot::find`] said it earlier, handed over an upgrade.
    pub fn at(path: PathBuf) -> CgroupRoot {
        CgroupRoot(path)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn try_it(&self) -> io::Result<()> {
        make(&self.0)?;
        let probe = self.0.join(".probe");
        make(&probe)?;
        let usable = fs::OpenOptions::new().write(true).open(probe.join("cgroup.kill")).map(drop);
        fs::remove_dir(&probe)?;
        usable
    }

    /// The group of a chain, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made (a limit on groups).
    pub fn group(&self, chain: &str) -> io::Result<Cgroup> {
        let path = self.0.join(format!("chain-{chain}"));
        make(&path)?;
        Ok(Cgroup(path))
    }

    /// The group of a chain if it exists.
    pub fn existing(&self, chain: &str) -> Option<Cgroup> {
        let path = self.0.join(format!("chain-{chain}"));
        path.is_dir().then_some(Cgroup(path))
    }

    /// The names of all chains that have a group here.
    pub fn chains(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        entries
            .filter_map(|entry| {
                Some(entry.ok()?.file_name().to_str()?.strip_prefix("chain-")?.to_owned())
            })
            .collect()
    }

    /// Whether a process is in one of these groups.
    pub fn holds(&self, pid: Pid) -> bool {
        self.chain_of(pid).is_some()
    }

    /// The chain in whose group a process is.
    pub fn chain_of(&self, pid: Pid) -> Option<String> {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mut parts = own_path(&cgroup)?.split('/');
        let name = self.0.file_name()?.to_str()?;
        parts.find(|part| *part == name)?;
        Some(parts.next()?.strip_prefix("chain-")?.to_owned())
    }

    /// Takes the folder away with its empty groups, if nothing is in it; whether it is gone.
    pub fn remove(&self) -> bool {
        for chain in self.chains() {
            let _ = fs::remove_dir(self.0.join(format!("chain-{chain}")));
        }
        fs::remove_dir(&self.0).is_ok() || !self.0.exists()
    }
}

/// One chain's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Moves the calling process into the group; its future children are born there.
    ///
    /// # Errors
    /// When the group is gone or not ours.
    pub fn enter(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }

    /// Whether any process is in it or below. An unreadable group counts as empty.
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Whether any process but `spared` and what descends from those is in it or below.
    pub fn is_populated_but(&self, spared: &BTreeSet<Pid>) -> bool {
        self.is_populated() && (spared.is_empty() || !self.processes_but(spared).is_empty())
    }

    /// Every process in it or below.
    pub fn processes(&self) -> HashSet<Pid> {
        let mut found = HashSet::new();
        list(&self.0, &mut found);
        found
    }

    fn processes_but(&self, spared: &BTreeSet<Pid>) -> HashSet<Pid> {
        let mut found = self.processes();
        for pid in proc::with_descendants(spared) {
            found.remove(&pid);
        }
        found
    }

    /// Sends a signal to everything in it and below but `spared` and what descends from those.
    pub fn signal_but(&self, spared: &BTreeSet<Pid>, signal: i32) {
        let processes: Vec<Pid> = self.processes_but(spared).into_iter().collect();
        for some in processes.chunks(MOST_HELD) {
            let held: Vec<(Pid, PidFd)> =
                some.iter().filter_map(|pid| Some((*pid, PidFd::open(*pid).ok()??))).collect();
            // Held first, then looked at again: it is in the group, or it is not the one we saw.
            let still = self.processes();
            for (pid, held) in held {
                if still.contains(&pid) {
                    let _ = held.signal(signal);
                }
            }
        }
    }

    /// Kills everything in it and below but `spared` and what descends from those: at once if
    /// nothing is spared and the kernel can, else whom one look finds.
    pub fn kill_but(&self, spared: &BTreeSet<Pid>) {
        if !spared.is_empty() || self.kill().is_err() {
            self.signal_but(spared, SIGKILL);
        }
    }

    /// Kills everything in it and below at once (`cgroup.kill`, SIGKILL); a fork bomb cannot
    /// outrun it.
    ///
    /// # Errors
    /// On kernels before 5.14, or when the group is gone.
    fn kill(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")
    }

    /// Takes the group away if it is empty.
    ///
    /// # Errors
    /// When something is still in it (EBUSY).
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.0)
    }
}

fn list(group: &Path, found: &mut HashSet<Pid>) {
    let here = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(here.lines().filter_map(|line| line.parse::<Pid>().ok()));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
        _ => Ok(()),
    }
}

/// Where a hierarchy is mounted: its kind, and for version 1 the controller (proc_pid_mountinfo(5)).
pub(super) fn mount_of(mountinfo: &str, kind: &str, controller: Option<&str>) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let is_kind = after.next() == Some(kind);
        let options = after.nth(1).unwrap_or_default();
        let has = controller.is_none_or(|name| options.split(',').any(|one| one == name));
        (is_kind && has).then(|| PathBuf::from(point))
    })
}

/// The path of this process in that hierarchy: the line `0::PATH` of `/proc/self/cgroup`.
pub(super) fn own_path(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_of_each_version_beside_the_other() {
        let mountinfo = "29 28 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         30 28 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         40 28 0:36 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let at = |kind, controller| mount_of(mountinfo, kind, controller);
        assert_eq!(at("cgroup2", None), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(at("cgroup", Some("memory")), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(at("cgroup", Some("pids")), None);
        assert_eq!(own_path("4:cpu:/x\n0::/user.slice\n"), Some("/user.slice"));
        assert_eq!(mount_of("1 2 0:3 / / rw - ext4 /dev/sda rw\n", "cgroup2", None), None);
    }
}
