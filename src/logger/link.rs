//! The link between the master and one logger: the master's side of it is inherited by each chain
//! process, which says [`Hello`] on it before it lets go of what is the master's, and nobody else
//! ever has it. So the logger knows which chain a process is. What chains were there before it, it
//! knows from the master's own memory, of which it is a copy.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::sys::{poll, socket};
use crate::wire::log::{Hello, MAX_RECORD, SinkState};

/// Room for Hellos that wait while a logger has no time, in bytes as the kernel counts.
const ROOM: usize = 1 << 20;

/// How long a new chain waits for a logger that has no time for its Hello. A logger never waits
/// for its sink, so this is long only for one that was stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ended processes of chains that are remembered, beside as many as there are chains.
const ENDED: usize = 256;

/// A fresh link: (the master's side, the logger's).
///
/// # Errors
/// When no descriptors are left.
pub fn link() -> io::Result<(OwnedFd, OwnedFd)> {
    let (master, logger) = socket::packet_pair()?;
    socket::make_room(&master, ROOM);
    Ok((master, logger))
}

/// In a chain process that still has the master's side.
pub fn say_hello(link: BorrowedFd<'_>, chain: &str) {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let packet = serde_json::to_vec(&Hello { pid, chain: chain.to_owned() }).unwrap_or_default();
    if !socket::send_packet(link, &packet).unwrap_or(true) {
        let _ = poll::wait_writable(link, Some(PATIENCE));
        let _ = socket::send_packet(link, &packet);
    }
}

/// What a logger says of itself, if the master has something to read.
///
/// # Errors
/// When the logger is gone or says something else.
pub fn receive_state(link: BorrowedFd<'_>) -> Result<Option<SinkState>, String> {
    let mut buffer = [0; MAX_RECORD];
    match socket::receive_packet(link, &mut buffer) {
        Ok(socket::Received::Packet(length)) => serde_json::from_slice(&buffer[..length])
            .map(Some)
            .map_err(|cause| format!("cannot decode: {cause}")),
        Ok(socket::Received::Empty) => Ok(None),
        Ok(socket::Received::Oversized) => Err("a packet was too long".to_owned()),
        Ok(socket::Received::Closed) => Err("it is gone".to_owned()),
        Err(cause) => Err(cause.to_string()),
    }
}

/// Which chain a process is.
#[derive(Debug)]
pub(super) struct Senders<'a> {
    link: BorrowedFd<'a>,
    by_pid: HashMap<i32, String>,
    /// Each chain's present process.
    newest: HashMap<String, i32>,
}

impl<'a> Senders<'a> {
    /// Those that the master knows of, and those that say Hello.
    pub(super) fn new(link: &'a OwnedFd, known: Vec<(i32, String)>) -> Senders<'a> {
        let (by_pid, newest) = (HashMap::new(), HashMap::new());
        let mut senders = Senders { link: link.as_fd(), by_pid, newest };
        for (pid, chain) in known {
            senders.learn(pid, chain);
        }
        senders
    }

    /// The chain that this process is. `None`: it is no chain, whatever it says.
    pub(super) fn chain_of(&mut self, pid: Option<i32>) -> Option<&str> {
        let pid = pid?;
        if !self.by_pid.contains_key(&pid) {
            self.hear_hellos();
        }
        self.by_pid.get(&pid).map(String::as_str)
    }

    /// Takes note of what waits on the link: a Hello is sent before the first line. `false`: the
    /// master has let go of it and speaks to another logger, or is gone.
    pub(super) fn hear_hellos(&mut self) -> bool {
        let mut buffer = [0; MAX_RECORD];
        loop {
            match socket::receive_packet(self.link, &mut buffer) {
                Ok(socket::Received::Packet(length)) => {
                    if let Ok(Hello { pid, chain }) = serde_json::from_slice(&buffer[..length]) {
                        self.learn(pid, chain);
                    }
                }
                Ok(socket::Received::Oversized) => {}
                Ok(socket::Received::Empty) => return true,
                Ok(socket::Received::Closed) | Err(_) => return false,
            }
        }
    }

    fn learn(&mut self, pid: i32, chain: String) {
        self.newest.insert(chain.clone(), pid);
        self.by_pid.insert(pid, chain);
        // What an ended process said may still lie in the lane. A number that is used again is
        // learned again; for the rest there is a bound.
        if self.by_pid.len() > 2 * self.newest.len() + ENDED {
            let newest = &self.newest;
            self.by_pid.retain(|pid, chain| newest.get(chain) == Some(pid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Lanes;
    use super::*;
    use crate::sys::socket::{Received, receive_packet_from, send_packet};

    #[test]
    fn a_process_is_the_chain_that_it_was_when_it_still_had_the_link() {
        let (master, logger) = link().unwrap();
        let mut senders = Senders::new(&logger, vec![(7, "old".to_owned())]);
        assert_eq!(senders.chain_of(Some(7)), Some("old"));
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(senders.chain_of(Some(me)), None);
        say_hello(master.as_fd(), "mail");
        assert_eq!(senders.chain_of(Some(me)), Some("mail"));
        assert_eq!(senders.chain_of(None), None);
        assert!(senders.hear_hellos());
        drop(master);
        assert!(!senders.hear_hellos());
    }

    #[test]
    fn ended_processes_are_forgotten_in_the_end_and_present_ones_never() {
        let (_master, logger) = link().unwrap();
        let mut senders = Senders::new(&logger, vec![(1, "still".to_owned())]);
        for pid in 2..5000 {
            senders.learn(pid, "restless".to_owned());
        }
        assert!(senders.by_pid.len() <= 4 + ENDED);
        assert_eq!(senders.chain_of(Some(1)), Some("still"));
        assert_eq!(senders.chain_of(Some(4999)), Some("restless"));
        assert_eq!(senders.chain_of(Some(2)), None);
    }

    #[test]
    fn the_kernel_says_who_sent_a_line() {
        let lanes = Lanes::new().unwrap();
        let mut buffer = [0; MAX_RECORD];
        let empty = receive_packet_from(&lanes.output_out, &mut buffer).unwrap();
        assert_eq!(empty, (Received::Empty, None));
        assert!(send_packet(&lanes.output_in, b"line").unwrap());
        let me = i32::try_from(std::process::id()).unwrap();
        let got = receive_packet_from(&lanes.output_out, &mut buffer).unwrap();
        assert_eq!(got, (Received::Packet(4), Some(me)));
        drop(lanes.output_in);
        let end = receive_packet_from(&lanes.output_out, &mut buffer).unwrap();
        assert_eq!(end.0, Received::Closed);
    }
}
