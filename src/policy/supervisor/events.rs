//! What happens to the chains' processes, and what comes of it.

use std::time::Duration;

use super::{
    Action, Doing, ExitReason, KILL_ROUND, MARGIN, Resume, SIGHUP, Slot, SlotState, Supervisor,
};
use crate::policy::task_loop::after_task;
use crate::wire::time::Timestamp;

/// How long a process may take from its fork until it is ready, beyond three times the kill_timeout
/// and ten seconds that each of its lock, its group and its marks may be waited for.
const START_PATIENCE: Duration = Duration::from_secs(120);
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// After so many rounds they get rarer: what forks needs quick ones, what is in the kernel's hands
/// (state D of proc(5)) seldom ones.
const QUICK_ROUNDS: u32 = 10;

impl Supervisor {
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
}

fn until_next_round(rounds: u32) -> Duration {
    KILL_ROUND.saturating_mul(1 << rounds.saturating_sub(QUICK_ROUNDS).min(6))
}

fn describe(reason: ExitReason) -> String {
    match reason {
        ExitReason::Code(code) => format!("its process exited with status {code}"),
        ExitReason::Signal(signal) => format!("its process was killed by signal {signal}"),
    }
}
