//! The root process.

pub mod authorise;
pub mod control;
