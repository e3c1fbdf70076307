//! A file that is appended to and rotated: `FILE`, then `FILE.1` (plain), `FILE.2.gz`, … up to
//! `keep`. The same for the main log (held by the logger) and for a chain's `Lines` file (held by
//! the chain process): whoever holds it does everything with its own rights, so the folder must
//! be writable for that account.
//!
//! What can fail: everything, at any time (a full disk, a folder that went away). The newest
//! lines are never lost to a rotation: old files are moved from the oldest on, then `FILE`
//! becomes `FILE.1` by one rename, then a new `FILE` is opened; until that succeeds writing goes on
//! in the file that is open. A crash between any two steps leaves a gap in the numbers, which the
//! next rotation closes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::pack::Pack;
use crate::config::model::Rotate;
use crate::sys::append;

/// Owner writes, group reads.
pub const MODE: u32 = 0o640;

/// Bytes that are written before a rotation that failed is tried again.
const RETRY_AFTER: u64 = 1 << 20;

/// The file, open.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    rotate: Rotate,
    file: File,
    size: u64,
    /// Size at which the next rotation is due; `None`: never by size.
    limit: Option<u64>,
    born: SystemTime,
    /// A device (`/dev/null`) is never rotated.
    regular: bool,
    /// Whether the last byte written ended a line (or nothing was written).
    at_line_start: bool,
    /// Whether `path` must be opened again before the next write.
    stale: bool,
    /// Whether an old file may be waiting for its compression.
    unpacked: bool,
    pack: Option<Pack>,
}

