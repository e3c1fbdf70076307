//! The root process: one thread, never blocked, never on the network. It holds the descriptors and
//! does what the [`Supervisor`] and the [`NoticeDesk`] decide; it has no rule of its own.
//!
//! | file | what it does |
//! |---|---|
//! | `boot` | from the command line to a running master |
//! | `ground`, `takeover`, `holder`, `watch` | its folders, its lock, what stands in it, and what happens to them |
//! | `turn` | the loop: one turn per wake-up |
//! | `spawn`, `reap`, `strays`, `groups` | children: fork, wait, what they leave behind |
//! | `log`, `logger` | what it says, and the process that writes it |
//! | `inbox`, `options` | reports of the chains |
//! | `post` | mailers, and mails until a spool has confirmed them |
//! | `upgrade`, `wishes`, `handover`, `resume` | check what is on disk, become it, go on with everything kept |
//! | `control`, `connection`, `authorise`, `verbs`, `status` | runnerctl's other end |
//! | `state` | what survives a restart and a reboot |
//! | `systemd` | sd_notify(3) |

pub mod authorise;
mod boot;
mod connection;
pub mod control;
mod ground;
mod groups;
mod handover;
mod holder;
mod inbox;
mod log;
mod logger;
mod mailers;
mod options;
mod post;
mod reap;
#[doc(hidden)]
pub mod reread;
mod resume;
mod spawn;
mod state;
mod status;
mod strays;
mod systemd;
mod takeover;
mod turn;
mod upgrade;
mod verbs;
mod watch;
mod wishes;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use clap::Parser;

use crate::checker::{self, Plan};
use crate::cli::Cli;
use crate::config::model::Chain;
use crate::logger::Lanes;
use crate::policy::environment::instance_of;
use crate::policy::notices::NoticeDesk;
use crate::policy::supervisor::Supervisor;
use crate::sys::clock;
use crate::sys::fork::{Pid, leave};
use crate::sys::oom::Kills;
use crate::sys::poll::{Alarm, Epoll, Interest};
use crate::sys::signals::Signals;
use crate::wire::log::Trouble;
use crate::wire::time::{Timestamp, WallTime};
use crate::wire::words::counted;
use crate::wire::worker::Options;
use boot::StartContext;
use control::ControlServer;
use ground::Ground;
use groups::Groups;
use log::Log;
use mailers::Mailers;
use post::Post;
use state::Saver;
use strays::Strays;
use systemd::Systemd;
use upgrade::Upgrade;
use watch::Watch;

/// The program runner-master.
pub fn main() -> ! {
    let cli = Cli::parse();
    if cli.check {
        leave(i32::from(checker::check_command(&cli.file)));
    }
    if let Some(descriptors) = cli.internal_check {
        leave(boot::check(&cli, descriptors));
    }
    if let Some(descriptors) = cli.internal_resume {
        boot::resume(&cli, descriptors);
    }
    boot::start(&cli)
}

/// How far the master is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// At work.
    Running,
    /// Every chain finishes its run.
    Draining,
    /// Every chain ends its run.
    Stopping,
    /// Everything is killed.
    Killing,
}

/// What a child of ours is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Child {
    /// A chain's process.
    Chain(String),
    /// The logger.
    Logger,
    /// A mailer.
    Mailer,
    /// Writes the state.
    Saver,
    /// Checks an upgrade.
    Check,
    /// Ends what a chain of an earlier master left as that user.
    Sweep(String, u32),
    /// Of the image before this one: only reaped.
    Other,
}

/// Our end of a chain's pair.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    token: u64,
    /// The task that ended last, for the log.
    last_task: Option<String>,
    /// Bad packets told so far: the rest is counted in silence.
    bad: u64,
    /// What its process said for the log, and how much of it is left out.
    words: inbox::Words,
    /// The chains of an earlier master of which nothing is left once it is ready.
    looked_for: Vec<String>,
}

impl Link {
    fn new(socket: OwnedFd, token: u64) -> Link {
        Link {
            socket,
            token,
            last_task: None,
            bad: 0,
            words: inbox::Words::default(),
            looked_for: Vec::new(),
        }
    }
}

