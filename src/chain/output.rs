//! What a run says: relayed line by line (or handed to a file, or to nobody), with its last bytes
//! kept for the notice. Reading never waits for anybody: neither for a process that still holds
//! the other end, nor for a log that nobody reads.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::relay::{Lane, LinesFile, Loss, Relay, Speaker};
use super::source::{LOOK, Source};
use super::tail::TAIL;
use crate::config::model::{self, Chain, Rotate};
use crate::logger::RotatingFile;
use crate::logger::rotate::MODE;
use crate::sys::{append, clock};
use crate::wire::log::Stream;
use crate::wire::report::Report;

/// The output of a chain's runs, one after the other.
pub(super) struct Output {
    raw: Option<PathBuf>,
    relay: Relay,
    who: Speaker,
    stdout: Source,
    stderr: Source,
    buffer: Vec<u8>,
    /// The file of this run in raw mode, to be read, and where the run began in it.
    written: Option<(File, u64)>,
    told: Told,
}

/// What the master knows of lines that were lost.
#[derive(Debug, Default)]
struct Told {
    lines: u64,
    losing: bool,
    at: Duration,
}

/// What a run said last, to the byte.
pub(super) struct Tails {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Output {
    /// Opens what the chain's `output` names, with the rights of its user, who this process is by
    /// now. `lane` is where lines for the main log go; without one they go nowhere.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(chain: &Chain, lane: Option<BorrowedFd<'_>>) -> Result<Output, String> {
        Output::named(&chain.name, &chain.output, chain.rotate, lane)
    }

    fn named(
        chain: &str,
        output: &model::Output,
        rotate: Rotate,
        lane: Option<BorrowedFd<'_>>,
    ) -> Result<Output, String> {
        let relay = match output {
            model::Output::Main => match lane {
                Some(lane) => Relay::Lane(Lane::new(
                    lane.try_clone_to_owned()
                        .map_err(|cause| format!("cannot keep the way to the log: {cause}"))?,
                )),
                None => Relay::Nowhere,
            },
            model::Output::Lines(path) => {
                let file = RotatingFile::open(path, rotate)?;
                Relay::File(Box::new(LinesFile::new(file)))
            }
            model::Output::Raw(_) | model::Output::Discard => Relay::Nowhere,
        };
        let raw = match output {
            model::Output::Raw(path) => {
                open_raw(path)?;
                Some(path.clone())
            }
            _ => None,
        };
        let buffer = vec![0; relay.chunk()];
        Ok(Output {
            raw,
            relay,
            who: Speaker { chain: chain.to_owned(), ..Speaker::default() },
            stdout: Source::new(Stream::Out),
            stderr: Source::new(Stream::Err),
            buffer,
            written: None,
            told: Told::default(),
        })
    }

    /// The ends for a new run's descriptors 1 and 2.
    ///
    /// # Errors
    /// When no descriptors are left, or the raw file cannot be opened.
    pub(super) fn begin(&mut self, task: &str, run: u64) -> io::Result<(OwnedFd, OwnedFd)> {
        self.name(task, run);
        let Some(path) = &self.raw else {
            return Ok((self.stdout.begin()?, self.stderr.begin()?));
        };
        let ends = raw_ends(path)?;
        self.written = from_now_on(path);
        Ok(ends)
    }

    /// The ends for a new worker's descriptors 1 and 2. What it says before its first run is its
    /// own, unless a run has begun that waits for it.
    ///
    /// # Errors
    /// As [`Output::begin`].
    pub(super) fn begin_worker(&mut self, awaited: bool) -> io::Result<(OwnedFd, OwnedFd)> {
        if !awaited {
            self.begin_call("worker", 0, false);
        }
        let Some(path) = &self.raw else {
            return Ok((self.stdout.begin_worker()?, self.stderr.begin_worker()?));
        };
        raw_ends(path)
    }

