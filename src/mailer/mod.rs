//! The mailer: a short-lived process that keeps mails in the spool, confirms them to the master,
//! delivers what is due and exits. The master forks it when there is mail; several may run at a
//! time, and exactly one of them delivers.
//!
//! It reads the password while it still is root, makes the spool folder, becomes the mail account,
//! gives up what it does not need (`sandbox`), and then turns around one poll(2): orders of the
//! master, the delivery that is going, its deadline. A delivery may hang in any place (a name
//! service has no timeout), so each runs in a child of its own that is killed when its time is
//! over; new orders are confirmed meanwhile.
//!
//! What can fail: everything, and nothing of it is fatal. Without a spool the mails are delivered
//! directly and confirmed after that; without a network they wait. The master is told last what the
//! spool holds and when the next try is due.

mod desk;
mod flight;
mod ledger;
pub mod message;
mod more;
mod sandbox;
mod setup;
pub mod spool;
#[cfg(test)]
mod tests;
mod transport;
mod turn;

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use lettre::transport::smtp::extension::ClientId;

use self::desk::Desk;
use self::ledger::Clock;
use self::spool::Spool;
use self::transport::Way;
use crate::config::model::Mail;
use crate::sys::account::Account;
use crate::sys::fork::{leave, new_session};
use crate::sys::{privileges, signals};

/// Exit status when the mail account could not be entered (`EX_NOPERM`).
const EXIT_NOPERM: i32 = 77;

/// The whole life of a mailer, called in a freshly forked child that has 0, 1, 2 and `socket` open.
/// `account`: whom to become; `None`: stay who we are. Orders come in by `socket` until its end of
/// file; replies go out by it, [`crate::wire::mail::MailReply::State`] last.
pub fn run(mail: &Mail, account: Option<&Account>, socket: OwnedFd) -> Infallible {
    new_session();
    crate::sys::proc::set_title("runner: mailer");
    let secret = setup::read_secret(&mail.transport);
    let prepared = setup::prepare_spool(&mail.spool, account);
    setup::prepare_maildir(&mail.transport, account);
    if let Some(account) = account
        && let Err(cause) = privileges::drop_to(account)
    {
        // Never as root: nothing is kept, nothing is sent, the master is told why.
        turn::refuse_all(&socket, &cause);
        leave(EXIT_NOPERM);
    }
    sandbox::enter(mail);
    // Every signal kills: a crash at any line must be harmless anyway.
    signals::unblock();

    let host = host();
    let secret = secret.as_ref().map(Option::as_deref).map_err(String::as_str);
    let way = Way { mail, secret, host: &host };
    let spool = prepared.and_then(|()| Spool::open(&mail.spool));
    let desk = Desk::new(mail, spool, &Clock::now());
    turn::work(desk, &way, &socket);
    leave(0)
}

/// The name of this machine as it stands in a Message-ID and in EHLO.
fn host() -> String {
    match ClientId::default() {
        ClientId::Domain(name)
            if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
                && name.starts_with(|c: char| c.is_ascii_alphanumeric()) =>
        {
            name
        }
        _ => "localhost".to_owned(),
    }
}
