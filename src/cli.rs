//! The command line of runner-master.

use std::path::PathBuf;

use clap::Parser;

/// Runs chains of commands again and again for ever, each as the right user, and mails the admins
/// exactly when it matters.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "runner-master",
    version,
    max_term_width = 100,
    after_help = "Signals: HUP upgrades the program and its configuration in place, TERM stops, \
                  QUIT stops after the current runs, USR1 reopens log files.\n\
                  Manuals: runner(8), runner.ron(5), runnerctl(8)."
)]
pub struct Cli {
    /// Check the configuration and its surroundings, say everything that is wrong, and exit:
    /// 0 if nothing is, else 78.
    #[arg(long)]
    pub check: bool,

    /// Replace a running master even if it was started with another configuration file.
    #[arg(long)]
    pub replace: bool,

    /// The configuration: a RON file, see runner.ron(5).
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Check for an upgrade: descriptors of the plan to fill and of the handover to try.
    #[arg(long, hide = true, value_name = "PLAN,HANDOVER")]
    pub internal_check: Option<Descriptors>,

    /// Go on after an upgrade: descriptors of the plan and of the handover.
    #[arg(long, hide = true, value_name = "PLAN,HANDOVER")]
    pub internal_resume: Option<Descriptors>,

    /// With --internal-check: accept faults of the surroundings.
    #[arg(long, hide = true)]
    pub internal_force: bool,
}

/// Two descriptors of the process that executed us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The memory file of the plan.
    pub plan: i32,
    /// The memory file of the handover.
    pub handover: i32,
}

impl std::str::FromStr for Descriptors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |number: &str| number.parse::<i32>().ok().filter(|fd| *fd > 2);
        text.split_once(',')
            .and_then(|(plan, handover)| {
                Some(Descriptors { plan: parse(plan)?, handover: parse(handover)? })
            })
            .ok_or_else(|| "two descriptors above 2".to_owned())
    }
}
