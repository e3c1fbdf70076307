//! The waiting verbs: the master is asked for its status again and again until what was asked for
//! has come to pass. So a wait survives the master's re-exec, and costs the master nothing while
//! nobody waits.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cli::WaitFor;
use super::talk::{Failure, Master};
use crate::wire::control::{Answer, ChainStatus, Request, Status, Wait};
use crate::wire::safe::safe_line;

/// How often the master is asked.
const EVERY: Duration = Duration::from_millis(200);

/// How long a master may be away between its exec and its new socket.
const AWAY: Duration = Duration::from_secs(60);

/// How long an upgrade may take to be decided: one that was begun before it has 30 s for its check
/// and 30 s more to die, and so has this one.
const DECIDING: Duration = Duration::from_secs(150);

/// What a verb waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The chain has a process, and that is set up.
    Started,
    /// The chain has none.
    Stopped,
    /// The chain is of a later generation, and its old process is gone; a chain that is held has
    /// none.
    Replaced,
}

impl Until {
    fn holds(self, before: Option<&ChainStatus>, now: &ChainStatus) -> bool {
        let held = matches!(now.state.as_str(), "stopped" | "paused");
        match self {
            Until::Started => now.pid.is_some() && now.ready && now.state != "draining",
            Until::Stopped => now.pid.is_none() && held,
            Until::Replaced => {
                let newer = before.is_none_or(|before| now.generation > before.generation);
                let newer = newer && (now.ready || now.pid.is_none());
                // A held chain has no process that could be an old one.
                now.state != "draining" && (newer || (held && now.pid.is_none()))
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Until::Started => "started",
            Until::Stopped => "stopped",
            Until::Replaced => "replaced",
        }
    }
}

/// Waits until all of `before`'s chains are as wanted; `say` hears of each one. A chain that is
/// gone from the configuration counts as done.
///
/// # Errors
/// When the master goes away for good.
pub fn wait(
    master: &Master,
    before: &Status,
    until: Until,
    mut say: impl FnMut(&str),
) -> Result<(), Failure> {
    let mut open: Vec<&ChainStatus> = before.chains.iter().collect();
    let all = open.len();
    let (mut done, mut told) = (0, HashSet::new());
    loop {
        let now = patiently(master)?;
        let mut still = Vec::new();
        for chain in open {
            let found = now.chains.iter().find(|now| now.name == chain.name);
            if let Some(found) = found.filter(|found| !until.holds(Some(chain), found)) {
                if until == Until::Started && found.state == "backoff" && told.insert(&chain.name) {
                    let why = safe_line(found.reason.as_deref().unwrap_or("its process died"));
                    say(&format!("{}: does not start: {why}; still waiting", chain.name));
                }
                still.push(chain);
                continue;
            }
            let word = if found.is_some() { until.word() } else { "gone" };
            done += 1;
            say(&format!("{}: {word} ({done} of {all})", chain.name));
        }
        if still.is_empty() {
            return Ok(());
        }
        open = still;
        sleep(EVERY);
    }
}

/// Asks for an upgrade and waits as long as wanted. Returns what to tell the operator.
///
/// # Errors
/// When it is refused.
pub fn reload(
    master: &Master,
    request: &Request,
    until: Option<WaitFor>,
    mut say: impl FnMut(&str),
) -> Result<String, Failure> {
    let Request::Reload { chains, dry_run, .. } = request else {
        return Err(Failure::Other("no reload".to_owned(), 1));
    };
    if *dry_run || until.is_none() {
        return done(master.ask(request, say)?);
    }
    let mut before = master.status(chains)?;
    let text = match master.ask(request, &mut say) {
        Ok(answer) => done(answer)?,
        Err(Failure::Ended) => String::new(),
        Err(failure) => return Err(failure),
    };
    let generation = decided(master, request, &before)?;
    if until == Some(WaitFor::Drained) {
        // A replacement by an upgrade that was asked for before this one is none.
        for chain in &mut before.chains {
            chain.generation = chain.generation.max(generation.saturating_sub(1));
        }
        wait(master, &before, Until::Replaced, &mut say)?;
    }
    Ok(if text.is_empty() { "upgrade accepted".to_owned() } else { text })
}

/// How the wire says what the command line said.
pub fn on_the_wire(until: Option<WaitFor>) -> Wait {
    if until.is_some() { Wait::Decided } else { Wait::No }
}

fn done(answer: Answer) -> Result<String, Failure> {
    match answer {
        Answer::Done(text) => Ok(text),
        Answer::Text(lines) => Ok(lines.join("\n")),
        other => Err(super::talk::unexpected(&other)),
    }
}

/// Waits for the decision about an upgrade that was begun after `before` was asked for: one that was
/// already going may have read the files before their last change. Returns its generation.
fn decided(master: &Master, request: &Request, before: &Status) -> Result<u64, Failure> {
    let began = Instant::now();
    while began.elapsed() < DECIDING {
        let now = patiently(master)?;
        if let Some(decision) = decision(before, &now) {
            return decision;
        }
        if now.master.upgrades_begun == now.master.upgrades_decided {
            // The exec of another's upgrade closed the connection before the request was looked at.
            match master.ask(request, |_| ()) {
                Ok(_) | Err(Failure::Ended | Failure::NotRunning(_) | Failure::Silent) => {}
                Err(failure) => return Err(failure),
            }
        }
        sleep(EVERY);
    }
    Err(Failure::Silent)
}

/// What has become of it; `None`: nothing yet.
fn decision(before: &Status, now: &Status) -> Option<Result<u64, Failure>> {
    let (before, now) = (&before.master, &now.master);
    // A master that was started anew counts anew, and an older program does not count at all: the
    // one has read the files at its start, the other tells by its generation.
    let anew = now.pid != before.pid || now.since != before.since;
    let uncounted = now.upgrades_begun < before.upgrades_begun;
    if anew || (uncounted && now.generation > before.generation) {
        return Some(Ok(now.generation));
    }
    let last = now.last_upgrade.as_ref()?;
    let is_newer = match uncounted {
        true => Some(last) != before.last_upgrade.as_ref(),
        false => now.upgrades_decided > before.upgrades_begun,
    };
    is_newer.then(|| match last.outcome.as_str() {
        "accepted" => Ok(now.generation),
        _ => {
            let cause = last.cause.as_deref().unwrap_or_default();
            Err(Failure::Refused(format!("upgrade refused: {cause}"), 1))
        }
    })
}

/// Waits until no master listens any more.
///
/// # Errors
/// When it cannot be asked.
pub fn gone(master: &Master) -> Result<(), Failure> {
    loop {
        match master.status(&[]) {
            Ok(_) | Err(Failure::Ended | Failure::Silent) => sleep(EVERY),
            Err(Failure::NotRunning(_)) => return Ok(()),
            Err(failure) => return Err(failure),
        }
    }
}

/// The whole status, from a master that may be away for the length of a re-exec.
fn patiently(master: &Master) -> Result<Status, Failure> {
    let began = Instant::now();
    loop {
        match master.status(&[]) {
            Err(Failure::NotRunning(_) | Failure::Ended | Failure::Silent)
                if began.elapsed() < AWAY =>
            {
                sleep(EVERY);
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::sample;
    use super::*;

    #[test]
    fn what_is_waited_for() {
        let chain = |state: &str, pid: Option<i32>, generation: u64| {
            let mut chain = sample().chains.remove(4);
            (chain.state, chain.pid, chain.generation) = (state.to_owned(), pid, generation);
            chain
        };
        let before = chain("running", Some(1), 3);
        let mut starting = chain("running", Some(1), 3);
        starting.ready = false;
        let mut started_anew = chain("running", Some(2), 4);
        started_anew.ready = false;
        for (until, now, done) in [
            (Until::Started, chain("running", Some(1), 3), true),
            (Until::Started, starting, false),
            (Until::Started, chain("backoff", None, 3), false),
            (Until::Started, chain("draining", Some(1), 3), false),
            (Until::Stopped, chain("stopped", None, 3), true),
            (Until::Stopped, chain("draining", Some(1), 3), false),
            (Until::Replaced, chain("running", Some(1), 3), false),
            (Until::Replaced, chain("draining", Some(1), 3), false),
            (Until::Replaced, chain("draining", Some(1), 4), false),
            (Until::Replaced, chain("running", Some(2), 4), true),
            (Until::Replaced, started_anew, false),
            // A new program that does not come up is told by status, not waited for.
            (Until::Replaced, chain("backoff", None, 4), true),
            // Paused: nothing is left to replace.
            (Until::Replaced, chain("paused", None, 3), true),
            (Until::Replaced, chain("paused", Some(1), 3), false),
        ] {
            assert_eq!(until.holds(Some(&before), &now), done, "{until:?} {now:?}");
        }
    }
    #[test]
    fn only_an_upgrade_that_was_begun_later_decides() {
        let status = |begun: u64, decided: u64, generation: u64, outcome: &str| {
            let mut status = sample();
            (status.master.upgrades_begun, status.master.upgrades_decided) = (begun, decided);
            status.master.generation = generation;
            status.master.last_upgrade.as_mut().unwrap().outcome = outcome.to_owned();
            status
        };
        let told = |before: &Status, now: &Status| {
            decision(before, now).map(|decision| decision.map_err(|failure| failure.to_string()))
        };
        let before = status(4, 3, 7, "accepted");
        // The fourth was being checked when this one was asked for.
        assert_eq!(told(&before, &status(4, 3, 7, "accepted")), None);
        assert_eq!(told(&before, &status(5, 4, 8, "accepted")), None);
        assert_eq!(told(&before, &status(4, 4, 7, "refused")), None);
        assert_eq!(told(&before, &status(5, 5, 9, "accepted")), Some(Ok(9)));
        let refused = Some(Err("upgrade refused: unknown field `usr`".to_owned()));
        assert_eq!(told(&before, &status(5, 5, 8, "refused")), refused);
        // An older program does not count, and one that is started anew begins at nothing.
        assert_eq!(told(&before, &status(0, 0, 8, "accepted")), Some(Ok(8)));
        let mut anew = status(0, 0, 1, "accepted");
        (anew.master.pid, anew.master.last_upgrade) = (8, None);
        assert_eq!(told(&before, &anew), Some(Ok(1)));
    }
}
