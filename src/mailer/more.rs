//! The count of what found no room in a full spool.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::spool::hash;
use crate::policy::digest::in_short;
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// Subjects that a full spool still remembers.
const SAMPLES: usize = 200;

/// What came to a full spool: counted in fixed memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct More {
    id: String,
    count: u64,
    first: WallTime,
    last: WallTime,
    kinds: BTreeMap<String, u64>,
    samples: Vec<String>,
}

impl More {
    /// Counts one notice.
    pub(super) fn count(&mut self, notice: &Envelope) {
        if self.count == 0 {
            self.id.clone_from(&notice.id);
            self.first = notice.at;
        }
        self.count += 1;
        self.last = notice.at;
        *self.kinds.entry(notice.kind.word().to_owned()).or_default() += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(in_short(notice));
        }
    }

    /// The mail that tells of them.
    pub(super) fn envelope(&self, to: &str) -> Envelope {
        let mut body = format!(
            "{} notices found no room in the full spool, from {} to {}. They are lost but for\n\
             this count.\n\n",
            self.count, self.first, self.last
        );
        for (kind, count) in &self.kinds {
            let _ = writeln!(body, "{kind}: {count}");
        }
        let _ = writeln!(body, "\nThe first of them:");
        for sample in &self.samples {
            let _ = writeln!(body, "{sample}");
        }
        Envelope {
            id: format!("more-{:016x}", hash(&self.id)),
            thread: None,
            kind: NoticeKind::Digest,
            to: vec![to.to_owned()],
            subject: format!("[runner] {} notices", self.count),
            body,
            chain: None,
            task: None,
            at: self.first,
        }
    }
}
