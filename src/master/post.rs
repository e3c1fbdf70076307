//! Mails on their way to a spool: the master keeps each one until a mailer has confirmed that it is
//! on disk. Mailers are forked when there is mail and when mail that waits is due again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::handover::HandedMailer;
use super::{Child, Master, now};
use crate::config::model::Level;
use crate::mailer;
use crate::policy::supervisor::ExitReason;
use crate::sys::fork::{Pid, fork_child, keep_only};
use crate::sys::poll::Interest;
use crate::sys::socket::{self, Received};
use crate::sys::{clock, locks, privileges, stdio};
use crate::wire::mail::{Envelope, MailOrder, MailReply, NoticeKind, SpoolState};
use crate::wire::report::{decode, encode};
use crate::wire::time::Timestamp;

/// Mailers at a time: one delivers, others only bring mail into the spool.
const MOST_MAILERS: usize = 3;

/// Mails that wait for a spool here. Beyond it the oldest are told in fewer words.
const MOST_MAILS: usize = 500;

/// The first and the longest pause after a mailer that could not keep a mail.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// How long the end of the master waits for the spool.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// Mails and mailers.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// Not yet confirmed, oldest first.
    mails: VecDeque<Envelope>,
    /// Mails that some mailer has been given.
    given: BTreeSet<String>,
    mailers: BTreeMap<Pid, Mailer>,
    /// What the last mailer said of the spool.
    pub(super) state: SpoolState,
    /// When waiting mail is due again.
    next_try: Option<Timestamp>,
    /// After a failure to spool: not before.
    not_before: Option<Timestamp>,
    failures: u32,
    /// Why the last mail could not be kept.
    error: Option<String>,
    /// An operator wants everything tried now.
    flush: bool,
    /// Mails that were merged for lack of room.
    merged: u64,
}

/// One mailer at work.
#[derive(Debug)]
struct Mailer {
    socket: OwnedFd,
    token: u64,
    /// Packets that it has not taken yet.
    outbox: VecDeque<Vec<u8>>,
    ids: Vec<String>,
    closed: bool,
}

impl Post {
    pub(super) fn push(&mut self, envelope: Envelope) {
        self.mails.push_back(envelope);
        while self.mails.len() > MOST_MAILS {
            self.merge_oldest();
        }
    }

    /// Mails that no spool has confirmed.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Envelope> {
        self.mails.iter()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.state.waiting.saturating_add(self.mails.len() as u64)
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref().or(self.state.error.as_deref())
    }

    pub(super) fn flush(&mut self) {
        self.flush = true;
        self.not_before = None;
    }

    /// The mailers that go on over an upgrade: those that have taken everything they were given.
    pub(super) fn handed(&self) -> Vec<HandedMailer> {
        self.mailers
            .iter()
            .filter(|(_, mailer)| mailer.closed)
            .map(|(pid, mailer)| HandedMailer {
                pid: *pid,
                socket: locks::number(&mailer.socket),
                ids: mailer.ids.clone(),
            })
            .collect()
    }

    /// Whether a mailer goes on so.
    pub(super) fn is_handed(&self, pid: Pid) -> bool {
        self.mailers.get(&pid).is_some_and(|mailer| mailer.closed)
    }

    /// Their ends of the pairs.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.mailers.values().filter(|mailer| mailer.closed).map(|mailer| &mailer.socket)
    }

    /// Two mails become one that names both: with a full memory fewer words, never silence.
    fn merge_oldest(&mut self) {
        let free = |mail: &Envelope| !self.given.contains(&mail.id);
        let mut places =
            self.mails.iter().enumerate().filter(|(_, mail)| free(mail)).map(|(at, _)| at);
        let (Some(first), Some(second)) = (places.next(), places.next()) else {
            self.mails.pop_front();
            self.merged += 1;
            return;
        };
        drop(places);
        let Some(later) = self.mails.remove(second) else { return };
        let Some(kept) = self.mails.get_mut(first) else { return };
        self.merged += 1;
        if kept.kind != NoticeKind::Digest {
            kept.body = format!("{}\n", kept.subject);
            kept.kind = NoticeKind::Digest;
            kept.chain = None;
            kept.task = None;
            kept.thread = None;
        }
        if kept.body.len() < 16_000 {
            kept.body.push_str(&later.subject);
            kept.body.push('\n');
        }
        for to in later.to {
            if !kept.to.contains(&to) {
                kept.to.push(to);
            }
        }
        kept.subject = format!("[runner] {} notices", kept.body.lines().count());
    }

    #[must_use]
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let retry = self.not_before.filter(|_| self.has_free_mail());
        [self.next_try, retry].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        if self.next_try.is_some_and(|at| at <= now) {
            self.next_try = None;
            self.flush = self.flush || self.mailers.is_empty();
        }
        if self.not_before.is_some_and(|at| at <= now) {
            self.not_before = None;
        }
    }

    pub(super) fn owns(&self, token: u64) -> bool {
        self.mailers.values().any(|mailer| mailer.token == token)
    }

    fn has_free_mail(&self) -> bool {
        self.mails.iter().any(|mail| !self.given.contains(&mail.id))
    }

    fn wants_mailer(&self) -> bool {
        if self.mailers.len() >= MOST_MAILERS {
            return false;
        }
        (self.flush && self.mailers.is_empty())
            || (self.not_before.is_none() && self.has_free_mail())
    }

    fn confirmed(&mut self, id: &str) {
        self.mails.retain(|mail| mail.id != id);
        self.given.remove(id);
        self.failures = 0;
        self.error = None;
    }

    fn not_kept(&mut self, error: String, now: Timestamp) {
        let factor = 1_u32 << self.failures.min(16);
        let pause = RETRY.0.saturating_mul(factor).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
        self.error = Some(error);
    }
}

