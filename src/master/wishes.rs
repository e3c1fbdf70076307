//! What is wanted of the upgrade after the one that is being checked. Requests coalesce: all that
//! want an upgrade become one, all that only want to know become another, and a look never takes
//! the place of an upgrade.

use serde::{Deserialize, Serialize};

use super::control::ConnId;
use crate::wire::control::Wait;

/// What somebody wants of an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    /// Only these are replaced; empty: all.
    #[serde(default)]
    pub(super) chains: Vec<String>,
    /// Faults of the surroundings are accepted.
    #[serde(default)]
    pub(super) force: bool,
    /// Only the check.
    #[serde(skip)]
    pub(super) dry_run: bool,
    /// Who waits for the answer. Connections end at an upgrade.
    #[serde(skip)]
    pub(super) waits: Vec<(ConnId, Wait)>,
}

impl Wish {
    /// One that means both.
    fn join(&mut self, other: Wish) {
        if self.chains.is_empty() || other.chains.is_empty() {
            self.chains.clear();
        } else {
            self.chains.extend(other.chains);
            self.chains.sort_unstable();
            self.chains.dedup();
        }
        // Whoever accepts the faults would have them accepted right after the other's refusal.
        self.force |= other.force;
        self.waits.extend(other.waits);
    }
}

/// At most two: an upgrade and a look.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    upgrade: Option<Wish>,
    /// With the faults of the surroundings accepted, and without: the answers differ.
    looks: [Option<Wish>; 2],
}

impl Wishes {
    pub(super) fn push(&mut self, wish: Wish) {
        let place = match wish.dry_run {
            true => &mut self.looks[usize::from(wish.force)],
            false => &mut self.upgrade,
        };
        match place {
            Some(waiting) => waiting.join(wish),
            None => *place = Some(wish),
        }
    }

    /// An upgrade before any look.
    pub(super) fn pop(&mut self) -> Option<Wish> {
        let [one, other] = &mut self.looks;
        self.upgrade.take().or_else(|| one.take()).or_else(|| other.take())
    }

    /// The upgrade among them, for the image that comes next: looks are asked for again.
    pub(super) fn upgrade(&self) -> Option<&Wish> {
        self.upgrade.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(chains: &[&str], force: bool, dry_run: bool) -> Wish {
        let chains = chains.iter().map(|chain| (*chain).to_owned()).collect();
        Wish { chains, force, dry_run, waits: Vec::new() }
    }

    #[test]
    fn a_look_takes_no_upgrades_place_and_chains_are_joined() {
        let mut wishes = Wishes::default();
        wishes.push(wish(&["b"], false, false));
        wishes.push(wish(&[], false, true));
        wishes.push(wish(&["a", "b"], true, false));
        wishes.push(wish(&["c"], true, true));
        assert_eq!(wishes.upgrade(), Some(&wish(&["a", "b"], true, false)));
        assert_eq!(wishes.pop(), Some(wish(&["a", "b"], true, false)));
        assert_eq!(wishes.pop(), Some(wish(&[], false, true)));
        assert_eq!(wishes.pop(), Some(wish(&["c"], true, true)));
        assert_eq!(wishes.pop(), None);
    }

    #[test]
    fn a_hup_beside_a_reload_of_some_chains_replaces_all() {
        for order in [[vec!["a"], vec![]], [vec![], vec!["a"]]] {
            let mut wishes = Wishes::default();
            order.iter().for_each(|chains| wishes.push(wish(chains, false, false)));
            assert_eq!(wishes.pop(), Some(wish(&[], false, false)));
        }
    }
}
