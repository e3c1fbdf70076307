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

/// A clock tick, the unit of times in `/proc` (times(2), USER_HZ): a hundredth of a second wherever this
/// program runs.
pub const TICK: Duration = Duration::from_millis(10);

/// Now as `/proc/PID/stat` says when a process started: whole ticks of CLOCK_BOOTTIME.
pub fn ticks() -> u64 {
    u64::try_from(boottime_ms()).unwrap_or(0) / 10
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

/// What makes a time of [`boottime_ms`] comparable with another one: the boot and, in a time namespace
/// (time_namespaces(7)), how far its clock is set off. Without one it is [`boot_id`].
pub fn boot_clock_id() -> String {
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    clock_id(boot_id(), &offsets)
}

fn clock_id(boot: String, offsets: &str) -> String {
    let of_boottime = offsets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "boottime").then_some((words.next()?, words.next()?))
    });
    match of_boottime {
        None | Some(("0", "0")) => boot,
        Some((seconds, nanoseconds)) => format!("{boot}+{seconds}.{nanoseconds}"),
    }
}

fn millis(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::clock_id;

    #[test]
    fn a_clock_that_is_set_off_is_another_one() {
        let id = |offsets: &str| clock_id("boot".to_owned(), offsets);
        assert_eq!(id(""), "boot");
        assert_eq!(
            id("monotonic           7         0\nboottime            0         0\n"),
            "boot"
        );
        let year = "monotonic           0         0\nboottime     31536000         0\n";
        assert_eq!(id(year), "boot+31536000.0");
        assert_eq!(id("boottime -1 500\n"), "boot+-1.500");
    }
}
