//! The supervisor on a virtual clock with a world that is against it: any order of deaths, orders,
//! upgrades, failed forks and things left behind. The bytes say what happens next.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use runner::config::model::Chain;
use runner::policy::supervisor::{Action, ExitReason, Resume, SlotState, Supervisor, Wanted};
use runner::wire::time::Timestamp;

use super::configuration::load;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The chains whose bit is set.
fn chains(set: u8) -> Vec<Chain> {
    static ALL: OnceLock<Vec<Chain>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let chains =
            NAMES.map(|name| format!("(name: {name:?}, tasks: [(name: \"t\", sh: \"true\")])"));
        let text = format!("(defaults: (user: \"bin\"), chains: [{}])", chains.join(","));
        load(text.as_bytes()).checked.expect("a configuration").config.chains
    });
    let wanted = |(place, chain): (usize, &Chain)| (set >> place & 1 == 1).then(|| chain.clone());
    all.iter().enumerate().filter_map(wanted).collect()
}

/// What really is: the master's part and the processes'.
struct World {
    supervisor: Supervisor,
    now: Timestamp,
    /// The living process of each chain, and whether it was asked to leave.
    living: BTreeMap<String, (i32, bool)>,
    /// Chains whose dead process left something, until that is gone.
    strays: BTreeMap<String, bool>,
    /// For a new chain, the removed ones that must have ended first.
    after: BTreeMap<String, Vec<String>>,
    next_pid: i32,
    /// Forks fail.
    no_fork: bool,
    ending: bool,
    generations: BTreeMap<String, u64>,
}

/// Never two processes of one chain, never one beside what its predecessor left or before the
/// chain whose commands it took over has ended, no signal to a number that is not the chain's
/// living process, no turn without an end; and when the world is kind again, everything that is
/// wanted runs, everything else is gone, and nothing waits for a time.
pub fn supervisor(bytes: &[u8]) {
    let mut world = World {
        supervisor: Supervisor::new(),
        now: Timestamp(1_000),
        living: BTreeMap::new(),
        strays: BTreeMap::new(),
        after: BTreeMap::new(),
        next_pid: 100,
        no_fork: false,
        ending: false,
        generations: BTreeMap::new(),
    };
    world.upgrade(0b011, false);
    for pair in bytes.chunks_exact(2).take(400) {
        world.happen(pair[0], pair[1]);
        world.act();
        world.hold();
    }
    world.settle();
}

impl World {
    fn happen(&mut self, what: u8, how: u8) {
        let chain = NAMES[usize::from(how) % 3];
        let at = self.now;
        let hard = how & 4 == 4;
        let pid = self.living.get(chain).map(|(pid, _)| *pid);
        match what % 18 {
            0 => self.now = Timestamp(self.now.0 + i64::from(how) * 100),
            1 => self.wait_for_next(),
            2 if pid.is_some() => self.supervisor.ready(chain, at),
            3 if pid.is_some() => self.supervisor.run_started(chain, "t", at),
            4 if pid.is_some() => self.supervisor.run_ended(chain, hard),
            5 if pid.is_some() => self.supervisor.cooling(chain, resume(at, how), at),
            6 if pid.is_some() => {
                self.supervisor.leaving(chain, resume(at, how), i32::from(how >> 4))
            }
            7 if pid.is_some() => self.supervisor.cannot_start(chain, "cannot x"),
            8 => self.die(chain, ExitReason::Code(i32::from(how >> 6)), hard),
            9 => self.die(chain, ExitReason::Signal(9), hard),
            10 if pid.is_some() => self.supervisor.stopped(chain),
            11 => self.clear(chain),
            12 if !self.ending => match how >> 3 & 3 {
                0 => self.supervisor.stop_chain(chain, hard, at),
                1 => self.supervisor.start_chain(chain, at),
                2 => self.supervisor.pause_chain(chain, at),
                _ => self.supervisor.restart_chain(chain, hard, at),
            },
            13 if !self.ending => self.upgrade(how & 7, how & 8 == 8),
            14 => self.no_fork = hard,
            15 if how > 200 => {
                self.ending = true;
                self.supervisor.shut_down(hard, at);
            }
            16 if how > 240 => {
                self.ending = true;
                self.supervisor.kill_all(at);
            }
            17 if !self.ending => {
                // The image is replaced: what is written is all that is left.
                let written = serde_json::to_vec(&self.supervisor).unwrap();
                let read: Supervisor = serde_json::from_slice(&written).unwrap();
                let before = self.supervisor.next_timeout();
                self.supervisor = read.restored();
                assert_eq!(self.supervisor.next_timeout(), before, "a deadline was lost");
            }
            _ => {}
        }
        self.supervisor.handle_timeout(self.now);
        assert!(self.supervisor.next_timeout().is_none_or(|due| due > self.now), "it never rests");
    }

    fn upgrade(&mut self, set: u8, some: bool) {
        let chains = chains(set);
        let generation = self.supervisor.begin_generation();
        // All run the same: a chain that comes waits for all that go and still live.
        let lives = |name: &str| self.living.contains_key(name) || self.strays.contains_key(name);
        let stays = |name: &str| chains.iter().any(|chain| chain.name == name);
        let slots: Vec<&str> = self.supervisor.slots().map(|(name, _)| name).collect();
        let go: Vec<String> = (slots.iter())
            .filter(|name| !stays(name) && lives(name))
            .map(|name| (*name).to_owned())
            .collect();
        self.after.retain(|name, _| stays(name));
        for chain in &chains {
            let known = self.after.get(&chain.name);
            let waits = known.is_some_and(|after| after.iter().any(|name| lives(name)));
            if waits || !slots.contains(&chain.name.as_str()) {
                self.after.insert(chain.name.clone(), go.clone());
            } else {
                // What it waited for is over; who has that name now is another one.
                self.after.remove(&chain.name);
            }
        }
        let only = if some { vec!["a".to_owned()] } else { Vec::new() };
        self.supervisor.reconcile(&chains, &only, generation, self.now);
    }

