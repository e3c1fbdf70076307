//! The runner's own folders: as root nobody else may be able to change what lies on the way to
//! them, and none lies on a network file system, where locks cannot be trusted.

use std::path::Path;

use super::accounts::at;
use super::trust::{only_roots, shell_word, walk};
use crate::config::{Checked, Problem, Unreadable};
use crate::sys::account::Account;
use crate::sys::fs::{is_remote, open_folder};
use crate::sys::privileges::is_root;

/// Looks at run_root, state_root and the spool as far as they exist.
pub(super) fn check(checked: &Checked, mailer: Option<&Account>) -> Vec<Problem> {
    let config = &checked.config;
    let mut problems = Vec::new();
    let mut tell = |field: &str, fault: Unreadable| {
        let problem = at(checked.positions.top(field), format!("`{field}`: {}", fault.message));
        problems.push(problem.maybe_help(fault.help));
    };
    for (field, path) in [("run_root", &config.run_root), ("state_root", &config.state_root)] {
        if let Err(fault) = folder(path, &[0]) {
            tell(field, fault);
        }
    }
    if remote(&config.run_root) {
        let message = format!("{} lies on a network file system", config.run_root.display());
        let help = Some("locks need a local folder, as in run_root: \"/run/runner\"".to_owned());
        tell("run_root", Unreadable { message, help });
    }
    if let (Some(mail), Some(mailer)) = (&config.mail, mailer)
        && let Err(fault) = folder(&mail.spool, &[0, mailer.uid])
    {
        tell("mail.spool", fault);
    }
    problems
}

/// As root: whether a folder is safe to use, or to make. `owners` may own its last part.
fn folder(path: &Path, owners: &[u32]) -> Result<(), Unreadable> {
    use std::os::unix::fs::MetadataExt;
    if !is_root() {
        return match std::fs::metadata(path) {
            Ok(found) if !found.is_dir() => Err(no_folder(path)),
            _ => Ok(()),
        };
    }
    let walked = walk(path)?;
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
