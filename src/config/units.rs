//! Durations, sizes, signals and limits as people write them.

use std::time::Duration;

use super::problem::quoted;

/// Longer than any pause: what is above is a slip of a zero, and arithmetic stays safe.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A duration such as "90s" or "1h 30m".
///
/// # Errors
/// What is wrong, and what may have been meant.
pub(crate) fn duration(text: &str) -> Result<Duration, (String, Option<String>)> {
    let plain = text.trim();
    if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit()) {
        return Err(no_unit(plain));
    }
    let example = || match meant(plain) {
        Some(duration) => Some(format!("write \"{duration}\"")),
        None if plain.contains('*') => {
            Some("no times of day here, but the pause after a run, as in \"5m\"".to_owned())
        }
        None => Some("durations are written \"90s\", \"1h 30m\", \"500ms\"".to_owned()),
    };
    if plain.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(("a duration cannot be negative".to_owned(), None));
    }
    match humantime::parse_duration(plain) {
        Ok(duration) if duration > LONGEST => {
            Err(("this duration is longer than 100 years".to_owned(), None))
        }
        Ok(duration) => Ok(duration),
        Err(_) if plain.is_empty() => Err(("this duration is empty".to_owned(), example())),
        Err(error) => Err((format!("this is no duration: {}", because(plain, &error)), example())),
    }
}

/// Why humantime does not take a text.
fn because(text: &str, error: &humantime::DurationError) -> String {
    use humantime::DurationError::{InvalidCharacter, NumberExpected, NumberOverflow, UnknownUnit};
    let at = |place: usize| text.get(place..).unwrap_or_default();
    let word = |place| at(place).split_whitespace().next().unwrap_or_default();
    match error {
        InvalidCharacter(place) => {
            let c: String = at(*place).chars().take(1).collect();
            format!("{} has no place in it", quoted(&c))
        }
        NumberExpected(place) => format!("a number is missing before {}", quoted(word(*place))),
        UnknownUnit { unit, .. } if unit.is_empty() => "a number in it has no unit".to_owned(),
        UnknownUnit { unit, .. } => format!("there is no unit of time {}", quoted(unit)),
        NumberOverflow => "the number is too large".to_owned(),
        other => other.to_string(),
    }
}

/// The duration that a text of another habit means: "1,5h", "2H", "5m and 3s", "00:05:00", "PT5M".
fn meant(text: &str) -> Option<String> {
    let small = text.to_ascii_lowercase();
    let iso = small.strip_prefix('p').map(|rest| rest.replace('t', ""));
    let clock: Option<Vec<u64>> = text.split(':').map(|part| part.parse().ok()).collect();
    let clock = match clock.as_deref() {
        Some([hours, minutes]) => Some([*hours, *minutes, 0]),
        Some([hours, minutes, seconds]) => Some([*hours, *minutes, *seconds]),
        _ => None,
    };
    let clock = clock.map(|parts| {
        let parts = parts.iter().zip(["h", "m", "s"]).filter(|(number, _)| **number > 0);
        parts.map(|(number, unit)| format!("{number}{unit}")).collect::<Vec<_>>().join(" ")
    });
    [
        clock,
        iso,
        Some(small.replace(" and ", " ").replace(", ", " ")),
        Some(small.replace(',', ".")),
    ]
    .into_iter()
    .flatten()
    .find(|candidate| humantime::parse_duration(candidate).is_ok())
}

/// What to say of a duration that is a bare number.
pub(crate) fn no_unit(number: &str) -> (String, Option<String>) {
    (
        "this duration has no unit".to_owned(),
        Some(format!(
            "write \"{number}s\" for seconds, \"{number}m\" for minutes, \"{number}h\" for hours"
        )),
    )
}

