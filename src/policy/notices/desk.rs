//! The desk that all notices pass: the state of every chain, and the way from a decision to a
//! mail. What happens comes in through `events`; nothing here can fail, and an unknown chain or
//! task is ignored (a report of one that an upgrade removed).

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::history::History;
use super::rules::ChainRules;
use super::text::{self, RunFacts, Scene};
use super::throttle::{Moment, Throttle, Verdict};
use super::troubles::Trouble;
use crate::config::model::{Config, Level};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::outcome::Outcome;
use crate::wire::time::{Timestamp, WallTime};

/// Decisions kept for `runnerctl notices`.
const RECENT: usize = 200;

/// What the desk wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// Hand this to the mailer, and keep it until the mailer confirms it.
    Mail(Envelope),
    /// Write this to the main log.
    Log {
        /// How grave it is.
        level: Level,
        /// About which chain.
        chain: Option<String>,
        /// About which task.
        task: Option<String>,
        /// One safe line.
        text: String,
    },
}

/// A notice as decided, before bursts and limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When it was decided.
    pub at: Timestamp,
    /// The same for people.
    pub wall: WallTime,
    /// About which chain; `None`: about the runner itself.
    pub chain: Option<String>,
    /// About which task; `None`: about the chain's process.
    pub task: Option<String>,
    /// What it is.
    pub kind: NoticeKind,
    /// The whole subject, without `subject_prefix`.
    pub subject: String,
    /// How many notices of this task were held back before this one.
    pub withheld: u64,
}

/// What status shows of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskCounters {
    /// Successful runs.
    pub ok: u64,
    /// Failed runs.
    pub failed: u64,
    /// The last finished run: how it ended, when it began, how many seconds it took.
    pub last: Option<(Outcome, WallTime, f64)>,
    /// The start of the open outage.
    pub down_since: Option<WallTime>,
    /// Notices sent.
    pub notices: u64,
    /// Notices held back.
    pub withheld: u64,
}

/// The run that a chain is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) task: usize,
    pub(crate) run: u64,
    pub(crate) started: Timestamp,
    /// A notice went out while it was going.
    pub(crate) told: bool,
}

/// Mail about a chain is held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Silence {
    pub(crate) until: Timestamp,
    pub(crate) reason: String,
}

/// An operator holds a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pause {
    pub(crate) since: Timestamp,
    pub(crate) wall: WallTime,
    pub(crate) reason: String,
    /// The last PAUSED, sent or silenced.
    pub(crate) told: Option<Timestamp>,
    pub(crate) thread: u64,
    /// A PAUSED was sent.
    pub(crate) mailed: bool,
    /// The last PAUSED was silenced.
    pub(crate) silenced: bool,
}

/// One chain.
#[derive(Debug, Clone)]
pub(crate) struct ChainState {
    pub(crate) rules: ChainRules,
    /// One per task, in the chain's order.
    pub(crate) tasks: Vec<Throttle>,
    /// The chain's own process.
    pub(crate) whole: Throttle,
    pub(crate) running: Option<Running>,
    /// When its process was heard last.
    pub(crate) heard: Option<Timestamp>,
    pub(crate) silence: Option<Silence>,
    pub(crate) pause: Option<Pause>,
    /// With the file of its output.
    pub(crate) output: Trouble,
    pub(crate) history: History,
    /// Its entry in the agenda.
    pub(crate) deadline: Option<Timestamp>,
}

impl ChainState {
    pub(crate) fn new(rules: ChainRules, now: Timestamp) -> ChainState {
        ChainState {
            tasks: rules.tasks.iter().map(|_| Throttle::new(now)).collect(),
            whole: Throttle::new(now),
            rules,
            running: None,
            heard: None,
            silence: None,
            pause: None,
            output: Trouble::default(),
            history: History::default(),
            deadline: None,
        }
    }

    /// When the run that is going must be told of.
    pub(crate) fn run_due(&self) -> Option<(usize, Timestamp)> {
        let running = self.running?;
        let (_, rules) = self.rules.tasks.get(running.task)?;
        let due = self.tasks.get(running.task)?.run_due(rules, running.started)?;
        Some((running.task, due))
    }

