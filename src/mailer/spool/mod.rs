//! The spool: one JSON file for each mail and recipient, in a folder that only the mailer's account
//! may enter.
//!
//! ```text
//! ID.HASH.mail   waits (HASH: of the recipient)
//! more.HASH      counts what came when the spool was full
//! dead/          refused for ever
//! ledger.json    tries, backoff, what went to whom lately
//! lock, room     flock(2): who delivers; who changes a `more` file
//! .tmp-*         being written
//! ```
//!
//! A file appears whole or not at all: it is written under a temporary name, brought to disk,
//! renamed, and then the folder is brought to disk. What is not ours (another name, a symbolic
//! link, a huge file, another version) is skipped and told, and never blocks the rest.

mod dead;
mod listing;
mod names;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::listing::{Entry, Place, list};
pub use self::names::{hash, is_mail_name, safe_id};
use super::more::More;
use crate::sys::folder::{Folder, wait_flock};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// The version of the files written here; another one is skipped.
const VERSION: u32 = 1;
/// Mails that may wait; further ones are counted in one mail per recipient.
const MOST_MAILS: usize = 10_000;
/// Bytes that may wait.
const MOST_BYTES: u64 = 256 << 20;
/// A larger file is not ours: a digest of a full spool is smaller.
const MOST_FILE: u64 = 8 << 20;
/// Names looked at in the folder, ours or not.
const MOST_NAMES: usize = 50_000;
/// Temporary files older than this many seconds are remains of a crash.
const TMP_AGE: u64 = 3_600;

/// The content of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    version: u32,
    /// The one recipient.
    pub to: String,
    /// When it was spooled.
    pub spooled: WallTime,
    /// The files that this digest stands for; empty: it is a mail of its own.
    #[serde(default)]
    pub merged: Vec<String>,
    /// The threads that this digest tells of, each with whether it closes it.
    #[serde(default)]
    pub threads: Vec<(String, bool)>,
    /// The counts of a `more` file.
    #[serde(default)]
    pub more: Option<More>,
    /// Why it was refused, in `dead/`.
    #[serde(default)]
    pub refused: Option<String>,
    /// The mail.
    pub envelope: Envelope,
}

impl Stored {
    /// A mail for one recipient.
    pub fn new(envelope: &Envelope, to: &str, now: WallTime) -> Stored {
        Stored {
            version: VERSION,
            to: to.to_owned(),
            spooled: now,
            merged: Vec::new(),
            threads: Vec::new(),
            more: None,
            refused: None,
            envelope: Envelope { to: vec![to.to_owned()], ..envelope.clone() },
        }
    }

    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}.{:016x}.mail", safe_id(&self.envelope.id), hash(&self.to))
    }
}

/// What is kept in memory of a mail that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Meta {
    pub(super) to: String,
    pub(super) kind: NoticeKind,
    pub(super) chain: Option<String>,
    pub(super) spooled: WallTime,
    pub(super) merged: bool,
    pub(super) size: u64,
}

/// The open spool.
#[derive(Debug)]
pub(super) struct Spool {
    folder: Folder,
    counter: u64,
    /// Mails and bytes that wait, as of the last look or write.
    mails: usize,
    bytes: u64,
    /// Mails from which on they are only counted.
    pub(super) most_mails: usize,
}

/// What a look into the folder found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Names of mails.
    pub(super) mails: Vec<String>,
    /// Names of `more` files.
    pub(super) more: Vec<String>,
    /// What was skipped and why: the first few.
    pub(super) skipped: Vec<String>,
}

impl Spool {
    pub(super) fn open(path: &Path) -> Result<Spool, String> {
        let open = |cause| format!("cannot open the spool {}: {cause}", path.display());
        let folder = Folder::open(path).map_err(open)?;
        let mut spool = Spool::on(folder);
        spool.look()?;
        Ok(spool)
    }

    fn on(folder: Folder) -> Spool {
        Spool { folder, counter: 0, mails: 0, bytes: 0, most_mails: MOST_MAILS }
    }

    /// Keeps an envelope for all its recipients, on disk when this returns.
    pub(super) fn keep(&mut self, envelope: &Envelope, now: WallTime) -> Result<(), String> {
        for to in &envelope.to {
            let stored = Stored::new(envelope, to, now);
            if self.mails >= self.most_mails || self.bytes >= MOST_BYTES {
                self.count_one_more(&stored)?;
            } else {
                self.write(&stored)?;
            }
        }
        Ok(())
    }

