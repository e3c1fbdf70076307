//! Delivery by SMTP (RFC 5321), one transaction for one recipient, step by step: only so is it
//! known to which command a server said 5xx, and only a 5xx to RCPT or DATA is final.
//!
//! StartTls never goes on without TLS, and credentials are only ever sent inside it.

use std::path::Path;
use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::transport::smtp::response::Response;

use super::{Outcome, Way};
use crate::config::model::{Security, Transport};
use crate::mailer::message::{Letter, one_line};

/// How long one read or write may take; the whole delivery has a deadline of its own.
const STEP: Duration = Duration::from_secs(60);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

type SmtpError = lettre::transport::smtp::Error;

pub(super) fn deliver(way: &Way<'_>, letter: &Letter, report: &mut dyn FnMut(Outcome)) {
    let mut server = match connect(way) {
        Ok(server) => server,
        Err(cause) => return report(Outcome::ServerLater(cause)),
    };
    report(transact(&mut server, letter));
    let _ = server.set_timeout(Some(FAREWELL));
    let _ = server.quit();
}

/// Connection, TLS and login.
fn connect(way: &Way<'_>) -> Result<SmtpConnection, String> {
    let Transport::Smtp { host, port, security, username, ca_file, .. } = &way.mail.transport
    else {
        return Err("cannot use SMTP: another transport is configured".to_owned());
    };
    let hello = ClientId::Domain(way.host.to_owned());
    let tls = match security {
        Security::None => None,
        Security::StartTls | Security::Tls => Some(tls_parameters(host, ca_file.as_deref())?),
    };
    let at_once = if *security == Security::Tls { tls.as_ref() } else { None };
    let mut server =
        SmtpConnection::connect((host.as_str(), *port), Some(STEP), &hello, at_once, None)
            .map_err(|cause| say(&format!("cannot connect to {host}:{port}"), &cause))?;
    if let (Security::StartTls, Some(tls)) = (security, &tls) {
        if !server.can_starttls() {
            return Err(format!(
                "{host}:{port} does not offer STARTTLS, which `security: StartTls` requires"
            ));
        }
        server
            .starttls(tls, &hello)
            .map_err(|cause| say(&format!("cannot begin TLS with {host}:{port}"), &cause))?;
        refuse_injected_replies(&mut server)?;
    }
    if let Some(username) = username {
        if !server.is_encrypted() {
            return Err("cannot log in: credentials are only sent with TLS".to_owned());
        }
        let secret = way.secret?.ok_or("cannot log in: no password_file is configured")?;
        let credentials = Credentials::new(username.clone(), secret.to_owned());
        let answer = server
            .auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
            .map_err(|cause| say(&format!("cannot log in at {host} as {username}"), &cause))?;
        expect(&answer, 235, "the login")?;
    }
    Ok(server)
}

/// Whoever sits between us and the server can put replies in clear text behind the server's "ready
/// to start TLS"; they would be read as if they had come through TLS, and could confirm a mail that
/// was never sent. More than one such reply shows here, since it lies in the buffer already; a
/// single one shifts every later answer by one, which [`expect`] sees.
fn refuse_injected_replies(server: &mut SmtpConnection) -> Result<(), String> {
    let timeout = |server: &mut SmtpConnection, time| {
        server.set_timeout(Some(time)).map_err(|cause| format!("cannot set a timeout: {cause}"))
    };
    timeout(server, Duration::from_millis(1))?;
    let clean = match server.read_response() {
        Ok(_) => false,
        Err(cause) => !(cause.is_permanent() || cause.is_transient() || cause.is_response()),
    };
    timeout(server, STEP)?;
    if clean { Ok(()) } else { Err("the server answered before TLS began".to_owned()) }
}

/// MAIL, RCPT, DATA, the message.
fn transact(server: &mut SmtpConnection, letter: &Letter) -> Outcome {
    let mut options = Vec::new();
    if !(letter.from.to_string().is_ascii() && letter.to.to_string().is_ascii()) {
        if !server.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Outcome::MailLater("the server does not take such addresses".to_owned());
        }
        options.push(MailParameter::SmtpUtfEight);
    }
    if let Err(cause) = server.command(Mail::new(Some(letter.from.clone()), options)) {
        return Outcome::ServerLater(say("the server does not take the sender", &cause));
    }
    if let Err(cause) = server.command(Rcpt::new(letter.to.clone(), Vec::new())) {
        return judge("the server does not take the recipient", &cause);
    }
    match server.command(Data) {
        Err(cause) => return judge("the server does not want the mail", &cause),
        Ok(answer) => {
            if let Err(cause) = expect(&answer, 354, "DATA") {
                return Outcome::ServerLater(cause);
            }
        }
    }
    match server.message(&letter.bytes) {
        Ok(answer) => match expect(&answer, 250, "the mail") {
            Ok(()) => Outcome::Sent { subject: letter.subject.clone() },
            Err(cause) => Outcome::ServerLater(cause),
        },
        Err(cause) => judge("the server did not take the mail", &cause),
    }
}

/// Answers to RCPT and DATA: 5xx is final, 4xx is about this mail, all else about the way.
fn judge(what: &str, cause: &SmtpError) -> Outcome {
    let said = say(what, cause);
    // 421: the server closes the connection, whatever was asked (RFC 5321, section 3.8).
    let closing = cause.status().is_some_and(|code| u16::from(code) == 421);
    if cause.is_permanent() {
        Outcome::Refused(said)
    } else if cause.is_transient() && !closing {
        Outcome::MailLater(said)
    } else {
        Outcome::ServerLater(said)
    }
}

fn expect(answer: &Response, code: u16, what: &str) -> Result<(), String> {
    if u16::from(answer.code()) == code {
        Ok(())
    } else {
        let code = answer.code();
        let text: Vec<&str> = answer.message().collect();
        Err(format!("a wrong answer to {what}: {code} {}", one_line(&text.join(" "), 200)))
    }
}

fn tls_parameters(host: &str, ca_file: Option<&Path>) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(path) = ca_file {
        let read = |cause: String| format!("cannot read ca_file {}: {cause}", path.display());
        let text = std::fs::read(path).map_err(|cause| read(cause.to_string()))?;
        let roots = Certificate::from_pem(&text).map_err(|cause| read(cause.to_string()))?;
        builder = builder.add_root_certificate(roots);
    }
    builder.build_rustls().map_err(|cause| format!("cannot set up TLS: {cause}"))
}

/// "WHAT: CODE what the server said", or the cause of a failure without an answer.
fn say(what: &str, cause: &SmtpError) -> String {
    let said = match (cause.status(), std::error::Error::source(cause)) {
        (Some(code), Some(text)) => format!("{code} {text}"),
        _ => cause.to_string(),
    };
    format!("{what}: {}", one_line(&said, 300))
}