    /// When the pause must be told of.
    pub(crate) fn pause_due(&self) -> Option<Timestamp> {
        let pause = self.pause.as_ref()?;
        Some(pause.told.unwrap_or(pause.since) + self.rules.whole.limit)
    }

    pub(crate) fn quiet(&self, now: Timestamp) -> bool {
        self.silence.as_ref().is_some_and(|silence| now < silence.until)
    }

    fn due(&self) -> Option<Timestamp> {
        let silence = self.silence.as_ref().map(|silence| silence.until);
        let run = self.run_due().map(|(_, due)| due);
        let output = self.output.due().map(|due| silence.map_or(due, |until| due.max(until)));
        [silence, run, self.pause_due(), output].into_iter().flatten().min()
    }
}

/// Refused upgrades.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Upgrades {
    /// Causes told, and when last.
    pub(crate) causes: Vec<(u64, Timestamp)>,
    /// The notices sent, for their bound.
    pub(crate) sent: Vec<Timestamp>,
    /// A REFUSED went out and no upgrade was accepted since.
    pub(crate) told: bool,
    pub(crate) withheld: u64,
    pub(crate) thread: u64,
}

/// Decides what the admins are told. Every method that takes a time may be called with any; times
/// that go backwards only delay reminders.
#[derive(Debug)]
pub struct NoticeDesk {
    pub(crate) host: String,
    /// `mail.to`; `None`: no mail is configured.
    pub(crate) admins: Option<Vec<String>>,
    pub(crate) chains: Vec<ChainState>,
    pub(crate) index: HashMap<String, usize>,
    /// The deadlines of all chains: a turn costs what is due, not what exists.
    pub(crate) agenda: BTreeSet<(Timestamp, usize)>,
    pub(crate) upgrades: Upgrades,
    /// With the main log.
    pub(crate) log_trouble: Trouble,
    pub(crate) run_root_trouble: Trouble,
    pub(crate) recent: VecDeque<Decision>,
    /// Counts ids.
    pub(crate) sequence: u64,
    deeds: Vec<Deed>,
    /// Filled only while someone collects decisions (a simulation).
    collected: Option<Vec<Decision>>,
}

impl NoticeDesk {
    /// A desk that knows nothing yet: the first generation begins.
    pub fn new(host: &str, config: &Config, now: Timestamp, _wall: WallTime) -> NoticeDesk {
        let mut desk = NoticeDesk {
            host: crate::policy::safe::line(host, 255),
            admins: config.mail.as_ref().map(|mail| mail.to.clone()),
            chains: Vec::new(),
            index: HashMap::new(),
            agenda: BTreeSet::new(),
            upgrades: Upgrades::default(),
            log_trouble: Trouble::default(),
            run_root_trouble: Trouble::default(),
            recent: VecDeque::new(),
            sequence: 0,
            deeds: Vec::new(),
            collected: None,
        };
        for rules in ChainRules::all(config) {
            desk.add(ChainState::new(rules, now));
        }
        desk
    }

    /// Copies what is kept for long into memory of its own; see
    /// [`Supervisor::pack`](crate::policy::supervisor::Supervisor::pack).
    #[must_use]
    pub fn pack(&mut self) -> impl Sized + use<> {
        let packed = self.chains.clone();
        std::mem::replace(&mut self.chains, packed)
    }

    pub(crate) fn add(&mut self, chain: ChainState) {
        let place = self.chains.len();
        self.index.insert(chain.rules.name.clone(), place);
        self.chains.push(chain);
        self.rearm(place);
    }

