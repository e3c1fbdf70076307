//! The brain of the master: which chain is started, drained, stopped, killed, and when. It holds
//! no descriptor and reads no clock; events come in with the time, [`Action`]s go out, and the
//! master does them. State × event is one `match` each.

mod reconcile;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use slot::{Doing, Resume, Slot, SlotState, Terms, Wanted};

use crate::config::model::Drain;
use crate::policy::task_loop::after_task;
use crate::wire::time::Timestamp;

/// After a chain's own patience with its run (kill_timeout) that long, and it is killed itself.
pub const MARGIN: Duration = Duration::from_secs(3);

/// How long a process may take from its fork until it is ready, beyond three times the kill_timeout
/// and ten seconds that each of its lock, its group and its marks may be waited for.
const START_PATIENCE: Duration = Duration::from_secs(120);
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// Between two rounds of killing what a dead chain left: what forks needs quick ones, what is in the
/// kernel's hands (state D of proc(5)) seldom ones.
const KILL_ROUND: Duration = Duration::from_millis(200);
const QUICK_ROUNDS: u32 = 10;

fn until_next_round(rounds: u32) -> Duration {
    KILL_ROUND.saturating_mul(1 << rounds.saturating_sub(QUICK_ROUNDS).min(6))
}

/// What the master is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fork the chain's process, then call [`Supervisor::spawned`] or [`Supervisor::cannot_spawn`].
    Spawn {
        /// The chain.
        chain: String,
    },
    /// Send a signal to the chain's process.
    Signal {
        /// The chain.
        chain: String,
        /// Its process, a child that is not yet reaped.
        pid: i32,
        /// signal(7).
        signal: i32,
    },
    /// Kill everything of the chain: control group, process, strays.
    Kill {
        /// The chain.
        chain: String,
    },
    /// End what the dead chain left, then call [`Supervisor::cleared`].
    EndStrays {
        /// The chain.
        chain: String,
    },
    /// Tell the admins: the chain died by itself, or cannot start.
    Failed {
        /// The chain.
        chain: String,
        /// For people.
        what: String,
    },
    /// The chain begins a new generation: what was notified is forgotten.
    NewGeneration {
        /// The chain.
        chain: String,
    },
    /// The chain has ended for good: its pidfile is emptied, its group removed.
    Forget {
        /// The chain.
        chain: String,
    },
}

/// How a chain's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// exit(3) with this code.
    Code(i32),
    /// This signal of signal(7).
    Signal(i32),
}

/// All chains.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Supervisor {
    slots: BTreeMap<String, Slot>,
    #[serde(skip)]
    deadlines: BTreeSet<(Timestamp, String)>,
    /// Chains that wait for the end of others.
    #[serde(skip)]
    waiters: BTreeSet<String>,
    #[serde(skip)]
    actions: Vec<Action>,
    /// The highest generation given so far.
    last_generation: u64,
    /// Nothing has any time left: what comes up from now on is killed at once.
    #[serde(skip)]
    hurried: bool,
}

const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;

impl Supervisor {
    /// No chains.
    pub fn new() -> Supervisor {
        Supervisor::default()
    }

    /// After a re-exec: deadlines and waiters are found again.
    pub fn restored(mut self) -> Supervisor {
        self.deadlines = self
            .slots
            .iter()
            .filter_map(|(name, slot)| Some((slot.state.deadline()?, name.clone())))
            .collect();
        let waiters = self.slots.iter().filter(|(_, slot)| !slot.after.is_empty());
        self.waiters = waiters.map(|(name, _)| name.clone()).collect();
        self
    }

    /// Copies what is kept for long into memory of its own, without the gaps that decoding leaves:
    /// a fork(2) pays for every page. Returns what is to be dropped once all is copied.
    #[must_use]
    pub fn pack(&mut self) -> impl Sized + use<> {
        let packed = self.slots.iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        std::mem::replace(&mut self.slots, packed)
    }

    /// A chain by name.
    pub fn slot(&self, chain: &str) -> Option<&Slot> {
        self.slots.get(chain)
    }

