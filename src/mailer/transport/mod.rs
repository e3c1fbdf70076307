//! One message to one recipient, by the way out that the configuration names. Everything here may
//! block; it runs in a child that is killed when its time is over.

#[cfg(test)]
mod local_tests;
mod maildir;
mod sendmail;
mod smtp;
#[cfg(test)]
mod smtp_tests;

use serde::{Deserialize, Serialize};

use super::message;
use crate::config::model::{Mail, Transport};
use crate::wire::mail::Envelope;

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The next station has taken the responsibility for it.
    Sent {
        /// The subject as sent.
        subject: String,
    },
    /// 5xx to RCPT or DATA: this recipient will never get this mail.
    Refused(String),
    /// To be tried again; the way itself seems to work, so other mails need not wait.
    MailLater(String),
    /// To be tried again, like every other mail.
    ServerLater(String),
}

/// What a delivery needs beside the mail.
#[derive(Debug, Clone)]
pub(super) struct Way<'a> {
    /// The `mail:` section.
    pub(super) mail: &'a Mail,
    /// The SMTP password, or why there is none.
    pub(super) secret: Result<Option<&'a str>, &'a str>,
    /// The name of this machine.
    pub(super) host: &'a str,
}

/// Delivers; `answers_to` names the mail before it in the recipient's thread. `report` is called exactly once, as soon as the outcome is certain: a polite farewell
/// to the server may follow it.
pub(super) fn deliver(
    way: &Way<'_>,
    envelope: &Envelope,
    answers_to: Option<&str>,
    to: &str,
    report: &mut dyn FnMut(Outcome),
) {
    let (from, prefix) = (&way.mail.from, &way.mail.subject_prefix);
    let built = message::build(envelope, answers_to, to, from, prefix, way.host);
    let letter = match built {
        Ok(letter) => letter,
        Err(cause) => return report(Outcome::MailLater(cause)),
    };
    match &way.mail.transport {
        Transport::Smtp { .. } => smtp::deliver(way, &letter, report),
        Transport::Sendmail(program) => report(sendmail::deliver(program, &letter)),
        Transport::Maildir(folder) => {
            let name = format!("{}.{}", message_stamp(envelope), way.host);
            report(maildir::deliver(folder, &name, to, &letter));
        }
    }
}

/// The part of a Maildir name before the host: the same for every try of one mail.
fn message_stamp(envelope: &Envelope) -> String {
    format!("{}.{}", envelope.at.0 / 1000, super::spool::safe_id(&envelope.id))
}

/// The message with the line ends of this system, for local delivery.
fn local_lines(message: &[u8]) -> Vec<u8> {
    let mut local = Vec::with_capacity(message.len());
    for (index, byte) in message.iter().enumerate() {
        if !(*byte == b'\r' && message.get(index + 1) == Some(&b'\n')) {
            local.push(*byte);
        }
    }
    local
}
