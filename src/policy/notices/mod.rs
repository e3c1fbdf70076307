//! Notices: what the admins are told, and what not.
//!
//! [`NoticeDesk`] is told everything that happens and answers with [`Deed`]s: mails and log lines.
//! It decides from times that are handed in, so the same code runs in the master, in a unit test
//! and in `runnerctl simulate`. When mails go, and which go together, is for
//! [`postbox`](super::postbox) to say.
//!
//! | file | what it holds |
//! |---|---|
//! | `throttle` | the decision for one task |
//! | `desk` | the state of all chains, silences, pauses, upgrades; who is told |
//! | `rules` | what the configuration says, compact |
//! | `text` | subjects and bodies |
//! | `history` | the last runs of a chain |
//! | `saved` | how all this survives the master |
//! | `troubles` | logs that cannot be written |
//! | `explain` | what would be told next, and what was held back |

mod desk;
mod events;
mod explain;
mod history;
mod rules;
mod saved;
#[cfg(test)]
mod tests;
mod text;
mod throttle;
mod troubles;

pub(crate) use desk::fnv;
pub use desk::{Decision, Deed, NoticeDesk, TaskCounters};
pub use saved::SavedDesk;
pub use text::MAX_BODY;
pub(crate) use text::{span, when};
