//! What is wanted of the chains: by an operator, by an upgrade, by the master's own end.

use std::time::Duration;

use super::{Action, KILL_ROUND, MARGIN, SIGHUP, SIGQUIT, SIGTERM, SlotState, Supervisor, Wanted};
use crate::config::model::Drain;
use crate::wire::time::Timestamp;

impl Supervisor {
    /// The chain is replaced at its run boundary by one of a new generation.
    pub fn replace(
        &mut self,
        chain: &str,
        generation: u64,
        signal: i32,
        drain: Drain,
        now: Timestamp,
    ) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        slot.next_generation = generation;
        slot.backoff.reset();
        if slot.state.pid().is_none() {
            slot.generation = generation;
            self.drop_fail_cooldown(chain);
            return self.wait_no_longer(chain, now);
        }
        self.drain(chain, signal, drain, now);
    }

    /// A chain without a process waits for nothing but what its last one left.
    fn wait_no_longer(&mut self, chain: &str, now: Timestamp) {
        match self.slots.get(chain).map(|slot| slot.state.clone()) {
            Some(SlotState::Backoff { .. }) => {
                self.set_state(chain, SlotState::Backoff { until: now }, now);
            }
            Some(SlotState::Clearing { kill_at, .. }) => {
                self.set_state(chain, SlotState::Clearing { kill_at, respawn_at: now }, now);
            }
            _ => {}
        }
    }

    pub(super) fn drop_fail_cooldown(&mut self, chain: &str) {
        if let Some(resume) = self.slots.get_mut(chain).and_then(|slot| slot.resume.as_mut())
            && resume.after_failure
        {
            resume.until = None;
        }
    }

    /// A chain that goes stays on its way, whatever an operator wants of it.
    fn set_wanted(&mut self, chain: &str, wanted: Wanted) {
        if let Some(slot) = self.slots.get_mut(chain).filter(|slot| slot.wanted != Wanted::Gone) {
            slot.wanted = wanted;
        }
    }

    /// Asks a chain to leave after its run; what was started harder is not softened.
    pub(super) fn drain(&mut self, chain: &str, signal: i32, drain: Drain, now: Timestamp) {
        let deadline = match drain {
            Drain::Forever => None,
            Drain::Within(patience) => Some(now + patience),
        };
        let Some(slot) = self.slots.get(chain) else { return };
        match slot.state {
            SlotState::Up { pid } => {
                self.actions.push(Action::Signal { chain: chain.to_owned(), pid, signal });
                self.set_state(chain, SlotState::Draining { pid, deadline }, now);
            }
            // It has no run to finish: it is waited for no longer than before.
            SlotState::Starting { pid, deadline: known } => {
                self.actions.push(Action::Signal { chain: chain.to_owned(), pid, signal });
                let deadline = sooner(known, deadline);
                self.set_state(chain, SlotState::Draining { pid, deadline }, now);
            }
            SlotState::Draining { pid, deadline: known } => {
                let deadline = sooner(known, deadline);
                self.set_state(chain, SlotState::Draining { pid, deadline }, now);
            }
            SlotState::Backoff { .. } if slot.wanted != Wanted::Running => {
                self.rest(chain, now);
            }
            SlotState::Down if slot.wanted == Wanted::Gone => self.rest(chain, now),
            SlotState::Down
            | SlotState::Backoff { .. }
            | SlotState::Stopping { .. }
            | SlotState::Clearing { .. } => {}
        }
    }

    /// Tells a chain to end its run and leave.
    pub(super) fn stop(&mut self, chain: &str, now: Timestamp) {
        let Some(slot) = self.slots.get(chain) else { return };
        match slot.state {
            SlotState::Starting { pid, .. }
            | SlotState::Up { pid }
            | SlotState::Draining { pid, .. } => {
                let signal = SIGTERM;
                self.actions.push(Action::Signal { chain: chain.to_owned(), pid, signal });
                let kill_at = now + slot.terms.kill_timeout + MARGIN;
                self.set_state(chain, SlotState::Stopping { pid, kill_at }, now);
            }
            SlotState::Backoff { .. } if slot.wanted != Wanted::Running => self.rest(chain, now),
            SlotState::Down if slot.wanted == Wanted::Gone => self.rest(chain, now),
            SlotState::Down
            | SlotState::Backoff { .. }
            | SlotState::Stopping { .. }
            | SlotState::Clearing { .. } => {}
        }
    }

    /// `stop CHAIN`: after the run, or `at_once`.
    pub fn stop_chain(&mut self, chain: &str, at_once: bool, now: Timestamp) {
        self.set_wanted(chain, Wanted::Stopped);
        if at_once {
            self.stop(chain, now);
        } else {
            self.drain(chain, SIGQUIT, Drain::Forever, now);
        }
    }

    /// `pause CHAIN`: its current run is finished.
    pub fn pause_chain(&mut self, chain: &str, now: Timestamp) {
        self.set_wanted(chain, Wanted::Paused);
        self.drain(chain, SIGQUIT, Drain::Forever, now);
    }

    /// `start CHAIN` and `resume CHAIN`.
    pub fn start_chain(&mut self, chain: &str, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        if slot.wanted == Wanted::Gone {
            return;
        }
        slot.wanted = Wanted::Running;
        slot.backoff.reset();
        match slot.state {
            SlotState::Down => self.start_if_wanted(chain, Duration::ZERO, now),
            _ => self.wait_no_longer(chain, now),
        }
    }

    /// `restart CHAIN`: a new generation of this chain alone, after its run or `at_once`.
    pub fn restart_chain(&mut self, chain: &str, at_once: bool, now: Timestamp) {
        let generation = self.begin_generation();
        let Some(slot) = self.slots.get_mut(chain) else { return };
        if slot.wanted == Wanted::Gone {
            return;
        }
        slot.wanted = Wanted::Running;
        if slot.state == SlotState::Down {
            slot.next_generation = generation;
            slot.generation = generation;
            self.drop_fail_cooldown(chain);
            self.start_if_wanted(chain, Duration::ZERO, now);
        } else {
            self.replace(chain, generation, SIGHUP, Drain::Forever, now);
            if at_once {
                self.stop(chain, now);
            }
        }
        self.actions.push(Action::NewGeneration { chain: chain.to_owned() });
    }

    /// The master ends: every chain drains within its own limit, or ends its run `at_once`.
    pub fn shut_down(&mut self, at_once: bool, now: Timestamp) {
        let patience: Vec<(String, Duration)> = self
            .slots
            .iter()
            .map(|(name, slot)| (name.clone(), slot.terms.drain_timeout))
            .collect();
        for (name, drain) in patience {
            self.set_wanted(&name, Wanted::Gone);
            if at_once {
                self.stop(&name, now);
            } else {
                self.drain(&name, SIGQUIT, Drain::Within(drain), now);
            }
        }
    }

    /// No patience is left: everything is killed, and what comes up later, too.
    pub fn kill_all(&mut self, now: Timestamp) {
        self.hurried = true;
        let names: Vec<String> = self.slots.keys().cloned().collect();
        for chain in names {
            self.set_wanted(&chain, Wanted::Gone);
            let state = match self.slots.get(&chain).map(|slot| &slot.state) {
                Some(SlotState::Backoff { .. } | SlotState::Down) | None => None,
                Some(SlotState::Clearing { respawn_at, .. }) => {
                    Some(SlotState::Clearing { kill_at: now + KILL_ROUND, respawn_at: *respawn_at })
                }
                Some(
                    SlotState::Starting { pid, .. }
                    | SlotState::Up { pid }
                    | SlotState::Draining { pid, .. }
                    | SlotState::Stopping { pid, .. },
                ) => Some(SlotState::Stopping { pid: *pid, kill_at: now + MARGIN }),
            };
            match state {
                Some(state) => {
                    self.actions.push(Action::Kill { chain: chain.clone() });
                    self.set_state(&chain, state, now);
                }
                None => self.rest(&chain, now),
            }
        }
    }
}

fn sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}
