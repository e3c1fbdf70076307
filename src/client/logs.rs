//! `logs CHAIN [-f]`: what a chain's tasks said, from the file where it lies, opened with the
//! caller's own rights. Following goes on over rotation: an old file is read to its end, then those
//! that came after it, then the new one. On a terminal nothing reaches it unescaped, whoever wrote
//! into the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;

use super::talk::Failure;
use crate::config::model::{Config, LogFormat, LogTarget, Output};
use crate::logger::rotate::numbered;
use crate::sys::{append, error_text};
use crate::wire::log::Stream;
use crate::wire::safe::safe_bytes;

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The longest line that is kept in memory, in bytes; a longer one is shown in parts.
const MAX_LINE: usize = 64 * 1024;

/// Bytes by which a compressed file is known again.
const HEAD: usize = 256;

/// What to show.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Go on when the end is reached.
    pub follow: bool,
    /// One stream only.
    pub stream: Option<Stream>,
    /// How many of the last lines to begin with.
    pub lines: usize,
}

/// Shows what the tasks of `chain` said.
///
/// # Errors
/// When there is no such chain, its output lies in no file, or the file cannot be read.
pub fn logs(config: &Config, chain: &str, wanted: Wanted) -> Result<u8, Failure> {
    let (path, keep, form) = find(config, chain, wanted)?;
    let cannot = |cause: &io::Error| {
        Failure::Other(format!("cannot read {}: {}", path.display(), error_text(cause)), 1)
    };
    let stdout = io::stdout().lock();
    let safe = stdout.is_terminal();
    let mut show = Show { form, wanted, out: io::BufWriter::new(stdout), safe };
    let mut reader = Reader::open(&path).map_err(|cause| cannot(&cause))?;
    if let Err(cause) = show.last_lines(&mut reader, &path) {
        return end(&cause).ok_or_else(|| cannot(&cause));
    }
    if !wanted.follow {
        return Ok(0);
    }
    loop {
        std::thread::sleep(LOOK);
        if let Err(cause) = reader.follow(&path, keep, &mut |line| show.line(line)) {
            return end(&cause).ok_or_else(|| cannot(&cause));
        }
        if show.out.flush().is_err() {
            return Ok(0);
        }
    }
}

/// A reader that is gone (`| head`) ends this well.
fn end(cause: &io::Error) -> Option<u8> {
    (cause.kind() == io::ErrorKind::BrokenPipe).then_some(0)
}

/// How the lines of a file say where they come from.
enum Form {
    /// A `Lines` file: all of one chain, with the stream in the fifth field.
    Lines,
    /// Bytes as they came.
    Raw,
    /// The main log as text: the origin in brackets, or the chain among the pairs.
    MainText(String),
    /// The main log as JSON.
    MainJson(String),
}

fn find(config: &Config, name: &str, wanted: Wanted) -> Result<(PathBuf, u32, Form), Failure> {
    let unknown = || Failure::Other(format!("no chain is named {name:?}"), 4);
    let chain = config.chains.iter().find(|one| one.name == name).ok_or_else(unknown)?;
    let refuse = |why: String| Err(Failure::Other(format!("cannot show {name}: {why}"), 1));
    match (&chain.output, &config.log.to) {
        (Output::Lines(path), _) => Ok((path.clone(), chain.rotate.keep, Form::Lines)),
        (Output::Raw(_), _) if wanted.stream.is_some() => {
            refuse("its output is Raw: both streams are mixed in one file".to_owned())
        }
        (Output::Raw(path), _) => Ok((path.clone(), 0, Form::Raw)),
        (Output::Discard, _) => refuse("its output is Discard: nothing is kept".to_owned()),
        (Output::Main, LogTarget::File(path)) => {
            let name = name.to_owned();
            let form = match config.log.format {
                LogFormat::Text => Form::MainText(name),
                LogFormat::Json => Form::MainJson(name),
            };
            Ok((path.clone(), config.log.rotate.keep, form))
        }
        (Output::Main, LogTarget::Stderr) => refuse(
            "its output is in the main log, on the master's standard error (journalctl has it \
             where systemd started the master); output: Lines(FILE) keeps it apart"
                .to_owned(),
        ),
    }
}

struct Show<W> {
    form: Form,
    wanted: Wanted,
    out: W,
    safe: bool,
}

impl<W: Write> Show<W> {
    /// The last lines of the file and, where it has too few, of the one before it.
    fn last_lines(&mut self, reader: &mut Reader, path: &Path) -> io::Result<()> {
        let mut last = VecDeque::new();
        reader.read(&mut |line| {
            self.remember(&mut last, line);
            Ok(())
        })?;
        if last.len() < self.wanted.lines
            && let Ok(mut before) = Reader::open(&numbered(path, 1, false))
        {
            let newer = std::mem::take(&mut last);
            before.read(&mut |line| {
                self.remember(&mut last, line);
                Ok(())
            })?;
            last.extend(newer);
            let surplus = last.len().saturating_sub(self.wanted.lines);
            last.drain(..surplus);
        }
        for line in &last {
            self.print(line)?;
        }
        if !self.wanted.follow {
            let rest = reader.take_partial();
            if !rest.is_empty() {
                self.line(&rest)?;
            }
        }
        self.out.flush()
    }

