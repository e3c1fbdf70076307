//! Who may ask the master for what. Pure: the peer as the kernel told it, the request, and who
//! owns which chain go in; a permission with the chains it is for, or the refusal, comes out.
//!
//! | who | may |
//! |---|---|
//! | root, the account the master runs as, members of `control_group` | everything |
//! | a chain's own user | see, restart, pause, resume and run that chain |
//! | anybody else | nothing |

use crate::sys::peer::Peer;
use crate::wire::control::{Answer, Request};
use crate::wire::select::select;

/// runnerctl's exit status for a chain or task that does not exist.
pub const EXIT_UNKNOWN: u8 = 4;

/// runnerctl's exit status for a request without the right to it (`EX_NOPERM` of sysexits.h).
pub const EXIT_NO_RIGHT: u8 = 77;

/// What the decision needs to know of the running configuration.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// The master's own effective user id.
    pub own_uid: u32,
    /// The number of `control_group`.
    pub control_gid: Option<u32>,
    /// Every chain's name and its user's id, where that is known.
    pub chains: &'a [(&'a str, Option<u32>)],
}

/// Decides. `Ok` holds the names of the chains that the request is for, globs resolved, in the
/// order of `access.chains` (for `status` and `notices` without names: all that the peer may see);
/// it is empty for requests that concern no chain.
///
/// # Errors
/// The answer to give: no right (77), or no such chain (4).
pub fn authorise(
    peer: &Peer,
    request: &Request,
    access: &Access<'_>,
) -> Result<Vec<String>, Answer> {
    let all = may_do_all(peer, access.own_uid, access.control_gid);
    let visible = || {
        let own = access.chains.iter().filter(|(_, uid)| all || *uid == Some(peer.uid));
        own.map(|(name, _)| *name).collect::<Vec<&str>>()
    };
    if !all && visible().is_empty() {
        return Err(no_right(
            "only root, the master's own account, members of control_group and the users of chains may talk to this master",
        ));
    }
    if !all && !for_chain_users(request) {
        return Err(no_right(
            "a chain's user may see, restart, pause, resume and run its own chains; this needs root or control_group",
        ));
    }
    let named: Vec<String> = match request {
        Request::Status { chains } if chains.is_empty() => vec!["*".to_owned()],
        Request::Reload { chains, .. } if chains.is_empty() => return Ok(Vec::new()),
        Request::Status { chains }
        | Request::Reload { chains, .. }
        | Request::Start { chains }
        | Request::Stop { chains, .. }
        | Request::Restart { chains, .. } => chains.clone(),
        Request::Pause { chain, .. }
        | Request::Resume { chain }
        | Request::Run { chain, .. }
        | Request::Silence { chain, .. }
        | Request::Explain { chain }
        | Request::Options { chain }
        | Request::History { chain } => vec![chain.clone()],
        Request::Notices
        | Request::MailList
        | Request::MailFlush
        | Request::MailTest
        | Request::LogLevel { .. }
        | Request::Shutdown { .. } => return Ok(Vec::new()),
    };
    let visible = visible();
    if visible.is_empty() && named == ["*"] {
        return Ok(Vec::new());
    }
    match select(visible, &named) {
        Ok(chains) => Ok(chains.into_iter().map(str::to_owned).collect()),
        Err(pattern) => Err(unknown(&pattern, all, access)),
    }
}

/// Whether a peer is an operator: root, the master's own account, or a member of `control_group`.
pub(super) fn may_do_all(peer: &Peer, own_uid: u32, control_gid: Option<u32>) -> bool {
    let in_group = |gid: u32| peer.gid == gid || peer.groups.contains(&gid);
    peer.uid == 0 || peer.uid == own_uid || control_gid.is_some_and(in_group)
}

fn for_chain_users(request: &Request) -> bool {
    match request {
        Request::Status { .. }
        | Request::Restart { .. }
        | Request::Pause { .. }
        | Request::Resume { .. }
        | Request::Run { .. }
        | Request::Explain { .. }
        | Request::Options { .. }
        | Request::History { .. } => true,
        Request::Reload { .. }
        | Request::Start { .. }
        | Request::Stop { .. }
        | Request::Silence { .. }
        | Request::Notices
        | Request::MailList
        | Request::MailFlush
        | Request::MailTest
        | Request::LogLevel { .. }
        | Request::Shutdown { .. } => false,
    }
}

fn no_right(why: &str) -> Answer {
    Answer::Refused { error: format!("not allowed: {why}"), exit: EXIT_NO_RIGHT }
}