/// Lines of a chain that could not be written.
#[derive(Debug, Default)]
struct Loss {
    /// Since the master began.
    lines: u64,
    /// Why, while it goes on.
    cause: Option<String>,
}

/// What the loop waits with.
struct Senses {
    signals: Signals,
    epoll: Epoll,
    alarm: Alarm,
}

impl Senses {
    /// Gives the signals back where the system is short of descriptors or memory.
    fn new(signals: Signals) -> Result<Senses, (Signals, std::io::Error)> {
        let made = Epoll::new().and_then(|epoll| {
            let alarm = Alarm::new()?;
            epoll.add(&signals, SIGNALS, Interest::Read)?;
            epoll.add(&alarm, ALARM, Interest::Read)?;
            Ok((epoll, alarm))
        });
        match made {
            Ok((epoll, alarm)) => Ok(Senses { signals, epoll, alarm }),
            Err(cause) => Err((signals, cause)),
        }
    }
}

/// The master.
struct Master {
    context: StartContext,
    plan: Plan,
    /// When it was checked, more or less.
    plan_since: Timestamp,
    /// Where each chain of the plan stands in its list.
    index: BTreeMap<String, usize>,
    ground: Ground,
    /// Holds the record lock while this process lives.
    lock: File,
    watch: Watch,
    instance: String,
    groups: Groups,
    host: String,
    since: WallTime,
    generation: u64,
    supervisor: Supervisor,
    desk: NoticeDesk,
    log: Log,
    lanes: Lanes,
    logger: Option<Pid>,
    /// Our side of the link to it.
    link: Option<OwnedFd>,
    /// What keeps the log from being written.
    log_trouble: Option<Trouble>,
    logger_since: Timestamp,
    /// When a dead logger is started again.
    logger_at: Option<Timestamp>,
    logger_deaths: crate::policy::backoff::Backoff,
    epoll: Epoll,
    alarm: Alarm,
    signals: Signals,
    children: BTreeMap<Pid, Child>,
    links: BTreeMap<String, Link>,
    tokens: BTreeMap<u64, String>,
    next_token: u64,
    strays: Strays,
    post: Post,
    mailers: Mailers,
    control: Option<ControlServer>,
    upgrade: Upgrade,
    saver: Saver,
    systemd: Systemd,
    phase: Phase,
    /// Pauses that end by themselves.
    pauses: BTreeMap<String, Timestamp>,
    /// What the tasks of workers say of themselves, by chain and task.
    options: BTreeMap<String, BTreeMap<String, Options>>,
    /// Lines of chains that could not be written.
    losses: BTreeMap<String, Loss>,
    /// What the kernel had killed for want of memory by then.
    oom_kills: (Kills, WallTime),
    buffer: Vec<u8>,
}

const SIGNALS: u64 = 0;
const ALARM: u64 = 1;
const CHECK_OUTPUT: u64 = 2;
const LOGGER: u64 = 3;
const GROUND: u64 = 4;
const FIRST_LINK: u64 = 16;
const FIRST_CONTROL: u64 = 1 << 40;

fn now() -> Timestamp {
    Timestamp(clock::boottime_ms())
}

fn wall() -> WallTime {
    WallTime(clock::wall_ms())
}

impl Master {
    /// A master at its first start: no chain runs yet.
    ///
    /// # Errors
    /// When the system is short of descriptors: the last moment at which that is fatal.
    fn new(
        context: StartContext,
        plan: Plan,
        ground: Ground,
        lock: File,
        signals: Signals,
        groups: Groups,
    ) -> Result<Master, String> {
        let short = |cause: std::io::Error| format!("cannot watch my descriptors: {cause}");
        let senses = Senses::new(signals).map_err(|(_, cause)| short(cause))?;
        let lanes = Lanes::new().map_err(|cause| format!("cannot reach the logger: {cause}"))?;
        let lane = lanes.master_in.try_clone().map_err(short)?;
        let mut master = Master::assemble(context, plan, ground, lock, senses, (lanes, lane));
        master.open_control(None);
        master.groups = groups;
        master.tidy_ground();
        master.start_logger();
        master.load_state();
        // What an earlier master's mailers could not deliver.
        master.post.flush();
        master.generation = master.supervisor.begin_generation();
        let generation = master.generation;
        let chains = std::mem::take(&mut master.plan.config.chains);
        master.supervisor.reconcile(&chains, &[], generation, now());
        master.plan.config.chains = chains;
        master.apply_pauses();
        master.sweep_old_groups();
        master.sweep_old_marks();
        master.tell_start("started");
        Ok(master)
    }

