//! From an envelope to the message on the wire (RFC 5322): headers, a body in quoted-printable or
//! base64, and nothing in it that a mail client could act on. The master has cleaned every text
//! already; here it is done again, since this is the last door.

use lettre::Message;
use lettre::message::header::{
    ContentTransferEncoding, ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0,
};
use lettre::message::{Body, Mailbox};

use super::spool::safe_id;
use crate::wire::mail::Envelope;

/// Characters of a subject, prefix included.
const SUBJECT: usize = 300;
/// Bytes of a body.
const BODY: usize = 1 << 20;

/// A message ready to send.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The envelope's sender, an address alone.
    pub from: lettre::Address,
    /// The recipient.
    pub to: lettre::Address,
    /// The subject as sent.
    pub subject: String,
    /// The message, lines ended by CRLF.
    pub bytes: Vec<u8>,
}

/// Builds the message for one recipient. `answers_to`: the id of the mail that goes before it in
/// the recipient's thread (In-Reply-To and References, RFC 5322 section 3.6.4). `host` is this
/// machine's name, for Message-ID.
///
/// # Errors
/// When an address is none.
pub fn build(
    envelope: &Envelope,
    answers_to: Option<&str>,
    to: &str,
    from: &str,
    prefix: &str,
    host: &str,
) -> Result<Letter, String> {
    let sender: Mailbox = mailbox(from)?;
    let recipient: Mailbox = mailbox(to)?;
    let subject = subject(prefix, envelope);
    let mut builder = Message::builder()
        .message_id(Some(format!("<{}@{host}>", safe_id(&envelope.id))))
        .date_now()
        .from(sender.clone())
        .to(recipient.clone())
        .subject(subject.as_str());
    if let Some(root) = answers_to {
        let root = format!("<{}@{host}>", safe_id(root));
        builder = builder.in_reply_to(root.clone()).references(root);
    }
    let extra = [
        (HeaderName::new_from_ascii_str("Auto-Submitted"), Some("auto-generated")),
        (HeaderName::new_from_ascii_str("X-Runner-Notice"), Some(envelope.kind.word())),
        (HeaderName::new_from_ascii_str("X-Runner-Chain"), envelope.chain.as_deref()),
        (HeaderName::new_from_ascii_str("X-Runner-Task"), envelope.task.as_deref()),
    ];
    for (name, value) in extra {
        if let Some(value) = value {
            builder = builder.raw_header(HeaderValue::new(name, one_line(value, 200)));
        }
    }
    let text = body(&envelope.body);
    let encoding = encoding(&text);
    let body =
        Body::new_with_encoding(text, encoding).map_err(|_| "cannot encode the body".to_owned())?;
    let message = builder
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(body)
        .map_err(|cause| format!("cannot build the message: {cause}"))?;
    Ok(Letter { from: sender.email, to: recipient.email, subject, bytes: message.formatted() })
}

/// The subject as sent.
pub(super) fn subject(prefix: &str, envelope: &Envelope) -> String {
    one_line(&format!("{prefix}{}", envelope.subject), SUBJECT)
}

fn mailbox(address: &str) -> Result<Mailbox, String> {
    address
        .parse()
        .map_err(|cause| format!("cannot use the address {}: {cause}", one_line(address, 100)))
}

/// A safe single line of at most `most` characters: whatever ends a line, moves a cursor, turns
/// the direction of text or is invisible becomes a space or is left out.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut count = 0;
    for character in text.chars() {
        let shown = match character {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            other if is_hostile(other) => continue,
            other => other,
        };
        if count == most {
            line.push('…');
            break;
        }
        line.push(shown);
        count += 1;
    }
    line.trim_end().to_owned()
}

/// The body with `\n` as the only line end and no hostile character, bounded.
fn body(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(BODY) + 64);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                if characters.peek() != Some(&'\n') {
                    safe.push('\n');
                }
            }
            '\n' | '\t' => safe.push(character),
            '\u{2028}' | '\u{2029}' => safe.push('\n'),
            other if is_hostile(other) => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
        if safe.len() >= BODY {
            safe.push_str("\n[cut here: the text is longer]\n");
            break;
        }
    }
    if !safe.ends_with('\n') {
        safe.push('\n');
    }
    safe
}

