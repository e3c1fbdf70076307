//! How long to wait before a dead chain is started again: at once, then 1 s doubling to 60 s.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Counts the deaths since the last completed run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// One more death; the wait before the next start.
    pub fn next_delay(&mut self) -> Duration {
        let delay = match self.deaths {
            0 => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 1).min(6)).min(LONGEST),
        };
        self.deaths = self.deaths.saturating_add(1);
        delay
    }

    /// A run was completed: the chain works.
    pub fn reset(&mut self) {
        self.deaths = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_then_doubling_to_a_minute_until_a_run_completes() {
        let mut backoff = Backoff::default();
        let seconds: Vec<u64> = (0..10).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }
}