    /// Everything that a start and an upgrade have in common.
    fn assemble(
        context: StartContext,
        plan: Plan,
        ground: Ground,
        lock: File,
        Senses { signals, epoll, alarm }: Senses,
        (lanes, lane): (Lanes, OwnedFd),
    ) -> Master {
        let log = Log::new(crate::logger::PacketDrain::new(lane, plan.config.log.level));
        let host = crate::sys::host_name();
        let instance = instance_of(&ground.run_root_path);
        let desk = NoticeDesk::new(&host, &plan.config, now(), wall());
        let strays = Strays::new(context.inherited.clone());
        let systemd = Systemd::new(&context.env);
        let mut master = Master {
            index: BTreeMap::new(),
            instance,
            groups: Groups::default(),
            host,
            since: wall(),
            generation: 0,
            supervisor: Supervisor::new(),
            desk,
            log,
            lanes,
            logger: None,
            link: None,
            log_trouble: None,
            logger_since: now(),
            logger_at: None,
            logger_deaths: crate::policy::backoff::Backoff::default(),
            epoll,
            alarm,
            signals,
            children: BTreeMap::new(),
            links: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: FIRST_LINK,
            strays,
            post: Post::default(),
            mailers: Mailers::default(),
            control: None,
            upgrade: Upgrade::default(),
            saver: Saver::default(),
            systemd,
            phase: Phase::Running,
            pauses: BTreeMap::new(),
            options: BTreeMap::new(),
            losses: BTreeMap::new(),
            oom_kills: (Kills::now(), wall()),
            buffer: vec![0; crate::wire::report::MAX_PACKET + 1],
            context,
            plan,
            ground,
            lock,
            watch: Watch::default(),
            plan_since: now(),
        };
        master.index_chains();
        master
    }

    fn index_chains(&mut self) {
        let chains = self.plan.config.chains.iter().enumerate();
        self.index = chains.map(|(index, chain)| (chain.name.clone(), index)).collect();
    }

    /// A chain's configuration; `None` once it has left the file.
    fn chain(&self, name: &str) -> Option<&Chain> {
        self.index.get(name).and_then(|index| self.plan.config.chains.get(*index))
    }

    /// What a killed process of ours left half-written: nobody writes there before the first chain
    /// and after the last one.
    fn tidy_ground(&self) {
        for folder in [&self.ground.run_root, &self.ground.state] {
            let _ = crate::sys::fs::remove_unfinished(folder);
        }
    }

    fn tell_start(&mut self, how: &str) {
        let version = env!("CARGO_PKG_VERSION");
        let file = self.plan.config.file.display();
        let chains = counted(self.plan.config.chains.len(), "chain", "chains");
        if let Err(cause) = self.ground.write_pidfile() {
            self.log.warn(&format!("cannot write my pidfile: {cause}"));
        }
        let text = format!(
            "runner-master {version} {how}: {chains} of {file}, generation {}",
            self.generation
        );
        self.log.info(&text);
        for (chain, fault) in std::mem::take(&mut self.plan.faults) {
            self.log.say(crate::config::model::Level::Warning, Some(&chain), None, &fault);
        }
        if let Some(mail) = &self.plan.config.mail
            && let crate::config::model::Transport::Maildir(folder) = &mail.transport
        {
            self.log.info(&format!("mail goes to the Maildir {}", folder.display()));
        }
        if self.groups.own.is_none() {
            self.log.info("no control groups here: strays are found by subreaper and marks");
        }
        self.systemd.ready();
    }
}
