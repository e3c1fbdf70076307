//! Reads the main file and what it includes, each once through one descriptor. As root only files
//! that root alone can change.

use std::fs::{File as OpenFile, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::trust::{cannot, only_roots, walk};
use crate::config::{File, MAX_FILE, Unreadable, Want};
use crate::sys::fs::open_without_links;

/// Reads what the configuration wants. See [`Want`].
///
/// # Errors
/// When a file cannot be read, or, as root, somebody else could change it.
pub(super) fn read(want: Want<'_>, as_root: bool) -> Result<Vec<File>, Unreadable> {
    match want {
        Want::Main(path) => read_file(path, as_root).map(|file| vec![file]),
        Want::Include(pattern) => {
            let name = pattern.file_name().map(|name| name.to_string_lossy().into_owned());
            let (Some(folder), Some(name)) = (pattern.parent(), name) else {
                return Err(cannot("read", pattern, &"it names no file"));
            };
            if !name.contains(['*', '?']) {
                return read_file(pattern, as_root).map(|file| vec![file]);
            }
            let mut files = Vec::new();
            for path in matching(folder, &name, as_root)? {
                files.push(read_file(&path, as_root)?);
            }
            Ok(files)
        }
    }
}

/// The files of a folder whose names fit, sorted; hidden ones only if the pattern says so.
fn matching(folder: &Path, pattern: &str, as_root: bool) -> Result<Vec<PathBuf>, Unreadable> {
    if as_root {
        let walked = walk(folder)?;
        if walked.exists {
            let found = std::fs::metadata(&walked.path).map_err(|e| cannot("read", folder, &e))?;
            only_roots(&walked.path, &found)?;
        }
    }
    let entries =
        std::fs::read_dir(folder).map_err(|cause| cannot("read", folder, &plain(&cause)))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| cannot("read", folder, &cause))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && !pattern.starts_with('.') {
            continue;
        }
        if fits(pattern.as_bytes(), name.as_bytes()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `*` stands for any bytes, `?` for one. Linear but for the steps back to the last `*`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    p = star;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

fn read_file(name: &Path, as_root: bool) -> Result<File, Unreadable> {
    let absolute = std::path::absolute(name).map_err(|cause| cannot("read", name, &cause))?;
    let path = if as_root {
        let walked = walk(&absolute)?;
        if !walked.exists {
            return Err(cannot("read", name, &"no such file or folder"));
        }
        walked.path
    } else {
        std::fs::canonicalize(&absolute).map_err(|cause| cannot("read", name, &plain(&cause)))?
    };
    let (file, found) = open(name, &path)?;
    if found.is_dir() {
        return Err(cannot("read", name, &"it is a folder"));
    }
    if !found.is_file() {
        return Err(cannot("read", name, &"it is no regular file"));
    }
    if as_root {
        only_roots(&path, &found)?;
    }
    let mut bytes = Vec::new();
    let limit = MAX_FILE as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|cause| cannot("read", name, &cause))?;
    Ok(File { name: name.to_owned(), path, bytes })
}

/// Opens a path that has no links any more, without waiting for a FIFO.
fn open(name: &Path, path: &Path) -> Result<(OpenFile, Metadata), Unreadable> {
    let file = open_without_links(path).map_err(|cause| cannot("read", name, &plain(&cause)))?;
    let found = file.metadata().map_err(|cause| cannot("read", name, &cause))?;
    Ok((file, found))
}

/// The commonest causes in plain words.
fn plain(cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::privileges::is_root;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, does) in [
            ("*.ron", "a.ron", true),
            ("*.ron", "a.ron~", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), does, "{pattern} {name}");
        }
    }

    #[test]
    fn a_file_is_read_once_under_its_canonical_name() {
        let folder = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(folder.path()).unwrap();
        for name in ["b.ron", "a.ron", ".hidden.ron", "a.ron~"] {
            std::fs::write(real.join(name), name).unwrap();
        }
        let files = read(Want::Include(&real.join("*.ron")), is_root()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(names, [real.join("a.ron"), real.join("b.ron")]);
        assert_eq!(files[0].bytes, b"a.ron");
        assert!(read(Want::Include(&real.join("none.ron")), is_root()).is_err());
        assert!(read(Want::Include(&real.join("none/*.ron")), is_root()).is_err());
        assert!(read(Want::Include(&real.join("*.none")), is_root()).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let refused = read(Want::Main(folder.path()), false).unwrap_err();
        assert!(refused.message.ends_with("it is a folder"), "{}", refused.message);
        let refused = read(Want::Main(Path::new("/dev/null")), false).unwrap_err();
        assert!(refused.message.ends_with("it is no regular file"), "{}", refused.message);
    }

    #[test]
    fn root_reads_no_file_that_others_can_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.ron");
        std::fs::write(&file, "()").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(Want::Main(&file), false).is_ok());
        let refused = read(Want::Main(&file), true).unwrap_err();
        let words = if is_root() { "others than root may write it" } else { "not to root" };
        assert!(refused.message.contains(words), "{}", refused.message);
    }
}
