//! Telling systemd, where it asked for it: sd_notify(3) over NOTIFY_SOCKET.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::now;
use crate::sys::clock;
use crate::wire::time::Timestamp;

/// The way to the service manager.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Half of WATCHDOG_USEC, where it is meant for us.
    watchdog: Option<Duration>,
    next: Option<Timestamp>,
    /// While a start, a reload or a stop takes its time: when more of it is asked for.
    extend: Option<Timestamp>,
}

/// How much more time is asked for, and how often: a wait of ours has a bound of its own, which the
/// service manager does not know (TimeoutStartSec=, TimeoutStopSec=).
const EXTENSION: Duration = Duration::from_secs(30);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

impl Systemd {
    pub(super) fn new(env: &[(OsString, OsString)]) -> Systemd {
        let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, v)| v);
        let number = |name: &str| value(name)?.to_str()?.parse::<u64>().ok();
        let socket = value("NOTIFY_SOCKET").and_then(|path| {
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name).ok()?,
                None => SocketAddr::from_pathname(path).ok()?,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")
            .filter(|micros| for_us && *micros > 0)
            .map(|micros| Duration::from_micros(micros / 2));
        Systemd { socket, watchdog, next: None, extend: None }
    }

    /// Something begins that may last longer than the service manager allows by itself.
    fn takes_time(&mut self) {
        self.extend = self.socket.is_some().then(now);
    }

    /// A start that waits for its predecessor's end.
    pub(super) fn starting(&mut self) {
        self.takes_time();
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    pub(super) fn ready(&mut self) {
        let pid = std::process::id();
        self.extend = None;
        self.tell(&format!("READY=1\nMAINPID={pid}\nSTATUS=running"));
        if self.watchdog.is_some() && self.socket.is_some() {
            self.next = Some(now());
        }
    }

    pub(super) fn reloading(&mut self) {
        self.takes_time();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_us()));
    }

    /// A reload came to nothing.
    pub(super) fn still_ready(&mut self) {
        self.extend = None;
        self.tell("READY=1");
    }

    pub(super) fn stopping(&mut self) {
        self.takes_time();
        self.tell("STOPPING=1");
    }

    #[must_use]
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        [self.next, self.extend].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        if let (Some(next), Some(every)) = (self.next, self.watchdog)
            && next <= now
        {
            self.tell("WATCHDOG=1");
            self.next = Some(now + every);
        }
        if self.extend.is_some_and(|extend| extend <= now) {
            self.tell(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
            self.extend = Some(now + EXTEND_EVERY);
        }
    }
}
