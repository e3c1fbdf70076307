//! What the mailer knows and decides: which mail goes next, what becomes of it after a try, what
//! the master is told. It reads and writes the spool; it never waits, forks or delivers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;

use super::digest::digest;
use super::ledger::{Clock, Ledger};
use super::spool::{Meta, Spool, Stored};
use super::transport::Outcome;
use crate::config::model::Mail;
use crate::policy::postbox::{Dispatch, Letter, Postbox};
use crate::sys::folder::try_flock;
use crate::wire::mail::{Envelope, MailReply, SpoolState};
use crate::wire::time::Timestamp;

/// Lines of a body that a digest can show.
const EXCERPT: usize = 2_000;

/// A mail to deliver to one recipient now.
#[derive(Debug, Clone)]
pub(super) struct Job {
    source: Source,
    pub(super) envelope: Envelope,
    pub(super) to: String,
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

    /// Which mail goes next.
    pub(super) fn next(&mut self, clock: &Clock) -> Next {
        if let Some(first) = self.direct.front()
            && let Some(to) = first.left.front()
        {
            let (envelope, to) = (first.envelope.clone(), to.clone());
            return match self.direct_hold(&envelope, &to, clock) {
                Some(why) => Next::GiveBack(self.give_back(&why)),
                None => Next::Deliver(Box::new(Job { source: Source::Direct, envelope, to })),
            };
        }
        if self.lock.is_none() || self.known.is_empty() {
            return Next::Nothing;
        }
        if !self.ledger.server.is_due(clock.boot) {
            return Next::Wait(self.ledger.server.next);
        }
        loop {
            match self.choose(clock) {
                Choice::Send(name) => match self.load(&name) {
                    Some(job) => return Next::Deliver(Box::new(job)),
                    None => {
                        self.known.remove(&name);
                        self.bad.insert(name, "cannot be read".to_owned());
                    }
                },
                Choice::Merge(names) => {
                    if let Err(cause) = self.merge(&names, clock) {
                        // Not now; the mails stay as they are.
                        self.ledger.server.fail(clock.boot, cause);
                        return Next::Wait(self.ledger.server.next);
                    }
                }
                Choice::Wait(until) => return Next::Wait(until),
                Choice::Nothing => return Next::Nothing,
            }
        }
    }

    /// Why the first mail that could not be spooled must not go now: the limit holds for it too.
    fn direct_hold(&self, envelope: &Envelope, to: &str, clock: &Clock) -> Option<String> {
        let letter = direct_letter(envelope, clock);
        let postbox = self.ledger.postboxes.get(to)?;
        match postbox.next(clock.boot, self.mail.limit, &[letter]) {
            Dispatch::Wait(_) => Some(format!("{to} has got as many mails as the limit lets")),
            _ => None,
        }
    }

    fn give_back(&mut self, why: &str) -> MailReply {
        let direct = self.direct.pop_front();
        let (id, cause) = direct.map(|d| (d.envelope.id, d.why)).unwrap_or_default();
        MailReply::NotSpooled { id, error: format!("{cause}; {why}") }
    }

    fn choose(&self, clock: &Clock) -> Choice {
        let mut by_recipient: BTreeMap<&str, (Vec<&String>, Vec<Letter<'_>>)> = BTreeMap::new();
        let mut soonest: Option<Timestamp> = None;
        for (name, meta) in &self.known {
            if let Some(backoff) = self.ledger.mails.get(name)
                && !backoff.is_due(clock.boot)
            {
                soonest = Some(soonest.map_or(backoff.next, |s| s.min(backoff.next)));
                continue;
            }
            let (names, letters) = by_recipient.entry(&meta.to).or_default();
            names.push(name);
            letters.push(letter(meta, clock));
        }
        let empty = Postbox::default();
        let mut best: Option<((bool, Timestamp), &String)> = None;
        for (to, (names, letters)) in &by_recipient {
            let postbox = self.ledger.postboxes.get(*to).unwrap_or(&empty);
            match postbox.next(clock.boot, self.mail.limit, letters) {
                Dispatch::Nothing => {}
                Dispatch::Wait(until) => soonest = Some(soonest.map_or(until, |s| s.min(until))),
                Dispatch::Merge(indices) => {
                    return Choice::Merge(indices.iter().map(|i| names[*i].clone()).collect());
                }
                Dispatch::Send(index) => {
                    let rank = (!letters[index].kind.goes_first(), letters[index].arrived);
                    if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                        best = Some((rank, names[index]));
                    }
                }
            }
        }
        match (best, soonest) {
            (Some((_, name)), _) => Choice::Send(name.clone()),
            (None, Some(until)) => Choice::Wait(until),
            (None, None) => Choice::Nothing,
        }
    }

    fn load(&self, name: &str) -> Option<Job> {
        let meta = self.known.get(name)?.clone();
        let stored = self.spool.as_ref().ok()?.read(name).ok()?;
        let source = Source::File(name.to_owned(), meta);
        Some(Job { source, envelope: stored.envelope, to: stored.to })
    }

