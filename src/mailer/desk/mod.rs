//! What the mailer knows and decides: which mail goes next, what becomes of it after a try, what
//! the master is told. It reads and writes the spool; it never waits, forks or delivers.

mod order;
mod outcome;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;

use self::order::Choice;
use super::ledger::{Clock, Ledger};
use super::spool::{Meta, Spool};
use crate::config::model::Mail;
use crate::sys::folder::try_flock;
use crate::wire::mail::{Envelope, MailReply, SpoolState};
use crate::wire::time::Timestamp;

/// A mail to deliver to one recipient now.
#[derive(Debug, Clone)]
pub(super) struct Job {
    source: Source,
    pub(super) envelope: Envelope,
    pub(super) to: String,
    /// The id of the mail that it answers to; `None`: it is the first that this recipient gets of
    /// its thread.
    pub(super) answers_to: Option<String>,
    /// The threads that a digest tells of, each with whether it closes it.
    threads: Vec<(String, bool)>,
}

impl Job {
    /// Whether the mail lies in the spool, so that another mailer could deliver it, too.
    pub(super) fn is_spooled(&self) -> bool {
        matches!(self.source, Source::File(..))
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    /// A file of the spool.
    File(String, Meta),
    /// The first of the mails that could not be spooled.
    Direct,
}

/// A mail that could not be spooled: it is delivered from memory and confirmed after that.
#[derive(Debug)]
struct Direct {
    envelope: Envelope,
    left: VecDeque<String>,
    why: String,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Deliver this.
    Deliver(Box<Job>),
    /// Tell the master; then ask again.
    GiveBack(MailReply),
    /// Something waits until then.
    Wait(Timestamp),
    /// Nothing waits.
    Nothing,
}

/// The mailer's knowledge.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    mail: &'a Mail,
    pub(super) spool: Result<Spool, String>,
    ledger: Ledger,
    known: BTreeMap<String, Meta>,
    /// Files that cannot be used, looked at once, and why.
    bad: BTreeMap<String, String>,
    trouble: Vec<String>,
    /// Held: this mailer is the one who delivers from the spool.
    lock: Option<File>,
    /// Another mailer delivered when the lock was last tried.
    locked_out: bool,
    direct: VecDeque<Direct>,
}

impl<'a> Desk<'a> {
    /// A desk on the spool, or without one.
    pub(super) fn new(mail: &'a Mail, spool: Result<Spool, String>, clock: &Clock) -> Desk<'a> {
        let ledger = spool.as_ref().map_or_else(|_| Ledger::default(), |s| Ledger::load(s, clock));
        Desk {
            mail,
            spool,
            ledger,
            known: BTreeMap::new(),
            bad: BTreeMap::new(),
            trouble: Vec::new(),
            lock: None,
            locked_out: false,
            direct: VecDeque::new(),
        }
    }

    /// Tries to become the one who delivers; `true`: it is. What another one wrote down holds then.
    pub(super) fn lock(&mut self, clock: &Clock) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let Ok(spool) = &self.spool else { return false };
        let locked = spool.open_lock().and_then(|file| match try_flock(&file) {
            Ok(true) => Ok(Some(file)),
            Ok(false) => Ok(None),
            Err(cause) => Err(format!("cannot lock the spool: {cause}")),
        });
        self.locked_out = matches!(locked, Ok(None));
        match locked {
            Ok(Some(file)) => {
                self.ledger = Ledger::load(spool, clock);
                self.lock = Some(file);
            }
            Ok(None) => {}
            Err(cause) => self.trouble = vec![cause],
        }
        self.lock.is_some()
    }

    /// Lets others deliver.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    /// The lock while it is held, for the child that delivers.
    pub(super) fn lock_file(&self) -> Option<&File> {
        self.lock.as_ref()
    }

    /// Whether another mailer delivered when the lock was last tried.
    pub(super) fn is_locked_out(&self) -> bool {
        self.locked_out
    }

    /// Keeps an envelope. No answer: it is delivered directly and answered later.
    pub(super) fn keep(&mut self, envelope: Envelope, clock: &Clock) -> Option<MailReply> {
        let kept = match &mut self.spool {
            Ok(spool) => spool.keep(&envelope, clock.wall),
            Err(why) => Err(why.clone()),
        };
        match kept {
            Ok(()) => Some(MailReply::Spooled { id: envelope.id }),
            Err(why) => {
                let left = envelope.to.iter().cloned().collect();
                self.direct.push_back(Direct { envelope, left, why });
                None
            }
        }
    }

