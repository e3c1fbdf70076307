//! Which mail goes next: first what could not be spooled, then by recipient and postbox.

use std::collections::BTreeMap;

use super::{Desk, Job, Next, Source};
use crate::mailer::ledger::Clock;
use crate::mailer::spool::{Meta, Stored};
use crate::policy::digest::digest;
use crate::policy::postbox::{Dispatch, Letter, Postbox};
use crate::wire::mail::{Envelope, MailReply};
use crate::wire::time::Timestamp;

/// Characters of a body that a digest can show.
const EXCERPT: usize = 2_000;

/// What the postboxes say.
pub(super) enum Choice {
    Send(String),
    Merge(Vec<String>),
    Wait(Timestamp),
    Nothing,
}

impl Desk<'_> {
    /// Which mail goes next.
    pub(in crate::mailer) fn next(&mut self, clock: &Clock) -> Next {
        if let Some(first) = self.direct.front()
            && let Some(to) = first.left.front()
        {
            let (envelope, to) = (first.envelope.clone(), to.clone());
            return match self.direct_hold(&envelope, &to, clock) {
                Some(why) => Next::GiveBack(self.give_back(&why)),
                None => {
                    // Without a spool nothing else is known of the thread.
                    let heard = self.answers_to(&envelope, &to);
                    let answers_to = heard.or_else(|| envelope.answers_to());
                    let (source, threads) = (Source::Direct, Vec::new());
                    Next::Deliver(Box::new(Job { source, envelope, to, answers_to, threads }))
                }
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

    pub(super) fn give_back(&mut self, why: &str) -> MailReply {
        let direct = self.direct.pop_front();
        let (id, cause) = direct.map(|d| (d.envelope.id, d.why)).unwrap_or_default();
        MailReply::NotSpooled { id, error: format!("{cause}; {why}") }
    }

    pub(super) fn choose(&self, clock: &Clock) -> Choice {
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
        let Stored { envelope, to, threads, .. } = stored;
        let answers_to = self.answers_to(&envelope, &to);
        Some(Job { source, envelope, to, answers_to, threads })
    }

    /// A thread holds for each recipient: a mail answers to what this one got first of it, be it a
    /// digest, and to nothing that only others got.
    fn answers_to(&self, envelope: &Envelope, to: &str) -> Option<String> {
        let heard = self.ledger.heard(to, envelope.thread.as_deref()?)?;
        (heard != envelope.id).then(|| heard.to_owned())
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
        let held: Vec<&Envelope> = notices.iter().collect();
        let mut stored = Stored::new(&digest(&held, &to, clock.wall), &to, clock.wall);
        stored.merged = merged;
        let threads = notices.iter().filter_map(|n| Some((n.thread.clone()?, n.kind.closes())));
        stored.threads = threads.collect();
        let name = spool.write(&stored)?;
        spool.remove_merged(&stored.merged)?;
        let (meta, _) = spool.meta(&name)?;
        self.known.insert(name, meta);
        Ok(())
    }
}

pub(super) fn direct_letter<'m>(envelope: &'m Envelope, clock: &Clock) -> Letter<'m> {
    Letter {
        kind: envelope.kind,
        chain: envelope.chain.as_deref(),
        arrived: clock.boot,
        merged: false,
    }
}

pub(super) fn letter<'m>(meta: &'m Meta, clock: &Clock) -> Letter<'m> {
    Letter {
        kind: meta.kind,
        chain: meta.chain.as_deref(),
        arrived: clock.on_boot_clock(meta.spooled),
        merged: meta.merged,
    }
}
