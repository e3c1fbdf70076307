//! What our processes say to each other. Encode and decode are total; nothing here does input or
//! output.

pub mod control;
pub mod log;
pub mod mail;
pub mod outcome;
pub mod report;
pub mod safe;
pub mod select;
pub mod time;
pub mod words;
pub mod worker;
