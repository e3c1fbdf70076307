//! Bursts: once notices of [`CHAINS`] chains went to a recipient within a minute, the further
//! ones of that minute go to it as one mail. When the database is down, fifty chains are six
//! mails.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::{Body, MAX_BODY, when};
use crate::policy::safe;
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::{Timestamp, WallTime};

/// Chains whose notices go out one by one within [`MINUTE`].
const CHAINS: usize = 5;
/// How long a burst lasts, from the first notice of it.
const MINUTE: Duration = Duration::from_secs(60);
/// Held notices that are kept with their words; more are only counted.
const KEPT: usize = 2000;

/// A notice that waits for the end of its minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    id: String,
    chain: String,
    task: Option<String>,
    /// The subject's words, without the task.
    words: String,
    at: WallTime,
    /// Kept for the first of a burst only: if it stays alone, it goes out as it is.
    whole: Option<Envelope>,
}

/// One recipient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Recipient {
    /// The chains told of within the last minute, and when last.
    recent: Vec<(Timestamp, String)>,
    /// The end of the minute, while a burst goes on.
    closes: Option<Timestamp>,
    held: Vec<Held>,
    more: u64,
}

/// The bursts of all recipients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bursts {
    recipients: BTreeMap<String, Recipient>,
}

impl Bursts {
    /// Takes a notice: what goes out at once, with the recipients who get it so; the rest waits.
    pub(crate) fn admit(
        &mut self,
        mut envelope: Envelope,
        words: &str,
        now: Timestamp,
    ) -> Option<Envelope> {
        let Some(chain) = envelope.chain.clone() else { return Some(envelope) };
        let mut at_once = Vec::new();
        for address in std::mem::take(&mut envelope.to) {
            let recipient = self.recipients.entry(address.clone()).or_default();
            if recipient.closes.is_some_and(|closes| now < closes) {
                recipient.hold(&address, &envelope, &chain, words);
                continue;
            }
            recipient.recent.retain(|(at, known)| now.since(*at) < MINUTE && *known != chain);
            recipient.recent.push((now, chain.clone()));
            if recipient.recent.len() >= CHAINS {
                let first = recipient.recent.iter().map(|(at, _)| *at).min().unwrap_or(now);
                recipient.closes = Some(first + MINUTE);
            }
            at_once.push(address);
        }
        envelope.to = at_once;
        (!envelope.to.is_empty()).then_some(envelope)
    }

    /// When something that is held must go out.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        self.recipients.values().filter(|r| !r.held.is_empty()).filter_map(|r| r.closes).min()
    }

    /// Notices of a chain that wait.
    pub(crate) fn held_of(&self, chain: &str) -> usize {
        let of = |recipient: &Recipient| recipient.held.iter().filter(|h| h.chain == chain).count();
        self.recipients.values().map(of).max().unwrap_or(0)
    }

    /// What goes out because its minute is over; the same list for several recipients is one
    /// envelope. `id` names an envelope.
    pub(crate) fn due(
        &mut self,
        now: Timestamp,
        wall: WallTime,
        mut id: impl FnMut(&str) -> String,
    ) -> Vec<Envelope> {
        let mut out: Vec<(Vec<Held>, u64, Vec<String>)> = Vec::new();
        for (address, recipient) in &mut self.recipients {
            if recipient.closes.is_none_or(|closes| closes > now) {
                continue;
            }
            recipient.closes = None;
            recipient.recent.clear();
            let held = std::mem::take(&mut recipient.held);
            let more = std::mem::take(&mut recipient.more);
            if held.is_empty() {
                continue;
            }
            let same = |(list, _, _): &&mut (Vec<Held>, u64, Vec<String>)| {
                list.len() == held.len() && list.iter().zip(&held).all(|(a, b)| a.id == b.id)
            };
            match out.iter_mut().find(same) {
                Some((_, _, to)) => to.push(address.clone()),
                None => out.push((held, more, vec![address.clone()])),
            }
        }
        self.recipients.retain(|_, r| {
            r.closes.is_some() || r.recent.iter().any(|(at, _)| now.since(*at) < MINUTE)
        });
        out.into_iter()
            .map(|(mut held, more, to)| {
                match held.first_mut().and_then(|first| first.whole.take()) {
                    Some(whole) if held.len() == 1 && more == 0 => Envelope { to, ..whole },
                    _ => digest(&held, more, to, wall, id("burst")),
                }
            })
            .collect()
    }

    /// Moves every time by `shift` milliseconds.
    pub(crate) fn shift(&mut self, shift: i64) {
        for recipient in self.recipients.values_mut() {
            let times = recipient.recent.iter_mut().map(|(at, _)| at);
            for time in times.chain(&mut recipient.closes) {
                time.0 = time.0.saturating_add(shift);
            }
        }
    }
}

impl Recipient {
    fn hold(&mut self, address: &str, envelope: &Envelope, chain: &str, words: &str) {
        if self.held.len() >= KEPT {
            self.more = self.more.saturating_add(1);
            return;
        }
        let whole = self
            .held
            .is_empty()
            .then(|| Envelope { to: vec![address.to_owned()], ..envelope.clone() });
        self.held.push(Held {
            id: envelope.id.clone(),
            chain: chain.to_owned(),
            task: envelope.task.clone(),
            words: words.to_owned(),
            at: envelope.at,
            whole,
        });
    }
}

/// Several notices as one mail: grouped by what they say, since one cause often fails many.
fn digest(held: &[Held], more: u64, to: Vec<String>, wall: WallTime, id: String) -> Envelope {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for notice in held {
        let who = match &notice.task {
            Some(task) => format!("{}/{task}", notice.chain),
            None => format!("chain {}", notice.chain),
        };
        match groups.iter_mut().find(|(words, _)| *words == notice.words) {
            Some((_, names)) => names.push(who),
            None => groups.push((&notice.words, vec![who])),
        }
    }
    let count = held.len() as u64 + more;
    let mut out = Body::new();
    out.line(&format!("{count} more notices came within a minute; this one mail tells them all."));
    let mut room = MAX_BODY - 1024;
    let mut untold = more;
    for (words, names) in &groups {
        let title = format!("{words} ({}):", names.len());
        if title.len() + 8 > room {
            untold += names.len() as u64;
            continue;
        }
        room -= title.len() + 8;
        out.blank();
        out.line(&safe::line(&title, 400));
        for name in names {
            if name.len() + 5 > room {
                untold += 1;
                continue;
            }
            room -= name.len() + 5;
            out.hanging("    ", name);
        }
    }
    if untold > 0 {
        out.blank();
        out.line(&format!("and {untold} more; `runnerctl notices` lists the latest."));
    }
    out.blank();
    if let (Some(first), Some(last)) = (held.first(), held.last()) {
        out.fact("From", &when(first.at));
        out.fact("To", &when(last.at));
    }
    Envelope {
        id,
        thread: None,
        kind: NoticeKind::Digest,
        to,
        subject: format!("[runner] {count} notices"),
        body: out.finish(),
        chain: None,
        task: None,
        at: wall,
    }
}