    /// From now on what the worker says is said by this run. What it said before is not told of
    /// the run, but for one that has begun with the start of the worker.
    pub(super) fn begin_call(&mut self, task: &str, run: u64, fresh: bool) {
        self.name(task, run);
        for source in [&mut self.stdout, &mut self.stderr] {
            source.turn_to_worker(fresh);
        }
        if let Some(path) = &self.raw {
            self.written = from_now_on(path);
        }
    }

    /// What is said from now on is said by this run.
    fn name(&mut self, task: &str, run: u64) {
        self.who.task.clear();
        self.who.task.push_str(task);
        self.who.run = run;
        if let Relay::File(lines) = &mut self.relay {
            lines.begin_run();
        }
    }

    /// The worker is gone: what it still said is read.
    pub(super) fn end_worker(&mut self) {
        if self.stdout.reads_worker() {
            self.pump();
        }
        self.stdout.end_worker();
        self.stderr.end_worker();
    }

    /// Whether the worker holds a file that was opened when it started.
    pub(super) fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// What to wait for: nothing of a task that is held.
    pub(super) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .filter(|source| !source.is_held())
            .filter_map(|source| source.open().map(AsFd::as_fd))
    }

    /// After which time [`Output::pump`] must be called though nothing is to be read.
    pub(super) fn look_again(&self) -> Option<Duration> {
        (self.stdout.is_held() || self.stderr.is_held()).then_some(LOOK)
    }

    /// Reads and relays what is there, a bounded amount.
    pub(super) fn pump(&mut self) {
        for source in [&mut self.stdout, &mut self.stderr] {
            source.pump(&mut self.buffer, &self.who, &mut self.relay);
        }
        self.relay.flush(&self.who);
    }

    /// The program has exited, or the worker has ended its run: what is there now is all that
    /// counts; somebody who still holds the other end is not waited for.
    pub(super) fn finish(&mut self) -> Tails {
        if let Some((file, from)) = self.written.take() {
            return Tails { stdout: Vec::new(), stderr: read_tail(&file, from) };
        }
        for source in [&mut self.stdout, &mut self.stderr] {
            source.read_rest(&mut self.buffer, &self.who, &mut self.relay);
        }
        for source in [&mut self.stdout, &mut self.stderr] {
            source.finish(&self.who, &mut self.relay);
        }
        self.relay.flush(&self.who);
        Tails { stdout: self.stdout.take_tail(), stderr: self.stderr.take_tail() }
    }

    /// What the master is to be told of lines that were lost: when that begins or is over, and of
    /// their number each second at most; at the end of a run (`all`) in any case.
    pub(super) fn news(&mut self, all: bool) -> Option<Report> {
        let Loss { lines, cause, main } = self.relay.loss();
        let changed = cause.is_some() != self.told.losing;
        let more = lines - self.told.lines;
        if !changed && more == 0 {
            return None;
        }
        let now = clock::monotonic();
        if !changed && !all && now.saturating_sub(self.told.at) < Duration::from_secs(1) {
            return None;
        }
        self.told = Told { lines, losing: cause.is_some(), at: now };
        let file = match &self.relay {
            Relay::File(lines) => Some(lines.file.path().display()),
            Relay::Lane(_) | Relay::Nowhere => None,
        };
        let cause = cause.map(|cause| match file {
            Some(file) => format!("cannot write output to {file}: {cause}"),
            None => cause.to_owned(),
        });
        Some(Report::Lost { lines: more, cause, main })
    }

    /// Opens the chain's file again, as after USR1.
    ///
    /// # Errors
    /// When that fails: writing goes on in the old one.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        match &mut self.relay {
            Relay::File(lines) => lines.file.reopen(),
            Relay::Lane(_) | Relay::Nowhere => Ok(()),
        }
    }

    /// Whether an old file waits to be compressed.
    pub(super) fn wants_packing(&self) -> bool {
        matches!(&self.relay, Relay::File(lines) if lines.file.wants_packing())
    }

    /// Compresses a bit of it, when there is nothing else to do.
    pub(super) fn pack_some(&mut self) {
        if let Relay::File(lines) = &mut self.relay {
            lines.file.pack_some();
        }
    }
}

