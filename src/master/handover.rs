//! What one image of the master leaves for the next over execve(2): a versioned record in sealed
//! memory. Unknown keys are ignored and missing ones have a default, so the next image may be
//! older or newer; children, locks and queues are named by the numbers of descriptors that stay
//! open.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::holder::Former;
use super::upgrade::LastUpgrade;
use super::wishes::Wish;
use crate::policy::notices::SavedDesk;
use crate::policy::supervisor::Supervisor;
use crate::wire::mail::Envelope;
use crate::wire::time::{Timestamp, WallTime};
use crate::wire::worker::Options;

/// The version that this program writes.
pub(super) const VERSION: u32 = 1;

/// The record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Handover {
    /// Of this form.
    pub(super) version: u32,
    /// The process: a record of another one is not for us.
    pub(super) pid: i32,
    /// The boot: timestamps mean nothing in another one.
    pub(super) boot: String,
    /// When the master began.
    pub(super) since: WallTime,
    /// The generation of the upgrade.
    pub(super) generation: u64,
    /// The path that the next program is opened by.
    #[serde(default)]
    pub(super) program: PathBuf,
    /// The run_root, without links: it stays the same while the process lives.
    #[serde(default)]
    pub(super) run_root: PathBuf,
    /// Its folders: run_root, the locks' and state_root, should they not open any more.
    #[serde(default)]
    pub(super) ground: Option<[i32; 3]>,
    /// The lock's descriptor.
    pub(super) lock: i32,
    /// The four ends of the logger's lanes.
    pub(super) lanes: [i32; 4],
    /// The control socket's listener, and its file's device and inode.
    #[serde(default)]
    pub(super) control: Option<(i32, (u64, u64))>,
    /// The logger's process.
    pub(super) logger: Option<i32>,
    /// Each chain's end of its pair.
    pub(super) links: BTreeMap<String, i32>,
    /// The state of all chains.
    pub(super) supervisor: Supervisor,
    /// Outages, pauses, silences, histories.
    pub(super) desk: SavedDesk,
    /// Mails that no spool has confirmed yet.
    #[serde(default)]
    pub(super) mails: Vec<Envelope>,
    /// Mailers at work.
    #[serde(default)]
    pub(super) mailers: Vec<HandedMailer>,
    /// Other short-lived children that are still at work.
    #[serde(default)]
    pub(super) others: Vec<i32>,
    /// Children that were not ours when the master started.
    #[serde(default)]
    pub(super) inherited: Vec<i32>,
    /// Children that runs left and that are kept, by chain.
    #[serde(default)]
    pub(super) kept: BTreeMap<i32, String>,
    /// Strays that are being ended, by the chains that may have left them.
    #[serde(default)]
    pub(super) strays: BTreeMap<String, Vec<i32>>,
    /// All that came up so far.
    #[serde(default)]
    pub(super) seen: Vec<i32>,
    /// Whether the master was started on a terminal.
    #[serde(default)]
    pub(super) had_terminal: bool,
    /// Where chains have their groups.
    #[serde(default)]
    pub(super) cgroups: Option<PathBuf>,
    /// Where chains of earlier masters had theirs.
    #[serde(default)]
    pub(super) old_cgroups: Vec<PathBuf>,
    /// Chains of earlier masters that did not end as they should, and may have left something.
    #[serde(default)]
    pub(super) old_chains: BTreeMap<String, Former>,
    /// The clock tick after which nothing began that is of those masters.
    #[serde(default = "begun")]
    pub(super) old_until: u64,
    /// Whether the master before this one did not end as it should.
    #[serde(default)]
    pub(super) unclean: bool,
    /// Only these chains are replaced; empty: all.
    #[serde(default)]
    pub(super) only: Vec<String>,
    /// One more upgrade that was asked for while this one was checked.
    #[serde(default)]
    pub(super) next: Option<Wish>,
    /// How the last upgrade went, and what refusals were told.
    #[serde(default)]
    pub(super) last_upgrade: Option<LastUpgrade>,
    /// How many upgrades were begun, this one among them.
    #[serde(default)]
    pub(super) upgrades: u64,
    /// Records for the log that were lost.
    #[serde(default)]
    pub(super) log_dropped: u64,
    /// Those of them of which no record in the log tells yet.
    #[serde(default)]
    pub(super) log_untold: u64,
    /// Lines of each chain that could not be written.
    #[serde(default)]
    pub(super) output_lost: BTreeMap<String, u64>,
    /// Pauses that end by themselves.
    #[serde(default)]
    pub(super) pauses: BTreeMap<String, Timestamp>,
    /// What the tasks of workers said of themselves: a process that goes on does not say it again.
    #[serde(default)]
    pub(super) options: BTreeMap<String, BTreeMap<String, Options>>,
}

