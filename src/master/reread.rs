//! What this program makes of a record that another image, another boot or another master left:
//! read and written again. The readers themselves stay inside; this is the door by which tests
//! and fuzzers reach them.

use serde::Serialize;

use super::handover::Handover;
use super::holder::Holder;
use super::state::State;

/// The handover of an upgrade.
///
/// # Errors
/// When it is damaged or of an unknown version.
pub fn handover(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let read = Handover::decode(bytes)?;
    let mut open = read.descriptors();
    open.sort_unstable();
    read.encode()
}

/// `state_root/state.json`.
///
/// # Errors
/// When it is damaged.
pub fn state(bytes: &[u8]) -> Result<Vec<u8>, String> {
    written(&State::decode(bytes)?)
}

/// What `run_root/lock/master.lock` says of its holder.
///
/// # Errors
/// When it is damaged.
pub fn holder(bytes: &[u8]) -> Result<Vec<u8>, String> {
    written(&Holder::decode(bytes).ok_or("it says nothing")?)
}

fn written(record: &impl Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(record).map_err(|cause| cause.to_string())
}
