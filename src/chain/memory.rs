//! Whether a run that was killed from outside was killed by the kernel for want of memory. The
//! kernel tells nobody, but it counts.

use std::time::Duration;

use crate::policy::fingerprint::Finding;
use crate::policy::safe;
use crate::sys::oom::{Kills, Since};
use crate::wire::outcome::Outcome;
use crate::wire::report::MAX_MESSAGE;

/// A look costs as much as a short run, so it is not taken at each: what the kernel killed so
/// shortly before a run counts as killed in it.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a shell exits with when its command was killed.
const SHELL_SAYS_KILLED: u8 = 128 + 9;

/// The last look; none before the first run: a chain that goes on with its pause does not need one.
#[derive(Default)]
pub(super) struct Memory(Option<(Kills, Duration)>);

impl Memory {
    /// A run begins. `now` is CLOCK_MONOTONIC here as below.
    pub(super) fn before_run(&mut self, now: Duration) {
        if self.0.is_none_or(|(_, at)| now.saturating_sub(at) >= LOOK_EVERY) {
            self.0 = Some((Kills::now(), now));
        }
    }

    /// A run failed, not ended by us: says so in its message if it was for want of memory. It stays
    /// the same fault, since nobody knows for sure.
    pub(super) fn explain(&mut self, outcome: &Outcome, finding: &mut Finding, now: Duration) {
        if !matches!(outcome, Outcome::Signal(9) | Outcome::Exit(SHELL_SAYS_KILLED)) {
            return;
        }
        let kills = Kills::now();
        let Some((before, _)) = self.0.replace((kills, now)) else { return };
        let why = match kills.since(&before) {
            Since::InGroup(_) => "killed by the kernel for want of memory",
            Since::OnMachine(_) => "likely killed by the kernel for want of memory",
            Since::Unknown => "perhaps killed by the kernel for want of memory",
            Since::None => return,
        };
        finding.message = safe::line(&format!("{why}: {}", finding.message), MAX_MESSAGE);
    }
}