    fn merge(&mut self, names: &[String], clock: &Clock) -> Result<(), String> {
        let Ok(spool) = &mut self.spool else { return Err("there is no spool".to_owned()) };
        let (mut notices, mut merged, mut to) = (Vec::new(), Vec::new(), String::new());
        for name in names {
            match spool.read(name) {
                Ok(stored) => {
                    let mut notice = stored.envelope;
                    notice.body = notice.body.chars().take(EXCERPT).collect();
                    notices.push(notice);
                    merged.push(name.clone());
                    to = stored.to;
                }
                Err(cause) => _ = self.bad.insert(name.clone(), cause),
            }
            self.known.remove(name);
        }
        if notices.is_empty() {
            return Ok(());
        }
        let mut stored = Stored::new(&digest(&notices, &to, clock.wall), &to, clock.wall);
        stored.merged = merged;
        let name = spool.write(&stored)?;
        spool.remove_merged(&stored.merged)?;
        let (meta, _) = spool.meta(&name)?;
        self.known.insert(name, meta);
        Ok(())
    }

    /// What a try brought.
    pub(super) fn finish(&mut self, job: &Job, outcome: Outcome, clock: &Clock) -> Vec<MailReply> {
        let replies = match &job.source {
            Source::Direct => self.finish_direct(job, outcome, clock),
            Source::File(name, meta) => self.finish_file(job, (name, meta), outcome, clock),
        };
        if self.lock.is_some()
            && let Ok(spool) = &mut self.spool
            && let Err(cause) = self.ledger.save(spool, clock, self.mail.limit)
        {
            self.trouble.push(cause);
        }
        replies
    }

    fn finish_file(
        &mut self,
        job: &Job,
        (name, meta): (&String, &Meta),
        outcome: Outcome,
        clock: &Clock,
    ) -> Vec<MailReply> {
        let Ok(spool) = &mut self.spool else { return Vec::new() };
        let (id, to) = (job.envelope.id.clone(), job.to.clone());
        match outcome {
            Outcome::Sent { subject } => {
                self.known.remove(name);
                if let Err(cause) = spool.remove(name, meta.size) {
                    // It must not go again and again: not by this mailer, and later the rarer.
                    let backoff = self.ledger.mails.entry(name.clone()).or_default();
                    backoff.fail(clock.boot, cause.clone());
                    self.bad.insert(name.clone(), cause);
                } else {
                    self.ledger.mails.remove(name);
                }
                self.ledger.server = Default::default();
                let postbox = self.ledger.postboxes.entry(to.clone()).or_default();
                postbox.note_sent(clock.boot, self.mail.limit, &letter(meta, clock));
                vec![MailReply::Sent { id, to, subject }]
            }
            Outcome::Refused(error) => match spool.bury(name, meta.size, &error) {
                Ok(()) => {
                    self.known.remove(name);
                    self.ledger.mails.remove(name);
                    self.ledger.server = Default::default();
                    vec![MailReply::Dead { id, to, error }]
                }
                Err(cause) => {
                    let error = format!("{error}; {cause}");
                    self.ledger.mails.entry(name.clone()).or_default().fail(clock.boot, error);
                    Vec::new()
                }
            },
            Outcome::MailLater(error) => {
                self.ledger.server = Default::default();
                self.ledger.mails.entry(name.clone()).or_default().fail(clock.boot, error);
                Vec::new()
            }
            Outcome::ServerLater(error) => {
                self.ledger.server.fail(clock.boot, error);
                Vec::new()
            }
        }
    }

    fn finish_direct(&mut self, job: &Job, outcome: Outcome, clock: &Clock) -> Vec<MailReply> {
        let Some(mut direct) = self.direct.pop_front() else { return Vec::new() };
        let id = direct.envelope.id.clone();
        let mut replies = Vec::new();
        match outcome {
            Outcome::Sent { subject } => {
                direct.left.pop_front();
                let letter = direct_letter(&direct.envelope, clock);
                let postbox = self.ledger.postboxes.entry(job.to.clone()).or_default();
                postbox.note_sent(clock.boot, self.mail.limit, &letter);
                replies.push(MailReply::Sent { id: id.clone(), to: job.to.clone(), subject });
            }
            Outcome::Refused(error) => {
                direct.left.pop_front();
                replies.push(MailReply::Dead { id: id.clone(), to: job.to.clone(), error });
            }
            Outcome::MailLater(error) => {
                self.direct.push_front(direct);
                return vec![self.give_back(&error)];
            }
            Outcome::ServerLater(error) => {
                // The others would fare no better.
                self.ledger.server.fail(clock.boot, error.clone());
                let all = std::iter::once(direct).chain(self.direct.drain(..));
                return all
                    .map(|direct| MailReply::NotSpooled {
                        id: direct.envelope.id,
                        error: format!("{}; {error}", direct.why),
                    })
                    .collect();
            }
        }
        if direct.left.is_empty() {
            replies.push(MailReply::Spooled { id });
        } else {
            self.direct.push_front(direct);
        }
        replies
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

/// Milliseconds after which the master looks again when another mailer delivers just now: that one
/// will tell better when it ends.
const ELSEWHERE: u64 = 30_000;

enum Choice {
    Send(String),
    Merge(Vec<String>),
    Wait(Timestamp),
    Nothing,
}

fn direct_letter<'m>(envelope: &'m Envelope, clock: &Clock) -> Letter<'m> {
    Letter {
        kind: envelope.kind,
        chain: envelope.chain.as_deref(),
        arrived: clock.boot,
        merged: false,
    }
}

fn letter<'m>(meta: &'m Meta, clock: &Clock) -> Letter<'m> {
    Letter {
        kind: meta.kind,
        chain: meta.chain.as_deref(),
        arrived: clock.on_boot_clock(meta.spooled),
        merged: meta.merged,
    }
}
