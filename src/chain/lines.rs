//! Cuts a stream of bytes into lines. A line that is longer than a piece comes in several pieces,
//! cut between characters and marked as going on, so no line needs more memory than a piece.

/// What was read and is not a whole line yet.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    partial: Vec<u8>,
}

// What takes one call's worth of a line gets the bytes without their end, and whether the line goes
// on. `false` means that it could not be taken now: it will be offered again.
impl Cutter {
    /// Takes `bytes` and emits what is complete, in pieces of at most `piece` bytes. Returns how
    /// many bytes were taken: less than all when `emit` refused; the rest must be fed again.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        piece: usize,
        emit: &mut impl FnMut(&[u8], bool) -> bool,
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let end = memchr::memchr(b'\n', rest);
            let content = &rest[..end.unwrap_or(rest.len())];
            let room = piece.saturating_sub(self.partial.len());
            if content.len() > room {
                let Some(used) = self.emit_piece(&content[..room], emit) else { return at };
                at += used;
            } else if end.is_none() {
                self.partial.extend_from_slice(content);
                at = bytes.len();
            } else {
                if !self.emit_line(content, emit) {
                    return at;
                }
                at += content.len() + 1;
            }
        }
        at
    }

    /// The end of the stream: what has no end of line is a line too. `false`: refused.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(&[u8], bool) -> bool) -> bool {
        let done = self.partial.is_empty() || emit(&self.partial, false);
        if done {
            self.partial = Vec::new();
        }
        done
    }

    fn emit_line(&mut self, content: &[u8], emit: &mut impl FnMut(&[u8], bool) -> bool) -> bool {
        if self.partial.is_empty() {
            return emit(without_return(content), false);
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(content);
        let done = emit(without_return(&self.partial), false);
        self.partial.truncate(if done { 0 } else { before });
        done
    }

    /// Emits a full piece; returns how much of `content` it took.
    fn emit_piece(
        &mut self,
        content: &[u8],
        emit: &mut impl FnMut(&[u8], bool) -> bool,
    ) -> Option<usize> {
        let before = self.partial.len();
        self.partial.extend_from_slice(content);
        let whole = whole_characters(&self.partial);
        if !emit(&self.partial[..whole], true) {
            self.partial.truncate(before);
            return None;
        }
        self.partial.drain(..whole);
        Some(content.len())
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The length of `bytes` without a character at its end that is not complete.
fn whole_characters(bytes: &[u8]) -> usize {
    let recent = bytes.len().saturating_sub(3)..bytes.len();
    for at in recent.rev() {
        let needs = match bytes[at] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if at + needs > bytes.len() && at > 0 { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]], piece: usize) -> Vec<(String, bool)> {
        let mut lines = Vec::new();
        let mut cutter = Cutter::default();
        let mut emit = |line: &[u8], more: bool| {
            lines.push((String::from_utf8_lossy(line).into_owned(), more));
            true
        };
        for chunk in chunks {
            assert_eq!(cutter.feed(chunk, piece, &mut emit), chunk.len());
        }
        assert!(cutter.finish(&mut emit));
        lines
    }

    fn whole(text: &str) -> (String, bool) {
        (text.to_owned(), false)
    }

    fn part(text: &str) -> (String, bool) {
        (text.to_owned(), true)
    }

    #[test]
    fn lines_are_put_together_from_any_chunks() {
        assert_eq!(
            cut(&[b"on", b"e\ntwo\r\n\nth", b"", b"ree"], 100),
            [whole("one"), whole("two"), whole(""), whole("three")]
        );
    }

    #[test]
    fn a_long_line_comes_in_marked_pieces_cut_between_characters() {
        assert_eq!(
            cut(&[b"abcdefgh\nx\n"], 3),
            [part("abc"), part("def"), whole("gh"), whole("x")]
        );
        assert_eq!(cut(&["aäbö\n".as_bytes()], 2), [part("a"), part("ä"), part("b"), whole("ö")]);
        assert_eq!(cut(&[b"ab\xc3", b"\xa4c\n"], 3), [part("ab"), whole("äc")]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_invented_whatever_is_refused(
            chunks in proptest::collection::vec(proptest::collection::vec(
                proptest::sample::select(vec![b'a', b'\n', b'\r', 0, 0xc3, 0xa4, 0xff]), 0..40), 0..8),
            refusals: Vec<bool>,
        ) {
            let mut refusals = refusals.into_iter();
            let mut seen = Vec::new();
            let mut cutter = Cutter::default();
            let mut emit = |line: &[u8], more: bool| {
                if refusals.next() == Some(true) {
                    return false;
                }
                seen.extend_from_slice(line);
                if !more {
                    seen.push(b'\n');
                }
                true
            };
            for chunk in &chunks {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let taken = cutter.feed(rest, 5, &mut emit);
                    rest = &rest[taken..];
                }
            }
            while !cutter.finish(&mut emit) {}
            let mut all = chunks.concat();
            if !all.is_empty() && all.last() != Some(&b'\n') {
                all.push(b'\n');
            }
            // A carriage return in front of an end of line goes; at a piece's end it may stay.
            let plain = |bytes: &[u8]| -> Vec<u8> {
                bytes.iter().copied().filter(|byte| *byte != b'\r').collect()
            };
            proptest::prop_assert_eq!(plain(&seen), plain(&all));
        }
    }
}
