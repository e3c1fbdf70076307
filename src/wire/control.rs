//! What runnerctl and the master say to each other over `run_root/control.sock`: one request per
//! connection, one JSON object on one line, then one line as the answer (for `reload` and the
//! waiting verbs: progress lines, then the answer).

use serde::{Deserialize, Serialize};

use super::log::cut;

/// The control socket's name in `run_root`.
pub const SOCKET: &str = "control.sock";

/// The largest request, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The state of everything that the caller may see.
    Status {
        /// Only these chains (names or globs); empty: all.
        #[serde(default)]
        chains: Vec<String>,
    },
    /// Upgrade in place, as HUP does.
    Reload {
        /// Only these chains (names or globs) are replaced, the others go on as they are; empty:
        /// all.
        #[serde(default)]
        chains: Vec<String>,
        /// Accept faults of the surroundings.
        #[serde(default)]
        force: bool,
        /// Check only.
        #[serde(default)]
        dry_run: bool,
        /// When to answer.
        #[serde(default)]
        wait: Wait,
    },
    /// Start stopped chains.
    Start {
        /// Names or globs.
        chains: Vec<String>,
    },
    /// Stop chains; the master goes on.
    Stop {
        /// Names or globs.
        chains: Vec<String>,
        /// End their runs instead of waiting for them.
        #[serde(default)]
        now: bool,
    },
    /// Replace chains; a new generation for each.
    Restart {
        /// Names or globs.
        chains: Vec<String>,
        /// End their runs instead of waiting for them.
        #[serde(default)]
        now: bool,
    },
    /// Hold a chain after its current run.
    Pause {
        /// The chain.
        chain: String,
        /// Until when from now, in milliseconds; `None`: until `resume`.
        #[serde(default)]
        millis: Option<u64>,
        /// For people.
        #[serde(default)]
        reason: String,
    },
    /// End a pause.
    Resume {
        /// The chain.
        chain: String,
    },
    /// Skip the cooldown.
    Run {
        /// The chain.
        chain: String,
        /// A task of it; `None`: the next one.
        #[serde(default)]
        task: Option<String>,
    },
    /// No mails about a chain for a while.
    Silence {
        /// The chain.
        chain: String,
        /// How long, in milliseconds; 0 ends a silence.
        millis: u64,
        /// For people.
        #[serde(default)]
        reason: String,
    },
    /// Why a chain waits, what would be mailed next, what was withheld.
    Explain {
        /// The chain.
        chain: String,
    },
    /// What the functions of a chain's worker say of themselves.
    Options {
        /// The chain.
        chain: String,
    },
    /// What the master remembers of a chain's runs.
    History {
        /// The chain.
        chain: String,
    },
    /// The notices decided lately.
    Notices,
    /// What is known of the spool.
    MailList,
    /// Try all waiting mail now.
    MailFlush,
    /// Send a test mail to the admins.
    MailTest,
    /// Change the main log's level until the next upgrade.
    LogLevel {
        /// slog's level in lower case.
        level: String,
    },
    /// End the master and every chain.
    Shutdown {
        /// End runs at once instead of draining them.
        #[serde(default)]
        now: bool,
    },
}

impl Request {
    /// Decodes one line. Total: any bytes give a request or what is wrong with them, in at most
    /// 500 bytes however much of the line the words quote.
    ///
    /// # Errors
    /// When it is longer than [`MAX_REQUEST`], not JSON, or no request that this version knows.
    pub fn decode(line: &[u8]) -> Result<Request, String> {
        if line.len() > MAX_REQUEST {
            return Err(format!("cannot read the request: it is longer than {MAX_REQUEST} bytes"));
        }
        serde_json::from_slice(line).map_err(|cause| {
            let mut said = format!("cannot read the request: {cause}");
            cut(&mut said, 500);
            said
        })
    }
}

/// When `reload` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// At once.
    #[default]
    No,
    /// When the upgrade is refused. An accepted one closes the connection by its exec(3): the
    /// client connects again and finds a higher generation.
    Decided,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Progress of a waiting verb: one line for people.
    Progress(String),
    /// It was done; one line for people, possibly empty.
    Done(String),
    /// It was not done.
    Refused {
        /// Why and what to do, for people.
        error: String,
        /// The exit status that runnerctl should have.
        exit: u8,
    },
    /// To `status`.
    Status(Box<Status>),
    /// To `explain`: lines for people.
    Text(Vec<String>),
    /// To `history` and `notices`: JSON values, one a line.
    Rows(Vec<serde_json::Value>),
}

/// `status --json`: a stable contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of this contract: 1.
    pub version: u32,
    /// The master's own state.
    pub master: MasterStatus,
    /// Failing chains first.
    pub chains: Vec<ChainStatus>,
}

/// The master's own state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MasterStatus {
    pub pid: i32,
    /// RFC 3339.
    pub since: String,
    pub config: String,
    pub generation: u64,
    pub binary_version: String,
    pub mail_waiting: u64,
    pub mail_error: Option<String>,
    pub log_dropped: u64,
    /// Why the log cannot be written now.
    #[serde(default)]
    pub log_error: Option<String>,
    /// `cgroup` or `marks`.
    pub strays_by: String,
    pub last_upgrade: Option<UpgradeStatus>,
    /// Upgrades whose check has begun since the master's start; each read the files after that.
    #[serde(default)]
    pub upgrades_begun: u64,
    /// Of those the newest that was accepted or refused: `last_upgrade` is about it.
    #[serde(default)]
    pub upgrades_decided: u64,
}

/// The last upgrade that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct UpgradeStatus {
    pub at: String,
    /// `accepted` or `refused`.
    pub outcome: String,
    pub cause: Option<String>,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ChainStatus {
    pub name: String,
    /// `ok` or `failing`.
    pub health: String,
    /// `running`, `cooling`, `draining`, `backoff`, `paused` or `stopped`.
    pub state: String,
    pub pid: Option<i32>,
    /// Whether that process is set up: it has its user, folder and limits, and takes up its tasks.
    /// An older master does not say.
    #[serde(default = "yes")]
    pub ready: bool,
    pub user: String,
    pub nice: i32,
    pub generation: u64,
    /// The task that runs, or that runs next.
    pub task: Option<String>,
    /// RFC 3339: when this state began.
    pub since: Option<String>,
    /// RFC 3339: when it will end, where that is known.
    pub until: Option<String>,
    pub silenced_until: Option<String>,
    pub paused_since: Option<String>,
    pub reason: Option<String>,
    /// Lines of its tasks that could not be written.
    #[serde(default)]
    pub output_lost: u64,
    /// Why, while it goes on.
    #[serde(default)]
    pub output_error: Option<String>,
    pub tasks: Vec<TaskStatus>,
}

fn yes() -> bool {
    true
}

/// One task of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TaskStatus {
    pub name: String,
    pub ok: u64,
    pub failed: u64,
    pub last: Option<LastRun>,
    pub down_since: Option<String>,
    pub notices: u64,
    pub withheld: u64,
}

/// A task's last finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LastRun {
    pub outcome: String,
    pub started: String,
    pub seconds: f64,
}
