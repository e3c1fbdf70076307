//! When the mails of one recipient go, and which go together: the burst rule, the limit per window
//! and what goes first. The mailer asks before each delivery, a simulation on its virtual clock.
//! It calls nobody.
//!
//! Two rules close a postbox for a while; what arrived before it opens again goes as one digest
//! then:
//!
//! - **Burst**: once mails of 5 chains went within 60 s, nothing goes until that minute, counted
//!   from the first of the five, is over.
//! - **Limit**: once `mails` went in a window of `per` (it starts with its first mail), nothing
//!   goes until the window ends. The digest is the first mail of the next window.
//!
//! REACHED and REFUSED *go first*: whenever there is room they are sent before everything else
//! that waits; when a window has ended, up to four of them go as mails of their own before the
//! digest takes the rest; and what is left of them stands first in the digest. They count like
//! every other mail, so the bound is exact. TEST, which an operator asked for and waits for, is
//! never held.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::model::Limit;
use crate::wire::mail::NoticeKind;
use crate::wire::time::Timestamp;

/// Mails of this many chains within [`BURST_WINDOW`] close the postbox.
pub const BURST_CHAINS: usize = 5;

/// How long a burst is counted and how long it closes the postbox.
pub const BURST_WINDOW: Duration = Duration::from_secs(60);

/// What has gone to one recipient lately. It is kept with the spool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Postbox {
    /// When the window began: its first mail.
    start: Timestamp,
    /// Mails sent in the window; 0: there was none yet.
    sent: u32,
    /// Chains of which a mail went lately, each with its first; fewer than [`BURST_CHAINS`].
    recent: Vec<(Timestamp, String)>,
    /// Until then nothing goes; what arrived before goes together.
    hold: Option<Hold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Hold {
    until: Timestamp,
    /// The window was used up (and not only a burst).
    by_limit: bool,
}

/// A mail that waits, as far as this decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// What it tells.
    pub kind: NoticeKind,
    /// Of which chain.
    pub chain: Option<&'a str>,
    /// When it came to the postbox.
    pub arrived: Timestamp,
    /// It is a digest made by [`Dispatch::Merge`]: it is not held by a burst or merged again.
    pub merged: bool,
}

/// What to do with the letters of one recipient now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dispatch {
    /// No letter waits.
    Nothing,
    /// Send this one (an index).
    Send(usize),
    /// Make one digest of these, in this order, and ask again.
    Merge(Vec<usize>),
    /// Ask again then.
    Wait(Timestamp),
}

