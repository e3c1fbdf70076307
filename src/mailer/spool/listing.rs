//! What the spool holds, for `runnerctl mail list`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::names::is_mail_name;
use super::{MOST_NAMES, Spool, Stored};
use crate::mailer::ledger::{Clock, Ledger};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// One line of `runnerctl mail list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The envelope's id.
    pub id: String,
    /// To whom.
    pub to: String,
    /// The subject without prefix.
    pub subject: String,
    /// What it tells.
    pub kind: NoticeKind,
    /// When the event happened.
    pub at: WallTime,
    /// Failed tries of this mail (not of the server).
    pub tries: u32,
    /// Milliseconds until it is tried again; 0: as soon as the server and the limit let it.
    pub next_try: u64,
    /// The last error, of this mail or of the server.
    pub error: Option<String>,
    /// It was refused for ever and lies in `dead/`.
    pub dead: bool,
}

/// What waits and what is dead, at most `most` of each; for the mailer's account or root.
///
/// # Errors
/// When the spool cannot be read.
pub fn list(dir: &Path, most: usize) -> Result<Vec<Entry>, String> {
    let mut spool = Spool::open(dir)?;
    let ledger = Ledger::load(&spool, &Clock::now());
    let look = spool.look()?;
    let mut entries = Vec::new();
    for name in look.mails.iter().chain(&look.more).take(most) {
        let Ok(stored) = spool.read(name) else { continue };
        let (tries, next_try, error) = ledger.tries_of(name);
        entries.push(entry(stored, tries, next_try, error, false));
    }
    if let Ok(folder) = spool.folder.existing_sub("dead") {
        let dead = Spool::on(folder);
        let names = dead.folder.names(MOST_NAMES).unwrap_or_default();
        for name in names.iter().filter(|name| is_mail_name(name)).take(most) {
            let Ok(mut stored) = dead.read(name) else { continue };
            let error = stored.refused.take();
            entries.push(entry(stored, 0, 0, error, true));
        }
    }
    entries.sort_by(|a, b| (a.dead, a.at, &a.id, &a.to).cmp(&(b.dead, b.at, &b.id, &b.to)));
    Ok(entries)
}

fn entry(stored: Stored, tries: u32, next_try: u64, error: Option<String>, dead: bool) -> Entry {
    let Envelope { id, subject, kind, at, .. } = stored.envelope;
    Entry { id, to: stored.to, subject, kind, at, tries, next_try, error, dead }
}
