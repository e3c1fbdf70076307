//! How a run ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a run ended. Its text form (`exit 1`, `signal 9`, `timeout`, `cannot start`,
/// `interrupted`) is what status, histories and recorded runs say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The program exited with this code, 0–255.
    Exit(u8),
    /// The program was killed by this signal (signal(7)).
    Signal(i32),
    /// The run was ended because it took longer than `timeout`.
    Timeout,
    /// The program could not be started.
    CannotStart,
    /// A worker's function raised, or the worker broke its protocol.
    Raised,
    /// The runner itself ended the run (stop, restart, takeover, a drain that ran out):
    /// neither success nor failure.
    Interrupted,
}

/// The text form of [`Outcome::Raised`].
pub const RAISED: &str = "raised";

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exit(code) => write!(f, "exit {code}"),
            Outcome::Signal(number) => write!(f, "signal {number}"),
            Outcome::Timeout => f.write_str("timeout"),
            Outcome::CannotStart => f.write_str("cannot start"),
            Outcome::Raised => f.write_str(RAISED),
            Outcome::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |word: &str| text.strip_prefix(word).map(str::trim);
        if let Some(code) = number("exit ") {
            return code.parse().map(Outcome::Exit).map_err(|_| unknown(text));
        }
        if let Some(signal) = number("signal ") {
            let signal: i32 = signal.parse().map_err(|_| unknown(text))?;
            return if (1..=64).contains(&signal) {
                Ok(Outcome::Signal(signal))
            } else {
                Err(unknown(text))
            };
        }
        match text {
            "timeout" => Ok(Outcome::Timeout),
            "cannot start" => Ok(Outcome::CannotStart),
            RAISED => Ok(Outcome::Raised),
            "interrupted" => Ok(Outcome::Interrupted),
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> String {
    format!(
        "unknown outcome {text:?}; one of: exit 0-255, signal 1-64, timeout, cannot start, raised, interrupted"
    )
}
