//! `show-config` and `show-env`: what the configuration on disk means, without a master.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::talk::{Failure, Master};
use crate::checker;
use crate::config::model::{Chain, Command, Task, UserSpec};
use crate::config::{self, Checked, Defaults, Loaded, env_file};
use crate::policy::environment::{Login, environment, instance_of};
use crate::policy::options::{self, Origin};
use crate::sys::account::Account;
use crate::sys::fs;
use crate::wire::control::{Answer, Request};
use crate::wire::safe::safe_line;
use crate::wire::worker::Options;

pub(super) const EXIT_UNKNOWN: u8 = 4;
const EXIT_CONFIG: u8 = 78;

/// Prints a chain's configuration with the origin of each value. What the functions of a worker
/// say of themselves is known to the master of this configuration, if one runs and may be asked.
///
/// # Errors
/// When the file is wrong or has no such chain.
pub(super) fn config(file: &Path, chain: &str) -> Result<u8, Failure> {
    let (mut checked, loaded) = load(file)?;
    let master = Master::at(&checked.config.run_root);
    let mut theirs: Vec<String> = Vec::new();
    let mut unknown_functions = false;
    if let Some(chain) = checked.config.chains.iter_mut().find(|known| known.name == chain)
        && chain.worker.is_some()
    {
        let known = options_of(&master, &chain.name);
        let is_call = |task: &Task| matches!(task.command, Command::Call(_));
        unknown_functions = known.is_empty() && chain.tasks.iter().any(is_call);
        for (task, own) in known {
            let Some(task) = chain.tasks.iter_mut().find(|known| known.name == task) else {
                continue;
            };
            for (field, _, origin, _) in options::origins(task, &own) {
                if origin == Origin::Function {
                    theirs.push(format!("tasks.{}.{field}", task.name));
                }
            }
            *task = options::apply(task, &own);
        }
    }
    let otherwise =
        |field: &str| theirs.iter().any(|known| known == field).then_some("its function");
    let text = config::show(&checked, &loaded.sources, chain, &otherwise);
    super::say(&text.ok_or_else(|| unknown(chain))?);
    if unknown_functions {
        super::say(
            "// Functions may say other values of themselves: runner-master --check asks them.",
        );
    }
    Ok(0)
}

/// Nothing, where nobody can be asked.
fn options_of(master: &Master, chain: &str) -> Vec<(String, Options)> {
    let request = Request::Options { chain: chain.to_owned() };
    let Ok(Answer::Rows(rows)) = master.ask(&request, |_| {}) else { return Vec::new() };
    let read = |row: serde_json::Value| {
        let options = serde_json::from_value(row.get("options")?.clone()).ok()?;
        Some((row.get("task")?.as_str()?.to_owned(), options))
    };
    rows.into_iter().filter_map(read).collect()
}

/// Prints the environment of a chain's tasks.
///
/// # Errors
/// When the file is wrong or has no such chain, or its user or env_file cannot be read.
pub(super) fn env(file: &Path, chain: &str) -> Result<u8, Failure> {
    let (checked, _) = load(file)?;
    let all = &checked.config.chains;
    let chain = all.iter().find(|one| one.name == chain).ok_or_else(|| unknown(chain))?;
    let account = account(&chain.user).map_err(|error| Failure::Other(error, 1))?;
    let login =
        Login { name: &account.name, uid: account.uid, home: &account.home, shell: &account.shell };
    let from_file = variables(chain).map_err(|error| Failure::Other(error, 1))?;
    let instance = instance_of(&checked.config.run_root);
    for variable in environment(chain, login, &from_file, &instance) {
        let value = quote(&variable.value);
        super::say(&format!("{}={value}  # {}", variable.name, variable.origin));
    }
    Ok(0)
}

/// Reads the configuration as the master would.
///
/// # Errors
/// When anything in it is wrong.
pub(super) fn load(file: &Path) -> Result<(Checked, Loaded), Failure> {
    // A configuration of root's is for the system's master, whoever asks.
    let roots = std::fs::metadata(file).is_ok_and(|found| found.uid() == 0);
    let mut loaded =
        if roots { checker::load_for(file, &Defaults::of_root()) } else { checker::load(file) };
    match loaded.checked.take() {
        Some(checked) => Ok((checked, loaded)),
        None => {
            let text = config::render(&loaded.problems, &loaded.sources, false);
            Err(Failure::Other(
                format!("the configuration is wrong\n{}", text.trim_end()),
                EXIT_CONFIG,
            ))
        }
    }
}

fn account(user: &UserSpec) -> Result<Account, String> {
    match user {
        UserSpec::Current => Account::current(),
        UserSpec::Id(id) => Account::by_id(*id),
        UserSpec::Name(name) => {
            Account::by_name(name)?.ok_or_else(|| format!("there is no user {name:?}"))
        }
    }
}

fn variables(chain: &Chain) -> Result<Vec<(String, String)>, String> {
    let Some(path) = &chain.env_file else { return Ok(Vec::new()) };
    // As the chain itself reads it.
    fs::read_text(path, env_file::MOST)
        .map_err(|cause| cause.to_string())
        .and_then(|text| env_file::read(&text))
        .map_err(|cause| format!("cannot read env_file {}: {cause}", path.display()))
}

/// A value as sh(1p) reads it back.
fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", safe_line(value).replace('\'', "'\\''"))
}

fn unknown(chain: &str) -> Failure {
    Failure::Other(format!("no chain is named {chain:?}"), EXIT_UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_a_shell() {
        assert_eq!(quote("/usr/bin:/bin"), "/usr/bin:/bin");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a'b c"), "'a'\\''b c'");
    }
}