    fn wait_for_next(&mut self) {
        if let Some(due) = self.supervisor.next_timeout() {
            self.now = self.now.max(due);
        }
    }

    fn die(&mut self, chain: &str, reason: ExitReason, leaves_strays: bool) {
        if self.living.remove(chain).is_some() {
            self.strays.insert(chain.to_owned(), leaves_strays);
            self.supervisor.exited(chain, reason, self.now);
        }
    }

    fn clear(&mut self, chain: &str) {
        if self.strays.remove(chain).is_some() {
            self.supervisor.cleared(chain, self.now);
        }
    }

    /// Does what the supervisor wants, as the master does.
    fn act(&mut self) {
        for turn in 0.. {
            let actions = self.supervisor.take_actions();
            if actions.is_empty() {
                break;
            }
            assert!(turn < 100 && actions.len() < 100, "no end of actions: {actions:?}");
            for action in actions {
                self.act_on(action);
            }
        }
    }

    fn act_on(&mut self, action: Action) {
        match action {
            Action::Spawn { chain } => {
                assert!(!self.living.contains_key(&chain), "two processes of {chain}");
                assert!(!self.strays.contains_key(&chain), "{chain} beside its own strays");
                for before in self.after.remove(&chain).unwrap_or_default() {
                    let there =
                        self.living.contains_key(&before) || self.strays.contains_key(&before);
                    assert!(!there, "{chain} beside {before}");
                }
                let slot = self.supervisor.slot(&chain).expect("a known chain");
                assert_eq!(slot.wanted, Wanted::Running, "{chain} is not wanted");
                if self.no_fork {
                    self.supervisor.cannot_spawn(&chain, "cannot fork", self.now);
                } else {
                    self.living.insert(chain.clone(), (self.next_pid, false));
                    self.supervisor.spawned(&chain, self.next_pid, self.now);
                    self.next_pid += 1;
                }
            }
            Action::Signal { chain, pid, .. } => {
                let (known, asked) = self.living.get_mut(&chain).expect("a living process");
                assert_eq!(*known, pid, "another process of {chain}");
                *asked = true;
            }
            Action::Kill { chain } => {
                self.die(&chain, ExitReason::Signal(9), false);
                self.strays.entry(chain.clone()).and_modify(|stray| *stray = false);
            }
            Action::EndStrays { chain } => {
                if self.strays.get(&chain) == Some(&false) {
                    self.clear(&chain);
                }
            }
            Action::Forget { chain } => {
                assert!(!self.living.contains_key(&chain) && !self.strays.contains_key(&chain));
                assert!(self.supervisor.slot(&chain).is_none());
                self.generations.remove(&chain);
            }
            Action::Failed { what, .. } => assert!(!what.is_empty()),
            Action::NewGeneration { .. } => {}
        }
    }

    /// What is true after every turn.
    fn hold(&mut self) {
        assert!(self.supervisor.slots().count() <= NAMES.len());
        for (name, slot) in self.supervisor.slots() {
            let process = self.living.get(name).map(|(pid, _)| *pid);
            assert_eq!(slot.state.pid(), process, "{name} is {:?}", slot.state);
            let clearing = matches!(slot.state, SlotState::Clearing { .. });
            assert_eq!(clearing, self.strays.contains_key(name), "{name} is {:?}", slot.state);
            let last = self.generations.insert(name.to_owned(), slot.generation).unwrap_or(0);
            assert!(slot.generation >= last, "{name} went back to generation {}", slot.generation);
            assert!(slot.next_generation >= slot.generation);
        }
        for name in self.living.keys().chain(self.strays.keys()) {
            assert!(self.supervisor.slot(name).is_some(), "{name} is forgotten and lives");
        }
    }

    /// A kind world: forks succeed, who is asked to leave does, what is left behind goes.
    fn settle(&mut self) {
        self.no_fork = false;
        for _ in 0..60 {
            let asked: Vec<String> = self
                .living
                .iter()
                .filter(|(_, (_, asked))| *asked)
                .map(|(n, _)| n.clone())
                .collect();
            for chain in asked {
                self.die(&chain, ExitReason::Code(0), false);
            }
            for chain in NAMES {
                self.clear(chain);
                self.supervisor.ready(chain, self.now);
            }
            self.wait_for_next();
            self.supervisor.handle_timeout(self.now);
            self.act();
            self.hold();
        }
        for (name, slot) in self.supervisor.slots() {
            match slot.wanted {
                Wanted::Running => assert!(
                    matches!(slot.state, SlotState::Up { .. }),
                    "{name} is wanted and {:?}, after {:?}",
                    slot.state,
                    slot.after
                ),
                Wanted::Stopped | Wanted::Paused => {
                    assert_eq!(slot.state, SlotState::Down, "{name}")
                }
                Wanted::Gone => panic!("{name} is not gone: {:?}", slot.state),
            }
        }
        assert_eq!(self.supervisor.next_timeout(), None, "something waits for a time");
        assert!(!self.ending || self.supervisor.slots().next().is_none());
    }
}

fn resume(at: Timestamp, how: u8) -> Resume {
    let until = (how & 8 == 8).then(|| at + Duration::from_secs(u64::from(how)));
    Resume { next: "t".to_owned(), until, after_failure: how & 16 == 16 }
}