impl Postbox {
    /// What to do now with the letters that wait, in any order.
    pub fn next(&self, now: Timestamp, limit: Limit, letters: &[Letter<'_>]) -> Dispatch {
        let oldest_of = |wanted: &dyn Fn(&Letter<'_>) -> bool| {
            (0..letters.len())
                .filter(|index| wanted(&letters[*index]))
                .min_by_key(|index| (letters[*index].arrived, *index))
        };
        if letters.is_empty() {
            return Dispatch::Nothing;
        }
        if let Some(test) = oldest_of(&|letter| letter.kind == NoticeKind::Test) {
            return Dispatch::Send(test);
        }
        let hold = self.hold.filter(|hold| {
            // Never longer than a window: a hold of a longer limit, or of another boot, is over.
            hold.until.since(now) <= limit.per.max(BURST_WINDOW)
        });
        if let Some(hold) = hold
            && now < hold.until
        {
            return Dispatch::Wait(hold.until);
        }
        if let Some(digest) = oldest_of(&|letter| letter.merged) {
            return Dispatch::Send(digest);
        }
        let held = |letter: &Letter<'_>| hold.is_some_and(|hold| letter.arrived < hold.until);
        let mut together: Vec<usize> =
            (0..letters.len()).filter(|index| held(&letters[*index])).collect();
        if together.len() > 1 {
            let by_limit = hold.is_some_and(|hold| hold.by_limit);
            let room = limit.mails.saturating_sub(self.sent_in_window(now, limit));
            let first = oldest_of(&|letter| held(letter) && letter.kind.goes_first());
            if let Some(first) = first
                && by_limit
                && room > 1
                && self.recent_at(now).count() + 1 < BURST_CHAINS
            {
                return Dispatch::Send(first);
            }
            together.sort_by_key(|index| {
                let letter = &letters[*index];
                (!letter.kind.goes_first(), letter.arrived, *index)
            });
            return Dispatch::Merge(together);
        }
        oldest_of(&|letter| letter.kind.goes_first())
            .or_else(|| oldest_of(&|_| true))
            .map_or(Dispatch::Nothing, Dispatch::Send)
    }

    /// Takes note of a mail that went.
    pub fn note_sent(&mut self, now: Timestamp, limit: Limit, letter: &Letter<'_>) {
        self.sent = self.sent_in_window(now, limit);
        if self.sent == 0 {
            self.start = now;
        }
        self.sent = self.sent.saturating_add(1);
        self.recent = self.recent_at(now).cloned().collect();
        if letter.merged {
            self.recent.clear();
        } else if let Some(chain) = letter.chain
            && letter.kind != NoticeKind::Test
            && !self.recent.iter().any(|(_, known)| known == chain)
        {
            self.recent.push((now, chain.to_owned()));
        }
        if self.recent.len() >= BURST_CHAINS {
            let first = self.recent.first().map_or(now, |(at, _)| *at);
            self.close_until(first + BURST_WINDOW, false);
            self.recent.clear();
        }
        if self.sent >= limit.mails {
            self.close_until(self.start + limit.per, true);
        }
    }

    /// Whether nothing is remembered that could still matter.
    pub fn is_stale(&self, now: Timestamp, limit: Limit) -> bool {
        self.sent_in_window(now, limit) == 0
            && self.recent_at(now).next().is_none()
            && self.hold.is_none_or(|hold| hold.until <= now)
    }

    /// Moves every time by `delta` milliseconds: the clock began anew at a reboot.
    pub fn shift(&mut self, delta: i64) {
        let moved = |at: Timestamp| Timestamp(at.0.saturating_add(delta));
        self.start = moved(self.start);
        for (at, _) in &mut self.recent {
            *at = moved(*at);
        }
        if let Some(hold) = &mut self.hold {
            hold.until = moved(hold.until);
        }
    }

    fn close_until(&mut self, until: Timestamp, by_limit: bool) {
        let replace = self.hold.is_none_or(|hold| hold.until <= until);
        if replace {
            self.hold = Some(Hold { until, by_limit });
        }
    }

    fn sent_in_window(&self, now: Timestamp, limit: Limit) -> u32 {
        if self.sent > 0 && now >= self.start && now < self.start + limit.per {
            self.sent
        } else {
            0
        }
    }

    fn recent_at(&self, now: Timestamp) -> impl Iterator<Item = &(Timestamp, String)> {
        self.recent.iter().filter(move |(at, _)| *at <= now && now.since(*at) < BURST_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { mails: 3, per: Duration::from_secs(100) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn letter(kind: NoticeKind, chain: &str, arrived: i64) -> Letter<'_> {
        Letter { kind, chain: Some(chain), arrived: at(arrived), merged: false }
    }

    /// Drives a postbox as the mailer does; returns (time, mail) where a digest is its size.
    fn deliver(arrivals: &[Letter<'_>], limit: Limit, until: i64) -> Vec<(i64, String)> {
        let mut postbox = Postbox::default();
        let mut waiting: Vec<Letter<'_>> = Vec::new();
        let mut digest = 0;
        let mut gone = Vec::new();
        for second in 0..until {
            waiting.extend(arrivals.iter().filter(|letter| letter.arrived == at(second)));
            loop {
                match postbox.next(at(second), limit, &waiting) {
                    Dispatch::Nothing | Dispatch::Wait(_) => break,
                    Dispatch::Send(index) => {
                        let sent = waiting.remove(index);
                        postbox.note_sent(at(second), limit, &sent);
                        let name = match sent.merged {
                            true => format!("digest of {digest}"),
                            false => format!("{} {}", sent.kind.word(), sent.chain.unwrap_or("")),
                        };
                        gone.push((second, name));
                    }
                    Dispatch::Merge(indices) => {
                        digest = indices.len();
                        let merged = |index: &usize| indices.contains(index);
                        waiting = (0..waiting.len())
                            .filter(|index| !merged(index))
                            .map(|index| waiting[index])
                            .collect();
                        waiting.push(Letter {
                            kind: NoticeKind::Digest,
                            chain: None,
                            arrived: at(second),
                            merged: true,
                        });
                    }
                }
            }
        }
        gone
    }

    #[test]
    fn over_the_limit_the_rest_arrives_as_one_digest_at_the_windows_end() {
        let arrivals: Vec<_> = (0..10).map(|n| letter(NoticeKind::New, "a", n)).collect();
        let gone = deliver(&arrivals, LIMIT, 300);
        let expected = [(0, "NEW a"), (1, "NEW a"), (2, "NEW a"), (100, "digest of 7")];
        assert_eq!(gone, expected.map(|(second, name)| (second, name.to_owned())));
    }

    #[test]
    fn one_held_mail_is_no_digest() {
        let arrivals: Vec<_> = (0..4).map(|n| letter(NoticeKind::New, "a", n)).collect();
        assert_eq!(deliver(&arrivals, LIMIT, 300)[3], (100, "NEW a".to_owned()));
    }

    #[test]
    fn reached_goes_before_the_digest() {
        let mut arrivals: Vec<_> = (0..8).map(|n| letter(NoticeKind::New, "a", n)).collect();
        arrivals.push(letter(NoticeKind::Reached, "b", 50));
        let gone = deliver(&arrivals, LIMIT, 300);
        assert_eq!(gone[3..], [(100, "REACHED b".to_owned()), (100, "digest of 5".to_owned())]);
    }

    #[test]
    fn a_burst_of_five_chains_turns_the_rest_of_the_minute_into_one_mail() {
        let chains: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
        let arrivals: Vec<_> = (0..50_i64)
            .map(|n| letter(NoticeKind::First, &chains[usize::try_from(n).unwrap()], 10 + n / 25))
            .collect();
        let limit = Limit { mails: 30, per: Duration::from_secs(3600) };
        let gone = deliver(&arrivals, limit, 300);
        assert_eq!(gone.len(), 6, "{gone:?}");
        assert_eq!(gone[5], (70, "digest of 45".to_owned()));
    }

    #[test]
    fn a_test_mail_is_never_held() {
        let mut arrivals: Vec<_> = (0..8).map(|n| letter(NoticeKind::New, "a", n)).collect();
        arrivals.push(letter(NoticeKind::Test, "", 50));
        assert!(deliver(&arrivals, LIMIT, 90).contains(&(50, "TEST ".to_owned())));
    }

    #[test]
    fn what_arrives_long_after_a_full_window_goes_alone() {
        let mut arrivals: Vec<_> = (0..3).map(|n| letter(NoticeKind::New, "a", n)).collect();
        arrivals.extend([letter(NoticeKind::New, "a", 500), letter(NoticeKind::New, "a", 500)]);
        assert_eq!(deliver(&arrivals, LIMIT, 900).len(), 5);
    }

    proptest::proptest! {
        #[test]
        fn no_history_exceeds_the_limit_in_any_window_and_nothing_stays(
            arrivals in proptest::collection::vec((0_i64..600, 0_usize..8, proptest::bool::ANY), 0..120),
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let letters: Vec<_> = arrivals
                .iter()
                .map(|(second, chain, first)| {
                    let kind = if *first { NoticeKind::Reached } else { NoticeKind::New };
                    letter(kind, names[*chain], *second)
                })
                .collect();
            let gone = deliver(&letters, LIMIT, 2000);
            for (begin, _) in &gone {
                let within = gone.iter().filter(|(at, _)| (*begin..begin + 100).contains(at));
                proptest::prop_assert!(within.count() <= 2 * LIMIT.mails as usize);
            }
            let told = |name: &String| match name.strip_prefix("digest of ") {
                Some(count) => count.parse().unwrap(),
                None => 1,
            };
            let told: usize = gone.iter().map(|(_, name)| told(name)).sum();
            proptest::prop_assert_eq!(told, letters.len());
        }
    }
}
