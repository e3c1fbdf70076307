//! What happens to the names of open folders (inotify(7)): told, not polled for.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::locks;

/// A folder or a name in it goes.
const REMOVALS: WatchFlags =
    WatchFlags::DELETE.union(WatchFlags::DELETE_SELF).union(WatchFlags::MOVE_SELF);

/// Watched folders. Its descriptor can be read when something happened.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When descriptors or the user's inotify instances are used up.
    pub fn new() -> io::Result<Watcher> {
        Ok(Watcher(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?))
    }

    /// Watches the folder that is open, whatever path leads to it: it is removed or moved, or a name
    /// in it is removed.
    ///
    /// # Errors
    /// As inotify_add_watch(2); without /proc.
    pub fn removals(&self, folder: &File) -> io::Result<()> {
        self.add(folder, REMOVALS)
    }

    /// As [`Watcher::removals`], and a name in it is moved away or over another one.
    ///
    /// # Errors
    /// As [`Watcher::removals`].
    pub fn removals_and_moves(&self, folder: &File) -> io::Result<()> {
        self.add(folder, REMOVALS | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO)
    }

    fn add(&self, folder: &File, what: WatchFlags) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", locks::number(folder));
        inotify::add_watch(&self.0, path, what)?;
        Ok(())
    }

    /// Takes note of everything that happened so far.
    pub fn clear(&self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        while matches!(rustix::io::read(&self.0, &mut buffer), Ok((read, _)) if !read.is_empty()) {}
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::poll::wait_readable;
    use super::*;

    #[test]
    fn only_what_goes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&path).unwrap();
        let folder = File::open(&path).unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.removals(&folder).unwrap();
        let told = || {
            let told = wait_readable(&[watcher.as_fd()], Some(Duration::ZERO)).unwrap()[0];
            watcher.clear();
            told
        };
        std::fs::write(path.join("x"), "").unwrap();
        std::fs::rename(path.join("x"), path.join("y")).unwrap();
        assert!(!told());
        std::fs::remove_file(path.join("y")).unwrap();
        assert!(told());
        assert!(!told());
        std::fs::rename(&path, &moved).unwrap();
        assert!(told());
    }
}