impl RotatingFile {
    /// Opens or creates `path`.
    ///
    /// # Errors
    /// Those of open(2), as "cannot open PATH: CAUSE".
    pub fn open(path: &Path, rotate: Rotate) -> Result<RotatingFile, String> {
        let path = path.to_owned();
        let (file, size, born, regular) =
            open(&path).map_err(|cause| cannot_open(&path, &cause))?;
        let limit = rotate.max_size;
        let unpacked = rotate.compress && (rotate.max_size.is_some() || rotate.max_age.is_some());
        Ok(RotatingFile {
            path,
            rotate,
            file,
            size,
            limit,
            born,
            regular,
            at_line_start: true,
            stale: false,
            unpacked,
            pack: None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path again, as after USR1. On an error the old file stays in use and the next
    /// write tries again.
    ///
    /// # Errors
    /// As [`RotatingFile::open`].
    pub fn reopen(&mut self) -> Result<(), String> {
        self.stale = true;
        self.refresh().map_err(|cause| cannot_open(&self.path, &cause))
    }

    fn refresh(&mut self) -> io::Result<()> {
        let (file, size, born, regular) = open(&self.path)?;
        self.file = file;
        self.size = size;
        self.born = born;
        self.regular = regular;
        self.limit = self.rotate.max_size;
        self.at_line_start = true;
        self.stale = false;
        Ok(())
    }

    /// Writes some of `lines`, which begin at a line's start unless the call before wrote only a
    /// part: then they are what was left. Rotates and reopens in between where that is due.
    /// Returns how many bytes were written.
    ///
    /// # Errors
    /// Those of write(2) and, for a file that was deleted, of open(2). Nothing was written then.
    pub fn write_some(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.at_line_start {
            if self.regular && append::is_deleted(&self.file)? {
                self.refresh()?;
            } else if self.stale {
                let _ = self.refresh();
            }
            if self.is_due(lines.len()) {
                self.rotate();
            }
        }
        let written = match self.file.write(lines) {
            Err(cause) if append::is_too_large(&cause) && self.at_line_start && self.size > 0 => {
                self.rotate();
                self.file.write(lines)?
            }
            done => done?,
        };
        if written > 0 {
            self.size += written as u64;
            self.at_line_start = lines.get(written - 1) == Some(&b'\n');
        }
        Ok(written)
    }

    /// Ends a line of which only a part could be written and whose rest is given up.
    ///
    /// # Errors
    /// Those of write(2): the line is still torn.
    pub fn end_torn_line(&mut self) -> io::Result<()> {
        if !self.at_line_start && self.file.write(b"\n")? == 1 {
            self.size += 1;
            self.at_line_start = true;
        }
        Ok(())
    }

    fn is_due(&self, more: usize) -> bool {
        if !self.regular || self.size == 0 {
            return false;
        }
        let by_size = self.limit.is_some_and(|limit| self.size + more as u64 > limit);
        by_size || self.rotate.max_age.is_some_and(|age| is_older(self.born, age))
    }

    /// Rotates now. Where that fails, writing goes on in the open file.
    pub fn rotate(&mut self) {
        let moved =
            self.make_place().and_then(|()| fs::rename(&self.path, numbered(&self.path, 1, false)));
        match moved {
            Ok(()) => {
                self.unpacked = self.rotate.compress;
                self.stale = true;
                // If this fails, the open file is FILE.1 now; the next write tries again.
                let _ = self.refresh();
            }
            Err(_) => {
                self.limit = self.limit.map(|_| self.size + RETRY_AFTER);
                self.born = SystemTime::now();
            }
        }
    }

    /// Frees the number 1: moves old files up to the first gap, the oldest first.
    fn make_place(&mut self) -> io::Result<()> {
        let keep = self.rotate.keep.max(1);
        let mut surplus = keep + 1;
        while self.slot(surplus).is_some() {
            self.remove(surplus)?;
            surplus += 1;
        }
        let mut free = 1;
        while free < keep && self.slot(free).is_some() {
            free += 1;
        }
        if self.slot(free).is_some() {
            self.remove(free)?;
        }
        for number in (1..free).rev() {
            // Both forms, where logrotate(8) has left one beside ours.
            for packed in [true, false] {
                let from = numbered(&self.path, number, packed);
                if exists(&from) {
                    fs::rename(&from, numbered(&self.path, number + 1, packed))?;
                }
            }
            if let Some(pack) = self.pack.as_mut().filter(|pack| pack.number == number) {
                pack.number += 1;
            }
        }
        Ok(())
    }

    /// Removes the old files with this number.
    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.drop_pack_of(number);
        for packed in [true, false] {
            match fs::remove_file(numbered(&self.path, number, packed)) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
        }
        Ok(())
    }

    fn drop_pack_of(&mut self, number: u32) {
        if let Some(pack) = self.pack.take_if(|pack| pack.number == number) {
            pack.abandon();
        }
    }

    /// The old file with this number. Where a crash left both forms, the compressed one is whole
    /// (it got its name last) and the plain one goes. Two files that are not one (logrotate(8) has
    /// moved some, too) both stay.
    fn slot(&self, number: u32) -> Option<PathBuf> {
        let plain = numbered(&self.path, number, false);
        let packed = numbered(&self.path, number, true);
        match (exists(&plain), exists(&packed)) {
            (true, true) if Pack::is_twin(&plain, &packed) => {
                let _ = fs::remove_file(plain);
                Some(packed)
            }
            (true, _) => Some(plain),
            (false, true) => Some(packed),
            (false, false) => None,
        }
    }

    /// Whether [`RotatingFile::pack_some`] has something to do.
    pub fn wants_packing(&self) -> bool {
        self.pack.is_some() || self.unpacked
    }

    /// Compresses some 256 KiB of an old file, for moments when nothing else is to be done: a few
    /// milliseconds. `FILE.1` stays plain. Returns whether there is more.
    pub fn pack_some(&mut self) -> bool {
        if self.pack.is_none() {
            self.unpacked = self.unpacked && self.begin_pack();
        }
        match self.pack.as_mut().map(Pack::step) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                if let Some(pack) = self.pack.take() {
                    let plain = numbered(&self.path, pack.number, false);
                    let packed = numbered(&self.path, pack.number, true);
                    self.unpacked = pack.finish(&plain, &packed).is_ok();
                }
            }
            Some(Err(_)) => {
                // No room, most likely: left plain until the next rotation.
                if let Some(pack) = self.pack.take() {
                    pack.abandon();
                }
                self.unpacked = false;
            }
        }
        self.wants_packing()
    }

