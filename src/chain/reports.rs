//! Telling the master, without ever waiting for it: what does not fit now is kept in fixed memory
//! and runs that ended alike become one report with a count.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::sys::{poll, socket};
use crate::wire::report::{Order, Report, RunEnd, decode, encode};

/// Reports kept while the master cannot take them.
const BACKLOG: usize = 64;

/// The chain's end of its pair.
pub(super) struct ReportSender {
    socket: OwnedFd,
    backlog: VecDeque<Report>,
}

/// What the master's side of the pair gave.
pub(super) enum FromMaster {
    /// An order.
    Order(Order),
    /// Nothing more now.
    Nothing,
    /// The master is gone.
    Gone,
}

impl ReportSender {
    pub(super) fn new(socket: OwnedFd) -> ReportSender {
        ReportSender { socket, backlog: VecDeque::new() }
    }

    /// Tells the master, now or as soon as it listens.
    pub(super) fn send(&mut self, report: Report) {
        self.flush();
        if self.backlog.is_empty() && self.try_send(&report) {
            return;
        }
        self.keep(report);
    }

    /// A line for the log.
    pub(super) fn say(&mut self, level: &str, text: String) {
        self.send(Report::Said { level: level.to_owned(), text });
    }

    /// Whether something waits for the master.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Sends what was kept, as far as it fits.
    pub(super) fn flush(&mut self) {
        while let Some(report) = self.backlog.pop_front() {
            if !self.try_send(&report) {
                self.backlog.push_front(report);
                return;
            }
        }
    }

    /// Before the process ends: waits for room, at most `patience`.
    pub(super) fn flush_waiting(&mut self, patience: Duration) {
        let step = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        self.flush();
        while self.has_backlog() && waited < patience {
            let _ = poll::wait_writable(self.socket.as_fd(), Some(step));
            waited += step;
            self.flush();
        }
    }

    /// The next order.
    pub(super) fn receive(&mut self) -> FromMaster {
        let mut buffer = [0_u8; 1024];
        match socket::receive_packet(&self.socket, &mut buffer) {
            Ok(socket::Received::Packet(length)) => match decode::<Order>(&buffer[..length]) {
                Ok(order) => FromMaster::Order(order),
                Err(problem) => {
                    self.say("warning", format!("ignored an order of the master: {problem}"));
                    FromMaster::Nothing
                }
            },
            Ok(socket::Received::Empty | socket::Received::Oversized) => FromMaster::Nothing,
            Ok(socket::Received::Closed) | Err(_) => FromMaster::Gone,
        }
    }

    /// Whether it went out; a report that cannot be encoded or a dead master count as done.
    fn try_send(&self, report: &Report) -> bool {
        match encode(report) {
            Ok(packet) => socket::send_packet(&self.socket, &packet).unwrap_or(true),
            Err(_) => true,
        }
    }

    fn keep(&mut self, report: Report) {
        match &report {
            // Only the last word on what the chain does now is of use later.
            Report::Started { .. } | Report::Cooling { .. } => self
                .backlog
                .retain(|kept| !matches!(kept, Report::Started { .. } | Report::Cooling { .. })),
            Report::Lost { lines, cause, main } => {
                let earlier = self.backlog.iter_mut().find_map(|kept| match kept {
                    Report::Lost { lines, cause, main } => Some((lines, cause, main)),
                    _ => None,
                });
                if let Some((all, why, whose)) = earlier {
                    *all = all.saturating_add(*lines);
                    (*why, *whose) = (cause.clone(), *main);
                    return;
                }
            }
            Report::Said { .. } if self.backlog.len() >= BACKLOG => return,
            Report::Ended(end) => {
                let twin = self.latest_of(end).or_else(|| self.twin_when_full(end));
                if let Some(Report::Ended(kept)) = twin.and_then(|at| self.backlog.get_mut(at)) {
                    kept.run = end.run;
                    kept.ended = end.ended;
                    kept.wall = end.wall;
                    kept.millis = end.millis;
                    kept.count = kept.count.saturating_add(end.count);
                    return;
                }
            }
            _ => {}
        }
        if self.backlog.len() >= 2 * BACKLOG {
            let dispensable = self.backlog.iter().position(|kept| match kept {
                Report::Said { .. } => true,
                Report::Ended(end) => end.success,
                _ => false,
            });
            self.backlog.remove(dispensable.unwrap_or(0));
        }
        self.backlog.push_back(report);
    }

    /// The task's last report, if this one ended alike.
    fn latest_of(&self, end: &RunEnd) -> Option<usize> {
        let of_task = |kept: &Report| matches!(kept, Report::Ended(kept) if kept.task == end.task);
        let at = self.backlog.iter().rposition(of_task)?;
        let twin = matches!(&self.backlog[at], Report::Ended(kept) if alike(kept, end));
        twin.then_some(at)
    }

    /// With no room for a further report: one that ended alike, else one of the same task.
    fn twin_when_full(&self, end: &RunEnd) -> Option<usize> {
        if self.backlog.len() < BACKLOG {
            return None;
        }
        let position = |exact: bool| {
            self.backlog.iter().position(|kept| match kept {
                Report::Ended(kept) if kept.task != end.task => false,
                Report::Ended(kept) if exact => alike(kept, end),
                Report::Ended(kept) => kept.success == end.success,
                _ => false,
            })
        };
        position(true).or_else(|| position(false))
    }
}

fn alike(one: &RunEnd, other: &RunEnd) -> bool {
    one.success == other.success
        && one.outcome == other.outcome
        && one.fingerprint == other.fingerprint
}

impl AsFd for ReportSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
