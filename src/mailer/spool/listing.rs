//! What the spool holds, for `runnerctl mail list`.

use std::path::Path;

use serde_json::{Value, json};

use super::names::is_mail_name;
use super::{MOST_NAMES, Spool, Stored};
use crate::mailer::ledger::{Clock, Ledger};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// Where a mail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The master keeps it: no spool has confirmed it yet.
    Held,
    /// In the spool.
    Waits,
    /// It was refused for ever and lies in `dead/`.
    Dead,
}

impl Place {
    /// As one word.
    fn word(self) -> &'static str {
        match self {
            Place::Held => "held",
            Place::Waits => "waits",
            Place::Dead => "dead",
        }
    }
}

/// One line of `runnerctl mail list`.
#[derive(Debug, Clone, PartialEq)]
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
    /// Where it is.
    pub place: Place,
}

impl Entry {
    /// A mail for one recipient that no spool has confirmed; `error`: why the last try failed.
    pub fn held(envelope: &Envelope, to: &str, error: Option<&str>) -> Entry {
        let Envelope { id, subject, kind, at, .. } = envelope;
        let (id, subject) = (id.clone(), subject.clone());
        let (to, error) = (to.to_owned(), error.map(str::to_owned));
        let place = Place::Held;
        Entry { id, to, subject, kind: *kind, at: *at, tries: 0, next_try: 0, error, place }
    }

    /// As JSON: `at` in seconds since 1970, `next_try` in seconds from now.
    pub fn row(&self) -> Value {
        json!({
            "at": self.at.0 / 1000,
            "id": self.id,
            "to": self.to,
            "notice": self.kind.word(),
            "subject": self.subject,
            "state": self.place.word(),
            "tries": self.tries,
            "next_try": self.next_try.div_ceil(1000),
            "error": self.error,
        })
    }
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
        entries.push(entry(stored, tries, next_try, error, Place::Waits));
    }
    if let Ok(folder) = spool.folder.existing_sub("dead") {
        let dead = Spool::on(folder);
        let names = dead.folder.names(MOST_NAMES).unwrap_or_default();
        for name in names.iter().filter(|name| is_mail_name(name)).take(most) {
            let Ok(mut stored) = dead.read(name) else { continue };
            let error = stored.refused.take();
            entries.push(entry(stored, 0, 0, error, Place::Dead));
        }
    }
    entries.sort_by(|a, b| (a.place, a.at, &a.id, &a.to).cmp(&(b.place, b.at, &b.id, &b.to)));
    Ok(entries)
}

fn entry(stored: Stored, tries: u32, next_try: u64, error: Option<String>, place: Place) -> Entry {
    let Envelope { id, subject, kind, at, .. } = stored.envelope;
    Entry { id, to: stored.to, subject, kind, at, tries, next_try, error, place }
}
