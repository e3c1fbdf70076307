//! What the kernel's OOM killer did, by its own counts: in the control group that this process is in
//! (`memory.events` of cgroups(7) version 2, `memory.oom_control` of version 1) and on the whole
//! machine (`oom_kill` of `/proc/vmstat`, proc_vmstat(5)).

use std::fs;

use super::cgroup::{mount_of, own_path};

/// Counts of processes that were killed for want of memory, since a group or the machine began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kills {
    /// In the nearest group with a memory controller. `None`: there is none that can be read.
    group: Option<u64>,
    /// On this machine. `None`: the kernel does not count (before 4.13).
    machine: Option<u64>,
}

/// What a second look shows beside a first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So many in the group.
    InGroup(u64),
    /// None in the group as far as that is known, so many on the machine.
    OnMachine(u64),
    /// None at all.
    None,
    /// Nobody counts.
    Unknown,
}

impl Kills {
    /// As of now. Takes a tenth of a millisecond: not for every run.
    pub fn now() -> Kills {
        let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|cgroup| {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
            in_group(&cgroup, &mountinfo)
        });
        let machine = fs::read_to_string("/proc/vmstat").ok();
        Kills { group, machine: machine.and_then(|text| count(&text)) }
    }

    /// What came after `earlier`. A process that moved to another group finds other counts there,
    /// which may be lower.
    pub fn since(&self, earlier: &Kills) -> Since {
        let more = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        let machine = more(self.machine, earlier.machine);
        match (more(self.group, earlier.group), machine) {
            // A group's kills are the machine's, too: else it is another group's old count.
            (Some(kills), None | Some(1..)) if kills > 0 => {
                Since::InGroup(kills.min(machine.unwrap_or(kills)))
            }
            (_, Some(0)) => Since::None,
            (_, Some(kills)) => Since::OnMachine(kills),
            (Some(_), None) => Since::None,
            (None, None) => Since::Unknown,
        }
    }
}

/// The line `oom_kill N`, which all three files have.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn in_group(cgroup: &str, mountinfo: &str) -> Option<u64> {
    let two = || {
        let mount = mount_of(mountinfo, "cgroup2", None)?;
        let own = mount.join(own_path(cgroup)?.trim_start_matches('/'));
        // Only some groups have the controller; a group's events are those of all below it.
        own.ancestors()
            .take_while(|group| group.starts_with(&mount))
            .find_map(|group| count(&fs::read_to_string(group.join("memory.events")).ok()?))
    };
    let one = || {
        let mount = mount_of(mountinfo, "cgroup", Some("memory"))?;
        let own = cgroup.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|one| one == "memory").then_some(path)
        })?;
        let group = mount.join(own.trim_start_matches('/'));
        count(&fs::read_to_string(group.join("memory.oom_control")).ok()?)
    };
    two().or_else(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kills(group: Option<u64>, machine: Option<u64>) -> Kills {
        Kills { group, machine }
    }

    #[test]
    fn a_groups_own_count_says_more_than_the_machines_and_never_more_than_that() {
        let before = kills(Some(3), Some(10));
        assert_eq!(kills(Some(4), Some(12)).since(&before), Since::InGroup(1));
        assert_eq!(kills(Some(3), Some(12)).since(&before), Since::OnMachine(2));
        assert_eq!(kills(None, Some(12)).since(&before), Since::OnMachine(2));
        assert_eq!(kills(Some(3), Some(10)).since(&before), Since::None);
        // Moved to a group with an old count.
        assert_eq!(kills(Some(90), Some(10)).since(&before), Since::None);
        assert_eq!(kills(Some(90), Some(11)).since(&before), Since::InGroup(1));
        assert_eq!(kills(None, None).since(&before), Since::Unknown);
    }

    #[test]
    fn the_line_of_each_file_is_found() {
        assert_eq!(count("low 0\noom 5\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count("low 0\n"), None);
    }
}
