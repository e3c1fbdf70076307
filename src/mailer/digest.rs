//! Several notices in one mail: the digest of what was held back, and the count of what found no
//! room in a full spool.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::message::one_line;
use super::spool::hash;
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// Notices of which the digest shows the first lines too; the others get a line each.
const EXCERPTS: usize = 50;
/// Lines and characters of such an excerpt.
const EXCERPT_LINES: usize = 6;
const EXCERPT_WIDTH: usize = 160;
/// Subjects that a full spool still remembers.
const SAMPLES: usize = 200;

/// One envelope that tells of all of `notices`, in this order. Its id follows from theirs.
pub(super) fn digest(notices: &[Envelope], to: &str, now: WallTime) -> Envelope {
    let ids = notices.iter().fold(String::new(), |ids, notice| ids + &notice.id + " ");
    let mut body = format!(
        "{} notices were held back, because many came in a short time. These are all of them;\n\
         the times are those of the events.\n\n",
        notices.len()
    );
    for notice in notices {
        let _ = writeln!(body, "{}  {}{}", notice.at, of(notice), one_line(&notice.subject, 300));
    }
    let shown = notices.len().min(EXCERPTS);
    let _ = writeln!(body, "\nHow they begin:");
    for notice in notices.iter().take(EXCERPTS) {
        let _ = writeln!(body, "\n{}", one_line(&notice.subject, 300));
        let lines = notice.body.lines().filter(|line| !line.trim().is_empty());
        for line in lines.take(EXCERPT_LINES) {
            let _ = writeln!(body, "    {}", one_line(line, EXCERPT_WIDTH));
        }
    }
    if shown < notices.len() {
        let _ = writeln!(body, "\n({} more are listed above only.)", notices.len() - shown);
    }
    Envelope {
        id: format!("digest-{:016x}-{}", hash(&ids), now.0),
        thread: None,
        kind: NoticeKind::Digest,
        to: vec![to.to_owned()],
        subject: format!("[runner] {} notices", notices.len()),
        body,
        chain: None,
        task: None,
        at: notices.iter().map(|notice| notice.at).min().unwrap_or(now),
    }
}

fn of(notice: &Envelope) -> String {
    let about = [notice.chain.as_deref(), notice.task.as_deref()];
    let about: Vec<&str> = about.into_iter().flatten().collect();
    if about.is_empty() { String::new() } else { format!("{}: ", one_line(&about.join("/"), 120)) }
}

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
            let subject = one_line(&notice.subject, 200);
            self.samples.push(format!("{}  {}{subject}", notice.at, of(notice)));
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
