//! What `leftovers: Keep` keeps, in the chain's lock file: written before the next run begins. Who
//! comes after a dead chain, under this master or the next one, reads there what was left by runs
//! that had ended, and ends everything else: a run whose chain died in it is no leftover.
//!
//! A process is named by its number, its start time and the boot, so a number that was given to
//! another one since names nothing. A damaged record names nothing, too.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};

use serde::{Deserialize, Serialize};

use crate::sys::fork::Pid;
use crate::sys::{clock, proc};

/// The largest record that is read, in bytes.
pub(crate) const MOST: u64 = 1 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    boot: String,
    /// Number and start time (proc_pid_stat(5)).
    #[serde(default)]
    kept: Vec<(Pid, u64)>,
}

/// The processes that a lock file names and that still live.
pub(crate) fn living(text: &[u8]) -> BTreeSet<Pid> {
    let record: Record = serde_json::from_slice(text).unwrap_or_default();
    if record.boot != clock::boot_id() {
        return BTreeSet::new();
    }
    let lives = |(pid, start): (Pid, u64)| (proc::start_time(pid) == Some(start)).then_some(pid);
    record.kept.into_iter().filter_map(lives).collect()
}

/// As [`living`], through the descriptor that holds the lock: another one's end would drop it.
pub(super) fn read(mut lock: &File) -> BTreeSet<Pid> {
    let mut text = Vec::new();
    match lock.rewind().and_then(|()| lock.take(MOST).read_to_end(&mut text)) {
        Ok(_) => living(&text),
        Err(_) => BTreeSet::new(),
    }
}

/// Writes down which processes are kept.
///
/// # Errors
/// When the disk is full; what was written before is lost then.
pub(super) fn write(mut lock: &File, pids: &BTreeSet<Pid>) -> io::Result<()> {
    let kept = pids.iter().filter_map(|pid| Some((*pid, proc::start_time(*pid)?))).collect();
    let text = serde_json::to_vec(&Record { boot: clock::boot_id(), kept })?;
    lock.rewind()?;
    lock.set_len(0)?;
    lock.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_still_lives_under_its_own_start_time_is_kept() {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let file = tempfile::tempfile().expect("a file");
        write(&file, &BTreeSet::from([me])).expect("written");
        assert_eq!(read(&file), BTreeSet::from([me]));
        let start = proc::start_time(me).unwrap_or(0);
        let text =
            |boot: &str, start: u64| format!(r#"{{"boot":"{boot}","kept":[[{me},{start}]]}}"#);
        let boot = clock::boot_id();
        assert_eq!(living(text(&boot, start).as_bytes()).len(), 1);
        assert_eq!(living(text(&boot, start + 1).as_bytes()).len(), 0);
        assert_eq!(living(text("another", start).as_bytes()).len(), 0);
        assert_eq!(living(&text(&boot, start).as_bytes()[..20]).len(), 0);
        assert_eq!(living(b"").len(), 0);
    }
}