/// A chain of somebody else and one that does not exist look the same to a chain's user.
fn unknown(pattern: &str, all: bool, access: &Access<'_>) -> Answer {
    let mut error = format!("no chain is named {pattern:?}");
    if !all {
        error.push_str(", or it is not yours");
    } else if let Some((_, near)) = access
        .chains
        .iter()
        .map(|(name, _)| (strsim::damerau_levenshtein(name, pattern), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
    {
        error.push_str(&format!("; did you mean {near:?}?"));
    }
    Answer::Refused { error, exit: EXIT_UNKNOWN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::Wait;

    const OWN: u32 = 500;
    const ADM: u32 = 4;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { pid: 1, uid, gid, groups: groups.to_vec() }
    }

    fn one(chain: &str) -> Vec<String> {
        vec![chain.to_owned()]
    }

    /// Every verb, asked for the chain `shop`, and whether a chain's own user may.
    fn verbs() -> Vec<(Request, bool)> {
        let chain = || "shop".to_owned();
        let reason = String::new;
        vec![
            (Request::Status { chains: one("shop") }, true),
            (Request::Restart { chains: one("shop"), now: true }, true),
            (Request::Pause { chain: chain(), millis: None, reason: reason() }, true),
            (Request::Resume { chain: chain() }, true),
            (Request::Run { chain: chain(), task: None }, true),
            (Request::Explain { chain: chain() }, true),
            (Request::Options { chain: chain() }, true),
            (Request::History { chain: chain() }, true),
            (Request::Start { chains: one("shop") }, false),
            (Request::Stop { chains: one("shop"), now: false }, false),
            (Request::Silence { chain: chain(), millis: 1, reason: reason() }, false),
            (
                Request::Reload { chains: vec![], force: false, dry_run: true, wait: Wait::No },
                false,
            ),
            (Request::Notices, false),
            (Request::MailList, false),
            (Request::MailFlush, false),
            (Request::MailTest, false),
            (Request::LogLevel { level: "debug".to_owned() }, false),
            (Request::Shutdown { now: true }, false),
        ]
    }

    #[test]
    fn every_verb_for_everybody() {
        let chains = [("mail", Some(1000)), ("shop", Some(1001)), ("lost", None)];
        let access = Access { own_uid: OWN, control_gid: Some(ADM), chains: &chains };
        let everybody = [
            ("root", peer(0, 0, &[]), [true, true]),
            ("the master's account", peer(OWN, 7, &[]), [true, true]),
            ("a member by first group", peer(1500, ADM, &[]), [true, true]),
            ("a member by another group", peer(1500, 7, &[3, ADM]), [true, true]),
            ("the chain's user", peer(1001, 1001, &[1001]), [true, false]),
            ("another chain's user", peer(1000, 1000, &[1000]), [false, false]),
            ("a stranger", peer(1002, 1001, &[1000]), [false, false]),
        ];
        for (who, peer, [as_user, as_admin]) in everybody {
            for (request, for_user) in verbs() {
                let may = if for_user { as_user } else { as_admin };
                let answer = authorise(&peer, &request, &access);
                assert_eq!(answer.is_ok(), may, "{who}: {request:?} gave {answer:?}");
            }
        }
    }

    #[test]
    fn without_a_control_group_its_number_means_nothing() {
        let access = Access { own_uid: 0, control_gid: None, chains: &[("mail", Some(1000))] };
        assert!(authorise(&peer(7, ADM, &[ADM]), &Request::MailTest, &access).is_err());
    }

    #[test]
    fn a_glob_of_a_chains_user_means_its_own_chains() {
        let chains = [("mail", Some(1000)), ("shop", Some(1001)), ("shop2", Some(1001))];
        let access = Access { own_uid: 0, control_gid: None, chains: &chains };
        let user = peer(1001, 1001, &[]);
        let all = Request::Restart { chains: one("*"), now: false };
        assert_eq!(authorise(&user, &all, &access).unwrap(), ["shop", "shop2"]);
        assert_eq!(authorise(&peer(0, 0, &[]), &all, &access).unwrap().len(), 3);
        let status = Request::Status { chains: vec![] };
        assert_eq!(authorise(&user, &status, &access).unwrap(), ["shop", "shop2"]);
    }

    #[test]
    fn an_unknown_chain_is_told_apart_from_a_missing_right_and_hides_others() {
        let chains = [("mail", Some(1000)), ("shop", Some(1001))];
        let access = Access { own_uid: 0, control_gid: None, chains: &chains };
        let error = |peer, chain: &str| match authorise(
            peer,
            &Request::Run { chain: chain.to_owned(), task: None },
            &access,
        ) {
            Err(Answer::Refused { error, exit }) => (error, exit),
            other => panic!("{other:?}"),
        };
        let root = peer(0, 0, &[]);
        assert_eq!(
            error(&root, "mial"),
            ("no chain is named \"mial\"; did you mean \"mail\"?".to_owned(), 4)
        );
        let user = peer(1001, 1001, &[]);
        assert_eq!(
            error(&user, "mail").0.replace("mail", "X"),
            error(&user, "nope").0.replace("nope", "X")
        );
        assert_eq!(error(&peer(9, 9, &[]), "mail").1, 77);
    }

    #[test]
    fn a_master_without_chains_still_answers_status() {
        let access = Access { own_uid: 0, control_gid: None, chains: &[] };
        let status = Request::Status { chains: vec![] };
        assert!(authorise(&peer(0, 0, &[]), &status, &access).unwrap().is_empty());
    }
}
