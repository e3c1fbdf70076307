//! runnerctl's command line. The words of `--help` are held to runnerctl(8) by a test.

use std::path::PathBuf;
use std::time::Duration;

use super::import::Kind;
use crate::policy::simulate::FailSpec;
use crate::wire::log::Stream;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where the configuration lies if nobody says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/runner/runner.ron";

/// See and steer a running runner-master.
#[derive(Debug, Parser)]
#[command(name = "runnerctl", version, max_term_width = 100, after_help = EXIT_HELP)]
pub struct Cli {
    /// The configuration of the master to talk to
    #[arg(short, long, global = true, value_name = "FILE", env = "RUNNER_CONFIG", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The master's run_root itself, when the configuration cannot be read just now
    #[arg(long, global = true, value_name = "DIR")]
    pub run_root: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_HELP: &str = "Exit status: 0 done and all well; 1 not done; 2 usage; 3 no master runs; \
4 no such chain, or no answer; 77 no right; 78 configuration; 150 up, but something is failing.";

/// What to do. A comment on a flattened group would become the verb's own help.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Verb {
    /// Show the chains, failing ones first
    Status {
        /// Names or globs; none: all
        chains: Vec<String>,
        /// Print the stable JSON form
        #[arg(long)]
        json: bool,
        /// Only chains that are failing
        #[arg(long)]
        failing: bool,
        /// Redraw every second until interrupted
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Upgrade in place to the binary and the configuration on disk
    Reload {
        /// Replace only these; none: all
        chains: Vec<String>,
        /// Check only, change nothing
        #[arg(long)]
        dry_run: bool,
        /// Accept faults of the surroundings (a missing user, program or folder)
        #[arg(long)]
        force: bool,
        /// Wait until it is accepted or refused, or until every chain is replaced
        #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "decided")]
        wait: Option<WaitFor>,
    },
    /// Start stopped chains
    Start {
        #[command(flatten)]
        which: Which,
        /// Wait until they run
        #[arg(long)]
        wait: bool,
    },
    /// Stop chains after their current run; the master goes on
    Stop {
        #[command(flatten)]
        which: Which,
        /// End the current run instead
        #[arg(long)]
        now: bool,
        /// Wait until they have stopped
        #[arg(long)]
        wait: bool,
    },
    /// Replace chains after their current run: a new generation
    Restart {
        #[command(flatten)]
        which: Which,
        /// End the current run instead
        #[arg(long)]
        now: bool,
        /// Wait until they are replaced
        #[arg(long)]
        wait: bool,
    },
    /// Hold a chain after its current run, until resume
    Pause {
        /// Its name
        chain: String,
        /// Resume by itself after this time, such as 2h
        #[arg(long = "for", value_name = "TIME", value_parser = pause_time)]
        time: Option<Duration>,
        /// Shown in status and in reminders
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// End a pause
    Resume {
        /// Its name
        chain: String,
    },
    /// Skip the cooldown: run now
    Run {
        /// Its name
        chain: String,
        /// A task of it; none: the next one
        task: Option<String>,
    },
    /// Send no mails about a chain for a while; what is still broken then is mailed then
    Silence {
        /// Its name
        chain: String,
        /// How long, such as 2h; 0s ends a silence
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Duration,
        /// Shown in status
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// End the master and all its chains after their current runs
    Shutdown {
        /// End the current runs instead
        #[arg(long)]
        now: bool,
        /// Wait until the master is gone
        #[arg(long)]
        wait: bool,
    },
    /// Why a chain waits and until when, what would be mailed next, what was withheld
    Explain {
        /// Its name
        chain: String,
    },
    /// The runs that the master remembers
    History {
        /// Its name
        chain: String,
        /// One JSON object a line, as simulate reads them
        #[arg(long)]
        jsonl: bool,
    },
    /// The notices decided lately
    Notices {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// What waits to be mailed
    Mail {
        /// What about it
        #[command(subcommand)]
        what: MailVerb,
    },
    /// Change the level of the main log until the next upgrade
    LogLevel {
        /// How much is written
        level: Level,
    },
    /// For a monitoring system: one line, and a plugin's exit status (0, 1, 2, 3)
    Check,
    /// All counters in the OpenMetrics text format
    Metrics,
    /// Print what a chain's tasks said, from the file where it lies
    Logs {
        /// Its name
        chain: String,
        /// Go on with what comes, over rotations too
        #[arg(short, long)]
        follow: bool,
        /// Standard output or standard error only
        #[arg(long, value_name = "STREAM", value_parser = stream)]
        stream: Option<Stream>,
        /// How many of the last lines to begin with
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        lines: usize,
    },
    /// Print a chain's configuration, each value with the place that said it
    ShowConfig {
        /// Its name
        chain: String,
    },
    /// Print the environment of a chain's tasks, each variable with where it comes from
    ShowEnv {
        /// Its name
        chain: String,
    },
    /// Print the configuration that replaces a start script, a supervisord.conf or a crontab
    Import {
        /// The file to read; - is standard input
        file: PathBuf,
        /// What it is, where its text does not show it
        #[arg(long, value_name = "KIND")]
        from: Option<Kind>,
    },
    /// Show what the admins would be mailed; no master is needed
    Simulate {
        /// What is to fail: every run, or each Nth, always with the same words or never
        #[arg(
            long,
            value_name = "CHAIN/TASK[:every=N][:message=random]",
            conflicts_with = "history",
            required_unless_present = "history"
        )]
        fail: Vec<FailSpec>,
        /// How long it fails
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "history", default_value = "60h")]
        time: Duration,
        /// Recorded runs, as history --jsonl writes them; - is standard input
        #[arg(long, value_name = "RUNS.jsonl")]
        history: Option<PathBuf>,
        /// Print the decisions, one JSON object a line, before bursts and limits
        #[arg(long)]
        json: bool,
    },
    /// Print the completions of a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
}

