//! `history`, `notices` and `mail list`: the master's JSON rows as they are, or as columns for
//! people. Pure.

use serde_json::Value;

use super::text::{columns, word};
use crate::wire::safe::safe_line;

/// JSON as text that is safe on a terminal: what JSON leaves as it is but a terminal or a reader
/// may act on (DEL, C1 controls, bidirectional marks) is escaped as `\uXXXX`.
pub fn json<T: serde::Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text;
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        // Such characters stand inside strings only, where an escape means the same.
        let harmless = safe_line(character.encode_utf8(&mut [0; 4])).chars().eq([character]);
        if harmless && character != '\t' {
            safe.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    safe
}

/// One row a line.
pub fn lines(rows: &[Value]) -> Vec<String> {
    rows.iter().map(json).collect()
}

/// Rows as columns: `fields` first, the last of them as free text. `at` is a time in seconds
/// since 1970 and shown as RFC 3339.
pub fn table(rows: &[Value], fields: &[&str]) -> Vec<String> {
    let cell = |row: &Value, at: usize, field: &str| {
        let text = match (&row[field], field) {
            (Value::Null, _) => String::new(),
            (Value::Number(number), "at") => time(number.as_f64().unwrap_or(0.0)),
            (Value::String(text), _) => text.clone(),
            (other, _) => other.to_string(),
        };
        if at + 1 == fields.len() { safe_line(&text).into_owned() } else { word(&text) }
    };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| fields.iter().enumerate().map(|(at, field)| cell(row, at, field)).collect())
        .collect();
    columns(&rows)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn time(seconds: f64) -> String {
    let millis = (seconds * 1000.0).clamp(0.0, 253_402_300_799_000.0) as u64;
    crate::wire::time::WallTime(millis).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_become_columns_and_hostile_text_stays_harmless() {
        let rows = [
            json!({"at": 1767355200.0, "task": "send", "outcome": "exit 1", "stderr": "\u{1b}[2J bad"}),
            json!({"at": 1767355260, "task": "retry_all", "outcome": "exit 0"}),
        ];
        assert_eq!(
            table(&rows, &["at", "task", "outcome", "stderr"]),
            [
                "2026-01-02T12:00:00Z  send       exit_1  \\x1b[2J bad",
                "2026-01-02T12:01:00Z  retry_all  exit_0"
            ]
        );
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_its_teeth() {
        let value = json!({"text": "\u{7f}\u{9b}2J\u{202e}ü\u{1b}\u{10fffd}"});
        let text = super::json(&value);
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text}");
        assert!(text.contains('ü'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
