//! Names become numbers: who each chain, the mailer and the logger run as.

use std::collections::BTreeMap;

use crate::config::model::{Chain, GroupSpec, UserSpec};
use crate::config::{Checked, Place, Problem};
use crate::sys::account::{Account, Who, resolve as look_up};
use crate::sys::privileges::is_root;

/// The uid of the account that everybody uses who has no better idea.
const NOBODY: u32 = 65_534;

/// What the names of a configuration stand for here.
#[derive(Default)]
pub(super) struct Resolved {
    pub(super) chains: BTreeMap<String, Result<Account, String>>,
    pub(super) mail: Option<Account>,
    pub(super) log: Option<Account>,
    pub(super) control_gid: Option<u32>,
    /// Of the runner's own accounts: no start.
    pub(super) errors: Vec<Problem>,
    /// Of chains.
    pub(super) faults: Vec<(String, Problem)>,
}

/// Looks every name up, each once.
pub(super) fn resolve(checked: &Checked) -> Resolved {
    let mut resolved = Resolved::default();
    let mut known: BTreeMap<Key<'_>, Result<Account, String>> = BTreeMap::new();
    for chain in &checked.config.chains {
        let key = (&chain.user, &chain.group, &chain.groups);
        let account = known.entry(key).or_insert_with(|| chains_account(chain)).clone();
        if let Err(cause) = &account {
            let field = if cause.contains("group") && chain.groups.is_some() {
                "groups"
            } else if cause.contains("group") && chain.group.is_some() {
                "group"
            } else {
                "user"
            };
            let problem = at(checked.positions.of(&chain.name, field), cause.clone());
            let problem = match &chain.user {
                UserSpec::Name(name) if field == "user" => {
                    problem.help(format!("useradd --create-home {name}"))
                }
                _ => problem,
            };
            resolved.faults.push((chain.name.clone(), problem));
        }
        resolved.chains.insert(chain.name.clone(), account);
    }
    if let Some(mail) = &checked.config.mail {
        resolved.mail = own(checked, "mail.user", &mail.user, &mut resolved.errors);
    }
    resolved.log = own(checked, "log.user", &checked.config.log.user, &mut resolved.errors);
    if is_root() {
        keep_apart(checked, &mut resolved);
    }
    if let Some(group) = &checked.config.control_group {
        match look_up(Who::Current, Some(group_who(group)), None) {
            Ok(account) => resolved.control_gid = Some(account.gid),
            Err(cause) => {
                let place = checked.positions.top("control_group");
                let problem = at(place, cause).help("groupadd --system …, or name another group");
                resolved.errors.push(problem);
            }
        }
    }
    resolved
}

type Key<'c> = (&'c UserSpec, &'c Option<GroupSpec>, &'c Option<Vec<GroupSpec>>);

fn chains_account(chain: &Chain) -> Result<Account, String> {
    let groups: Option<Vec<Who<'_>>> =
        chain.groups.as_ref().map(|groups| groups.iter().map(group_who).collect());
    look_up(user_who(&chain.user), chain.group.as_ref().map(group_who), groups.as_deref())
}

fn user_who(user: &UserSpec) -> Who<'_> {
    match user {
        UserSpec::Current => Who::Current,
        UserSpec::Name(name) => Who::Name(name),
        UserSpec::Id(id) => Who::Id(*id),
    }
}

fn group_who(group: &GroupSpec) -> Who<'_> {
    match group {
        GroupSpec::Name(name) => Who::Name(name),
        GroupSpec::Id(id) => Who::Id(*id),
    }
}

/// The mailer's or the logger's account.
fn own(
    checked: &Checked,
    field: &str,
    user: &UserSpec,
    errors: &mut Vec<Problem>,
) -> Option<Account> {
    match look_up(user_who(user), None, None) {
        Ok(account) => Some(account),
        Err(cause) => {
            let problem = at(checked.positions.top(field), format!("`{field}`: {cause}"));
            errors.push(match user {
                UserSpec::Name(name) => problem.help(format!(
                    "useradd --system --no-create-home --shell /usr/sbin/nologin {name}"
                )),
                _ => problem,
            });
            None
        }
    }
}

/// Two names can be one account: what the file's words could not tell is told by the numbers.
fn keep_apart(checked: &Checked, resolved: &mut Resolved) {
    let config = &checked.config;
    let mail = config.mail.as_ref().map(|mail| &mail.user);
    let both =
        [("mail.user", mail, &resolved.mail), ("log.user", Some(&config.log.user), &resolved.log)];
    for (field, user, account) in both {
        let (Some(user), Some(account)) = (user, account) else { continue };
        if *user == UserSpec::Current {
            continue;
        }
        let chain = resolved
            .chains
            .iter()
            .find(|(_, other)| other.as_ref().is_ok_and(|other| other.uid == account.uid));
        let fault = match chain {
            _ if account.uid == NOBODY => "others run as nobody too".to_owned(),
            Some((chain, _)) => format!("it is also the user of the chain `{chain}`"),
            None => continue,
        };
        let place = checked.positions.top(field);
        let problem = at(place, format!("`{field}` cannot be {}: {fault}", account.name));
        resolved.errors.push(problem.help("name an account that nothing else uses"));
    }
    if let (Some(mail), Some(log), Some(user)) = (&resolved.mail, &resolved.log, mail)
        && *user != UserSpec::Current
        && mail.uid == log.uid
    {
        let place = checked.positions.top("log.user");
        let problem = at(place, "`log.user` and `mail.user` are the same account");
        resolved.errors.push(problem.help("name an account that nothing else uses"));
    }
}

/// A problem at a place; at the main file's start for what the file does not say.
pub(super) fn at(place: Option<&Place>, message: impl Into<String>) -> Problem {
    match place {
        Some(place) => Problem::error(place.file, place.span.clone(), message),
        None => Problem::of_file(0, message),
    }
}
