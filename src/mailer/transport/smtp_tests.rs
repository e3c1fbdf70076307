//! A server that follows a script, and what each of its answers means for a mail.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::{Outcome, Way, deliver};
use crate::config::model::{Limit, Mail, Security, Transport, UserSpec};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// Answers by the first word of a command; `DATA.` is the end of the message. An empty answer
/// closes the connection.
type Script = &'static [(&'static str, &'static str)];

const GOOD: Script = &[
    ("banner", "220 ready"),
    ("EHLO", "250-hello\r\n250 8BITMIME"),
    ("MAIL", "250 ok"),
    ("RCPT", "250 ok"),
    ("DATA", "354 go on"),
    ("DATA.", "250 taken"),
    ("QUIT", "221 bye"),
];

fn serve(stream: TcpStream, script: Script) -> Vec<String> {
    let answer = |word: &str| {
        let own = script.iter().find(|(command, _)| *command == word);
        own.or_else(|| GOOD.iter().find(|(command, _)| *command == word))
            .map_or("500 what?", |a| a.1)
    };
    let (mut seen, mut in_message) = (Vec::new(), false);
    let mut reader = BufReader::new(stream);
    let mut word = "banner".to_owned();
    loop {
        let said = answer(&word);
        if said.is_empty() || write!(reader.get_mut(), "{said}\r\n").is_err() {
            return seen;
        }
        in_message |= word == "DATA" && said.starts_with("354");
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return seen;
            }
            seen.push(line.trim_end().to_owned());
            if !in_message {
                word = line.split_whitespace().next().unwrap_or("").to_uppercase();
                break;
            }
            if line == ".\r\n" {
                in_message = false;
                word = "DATA.".to_owned();
                break;
            }
        }
    }
}

fn mail(port: u16, security: Security, username: Option<&str>) -> Mail {
    Mail {
        from: "Runner <runner@example.org>".to_owned(),
        to: Vec::new(),
        transport: Transport::Smtp {
            host: "127.0.0.1".to_owned(),
            port,
            security,
            username: username.map(str::to_owned),
            password_file: None,
            ca_file: None,
        },
        spool: Path::new("/nowhere").to_owned(),
        user: UserSpec::Current,
        subject_prefix: String::new(),
        limit: Limit { mails: 1, per: Duration::from_secs(1) },
    }
}

fn try_once(mail: &Mail) -> Outcome {
    let way = Way { mail, secret: Ok(Some("secret")), host: "box.example.org" };
    let envelope = Envelope {
        id: "id".to_owned(),
        thread: None,
        kind: NoticeKind::First,
        to: Vec::new(),
        subject: "subject".to_owned(),
        body: "one\n.\n..\nend\n".to_owned(),
        chain: None,
        task: None,
        at: WallTime(0),
    };
    let mut outcomes = Vec::new();
    deliver(&way, &envelope, None, "ops@example.org", &mut |outcome| outcomes.push(outcome));
    assert_eq!(outcomes.len(), 1, "exactly one outcome");
    outcomes.remove(0)
}

/// One delivery to a server with this script; returns the outcome and what the server saw.
#[allow(clippy::disallowed_methods)] // A thread of a test, which never forks.
fn against(security: Security, user: Option<&str>, script: Script) -> (Outcome, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0, script));
    let outcome = try_once(&mail(port, security, user));
    (outcome, server.join().unwrap())
}

fn plain(script: Script) -> Outcome {
    against(Security::None, None, script).0
}

#[test]
fn a_good_server_takes_one_mail_in_one_transaction() {
    let (outcome, seen) = against(Security::None, None, &[]);
    assert_eq!(outcome, Outcome::Sent { subject: "subject".to_owned() });
    assert_eq!(seen[0], "EHLO box.example.org");
    assert_eq!(seen[1], "MAIL FROM:<runner@example.org>");
    assert_eq!(seen[2], "RCPT TO:<ops@example.org>");
    assert_eq!(seen.last().unwrap(), "QUIT");
    let body = seen.iter().position(String::is_empty).unwrap();
    assert_eq!(seen[body + 1..body + 5], ["one", "..", "...", "end"]);
}

#[test]
fn only_5xx_to_rcpt_or_data_is_final() {
    for command in ["RCPT", "DATA", "DATA."] {
        let refused: Script = match command {
            "RCPT" => &[("RCPT", "550 5.1.1 no such user")],
            "DATA" => &[("DATA", "554 no")],
            _ => &[("DATA.", "554 5.7.1 spam")],
        };
        let outcome = plain(refused);
        assert!(matches!(outcome, Outcome::Refused(_)), "{command}: {outcome:?}");
    }
    let others: [Script; 6] = [
        &[("banner", "554 go away")],
        &[("EHLO", "550 not you")],
        &[("MAIL", "550 not that sender")],
        &[("banner", "")],
        &[("RCPT", "421 closing")],
        &[("DATA.", "")],
    ];
    for script in others {
        let outcome = plain(script);
        assert!(matches!(outcome, Outcome::ServerLater(_)), "{script:?}: {outcome:?}");
    }
}

#[test]
fn a_4xx_to_rcpt_or_data_puts_off_this_mail_only() {
    let scripts: [Script; 3] =
        [&[("RCPT", "450 greylisted")], &[("DATA", "451 later")], &[("DATA.", "452 full")]];
    for script in scripts {
        let outcome = plain(script);
        assert!(matches!(outcome, Outcome::MailLater(_)), "{script:?}: {outcome:?}");
    }
}

#[test]
fn a_wrong_positive_answer_is_no_success() {
    let scripts: [Script; 2] = [&[("DATA", "250 ok")], &[("DATA.", "354 more")]];
    for script in scripts {
        let outcome = plain(script);
        assert!(matches!(outcome, Outcome::ServerLater(_)), "{script:?}: {outcome:?}");
    }
}

#[test]
fn nothing_is_sent_without_the_tls_that_is_required() {
    let (outcome, seen) =
        against(Security::StartTls, Some("user"), &[("EHLO", "250-hello\r\n250 AUTH PLAIN")]);
    let Outcome::ServerLater(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.contains("does not offer STARTTLS"), "{error}");
    assert!(
        !seen.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")),
        "{seen:?}"
    );
}

#[test]
fn credentials_never_go_in_the_clear() {
    let (outcome, seen) =
        against(Security::None, Some("user"), &[("EHLO", "250-hello\r\n250 AUTH PLAIN LOGIN")]);
    assert!(matches!(outcome, Outcome::ServerLater(_)), "{outcome:?}");
    assert!(!seen.iter().any(|line| line.starts_with("AUTH")), "{seen:?}");
}

#[test]
fn a_refused_connection_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let outcome = try_once(&mail(port, Security::None, None));
    assert!(matches!(outcome, Outcome::ServerLater(_)), "{outcome:?}");
}

#[test]
fn what_a_server_says_is_made_safe() {
    let Outcome::Refused(error) = plain(&[("RCPT", "550 \u{1b}[31mred\u{202e}\u{7}")]) else {
        panic!("not refused")
    };
    assert!(!error.chars().any(char::is_control) && error.contains("[31mred"), "{error:?}");
}
