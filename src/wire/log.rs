//! One record of the main log on its way to the logger: a JSON object per packet, at most
//! [`MAX_RECORD`] bytes.

use serde::{Deserialize, Serialize};

use super::time::WallTime;

/// The largest record, in bytes. What is longer is cut by the sender.
pub const MAX_RECORD: usize = 4096;

/// A record of the main log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was made.
    pub at: WallTime,
    /// slog's level by number, 1 (Critical) to 6 (Trace).
    pub level: u8,
    /// One line.
    pub msg: String,
    /// Keys and values, in the order they are shown.
    #[serde(default)]
    pub kv: Vec<(String, String)>,
}