    fn remember(&self, last: &mut VecDeque<Vec<u8>>, line: &[u8]) {
        if self.wanted.lines == 0 || !self.form.shows(line, self.wanted.stream) {
            return;
        }
        if last.len() == self.wanted.lines {
            last.pop_front();
        }
        last.push_back(line.to_vec());
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.form.shows(line, self.wanted.stream) { self.print(line) } else { Ok(()) }
    }

    fn print(&mut self, line: &[u8]) -> io::Result<()> {
        if self.safe {
            self.out.write_all(safe_bytes(line).as_bytes())?;
        } else {
            self.out.write_all(line)?;
        }
        self.out.write_all(b"\n")
    }
}

impl Form {
    fn shows(&self, line: &[u8], stream: Option<Stream>) -> bool {
        let fits = |word: &str| {
            let word = word.trim_end_matches([':', '+']);
            word == "runner" || stream.is_none_or(|stream| stream.word() == word)
        };
        let text = String::from_utf8_lossy(line);
        match self {
            Form::Raw => true,
            Form::Lines => text.split(' ').nth(4).is_none_or(fits),
            Form::MainText(chain) => {
                let said = text.splitn(3, ' ').nth(2).unwrap_or_default();
                match said.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                    Some((origin, _)) if origin.split(' ').count() == 4 => {
                        let mut words = origin.split(' ');
                        words.next() == Some(chain) && words.nth(2).is_some_and(fits)
                    }
                    _ => {
                        let pair = format!("chain: {chain}");
                        let tag = format!("[chain {chain}]");
                        stream.is_none()
                            && (said.starts_with(&tag) || said.split(", ").any(|one| one == pair))
                    }
                }
            }
            Form::MainJson(chain) => {
                let Ok(record) = serde_json::from_str::<serde_json::Value>(&text) else {
                    return false;
                };
                let of_stream = match record.get("stream").and_then(|stream| stream.as_str()) {
                    Some(word) => fits(word),
                    None => stream.is_none(),
                };
                record.get("chain").and_then(|name| name.as_str()) == Some(chain) && of_stream
            }
        }
    }
}

type Each<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// A file that grows and is rotated.
struct Reader {
    file: BufReader<File>,
    inode: u64,
    /// How the file begins: what tells it when it was compressed meanwhile.
    head: Vec<u8>,
    offset: u64,
    partial: Vec<u8>,
}

