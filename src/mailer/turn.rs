//! The mailer's loop. From its first line on nothing is fatal.
//!
//! The master may be killed, which shows by its end of the socket: a change of uid does not clear that
//! as it does a death signal (prctl(2)), and an upgrade keeps it open. What was given to the mailer is
//! brought into the spool then, too. It delivers on as long as that goes well, each mail within a few
//! seconds: a server that is just taking one gets it once, and one that is silent does not hold up the
//! mailer of the next master, which waits for the lock.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::desk::{Desk, Next};
use super::flight::Flight;
use super::ledger::Clock;
use super::transport::{Outcome, Way};
use crate::sys::poll::wait_readable_or_gone;
use crate::sys::socket::{Received, receive_packet, receive_packet_waiting, send_packet_waiting};
use crate::wire::mail::{MailOrder, MailReply, SpoolState};

/// The largest packet: an envelope's texts are bounded far below.
const PACKET: usize = 1 << 20;
/// Orders taken in one turn, so that a storm of them does not delay the deliveries.
const ORDERS: usize = 64;
/// How often it is tried to become the one who delivers, while more orders may come.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// For whom the mailer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Master {
    /// It hears what becomes of its mails.
    Lives,
    /// The spool's mails go out as long as the server takes them.
    Gone,
    /// They are left to the next one's mailer.
    Replaced,
}

/// Takes orders and delivers until no more orders come and nothing is due.
pub(super) fn work(mut desk: Desk<'_>, way: &Way<'_>, socket: &OwnedFd) {
    let mut orders = Orders { socket, open: true, buffer: vec![0; PACKET] };
    let mut flight: Option<Flight> = None;
    let mut master = Master::Lives;
    loop {
        let mut wait = None;
        if flight.is_none() {
            match start_next(&mut desk, way, socket, master) {
                Start::Flying(mut started) => {
                    alone(master, &mut started, &mut desk);
                    flight = Some(*started);
                }
                Start::Later(after) if orders.open => wait = after,
                Start::Later(_) => break,
            }
        }
        if let Some(flight) = &flight {
            wait = Some(flight.time_left());
        }
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        fds.extend(orders.open.then(|| socket.as_fd()));
        fds.extend(flight.as_ref().map(Flight::fd));
        let peer = (master == Master::Lives).then(|| socket.as_fd());
        let (ready, gone) = wait_readable_or_gone(&fds, peer, wait).unwrap_or_default();
        let order_ready = orders.open && ready.first() == Some(&true);
        let flight_ready = flight.is_some() && ready.last() == Some(&true);
        if gone {
            master = Master::Gone;
            if let Some(flight) = &mut flight {
                alone(master, flight, &mut desk);
            }
        }
        if order_ready {
            orders.take(&mut desk);
        }
        if let Some(mut going) = flight.take() {
            let ended = flight_ready && going.read();
            if ended || going.time_left().is_zero() {
                let cut = master != Master::Lives && going.is_cut();
                let (job, outcome) = going.land();
                let went = matches!(outcome, Outcome::Sent { .. } | Outcome::Refused(_));
                if !(cut && job.is_spooled()) {
                    send(socket, desk.finish(&job, outcome, &Clock::now()));
                }
                if master == Master::Gone && !went {
                    master = Master::Replaced;
                    desk.unlock();
                }
            } else {
                flight = Some(going);
            }
        }
    }
    let clock = Clock::now();
    desk.refresh(&clock);
    let elsewhere = desk.is_locked_out();
    send(socket, vec![MailReply::State(desk.state(&clock, elsewhere))]);
}

/// Without a master a delivery from the spool is short. One that goes directly is in no spool, so nobody
/// else could do it: it has its time, and others deliver meanwhile.
fn alone(master: Master, flight: &mut Flight, desk: &mut Desk<'_>) {
    match master {
        Master::Lives => {}
        Master::Gone | Master::Replaced if flight.job.is_spooled() => flight.hurry(),
        Master::Gone | Master::Replaced => desk.unlock(),
    }
}

enum Start {
    /// A delivery has begun.
    Flying(Box<Flight>),
    /// Nothing can be delivered now; look again after that.
    Later(Option<Duration>),
}

fn start_next(desk: &mut Desk<'_>, way: &Way<'_>, socket: &OwnedFd, master: Master) -> Start {
    loop {
        let clock = Clock::now();
        if master != Master::Replaced && desk.lock(&clock) {
            desk.refresh(&clock);
        }
        let next = desk.next(&clock);
        match next {
            Next::Deliver(job) => {
                let lock = desk.lock_file().filter(|_| job.is_spooled());
                match Flight::start(way, *job, lock) {
                    Ok(flight) => return Start::Flying(Box::new(flight)),
                    Err((job, cause)) => {
                        send(socket, desk.finish(&job, Outcome::ServerLater(cause), &clock));
                    }
                }
            }
            Next::GiveBack(reply) => send(socket, [reply]),
            Next::Wait(_) | Next::Nothing => {
                if desk.lock_file().is_none() {
                    return Start::Later(desk.is_locked_out().then_some(LOCK_AGAIN));
                }
                // Whoever spooled a mail while the lock was held went away without delivering it:
                // so look once more after letting go. Either that mailer got the lock, or its file
                // is seen here.
                desk.unlock();
                desk.refresh(&clock);
                if !desk.is_something_due(&clock) {
                    return Start::Later(match next {
                        Next::Wait(until) => Some(until.since(clock.boot)),
                        _ => None,
                    });
                }
            }
        }
    }
}

/// The master's side of the socket.
struct Orders<'s> {
    socket: &'s OwnedFd,
    open: bool,
    buffer: Vec<u8>,
}

impl Orders<'_> {
    fn take(&mut self, desk: &mut Desk<'_>) {
        let clock = Clock::now();
        for _ in 0..ORDERS {
            match receive_packet(self.socket, &mut self.buffer) {
                Ok(Received::Packet(length)) => {
                    match serde_json::from_slice(&self.buffer[..length]) {
                        Ok(MailOrder::Spool(envelope)) => {
                            send(self.socket, desk.keep(envelope, &clock));
                        }
                        Ok(MailOrder::Flush) => desk.flush(&clock),
                        // A newer master may say what we do not know.
                        Err(_) => {}
                    }
                }
                Ok(Received::Oversized) => {}
                Ok(Received::Empty) => return,
                Ok(Received::Closed) | Err(_) => {
                    self.open = false;
                    return;
                }
            }
        }
    }
}

/// Answers every order with `cause` until no more come: this process must not work as who it is.
pub(super) fn refuse_all(socket: &OwnedFd, cause: &str) {
    let mut buffer = vec![0; PACKET];
    while let Ok(received) = receive_packet_waiting(socket, &mut buffer) {
        match received {
            Received::Packet(length) => {
                if let Ok(MailOrder::Spool(envelope)) = serde_json::from_slice(&buffer[..length]) {
                    let (id, error) = (envelope.id, cause.to_owned());
                    send(socket, [MailReply::NotSpooled { id, error }]);
                }
            }
            Received::Closed => break,
            Received::Oversized | Received::Empty => {}
        }
    }
    let error = Some(cause.to_owned());
    send(socket, [MailReply::State(SpoolState { error, ..SpoolState::default() })]);
}

/// The master may be gone; the mails are safe in the spool then.
fn send(socket: &OwnedFd, replies: impl IntoIterator<Item = MailReply>) {
    for reply in replies {
        if let Ok(packet) = serde_json::to_vec(&reply) {
            let _ = send_packet_waiting(socket, &packet);
        }
    }
}