impl Master {
    /// Forks a mailer if there is something for one.
    pub(super) fn send_mail(&mut self) {
        let Some(mail) = &self.plan.config.mail else { return };
        if !self.post.wants_mailer() {
            return;
        }
        let (ours, theirs) = match socket::packet_pair() {
            Ok(pair) => pair,
            Err(cause) => return self.no_mailer(&cause),
        };
        let token = self.next_token;
        if let Err(cause) = self.epoll.add(&ours, token, Interest::ReadWrite) {
            return self.no_mailer(&cause);
        }
        let account = self.plan.mail_account.as_ref().filter(|_| privileges::is_root());
        let forked = fork_child(|| {
            use std::os::fd::AsFd;
            keep_only(&[theirs.as_fd()]);
            let _ = stdio::to_null();
            mailer::run(mail, account, theirs)
        });
        let pid = match forked {
            Ok(pid) => pid,
            Err(cause) => {
                self.epoll.remove(&ours);
                return self.no_mailer(&cause);
            }
        };
        self.next_token += 1;
        let mut mailer =
            Mailer { socket: ours, token, outbox: VecDeque::new(), ids: Vec::new(), closed: false };
        if std::mem::take(&mut self.post.flush)
            && let Ok(packet) = encode(&MailOrder::Flush)
        {
            mailer.outbox.push_back(packet);
        }
        for envelope in &self.post.mails {
            if self.post.given.insert(envelope.id.clone()) {
                match encode(&MailOrder::Spool(envelope.clone())) {
                    Ok(packet) => mailer.outbox.push_back(packet),
                    Err(problem) => self.log.error(&format!("cannot mail a notice: {problem}")),
                }
                mailer.ids.push(envelope.id.clone());
            }
        }
        self.children.insert(pid, Child::Mailer);
        self.post.mailers.insert(pid, mailer);
        self.feed_mailer(pid);
    }

    fn no_mailer(&mut self, cause: &std::io::Error) {
        let error = format!("cannot start a mailer: {cause}");
        self.log.error(&error);
        self.post.not_kept(error, now());
    }

    fn feed_mailer(&mut self, pid: Pid) {
        let Some(mailer) = self.post.mailers.get_mut(&pid) else { return };
        while let Some(packet) = mailer.outbox.front() {
            match socket::send_packet(&mailer.socket, packet) {
                Ok(true) => mailer.outbox.pop_front(),
                Ok(false) => return,
                Err(_) => break,
            };
        }
        if !mailer.closed {
            // No more come: the mailer may exit when it is done.
            socket::close_sending(&mailer.socket);
            mailer.closed = true;
            let _ = self.epoll.modify(&mailer.socket, mailer.token, Interest::Read);
        }
    }

