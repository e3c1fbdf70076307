//! Logs that cannot be written: the main log, and the file of a chain's output. No run fails
//! because of it and nothing waits, so the admins are told once when it begins and once when it
//! is over; of one log again after 12 h at the earliest, however often its disk fills up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::desk::{Notice, NoticeDesk, Thread};
use super::text::{Body, message, span, when};
use crate::policy::safe;
use crate::wire::mail::NoticeKind;
use crate::wire::time::{Timestamp, WallTime};
use crate::wire::words::counted;

/// After which trouble with the same log is told again.
const AGAIN: Duration = Duration::from_secs(12 * 3600);

/// Trouble with one log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Trouble {
    /// It cannot be written now.
    open: bool,
    /// Since when, while it is open.
    since: Timestamp,
    /// What cannot be done, as it was said when it began.
    what: String,
    /// When it was mailed last that it cannot.
    told: Option<Timestamp>,
    /// Its end is to be mailed, since its beginning was.
    mailed: bool,
    thread: u64,
    /// Times that began and were over without a mail, since the last one.
    withheld: u64,
    /// Lines lost so far, as it was said when it was over.
    lost: u64,
}

/// What the admins are to be told of it.
#[derive(Debug, PartialEq, Eq)]
enum Telling {
    Fails { withheld: u64 },
    Works,
}

impl Trouble {
    fn fails(&mut self, what: &str, now: Timestamp) {
        if !std::mem::replace(&mut self.open, true) {
            (self.since, self.what) = (now, safe::line(what, 500));
        }
    }

    fn works(&mut self, lost: u64) {
        if std::mem::take(&mut self.open) && !self.mailed {
            self.withheld = self.withheld.saturating_add(1);
        }
        self.lost = lost;
    }

    /// When it will be told of if it lasts; a silence puts that off.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let waits = self.open && !self.mailed;
        waits.then(|| self.told.map_or(self.since, |told| self.since.max(told + AGAIN)))
    }

    /// What is to be told at `now`, outside of a silence. `thread` names the one that begins.
    fn tells(&mut self, thread: u64, now: Timestamp) -> Option<Telling> {
        if self.due().is_some_and(|due| due <= now) {
            (self.told, self.mailed, self.thread) = (Some(now), true, thread);
            return Some(Telling::Fails { withheld: std::mem::take(&mut self.withheld) });
        }
        let over = self.mailed && !self.open;
        over.then(|| self.mailed = false)?;
        Some(Telling::Works)
    }

    /// What a silence that ends at `until` will be followed by.
    pub(crate) fn told_at(&self, until: Timestamp) -> Option<NoticeKind> {
        match self.clone().tells(0, until)? {
            Telling::Fails { .. } => Some(NoticeKind::First),
            Telling::Works => Some(NoticeKind::Healed),
        }
    }

    pub(crate) fn shift(&mut self, shift: i64) {
        for time in self.told.iter_mut().chain([&mut self.since]) {
            time.0 = time.0.saturating_add(shift);
        }
    }
}

impl NoticeDesk {
    /// The main log cannot be written: `what` says "cannot VERB OBJECT: CAUSE".
    pub fn log_fails(&mut self, what: &str, now: Timestamp, wall: WallTime) {
        self.log_trouble.fails(what, now);
        self.settle_trouble(None, now, wall);
    }

    /// The main log is written again; `lost` records ever were not.
    pub fn log_works(&mut self, lost: u64, now: Timestamp, wall: WallTime) {
        self.log_trouble.works(lost);
        self.settle_trouble(None, now, wall);
    }

    /// A chain's output cannot be written into its file.
    pub fn output_fails(&mut self, chain: &str, what: &str, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        self.settle(place, now, wall, true);
        self.chains[place].output.fails(what, now);
        self.settle_trouble(Some(place), now, wall);
        self.rearm(place);
    }

    /// It is written again; `lost` lines ever were not.
    pub fn output_works(&mut self, chain: &str, lost: u64, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        self.settle(place, now, wall, true);
        self.chains[place].output.works(lost);
        self.settle_trouble(Some(place), now, wall);
        self.rearm(place);
    }

    /// Tells what is to be told of a chain's output, or of the main log, by now.
    pub(crate) fn settle_trouble(&mut self, place: Option<usize>, now: Timestamp, wall: WallTime) {
        let thread = match place {
            Some(place) if self.chains[place].quiet(now) => return,
            Some(place) => self.unique(&self.chains[place].rules.name, wall),
            None => self.unique("log", wall),
        };
        let trouble = match place {
            Some(place) => &mut self.chains[place].output,
            None => &mut self.log_trouble,
        };
        if let Some(telling) = trouble.tells(thread, now) {
            self.tell_trouble(place, &telling, now, wall);
        }
    }

    fn tell_trouble(
        &mut self,
        place: Option<usize>,
        telling: &Telling,
        now: Timestamp,
        wall: WallTime,
    ) {
        let trouble = place.map_or(&self.log_trouble, |place| &self.chains[place].output);
        let what = match (telling, place) {
            (Telling::Fails { .. }, _) => trouble.what.as_str(),
            (Telling::Works, None) => "the log is written again",
            (Telling::Works, Some(_)) => "the output is written again",
        };
        let (since, lost) = (now.since(trouble.since), trouble.lost);
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
                if since >= Duration::from_secs(1) {
                    out.fact("Since", &format!("{} ago", span(since)));
                }
                out.fact("Next", "make room; writing is tried again all the time");
                if *withheld > 0 {
                    let why = format!("the same trouble, {withheld} times since the last mail");
                    out.fact("Not mailed", &why);
                }
                (NoticeKind::First, *withheld)
            }
            Telling::Works => {
                out.blank();
                out.fact(
                    "Lost",
                    &format!(
                        "{} since the start, told in the log too",
                        counted(lost, "line", "lines")
                    ),
                );
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
            trouble.fails("cannot write", now);
            match trouble.tells(7, now) {
                Some(Telling::Fails { withheld }) => told.push((minute / 60, withheld)),
                Some(Telling::Works) => unreachable!(),
                None => {}
            }
            trouble.fails("cannot write", now);
            assert_eq!(trouble.tells(8, now), None, "it is known");
            trouble.works(0);
            if trouble.tells(8, now).is_some() {
                told.push((minute / 60, 0));
            }
        }
        assert_eq!(told, [(0, 0), (0, 0), (12, 719), (12, 0), (24, 719), (24, 0)]);
    }

    #[test]
    fn trouble_that_lasts_is_told_once_its_twelve_hours_are_over() {
        let mut trouble = Trouble::default();
        trouble.fails("cannot write", Timestamp(0));
        assert_eq!(trouble.tells(7, Timestamp(0)), Some(Telling::Fails { withheld: 0 }));
        trouble.works(0);
        assert_eq!(trouble.tells(7, Timestamp(HOUR)), Some(Telling::Works));
        trouble.fails("cannot write", Timestamp(2 * HOUR));
        assert_eq!(trouble.tells(7, Timestamp(2 * HOUR)), None);
        assert_eq!(trouble.due(), Some(Timestamp(12 * HOUR)));
        assert_eq!(trouble.tells(7, Timestamp(12 * HOUR)), Some(Telling::Fails { withheld: 0 }));
        assert_eq!(trouble.due(), None);
        trouble.shift(-HOUR);
        assert_eq!(trouble.told, Some(Timestamp(11 * HOUR)));
    }
}
