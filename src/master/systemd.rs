//! Telling systemd, where it asked for it: sd_notify(3) over NOTIFY_SOCKET.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::sys::clock;
use crate::wire::time::Timestamp;

/// The way to the service manager.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Half of WATCHDOG_USEC, where it is meant for us.
    watchdog: Option<Duration>,
    next: Option<Timestamp>,
}

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
        Systemd { socket, watchdog, next: None }
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    pub(super) fn ready(&mut self) {
        let pid = std::process::id();
        self.tell(&format!("READY=1\nMAINPID={pid}\nSTATUS=running"));
        if self.watchdog.is_some() && self.socket.is_some() {
            self.next = Some(Timestamp(clock::boottime_ms()));
        }
    }

    pub(super) fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_us()));
    }

    /// A reload came to nothing.
    pub(super) fn still_ready(&self) {
        self.tell("READY=1");
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    #[must_use]
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.next
    }

    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        if let (Some(next), Some(every)) = (self.next, self.watchdog)
            && next <= now
        {
            self.tell("WATCHDOG=1");
            self.next = Some(now + every);
        }
    }
}