fn open_raw(path: &Path) -> Result<File, String> {
    let cannot = |cause: &io::Error| {
        format!("cannot open {}: {}", path.display(), crate::sys::error_text(cause))
    };
    let file = append::open_append(path, MODE).map_err(|cause| cannot(&cause))?;
    append::make_waiting(&file).map_err(|cause| cannot(&cause))?;
    Ok(file)
}

/// A raw file as somebody's descriptors 1 and 2.
fn raw_ends(path: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let file = open_raw(path).map_err(io::Error::other)?;
    let again = file.try_clone()?;
    Ok((file.into(), again.into()))
}

/// A raw file to be read, since the task's own descriptor can only write, and where it ends now.
/// `None` where its user may not read it.
fn from_now_on(path: &Path) -> Option<(File, u64)> {
    let reader = append::open_to_read(path).ok()?;
    let end = reader.metadata().ok()?.len();
    Some((reader, end))
}

/// The last bytes that were written since the run began.
fn read_tail(file: &File, from: u64) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let end = file.metadata().map_or(from, |meta| meta.len());
    // Truncated meanwhile: what is there is new.
    let from = if end < from { 0 } else { from };
    let start = from.max(end.saturating_sub(TAIL as u64));
    let mut tail = vec![0; usize::try_from(end - start).unwrap_or(0)];
    let mut filled = 0;
    while filled < tail.len() {
        match file.read_at(&mut tail[filled..], start + filled as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => filled += count,
        }
    }
    tail.truncate(filled);
    tail
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::logger::Lanes;
    use crate::sys::socket::{Received, receive_packet};
    use crate::wire::log::{MAX_RECORD, OutputLine};

    fn open(output: &model::Output, lanes: Option<&Lanes>) -> Output {
        let lane = lanes.map(|lanes| lanes.output_in.as_fd());
        Output::named("mail", output, Rotate::default(), lane).unwrap()
    }

    /// A run that writes these bytes to its two streams and exits.
    fn run(output: &mut Output, number: u64, stdout: &[u8], stderr: &[u8]) -> Tails {
        let (one, two) = output.begin("send", number).unwrap();
        for (fd, mut bytes) in [(one, stdout), (two, stderr)] {
            let mut file = File::from(fd);
            append::make_not_waiting(&file).unwrap();
            while !bytes.is_empty() {
                match file.write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(_) => output.pump(),
                }
            }
        }
        output.finish()
    }

    /// A line of a file without its time.
    fn without_times(text: &str) -> Vec<&str> {
        text.lines().map(|line| line.split_once(' ').unwrap().1).collect()
    }

    fn received(lanes: &Lanes) -> Vec<OutputLine> {
        let mut buffer = [0; MAX_RECORD];
        let mut lines = Vec::new();
        while let Received::Packet(length) = receive_packet(&lanes.output_out, &mut buffer).unwrap()
        {
            lines.push(serde_json::from_slice(&buffer[..length]).unwrap());
        }
        lines
    }

    #[test]
    fn each_line_of_a_file_says_time_chain_task_run_and_stream() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.log");
        let mut output = open(&model::Output::Lines(path.clone()), None);
        let tails = run(&mut output, 1, b"one\r\ntwo\nno end", b"bad\x1b[31m\x00\xff\n");
        run(&mut output, 2, b"again\n", b"");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            without_times(&text),
            [
                "mail send 1 out: one",
                "mail send 1 out: two",
                "mail send 1 err: bad\\x1b[31m\\x00\\xff",
                "mail send 1 out: no end",
                "mail send 2 out: again",
            ]
        );
        assert!(humantime::parse_rfc3339(text.split(' ').next().unwrap()).is_ok());
        assert_eq!(tails.stdout, b"one\r\ntwo\nno end");
        assert_eq!(tails.stderr, b"bad\x1b[31m\x00\xff\n");
    }

    #[test]
    fn a_line_of_a_mebibyte_comes_whole_in_marked_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.log");
        let mut output = open(&model::Output::Lines(path.clone()), None);
        let mut long = "äb".repeat(1 << 18);
        long.push('\n');
        let tails = run(&mut output, 1, long.as_bytes(), b"");
        assert_eq!(tails.stdout, &long.as_bytes()[long.len() - TAIL..]);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut whole = String::new();
        for line in without_times(&text) {
            let (stamp, part) = line.split_once(": ").unwrap();
            assert_eq!(
                stamp,
                if text.ends_with(&format!("{part}\n")) && !stamp.ends_with('+') {
                    "mail send 1 out"
                } else {
                    "mail send 1 out+"
                }
            );
            whole.push_str(part);
        }
        assert_eq!(whole, long.trim_end());
    }

    #[test]
    fn the_main_log_gets_each_line_with_its_origin() {
        let lanes = Lanes::new().unwrap();
        let mut output = open(&model::Output::Main, Some(&lanes));
        run(&mut output, 7, b"said\n", b"complained\n");
        let lines = received(&lanes);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].line.as_str(), lines[0].stream, lines[0].run),
            ("said", Stream::Out, 7)
        );
        assert_eq!((lines[1].line.as_str(), lines[1].stream), ("complained", Stream::Err));
        assert_eq!(lines[1].task, "send");
    }

    #[test]
    fn the_last_words_of_a_run_are_all_heard_although_the_lane_is_full() {
        let lanes = Lanes::new().unwrap();
        let mut output = open(&model::Output::Main, Some(&lanes));
        while !output.relay.is_holding() {
            run(&mut output, 1, b"filler\n", b"");
        }
        received(&lanes);
        // More than one buffer, and the lane is full again in the middle of it.
        let said: String = (0..6000).map(|number| format!("word {number}\n")).collect();
        let (one, two) = output.begin("send", 2).unwrap();
        drop(two);
        File::from(one).write_all(said.as_bytes()).unwrap();
        let tails = output.finish();
        assert_eq!(tails.stdout, &said.as_bytes()[said.len() - TAIL..]);
        let mut lines = received(&lanes);
        run(&mut output, 3, b"after\n", b"");
        lines.extend(received(&lanes));
        let heard = lines.iter().filter(|line| line.line.starts_with("word")).count() as u64;
        let lost: u64 = lines.iter().map(|line| line.dropped).sum();
        assert!(heard > 100 && lost > 100, "{heard} {lost}");
        assert!(heard + lost >= 6000, "{heard} {lost}");
    }

    #[test]
    fn a_log_that_nobody_reads_holds_a_task_for_a_second_at_most_and_what_is_lost_is_counted() {
        let lanes = Lanes::new().unwrap();
        let mut output = open(&model::Output::Main, Some(&lanes));
        let all = 20_000;
        let text: String = (0..all).map(|number| format!("line {number}\n")).collect();
        let begun = clock::monotonic();
        run(&mut output, 1, text.as_bytes(), b"");
        let first = clock::monotonic().saturating_sub(begun);
        // The patience is used up: the next runs are not held again.
        let begun = clock::monotonic();
        for number in 2..12 {
            run(&mut output, number, b"more\n", b"");
        }
        let later = clock::monotonic().saturating_sub(begun);
        assert!(first > Duration::from_millis(800), "{first:?}: the task was not held");
        assert!(first < Duration::from_secs(4), "{first:?}");
        assert!(later < Duration::from_millis(400), "{later:?}");
        let before = received(&lanes);
        run(&mut output, 12, b"after\n", b"");
        let after = received(&lanes);
        assert_eq!(before.len() as u64 + after[0].dropped, all + 10);
        assert_eq!(after[1].line, "after");
    }

    #[test]
    fn a_process_that_keeps_the_other_end_is_not_waited_for() {
        let mut output = open(&model::Output::Discard, None);
        let (one, _two) = output.begin("send", 1).unwrap();
        let mut kept = File::from(one);
        kept.write_all(b"last words").unwrap();
        assert_eq!(output.finish().stdout, b"last words");
        assert!(output.sources().next().is_none());
        assert!(kept.write_all(b"too late").is_err());
    }

    #[test]
    fn raw_bytes_go_straight_into_the_file_and_the_tail_is_of_this_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw.log");
        std::fs::write(&path, "earlier\n").unwrap();
        let mut output = open(&model::Output::Raw(path.clone()), None);
        let tails = run(&mut output, 1, b"\x00raw\xff", b"mixed");
        assert_eq!(tails.stderr, b"\x00raw\xffmixed");
        assert!(tails.stdout.is_empty());
        let tails = run(&mut output, 2, &[b'x'; 2 * TAIL], b"end");
        assert_eq!(tails.stderr.len(), TAIL);
        assert!(tails.stderr.ends_with(b"xend"));
        assert!(std::fs::read(&path).unwrap().starts_with(b"earlier\n\x00raw\xffmixedx"));
    }

    #[test]
    fn a_file_that_takes_nothing_loses_lines_and_tells_how_many() {
        let mut output = open(&model::Output::Lines(PathBuf::from("/dev/full")), None);
        let tails = run(&mut output, 1, b"one\ntwo\n", b"three\n");
        assert_eq!(tails.stderr, b"three\n");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.log");
        let Relay::File(lines) = &mut output.relay else { panic!() };
        lines.file = RotatingFile::open(&path, Rotate::default()).unwrap();
        run(&mut output, 2, b"back\n", b"");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = without_times(&text);
        assert!(lines[0].starts_with("mail send 2 runner: 3 lines dropped: "), "{lines:?}");
        assert_eq!(lines[1], "mail send 2 out: back");
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(24))]
        #[test]
        fn the_tails_are_those_of_that_run_to_the_byte(
            kind in 0..4_usize,
            runs in proptest::collection::vec(
                proptest::collection::vec((
                    proptest::bool::ANY,
                    proptest::collection::vec(0_u8.., 0..50),
                    1..400_usize,
                    proptest::bool::ANY,
                ), 0..12),
                1..5,
            ),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let lanes = Lanes::new().unwrap();
            let mut output = match kind {
                0 => open(&model::Output::Lines(path), None),
                1 => open(&model::Output::Main, Some(&lanes)),
                2 => open(&model::Output::Raw(path), None),
                _ => open(&model::Output::Discard, None),
            };
            for (number, pieces) in runs.iter().enumerate() {
                let (one, two) = output.begin("send", number as u64).unwrap();
                let mut said = [Vec::new(), Vec::new()];
                let mut files = [File::from(one), File::from(two)];
                for (of_stderr, pattern, times, look) in pieces {
                    let stream = usize::from(*of_stderr);
                    let bytes = pattern.repeat(*times);
                    files[stream].write_all(&bytes).unwrap();
                    said[if kind == 2 { 1 } else { stream }].extend_from_slice(&bytes);
                    // A pipe holds 64 KiB: what is said is heard before it is full.
                    if *look || said[stream].len() > 20_000 {
                        output.pump();
                        received(&lanes);
                    }
                }
                drop(files);
                let tails = output.finish();
                received(&lanes);
                let last = |said: &[u8]| said[said.len().saturating_sub(TAIL)..].to_vec();
                proptest::prop_assert_eq!(tails.stdout, last(&said[0]));
                proptest::prop_assert_eq!(tails.stderr, last(&said[1]));
            }
        }
    }
}