    /// All chains, by name.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), slot))
    }

    /// Whether nothing runs and nothing will.
    pub fn is_idle(&self) -> bool {
        self.slots.values().all(|slot| slot.state == SlotState::Down)
    }

    /// The number of a new generation.
    pub fn begin_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    /// What is to be done, once.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether a chain was reaped whose [`Action::EndStrays`] is yet to be taken.
    #[must_use]
    pub fn ends_strays_next(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::EndStrays { .. }))
    }

    /// When [`Supervisor::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

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

    fn drop_fail_cooldown(&mut self, chain: &str) {
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
    fn drain(&mut self, chain: &str, signal: i32, drain: Drain, now: Timestamp) {
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
    fn stop(&mut self, chain: &str, now: Timestamp) {
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

    /// The chain's process exists.
    pub fn spawned(&mut self, chain: &str, pid: i32, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        slot.generation = slot.next_generation;
        slot.said_leaving = None;
        slot.last_words = None;
        slot.doing = Doing::Unknown;
        slot.kill_rounds = 0;
        slot.terms = slot.next_terms.clone();
        let orphans = slot.terms.kill_timeout.saturating_add(ORPHAN_PATIENCE).saturating_mul(3);
        let deadline = Some(now + orphans.saturating_add(START_PATIENCE));
        self.set_state(chain, SlotState::Starting { pid, deadline }, now);
    }

    /// fork(2) failed.
    pub fn cannot_spawn(&mut self, chain: &str, what: &str, now: Timestamp) {
        let what = what.to_owned();
        self.actions.push(Action::Failed { chain: chain.to_owned(), what: what.clone() });
        let Some(slot) = self.slots.get_mut(chain) else { return };
        slot.last_failure = Some(what);
        // The machine is short of something: never a spin.
        let delay = slot.backoff.next_delay().max(Duration::from_secs(1));
        self.start_if_wanted(chain, delay, now);
    }

    /// The chain said why it cannot start; its exit follows.
    pub fn cannot_start(&mut self, chain: &str, what: &str) {
        if let Some(slot) = self.slots.get_mut(chain) {
            slot.last_words = Some(what.to_owned());
        }
    }

    /// What its surroundings say of the death that [`Supervisor::exited`] is about to tell. The
    /// chain's own words say more.
    pub fn explain(&mut self, chain: &str, reason: ExitReason, why: &str) {
        if let Some(slot) = self.slots.get_mut(chain) {
            slot.last_words.get_or_insert_with(|| format!("{}; {why}", describe(reason)));
        }
    }

    /// The chain is set up.
    pub fn ready(&mut self, chain: &str, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        slot.was_ready = true;
        if let SlotState::Starting { pid, .. } = slot.state {
            self.set_state(chain, SlotState::Up { pid }, now);
        }
    }

    /// The chain began a run.
    pub fn run_started(&mut self, chain: &str, task: &str, at: Timestamp) {
        if let Some(slot) = self.slots.get_mut(chain) {
            slot.doing = Doing::Running { task: task.to_owned(), since: at };
        }
    }

    /// The chain ended a run; `completed` unless it was interrupted.
    pub fn run_ended(&mut self, chain: &str, completed: bool) {
        if let Some(slot) = self.slots.get_mut(chain)
            && completed
        {
            slot.last_failure = None;
            slot.backoff.reset();
        }
    }

    /// The chain waits.
    pub fn cooling(&mut self, chain: &str, resume: Resume, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        slot.doing = Doing::Cooling {
            next: resume.next.clone(),
            until: resume.until.unwrap_or(now),
            after_failure: resume.after_failure,
            since: now,
        };
        slot.resume = Some(resume);
    }

    /// The chain says that it leaves at a run boundary because of `signal`.
    pub fn leaving(&mut self, chain: &str, resume: Resume, signal: i32) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        slot.resume = Some(resume);
        slot.said_leaving = Some(signal);
    }

    /// The chain's process was reaped, after its last reports were read.
    pub fn exited(&mut self, chain: &str, reason: ExitReason, now: Timestamp) {
        let hurried = self.hurried;
        let Some(slot) = self.slots.get_mut(chain) else { return };
        let said = slot.said_leaving.take();
        let asked = matches!(slot.state, SlotState::Draining { .. } | SlotState::Stopping { .. });
        // Before it is ready it leaves without a word.
        let may_leave = said.is_some_and(|signal| signal > 0)
            || matches!(slot.state, SlotState::Starting { .. });
        let orderly = reason == ExitReason::Code(0) && may_leave;
        if let Doing::Running { task, .. } = &slot.doing
            && said.is_none()
        {
            // It died in mid-run: the order goes on after that task, which is what an interrupted
            // run does, too. The name is resolved when the next process starts.
            slot.resume =
                Some(Resume { next: after_task(task), until: None, after_failure: false });
        }
        slot.doing = Doing::Unknown;
        if said == Some(SIGHUP) && slot.next_generation == slot.generation {
            // Somebody sent the chain itself a HUP: a new generation of this chain.
            self.last_generation += 1;
            slot.next_generation = self.last_generation;
            self.actions.push(Action::NewGeneration { chain: chain.to_owned() });
        }
        if asked {
            slot.backoff.reset();
        } else if !orderly {
            let what = slot.last_words.take().unwrap_or_else(|| describe(reason));
            slot.last_failure = Some(what.clone());
            self.actions.push(Action::Failed { chain: chain.to_owned(), what });
        }
        // Whoever tells it to leave again and again does not make the master fork as often.
        let delay = if asked { Duration::ZERO } else { slot.backoff.next_delay() };
        let kill_at = match slot.state {
            _ if hurried => now,
            // What it left was asked when the chain was.
            SlotState::Stopping { kill_at, .. } => kill_at.min(now + slot.terms.kill_timeout),
            _ => now + slot.terms.kill_timeout,
        };
        self.set_state(chain, SlotState::Clearing { kill_at, respawn_at: now + delay }, now);
        self.actions.push(Action::EndStrays { chain: chain.to_owned() });
    }

    /// The chain's own user stopped its process (SIGSTOP): it is killed, and told when it has died.
    pub fn stopped(&mut self, chain: &str) {
        if let Some(slot) = self.slots.get_mut(chain) {
            slot.last_words = Some("its process was stopped by a signal".to_owned());
            self.actions.push(Action::Kill { chain: chain.to_owned() });
        }
    }

    /// Nothing that the dead chain started is left.
    pub fn cleared(&mut self, chain: &str, now: Timestamp) {
        if let Some(Slot { state: SlotState::Clearing { respawn_at, .. }, .. }) =
            self.slots.get(chain)
        {
            let delay = respawn_at.since(now);
            self.start_if_wanted(chain, delay, now);
            self.release(chain, now);
        }
    }

    /// Something may be due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((at, chain)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            self.deadlines.remove(&(at, chain.clone()));
            match self.slots.get(&chain).map(|slot| slot.state.clone()) {
                Some(SlotState::Backoff { .. }) => {
                    self.actions.push(Action::Spawn { chain });
                }
                Some(SlotState::Draining { .. }) => self.stop(&chain, now),
                Some(SlotState::Starting { pid, .. }) => {
                    let what = "cannot start: it was not ready in time".to_owned();
                    self.cannot_start(&chain, &what);
                    self.actions.push(Action::Kill { chain: chain.clone() });
                    let deadline = Some(now + MARGIN);
                    self.set_state(&chain, SlotState::Starting { pid, deadline }, now);
                }
                Some(SlotState::Stopping { pid, .. }) => {
                    let kill_at = now + MARGIN;
                    self.actions.push(Action::Kill { chain: chain.clone() });
                    self.set_state(&chain, SlotState::Stopping { pid, kill_at }, now);
                }
                Some(SlotState::Clearing { respawn_at, .. }) => {
                    self.actions.push(Action::Kill { chain: chain.clone() });
                    let rounds = self.slots.get_mut(&chain).map_or(0, |slot| {
                        slot.kill_rounds = slot.kill_rounds.saturating_add(1);
                        slot.kill_rounds
                    });
                    let kill_at = now + until_next_round(rounds);
                    self.set_state(&chain, SlotState::Clearing { kill_at, respawn_at }, now);
                }
                Some(SlotState::Down | SlotState::Up { .. }) | None => {}
            }
        }
    }

    /// A chain without a process either gets one after `delay`, or rests.
    fn start_if_wanted(&mut self, chain: &str, delay: Duration, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        if slot.wanted != Wanted::Running {
            self.rest(chain, now);
            return;
        }
        if slot.next_generation > slot.generation {
            slot.generation = slot.next_generation;
            self.drop_fail_cooldown(chain);
        }
        let waits = self.slots.get(chain).is_some_and(|slot| !slot.after.is_empty());
        let state = if waits { SlotState::Down } else { SlotState::Backoff { until: now + delay } };
        self.set_state(chain, state, now);
    }

    /// No process, and none is wanted.
    fn rest(&mut self, chain: &str, now: Timestamp) {
        let gone = self.slots.get(chain).is_some_and(|slot| slot.wanted == Wanted::Gone);
        self.set_state(chain, SlotState::Down, now);
        if !gone {
            return;
        }
        self.slots.remove(chain);
        self.actions.push(Action::Forget { chain: chain.to_owned() });
        self.release(chain, now);
    }

    /// Nothing of the chain's old process is left: who waited for it waits no longer.
    fn release(&mut self, chain: &str, now: Timestamp) {
        let (slots, mut free) = (&mut self.slots, Vec::new());
        self.waiters.retain(|name| {
            let Some(slot) = slots.get_mut(name) else { return false };
            slot.after.retain(|after| after != chain);
            if slot.after.is_empty() && slot.state == SlotState::Down {
                free.push(name.clone());
            }
            !slot.after.is_empty()
        });
        for name in free {
            self.start_if_wanted(&name, Duration::ZERO, now);
        }
    }

    fn set_state(&mut self, chain: &str, state: SlotState, since: Timestamp) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        if let Some(at) = slot.state.deadline() {
            self.deadlines.remove(&(at, chain.to_owned()));
        }
        if let Some(at) = state.deadline() {
            self.deadlines.insert((at, chain.to_owned()));
        }
        slot.state = state;
        slot.since = since;
    }
}

fn sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

fn describe(reason: ExitReason) -> String {
    match reason {
        ExitReason::Code(code) => format!("its process exited with status {code}"),
        ExitReason::Signal(signal) => format!("its process was killed by signal {signal}"),
    }
}
