//! What the configuration says about notices, compact: the desk keeps these and not the whole
//! configuration, since a fork copies what the master holds.

use std::time::Duration;

use crate::config::model::{Chain, Command, Config, OnFailure, Task, UserSpec};

/// The shortest distance between two reminders of one kind, whatever the file says: a reminder
/// with no distance would never end.
const SHORTEST: Duration = Duration::from_secs(1);

/// The clocks and recipients of one task, or of a chain as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rules {
    /// `non_recoverable_downtime`, at least 1 s.
    pub(crate) limit: Duration,
    /// `remind_every`, at least 1 s.
    pub(crate) remind: Duration,
    /// `overdue`.
    pub(crate) overdue: Option<Duration>,
    /// `forget_after`.
    pub(crate) forget_after: Duration,
    /// `fail_cooldown`.
    pub(crate) fail_cooldown: Duration,
    /// `success_cooldown`.
    pub(crate) success_cooldown: Duration,
    /// Who is told instead of `mail.to`; empty: `mail.to`.
    pub(crate) to: Vec<String>,
    /// The command as a person would type it.
    pub(crate) command: String,
}

/// A chain's name, user and the rules of its tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ChainRules {
    /// The chain's name.
    pub(crate) name: String,
    /// Who its tasks run as, for people.
    pub(crate) user: String,
    /// Whether a failure starts the chain over.
    pub(crate) starts_over: bool,
    /// Names and rules, in the order of the chain.
    pub(crate) tasks: Vec<(String, Rules)>,
    /// For the failures of the chain's own process: the shortest clocks of its tasks, and the
    /// recipients of all of them.
    pub(crate) whole: Rules,
}

impl ChainRules {
    /// The rules of every chain, in the order of the file.
    pub(crate) fn all(config: &Config) -> Vec<ChainRules> {
        let admins = config.mail.as_ref().map_or(&[][..], |mail| &mail.to);
        config.chains.iter().map(|chain| ChainRules::of(chain, admins)).collect()
    }

    pub(crate) fn of(chain: &Chain, admins: &[String]) -> ChainRules {
        let tasks: Vec<(String, Rules)> =
            chain.tasks.iter().map(|task| (task.name.clone(), Rules::of(task))).collect();
        let shortest = |of: fn(&Rules) -> Duration| tasks.iter().map(|(_, rules)| of(rules)).min();
        let mut to: Vec<String> = Vec::new();
        for (_, rules) in &tasks {
            let told = if rules.to.is_empty() { admins } else { &rules.to };
            for address in told {
                if !to.contains(address) {
                    to.push(address.clone());
                }
            }
        }
        let whole = Rules {
            limit: shortest(|rules| rules.limit).unwrap_or(SHORTEST),
            remind: shortest(|rules| rules.remind).unwrap_or(SHORTEST),
            forget_after: tasks.iter().map(|(_, r)| r.forget_after).max().unwrap_or_default(),
            to,
            ..Rules::default()
        };
        let user = match &chain.user {
            UserSpec::Current => "whoever started the runner".to_owned(),
            UserSpec::Name(name) => name.clone(),
            UserSpec::Id(id) => format!("uid {id}"),
        };
        let starts_over = chain.on_failure == OnFailure::FirstTask;
        ChainRules { name: chain.name.clone(), user, starts_over, tasks, whole }
    }

    /// The place of a task in the chain.
    pub(crate) fn position(&self, task: &str) -> Option<usize> {
        self.tasks.iter().position(|(name, _)| name == task)
    }
}

impl Rules {
    fn of(task: &Task) -> Rules {
        Rules {
            limit: task.non_recoverable_downtime.max(SHORTEST),
            remind: task.remind_every.max(SHORTEST),
            overdue: task.overdue,
            forget_after: task.forget_after,
            fail_cooldown: task.fail_cooldown,
            success_cooldown: task.success_cooldown,
            to: task.to.clone(),
            command: typed(&task.command),
        }
    }

    /// How long a FIRST or NEW counts against the bound of both.
    pub(crate) fn window(&self) -> Duration {
        self.limit.max(Duration::from_secs(3600))
    }
}

/// A command as a person would type it; at most 500 bytes are kept.
fn typed(command: &Command) -> String {
    let mut line = match command {
        Command::Run(argv) => argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        Command::Sh(script) => format!("sh -ec {}", quoted(script)),
        Command::Call(function) => format!("call {function}"),
    };
    if line.len() > 500 {
        let cut = (0..=500).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(cut);
        line.push_str("...");
    }
    line
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