    /// Everything is to be tried now, by this mailer or by the one that delivers.
    pub(super) fn flush(&mut self, clock: &Clock) {
        self.ledger.flush(clock.boot);
        if let Ok(spool) = &self.spool {
            spool.ask_flush();
        }
    }

    /// Looks for new mails, and as the one who delivers finishes what a crash left half done.
    pub(super) fn refresh(&mut self, clock: &Clock) {
        let owner = self.lock.is_some();
        let Ok(spool) = &mut self.spool else { return };
        if owner && spool.take_flush() {
            self.ledger.flush(clock.boot);
        }
        let look = match spool.look() {
            Ok(look) => look,
            Err(cause) => {
                self.trouble = vec![cause];
                return;
            }
        };
        self.trouble = look.skipped;
        let mut names: BTreeSet<String> = look.mails.into_iter().collect();
        if owner && spool.is_half_empty() {
            for more in look.more {
                match spool.close_more(&more) {
                    Ok(name) => _ = names.insert(name),
                    Err(cause) => self.trouble.push(format!("{more}: {cause}")),
                }
            }
        }
        self.known.retain(|name, _| names.contains(name));
        self.bad.retain(|name, _| names.contains(name));
        for name in names {
            if self.known.contains_key(&name) || self.bad.contains_key(&name) {
                continue;
            }
            match spool.meta(&name) {
                Ok((meta, merged)) => {
                    if owner
                        && !merged.is_empty()
                        && let Err(cause) = spool.remove_merged(&merged)
                    {
                        self.trouble.push(cause);
                    }
                    for gone in merged {
                        self.known.remove(&gone);
                        // Later in this very loop, or after it.
                        self.bad.insert(gone, String::new());
                    }
                    self.known.insert(name, meta);
                }
                Err(_) if spool.is_gone(&name) => {}
                Err(cause) => {
                    self.bad.insert(name, cause);
                }
            }
        }
        self.ledger.mails.retain(|name, _| self.known.contains_key(name));
    }

    /// What the spool holds, for the master. `elsewhere`: another mailer delivers just now.
    pub(super) fn state(&mut self, clock: &Clock, elsewhere: bool) -> SpoolState {
        let next_try = match self.next_due(clock) {
            Some(_) if elsewhere => Some(ELSEWHERE),
            Some(at) => Some(u64::try_from(at.since(clock.boot).as_millis()).unwrap_or(u64::MAX)),
            None => None,
        };
        let mut error = None;
        if !self.known.is_empty() {
            error = self.ledger.server.error.clone();
        }
        if error.is_none() {
            error = self.ledger.mails.values().find_map(|backoff| backoff.error.clone());
        }
        if error.is_none() {
            error = self.spool.as_ref().err().cloned();
        }
        if error.is_none() {
            let bad = self.bad.iter().filter(|(_, why)| !why.is_empty()).take(5);
            let bad = bad.map(|(name, why)| format!("{name}: {why}"));
            let all: Vec<String> = self.trouble.iter().cloned().chain(bad).collect();
            error = (!all.is_empty()).then(|| format!("in the spool: {}", all.join("; ")));
        }
        let waiting = self.known.len() as u64;
        let dead = self.spool.as_ref().map_or(0, Spool::dead_count);
        SpoolState { waiting, dead, next_try, error }
    }

    /// Whether a mail could be delivered right now.
    pub(super) fn is_something_due(&self, clock: &Clock) -> bool {
        self.next_due(clock).is_some_and(|at| at <= clock.boot)
    }

    fn next_due(&self, clock: &Clock) -> Option<Timestamp> {
        if self.known.is_empty() {
            return None;
        }
        let server = self.ledger.server.next;
        if !self.ledger.server.is_due(clock.boot) {
            return Some(server);
        }
        match self.choose(clock) {
            Choice::Wait(until) => Some(until),
            Choice::Nothing => None,
            Choice::Send(_) | Choice::Merge(_) => Some(clock.boot),
        }
    }
}

/// Milliseconds after which the master looks again when another mailer delivers just now. If it is one
/// of its own, that one tells better when it ends, and nothing is begun; else an earlier master left it.
const ELSEWHERE: u64 = 2_000;
