//! What processes say to each other beside reports: requests and answers of the control socket,
//! orders to the mailer, records of the log.

use std::time::{Duration, SystemTime};

use runner::client::text::Paint;
use runner::client::{metrics, rows, status};
use runner::logger;
use runner::mailer::message;
use runner::wire::control::{Answer, MAX_REQUEST, Request};
use runner::wire::log::{MAX_RECORD, OutputLine, Record};
use runner::wire::mail::{MailOrder, MailReply};
use runner::wire::select::{matches, select};
use runner::wire::worker::{self, Lines, MAX_LINE, Ready, Reply};

use super::texts::plain;

/// Any line is a request that can be written again, or an error that may be logged; its patterns
/// mean what they say.
pub fn requests(bytes: &[u8]) {
    let request = match Request::decode(bytes) {
        Ok(request) => request,
        Err(error) => return assert!(error.len() <= 500),
    };
    assert!(bytes.len() <= MAX_REQUEST);
    let again = serde_json::to_vec(&request).unwrap();
    assert!(!again.contains(&b'\n'), "a request is one line");
    assert_eq!(Request::decode(&again).unwrap(), request);
    let names = ["mail", "mail-2", "db", ""];
    if let Request::Status { chains } | Request::Stop { chains, .. } = &request {
        let chosen = select(names, chains).unwrap_or_default();
        assert!(chosen.iter().all(|name| chains.iter().any(|chain| matches(chain, name))));
        for pattern in chains.iter().filter(|pattern| pattern.len() < 12) {
            for name in names {
                let expected = means(pattern.as_bytes(), name.as_bytes());
                let ascii = pattern.is_ascii();
                assert!(!ascii || matches(pattern, name) == expected, "{pattern:?} {name:?}");
            }
        }
    }
}

/// A glob by its definition, as slow as that is.
fn means(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            means(rest, name) || name.split_first().is_some_and(|(_, name)| means(pattern, name))
        }
        (Some((b'?', pattern)), Some((_, name))) => means(pattern, name),
        (Some((wanted, pattern)), Some((byte, name))) if wanted == byte => means(pattern, name),
        _ => false,
    }
}

/// Whatever a master answers, a terminal gets lines of text.
pub fn answers(bytes: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Answer>(bytes) else { return };
    plain(&rows::json(&answer));
    match answer {
        Answer::Status(found) => {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let lines = status::chains(&found, now, Paint(false), true);
            assert_eq!(lines.len(), found.chains.len() + 1);
            lines.iter().for_each(|line| plain(line));
            for line in lines.iter().skip(1) {
                assert!(line.split_whitespace().count() >= 9, "{line:?}");
            }
            status::remarks(&found.master, now).iter().for_each(|line| plain(line));
            let exposed = metrics::metrics(Some(&found));
            assert!(exposed.ends_with("# EOF\n"));
            for line in exposed.lines() {
                assert!(line.starts_with("# ") || line.starts_with("runner_"), "{line:?}");
            }
        }
        Answer::Rows(found) => {
            rows::lines(&found).iter().for_each(|line| plain(line));
            let fields = ["at", "chain", "task", "notice", "subject"];
            let table = rows::table(&found, &fields);
            assert_eq!(table.len(), found.len());
            table.iter().for_each(|line| plain(line));
        }
        _ => {}
    }
}