    /// What is to be done since the last call, in order.
    pub fn take_deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    /// Collects decisions from now on; what was collected before is given back.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        self.collected.replace(Vec::new()).unwrap_or_default()
    }

    /// When [`NoticeDesk::handle_timeout`] has something to do; `None`: nothing waits for a time.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let chains = self.agenda.first().map(|(at, _)| *at);
        let troubles = [&self.log_trouble, &self.run_root_trouble];
        chains.into_iter().chain(troubles.into_iter().filter_map(Trouble::due)).min()
    }

    /// What status shows of a task.
    pub fn task_status(&self, chain: &str, task: &str) -> Option<TaskCounters> {
        let chain = self.chains.get(*self.index.get(chain)?)?;
        let place = chain.rules.position(task)?;
        let state = chain.tasks.get(place)?;
        Some(TaskCounters {
            ok: state.ok,
            failed: state.failed,
            last: (chain.history.last_of(place))
                .map(|(outcome, started, millis)| (outcome, started, millis as f64 / 1000.0)),
            down_since: state.outage.as_ref().map(|outage| outage.start_wall),
            notices: state.notices,
            withheld: state.withheld_ever,
        })
    }

    /// Whether a task of the chain, or its process, is in an outage.
    pub fn chain_is_failing(&self, chain: &str) -> bool {
        self.chain(chain).is_some_and(|chain| {
            chain.tasks.iter().chain([&chain.whole]).any(|state| state.outage.is_some())
        })
    }

    /// Until when mail about the chain is silenced.
    pub fn silenced_until(&self, chain: &str) -> Option<Timestamp> {
        self.chain(chain)?.silence.as_ref().map(|silence| silence.until)
    }

    /// Since when the chain is paused, and why.
    pub fn paused(&self, chain: &str) -> Option<(WallTime, &str)> {
        self.chain(chain)?.pause.as_ref().map(|pause| (pause.wall, pause.reason.as_str()))
    }

    /// What is remembered of the chain's runs, oldest first, in the form that a simulation reads.
    pub fn history(&self, chain: &str) -> Vec<Value> {
        self.chain(chain)
            .map(|chain| chain.history.rows(&chain.rules.name, &chain.rules.tasks))
            .unwrap_or_default()
    }

    /// The notices decided lately, oldest first.
    pub fn recent_notices(&self) -> Vec<Value> {
        let row = |decision: &Decision| {
            json!({
                "at": decision.wall.to_string(), "chain": decision.chain, "task": decision.task,
                "notice": decision.kind.word(), "subject": decision.subject,
                "withheld": decision.withheld,
            })
        };
        self.recent.iter().map(row).collect()
    }

    pub(crate) fn chain(&self, name: &str) -> Option<&ChainState> {
        self.chains.get(*self.index.get(name)?)
    }

    /// Keeps the agenda true after anything changed for a chain.
    pub(crate) fn rearm(&mut self, place: usize) {
        let Some(chain) = self.chains.get_mut(place) else { return };
        let due = chain.due();
        if due != chain.deadline {
            if let Some(old) = std::mem::replace(&mut chain.deadline, due) {
                self.agenda.remove(&(old, place));
            }
            self.agenda.extend(due.map(|due| (due, place)));
        }
    }

    pub(crate) fn log(
        &mut self,
        level: Level,
        chain: Option<&str>,
        task: Option<&str>,
        text: String,
    ) {
        let own = |text: &str| text.to_owned();
        self.deeds.push(Deed::Log { level, chain: chain.map(own), task: task.map(own), text });
    }

    /// A number that no other thread or mail has.
    pub(crate) fn unique(&self, of: &str, wall: WallTime) -> u64 {
        let mut hash = fnv(0, self.host.as_bytes());
        hash = fnv(hash, of.as_bytes());
        hash = fnv(hash, &wall.0.to_le_bytes());
        fnv(hash, &self.sequence.to_le_bytes())
    }

    /// The moment of an event of a chain.
    pub(crate) fn moment(
        &self,
        place: usize,
        task: Option<usize>,
        at: Timestamp,
        wall: WallTime,
    ) -> Moment {
        let Some(chain) = self.chains.get(place) else {
            return Moment { at, wall, quiet: false, thread: 0 };
        };
        let task = task.map_or(u64::MAX, |task| task as u64);
        let thread = fnv(self.unique(&chain.rules.name, wall), &task.to_le_bytes());
        Moment { at, wall, quiet: chain.quiet(at), thread }
    }

    /// Tells a verdict about a task (or the chain's process) to whom it concerns.
    pub(crate) fn tell(
        &mut self,
        place: usize,
        task: Option<usize>,
        verdict: &Verdict,
        run: Option<RunFacts<'_>>,
        moment: Moment,
    ) {
        let Some(chain) = self.chains.get(place) else { return };
        let running = chain.running.filter(|running| Some(running.task) == task && run.is_none());
        let going_since = running.map(|running| running.started);
        let state = task.map_or(Some(&chain.whole), |task| chain.tasks.get(task));
        let scene = Scene {
            host: &self.host,
            chain: &chain.rules,
            task,
            verdict,
            outage: verdict.closed.as_ref().or(state.and_then(|state| state.outage.as_ref())),
            run,
            going_since,
            at: moment.at,
            wall: moment.wall,
        };
        let notice = Notice {
            kind: verdict.kind,
            words: text::words(&scene),
            body: text::body(&scene),
            thread: Thread { of: verdict.thread, begins: verdict.begins },
            withheld: verdict.withheld.total(),
        };
        self.post(Some(place), task, notice, moment.at, moment.wall);
    }

    /// Records a notice and sends it on its way: mail or the log.
    pub(crate) fn post(
        &mut self,
        place: Option<usize>,
        task: Option<usize>,
        notice: Notice,
        at: Timestamp,
        wall: WallTime,
    ) {
        let chain = place.and_then(|place| self.chains.get(place));
        let rules = chain.map(|chain| {
            task.and_then(|task| chain.rules.tasks.get(task))
                .map_or(&chain.rules.whole, |(_, rules)| rules)
        });
        let task = chain.and_then(|c| c.rules.tasks.get(task?)).map(|(name, _)| name.clone());
        let label = match chain {
            Some(chain) => text::label(&chain.rules.name, task.as_deref()),
            None => "[runner]".to_owned(),
        };
        let to = match (&self.admins, rules) {
            (Some(admins), Some(rules)) if rules.to.is_empty() => admins.clone(),
            (Some(_), Some(rules)) => rules.to.clone(),
            (Some(admins), None) => admins.clone(),
            (None, _) => Vec::new(),
        };
        let chain = chain.map(|chain| chain.rules.name.clone());
        let Notice { kind, words, body, thread, withheld } = notice;
        let subject = format!("{label} {words}");
        self.record(Decision {
            at,
            wall,
            chain: chain.clone(),
            task: task.clone(),
            kind,
            subject: subject.clone(),
            withheld,
        });
        let (of_chain, of_task) = (chain.clone(), task.clone());
        if to.is_empty() {
            let text = if task.is_some() { words } else { subject };
            self.log(Level::Warning, of_chain.as_deref(), of_task.as_deref(), text);
            return;
        }
        let name = format!("o{:016x}", thread.of);
        let own = self.id(&subject, wall);
        let id = if thread.begins { Envelope::root(&name) } else { own };
        let thread = Some(name);
        let envelope = Envelope { id, thread, kind, to, subject, body, chain, task, at: wall };
        let text = format!("Sent email to admins: {words}");
        self.deeds.push(Deed::Mail(envelope));
        self.log(Level::Debug, of_chain.as_deref(), of_task.as_deref(), text);
    }

    fn id(&mut self, of: &str, wall: WallTime) -> String {
        self.sequence = self.sequence.wrapping_add(1);
        format!("{:x}-{:x}-{:08x}", wall.0, self.sequence, self.unique(of, wall) >> 32)
    }

    fn record(&mut self, decision: Decision) {
        if let Some(collected) = &mut self.collected {
            collected.push(decision.clone());
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(decision);
    }
}

/// A notice on its way: what [`NoticeDesk::post`] needs beside who it is about.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) kind: NoticeKind,
    /// The subject without its label.
    pub(crate) words: String,
    pub(crate) body: String,
    pub(crate) thread: Thread,
    pub(crate) withheld: u64,
}

/// The mail thread of a notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread {
    pub(crate) of: u64,
    /// It is the first mail of it.
    pub(crate) begins: bool,
}

/// FNV-1a, 64 bits: not for secrets, the same on every machine. 0 as `hash` begins one.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let begin = if hash == 0 { 0xcbf2_9ce4_8422_2325 } else { hash };
    bytes.iter().fold(begin, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
