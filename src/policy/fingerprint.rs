//! placeholder until the real one lands
use crate::wire::outcome::Outcome;
/// x
pub struct Finding {
    /// x
    pub fingerprint: String,
    /// x
    pub message: String,
}
/// x
pub fn of(outcome: &Outcome, stderr: &[u8]) -> Finding {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().last().unwrap_or_default().to_owned();
    Finding { fingerprint: format!("{outcome}{last}"), message: last }
}
