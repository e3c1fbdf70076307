//! The two ways into the logger. The master's own records have a lane to themselves, so that a task
//! that prints a gigabyte can fill its lane and never push out what the master says.
//!
//! The master makes the lanes once and keeps all four ends, over the death of a logger and over
//! its own re-exec: what was sent while no logger lived waits in the kernel for the next one. The
//! logger sees the end when every writing end is closed, the chains' included.
//!
//! Chains run as users who may be hostile, and share a lane: the kernel says with each packet of
//! theirs which process sent it, and the logger asks nobody else whose line it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::socket;

/// Room for records that wait in the kernel, in bytes of each lane (the kernel counts its own
/// overhead against it). Without root it is capped by `net.core.wmem_max`.
const ROOM: usize = 1 << 20;

/// All ends of both lanes.
#[derive(Debug)]
pub struct Lanes {
    /// Where the master's own records go in.
    pub master_in: OwnedFd,
    /// Where the logger reads them.
    pub master_out: OwnedFd,
    /// Where chain processes put the output of tasks whose `output` is `Main`.
    pub output_in: OwnedFd,
    /// Where the logger reads it.
    pub output_out: OwnedFd,
}

impl Lanes {
    /// Two fresh lanes, all ends close-on-exec.
    ///
    /// # Errors
    /// When no descriptors are left (EMFILE, ENFILE).
    pub fn new() -> io::Result<Lanes> {
        let (master_in, master_out) = socket::packet_pair()?;
        let (output_in, output_out) = socket::packet_pair()?;
        socket::make_room(&master_in, ROOM);
        socket::make_room(&output_in, ROOM);
        socket::ask_senders(&output_out)?;
        Ok(Lanes { master_in, master_out, output_in, output_out })
    }

    /// The ends in the order of the fields, for a handover.
    pub fn ends(&self) -> [BorrowedFd<'_>; 4] {
        [
            self.master_in.as_fd(),
            self.master_out.as_fd(),
            self.output_in.as_fd(),
            self.output_out.as_fd(),
        ]
    }

    /// The lanes again, from ends in the order of [`Lanes::ends`].
    pub fn from_ends(ends: [OwnedFd; 4]) -> Lanes {
        let [master_in, master_out, output_in, output_out] = ends;
        Lanes { master_in, master_out, output_in, output_out }
    }
}
