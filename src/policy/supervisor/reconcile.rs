//! Mark and sweep: from the chains that are to the chains of a new configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{SIGHUP, SIGQUIT, Slot, SlotState, Supervisor, Terms, Wanted};
use crate::config::model::{Chain, Command};
use crate::wire::time::Timestamp;

impl Supervisor {
    /// Makes the chains those of `chains`: the ones that are gone drain and are forgotten, new ones
    /// start, each other one drains and is replaced in `generation`. With `only`, of the chains
    /// that stay just those are replaced.
    ///
    /// A new chain with a command that left another one starts when the process that may still run
    /// that command has ended, however many upgrades ago it left.
    pub fn reconcile(
        &mut self,
        chains: &[Chain],
        only: &[String],
        generation: u64,
        now: Timestamp,
    ) {
        let terms: BTreeMap<&str, Terms> =
            chains.iter().map(|chain| (chain.name.as_str(), Terms::from(chain))).collect();
        let after = self.commands_that_left(&terms);
        let known: Vec<String> = self.slots.keys().cloned().collect();
        for name in known {
            let Some(slot) = self.slots.get_mut(&name) else { continue };
            let drain = slot.terms.upgrade_drain;
            match terms.get(name.as_str()) {
                Some(terms) => {
                    slot.next_terms = terms.clone();
                    if slot.wanted == Wanted::Gone {
                        slot.wanted = Wanted::Running;
                    }
                    if only.is_empty() || only.contains(&name) {
                        self.replace(&name, generation, SIGHUP, drain, now);
                    }
                }
                None => {
                    slot.wanted = Wanted::Gone;
                    self.drain(&name, SIGQUIT, drain, now);
                }
            }
        }
        for (name, terms) in terms {
            let after = waits_for(&terms, &after);
            match self.slots.get_mut(name) {
                Some(slot) if slot.after.is_empty() => {}
                // It still waits: for what it would wait for if it were new.
                Some(slot) => {
                    slot.after = after;
                    self.waiters.insert(name.to_owned());
                    if slot.after.is_empty() && slot.state == SlotState::Down {
                        self.start_if_wanted(name, Duration::ZERO, now);
                    }
                }
                None => {
                    if !after.is_empty() {
                        self.waiters.insert(name.to_owned());
                    }
                    let slot = Slot::new(terms, after, generation, now);
                    self.slots.insert(name.to_owned(), slot);
                    self.start_if_wanted(name, Duration::ZERO, now);
                }
            }
        }
    }

    /// The commands that a chain's process may still run and that its new configuration does not
    /// have, with the names of those chains.
    fn commands_that_left(
        &self,
        new: &BTreeMap<&str, Terms>,
    ) -> BTreeMap<Command, BTreeSet<String>> {
        let lives = |slot: &Slot| {
            slot.state.pid().is_some() || matches!(slot.state, SlotState::Clearing { .. })
        };
        let mut left: BTreeMap<Command, BTreeSet<String>> = BTreeMap::new();
        for (name, slot) in self.slots.iter().filter(|(_, slot)| lives(slot)) {
            let stays = new.get(name.as_str()).map(|terms| &terms.commands);
            for command in &slot.terms.commands {
                if stays.is_none_or(|stays| !stays.contains(command)) {
                    left.entry(command.clone()).or_default().insert(name.clone());
                }
            }
        }
        left
    }
}

fn waits_for(terms: &Terms, left: &BTreeMap<Command, BTreeSet<String>>) -> Vec<String> {
    let chains = terms.commands.iter().filter_map(|command| left.get(command)).flatten();
    chains.collect::<BTreeSet<_>>().into_iter().cloned().collect()
}
