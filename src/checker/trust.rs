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
    walk_shared(path, None)
}

/// The same below folders that root may share with the members of `group`.
///
/// # Errors
/// As [`walk`].
pub(super) fn walk_shared(path: &Path, group: Option<u32>) -> Result<Walked, Unreadable> {
    let roots = |path: &Path, found: &Metadata| match group {
        Some(group) if found.gid() == group && found.mode() & 0o002 == 0 => roots_own(path, found),
        _ => only_roots(path, found),
    };
    let mut parts: VecDeque<OsString> = names(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    roots(&at, &look(&at)?)?;
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
            roots(&next, &found)?;
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
    roots_own(path, found)?;
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

fn roots_own(path: &Path, found: &Metadata) -> Result<(), Unreadable> {
    if found.uid() == 0 { Ok(()) } else { Err(not_roots(path, found, "chown root")) }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::sys::privileges::is_root;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A folder that root alone can change, below one that is sticky; nothing as a normal user,
    /// for whom everything of his own is somebody else's than root's.
    fn roots_folder() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            return Some(folder);
        }
        let found = fs::metadata(folder.path()).unwrap();
        let refused = only_roots(folder.path(), &found).unwrap_err();
        assert!(refused.message.contains("not to root"), "{}", refused.message);
        None
    }

    #[test]
    fn a_path_that_only_root_can_change_is_walked_without_links() {
        let Some(folder) = roots_folder() else { return };
        let real = folder.path().join("real");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("file"), "x").unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        let walked = walk(&folder.path().join("link/../link/./file")).unwrap();
        let wanted = fs::canonicalize(real.join("file")).unwrap();
        assert_eq!(walked, Walked { path: wanted, exists: true });
        assert!(!walk(&folder.path().join("link/none/at/all")).unwrap().exists);
    }

    #[test]
    fn what_others_can_change_on_the_way_is_refused_with_the_remedy() {
        let Some(folder) = roots_folder() else { return };
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("file"), "x").unwrap();
        let file = open.join("file");
        for bits in [0o777, 0o775, 0o757] {
            mode(&open, bits);
            let refused = walk(&file).unwrap_err();
            assert!(refused.message.contains("others than root may write it"), "{refused:?}");
            assert_eq!(refused.help.unwrap(), format!("chmod go-w {}", open.display()));
        }
        mode(&open, 0o1777);
        assert!(walk(&file).is_ok(), "sticky as /tmp");
        mode(&open, 0o755);
        chown(&open, Some(1), None).unwrap();
        let refused = walk(&file).unwrap_err();
        assert_eq!(refused.help.unwrap(), format!("chown root {}", open.display()));
    }

    #[test]
    fn a_folder_that_root_shares_with_a_group_is_trusted_where_that_group_is() {
        let Some(folder) = roots_folder() else { return };
        let shared = folder.path().join("mail");
        fs::create_dir(&shared).unwrap();
        chown(&shared, None, Some(8)).unwrap();
        mode(&shared, 0o2775);
        let maildir = shared.join("runner");
        assert!(walk_shared(&maildir, Some(8)).is_ok());
        assert!(walk_shared(&maildir, Some(9)).is_err(), "another group");
        assert!(walk_shared(&maildir, None).is_err());
        mode(&shared, 0o2777);
        assert!(walk_shared(&maildir, Some(8)).is_err(), "everybody");
        mode(&shared, 0o2775);
        chown(&shared, Some(1), None).unwrap();
        assert!(walk_shared(&maildir, Some(8)).is_err(), "it is not root's");
    }

    #[test]
    fn a_link_of_somebody_else_is_not_followed() {
        let Some(folder) = roots_folder() else { return };
        let link = folder.path().join("link");
        symlink("/etc/passwd", &link).unwrap();
        assert!(walk(&link).is_ok());
        std::os::unix::fs::lchown(&link, Some(1), None).unwrap();
        let refused = walk(&link).unwrap_err();
        assert!(refused.message.contains("not to root"), "{refused:?}");
    }

    #[test]
    fn links_in_a_circle_end() {
        let Some(folder) = roots_folder() else { return };
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        let refused = walk(&folder.path().join("a/file")).unwrap_err();
        assert!(refused.message.contains("too many links"), "{refused:?}");
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        assert_eq!(shell_word(Path::new("/etc/runner.ron")), "/etc/runner.ron");
        assert_eq!(shell_word(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }
}
