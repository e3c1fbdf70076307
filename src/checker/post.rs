//! What the mailer needs around it: its password, its certificates, its program.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::accounts::at;
use super::trust::{only_roots, shell_word, walk};
use crate::config::model::Transport;
use crate::config::{Checked, Problem, Severity};
use crate::sys::privileges::is_root;
use crate::sys::probe::{Wish, may};

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    /// A password that others can change: no start. One that others can read: a warning.
    pub(super) errors: Vec<Problem>,
    /// What would keep mail from leaving.
    pub(super) faults: Vec<Problem>,
}

/// Looks at the files that `mail.transport` names.
pub(super) fn check(checked: &Checked) -> Found {
    let mut found = Found::default();
    let Some(mail) = &checked.config.mail else { return found };
    let problem = |message: String| at(checked.positions.top("mail.transport"), message);
    match &mail.transport {
        Transport::Smtp { password_file, ca_file, .. } => {
            if let Some(file) = password_file {
                match may(file, Wish::Read) {
                    Err(cause) => found.faults.push(problem(cannot("read", file, &cause))),
                    Ok(()) => secret(file, &problem, &mut found),
                }
            }
            if let Some(file) = ca_file
                && let Err(cause) = may(file, Wish::Read)
            {
                found.faults.push(problem(cannot("read", file, &cause)));
            }
        }
        Transport::Sendmail(program) => {
            let fault = match std::fs::metadata(program) {
                Err(cause) => Some(cannot("run", program, &cause)),
                Ok(found) if !found.is_file() => {
                    Some(format!("cannot run {}: it is no program", program.display()))
                }
                Ok(_) => may(program, Wish::Execute).err().map(|e| cannot("run", program, &e)),
            };
            found.faults.extend(fault.map(problem));
        }
        Transport::Maildir(_) => {}
    }
    found
}

/// A password is read by root: nobody else may change it, and nobody else should read it.
fn secret(file: &Path, problem: &dyn Fn(String) -> Problem, found: &mut Found) {
    if is_root() {
        let looked = walk(file).and_then(|walked| match std::fs::metadata(&walked.path) {
            Ok(found) => only_roots(&walked.path, &found),
            Err(_) => Ok(()),
        });
        if let Err(fault) = looked {
            found.errors.push(problem(fault.message).maybe_help(fault.help));
        }
    }
    let mode = std::fs::metadata(file).map_or(0, |found| found.mode());
    if mode & 0o044 != 0 {
        let message = format!("others can read the password in {}", file.display());
        let help = format!("chmod 600 {}", shell_word(file));
        let warning = Problem { severity: Severity::Warning, ..problem(message) };
        found.errors.push(warning.help(help));
    }
}

fn cannot(verb: &str, path: &Path, cause: &std::io::Error) -> String {
    let cause = match cause.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    };
    format!("cannot {verb} {}: {cause}", path.display())
}
