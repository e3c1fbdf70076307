//! The compression of one old file, in steps: no thread, no second process, and no line waits for
//! more than one step. The compressed file gets its name when it is whole and on disk, then the
//! plain one goes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::rotate::MODE;
use crate::sys::append;

/// Bytes of one read, and reads of one step.
const CHUNK: usize = 32 * 1024;
const CHUNKS: usize = 8;

/// A compression under way.
pub(super) struct Pack {
    /// The number of the old file; a rotation meanwhile counts it up.
    pub(super) number: u32,
    from: File,
    to: GzEncoder<File>,
    scratch: PathBuf,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pack({})", self.number)
    }
}

impl Pack {
    /// Begins with `plain`, into `scratch` (of which an earlier one is thrown away).
    pub(super) fn begin(plain: &Path, scratch: &Path, number: u32) -> io::Result<Pack> {
        let from = File::open(plain)?;
        match fs::remove_file(scratch) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        let to = GzEncoder::new(append::create_new(scratch, MODE)?, Compression::new(6));
        Ok(Pack { number, from, to, scratch: scratch.to_owned() })
    }

    /// Goes on for a while. `Ok(true)`: everything is read.
    pub(super) fn step(&mut self) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        for _ in 0..CHUNKS {
            match self.from.read(&mut chunk)? {
                0 => return Ok(true),
                length => self.to.write_all(&chunk[..length])?,
            }
        }
        Ok(false)
    }

    /// Puts the compressed file in the place of the plain one, if that is still the file that was
    /// compressed and the place is free: logrotate(8) may have moved files meanwhile.
    pub(super) fn finish(self, plain: &Path, packed: &Path) -> io::Result<()> {
        let Pack { from, to, scratch, .. } = self;
        let is_free = || -> io::Result<()> {
            let (read, now) = (from.metadata()?, fs::symlink_metadata(plain)?);
            let same = (read.dev(), read.ino()) == (now.dev(), now.ino());
            let taken = fs::symlink_metadata(packed).is_ok();
            if same && !taken { Ok(()) } else { Err(io::Error::other("somebody moved it")) }
        };
        let done = to
            .finish()
            .and_then(|file| file.sync_data())
            .and_then(|()| is_free())
            .and_then(|()| fs::rename(&scratch, packed));
        if done.is_err() {
            let _ = fs::remove_file(&scratch);
            return done;
        }
        fs::remove_file(plain)
    }

    /// Whether `packed` is whole and as long as `plain` (the last four bytes of a gzip file, RFC
    /// 1952): then a crash left both forms of one file. Else they are two files, and both stay.
    pub(super) fn is_twin(plain: &Path, packed: &Path) -> bool {
        let length = || -> io::Result<u32> {
            let mut file = File::open(packed)?;
            file.seek(io::SeekFrom::End(-4))?;
            let mut last = [0; 4];
            file.read_exact(&mut last)?;
            Ok(u32::from_le_bytes(last))
        };
        let wanted = fs::symlink_metadata(plain).map(|meta| meta.len() & u64::from(u32::MAX));
        matches!((length(), wanted), (Ok(length), Ok(wanted)) if u64::from(length) == wanted)
    }

    /// Gives up; the plain file stays.
    pub(super) fn abandon(self) {
        let _ = fs::remove_file(&self.scratch);
    }
}
