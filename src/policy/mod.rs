//! Pure decisions. Nothing here reads a clock, touches a descriptor or calls the floors above:
//! time comes in as an argument, the next deadline and a list of actions go out.

pub mod backoff;
pub mod digest;
pub mod environment;
pub mod fingerprint;
pub mod notices;
pub mod options;
pub mod postbox;
pub mod safe;
pub mod simulate;
pub mod supervisor;
pub mod task_loop;

pub use notices::{Deed, NoticeDesk, TaskCounters};
