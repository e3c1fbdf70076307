//! Logs that cannot be written: the main log, and the file of a chain's output. No run fails
//! because of it and nothing waits, so the admins are told once when it begins and once when it
//! is over; of one log again after 12 h at the earliest, however often its disk fills up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::desk::{Notice, NoticeDesk, Thread};
use super::text::{Body, message, when};
use crate::wire::mail::NoticeKind;
use crate::wire::time::{Timestamp, WallTime};

/// After which trouble with the same log is told again.
const AGAIN: Duration = Duration::from_secs(12 * 3600);

/// Trouble with one log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Trouble {
    /// It cannot be written now.
    open: bool,
    /// When it was mailed last that it cannot.
    told: Option<Timestamp>,
    /// That was about what is open now.
    mailed: bool,
    thread: u64,
    /// Times that were not mailed since.
    withheld: u64,
}

/// What the admins are to be told of it.
enum Telling {
    Fails { withheld: u64 },
    Works,
}

impl Trouble {
    fn fails(&mut self, quiet: bool, thread: u64, now: Timestamp) -> Option<Telling> {
        if std::mem::replace(&mut self.open, true) {
            return None;
        }
        if quiet || self.told.is_some_and(|told| now.since(told) < AGAIN) {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        }
        (self.told, self.mailed, self.thread) = (Some(now), true, thread);
        Some(Telling::Fails { withheld: std::mem::take(&mut self.withheld) })
    }

    fn works(&mut self) -> Option<Telling> {
        self.open = false;
        std::mem::take(&mut self.mailed).then_some(Telling::Works)
    }

    pub(crate) fn shift(&mut self, shift: i64) {
        if let Some(told) = &mut self.told {
            told.0 = told.0.saturating_add(shift);
        }
    }
}

impl NoticeDesk {
    /// The main log cannot be written: `what` says "cannot VERB OBJECT: CAUSE".
    pub fn log_fails(&mut self, what: &str, now: Timestamp, wall: WallTime) {
        let thread = self.unique("log", wall);
        if let Some(telling) = self.log_trouble.fails(false, thread, now) {
            self.tell_trouble(None, &telling, what, 0, now, wall);
        }
    }

    /// The main log is written again; `lost` records ever were not.
    pub fn log_works(&mut self, lost: u64, now: Timestamp, wall: WallTime) {
        if let Some(telling) = self.log_trouble.works() {
            self.tell_trouble(None, &telling, "the log is written again", lost, now, wall);
        }
    }

    /// A chain's output cannot be written into its file.
    pub fn output_fails(&mut self, chain: &str, what: &str, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        let thread = self.unique(chain, wall);
        let chain = &mut self.chains[place];
        let quiet = chain.quiet(now);
        if let Some(telling) = chain.output.fails(quiet, thread, now) {
            self.tell_trouble(Some(place), &telling, what, 0, now, wall);
        }
    }

    /// It is written again; `lost` lines ever were not.
    pub fn output_works(&mut self, chain: &str, lost: u64, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        if let Some(telling) = self.chains[place].output.works() {
            let what = "the output is written again";
            self.tell_trouble(Some(place), &telling, what, lost, now, wall);
        }
    }

    fn tell_trouble(
        &mut self,
        place: Option<usize>,
        telling: &Telling,
        what: &str,
        lost: u64,
        now: Timestamp,
        wall: WallTime,
    ) {
        let trouble = place.map_or(&self.log_trouble, |place| &self.chains[place].output);
        let begins = matches!(telling, Telling::Fails { .. });
        let thread = Thread { of: trouble.thread, begins };
        let said = message(what, "the log cannot be written");
        let mut letters = said.chars();
        let words: String = letters
            .next()
            .map(|first| first.to_ascii_uppercase())
            .into_iter()
            .chain(letters)
            .collect();
        let mut out = Body::new();
        out.line(&format!("{words}."));
        let (kind, withheld) = match telling {
            Telling::Fails { withheld } => {
                out.line("Runs go on, and so do notices; what cannot be written is counted.");
                out.blank();
                out.fact("Next", "make room; writing is tried again all the time");
                if *withheld > 0 {
                    let why = format!("the same trouble, {withheld} times since the last mail");
                    out.fact("Not mailed", &why);
                }
                (NoticeKind::First, *withheld)
            }
            Telling::Works => {
                out.blank();
                out.fact("Lost", &format!("{lost} lines since the start, told in the log too"));
                (NoticeKind::Healed, 0)
            }
        };
        if let Some(place) = place {
            out.fact("Chain", &self.chains[place].rules.name);
        }
        out.fact("Host", &self.host);
        out.fact("Time", &when(wall));
        let notice = Notice { kind, words, body: out.finish(), thread, withheld };
        self.post(place, None, notice, now, wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_disk_that_fills_up_again_and_again_brings_two_mails_in_twelve_hours() {
        let mut trouble = Trouble::default();
        let mut told = Vec::new();
        for minute in 0..(25 * 60) {
            let now = Timestamp(minute * 60_000);
            match trouble.fails(false, 7, now) {
                Some(Telling::Fails { withheld }) => told.push((minute / 60, withheld)),
                Some(Telling::Works) => unreachable!(),
                None => {}
            }
            assert!(trouble.fails(false, 8, now).is_none(), "it is known");
            if trouble.works().is_some() {
                told.push((minute / 60, 0));
            }
        }
        assert_eq!(told, [(0, 0), (0, 0), (12, 719), (12, 0), (24, 719), (24, 0)]);
    }

    #[test]
    fn a_silenced_chain_is_told_of_after_the_silence() {
        let mut trouble = Trouble::default();
        assert!(trouble.fails(true, 7, Timestamp(0)).is_none());
        assert!(trouble.works().is_none());
        assert!(trouble.fails(false, 7, Timestamp(HOUR)).is_some());
        trouble.shift(-HOUR);
        assert_eq!(trouble.told, Some(Timestamp(0)));
    }
}