/// Any order becomes a message that says no more than it should: ASCII, short lines, one header
/// of each name.
pub fn mail(bytes: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<MailReply>(bytes) {
        let again = serde_json::to_vec(&reply).unwrap();
        assert_eq!(serde_json::from_slice::<MailReply>(&again).unwrap(), reply);
    }
    let Ok(order) = serde_json::from_slice::<MailOrder>(bytes) else { return };
    let again = serde_json::to_vec(&order).unwrap();
    assert_eq!(serde_json::from_slice::<MailOrder>(&again).unwrap(), order);
    let MailOrder::Spool(envelope) = order else { return };
    let from = "Runner <r@example.org>";
    let letter =
        message::build(&envelope, None, "ops@example.org", from, "P: ", "box.example.org").unwrap();
    let text = String::from_utf8(letter.bytes).unwrap();
    assert!(text.is_ascii());
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "a long line");
    let bare = text.replace("\r\n", "");
    assert!(!bare.chars().any(|c| c.is_control() && c != '\t'), "{bare:?}");
    let (head, _) = text.split_once("\r\n\r\n").expect("a body");
    let mut names: Vec<String> = head
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split_once(':').expect("a header").0.to_ascii_lowercase())
        .collect();
    names.sort();
    let known = [
        "auto-submitted",
        "content-transfer-encoding",
        "content-type",
        "date",
        "from",
        "in-reply-to",
        "message-id",
        "mime-version",
        "references",
        "subject",
        "to",
        "x-runner-chain",
        "x-runner-notice",
        "x-runner-task",
    ];
    assert!(names.iter().all(|name| known.contains(&name.as_str())), "{names:?}");
    names.dedup();
    assert!(names.len() >= 9 && head.matches("\r\nTo: ").count() == 1, "{head}");
    // Somebody else's mailbox is named nowhere: the recipient is the one that was asked for.
    assert_eq!(letter.to.to_string(), "ops@example.org");
}

/// A packet of either lane becomes one line that a terminal may have; a record always fits.
pub fn log(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        let packet = record.encode();
        assert!(packet.len() <= MAX_RECORD, "{} bytes", packet.len());
        Record::decode(&packet).unwrap();
    }
    if let Ok(line) = serde_json::from_slice::<OutputLine>(bytes) {
        let again = serde_json::to_vec(&line).unwrap();
        assert_eq!(serde_json::from_slice::<OutputLine>(&again).unwrap(), line);
    }
    for of_tasks in [false, true] {
        let text = logger::told(bytes, of_tasks, false);
        assert_eq!(text.is_ok(), logger::told(bytes, of_tasks, true).is_ok());
        let Ok((text, pairs)) = text else { continue };
        plain(&text);
        for (key, value) in pairs {
            plain(&key);
            plain(&value);
        }
    }
}

/// However the bytes of a worker come in, the same lines come out, each a reply whose short parts
/// are short or an error that may be shown; nothing is kept that was given out. The first byte is
/// the size of the pieces.
pub fn worker(bytes: &[u8]) {
    let Some((size, rest)) = bytes.split_first() else { return };
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for piece in rest.chunks(usize::from(*size) + 1) {
        lines.push(piece);
        while let Some(reply) = lines.next_reply() {
            let broken = reply.is_err() && rest.len() >= MAX_LINE;
            found.push(reply);
            if broken {
                return;
            }
        }
    }
    let whole: Vec<&[u8]> = rest.split_inclusive(|byte| *byte == b'\n').collect();
    let ended = whole.iter().filter(|line| line.ends_with(b"\n"));
    assert_eq!(found, ended.map(|line| worker::decode(line)).collect::<Vec<_>>());
    assert_eq!(lines.is_empty(), rest.is_empty() || rest.ends_with(b"\n"));
    for reply in found {
        match reply {
            Ok(Reply::Hello { name, .. }) => assert!(name.chars().count() <= 100),
            Ok(Reply::Unsupported { word } | Reply::Unknown { word }) => {
                assert!(word.chars().count() <= 32);
            }
            Ok(Reply::Ready(ready) | Reply::Tasks(ready)) => {
                let again = serde_json::to_vec(&ready).unwrap();
                assert_eq!(serde_json::from_slice::<Ready>(&again).unwrap(), ready);
            }
            Ok(Reply::Fail { raised, .. }) => drop(raised.text()),
            Ok(_) => {}
            Err(why) => {
                plain(&why);
                assert!(why.len() < 2_000, "{} bytes", why.len());
            }
        }
    }
}
