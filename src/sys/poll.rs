//! Waiting: epoll(7) and a timerfd of CLOCK_BOOTTIME for the master, whose turns cost what is
//! ready and not what exists; poll(2) for the few descriptors of the other processes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the other end gone.
    Read,
    /// Room to write.
    Write,
    /// Both.
    ReadWrite,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::ReadWrite => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// A set of watched descriptors, each with a token of the caller's.
pub struct Epoll {
    fd: OwnedFd,
    buffer: Vec<epoll::Event>,
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<Epoll> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Epoll { fd, buffer: Vec::with_capacity(64) })
    }

    /// Watches `fd`; its readiness is told as `token`.
    ///
    /// # Errors
    /// When it is watched already or cannot be watched (a regular file).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what a watched descriptor is watched for.
    ///
    /// # Errors
    /// When it is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Stops watching. Must be called before the descriptor is closed: a copy of it in another
    /// process would keep it in the set (epoll(7)).
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.fd, fd);
    }

    /// Waits until something is ready and returns the tokens, at most 64 a turn.
    ///
    /// # Errors
    /// When the set itself is broken.
    pub fn wait(&mut self) -> io::Result<Vec<u64>> {
        self.buffer.clear();
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.buffer), None) {
            Ok(_) => Ok(self.buffer.iter().map(|event| event.data.u64()).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(cause) => Err(cause.into()),
        }
    }
}

/// How much too early an alarm may ring, in milliseconds.
const EARLY: i64 = 60_000;

/// One alarm on CLOCK_BOOTTIME (timerfd_create(2)): it counts suspend.
#[derive(Debug)]
pub struct Alarm {
    fd: OwnedFd,
    set_to: Option<i64>,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<Alarm> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Alarm { fd: timerfd_create(TimerfdClockId::Boottime, flags)?, set_to: None })
    }

    /// Sets it to an absolute time in milliseconds of CLOCK_BOOTTIME, or off. The past means now.
    /// A time that moves on with each run costs a call once a minute: an alarm that is set rings
    /// early rather than be set again, at most `EARLY` before a time that is asked for.
    ///
    /// # Errors
    /// When the kernel refuses, which it does for no value that can stand here.
    pub fn set(&mut self, at: Option<i64>) -> io::Result<()> {
        let good_enough = match (self.set_to, at) {
            (Some(set), Some(at)) => (0..EARLY).contains(&at.saturating_sub(set)),
            (set, at) => set == at,
        };
        if good_enough {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = at.map_or(zero, |at| {
            // 0 would switch it off.
            let at = at.max(1);
            Timespec { tv_sec: at / 1000, tv_nsec: (at % 1000) * 1_000_000 }
        });
        let new = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &new)?;
        self.set_to = at;
        Ok(())
    }

    /// Takes note that it rang: it is off now.
    pub fn clear(&mut self) {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
        self.set_to = None;
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of `fds` can be read (or is closed), at most `timeout` of CLOCK_MONOTONIC;
/// `None` waits for ever. Returns for each whether it is ready.
///
/// # Errors
/// When a descriptor is invalid.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    wait_readable_or_gone(fds, None, timeout).map(|(ready, _)| ready)
}

/// As [`wait_readable`], and until the other end of the socket `peer` is closed whole, which is the
/// second word: one that only sends no more (shutdown(2)) still reads.
///
/// # Errors
/// As [`wait_readable`].
pub fn wait_readable_or_gone(
    fds: &[BorrowedFd<'_>],
    peer: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<(Vec<bool>, bool)> {
    let readable = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    // POLLHUP is told unasked (poll(2)).
    let peer = peer.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let mut polled: Vec<PollFd<'_>> = readable.chain(peer).collect();
    let timeout = timeout.map(timespec);
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {
            let (read, peer) = polled.split_at(fds.len());
            let ready = read.iter().map(|fd| !fd.revents().is_empty()).collect();
            Ok((ready, peer.iter().any(|fd| fd.revents().contains(PollFlags::HUP))))
        }
        Err(Errno::INTR) => Ok((vec![false; fds.len()], false)),
        Err(cause) => Err(cause.into()),
    }
}

/// As [`wait_readable`] for room to write in one descriptor.
///
/// # Errors
/// When the descriptor is invalid.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let timeout = timeout.map(timespec);
    match poll(&mut polled, timeout.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Whether the other end of a socket or pipe is closed or sends no more (shutdown(2)), although
/// there may be something to read.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok()
        && polled[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_no_more_is_not_gone() {
        let (ours, theirs) = super::super::socket::packet_pair().unwrap();
        let look = || {
            let soon = Some(Duration::from_millis(1));
            wait_readable_or_gone(&[], Some(theirs.as_fd()), soon).unwrap().1
        };
        super::super::socket::close_sending(&ours);
        assert!(!look());
        drop(ours);
        assert!(look());
    }

    #[test]
    fn an_alarm_that_moves_on_a_little_is_left_as_it_is() {
        let mut alarm = Alarm::new().unwrap();
        let begin = super::super::clock::boottime_ms() + 3_600_000;
        let mut set = |at: Option<i64>| {
            alarm.set(at).unwrap();
            alarm.set_to.map(|set| set - begin)
        };
        assert_eq!(set(Some(begin)), Some(0));
        assert_eq!(set(Some(begin + EARLY - 1)), Some(0));
        assert_eq!(set(Some(begin + EARLY)), Some(EARLY));
        assert_eq!(set(Some(begin + EARLY - 1)), Some(EARLY - 1), "never too late");
        assert_eq!(set(None), None, "nothing is due: nobody wakes");
        assert_eq!(set(Some(begin + 1)), Some(1));
        // Once it has rung, it is set to the time itself.
        alarm.set(Some(1)).unwrap();
        assert!(wait_readable(&[alarm.as_fd()], Some(Duration::from_secs(30))).unwrap()[0]);
        alarm.clear();
        alarm.set(Some(begin + 9)).unwrap();
        assert_eq!(alarm.set_to, Some(begin + 9));
    }
}
