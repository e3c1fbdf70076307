//! Accounts: who a process becomes. Look-ups go through the C library's name service (getpwnam(3),
//! getgrouplist(3)), which may block: only children of the master call them.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};

/// Everything that a change of identity needs, as plain numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Account {
    /// The login name; the number as text for an id without one.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, exactly.
    pub groups: Vec<u32>,
    /// Home folder; `/` without one.
    pub home: PathBuf,
    /// Login shell; `/bin/sh` without one.
    pub shell: PathBuf,
}

impl Account {
    /// The account of the calling process, with the groups it has now.
    ///
    /// # Errors
    /// When the groups cannot be read or the name service fails.
    pub fn current() -> Result<Account, String> {
        let uid = Uid::effective();
        let found = User::from_uid(uid).map_err(|e| format!("cannot look up user {uid}: {e}"))?;
        let groups = nix::unistd::getgroups().map_err(|e| format!("cannot read my groups: {e}"))?;
        let gid = Gid::effective();
        Ok(Account::from_parts(found, uid, gid, groups))
    }

    /// By login name, with the groups of initgroups(3). `Ok(None)`: no such user.
    ///
    /// # Errors
    /// When the name service fails.
    pub fn by_name(name: &str) -> Result<Option<Account>, String> {
        let found =
            User::from_name(name).map_err(|e| format!("cannot look up user {name}: {e}"))?;
        found.map(Account::with_own_groups).transpose()
    }

    /// By number. An id without an account gets itself as group and no other.
    ///
    /// # Errors
    /// When the name service fails.
    pub fn by_id(id: u32) -> Result<Account, String> {
        let uid = Uid::from_raw(id);
        match User::from_uid(uid).map_err(|e| format!("cannot look up user {id}: {e}"))? {
            Some(user) => Account::with_own_groups(user),
            None => Ok(Account::from_parts(None, uid, Gid::from_raw(id), vec![Gid::from_raw(id)])),
        }
    }

    fn with_own_groups(user: User) -> Result<Account, String> {
        let name =
            CString::new(user.name.clone()).map_err(|_| "a user name holds NUL".to_owned())?;
        let groups = getgrouplist(&name, user.gid)
            .map_err(|e| format!("cannot look up the groups of {}: {e}", user.name))?;
        let (uid, gid) = (user.uid, user.gid);
        Ok(Account::from_parts(Some(user), uid, gid, groups))
    }

    fn from_parts(user: Option<User>, uid: Uid, gid: Gid, groups: Vec<Gid>) -> Account {
        let mut groups: Vec<u32> = groups.into_iter().map(Gid::as_raw).collect();
        groups.sort_unstable();
        groups.dedup();
        let (name, home, shell) = match user {
            Some(user) => (user.name, user.dir, user.shell),
            None => (uid.to_string(), PathBuf::from("/"), PathBuf::new()),
        };
        let or = |path: PathBuf, default: &str| {
            if path.as_os_str().is_empty() { PathBuf::from(default) } else { path }
        };
        Account {
            name,
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            groups,
            home: or(home, "/"),
            shell: or(shell, "/bin/sh"),
        }
    }
}

/// A group's number. `Ok(None)`: no such group.
///
/// # Errors
/// When the name service fails.
pub fn group_id(name: &str) -> Result<Option<u32>, String> {
    let found = Group::from_name(name).map_err(|e| format!("cannot look up group {name}: {e}"))?;
    Ok(found.map(|group| group.gid.as_raw()))
}

/// A user's login name, for people.
pub fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// Who is meant, before anything is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// Whoever runs this process.
    Current,
    /// An account's or a group's name.
    Name(&'a str),
    /// Its number.
    Id(u32),
}

/// Looks up everything that becoming `user` needs, with another primary group or other
/// supplementary groups where those are given (an empty list: none).
///
/// # Errors
/// For people, when a name does not exist or the name service fails.
pub fn resolve(
    user: Who<'_>,
    group: Option<Who<'_>>,
    groups: Option<&[Who<'_>]>,
) -> Result<Account, String> {
    let mut account = match user {
        // Root's own groups, not those that whoever started this process had.
        Who::Current if Uid::effective().is_root() => Account::by_id(0)?,
        Who::Current => Account::current()?,
        Who::Name(name) => {
            Account::by_name(name)?.ok_or_else(|| format!("there is no user {name:?}"))?
        }
        Who::Id(id) => Account::by_id(id)?,
    };
    if let Some(group) = group {
        account.gid = resolve_group(group)?;
    }
    if let Some(groups) = groups {
        account.groups =
            groups.iter().map(|group| resolve_group(*group)).collect::<Result<_, _>>()?;
    }
    if account.uid == 0 || !account.groups.contains(&0) || groups.is_some() {
        return Ok(account);
    }
    // Only what the group database really says may leave root's group in the list.
    let listed = Group::from_gid(Gid::from_raw(0))
        .ok()
        .flatten()
        .is_some_and(|root| root.mem.contains(&account.name));
    if !listed && account.gid != 0 && !matches!(user, Who::Current) {
        account.groups.retain(|group| *group != 0);
    }
    Ok(account)
}

fn resolve_group(group: Who<'_>) -> Result<u32, String> {
    match group {
        Who::Current => Ok(Gid::effective().as_raw()),
        Who::Id(id) => Ok(id),
        Who::Name(name) => group_id(name)?.ok_or_else(|| format!("there is no group {name:?}")),
    }
}
