//! `mail list`: what waits in the spool. Root and the mailer's account look into the spool
//! themselves, so it works while no master runs and costs the master nothing; for others the
//! master tells what it knows.

use std::fs::read_dir;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Value, json};

use super::show;
use super::talk::Failure;
use super::text::{columns, word};
use crate::mailer::spool::{self, Entry};
use crate::wire::safe::safe_line;

/// The most mails of each kind that are shown.
const MOST: usize = 10_000;

/// What waits, and what a server refused for ever; `None`: the spool is not the caller's to read.
///
/// # Errors
/// When the configuration is wrong or the spool cannot be read.
pub(super) fn entries(config: &Path) -> Result<Option<Vec<Entry>>, Failure> {
    let Some(mail) = show::load(config)?.0.config.mail else { return Ok(Some(Vec::new())) };
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::Other(format!("cannot list {}: {cause}", mail.spool.display()), 1)
    };
    match read_dir(&mail.spool) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Some(Vec::new())),
        Err(cause) if cause.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(cause) => Err(failed(&cause)),
        Ok(_) => spool::list(&mail.spool, MOST).map(Some).map_err(|cause| failed(&cause)),
    }
}

/// As JSON, one object a line. `at` is in seconds since 1970.
pub(super) fn rows(entries: &[Entry]) -> Vec<Value> {
    let row = |entry: &Entry| {
        json!({
            "at": entry.at.0 / 1000,
            "id": entry.id,
            "to": entry.to,
            "notice": entry.kind.word(),
            "subject": entry.subject,
            "tries": entry.tries,
            "next_try": entry.next_try.div_ceil(1000),
            "dead": entry.dead,
            "error": entry.error,
        })
    };
    entries.iter().map(row).collect()
}

/// As lines for people: time, `waits` or `dead`, notice, recipient, tries; then the subject and
/// the error.
pub(super) fn lines(entries: &[Entry]) -> Vec<String> {
    let row = |entry: &Entry| {
        let mut text = safe_line(&entry.subject).into_owned();
        if let Some(error) = &entry.error {
            text.push_str(&format!(": {}", safe_line(error)));
        }
        vec![
            entry.at.to_string(),
            if entry.dead { "dead" } else { "waits" }.to_owned(),
            entry.kind.word().to_owned(),
            word(&entry.to),
            entry.tries.to_string(),
            text,
        ]
    };
    columns(&entries.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mail::NoticeKind;
    use crate::wire::time::WallTime;

    #[test]
    fn a_mail_is_one_line_whatever_it_says() {
        let entry = Entry {
            id: "1".to_owned(),
            to: "ops@example.org".to_owned(),
            subject: "[a] First \x1b[2J".to_owned(),
            kind: NoticeKind::First,
            at: WallTime(1_767_355_200_000),
            tries: 3,
            next_try: 1_500,
            error: Some("451 later\n".to_owned()),
            dead: false,
        };
        assert_eq!(
            lines(std::slice::from_ref(&entry)),
            [
                "2026-01-02T12:00:00Z  waits  FIRST  ops@example.org  3  [a] First \\x1b[2J: 451 later\\n"
            ]
        );
        assert_eq!(rows(&[entry])[0]["next_try"], 2);
    }
}