/// Control characters of both sets, marks that turn the direction of text, and the invisible ones
/// that are used to hide text.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn encoding(text: &str) -> ContentTransferEncoding {
    let foreign = text.bytes().filter(|byte| !byte.is_ascii()).count();
    if foreign * 4 > text.len() {
        ContentTransferEncoding::Base64
    } else {
        ContentTransferEncoding::QuotedPrintable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mail::NoticeKind;
    use crate::wire::time::WallTime;

    fn envelope(subject: &str, body: &str) -> Envelope {
        Envelope {
            id: "abc-1".to_owned(),
            thread: Some("outage-7".to_owned()),
            kind: NoticeKind::First,
            to: vec!["ops@example.org".to_owned()],
            subject: subject.to_owned(),
            body: body.to_owned(),
            chain: Some("mail".to_owned()),
            task: Some("send".to_owned()),
            at: WallTime(0),
        }
    }

    fn built(subject: &str, body: &str) -> String {
        let envelope = envelope(subject, body);
        let (to, from) = ("ops@example.org", "Runner <r@example.org>");
        let before = envelope.answers_to();
        let letter =
            build(&envelope, before.as_deref(), to, from, "P: ", "box.example.org").unwrap();
        String::from_utf8(letter.bytes).unwrap()
    }

    #[test]
    fn has_the_headers_of_a_thread() {
        let text = built("[send] First exception caught: boom", "body\n");
        for line in [
            "Message-ID: <abc-1@box.example.org>",
            "In-Reply-To: <outage-7.thread@box.example.org>",
            "References: <outage-7.thread@box.example.org>",
            "Subject: P: [send] First exception caught: boom",
            "Auto-Submitted: auto-generated",
            "X-Runner-Chain: mail",
            "X-Runner-Task: send",
            "X-Runner-Notice: FIRST",
            "MIME-Version: 1.0",
            "Content-Transfer-Encoding: quoted-printable",
        ] {
            assert!(text.contains(&format!("{line}\r\n")), "{line} not in {text}");
        }
    }

    #[test]
    fn the_mail_that_begins_a_thread_is_the_one_that_the_others_answer_to() {
        let mut envelope = envelope("subject", "body");
        envelope.id = Envelope::root("outage-7");
        let before = envelope.answers_to();
        let (to, from) = ("ops@example.org", "r@example.org");
        let letter = build(&envelope, before.as_deref(), to, from, "", "box").unwrap();
        let text = String::from_utf8(letter.bytes).unwrap();
        assert!(text.contains("Message-ID: <outage-7.thread@box>\r\n"), "{text}");
        assert!(!text.contains("In-Reply-To") && !text.contains("References"), "{text}");
    }

    #[test]
    fn hostile_text_stays_one_message_of_short_ascii_lines() {
        let long = "x".repeat(1 << 20);
        let text = built(
            "a\r\nBcc: evil@example.org\r\n\r\n\u{1b}[31m\u{202e}x\u{85}",
            &format!("one\r\n.\r\nMAIL FROM:<x>\0\u{1b}[2J\u{202e}\n.\n..\nFrom me\n{long}"),
        );
        assert!(text.is_ascii());
        assert!(text.split("\r\n").all(|line| line.len() <= 998), "a long line");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0', '\u{1b}']));
        let headers = text.split("\r\n\r\n").next().unwrap();
        assert!(!headers.lines().any(|line| line.starts_with("Bcc")), "{headers}");
        assert!(headers.lines().any(|line| line.starts_with("Content-Type")), "{headers}");
    }

    #[test]
    fn foreign_scripts_go_as_base64() {
        assert!(
            built("s", &"日本語\n".repeat(9)).contains("Content-Transfer-Encoding: base64\r\n")
        );
    }
}
