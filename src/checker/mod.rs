//! The check of a configuration: reads it once, resolves accounts, tries the surroundings with the
//! rights of those who will need them, and gives back a [`Plan`], which travels to the master
//! through sealed memory: what was checked is what runs.
//!
//! It may block (name services, network file systems, folders that a user mounted), so it runs in
//! a child of the master with a deadline, or as `runner-master --check`. It changes nothing.

mod accounts;
mod files;
mod ground;
mod post;
mod preflight;
mod starter;
mod trust;
mod workers;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{self, Loaded, Problem, Source, model::Config};
use crate::sys::account::Account;
use crate::sys::clock;
use crate::wire::words::counted;

pub use ground::trust_the_way;
pub use starter::starter;

/// What the master runs by: a checked configuration with every account resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The configuration.
    pub config: Config,
    /// Of each chain, by its name: what it becomes, or why that cannot be ("there is no user …").
    pub accounts: BTreeMap<String, Result<Account, String>>,
    /// The mailer's; `None` without `mail:`.
    pub mail_account: Option<Account>,
    /// The logger's.
    pub log_account: Account,
    /// The number of `control_group`.
    pub control_gid: Option<u32>,
    /// Faults of the surroundings: chain and one line each. At a start only these chains fail. An
    /// empty name: mail, which is kept until it can leave, or the log, which is told elsewhere.
    pub faults: Vec<(String, String)>,
}

/// What a check found. The texts are as [`config::render_each`] makes them, empty if there is nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `Some` iff there are no errors.
    pub plan: Option<Plan>,
    /// Faults of syntax, meaning, file permissions and the runner's own accounts: no start.
    pub errors: String,
    /// Faults of the surroundings of chains and of mail: refused at an upgrade without `--force`.
    pub surroundings: String,
    /// What is told and accepted.
    pub warnings: String,
    /// How many there are of all three, in one line.
    #[serde(default)]
    pub count: String,
    /// Of each function of a worker, in one line: which options hold, and whose word they are.
    #[serde(default)]
    pub functions: Vec<String>,
}

impl Outcome {
    /// Everything that was found, and its count.
    pub fn text(&self) -> String {
        format!("{}{}{}{}", self.errors, self.surroundings, self.warnings, self.count)
    }

    /// The first error, or else the first fault of the surroundings, in one line: for a log, a
    /// status, a subject.
    pub fn cause(&self) -> Option<&str> {
        let text = if self.errors.is_empty() { &self.surroundings } else { &self.errors };
        let line = text.lines().next()?;
        Some(line.strip_prefix("error: ").unwrap_or(line))
    }
}

/// How a check is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether the texts have colour.
    pub color: bool,
    /// Whether workers are tried, too. Not at a start: there a fault of theirs fails their own runs,
    /// and nobody waits for what they import.
    pub workers: bool,
}

/// Reads a configuration as the caller and says what it means, trying nothing but the files
/// themselves.
pub fn load(path: &Path) -> Loaded {
    let who = starter();
    config::load(path, &who, &mut |want| files::read(want, who.as_root))
}

/// As [`load`], but says what the configuration means to a master that `who` starts. Who may
/// write the files is left to that master.
pub fn load_for(path: &Path, who: &config::Defaults) -> Loaded {
    config::load(path, who, &mut |want| files::read(want, false))
}

/// Checks a configuration completely. The caller has one thread (children are forked) and waits.
pub fn check(path: &Path, options: Options) -> Outcome {
    let begun = clock::monotonic();
    let Loaded { checked, mut problems, sources } = load(path);
    let mut surroundings = Vec::new();
    let mut plan = None;
    let mut functions = Vec::new();
    if let Some(checked) = &checked {
        let mut resolved = accounts::resolve(checked);
        problems.append(&mut resolved.errors);
        problems.extend(ground::check(checked, &resolved));
        let mut post = post::check(checked);
        problems.append(&mut post.errors);
        surroundings.extend(post.faults.into_iter().map(|fault| (String::new(), fault)));
        surroundings.append(&mut resolved.faults);
        surroundings.extend(preflight::check(checked, &resolved.chains, resolved.log.as_ref()));
        if options.workers {
            let faulty = |name: &str| surroundings.iter().any(|(chain, _)| chain == name);
            let tried = workers::check(begun, checked, &sources, &resolved.chains, faulty);
            surroundings.extend(tried.faults);
            problems.extend(tried.warnings);
            functions = tried.options;
        }
        if let (Some(log_account), false) = (resolved.log, config::refuses(&problems)) {
            plan = Some(Plan {
                config: checked.config.clone(),
                accounts: resolved.chains,
                mail_account: resolved.mail,
                log_account,
                control_gid: resolved.control_gid,
                faults: surroundings
                    .iter()
                    .map(|(chain, fault)| (chain.clone(), line(fault)))
                    .collect(),
            });
        }
    }
    let (errors, warnings): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().partition(|problem| config::refuses(std::slice::from_ref(problem)));
    let text = |problems: &[Problem], sources: &[Source]| {
        config::render_each(problems, sources, options.color)
    };
    let surroundings: Vec<Problem> = once(surroundings.into_iter().map(|(_, problem)| problem));
    Outcome {
        plan,
        errors: text(&errors, &sources),
        surroundings: text(&surroundings, &sources),
        warnings: text(&warnings, &sources),
        count: config::count(errors.iter().chain(&surroundings).chain(&warnings)),
        functions,
    }
}

/// Each problem once: what `defaults` says reaches many chains.
fn once(problems: impl Iterator<Item = Problem>) -> Vec<Problem> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<Problem> =
        problems.filter(|p| seen.insert((p.file, p.span.clone(), p.message.clone()))).collect();
    kept.sort_by_key(|p| (p.file, p.span.as_ref().map_or(0, |span| span.start)));
    kept
}

fn line(problem: &Problem) -> String {
    match &problem.help {
        Some(help) => format!("{} ({help})", problem.message),
        None => problem.message.clone(),
    }
}

/// `runner-master --check FILE`: tells everything on standard error, and on standard output in one
/// line that all is well. The exit status: 0, or 78 if anything would fail.
pub fn check_command(path: &Path) -> u8 {
    use std::io::IsTerminal;
    let color = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let outcome = check(path, Options { color, workers: true });
    let _ = std::io::stderr().write_all(outcome.text().as_bytes());
    match &outcome.plan {
        Some(plan) if outcome.surroundings.is_empty() => {
            let chains = &plan.config.chains;
            let tasks: usize = chains.iter().map(|chain| chain.tasks.len()).sum();
            for line in &outcome.functions {
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            let _ = writeln!(
                std::io::stdout(),
                "{}: {}, {}: all is well",
                path.display(),
                counted(chains.len(), "chain", "chains"),
                counted(tasks, "task", "tasks")
            );
            0
        }
        _ => EXIT_CONFIG,
    }
}

/// Exit status for a configuration that is refused (`EX_CONFIG` of sysexits.h(3head)).
pub const EXIT_CONFIG: u8 = 78;