/// The length of a pause. One of no length is what `resume` is for.
fn pause_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it is more than 0; `runnerctl resume` ends a pause".to_owned()),
        other => other.map_err(|cause| cause.to_string()),
    }
}

fn stream(text: &str) -> Result<Stream, String> {
    match text {
        "out" => Ok(Stream::Out),
        "err" => Ok(Stream::Err),
        _ => Err("it is out or err".to_owned()),
    }
}

/// What to do with the mail.
#[derive(Debug, Subcommand)]
pub enum MailVerb {
    /// Show what waits and why
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Try everything that waits now
    Flush,
    /// Send a test mail to the admins
    Test,
}

/// Which chains.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Names or globs
    #[arg(value_name = "CHAIN")]
    pub chains: Vec<String>,
    /// Every chain
    #[arg(long)]
    pub all: bool,
}

impl Which {
    /// As the patterns of a request.
    pub fn patterns(self) -> Vec<String> {
        if self.all { vec!["*".to_owned()] } else { self.chains }
    }
}

/// What `reload --wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Until it is accepted or refused
    Decided,
    /// Until every chain is replaced as well
    Drained,
}

/// slog's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Level {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Level::Critical => "critical",
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_verb_for_chains_needs_to_know_which() {
        for bad in [
            &["runnerctl", "stop"][..],
            &["runnerctl", "stop", "--all", "mail"],
            &["runnerctl", "silence", "mail"],
            &["runnerctl", "pause", "mail", "--for", "2"],
            &["runnerctl", "pause", "mail", "--for", "0s"],
            &["runnerctl", "reload", "--wait", "mail", "--wait=later"],
        ] {
            assert_eq!(Cli::try_parse_from(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn reload_waits_without_swallowing_a_chain() {
        let cli = Cli::try_parse_from(["runnerctl", "reload", "--wait", "mail"]).unwrap();
        let Verb::Reload { chains, wait, .. } = cli.verb else { panic!() };
        assert_eq!((chains, wait), (vec!["mail".to_owned()], Some(WaitFor::Decided)));
    }
}
