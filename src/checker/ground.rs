//! The runner's own folders and what it opens as root: nobody else may be able to change what lies
//! on the way to them. No folder of locks lies on a network file system, where they cannot be
//! trusted.

use std::path::Path;

use super::accounts::{Resolved, at};
use super::trust::{only_roots, shell_word, walk, walk_shared};
use crate::config::model::{LogTarget, Output, Transport};
use crate::config::{Checked, Place, Problem, Unreadable};
use crate::sys::account::group_id;
use crate::sys::fs::{is_remote, open_folder};
use crate::sys::privileges::is_root;

/// With whom root shares /var/mail: the programs that deliver to users. A Maildir there is written
/// with the mail account's rights, so what they could do to it costs nothing of root's.
const MAIL_GROUP: &str = "mail";

/// Looks at run_root, state_root, spool and Maildir as far as they exist, and at the files that are
/// opened with root's rights.
pub(super) fn check(checked: &Checked, resolved: &Resolved) -> Vec<Problem> {
    let config = &checked.config;
    let mut problems = roots_files(checked, resolved);
    let mut tell = |field: &str, fault: Unreadable| {
        let problem = at(checked.positions.top(field), format!("`{field}`: {}", fault.message));
        problems.push(problem.maybe_help(fault.help));
    };
    for (field, path) in [("run_root", &config.run_root), ("state_root", &config.state_root)] {
        if let Err(fault) = folder(path, &[0], None) {
            tell(field, fault);
        }
    }
    if remote(&config.run_root) {
        let message = format!("{} lies on a network file system", config.run_root.display());
        let help = Some("locks need a local folder, as in run_root: \"/run/runner\"".to_owned());
        tell("run_root", Unreadable { message, help });
    }
    if let (Some(mail), Some(mailer)) = (&config.mail, &resolved.mail) {
        // Both are made by the mailer while it still is root.
        let owners = [0, mailer.uid];
        if let Err(fault) = folder(&mail.spool, &owners, None) {
            tell("mail.spool", fault);
        }
        if let Transport::Maildir(path) = &mail.transport
            && let Err(fault) = folder(path, &owners, group_id(MAIL_GROUP).ok().flatten())
        {
            tell("mail.transport", fault);
        }
    }
    problems
}

/// As root: what root's own chains, and a logger that stays root, open themselves. A link or a
/// second name that somebody else puts there would make root write or believe another file.
fn roots_files(checked: &Checked, resolved: &Resolved) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !is_root() {
        return problems;
    }
    let mut look = |place: Option<&Place>, field: &str, path: &Path| {
        if let Err(fault) = roots_file(path) {
            let problem = at(place, format!("`{field}` is opened as root: {}", fault.message));
            problems.push(problem.maybe_help(fault.help));
        }
    };
    for chain in &checked.config.chains {
        if !matches!(resolved.chains.get(&chain.name), Some(Ok(account)) if account.uid == 0) {
            continue;
        }
        let place = |field: &str| checked.positions.of(&chain.name, field);
        if let Output::Lines(path) | Output::Raw(path) = &chain.output {
            look(place("output"), "output", path);
        }
        if let Some(path) = &chain.env_file {
            look(place("env_file"), "env_file", path);
        }
    }
    if let (LogTarget::File(path), Some(logger)) = (&checked.config.log.to, &resolved.log)
        && logger.uid == 0
    {
        look(checked.positions.top("log.to"), "log.to", path);
    }
    problems
}

fn roots_file(path: &Path) -> Result<(), Unreadable> {
    let walked = walk(path)?;
    match std::fs::symlink_metadata(&walked.path) {
        Ok(found) if walked.exists && found.is_file() => only_roots(&walked.path, &found),
        _ => Ok(()),
    }
}

/// As root: whether only root can change the way to a folder that is used or made. It is looked at each
/// time, for what was there at the check may have been removed since.
///
/// # Errors
/// In one line, with the remedy.
pub fn trust_the_way(path: &Path) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    walk(path).map(|_| ()).map_err(|fault| match fault.help {
        Some(help) => format!("{}; mend it with: {help}", fault.message),
        None => fault.message,
    })
}

/// As root: whether a folder is safe to use, or to make. `owners` may own its last part, and
/// `group` may write the folders above it.
fn folder(path: &Path, owners: &[u32], group: Option<u32>) -> Result<(), Unreadable> {
    use std::os::unix::fs::MetadataExt;
    if !is_root() {
        return match std::fs::metadata(path) {
            Ok(found) if !found.is_dir() => Err(no_folder(path)),
            _ => Ok(()),
        };
    }
    let walked = walk_shared(path, group)?;
    if !walked.exists {
        return Ok(());
    }
    let Ok(found) = std::fs::symlink_metadata(&walked.path) else { return Ok(()) };
    if !found.is_dir() {
        return Err(no_folder(path));
    }
    if found.uid() != 0 && owners.contains(&found.uid()) {
        if found.mode() & 0o022 == 0 {
            return Ok(());
        }
        let message = format!("cannot trust {}: others may write it", path.display());
        return Err(Unreadable { message, help: Some(format!("chmod go-w {}", shell_word(path))) });
    }
    only_roots(&walked.path, &found)
}

fn no_folder(path: &Path) -> Unreadable {
    Unreadable { message: format!("{} is no folder", path.display()), help: None }
}

/// Whether the nearest folder that exists lies on a network file system.
fn remote(path: &Path) -> bool {
    let nearest = path.ancestors().find(|ancestor| ancestor.is_dir());
    nearest
        .and_then(|folder| open_folder(folder).ok())
        .is_some_and(|folder| is_remote(&folder).unwrap_or(false))
}
