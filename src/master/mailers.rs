//! Mailers, as the master sees them: forked when there is mail and when mail that waits is due
//! again, fed over a socket, listened to until they end. What they are given is in `post`.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::handover::HandedMailer;
use super::inbox::{Heard, hear};
use super::{Child, Master, now};
use crate::config::model::Level;
use crate::mailer;
use crate::policy::supervisor::ExitReason;
use crate::sys::fork::{Pid, fork_child, keep_only};
use crate::sys::poll::Interest;
use crate::sys::socket;
use crate::sys::{clock, locks, privileges, stdio};
use crate::wire::mail::{MailOrder, MailReply};
use crate::wire::report::encode;
use crate::wire::words::{counted, mails_wait};

/// How long the end of the master waits for the spool.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// The mailers at work.
#[derive(Debug, Default)]
pub(super) struct Mailers(BTreeMap<Pid, Mailer>);

/// One of them.
#[derive(Debug)]
struct Mailer {
    socket: OwnedFd,
    token: u64,
    /// Packets that it has not taken yet.
    outbox: VecDeque<Vec<u8>>,
    ids: Vec<String>,
    closed: bool,
}

impl Mailers {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn owns(&self, token: u64) -> bool {
        self.0.values().any(|mailer| mailer.token == token)
    }

    /// Those that go on over an upgrade: they have taken everything they were given.
    pub(super) fn handed(&self) -> Vec<HandedMailer> {
        self.0
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
        self.0.get(&pid).is_some_and(|mailer| mailer.closed)
    }

    /// Their ends of the pairs.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.values().filter(|mailer| mailer.closed).map(|mailer| &mailer.socket)
    }
}

impl Master {
    /// Forks a mailer if there is something for one.
    pub(super) fn send_mail(&mut self) {
        let Some(mail) = &self.plan.config.mail else { return };
        if !self.post.wants_mailer(self.mailers.count()) {
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
        let (flush, mails) = self.post.give();
        let orders = flush.then_some(MailOrder::Flush).into_iter();
        mailer.ids.extend(mails.iter().map(|mail| mail.id.clone()));
        for order in orders.chain(mails.into_iter().map(MailOrder::Spool)) {
            match encode(&order) {
                Ok(packet) => mailer.outbox.push_back(packet),
                Err(problem) => self.log.error(&format!("cannot mail a notice: {problem}")),
            }
        }
        self.children.insert(pid, Child::Mailer);
        self.mailers.0.insert(pid, mailer);
        self.feed_mailer(pid);
    }

    fn no_mailer(&mut self, cause: &std::io::Error) {
        let error = format!("cannot start a mailer: {cause}");
        self.log.error(&error);
        self.post.not_kept(error, now());
    }

    fn feed_mailer(&mut self, pid: Pid) {
        let Some(mailer) = self.mailers.0.get_mut(&pid) else { return };
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
        let found = self.mailers.0.iter().find(|(_, mailer)| mailer.token == token);
        let Some((pid, _)) = found else { return };
        let pid = *pid;
        self.feed_mailer(pid);
        loop {
            let Some(mailer) = self.mailers.0.get(&pid) else { return };
            match hear(&mailer.socket, &mut self.buffer) {
                Heard::Said(reply) => self.take_reply(reply),
                Heard::Unclear(problem) => {
                    self.log.warn(&format!("ignored a mailer's reply: {problem}"));
                }
                Heard::Nothing => return,
                Heard::Closed => return self.epoll.remove(&mailer.socket),
            }
        }
    }

    fn take_reply(&mut self, reply: MailReply) {
        match reply {
            MailReply::Spooled { id } => self.post.spooled(&id),
            MailReply::NotSpooled { id, error } => {
                self.log.error(&format!("cannot keep mail {id}: {error}"));
                self.post.not_kept(error, now());
            }
            MailReply::Sent { id, to, subject } => {
                self.post.done(&id, &to);
                let target = self.mail_target();
                let text = format!("delivered {subject:?} for {to} to {target}");
                self.log.say(Level::Debug, None, None, &text);
            }
            MailReply::Dead { id, to, error } => {
                self.post.done(&id, &to);
                self.log.error(&format!("mail for {to} was refused for ever: {error}"));
            }
            MailReply::State(state) => {
                if let Some((error, waiting)) = self.post.told(state, now()) {
                    let wait = mails_wait(waiting);
                    self.log.warn(&format!("{wait} for delivery: {error}"));
                }
            }
        }
    }

    pub(super) fn mailer_exited(&mut self, pid: Pid, reason: ExitReason) {
        if let Some(token) = self.mailers.0.get(&pid).map(|mailer| mailer.token) {
            self.read_mailer(token);
        }
        let Some(mailer) = self.mailers.0.remove(&pid) else { return };
        self.epoll.remove(&mailer.socket);
        let well = if reason == ExitReason::Code(0) {
            Ok(())
        } else {
            self.log.warn(&format!("a mailer ended with {reason:?}"));
            Err(format!("{reason:?}"))
        };
        self.post.mailer_ended(&mailer.ids, well, now());
    }

    /// At the end: what is not yet on disk gets there, within a short patience.
    pub(super) fn finish_mail(&mut self) {
        let deadline = clock::monotonic().saturating_add(LAST_PATIENCE);
        loop {
            self.post.hurry();
            if self.post.len() == 0 || clock::monotonic() >= deadline {
                break;
            }
            self.send_mail();
            self.turn_once(Duration::from_millis(100));
        }
        let count = self.post.len();
        if count > 0 {
            let mails = counted(count, "mail", "mails");
            self.log.error(&format!("{mails} could not be brought into the spool"));
        }
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
        self.post.are_given(&ids);
        let mailer = Mailer { socket, token, outbox: VecDeque::new(), ids, closed: true };
        self.children.insert(pid, Child::Mailer);
        self.mailers.0.insert(pid, mailer);
        Ok(())
    }
}
