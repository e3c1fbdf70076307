//! Delivery through a sendmail(8) compatible program, as `PROGRAM -i -f FROM -- TO`. Whatever it
//! answers but success is tried again: its exit codes (sysexits.h) do not tell a refusal by the
//! recipient's server from a fault of this machine.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Outcome, local_lines};
use crate::mailer::message::{Letter, one_line};

/// Codes that speak of this mail and not of the whole way: EX_USAGE (Exim's answer to a bad
/// address), EX_DATAERR, EX_NOUSER, EX_NOHOST.
const ABOUT_THE_MAIL: [i32; 4] = [64, 65, 67, 68];

pub(super) fn deliver(program: &Path, letter: &Letter) -> Outcome {
    match run(program, letter) {
        Ok(()) => Outcome::Sent { subject: letter.subject.clone() },
        Err((Some(code), text)) if ABOUT_THE_MAIL.contains(&code) => Outcome::MailLater(text),
        Err((_, text)) => Outcome::ServerLater(text),
    }
}

fn run(program: &Path, letter: &Letter) -> Result<(), (Option<i32>, String)> {
    let own = |cause: std::io::Error| (None, format!("cannot run {}: {cause}", program.display()));
    // Files and no pipes: nothing to feed or drain, so nothing can get stuck.
    let mut message = tempfile::tempfile().map_err(own)?;
    message.write_all(&local_lines(&letter.bytes)).map_err(own)?;
    message.rewind().map_err(own)?;
    let said = tempfile::tempfile().map_err(own)?;
    let status = Command::new(program)
        .args(["-i", "-f"])
        .arg(&letter.from)
        .arg("--")
        .arg(&letter.to)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::from(message))
        .stdout(said.try_clone().map_err(own)?)
        .stderr(said.try_clone().map_err(own)?)
        .status()
        .map_err(own)?;
    if status.success() {
        return Ok(());
    }
    let said = first_words(said);
    Err((status.code(), format!("{} failed with {status}{said}", program.display())))
}

fn first_words(mut said: File) -> String {
    let mut text = Vec::new();
    let read = said.rewind().and_then(|()| said.take(1_000).read_to_end(&mut text));
    let text = one_line(&String::from_utf8_lossy(&text), 300);
    if read.is_err() || text.is_empty() { String::new() } else { format!(": {text}") }
}
