//! What a configuration means once every default is applied: plain data, no positions, no file
//! access. Every process works from these types; they travel through a sealed memfd as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A whole checked configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The canonical path of the file that was read: two paths that mean one file are one here.
    pub file: PathBuf,
    /// Pidfiles, control socket and the private `lock/` folder.
    pub run_root: PathBuf,
    /// Outages, pauses, silences and histories over restart and reboot.
    pub state_root: PathBuf,
    /// Whether a second start replaces a running master (true) or exits 69 (false).
    pub kill_concurrent: bool,
    /// The group whose members may use every verb of runnerctl.
    pub control_group: Option<GroupSpec>,
    /// How the admins are mailed; `None`: each notice is a warning in the log.
    pub mail: Option<Mail>,
    /// Where and how the main log is written.
    pub log: Log,
    /// The chains, in the order of the file (includes after the file that names them).
    pub chains: Vec<Chain>,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UserSpec {
    /// Whoever starts the master.
    Current,
    /// An account's name in passwd(5).
    Name(String),
    /// A numeric user id.
    Id(u32),
}

/// A group by name or by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupSpec {
    /// A name in group(5).
    Name(String),
    /// A numeric group id.
    Id(u32),
}

/// The `mail:` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mail {
    /// The address in `From:` and in the envelope.
    pub from: String,
    /// The admins, where a chain names nobody else.
    pub to: Vec<String>,
    /// How mail leaves this machine.
    pub transport: Transport,
    /// Where mail waits until it is delivered. Default: `state_root/spool`.
    pub spool: PathBuf,
    /// The mailer's own account. Default: `runner-mail` as root, else `Current`.
    pub user: UserSpec,
    /// Put in front of every subject.
    pub subject_prefix: String,
    /// How many mails one recipient gets in a window.
    pub limit: Limit,
}

/// How mail leaves this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Transport {
    /// An SMTP conversation (RFC 5321).
    Smtp {
        /// Host name or address of the server.
        host: String,
        /// TCP port, 1–65535. Default: 587 with StartTls, 465 with Tls, 25 with None.
        port: u16,
        /// How the connection is protected. Default: StartTls.
        security: Security,
        /// The name for SMTP AUTH (RFC 4954); `None`: no authentication.
        username: Option<String>,
        /// The file whose first line is the password; read by the mailer while still root.
        password_file: Option<PathBuf>,
        /// Further trusted root certificates (PEM), beside the system's.
        ca_file: Option<PathBuf>,
    },
    /// A sendmail(8) compatible program, run as `PROGRAM -i -f FROM -- TO`.
    Sendmail(PathBuf),
    /// A Maildir folder of this machine.
    Maildir(PathBuf),
}

/// Protection of an SMTP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Plain connection, then STARTTLS (RFC 3207), required: no mail without it.
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Tls,
    /// No protection; credentials are refused with it.
    None,
}

/// At most `mails` per recipient in each window of `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Mails per window, 1–10,000. Default: 30.
    pub mails: u32,
    /// The window's length. Default: 1h.
    pub per: Duration,
}

/// The `log:` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// Records below this level are not written. Default: Info.
    pub level: Level,
    /// Text for people, or JSON lines. Default: Text.
    pub format: LogFormat,
    /// Where the log goes. Default: Stderr.
    pub to: LogTarget,
    /// The logger's own account. Default: `runner-log` as root, else `Current`.
    pub user: UserSpec,
    /// Rotation of a log file.
    pub rotate: Rotate,
}

/// slog's levels, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Level {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// One line for a person; journald's priority prefix (sd-daemon(3)) when started under systemd.
    Text,
    /// One JSON object a line, with stable keys.
    Json,
}

/// Where the main log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTarget {
    /// The standard error that the master was started with.
    Stderr,
    /// A file, opened by the logger as its own account.
    File(PathBuf),
}

/// When a file that we write is rotated, and how many old ones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// Bytes after which the file is rotated; `None`: never by size. Default: 100 MiB.
    pub max_size: Option<u64>,
    /// Rotated files kept, 1–1,000. Default: 7.
    pub keep: u32,
    /// Rotated also when the file is older than this. Default: `None`.
    pub max_age: Option<Duration>,
    /// Whether rotated files are compressed (gzip). Default: true.
    pub compress: bool,
}

impl Default for Rotate {
    fn default() -> Self {
        Rotate { max_size: Some(100 << 20), keep: 7, max_age: None, compress: true }
    }
}