/// A mailer that goes on over the upgrade: its confirmations are still heard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HandedMailer {
    /// Its process.
    pub(super) pid: i32,
    /// Our end of its pair.
    pub(super) socket: i32,
    /// The mails that it was given.
    pub(super) ids: Vec<String>,
}

/// When this process began; an older program did not say more.
fn begun() -> u64 {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    crate::sys::proc::start_time(me).unwrap_or(0)
}

impl Handover {
    /// Reads a record, as a dry run or for good.
    ///
    /// # Errors
    /// When it is damaged, of an unknown version or for another process.
    pub(super) fn decode(bytes: &[u8]) -> Result<Handover, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |cause: serde_json::Error| format!("the handover is damaged: {cause}");
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(format!(
                "the handover is of version {version}, this program knows {VERSION}"
            ));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|cause| format!("cannot encode the handover: {cause}"))
    }

    /// What is not open is named by no number any more: the next descriptor that is opened would get
    /// that number and be taken for it. So this comes before any other is opened.
    pub(super) fn forget_closed(&mut self, is_open: impl Fn(i32) -> bool) {
        let control = self.control.iter_mut().map(|(listener, _)| listener);
        let numbers = self
            .links
            .values_mut()
            .chain(&mut self.lanes)
            .chain(self.mailers.iter_mut().map(|mailer| &mut mailer.socket))
            .chain(control)
            .chain(self.ground.iter_mut().flatten())
            .chain([&mut self.lock]);
        for number in numbers.filter(|number| !is_open(**number)) {
            *number = -1;
        }
    }

    /// Every descriptor that stays open for the next image.
    pub(super) fn descriptors(&self) -> Vec<i32> {
        let mut all: Vec<i32> = self.links.values().copied().collect();
        all.extend(self.lanes);
        all.extend(self.mailers.iter().map(|mailer| mailer.socket));
        all.extend(self.control.map(|(listener, _)| listener));
        all.extend(self.ground.into_iter().flatten());
        all.push(self.lock);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as the first version wrote it, with what has no default.
    fn record() -> serde_json::Value {
        serde_json::json!({
            "version": VERSION, "pid": 7, "boot": "x", "since": 0, "generation": 3, "lock": 4,
            "lanes": [5, 6, 7, 8], "logger": null, "links": {"a": 9},
            "supervisor": Supervisor::new(), "desk": SavedDesk::default(),
        })
    }

    #[test]
    fn an_older_record_lacks_keys_and_a_newer_one_has_more() {
        let mut newer = record();
        newer["what_is_to_come"] = serde_json::json!({"x": [1, 2]});
        for good in [record(), newer] {
            let read = Handover::decode(good.to_string().as_bytes()).unwrap();
            assert_eq!((read.generation, read.links["a"], read.mails.len()), (3, 9, 0));
            assert_eq!(read.descriptors(), [9, 5, 6, 7, 8, 4]);
        }
    }

    #[test]
    fn another_version_and_a_damaged_record_are_refused_with_the_reason() {
        for version in [VERSION - 1, VERSION + 1, u32::MAX] {
            let mut other = record();
            other["version"] = version.into();
            let refused = Handover::decode(other.to_string().as_bytes()).unwrap_err();
            assert!(refused.contains(&format!("version {version}")), "{refused}");
        }
        let whole = record().to_string().into_bytes();
        for length in 0..whole.len() {
            let refused = Handover::decode(&whole[..length]).unwrap_err();
            assert!(refused.contains("damaged"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            pid in any::<i32>(),
            links in proptest::collection::btree_map(".*", any::<i64>(), 0..5),
        ) {
            prop_assert!(Handover::decode(&bytes).is_err());
            let half = serde_json::json!({"version": VERSION, "pid": pid, "links": links});
            let refused = Handover::decode(half.to_string().as_bytes()).unwrap_err();
            prop_assert!(refused.starts_with("the handover is damaged: "), "{refused}");
        }
    }
}