/// A size such as "100MiB": K, M, G, T and KiB … are powers of 1024, KB … of 1000, B is a byte.
pub(crate) fn size(text: &str) -> Result<u64, (String, Option<String>)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let help = || Some("sizes are written \"512KiB\", \"100MiB\", \"2GiB\"".to_owned());
    let number: u64 = match digits.parse() {
        Ok(number) => number,
        Err(_) => return Err(("this is no size".to_owned(), help())),
    };
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "" => {
            let help = format!("write \"{number}MiB\", or the number of bytes without quotes");
            return Err(("this size has no unit".to_owned(), Some(help)));
        }
        _ => return Err((format!("a size has no unit `{unit}`"), help())),
    };
    number.checked_mul(factor).ok_or_else(|| ("this size is too large".to_owned(), None))
}

/// The signals of signal(7) that have one number on all machines that Linux calls generic.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("WINCH", 28),
    ("PWR", 30),
];

/// A signal by name, with or without SIG.
pub(crate) fn signal(text: &str) -> Result<i32, Option<String>> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match SIGNALS.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => Ok(*number),
        None => Err(super::problem::closest(name, SIGNALS.iter().map(|(known, _)| *known))
            .map(|known| format!("did you mean \"SIG{known}\"?"))),
    }
}

/// A signal's name, for people.
pub fn signal_name(number: i32) -> String {
    match SIGNALS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => number.to_string(),
    }
}

/// The names of setrlimit(2), without `RLIMIT_`.
pub const RLIMITS: &[&str] = &[
    "AS",
    "CORE",
    "CPU",
    "DATA",
    "FSIZE",
    "LOCKS",
    "MEMLOCK",
    "MSGQUEUE",
    "NICE",
    "NOFILE",
    "NPROC",
    "RSS",
    "RTPRIO",
    "RTTIME",
    "SIGPENDING",
    "STACK",
];

/// A limit's name as in setrlimit(2), with or without `RLIMIT_`, or as in systemd.exec(5).
pub(crate) fn rlimit_name(text: &str) -> Result<&'static str, Option<String>> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("RLIMIT_").or(upper.strip_prefix("LIMIT")).unwrap_or(&upper);
    match RLIMITS.iter().find(|known| **known == name) {
        Some(known) => Ok(known),
        None => Err(super::problem::closest(name, RLIMITS.iter().copied())
            .map(|known| format!("did you mean \"{known}\"?"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_means_what_it_says() {
        for (text, seconds) in [("24h", 86_400), ("90s", 90), ("1h 30m", 5400), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["15", "", "m", "-5m", "1000y", "5 parsecs"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_of_another_habit_is_understood_and_told() {
        for (text, meant) in [
            ("1,5h", "1.5h"),
            ("2H", "2h"),
            ("5 minutes and 3 seconds", "5 minutes 3 seconds"),
            ("1h, 30m", "1h 30m"),
            ("00:05:00", "5m"),
            ("1:30", "1h 30m"),
            ("PT1H30M", "1h30m"),
            ("P1D", "1d"),
        ] {
            let help = duration(text).unwrap_err().1;
            assert_eq!(help, Some(format!("write \"{meant}\"")), "{text}");
        }
        for (text, why) in [
            ("-5m", "a duration cannot be negative"),
            ("5 parsecs", "this is no duration: there is no unit of time `parsecs`"),
            ("1h 30", "this is no duration: a number in it has no unit"),
            ("5%", "this is no duration: `%` has no place in it"),
            ("soon", "this is no duration: a number is missing before `soon`"),
            ("99999999999999999999h", "this is no duration: the number is too large"),
        ] {
            assert_eq!(duration(text).unwrap_err().0, why, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("100MiB"), Ok(100 << 20));
        assert_eq!(size("2 GB"), Ok(2_000_000_000));
        for text in ["100", "MiB", "1XB", "99999999999TiB", "-1K"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_and_limits_go_by_their_manual_names() {
        assert_eq!(signal("SIGTERM"), Ok(15));
        assert_eq!(signal("term"), Ok(15));
        assert_eq!(signal("SIGTREM"), Err(Some("did you mean \"SIGTERM\"?".to_owned())));
        assert_eq!(rlimit_name("RLIMIT_NOFILE"), Ok("NOFILE"));
        assert_eq!(rlimit_name("LimitCORE"), Ok("CORE"));
        assert_eq!(rlimit_name("NOFILES"), Err(Some("did you mean \"NOFILE\"?".to_owned())));
    }
}
