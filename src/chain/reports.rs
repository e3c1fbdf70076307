//! Telling the master, without ever waiting for it: what does not fit now is kept in fixed memory
//! and runs that ended alike become one report with a count.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::{poll, socket};
use crate::wire::report::{Order, Report, RunEnd, decode, encode};

/// Reports kept while the master cannot take them.
const BACKLOG: usize = 64;

/// How long a process that ends by a fault of ours waits for room for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The chain's end of its pair.
pub(super) struct ReportSender {
    socket: OwnedFd,
    backlog: VecDeque<Report>,
    /// The end of the last run, until it is known what comes next. A panic tells it first.
    ended: Arc<Mutex<Option<RunEnd>>>,
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
        ReportSender { socket, backlog: VecDeque::new(), ended: Arc::default() }
    }

    /// Tells the master, now or as soon as it listens.
    pub(super) fn send(&mut self, report: Report) {
        let ended = self.ended().take();
        match ended {
            Some(mut end) if report.may_follow() => {
                end.next = Some(Box::new(report));
                self.deliver(Report::Ended(end));
            }
            Some(end) => {
                self.deliver(Report::Ended(end));
                self.deliver(report);
            }
            None => self.deliver(report),
        }
    }

    /// Tells the end of a run with what is told next, in one packet, since each wakes the master:
    /// the next run or pause begins at once. [`ReportSender::flush`] does not wait for it.
    pub(super) fn send_end(&mut self, end: RunEnd) {
        let before = self.ended().replace(end);
        if let Some(before) = before {
            self.deliver(Report::Ended(before));
        }
    }

    fn ended(&self) -> MutexGuard<'_, Option<RunEnd>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&mut self, report: Report) {
        self.flush_backlog();
        if self.backlog.is_empty() && self.try_send(&report) {
            return;
        }
        let (report, next) = report.parts();
        self.keep(report);
        if let Some(next) = next {
            self.keep(next);
        }
    }

    /// A line for the log.
    pub(super) fn say(&mut self, level: &str, text: String) {
        self.send(Report::Said { level: level.to_owned(), text });
    }

    /// Whether something waits for the master.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// From now on the last words of a panic, which would go to a standard error that is closed,
    /// reach the master, after the end of the run before it: they are why this process ended.
    pub(super) fn tell_panics(&self) -> std::io::Result<()> {
        let socket = self.socket.try_clone()?;
        let ended = Arc::clone(&self.ended);
        let tell = move |report: &Report| {
            let Ok(packet) = encode(report) else { return };
            if !socket::send_packet(&socket, &packet).unwrap_or(true) {
                let _ = poll::wait_writable(socket.as_fd(), Some(LAST_WORDS));
                let _ = socket::send_packet(&socket, &packet);
            }
        };
        std::panic::set_hook(Box::new(move |panic| {
            let said = panic.payload();
            let said = said.downcast_ref::<String>().map(String::as_str).or_else(|| {
                let said: &&str = said.downcast_ref()?;
                Some(*said)
            });
            let said = said.unwrap_or("no words");
            let place = panic.location().map(|at| format!(" at {at}")).unwrap_or_default();
            let what = format!("its process panicked{place}: {said}");
            // The run had ended before; never waits, should the panic be here while it is held.
            if let Some(end) = ended.try_lock().ok().and_then(|mut ended| ended.take()) {
                tell(&Report::Ended(end));
            }
            tell(&Report::CannotStart { what });
        }));
        Ok(())
    }

    /// Sends what was kept, as far as it fits.
    pub(super) fn flush(&mut self) {
        let ended = self.ended().take();
        match ended {
            Some(end) => self.deliver(Report::Ended(end)),
            None => self.flush_backlog(),
        }
    }

    fn flush_backlog(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{Received, packet_pair, receive_packet};
    use crate::wire::outcome::Outcome;
    use crate::wire::time::{Timestamp, WallTime};

    fn end(run: u64) -> RunEnd {
        RunEnd {
            run,
            task: "send".to_owned(),
            outcome: Outcome::Exit(0),
            success: true,
            started: Timestamp(1),
            ended: Timestamp(2),
            wall: WallTime(3),
            millis: 1,
            count: 1,
            fingerprint: String::new(),
            message: String::new(),
            stderr: String::new(),
            stdout: String::new(),
            next: None,
        }
    }

    fn started(run: u64) -> Report {
        Report::Started { run, task: "send".to_owned(), at: Timestamp(2) }
    }

    /// What the other end has got since, a list for each packet.
    fn arrived(master: &OwnedFd) -> Vec<Vec<Report>> {
        let (mut packets, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(Received::Packet(length)) = receive_packet(master, &mut buffer) {
            let (first, next) = decode::<Report>(&buffer[..length]).unwrap().parts();
            packets.push([Some(first), next].into_iter().flatten().collect());
        }
        packets
    }

    #[test]
    fn the_end_of_a_run_and_what_follows_at_once_are_one_packet() {
        let (master, chain) = packet_pair().unwrap();
        let mut reports = ReportSender::new(chain);
        reports.send(started(1));
        reports.send_end(end(1));
        assert_eq!(arrived(&master), [[started(1)]], "nobody wakes for an end alone");
        reports.send(started(2));
        assert_eq!(arrived(&master), [[Report::Ended(end(1)), started(2)]]);
        // Whatever else is said comes after it, by itself.
        reports.send_end(end(2));
        reports.say("debug", "words".to_owned());
        assert_eq!(arrived(&master).len(), 2);
        reports.send_end(end(3));
        reports.flush();
        assert_eq!(arrived(&master), [[Report::Ended(end(3))]]);
        reports.flush();
        assert_eq!(arrived(&master), Vec::<Vec<Report>>::new());
    }

    #[test]
    fn what_finds_no_room_is_kept_as_if_it_had_come_alone() {
        let (master, chain) = packet_pair().unwrap();
        let mut reports = ReportSender::new(chain);
        let mut sent = 0;
        while !reports.has_backlog() {
            sent += 1;
            reports.send(started(sent));
        }
        for run in sent..sent + 3 {
            reports.send_end(end(run));
            reports.send(started(run + 1));
        }
        arrived(&master);
        reports.flush();
        let kept: Vec<Report> = arrived(&master).into_iter().flatten().collect();
        let three = RunEnd { count: 3, ..end(sent + 2) };
        assert_eq!(kept, [Report::Ended(three), started(sent + 3)]);
    }

    #[test]
    fn a_packet_tells_nothing_second_but_what_a_chain_does_next() {
        let lies = [Report::Ready, Report::Ended(end(9)), Report::CannotStart { what: "x".into() }];
        for lie in lies {
            let packet = encode(&Report::Ended(RunEnd { next: Some(Box::new(lie)), ..end(1) }));
            let (first, next) = decode::<Report>(&packet.unwrap()).unwrap().parts();
            assert_eq!((first, next), (Report::Ended(end(1)), None));
        }
    }

    #[test]
    fn the_words_of_a_panic_reach_the_master_with_their_place() {
        let (ours, theirs) = socket::packet_pair().unwrap();
        let before = std::panic::take_hook();
        let mut reports = ReportSender::new(theirs);
        reports.tell_panics().unwrap();
        reports.send_end(end(7));
        let ended = std::panic::catch_unwind(|| panic!("a fault of ours: {}", 7 * 6));
        std::panic::set_hook(before);
        assert!(ended.is_err());
        let mut buffer = vec![0; 4096];
        let mut run_told = false;
        let said = loop {
            let socket::Received::Packet(length) =
                socket::receive_packet(&ours, &mut buffer).unwrap()
            else {
                panic!("nothing was told")
            };
            // Another test may panic meanwhile.
            match decode(&buffer[..length]).unwrap() {
                Report::CannotStart { what } if what.contains("a fault of ours") => break what,
                Report::Ended(told) => run_told = told == end(7),
                _ => {}
            }
        };
        assert!(run_told, "the run that had ended comes first");
        assert!(said.starts_with("its process panicked at src/chain/reports.rs:"), "{said}");
        assert!(said.ends_with(": a fault of ours: 42"), "{said}");
    }
}
