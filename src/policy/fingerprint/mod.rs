//! The identity of a failure: what was said, without the numbers that change from run to run.

mod normalise;

pub use normalise::normalised;

use crate::policy::safe;
use crate::wire::outcome::Outcome;
use crate::wire::report::MAX_MESSAGE;

/// A failure's identity and the line that a person would quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A short hexadecimal number, the same for the same fault on every machine.
    pub fingerprint: String,
    /// Safe, never empty, at most [`MAX_MESSAGE`] bytes.
    pub message: String,
}

/// Finds both. Total, linear in the input.
pub fn of(outcome: &Outcome, stderr: &[u8]) -> Finding {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("");
    let said = safe::line(line, MAX_MESSAGE);
    let key = format!("{outcome}\n{}", normalised(&said));
    let message = if said.is_empty() { outcome.to_string() } else { said };
    Finding {
        fingerprint: format!("{:016x}", crate::policy::notices::fnv(0, key.as_bytes())),
        message,
    }
}
