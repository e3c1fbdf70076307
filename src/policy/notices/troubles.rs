//! Trouble in which no run fails and nothing waits: logs that cannot be written (the main log, and the
//! file of a chain's output), and a run_root that is taken away. So the admins are told once when it
//! begins and once when it is over; of the same again after 12 h at the earliest, however often a disk
//! fills up or a cleaner comes by.

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

/// What is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The main log.
    Log,
    /// run_root or the locks in it.
    RunRoot,
    /// The output of the chain at this place.
    Output(usize),
}

/// Trouble with one of them.
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

    /// It was over as soon as it was seen: nothing of it is told any more.
    fn passed(&mut self) {
        self.works(0);
        self.mailed = false;
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
        self.settle_trouble(What::Log, now, wall);
    }

    /// The main log is written again; `lost` records ever were not.
    pub fn log_works(&mut self, lost: u64, now: Timestamp, wall: WallTime) {
        self.log_trouble.works(lost);
        self.settle_trouble(What::Log, now, wall);
    }

    /// `run_root` or the locks in it were taken away and cannot be made anew.
    pub fn run_root_lost(&mut self, run_root: &str, cause: &str, now: Timestamp, wall: WallTime) {
        let what = format!("lost run_root {run_root} or the locks in it: {cause}");
        self.run_root_trouble.fails(&what, now);
        self.settle_trouble(What::RunRoot, now, wall);
    }

    /// They are made anew, which is told as the end of such trouble, or by itself if it was done at
    /// once.
    pub fn run_root_back(&mut self, run_root: &str, now: Timestamp, wall: WallTime) {
        if self.run_root_trouble.open {
            self.run_root_trouble.works(0);
            self.settle_trouble(What::RunRoot, now, wall);
        } else {
            self.run_root_lost(run_root, "they are made anew", now, wall);
            self.run_root_trouble.passed();
        }
    }

    /// A chain's output cannot be written into its file.
    pub fn output_fails(&mut self, chain: &str, what: &str, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        self.settle(place, now, wall, true);
        self.chains[place].output.fails(what, now);
        self.settle_trouble(What::Output(place), now, wall);
        self.rearm(place);
    }

    /// It is written again; `lost` lines ever were not.
    pub fn output_works(&mut self, chain: &str, lost: u64, now: Timestamp, wall: WallTime) {
        let Some(&place) = self.index.get(chain) else { return };
        self.settle(place, now, wall, true);
        self.chains[place].output.works(lost);
        self.settle_trouble(What::Output(place), now, wall);
        self.rearm(place);
    }

    fn trouble(&mut self, of: What) -> &mut Trouble {
        match of {
            What::Log => &mut self.log_trouble,
            What::RunRoot => &mut self.run_root_trouble,
            What::Output(place) => &mut self.chains[place].output,
        }
    }

    /// Tells what is to be told of it by now.
    pub(crate) fn settle_trouble(&mut self, of: What, now: Timestamp, wall: WallTime) {
        let thread = match of {
            What::Output(place) if self.chains[place].quiet(now) => return,
            What::Output(place) => self.unique(&self.chains[place].rules.name, wall),
            What::Log => self.unique("log", wall),
            What::RunRoot => self.unique("run_root", wall),
        };
        if let Some(telling) = self.trouble(of).tells(thread, now) {
            self.tell_trouble(of, &telling, now, wall);
        }
    }

    fn tell_trouble(&mut self, of: What, telling: &Telling, now: Timestamp, wall: WallTime) {
        let trouble = self.trouble(of);
        let what = match (telling, of) {
            (Telling::Fails { .. }, _) => trouble.what.as_str(),
            (Telling::Works, What::Log) => "the log is written again",
            (Telling::Works, What::RunRoot) => "run_root and the locks in it are there again",
            (Telling::Works, What::Output(_)) => "the output is written again",
        };
        let (since, lost) = (now.since(trouble.since), trouble.lost);
        let begins = matches!(telling, Telling::Fails { .. });
        let thread = Thread { of: trouble.thread, begins };
        let said = message(what, "something is in trouble");
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
                let (meanwhile, next) = match of {
                    What::RunRoot => (
                        "Runs go on, and so do notices; what cannot be made anew is tried again all the time.",
                        "find out what removes or moves it (a cleaner of temporary files, a script)",
                    ),
                    What::Log | What::Output(_) => (
                        "Runs go on, and so do notices; what cannot be written is counted.",
                        "make room; writing is tried again all the time",
                    ),
                };
                out.line(meanwhile);
                out.blank();
                if since >= Duration::from_secs(1) {
                    out.fact("Since", &format!("{} ago", span(since)));
                }
                out.fact("Next", next);
                if *withheld > 0 {
                    let why = format!("the same trouble, {withheld} times since the last mail");
                    out.fact("Not mailed", &why);
                }
                (NoticeKind::First, *withheld)
            }
            Telling::Works => {
                out.blank();
                if of != What::RunRoot {
                    let lost = counted(lost, "line", "lines");
                    out.fact("Lost", &format!("{lost} since the start, told in the log too"));
                }
                (NoticeKind::Healed, 0)
            }
        };
        let place = match of {
            What::Output(place) => Some(place),
            What::Log | What::RunRoot => None,
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
    fn trouble_that_has_passed_is_told_without_its_end_and_counted_if_it_is_not_told() {
        let mut trouble = Trouble::default();
        for hour in 0..13 {
            trouble.fails("lost", Timestamp(hour * HOUR));
            let told = trouble.tells(7, Timestamp(hour * HOUR));
            let expected = match hour {
                0 => Some(Telling::Fails { withheld: 0 }),
                12 => Some(Telling::Fails { withheld: 11 }),
                _ => None,
            };
            assert_eq!(told, expected, "{hour}");
            trouble.passed();
            assert_eq!((trouble.tells(7, Timestamp(hour * HOUR)), trouble.due()), (None, None));
        }
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
