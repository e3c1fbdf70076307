//! What the master hands to the mailer, and what the mailer answers.

use serde::{Deserialize, Serialize};

use super::time::WallTime;

/// What kind of thing the admins are told. Its text form is the `X-Runner-Notice` header and the
/// `notice` key of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum NoticeKind {
    First,
    Reached,
    Again,
    New,
    Healed,
    Unstable,
    Overdue,
    Paused,
    Refused,
    Accepted,
    /// Several notices in one mail.
    Digest,
    /// `runnerctl mail test`.
    Test,
}

impl NoticeKind {
    /// The kind's name in capitals.
    pub fn word(self) -> &'static str {
        match self {
            NoticeKind::First => "FIRST",
            NoticeKind::Reached => "REACHED",
            NoticeKind::Again => "AGAIN",
            NoticeKind::New => "NEW",
            NoticeKind::Healed => "HEALED",
            NoticeKind::Unstable => "UNSTABLE",
            NoticeKind::Overdue => "OVERDUE",
            NoticeKind::Paused => "PAUSED",
            NoticeKind::Refused => "REFUSED",
            NoticeKind::Accepted => "ACCEPTED",
            NoticeKind::Digest => "DIGEST",
            NoticeKind::Test => "TEST",
        }
    }

    /// Nothing follows it in its thread.
    pub fn closes(self) -> bool {
        use NoticeKind::{Accepted, Healed, Test, Unstable};
        matches!(self, Healed | Accepted | Unstable | Test)
    }

    /// REACHED and REFUSED go before a recipient's limit is counted against the rest.
    pub fn goes_first(self) -> bool {
        matches!(self, NoticeKind::Reached | NoticeKind::Refused)
    }
}

/// One mail as the master decided it: text only, no header syntax. The mailer makes the message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Stable and unique, `[A-Za-z0-9.-]+`, at most 100 bytes: names the spool file and is the
    /// left side of Message-ID.
    pub id: String,
    /// The identity of the outage (same alphabet): mails that share it are one thread. The first
    /// one has the id [`Envelope::root`]; the others answer to it, or to what their recipient got
    /// instead of it.
    pub thread: Option<String>,
    /// What it tells.
    pub kind: NoticeKind,
    /// The recipients: checked addresses, never empty.
    pub to: Vec<String>,
    /// One safe line, without `subject_prefix`.
    pub subject: String,
    /// Plain text, lines ended by `\n`, bounded, safe characters only.
    pub body: String,
    /// For `X-Runner-Chain`.
    pub chain: Option<String>,
    /// For `X-Runner-Task`.
    pub task: Option<String>,
    /// When the event happened.
    pub at: WallTime,
}

impl Envelope {
    /// The id of the mail that begins a thread.
    pub fn root(thread: &str) -> String {
        format!("{thread}.thread")
    }

    /// The id of the mail that this one answers to, as far as the master knows; `None`: it answers
    /// to none, or it is the one that begins its thread.
    pub fn answers_to(&self) -> Option<String> {
        self.thread.as_deref().map(Envelope::root).filter(|root| *root != self.id)
    }
}

/// Master → mailer: a packet each; end of file means that no more come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MailOrder {
    /// Keep this envelope in the spool, answer [`MailReply::Spooled`].
    Spool(Envelope),
    /// Try everything that waits now, whatever its next try says.
    Flush,
}

/// Mailer → master: a packet each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MailReply {
    /// The envelope is in the spool and both file and folder are on disk (fsync(2)); or, where
    /// the spool cannot be written, it was delivered directly.
    Spooled {
        /// The envelope's id.
        id: String,
    },
    /// The envelope could neither be spooled nor sent: the master keeps it and tries again.
    NotSpooled {
        /// The envelope's id.
        id: String,
        /// Why.
        error: String,
    },
    /// One mail was delivered to one recipient.
    Sent {
        /// The envelope's id.
        id: String,
        /// To whom.
        to: String,
        /// The subject as sent, for the log.
        subject: String,
    },
    /// One recipient was refused for ever (5xx to RCPT or DATA); it lies in `dead/`.
    Dead {
        /// The envelope's id.
        id: String,
        /// To whom.
        to: String,
        /// What the server said.
        error: String,
    },
    /// Told last: what the spool holds now.
    State(SpoolState),
}

/// What the spool holds when a mailer exits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SpoolState {
    /// Mails (one per recipient) that wait.
    pub waiting: u64,
    /// Mails in `dead/`.
    pub dead: u64,
    /// When the next try is due, in milliseconds from now; `None`: nothing waits.
    pub next_try: Option<u64>,
    /// The last error of a delivery, if something waits because of it.
    pub error: Option<String>,
}
