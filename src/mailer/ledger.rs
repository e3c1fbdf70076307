//! What the spool remembers beside the mails: failed tries, when the next one is due, and what
//! went to whom lately. Losing it costs a few mails more than the limit, never a mail.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spool::Spool;
use crate::config::model::Limit;
use crate::policy::postbox::Postbox;
use crate::sys::clock;
use crate::wire::time::{Timestamp, WallTime};

/// The first wait after a failed try; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Threads that are remembered, of all recipients.
const THREADS: usize = 1_000;

/// Both clocks, read once for a turn of the loop.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    pub(super) boot: Timestamp,
    pub(super) wall: WallTime,
    boot_id: String,
}

impl Clock {
    pub(super) fn now() -> Clock {
        Clock {
            boot: Timestamp(clock::boottime_ms()),
            wall: WallTime(clock::wall_ms()),
            boot_id: clock::boot_clock_id(),
        }
    }

    /// The same boot, later.
    #[cfg(test)]
    pub(super) fn after(&self, seconds: u64) -> Clock {
        Clock {
            boot: self.boot + Duration::from_secs(seconds),
            wall: WallTime(self.wall.0 + seconds * 1000),
            boot_id: self.boot_id.clone(),
        }
    }

    /// A wall time of the past on the clock that decides.
    pub(super) fn on_boot_clock(&self, past: WallTime) -> Timestamp {
        let ago = self.wall.0.saturating_sub(past.0);
        Timestamp(self.boot.0.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)))
    }
}

/// Failed tries in a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Backoff {
    pub(super) tries: u32,
    pub(super) next: Timestamp,
    pub(super) error: Option<String>,
}

impl Backoff {
    /// A try failed: the next one is due in 2 s, doubling to 5 min.
    pub(super) fn fail(&mut self, now: Timestamp, error: String) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(10)).min(LONGEST_WAIT);
        self.tries = self.tries.saturating_add(1);
        self.next = now + wait;
        self.error = Some(error);
    }

    /// Whether the next try may be made. One that is further away than the longest wait was
    /// written by another clock.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next <= now || self.next.since(now) > LONGEST_WAIT
    }
}

/// The content of `ledger.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ledger {
    boot_id: String,
    boot: Timestamp,
    wall: WallTime,
    /// The way out of this machine: connection, login, sender.
    pub(super) server: Backoff,
    /// Mails that the server did not take, by file name.
    pub(super) mails: BTreeMap<String, Backoff>,
    /// What went to each recipient.
    pub(super) postboxes: BTreeMap<String, Postbox>,
    /// By which mail each recipient first heard of a thread; the one used longest ago is first.
    pub(super) threads: Vec<Heard>,
}

/// A recipient has heard of a thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Heard {
    to: String,
    thread: String,
    /// Of the mail that told it first: one of the thread, or a digest.
    id: String,
}

impl Ledger {
    /// Reads it. Times of an earlier boot are moved by the wall clock, which is the only one that
    /// ran through the reboot.
    pub(super) fn load(spool: &Spool, now: &Clock) -> Ledger {
        let mut ledger: Ledger = spool.read_ledger().unwrap_or_default();
        if ledger.boot_id != now.boot_id {
            let written = now.on_boot_clock(ledger.wall);
            let delta = written.0.saturating_sub(ledger.boot.0);
            for postbox in ledger.postboxes.values_mut() {
                postbox.shift(delta);
            }
            for backoff in ledger.mails.values_mut().chain([&mut ledger.server]) {
                backoff.next = now.boot;
            }
        }
        ledger
    }

    /// Writes it.
    pub(super) fn save(
        &mut self,
        spool: &mut Spool,
        now: &Clock,
        limit: Limit,
    ) -> Result<(), String> {
        self.boot_id.clone_from(&now.boot_id);
        (self.boot, self.wall) = (now.boot, now.wall);
        self.postboxes.retain(|_, postbox| !postbox.is_stale(now.boot, limit));
        spool.write_ledger(self)
    }

    /// The id of the mail by which `to` first heard of the thread.
    pub(super) fn heard(&self, to: &str, thread: &str) -> Option<&str> {
        let known = self.threads.iter().find(|heard| heard.to == to && heard.thread == thread)?;
        Some(&known.id)
    }

    /// `to` got a mail of the thread. `over`: nothing will answer to it.
    pub(super) fn note_heard(&mut self, to: &str, thread: &str, id: &str, over: bool) {
        let place = self.threads.iter().position(|h| h.to == to && h.thread == thread);
        let known = place.map(|place| self.threads.remove(place));
        if over {
            return;
        }
        if self.threads.len() >= THREADS {
            self.threads.remove(0);
        }
        self.threads.push(known.unwrap_or_else(|| Heard {
            to: to.to_owned(),
            thread: thread.to_owned(),
            id: id.to_owned(),
        }));
    }

    /// Everything may be tried at once.
    pub(super) fn flush(&mut self, now: Timestamp) {
        for backoff in self.mails.values_mut().chain([&mut self.server]) {
            backoff.next = now;
        }
    }

    /// Failed tries of a mail, milliseconds to the next, last error: for `mail list`.
    pub(super) fn tries_of(&self, name: &str) -> (u32, u64, Option<String>) {
        let now = Timestamp(clock::boottime_ms());
        let own = self.mails.get(name);
        let next = own.map_or(self.server.next, |own| own.next.max(self.server.next));
        let wait = u64::try_from(next.since(now).as_millis()).unwrap_or(u64::MAX);
        let error = own.and_then(|own| own.error.clone()).or_else(|| self.server.error.clone());
        (own.map_or(0, |own| own.tries), wait, error)
    }
}