    fn begin_pack(&mut self) -> bool {
        let oldest_first = (2..=self.rotate.keep.max(1)).rev();
        for number in oldest_first {
            let plain = numbered(&self.path, number, false);
            let is_plain = self.slot(number).as_ref() == Some(&plain);
            if is_plain && !exists(&numbered(&self.path, number, true)) {
                self.pack = Pack::begin(&plain, &self.scratch(), number).ok();
                return self.pack.is_some();
            }
        }
        false
    }

    fn scratch(&self) -> PathBuf {
        with_suffix(&self.path, ".gz.tmp")
    }
}

fn open(path: &Path) -> io::Result<(File, u64, SystemTime, bool)> {
    let file = append::open_append(path, MODE)?;
    let meta = file.metadata()?;
    let born = meta.created().or_else(|_| meta.modified()).unwrap_or_else(|_| SystemTime::now());
    let regular = meta.is_file();
    Ok((file, meta.len(), born, regular))
}

fn is_older(born: SystemTime, age: Duration) -> bool {
    born.elapsed().is_ok_and(|elapsed| elapsed > age)
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The name of the old file with this number.
pub fn numbered(path: &Path, number: u32, packed: bool) -> PathBuf {
    with_suffix(path, &format!(".{number}{}", if packed { ".gz" } else { "" }))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn cannot_open(path: &Path, cause: &io::Error) -> String {
    format!("cannot open {}: {}", path.display(), crate::sys::error_text(cause))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn rotate(max_size: u64, keep: u32) -> Rotate {
        Rotate { max_size: Some(max_size), keep, max_age: None, compress: true }
    }

    fn write(file: &mut RotatingFile, line: &str) {
        let line = format!("{line}\n");
        assert_eq!(file.write_some(line.as_bytes()).unwrap(), line.len());
    }

    fn pack(file: &mut RotatingFile) {
        for _ in 0..1000 {
            if !file.pack_some() {
                return;
            }
        }
        panic!("packing has no end");
    }

    /// All lines that can still be read, the oldest first.
    fn all_lines(path: &Path) -> Vec<String> {
        let mut text = String::new();
        for number in (1..20).rev() {
            if let Ok(packed) = File::open(numbered(path, number, true)) {
                GzDecoder::new(packed).read_to_string(&mut text).unwrap();
            }
            text.push_str(&fs::read_to_string(numbered(path, number, false)).unwrap_or_default());
        }
        text.push_str(&fs::read_to_string(path).unwrap_or_default());
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_newest_lines_are_there_in_order_whatever_was_rotated() {
        for packing in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut file = RotatingFile::open(&path, rotate(100, 4)).unwrap();
            for number in 0..200 {
                write(&mut file, &format!("line {number}"));
                if packing && number % 7 == 0 {
                    file.pack_some();
                }
            }
            let lines = all_lines(&path);
            assert!(lines.len() > 40, "only {} lines", lines.len());
            let newest: Vec<String> =
                (200 - lines.len()..200).map(|number| format!("line {number}")).collect();
            assert_eq!(lines, newest);
            pack(&mut file);
            assert_eq!(all_lines(&path), newest);
            let mut names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, ["log", "log.1", "log.2.gz", "log.3.gz", "log.4.gz"]);
        }
    }

    #[test]
    fn what_a_crash_left_is_mended_by_the_next_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        // Killed after FILE.1 became FILE.2, and after FILE.3.gz got its name.
        for name in ["log.2", "log.3", "log.gz.tmp", "log.5.gz"] {
            fs::write(folder.path().join(name), format!("{name}\n")).unwrap();
        }
        let [plain, packed] = [false, true].map(|packed| numbered(&path, 3, packed));
        let mut whole = Pack::begin(&plain, &packed, 3).unwrap();
        assert!(whole.step().unwrap());
        drop(whole);
        let mut file = RotatingFile::open(&path, rotate(4, 4)).unwrap();
        write(&mut file, "old");
        write(&mut file, "new");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::read_to_string(folder.path().join("log.1")).unwrap(), "old\n");
        pack(&mut file);
        assert!(!exists(&folder.path().join("log.3")) && !exists(&folder.path().join("log.5.gz")));
        assert!(
            exists(&folder.path().join("log.2.gz")) && !exists(&folder.path().join("log.gz.tmp"))
        );
    }

    #[test]
    fn a_deleted_or_moved_file_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = RotatingFile::open(&path, Rotate::default()).unwrap();
        write(&mut file, "gone");
        fs::remove_file(&path).unwrap();
        write(&mut file, "again");
        assert_eq!(fs::read_to_string(&path).unwrap(), "again\n");
        fs::rename(&path, folder.path().join("moved")).unwrap();
        write(&mut file, "still in the moved one");
        file.reopen().unwrap();
        write(&mut file, "in the new one");
        assert_eq!(fs::read_to_string(&path).unwrap(), "in the new one\n");
    }

    #[test]
    fn a_link_is_not_followed_and_a_pipe_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("log"), folder.path().join("target"));
        fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let error = RotatingFile::open(&path, Rotate::default()).unwrap_err();
        assert_eq!(error, cannot_open(&path, &std::io::Error::from_raw_os_error(40)));
        assert!(error.ends_with(": Too many levels of symbolic links"), "{error}");
    }

    #[test]
    fn what_another_program_moved_meanwhile_is_not_taken_for_what_was_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let write = |number, text: &str| fs::write(numbered(&path, number, false), text).unwrap();
        let read = |number| fs::read_to_string(numbered(&path, number, false)).unwrap();
        write(2, "old\n");
        let mut file = RotatingFile::open(&path, Rotate::default()).unwrap();
        pack(&mut file);
        assert!(numbered(&path, 2, true).exists() && !numbered(&path, 2, false).exists());
        // Beside a compressed file another one gets the same number.
        write(2, "newer\n");
        let mut file = RotatingFile::open(&path, Rotate::default()).unwrap();
        pack(&mut file);
        assert_eq!(read(2), "newer\n");
        // While a file is compressed, another one gets its name.
        write(3, "third\n");
        let (plain, packed) = (numbered(&path, 3, false), numbered(&path, 3, true));
        let mut begun = Pack::begin(&plain, &folder.path().join("scratch"), 3).unwrap();
        while !begun.step().unwrap() {}
        fs::rename(&plain, numbered(&path, 4, false)).unwrap();
        write(3, "second\n");
        assert!(begun.finish(&plain, &packed).is_err());
        assert_eq!((read(3).as_str(), read(4).as_str()), ("second\n", "third\n"));
        assert!(!packed.exists() && !folder.path().join("scratch").exists());
        // Who leaves all rotation to another program gets nothing compressed by this one.
        let rotate = Rotate { max_size: None, ..Rotate::default() };
        assert!(!RotatingFile::open(&path, rotate).unwrap().wants_packing());
    }

    #[test]
    fn what_another_program_compressed_moves_with_what_has_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for name in ["log.1.gz", "log.2", "log.2.gz", "log.3.gz"] {
            fs::write(folder.path().join(name), format!("{name} of its own\n")).unwrap();
        }
        let mut file =
            RotatingFile::open(&path, Rotate { compress: false, ..rotate(4, 7) }).unwrap();
        write(&mut file, "old");
        write(&mut file, "new");
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let found = ["log", "log.1", "log.2.gz", "log.3", "log.3.gz", "log.4.gz"].map(read);
        assert_eq!(
            found,
            [
                "new\n",
                "old\n",
                "log.1.gz of its own\n",
                "log.2 of its own\n",
                "log.2.gz of its own\n",
                "log.3.gz of its own\n",
            ]
        );
    }

    #[test]
    fn a_device_is_written_and_never_rotated() {
        let mut file = RotatingFile::open(Path::new("/dev/null"), rotate(4, 2)).unwrap();
        for _ in 0..10 {
            write(&mut file, "line");
        }
        assert!(!exists(Path::new("/dev/null.1")));
    }

    #[test]
    fn an_old_file_is_rotated_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let by_age = Rotate {
            max_size: None,
            keep: 2,
            max_age: Some(Duration::from_millis(1)),
            compress: false,
        };
        let mut file = RotatingFile::open(&path, by_age).unwrap();
        write(&mut file, "old");
        while !is_older(file.born, Duration::from_millis(1)) {}
        write(&mut file, "new");
        assert_eq!(all_lines(&path), ["old", "new"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }
}