    /// Writes one file; its name exists only when the content is on disk.
    pub(super) fn write(&mut self, stored: &Stored) -> Result<String, String> {
        let name = stored.file_name();
        self.mails += 1;
        self.bytes += self.put(&name, stored)?;
        Ok(name)
    }

    fn put(&mut self, name: &str, content: &impl Serialize) -> Result<u64, String> {
        let text = serde_json::to_vec(content)
            .map_err(|cause| format!("cannot write down a mail: {cause}"))?;
        let temporary = self.temporary();
        let written = self
            .fill(&temporary, &text)
            .and_then(|()| self.folder.rename(&temporary, &self.folder, name));
        if let Err(cause) = written {
            let _ = self.folder.remove(&temporary);
            return Err(format!("cannot write {name} in the spool: {cause}"));
        }
        if let Err(cause) = self.folder.sync() {
            let _ = self.folder.remove(name);
            return Err(format!("cannot bring the spool to disk: {cause}"));
        }
        Ok(text.len() as u64)
    }

    fn fill(&self, name: &str, text: &[u8]) -> std::io::Result<()> {
        let mut file = self.folder.create_new(name)?;
        file.write_all(text)?;
        file.sync_all()
    }

    fn temporary(&mut self) -> String {
        self.counter += 1;
        format!(".tmp-{}-{}-{}", std::process::id(), crate::sys::clock::boottime_ms(), self.counter)
    }

    /// The spool is full: count the mail in the one file that stands for all further ones.
    fn count_one_more(&mut self, stored: &Stored) -> Result<(), String> {
        let _room = self.room()?;
        let name = format!("more.{:016x}", hash(&stored.to));
        let mut all = match self.read(&name) {
            Ok(known) => known,
            Err(_) => Stored { more: Some(More::default()), ..stored.clone() },
        };
        let mut more = all.more.take().unwrap_or_default();
        more.count(&stored.envelope);
        all.envelope = more.envelope(&stored.to);
        all.more = Some(more);
        self.put(&name, &all)?;
        Ok(())
    }

    /// Turns a `more` file into a mail that can be delivered.
    pub(super) fn close_more(&mut self, name: &str) -> Result<String, String> {
        let _room = self.room()?;
        let stored = self.read(name)?;
        let mail = stored.file_name();
        self.folder
            .rename(name, &self.folder, &mail)
            .and_then(|()| self.folder.sync())
            .map_err(|cause| format!("cannot rename {name} in the spool: {cause}"))?;
        Ok(mail)
    }

