//! Reports of the chains. A chain's process runs as a user who may be hostile: what it says is
//! bounded, decoded totally, and believed for that chain alone; a bad packet costs that chain a
//! line in the log.

use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;

use super::{Master, now, wall};
use crate::config::model::Level;
use crate::policy::supervisor::Resume;
use crate::sys::socket::{self, Received};
use crate::wire::outcome::Outcome;
use crate::wire::report::{MAX_PACKET, Report, RunEnd, decode};
use crate::wire::time::Timestamp;
use crate::wire::words::counted;

/// Packets taken from one chain per turn: a flood delays nobody else.
const PER_TURN: usize = 64;

/// Bad packets of one chain that are told.
const TOLD: u64 = 5;

/// What came over a pair of packet sockets.
pub(super) enum Heard<T> {
    Said(T),
    /// A packet, and what is wrong with it.
    Unclear(String),
    /// No more for now.
    Nothing,
    /// The other end is gone.
    Closed,
}

/// The next packet of a child.
pub(super) fn hear<T: DeserializeOwned>(socket: &OwnedFd, buffer: &mut [u8]) -> Heard<T> {
    match socket::receive_packet(socket, buffer) {
        Ok(Received::Packet(length)) => match decode(&buffer[..length]) {
            Ok(said) => Heard::Said(said),
            Err(problem) => Heard::Unclear(problem),
        },
        Ok(Received::Oversized) => {
            Heard::Unclear(format!("a packet of more than {MAX_PACKET} bytes"))
        }
        Ok(Received::Empty) => Heard::Nothing,
        Ok(Received::Closed) | Err(_) => Heard::Closed,
    }
}

impl Master {
    /// A bounded number of reports of one chain. What they lead to is done once per turn: to fork
    /// between two of them would copy what they touch again each time, and a look at the strays
    /// goes through all children.
    pub(super) fn drain_inbox(&mut self, token: u64) {
        self.read_reports(token, PER_TURN);
    }

    /// Everything that a dead chain still said: at most what a socket's buffer holds.
    pub(super) fn drain_to_the_end(&mut self, token: u64) {
        self.read_reports(token, 100_000);
    }

    /// All chains, before an upgrade.
    pub(super) fn drain_all(&mut self) {
        let tokens: Vec<(u64, String)> = self.tokens.clone().into_iter().collect();
        for (token, chain) in tokens {
            self.read_reports(token, 4 * PER_TURN);
            self.tell_all_left_out(&chain);
        }
        // What the reports led to is not handed over.
        self.act();
    }

    fn read_reports(&mut self, token: u64, most: usize) {
        let Some(chain) = self.tokens.get(&token).cloned() else { return };
        for _ in 0..most {
            let Some(link) = self.links.get(&chain) else { return };
            match hear(&link.socket, &mut self.buffer) {
                Heard::Said(report) => {
                    let (report, next) = Report::parts(report);
                    for report in [Some(report), next].into_iter().flatten() {
                        self.take_report(&chain, report);
                    }
                }
                Heard::Unclear(problem) => self.bad_report(&chain, &problem),
                Heard::Nothing => return,
                // Its death is told by SIGCHLD; until then there is nothing more to hear.
                Heard::Closed => return self.epoll.remove(&link.socket),
            }
        }
    }

    fn bad_report(&mut self, chain: &str, problem: &str) {
        let Some(link) = self.links.get_mut(chain) else { return };
        link.bad += 1;
        if link.bad <= TOLD {
            let text = format!("ignored a report of its process: {problem}");
            self.log.say(Level::Warning, Some(chain), None, &text);
        }
    }

    fn take_report(&mut self, chain: &str, report: Report) {
        let now = now();
        match report.bounded(now) {
            Report::Ready => {
                self.supervisor.ready(chain, now);
                let link = self.links.get_mut(chain);
                for former in
                    link.map(|link| std::mem::take(&mut link.looked_for)).unwrap_or_default()
                {
                    self.groups.former.remove(&former);
                }
            }
            Report::CannotStart { what } => self.supervisor.cannot_start(chain, &what),
            Report::Started { run, task, at } => {
                if !self.has_task(chain, &task) {
                    return;
                }
                self.supervisor.run_started(chain, &task, at);
                self.desk.run_started(chain, &task, run, at, now);
            }
            Report::Ended(end) => self.take_end(chain, end, now),
            Report::Cooling { next, until, after_failure } => {
                self.tell_sleep(chain, until, now);
                let resume = Resume { next, until: Some(until), after_failure };
                self.supervisor.cooling(chain, resume, now);
            }
            Report::Leaving { next, until, after_failure, signal } => {
                self.supervisor.leaving(chain, Resume { next, until, after_failure }, signal);
            }
            Report::Said { level, text } => {
                let level = match level.as_str() {
                    "critical" | "error" => Level::Error,
                    "warning" => Level::Warning,
                    "info" => Level::Info,
                    _ => Level::Debug,
                };
                let Some(link) = self.links.get_mut(chain) else { return };
                let (may, left_out) = link.words.say(now);
                self.tell_left_out(chain, left_out);
                if may {
                    self.log.say(level, Some(chain), None, &text);
                }
            }
            Report::Options { tasks } => self.take_options(chain, tasks),
            Report::Lost { lines, cause, main } => self.take_loss(chain, lines, cause, main),
            Report::Leftovers { task, count, ended } => {
                let what = if ended {
                    counted(
                        count,
                        "process behind; it was ended",
                        "processes behind; they were ended",
                    )
                } else {
                    counted(
                        count,
                        "process behind that its user cannot end",
                        "processes behind that its user cannot end",
                    )
                };
                let what = format!("left {what}");
                self.log.say(Level::Warning, Some(chain), Some(&task), &what);
            }
        }
    }

