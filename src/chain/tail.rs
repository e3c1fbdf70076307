//! The last bytes of a stream, exact to the byte, in memory that does not grow with what a run says.

use std::collections::VecDeque;

/// Bytes of a stream that are kept: what the identity of a failure is looked for in.
pub(super) const TAIL: usize = 16 * 1024;

/// A window of [`TAIL`] bytes.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<u8>);

impl Tail {
    /// Takes note of the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let keep = &bytes[bytes.len().saturating_sub(TAIL)..];
        let surplus = (self.0.len() + keep.len()).saturating_sub(TAIL);
        self.0.drain(..surplus);
        self.0.extend(keep);
    }

    /// Forgets what was kept.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What was kept; the window is empty then.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_holds_exactly_the_last_bytes_however_they_came(
            pieces in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..9000), 0..12)
        ) {
            let mut tail = Tail::default();
            for piece in &pieces {
                tail.push(piece);
            }
            let all = pieces.concat();
            proptest::prop_assert_eq!(&tail.take()[..], &all[all.len().saturating_sub(TAIL)..]);
            proptest::prop_assert!(tail.take().is_empty());
        }
    }
}
