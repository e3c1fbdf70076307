//! The marks in the environment of whatever a chain runs: how its processes are known where nothing
//! better is. A user can forge them and a program can drop them, so they are looked for with the
//! chain's own rights, and what they find is a help and no proof.

use crate::sys::fork::Pid;
use crate::sys::proc;

/// What a chain's processes carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks<'a> {
    /// The chain's name.
    pub(crate) chain: &'a str,
    /// The name of its run_root among others.
    pub(crate) instance: &'a str,
    /// The user that it runs as.
    pub(crate) uid: u32,
}

impl Marks<'_> {
    /// Whether a process of that user carries them.
    pub(crate) fn are_on(&self, pid: Pid) -> bool {
        let mark = |name: &str| proc::environment_value(pid, name);
        proc::uid_of(pid) == Some(self.uid)
            && mark("RUNNER_CHAIN").is_some_and(|chain| chain == self.chain)
            && mark("RUNNER_INSTANCE").is_some_and(|instance| instance == self.instance)
    }
}
