//! The brain of the master: which chain is started, drained, stopped, killed, and when. It holds
//! no descriptor and reads no clock; events come in with the time, [`Action`]s go out, and the
//! master does them. State × event is one `match` each.

mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use slot::{Doing, Resume, Slot, SlotState, Wanted};

use crate::config::model::{Chain, Drain};
use crate::policy::task_loop::after_task;
use crate::wire::time::Timestamp;

/// After a chain's own patience with its run (kill_timeout) that long, and it is killed itself.
pub const MARGIN: Duration = Duration::from_secs(3);

/// Between two rounds of killing what a dead chain left.
const KILL_ROUND: Duration = Duration::from_millis(200);

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
    #[serde(skip)]
    actions: Vec<Action>,
    /// The highest generation given so far.
    last_generation: u64,
}

const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;

impl Supervisor {
    /// No chains.
    pub fn new() -> Supervisor {
        Supervisor::default()
    }

    /// After a re-exec: the deadlines are found again.
    pub fn restored(mut self) -> Supervisor {
        self.deadlines = self
            .slots
            .iter()
            .filter_map(|(name, slot)| Some((slot.state.deadline()?, name.clone())))
            .collect();
        self
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

    /// When [`Supervisor::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Makes the chains those of `chains`, by mark and sweep: the ones that are gone drain and are
    /// forgotten, new ones start, each other one drains and is replaced in `generation`.
    /// `after` names for a new chain the removed ones whose commands it shares; with `only`, of
    /// the chains that stay just those are replaced.
    pub fn reconcile(
        &mut self,
        chains: &[Chain],
        after: &BTreeMap<String, Vec<String>>,
        drains: &BTreeMap<String, Drain>,
        only: &[String],
        generation: u64,
        now: Timestamp,
    ) {
        let names: BTreeSet<&str> = chains.iter().map(|chain| chain.name.as_str()).collect();
        let known: Vec<String> = self.slots.keys().cloned().collect();
        for name in known {
            let drain = drains.get(&name).copied().unwrap_or(Drain::Forever);
            if names.contains(name.as_str()) {
                if let Some(slot) = self.slots.get_mut(&name)
                    && slot.wanted == Wanted::Gone
                {
                    slot.wanted = Wanted::Running;
                }
                if only.is_empty() || only.contains(&name) {
                    self.replace(&name, generation, SIGHUP, drain, now);
                }
            } else {
                self.set_wanted(&name, Wanted::Gone);
                self.drain(&name, SIGQUIT, drain, now);
            }
        }
        for chain in chains {
            if self.slots.contains_key(&chain.name) {
                continue;
            }
            let after: Vec<String> = after.get(&chain.name).cloned().unwrap_or_default();
            let after: Vec<String> =
                after.into_iter().filter(|name| self.slots.contains_key(name)).collect();
            let slot = Slot {
                state: SlotState::Down,
                since: now,
                wanted: Wanted::Running,
                generation,
                doing: Doing::Unknown,
                resume: None,
                backoff: crate::policy::backoff::Backoff::default(),
                next_generation: generation,
                had_process: false,
                said_leaving: None,
                last_words: None,
                last_failure: None,
                after,
            };
            self.slots.insert(chain.name.clone(), slot);
            self.start_if_wanted(&chain.name, Duration::ZERO, now);
        }
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
            if let Some(Slot { state: SlotState::Backoff { .. }, .. }) = self.slots.get(chain) {
                self.set_state(chain, SlotState::Backoff { until: now }, now);
            }
            return;
        }
        self.drain(chain, signal, drain, now);
    }

    fn drop_fail_cooldown(&mut self, chain: &str) {
        if let Some(resume) = self.slots.get_mut(chain).and_then(|slot| slot.resume.as_mut())
            && resume.after_failure
        {
            resume.until = None;
        }
    }

