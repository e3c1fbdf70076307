//! `mail list`: what waits to be mailed. The master tells, since it keeps what no spool has
//! confirmed; while none runs, whoever may read the spool sees it all the same.

use std::fs::read_dir;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::rows::table;
use super::show;
use super::talk::Failure;
use crate::mailer::spool::{self, Entry};

/// The most mails of each kind that are shown.
const MOST: usize = 10_000;

/// What lies in the spool of a configuration, read by ourselves.
///
/// # Errors
/// When the configuration is wrong or the spool cannot be read.
pub(super) fn spooled(config: &Path) -> Result<Vec<Value>, Failure> {
    let Some(mail) = show::load(config)?.0.config.mail else { return Ok(Vec::new()) };
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::Other(format!("cannot list {}: {cause}", mail.spool.display()), 1)
    };
    match read_dir(&mail.spool) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(failed(&cause)),
        Ok(_) => spool::list(&mail.spool, MOST)
            .map(|entries| entries.iter().map(Entry::row).collect())
            .map_err(|cause| failed(&cause)),
    }
}

/// As lines for people: time, `held`, `waits` or `dead`, notice, recipient, tries; then the
/// subject and the error.
pub(super) fn lines(rows: &[Value]) -> Vec<String> {
    let with_error = |row: &Value| {
        let mut row = row.clone();
        if let (Some(subject), Some(error)) = (row["subject"].as_str(), row["error"].as_str()) {
            row["subject"] = format!("{subject}: {error}").into();
        }
        row
    };
    let rows: Vec<Value> = rows.iter().map(with_error).collect();
    table(&rows, &["at", "state", "notice", "to", "tries", "subject"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailer::spool::Place;
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
            place: Place::Waits,
        };
        assert_eq!(
            lines(&[entry.row()]),
            [
                "2026-01-02T12:00:00Z  waits  FIRST  ops@example.org  3  [a] First \\x1b[2J: 451 later\\n"
            ]
        );
        assert_eq!(entry.row()["next_try"], 2);
    }
}
