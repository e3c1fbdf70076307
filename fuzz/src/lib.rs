//! What must hold of every decoder of the runner, for any bytes. A property is a function of bytes
//! that panics where something does not hold.
//!
//! The fuzz targets search for bytes that break one; `tests/corpus.rs` of the runner includes this
//! file and holds every property against the corpus and against what once broke it, with no
//! fuzzer at all.

pub mod configuration;
mod hostile;
mod policy;
mod records;
mod rotation;
mod talk;
mod texts;

/// Panics where something does not hold of the bytes.
pub type Property = fn(&[u8]);

/// Every target: its name, which is that of its folder in `corpus`, and its property.
pub const TARGETS: &[(&str, Property)] = &[
    ("answers", talk::answers),
    ("config", configuration::config),
    ("env_file", configuration::env_file),
    ("fingerprint", texts::fingerprint),
    ("handover", records::handover),
    ("import", configuration::import),
    ("log", talk::log),
    ("mail", talk::mail),
    ("recorded", records::recorded),
    ("reports", hostile::reports),
    ("requests", talk::requests),
    ("rotation", rotation::rotation),
    ("safe", texts::safe),
    ("spool", records::spool),
    ("state", records::state),
    ("supervisor", policy::supervisor),
    ("worker", talk::worker),
];

/// Holds the property of a target against some bytes.
///
/// # Panics
/// When it does not hold.
pub fn check(target: &str, bytes: &[u8]) {
    let (_, property) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    property(bytes);
}
