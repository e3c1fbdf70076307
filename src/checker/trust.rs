//! Whether only root can change what a path leads to: every folder and link on the way, and the
//! end, belong to root and nobody else may write there. Whoever can write a folder can put another
//! file in its place, whoever can write a link can point it elsewhere.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::config::Unreadable;
use crate::sys::account::user_name;

/// As many links on the way as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

const STICKY: u32 = 0o1000;

/// How far a walk came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// The path without links, `.` and `..`: as far as it exists, and the rest as it was given.
    pub(super) path: PathBuf,
    /// Whether all of it exists.
    pub(super) exists: bool,
}

/// Walks an absolute path from `/`. The last part is not looked at but for links.
///
/// # Errors
/// The first thing that somebody else can change, with the command that mends it; or that the
/// path cannot be walked.
pub(super) fn walk(path: &Path) -> Result<Walked, Unreadable> {
    let mut parts: VecDeque<OsString> = names(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    only_roots(&at, &look(&at)?)?;
    while let Some(part) = parts.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let found = match std::fs::symlink_metadata(&next) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let rest: PathBuf = parts.iter().collect();
                return Ok(Walked { path: next.join(rest), exists: false });
            }
            Err(cause) => return Err(cannot("read", &next, &cause)),
        };
        if found.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(cannot("read", path, &"too many links on the way"));
            }
            if found.uid() != 0 {
                return Err(not_roots(&next, &found, "chown -h root"));
            }
            let target = std::fs::read_link(&next).map_err(|e| cannot("read", &next, &e))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                parts.push_front(name);
            }
            continue;
        }
        if !parts.is_empty() {
            if !found.is_dir() {
                return Err(cannot("read", path, &format!("{} is no folder", next.display())));
            }
            only_roots(&next, &found)?;
        }
        at = next;
    }
    Ok(Walked { path: at, exists: true })
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn look(path: &Path) -> Result<Metadata, Unreadable> {
    std::fs::symlink_metadata(path).map_err(|cause| cannot("read", path, &cause))
}

/// Whether a file or folder belongs to root and nobody else may write it. A folder in which each
/// may change only what is his own (sticky, as /tmp) does no harm: what lies in it is looked at too.
///
/// # Errors
/// Why not, with the command that mends it.
pub(super) fn only_roots(path: &Path, found: &Metadata) -> Result<(), Unreadable> {
    if found.uid() != 0 {
        return Err(not_roots(path, found, "chown root"));
    }
    let sticky = found.is_dir() && found.mode() & STICKY != 0;
    if found.mode() & 0o022 != 0 && !sticky {
        return Err(Unreadable {
            message: format!(
                "cannot trust {}: others than root may write it (mode {:04o})",
                path.display(),
                found.mode() & 0o7777
            ),
            help: Some(format!("chmod go-w {}", shell_word(path))),
        });
    }
    Ok(())
}

fn not_roots(path: &Path, found: &Metadata, mend: &str) -> Unreadable {
    let owner = user_name(found.uid()).unwrap_or_else(|| found.uid().to_string());
    Unreadable {
        message: format!("cannot trust {}: it belongs to {owner}, not to root", path.display()),
        help: Some(format!("{mend} {}", shell_word(path))),
    }
}

pub(super) fn cannot(verb: &str, path: &Path, cause: &dyn std::fmt::Display) -> Unreadable {
    Unreadable { message: format!("cannot {verb} {}: {cause}", path.display()), help: None }
}

/// A path as one word of a shell's line.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