/// One chain: an ordered list of tasks that one process runs for ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// Unique; `[A-Za-z0-9._-]+`, at most 100 bytes, never `master` or `runner`.
    pub name: String,
    /// Who its tasks run as.
    pub user: UserSpec,
    /// The primary group instead of the user's own.
    pub group: Option<GroupSpec>,
    /// The supplementary groups instead of the user's own (initgroups(3)).
    pub groups: Option<Vec<GroupSpec>>,
    /// Scheduling priority, -20 (favoured) to 19; setpriority(2). Default: 0.
    pub nice: i32,
    /// ioprio_set(2).
    pub ionice: Option<IoNice>,
    /// sched_setscheduler(2).
    pub scheduler: Option<Scheduler>,
    /// The CPUs that it may use; sched_setaffinity(2).
    pub cpu_affinity: Option<Vec<u32>>,
    /// -1000 to 1000; proc_pid_oom_score_adj(5). Default: 0, whatever the master has.
    pub oom_score_adj: i32,
    /// Resource limits by the name of setrlimit(2) without `RLIMIT_`.
    pub rlimits: BTreeMap<String, Rlimit>,
    /// File mode creation mask. Default: 0o022.
    pub umask: u32,
    /// PR_SET_NO_NEW_PRIVS of prctl(2). Default: false (it breaks sudo in tasks).
    pub no_new_privs: bool,
    /// Working folder, resolved at each run. Default: the user's home, else `/`.
    pub cwd: Option<PathBuf>,
    /// Folders put ahead of PATH.
    pub path: Vec<PathBuf>,
    /// Variables of the tasks' environment.
    pub env: BTreeMap<String, String>,
    /// A file of variables (EnvironmentFile= of systemd.exec(5)), read at each generation.
    pub env_file: Option<PathBuf>,
    /// Where the tasks' output goes.
    pub output: Output,
    /// Rotation of a `Lines` file.
    pub rotate: Rotate,
    /// What a failed run does to the order.
    pub on_failure: OnFailure,
    /// The signal that asks a run to end (a number of signal(7)). Default: SIGTERM.
    pub stop_signal: i32,
    /// How long an upgrade lets a run finish. Default: Forever.
    pub upgrade_drain: Drain,
    /// How long QUIT and a takeover let a run finish. Default: 60s.
    pub drain_timeout: Duration,
    /// From stop_signal to SIGKILL. Default: 10s.
    pub kill_timeout: Duration,
    /// What happens to what a run leaves behind. Default: End.
    pub leftovers: Leftovers,
    /// A program that runs `call` tasks by name.
    pub worker: Option<Worker>,
    /// Never empty.
    pub tasks: Vec<Task>,
}

/// One limit of setrlimit(2); `None` is RLIM_INFINITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rlimit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// I/O priority, ioprio_set(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoNice {
    /// Real time, level 0–7 (root only).
    Realtime(u8),
    /// Best effort, level 0–7.
    BestEffort(u8),
    /// Only when nobody else wants the disk.
    Idle,
}

/// CPU scheduling policy, sched(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Scheduler {
    Other,
    Batch,
    Idle,
    /// Static priority 1–99.
    Fifo(u8),
    /// Static priority 1–99.
    Rr(u8),
}

/// Where a task's standard output and error go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Line by line into the main log.
    Main,
    /// Line by line, stamped, into a file opened as the chain's user.
    Lines(PathBuf),
    /// The bytes as they come, appended to a file that the task itself holds.
    Raw(PathBuf),
    /// Nowhere; the tails for mails are kept all the same.
    Discard,
}

/// What a failed run does to the order of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// The next task follows.
    Continue,
    /// After the fail cooldown the chain starts over at its first task.
    FirstTask,
}

/// How long a run may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Drain {
    /// As long as it likes.
    Forever,
    /// Then it is ended.
    Within(Duration),
}

/// What happens to processes that a run leaves behind when its program has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leftovers {
    /// They are ended before the next run.
    End,
    /// They stay (a daemon started by the run).
    Keep,
}

/// A program that runs tasks by name, started once per chain process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// What is started.
    pub program: WorkerProgram,
    /// Runs after which a fresh one is started.
    pub max_runs: Option<u64>,
    /// Resident bytes after which a fresh one is started.
    pub max_rss: Option<u64>,
    /// Whether each run is forked out of the warm worker.
    pub isolation: Isolation,
    /// How long a fresh one may take until it is ready. Default: 60s.
    pub ready_timeout: Duration,
}

/// What a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerProgram {
    /// A Python interpreter that runs the built-in shim.
    Python(PathBuf),
    /// Any program that speaks runner-worker(7).
    Command(Vec<String>),
}

/// Where a worker's run happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// In the warm process itself.
    Warm,
    /// In a child forked out of it.
    Fork,
}

/// One command of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Unique in its chain; `[A-Za-z0-9._-]+`, at most 100 bytes.
    pub name: String,
    /// What is run.
    pub command: Command,
    /// Pause after a success. Default: 5m.
    pub success_cooldown: Duration,
    /// Pause after a failure. Default: 20m.
    pub fail_cooldown: Duration,
    /// Age at which an outage is told again. Default: 12h.
    pub non_recoverable_downtime: Duration,
    /// How often then. Default: as non_recoverable_downtime.
    pub remind_every: Duration,
    /// After which a run is ended as failed. Default: None.
    pub timeout: Option<Duration>,
    /// After which a run still going is told. Default: as non_recoverable_downtime.
    pub overdue: Option<Duration>,
    /// A fingerprint not seen that long is new again. Default: 7d.
    pub forget_after: Duration,
    /// Exit codes that are a success. Default: `[0]`.
    pub ok_exit: Vec<u8>,
    /// Who is mailed, instead of `mail.to`; empty: `mail.to`.
    pub to: Vec<String>,
    /// Which of the options above the file says itself (not a default): they win over a
    /// worker's own options.
    pub said: Vec<String>,
}

/// What a task runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Command {
    /// An argv, no shell.
    Run(Vec<String>),
    /// A line for `/bin/sh -ec`.
    Sh(String),
    /// A function of the chain's worker: no blanks, no control characters, at most 200 bytes.
    Call(String),
}
