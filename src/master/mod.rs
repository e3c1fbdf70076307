//! The root process.

pub mod authorise;
mod connection;
pub mod control;