    pub(super) fn read_mailer(&mut self, token: u64) {
        let found = self.post.mailers.iter().find(|(_, mailer)| mailer.token == token);
        let Some((pid, _)) = found else { return };
        let pid = *pid;
        self.feed_mailer(pid);
        loop {
            let Some(mailer) = self.post.mailers.get(&pid) else { return };
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = socket::receive_packet(&mailer.socket, &mut buffer);
            let reply = match received {
                Ok(Received::Packet(length)) => decode::<MailReply>(&buffer[..length]),
                Ok(Received::Oversized) => Err("a packet that is too large".to_owned()),
                Ok(Received::Empty) => {
                    self.buffer = buffer;
                    return;
                }
                Ok(Received::Closed) | Err(_) => {
                    self.buffer = buffer;
                    self.epoll.remove(&mailer.socket);
                    return;
                }
            };
            self.buffer = buffer;
            match reply {
                Ok(reply) => self.take_reply(reply),
                Err(problem) => self.log.warn(&format!("ignored a mailer's reply: {problem}")),
            }
        }
    }

    fn take_reply(&mut self, reply: MailReply) {
        match reply {
            MailReply::Spooled { id } => self.post.confirmed(&id),
            MailReply::NotSpooled { id, error } => {
                self.log.error(&format!("cannot keep mail {id}: {error}"));
                self.post.not_kept(error, now());
            }
            MailReply::Sent { to, subject, .. } => {
                let target = self.mail_target();
                let text = format!("delivered {subject:?} for {to} to {target}");
                self.log.say(Level::Debug, None, None, &text);
            }
            MailReply::Dead { to, error, .. } => {
                self.log.error(&format!("mail for {to} was refused for ever: {error}"));
            }
            MailReply::State(state) => {
                if state.error.is_some() && state.error != self.post.state.error {
                    let error = state.error.as_deref().unwrap_or_default();
                    let waiting = state.waiting;
                    self.log.warn(&format!("{waiting} mails wait for delivery: {error}"));
                }
                self.post.next_try =
                    state.next_try.map(|millis| now() + Duration::from_millis(millis));
                self.post.state = state;
            }
        }
    }

    pub(super) fn mailer_exited(&mut self, pid: Pid, reason: ExitReason) {
        if let Some(token) = self.post.mailers.get(&pid).map(|mailer| mailer.token) {
            self.read_mailer(token);
        }
        let Some(mailer) = self.post.mailers.remove(&pid) else { return };
        self.epoll.remove(&mailer.socket);
        let mut lost = false;
        for id in &mailer.ids {
            lost |= self.post.given.remove(id);
        }
        if lost && self.post.not_before.is_none() {
            self.post.not_kept(format!("a mailer ended early ({reason:?})"), now());
        }
        if reason != ExitReason::Code(0) {
            self.log.warn(&format!("a mailer ended with {reason:?}"));
            if self.post.state.waiting > 0 && self.post.next_try.is_none() {
                self.post.next_try = Some(now() + RETRY.0);
            }
        }
    }

    /// At the end: what is not yet on disk gets there, within a short patience.
    pub(super) fn finish_mail(&mut self) {
        let deadline = clock::monotonic().saturating_add(LAST_PATIENCE);
        loop {
            self.post.not_before = self.post.not_before.filter(|_| self.post.failures > 1);
            if self.post.mails.is_empty() || clock::monotonic() >= deadline {
                break;
            }
            self.send_mail();
            self.turn_once(Duration::from_millis(100));
        }
        if !self.post.mails.is_empty() {
            let count = self.post.mails.len();
            self.log.error(&format!("{count} mails could not be brought into the spool"));
        }
        // A mailer that still delivers ends by itself and needs nobody.
    }

    /// A mailer of the image before this one.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub(super) fn adopt_mailer(
        &mut self,
        pid: Pid,
        socket: OwnedFd,
        ids: Vec<String>,
    ) -> Result<(), String> {
        let token = self.next_token;
        self.epoll
            .add(&socket, token, Interest::Read)
            .map_err(|cause| format!("cannot watch mailer {pid}: {cause}"))?;
        self.next_token += 1;
        self.post.given.extend(ids.iter().cloned());
        let mailer = Mailer { socket, token, outbox: VecDeque::new(), ids, closed: true };
        self.children.insert(pid, Child::Mailer);
        self.post.mailers.insert(pid, mailer);
        Ok(())
    }

    /// Mails of the image before this one.
    pub(super) fn adopt_mails(&mut self, mails: Vec<Envelope>) {
        self.post.mails = mails.into();
        self.post.flush = true;
    }
}
