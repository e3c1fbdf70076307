//! The mails as they arrive: every recipient has a postbox that holds back bursts and what is
//! over the limit. The mail server of a simulation never fails.

use std::collections::BTreeMap;

use super::Arrival;
use crate::config::model::Limit;
use crate::policy::digest::digest;
use crate::policy::postbox::{Dispatch, Letter, Postbox};
use crate::wire::mail::Envelope;
use crate::wire::time::{Timestamp, WallTime};

/// Delivers `mails` (in order of time).
pub(super) fn deliver(
    mails: &[(Timestamp, Envelope)],
    limit: Limit,
    wall_at_zero: i64,
) -> Vec<Arrival> {
    let mut of: BTreeMap<&str, Vec<(Timestamp, &Envelope)>> = BTreeMap::new();
    for (at, mail) in mails {
        for to in &mail.to {
            of.entry(to).or_default().push((*at, mail));
        }
    }
    let mut arrivals: Vec<Arrival> = Vec::new();
    for (to, letters) in of {
        deliver_to(to, &letters, limit, wall_at_zero, &mut arrivals);
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// A mail that waits at a postbox.
struct Waiting {
    arrived: Timestamp,
    merged: bool,
    mail: Envelope,
}

impl Waiting {
    fn letter(&self) -> Letter<'_> {
        let chain = self.mail.chain.as_deref();
        Letter { kind: self.mail.kind, chain, arrived: self.arrived, merged: self.merged }
    }
}

fn deliver_to(
    to: &str,
    letters: &[(Timestamp, &Envelope)],
    limit: Limit,
    wall_at_zero: i64,
    arrivals: &mut Vec<Arrival>,
) {
    let mut postbox = Postbox::default();
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut coming = letters.iter().peekable();
    let Some((mut now, _)) = letters.first().copied() else { return };
    loop {
        while let Some((arrived, mail)) = coming.next_if(|(at, _)| *at <= now) {
            let mail = Envelope { to: vec![to.to_owned()], ..(*mail).clone() };
            waiting.push(Waiting { arrived: *arrived, merged: false, mail });
        }
        let seen: Vec<Letter<'_>> = waiting.iter().map(Waiting::letter).collect();
        let next = coming.peek().map(|(at, _)| *at);
        match postbox.next(now, limit, &seen) {
            Dispatch::Nothing => match next {
                Some(next) => now = next,
                None => return,
            },
            Dispatch::Wait(until) => {
                let until = until.max(Timestamp(now.0.saturating_add(1)));
                now = next.map_or(until, |next| next.min(until));
            }
            Dispatch::Send(place) => {
                let sent = waiting.remove(place.min(waiting.len().saturating_sub(1)));
                postbox.note_sent(now, limit, &sent.letter());
                arrivals.push(Arrival { at: now, to: to.to_owned(), mail: sent.mail });
            }
            Dispatch::Merge(places) => {
                let wall = u64::try_from(wall_at_zero.saturating_add(now.0)).unwrap_or(0);
                let merged = places.iter().filter_map(|place| Some(&waiting.get(*place)?.mail));
                let mail = digest(&merged.collect::<Vec<_>>(), to, WallTime(wall));
                let mut place = 0;
                waiting.retain(|_| {
                    place += 1;
                    !places.contains(&(place - 1))
                });
                waiting.push(Waiting { arrived: now, merged: true, mail });
            }
        }
    }
}