    fn set_wanted(&mut self, chain: &str, wanted: Wanted) {
        if let Some(slot) = self.slots.get_mut(chain) {
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
            SlotState::Starting { pid } | SlotState::Up { pid } => {
                self.actions.push(Action::Signal { chain: chain.to_owned(), pid, signal });
                self.set_state(chain, SlotState::Draining { pid, deadline }, now);
            }
            SlotState::Draining { pid, deadline: known } => {
                let sooner = match (known, deadline) {
                    (Some(known), Some(new)) => Some(known.min(new)),
                    (known, new) => known.or(new),
                };
                self.set_state(chain, SlotState::Draining { pid, deadline: sooner }, now);
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
    fn stop(&mut self, chain: &str, kill_timeout: Duration, now: Timestamp) {
        let Some(slot) = self.slots.get(chain) else { return };
        match slot.state {
            SlotState::Starting { pid }
            | SlotState::Up { pid }
            | SlotState::Draining { pid, .. } => {
                let signal = SIGTERM;
                self.actions.push(Action::Signal { chain: chain.to_owned(), pid, signal });
                let kill_at = now + kill_timeout + MARGIN;
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

    /// `stop CHAIN`: after the run, or at once with `now_not_later`.
    pub fn stop_chain(&mut self, chain: &str, kill_timeout: Option<Duration>, now: Timestamp) {
        self.set_wanted(chain, Wanted::Stopped);
        match kill_timeout {
            Some(kill_timeout) => self.stop(chain, kill_timeout, now),
            None => self.drain(chain, SIGQUIT, Drain::Forever, now),
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
            SlotState::Down | SlotState::Backoff { .. } => {
                self.start_if_wanted(chain, Duration::ZERO, now);
            }
            _ => {}
        }
    }

    /// `restart CHAIN`: a new generation of this chain alone.
    pub fn restart_chain(&mut self, chain: &str, kill_timeout: Option<Duration>, now: Timestamp) {
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
            if let Some(kill_timeout) = kill_timeout {
                self.stop(chain, kill_timeout, now);
            }
        }
        self.actions.push(Action::NewGeneration { chain: chain.to_owned() });
    }

    /// The master ends: every chain drains within its own limit of `drains`, or with `None` ends
    /// its run now. Kill timeouts are by chain, too.
    pub fn shut_down(
        &mut self,
        patience: &dyn Fn(&str) -> (Option<Duration>, Duration),
        now: Timestamp,
    ) {
        let names: Vec<String> = self.slots.keys().cloned().collect();
        for name in names {
            self.set_wanted(&name, Wanted::Gone);
            match patience(&name) {
                (Some(drain), _) => self.drain(&name, SIGQUIT, Drain::Within(drain), now),
                (None, kill_timeout) => self.stop(&name, kill_timeout, now),
            }
        }
    }

    /// No patience is left: everything is killed.
    pub fn kill_all(&mut self, now: Timestamp) {
        let names: Vec<String> = self.slots.keys().cloned().collect();
        for name in names {
            self.set_wanted(&name, Wanted::Gone);
            match self.slots.get(&name).map(|slot| slot.state.clone()) {
                Some(SlotState::Backoff { .. } | SlotState::Down) => self.rest(&name, now),
                Some(_) => self.actions.push(Action::Kill { chain: name }),
                None => {}
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
        slot.had_process = true;
        self.set_state(chain, SlotState::Starting { pid }, now);
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

    /// The chain is set up.
    pub fn ready(&mut self, chain: &str, now: Timestamp) {
        if let Some(Slot { state: SlotState::Starting { pid }, .. }) = self.slots.get(chain) {
            let pid = *pid;
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
    pub fn exited(
        &mut self,
        chain: &str,
        reason: ExitReason,
        kill_timeout: Duration,
        now: Timestamp,
    ) {
        let Some(slot) = self.slots.get_mut(chain) else { return };
        let said = slot.said_leaving.take();
        let asked = matches!(slot.state, SlotState::Draining { .. } | SlotState::Stopping { .. });
        let orderly =
            reason == ExitReason::Code(0) && (said.is_some_and(|signal| signal > 0) || asked);
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
        if orderly || asked {
            slot.backoff.reset();
        } else {
            let what = slot.last_words.take().unwrap_or_else(|| describe(reason));
            slot.last_failure = Some(what.clone());
            self.actions.push(Action::Failed { chain: chain.to_owned(), what });
        }
        let delay = if orderly || asked { Duration::ZERO } else { slot.backoff.next_delay() };
        let clearing = SlotState::Clearing { kill_at: now + kill_timeout, respawn_at: now + delay };
        self.set_state(chain, clearing, now);
        self.actions.push(Action::EndStrays { chain: chain.to_owned() });
    }

    /// The chain's own user stopped its process (SIGSTOP): it is replaced.
    pub fn stopped(&mut self, chain: &str) {
        let what = "its process was stopped by a signal".to_owned();
        self.actions.push(Action::Failed { chain: chain.to_owned(), what });
        self.actions.push(Action::Kill { chain: chain.to_owned() });
    }

    /// Nothing that the dead chain started is left.
    pub fn cleared(&mut self, chain: &str, now: Timestamp) {
        if let Some(Slot { state: SlotState::Clearing { respawn_at, .. }, .. }) =
            self.slots.get(chain)
        {
            let delay = respawn_at.since(now);
            self.start_if_wanted(chain, delay, now);
        }
    }

    /// Something may be due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, kill_timeout: &dyn Fn(&str) -> Duration, now: Timestamp) {
        while let Some((at, chain)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            self.deadlines.remove(&(at, chain.clone()));
            match self.slots.get(&chain).map(|slot| slot.state.clone()) {
                Some(SlotState::Backoff { .. }) => {
                    self.actions.push(Action::Spawn { chain });
                }
                Some(SlotState::Draining { .. }) => self.stop(&chain, kill_timeout(&chain), now),
                Some(SlotState::Stopping { pid, .. }) => {
                    let kill_at = now + MARGIN;
                    self.actions.push(Action::Kill { chain: chain.clone() });
                    self.set_state(&chain, SlotState::Stopping { pid, kill_at }, now);
                }
                Some(SlotState::Clearing { respawn_at, .. }) => {
                    self.actions.push(Action::Kill { chain: chain.clone() });
                    let kill_at = now + KILL_ROUND;
                    self.set_state(&chain, SlotState::Clearing { kill_at, respawn_at }, now);
                }
                Some(SlotState::Down | SlotState::Starting { .. } | SlotState::Up { .. })
                | None => {}
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
        let waiting: Vec<String> = self
            .slots
            .iter_mut()
            .filter_map(|(name, slot)| {
                let waited = slot.after.iter().any(|after| after == chain);
                slot.after.retain(|after| after != chain);
                (waited && slot.after.is_empty() && slot.state == SlotState::Down)
                    .then(|| name.clone())
            })
            .collect();
        for name in waiting {
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

fn describe(reason: ExitReason) -> String {
    match reason {
        ExitReason::Code(code) => format!("its process exited with status {code}"),
        ExitReason::Signal(signal) => format!("its process was killed by signal {signal}"),
    }
}