impl Reader {
    /// Opens it if it is a file: a pipe or a device of that name is not waited for.
    fn open(path: &Path) -> io::Result<Reader> {
        let file = append::open_to_read(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let file = BufReader::with_capacity(MAX_LINE, file);
        Ok(Reader { file, inode: meta.ino(), head: Vec::new(), offset: 0, partial: Vec::new() })
    }

    /// Gives every whole line up to the end of the file.
    fn read(&mut self, each: &mut Each<'_>) -> io::Result<()> {
        loop {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(());
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(bytes.len(), |at| at + 1);
            let missing = HEAD.saturating_sub(self.head.len()).min(used);
            self.head.extend_from_slice(&bytes[..missing]);
            self.partial.extend_from_slice(&bytes[..end.unwrap_or(used)]);
            self.file.consume(used);
            self.offset += used as u64;
            if end.is_some() || self.partial.len() >= MAX_LINE {
                each(&self.partial)?;
                self.partial.clear();
            }
        }
    }

    fn take_partial(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// What came since, in this file and in those that took its place.
    fn follow(&mut self, path: &Path, keep: u32, each: &mut Each<'_>) -> io::Result<()> {
        // Asked first: what was written before the file was replaced is read below.
        let now = std::fs::metadata(path).map(|meta| (meta.ino(), meta.len()));
        self.read(each)?;
        match now {
            Ok((inode, length)) if inode == self.inode => {
                if length < self.offset {
                    self.file.seek(SeekFrom::Start(0))?;
                    self.offset = 0;
                    self.partial.clear();
                    self.head.clear();
                }
                Ok(())
            }
            // Gone for the moment: between two names.
            Err(_) => Ok(()),
            Ok(_) => {
                let rest = self.take_partial();
                if !rest.is_empty() {
                    each(&rest)?;
                }
                let (between, new) = self.successors(path, keep);
                for old in between {
                    read_lines(old, each)?;
                }
                if let Some(new) = new {
                    *self = new;
                    self.read(each)?;
                }
                Ok(())
            }
        }
    }
}

impl Reader {
    /// The files that were begun after this one, the oldest first, and the newest.
    fn successors(&self, path: &Path, keep: u32) -> (Vec<Box<dyn BufRead>>, Option<Reader>) {
        // A rotation while they are opened would show one twice or hide one: look again then.
        for _ in 0..10 {
            let Some(mine) = (1..=keep).find(|number| self.is_at(path, *number)) else { break };
            let between = (1..mine).rev().filter_map(|number| open_old(path, number)).collect();
            let new = Reader::open(path).ok();
            if self.is_at(path, mine) {
                return (between, new);
            }
        }
        (Vec::new(), Reader::open(path).ok())
    }

    /// Whether this file has become the old one with that number.
    fn is_at(&self, path: &Path, number: u32) -> bool {
        if let Ok(meta) = std::fs::metadata(numbered(path, number, false)) {
            return meta.ino() == self.inode;
        }
        let mut head = vec![0; self.head.len()];
        let packed = open_old(path, number).map(|mut old| old.read_exact(&mut head));
        packed.is_some_and(|read| read.is_ok()) && head == self.head
    }
}

/// An old file, plain or compressed.
fn open_old(path: &Path, number: u32) -> Option<Box<dyn BufRead>> {
    if let Ok(plain) = Reader::open(&numbered(path, number, false)) {
        return Some(Box::new(plain.file));
    }
    let packed = Reader::open(&numbered(path, number, true)).ok()?;
    Some(Box::new(BufReader::new(GzDecoder::new(packed.file))))
}

fn read_lines(mut file: Box<dyn BufRead>, each: &mut Each<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut file).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        each(line.strip_suffix(b"\n").unwrap_or(&line))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Rotate;
    use crate::logger::RotatingFile;

    #[test]
    fn following_misses_nothing_over_rotations() {
        for compress in [false, true] {
            follow_over_rotations(compress);
        }
    }

    fn follow_over_rotations(compress: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let rotate = Rotate { max_size: Some(60), keep: 9, max_age: None, compress };
        let mut file = RotatingFile::open(&path, rotate).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let mut seen = Vec::new();
        for number in 0..100 {
            let line = format!("line {number}\n");
            assert_eq!(file.write_some(line.as_bytes()).unwrap(), line.len());
            while file.pack_some() {}
            // Several rotations between two looks.
            if number % 20 == 7 {
                let mut each = |line: &[u8]| {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                    Ok(())
                };
                reader.follow(&path, 9, &mut each).unwrap();
            }
        }
        let all: Vec<String> = (0..seen.len()).map(|number| format!("line {number}")).collect();
        assert_eq!(seen, all);
        assert!(seen.len() > 80);
    }

    #[test]
    fn a_truncated_file_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "a long first line\n").unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let mut seen = Vec::new();
        let mut each = |line: &[u8]| {
            seen.push(line.to_vec());
            Ok(())
        };
        reader.follow(&path, 0, &mut each).unwrap();
        std::fs::write(&path, "new\n").unwrap();
        reader.follow(&path, 0, &mut each).unwrap();
        reader.follow(&path, 0, &mut each).unwrap();
        assert_eq!(seen, [b"a long first line".to_vec(), b"new".to_vec()]);
    }

    #[test]
    fn streams_and_chains_are_told_apart() {
        let line = b"2026-01-01T00:00:00.000Z mail send 12 out+: err: x";
        assert!(Form::Lines.shows(line, None) && Form::Lines.shows(line, Some(Stream::Out)));
        assert!(!Form::Lines.shows(line, Some(Stream::Err)));
        let said = b"2026-01-01T00:00:00.000Z mail send 12 runner: 3 lines dropped";
        assert!(Form::Lines.shows(said, Some(Stream::Err)));
        let text = Form::MainText("mail".to_owned());
        let of_task = b"2026-01-01T00:00:00.000Z INFO [mail send 12 err] [other x 1 out] hello";
        assert!(text.shows(of_task, Some(Stream::Err)) && !text.shows(of_task, Some(Stream::Out)));
        let of_other = b"2026-01-01T00:00:00.000Z INFO [mail2 send 12 err] chain: mail";
        assert!(!text.shows(of_other, None));
        let of_master = b"2026-01-01T00:00:00.000Z INFO [send] Execution failed, chain: mail";
        assert!(text.shows(of_master, None) && !text.shows(of_master, Some(Stream::Out)));
        let json = Form::MainJson("mail".to_owned());
        assert!(json.shows(br#"{"chain":"mail","stream":"out"}"#, Some(Stream::Out)));
        assert!(!json.shows(br#"{"chain":"mail"}"#, Some(Stream::Out)));
        assert!(!json.shows(b"nonsense", None));
    }

    #[test]
    fn a_terminal_is_told_nothing_by_the_file() {
        let mut show = Show {
            form: Form::Raw,
            wanted: Wanted { follow: false, stream: None, lines: 2 },
            out: Vec::new(),
            safe: true,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(numbered(&path, 1, false), "too old\nold\n").unwrap();
        std::fs::write(&path, b"\x1b[31mred\xff\nno end").unwrap();
        let mut reader = Reader::open(&path).unwrap();
        show.last_lines(&mut reader, &path).unwrap();
        assert_eq!(String::from_utf8(show.out).unwrap(), "old\n\\x1b[31mred\\xff\nno end\n");
    }
}