    /// Whether the name is not there (any more).
    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.folder.entry(name).is_err()
    }

    /// Whether the spool has room again.
    pub(super) fn is_half_empty(&self) -> bool {
        self.mails < self.most_mails / 2 && self.bytes < MOST_BYTES / 2
    }

    fn room(&self) -> Result<File, String> {
        let lock = |cause| format!("cannot lock the spool: {cause}");
        let file = self.folder.open_lock("room").map_err(lock)?;
        wait_flock(&file).map_err(lock)?;
        Ok(file)
    }

    /// The file whose lock says who delivers.
    pub(super) fn open_lock(&self) -> Result<File, String> {
        self.folder.open_lock("lock").map_err(|cause| format!("cannot open the lock: {cause}"))
    }

    /// Lists the folder and clears what a crash left behind.
    pub(super) fn look(&mut self) -> Result<Look, String> {
        let names = self
            .folder
            .names(MOST_NAMES)
            .map_err(|cause| format!("cannot list the spool: {cause}"))?;
        let mut look = Look::default();
        (self.mails, self.bytes) = (0, 0);
        for name in names {
            let is_more = name.starts_with("more.");
            if name.starts_with(".tmp-") {
                self.clear_remains(&name);
            } else if is_mail_name(&name) || is_more {
                match self.folder.entry(&name) {
                    Ok(entry) if !entry.regular => skip(&mut look, &name, "not a regular file"),
                    Ok(entry) if entry.size > MOST_FILE => skip(&mut look, &name, "too large"),
                    Ok(_) if is_more => look.more.push(name),
                    Ok(entry) => {
                        self.mails += 1;
                        self.bytes += entry.size;
                        look.mails.push(name);
                    }
                    Err(_) => {} // Delivered by another mailer meanwhile.
                }
            } else if !matches!(name.as_str(), "dead" | "lock" | "room" | "flush" | "ledger.json") {
                skip(&mut look, &name, "not a mail");
            }
        }
        Ok(look)
    }

    fn clear_remains(&self, name: &str) {
        let now = crate::sys::clock::wall_ms() / 1000;
        if let Ok(entry) = self.folder.entry(name)
            && u64::try_from(entry.modified).unwrap_or(0).saturating_add(TMP_AGE) < now
        {
            let _ = self.folder.remove(name);
        }
    }

    /// Reads one file.
    pub(super) fn read(&self, name: &str) -> Result<Stored, String> {
        let stored: Stored = read_json(&self.folder, name, MOST_FILE)?;
        if stored.version == VERSION {
            Ok(stored)
        } else {
            Err(format!("it has version {}, not {VERSION}", stored.version))
        }
    }

    /// Reads what is needed to decide about a mail, and which files it stands for; a file whose name
    /// does not fit its content is not ours.
    pub(super) fn meta(&self, name: &str) -> Result<(Meta, Vec<String>), String> {
        let size = self.folder.entry(name).map_err(|cause| cause.to_string())?.size;
        let stored = self.read(name)?;
        if stored.file_name() != name {
            return Err("its name does not fit its content".to_owned());
        }
        let meta = Meta {
            to: stored.to,
            kind: stored.envelope.kind,
            chain: stored.envelope.chain,
            spooled: stored.spooled,
            merged: !stored.merged.is_empty() || stored.more.is_some(),
            size,
        };
        Ok((meta, stored.merged))
    }

    /// Removes a delivered mail, on disk when this returns.
    pub(super) fn remove(&mut self, name: &str, size: u64) -> Result<(), String> {
        self.mails = self.mails.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
        self.folder
            .remove(name)
            .and_then(|()| self.folder.sync())
            .map_err(|cause| format!("cannot remove {name} from the spool: {cause}"))
    }

    /// Removes what a digest stands for.
    pub(super) fn remove_merged(&mut self, names: &[String]) -> Result<(), String> {
        for name in names.iter().filter(|name| is_mail_name(name)) {
            self.folder
                .remove(name)
                .map_err(|cause| format!("cannot remove {name} from the spool: {cause}"))?;
        }
        self.folder.sync().map_err(|cause| format!("cannot bring the spool to disk: {cause}"))
    }

    /// Reads the ledger; `None`: there is none that can be read.
    pub(super) fn read_ledger<T: for<'a> Deserialize<'a>>(&self) -> Option<T> {
        read_json(&self.folder, "ledger.json", MOST_FILE).ok()
    }

    /// Writes the ledger. Where there is no room for a new file it is written over the old one: a
    /// crash in that moment costs what it holds, a lost write would cost the limit.
    pub(super) fn write_ledger(&mut self, ledger: &impl Serialize) -> Result<(), String> {
        let Err(cause) = self.put("ledger.json", ledger) else { return Ok(()) };
        let text = serde_json::to_vec(ledger).map_err(|cause| cause.to_string())?;
        let over = self.folder.open_to_overwrite("ledger.json").and_then(|mut file| {
            file.write_all(&text)?;
            file.set_len(text.len() as u64)?;
            file.sync_all()
        });
        over.map_err(|_| cause)
    }

    /// Leaves word for whoever delivers that everything is to be tried now.
    pub(super) fn ask_flush(&self) {
        let _ = self.folder.open_lock("flush");
    }

    /// Whether such a word was left; it is taken away.
    pub(super) fn take_flush(&self) -> bool {
        self.folder.entry("flush").is_ok() && self.folder.remove("flush").is_ok()
    }
}

fn read_json<T: for<'a> Deserialize<'a>>(
    folder: &Folder,
    name: &str,
    most: u64,
) -> Result<T, String> {
    let file = folder.open_file(name).map_err(|cause| cause.to_string())?;
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text).map_err(|cause| cause.to_string())?;
    if text.len() as u64 > most {
        return Err("too large".to_owned());
    }
    serde_json::from_slice(&text).map_err(|cause| format!("not a mail of this version: {cause}"))
}

fn skip(look: &mut Look, name: &str, why: &str) {
    if look.skipped.len() < 5 {
        look.skipped.push(format!("{}: {why}", super::message::one_line(name, 100)));
    }
}
