//! `mail list`: what waits to be mailed. The master tells; while none runs, the spool itself is
//! read, with the caller's own rights.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Value, json};

use super::show;
use super::talk::Failure;
use super::text::{columns, word};
use crate::mailer::spool;
use crate::wire::safe::safe_line;

/// The most mails of each kind that are shown.
const MOST: usize = 10_000;

/// The rows that a master would give: what waits, and what a server refused for ever.
///
/// # Errors
/// When the configuration is wrong or the spool cannot be read.
pub(super) fn rows(config: &Path) -> Result<Vec<Value>, Failure> {
    let Some(mail) = show::load(config)?.0.config.mail else { return Ok(Vec::new()) };
    if std::fs::metadata(&mail.spool).is_err_and(|cause| cause.kind() == ErrorKind::NotFound) {
        return Ok(Vec::new());
    }
    let entries = spool::list(&mail.spool, MOST).map_err(|cause| {
        Failure::Other(format!("cannot list {}: {cause}", mail.spool.display()), 1)
    })?;
    let row = |entry: spool::Entry| {
        json!({
            "id": entry.id,
            "to": entry.to,
            "subject": entry.subject,
            "kind": entry.kind.word(),
            "at": entry.at.to_string(),
            "tries": entry.tries,
            "error": entry.error,
            "state": if entry.dead { "dead" } else { "waiting" },
        })
    };
    Ok(entries.into_iter().map(row).collect())
}

/// As lines for people: time, state, notice, recipient, tries; then the subject and the error.
pub(super) fn lines(rows: &[Value]) -> Vec<String> {
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let mut cells: Vec<String> =
            ["at", "state", "kind", "to"].iter().map(|key| word(text(key))).collect();
        cells.push(row["tries"].as_u64().unwrap_or(0).to_string());
        let mut last = safe_line(text("subject")).into_owned();
        if !text("error").is_empty() {
            last.push_str(": ");
            last.push_str(&safe_line(text("error")));
        }
        cells.push(last);
        cells
    };
    columns(&rows.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_one_line_whatever_it_says() {
        let rows = [
            json!({"id": "1", "to": "ops@example.org", "subject": "[a] First \u{1b}[2J",
                "kind": "FIRST", "at": "2026-01-02T12:00:00Z", "tries": 3,
                "error": "451 later\n", "state": "waiting"}),
            json!({"id": "2", "to": "a@b, c@d", "subject": "[a] x", "kind": "NEW",
                "at": "2026-01-02T12:00:01Z", "state": "not yet in the spool"}),
        ];
        assert_eq!(
            lines(&rows),
            [
                "2026-01-02T12:00:00Z  waiting               FIRST  ops@example.org  3  [a] First \\x1b[2J: 451 later\\n",
                "2026-01-02T12:00:01Z  not_yet_in_the_spool  NEW    a@b,_c@d         0  [a] x",
            ]
        );
    }
}
