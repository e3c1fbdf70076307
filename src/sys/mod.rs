//! The ground floor: the only place for system calls and for `unsafe`. It knows nothing of the
//! rest of the house.
#![allow(unsafe_code)]

pub mod account;
pub mod clock;
pub mod fork;
pub mod peer;
pub mod poll;
pub mod privileges;
pub mod signals;
pub mod socket;