    fn tell_left_out(&self, chain: &str, lines: u64) {
        if lines > 0 {
            let lines = counted(lines, "line", "lines");
            let text = format!("left out {lines} that its process said for the log");
            self.log.say(Level::Warning, Some(chain), None, &text);
        }
    }

    /// The same of a process whose window nobody will see the end of: it has died, or another image
    /// of the master will hear it.
    pub(super) fn tell_all_left_out(&mut self, chain: &str) {
        let Some(link) = self.links.get_mut(chain) else { return };
        let left_out = std::mem::take(&mut link.words.left_out);
        self.tell_left_out(chain, left_out);
    }

    /// Lines of a chain that nobody can read: in its own file, or in the main log, whose trouble is
    /// told as such.
    fn take_loss(&mut self, chain: &str, lines: u64, cause: Option<String>, main: bool) {
        let loss = self.losses.entry(chain.to_owned()).or_default();
        loss.lines = loss.lines.saturating_add(lines);
        let lost = loss.lines;
        let before = std::mem::replace(&mut loss.cause, cause.clone());
        match (&cause, before.is_some()) {
            (Some(cause), false) => {
                self.log.say(Level::Warning, Some(chain), None, cause);
                if !main {
                    self.desk.output_fails(chain, cause, now(), wall());
                }
            }
            (None, true) => {
                let told = counted(lost, "line was lost", "lines were lost");
                let text = format!("its output is written again; {told}");
                self.log.say(Level::Info, Some(chain), None, &text);
                self.desk.output_works(chain, lost, now(), wall());
            }
            _ => {}
        }
    }

    fn has_task(&self, chain: &str, task: &str) -> bool {
        self.chain(chain).is_none_or(|chain| chain.tasks.iter().any(|known| known.name == task))
    }

    fn take_end(&mut self, chain: &str, end: RunEnd, now: Timestamp) {
        let completed = end.outcome != Outcome::Interrupted;
        let failed = completed && !end.success;
        let text = match (failed, completed) {
            (true, _) => "Execution failed",
            (false, true) => "Execution succeeded",
            (false, false) => "Execution interrupted",
        };
        self.log.say(Level::Debug, Some(chain), Some(&end.task), text);
        if let Some(link) = self.links.get_mut(chain) {
            link.last_task = Some(end.task.clone());
        }
        self.supervisor.run_ended(chain, completed);
        self.desk.run_ended(chain, &end, now);
        if failed {
            self.saver.important(now);
        } else {
            self.saver.worth_keeping();
        }
    }

    fn tell_sleep(&mut self, chain: &str, until: Timestamp, now: Timestamp) {
        let millis = until.since(now).as_millis();
        let text = if millis % 1000 <= 50 || millis % 1000 >= 950 {
            format!("Sleeping {} seconds", (millis + 500) / 1000)
        } else {
            format!("Sleeping {}.{} seconds", millis / 1000, millis % 1000 / 100)
        };
        let task = self.links.get(chain).and_then(|link| link.last_task.clone());
        self.log.say(Level::Debug, Some(chain), task.as_deref(), &text);
    }
}

/// How many lines a chain's process may say for the main log in [`WORDS_WINDOW`]: its user can make
/// it say as many as it likes.
const WORDS: u32 = 100;
const WORDS_WINDOW: std::time::Duration = std::time::Duration::from_secs(10);

/// A bound on what one process says for the log.
#[derive(Debug, Default)]
pub(super) struct Words {
    since: Option<Timestamp>,
    said: u32,
    left_out: u64,
}

impl Words {
    /// Whether one more may be said, and how many were left out in the window that is over.
    fn say(&mut self, now: Timestamp) -> (bool, u64) {
        let mut left_out = 0;
        if self.since.is_none_or(|since| now.since(since) >= WORDS_WINDOW) {
            (self.since, self.said) = (Some(now), 0);
            left_out = std::mem::take(&mut self.left_out);
        }
        let may = self.said < WORDS;
        if may {
            self.said += 1;
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
        (may, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_so_much_in_a_window_and_the_rest_is_counted() {
        let mut words = Words::default();
        let said = (0..1000).filter(|n| words.say(Timestamp(*n)).0).count();
        assert_eq!(said, 100);
        assert_eq!(words.say(Timestamp(10_000)), (true, 900));
        assert_eq!(words.say(Timestamp(10_001)), (true, 0));
    }
}
