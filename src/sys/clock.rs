//! The clocks, as plain milliseconds.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_BOOTTIME (clock_gettime(2)): counts suspend, is never set back.
pub fn boottime_ms() -> i64 {
    millis(ClockId::Boottime)
}

/// CLOCK_MONOTONIC (clock_gettime(2)): stands still during suspend, is never set back.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// CLOCK_MONOTONIC in microseconds, as sd_notify(3)'s MONOTONIC_USEC wants it.
pub fn monotonic_us() -> u64 {
    u64::try_from(monotonic().as_micros()).unwrap_or(0)
}

/// Milliseconds since 1970 of the wall clock.
pub fn wall_ms() -> u64 {
    u64::try_from(millis(ClockId::Realtime)).unwrap_or(0)
}

/// The identity of this boot (random(4), `/proc/sys/kernel/random/boot_id`); empty if unreadable.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn millis(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}
