//! Workers, tried: each is started with its chain's own rights and surroundings until it is ready,
//! so that a function that cannot be imported is told before it fails, and what functions say of
//! themselves is known. Chains that would start the same worker share one trial. Nothing is run;
//! importing runs what stands in the modules, as it will when the chain starts.
//!
//! The check itself has a deadline, so all trials together have what it left of [`BUDGET`]. What there
//! was no time for is told as a warning.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::accounts::at;
use super::preflight::variables;
use crate::config::model::{Chain, Command, Worker};
use crate::config::{Checked, Problem, Source, locate};
use crate::policy::environment::{Login, Variable, environment};
use crate::policy::{fingerprint, options, safe};
use crate::sys::account::Account;
use crate::sys::fork::{fork_child, leave};
use crate::sys::limits;
use crate::sys::poll::wait_readable;
use crate::sys::privileges::{become_subreaper, die_with_parent, drop_to};
use crate::sys::signals::{self, SIGKILL};
use crate::sys::spawn::reserve_low_descriptors;
use crate::sys::tree::signal_descendants;
use crate::sys::wait::{Reaped, end_child, reap};
use crate::sys::{clock, pipe, stdio};
use crate::wire::outcome::Outcome;
use crate::wire::worker::{Ready, Request};
use crate::worker::{self, Ground, Heard, Live, Program, manner};

/// When the last trial ends, after the check began.
const BUDGET: Duration = Duration::from_secs(22);

/// How long a worker that is ready may take to end after STOP.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bytes of a worker's standard error that are kept.
const MOST_SAID: usize = 16 * 1024;

/// What the trials gave.
#[derive(Default)]
pub(super) struct Tried {
    /// Faults by chain.
    pub(super) faults: Vec<(String, Problem)>,
    pub(super) warnings: Vec<Problem>,
    /// What holds for each function, one line each.
    pub(super) options: Vec<String>,
}

/// One worker and all chains that would start it.
struct Trial<'c> {
    account: &'c Account,
    worker: &'c Worker,
    chains: Vec<&'c Chain>,
}

/// How a worker did.
#[derive(Debug, Serialize, Deserialize)]
enum Found {
    Ready(Ready),
    /// It cannot be used, in words that go on from "as USER: ".
    Broken(String),
    /// There was no more time.
    Late,
}

/// Tries the workers of all chains but those in `faulty`, whose surroundings are wrong. `begun`: when
/// the check began, on the monotonic clock.
pub(super) fn check(
    begun: Duration,
    checked: &Checked,
    sources: &[Source],
    accounts: &BTreeMap<String, Result<Account, String>>,
    faulty: impl Fn(&str) -> bool,
) -> Tried {
    let mut tried = Tried::default();
    let mut trials: Vec<Trial<'_>> = Vec::new();
    for chain in &checked.config.chains {
        let account = accounts.get(&chain.name).and_then(|found| found.as_ref().ok());
        let (Some(worker), Some(account)) = (&chain.worker, account) else { continue };
        if worker::calls(chain).is_empty() || faulty(&chain.name) {
            continue;
        }
        let trial = Trial { account, worker, chains: vec![chain] };
        match trials.iter_mut().find(|known| known.is_like(&trial)) {
            Some(known) => known.chains.push(chain),
            None => trials.push(trial),
        }
    }
    let deadline = begun.saturating_add(BUDGET);
    for trial in &trials {
        match trial.run(deadline) {
            Found::Ready(ready) => trial.tell(checked, sources, &ready, &mut tried),
            Found::Broken(what) => {
                for chain in &trial.chains {
                    let place = checked.positions.of(&chain.name, "worker");
                    let message = format!("as {}: {what}", trial.account.name);
                    tried.faults.push((chain.name.clone(), at(place, message)));
                }
            }
            Found::Late => {
                for chain in &trial.chains {
                    let place = checked.positions.of(&chain.name, "worker");
                    let mut problem = at(place, "the check had no time to see this worker ready");
                    problem.severity = crate::config::Severity::Warning;
                    tried.warnings.push(problem);
                }
            }
        }
    }
    tried
}

impl<'c> Trial<'c> {
    fn is_like(&self, other: &Trial<'_>) -> bool {
        let (ours, theirs) = (self.chains[0], other.chains[0]);
        self.account == other.account
            && self.worker.program == other.worker.program
            && (&ours.path, &ours.env, &ours.env_file, &ours.cwd, &ours.rlimits)
                == (&theirs.path, &theirs.env, &theirs.env_file, &theirs.cwd, &theirs.rlimits)
    }

    /// What the worker finds. Looked at by the child that has become the account: what a user's
    /// paths lead to may be changed at any moment, and is opened with no other rights than that one's.
    fn surroundings(&self) -> Result<(Vec<Variable>, PathBuf), String> {
        let (account, chain) = (self.account, self.chains[0]);
        let login = Login {
            name: &account.name,
            uid: account.uid,
            home: &account.home,
            shell: &account.shell,
        };
        let from_file = chain.env_file.as_deref().map(variables).transpose()?.unwrap_or_default();
        let mut variables = environment(chain, login, &from_file, "");
        // A process of the check is none of the chain's.
        variables.retain(|variable| !variable.name.starts_with("RUNNER_"));
        let home = || if account.home.is_dir() { account.home.clone() } else { "/".into() };
        Ok((variables, chain.cwd.clone().unwrap_or_else(home)))
    }

    fn calls(&self) -> Vec<&'c str> {
        let mut calls: Vec<&str> = Vec::new();
        for name in self.chains.iter().flat_map(|chain| worker::calls(chain)) {
            if !calls.contains(&name) {
                calls.push(name);
            }
        }
        calls
    }

    /// In a child that has become the account and dies with this process.
    fn run(&self, deadline: Duration) -> Found {
        let left = deadline.saturating_sub(clock::monotonic());
        if left.is_zero() {
            return Found::Late;
        }
        let cannot = |cause: io::Error| Found::Broken(format!("cannot try the worker: {cause}"));
        let (mut reader, writer) = match io::pipe() {
            Ok(ends) => ends,
            Err(cause) => return cannot(cause),
        };
        let parent = i32::try_from(std::process::id()).unwrap_or(0);
        let own = Account::current().is_ok_and(|me| {
            (me.uid, me.gid, &me.groups)
                == (self.account.uid, self.account.gid, &self.account.groups)
        });
        let forked = fork_child(|| -> Infallible {
            signals::block();
            let dropped = if own { Ok(()) } else { drop_to(self.account) };
            let ready = dropped.and_then(|()| die_with_parent(parent)).and_then(|()| {
                become_subreaper()?;
                self.start(deadline)
            });
            let found = ready.unwrap_or_else(Found::Broken);
            let told = serde_json::to_vec(&found).unwrap_or_default();
            leave(i32::from((&writer).write_all(&told).is_err()))
        });
        let child = match forked {
            Ok(child) => child,
            Err(cause) => return cannot(cause),
        };
        drop(writer);
        let patience = left.saturating_add(2 * GOODBYE);
        let until = clock::monotonic().saturating_add(patience);
        let mut told = Vec::new();
        loop {
            let left = until.saturating_sub(clock::monotonic());
            let mut chunk = [0_u8; 4096];
            match wait_readable(&[reader.as_fd()], Some(left)) {
                Ok(ready) if ready.first() == Some(&true) => match reader.read(&mut chunk) {
                    Ok(length) if length > 0 => told.extend_from_slice(&chunk[..length]),
                    _ => break,
                },
                _ => break,
            }
        }
        end_child(child);
        serde_json::from_slice(&told).unwrap_or(Found::Late)
    }

    /// The child's part: starts the worker, waits until it is ready, ends it and all of it.
    fn start(&self, deadline: Duration) -> Result<Found, String> {
        reserve_low_descriptors(5).map_err(|cause| format!("cannot open /dev/null: {cause}"))?;
        let chain = self.chains[0];
        let limits = chain
            .rlimits
            .iter()
            .map(|(name, value)| limits::for_task(name, value.soft, value.hard))
            .collect::<Result<Vec<_>, _>>()?;
        let (variables, cwd) = self.surroundings()?;
        let ground =
            Ground { variables: &variables, cwd: &cwd, death_signal: SIGKILL, limits: &limits };
        let program = Program::new(self.worker, &self.calls(), ground)?;
        let null = stdio::open_null().map_err(|cause| format!("cannot open /dev/null: {cause}"))?;
        let (stderr, sink) =
            pipe::output_pipe().map_err(|cause| format!("cannot make a pipe: {cause}"))?;
        let started = program
            .start([null.as_fd(), null.as_fd(), sink.as_fd()])
            .map_err(|failure| format!("cannot start the worker: {failure}"))?;
        drop(sink);
        let mut live = Live::new(started, clock::monotonic());
        let mut said = Vec::new();
        let found = self.listen(&mut live, &stderr, &mut said, deadline);
        if matches!(found, Found::Ready(_)) && live.ask(Request::Stop).is_ok() {
            let until = clock::monotonic().saturating_add(GOODBYE);
            while !exited(&mut live) && clock::monotonic() < until {
                let _ = wait_readable(&[], Some(Duration::from_millis(10)));
                hear(&stderr, &mut said);
            }
        }
        for _ in 0..100 {
            if matches!(reap(false), Ok(Reaped::NoChildren)) {
                break;
            }
            signal_descendants(&[], SIGKILL);
            let _ = wait_readable(&[], Some(Duration::from_millis(10)));
        }
        Ok(found)
    }

    fn listen(
        &self,
        live: &mut Live,
        stderr: &OwnedFd,
        said: &mut Vec<u8>,
        deadline: Duration,
    ) -> Found {
        let ready_by = live.started.saturating_add(self.worker.ready_timeout);
        loop {
            let now = clock::monotonic();
            while live.hear(now) {}
            hear(stderr, said);
            match live.next(now) {
                Some(Heard::Ready(ready)) => return Found::Ready(ready),
                Some(Heard::Broken(what)) => return Found::Broken(format!("the worker {what}")),
                Some(Heard::Done | Heard::Raised(_)) | None => {}
            }
            if let (true, Some(change)) = (exited(live), live.exited) {
                while live.hear(now) {}
                hear(stderr, said);
                let what = format!("the worker {} before it was ready", manner(change));
                if said.trim_ascii().is_empty() {
                    return Found::Broken(what);
                }
                let told = fingerprint::of(&Outcome::Raised, said).message;
                return Found::Broken(format!("{what}: {told}"));
            }
            if now >= ready_by {
                let patience = humantime::format_duration(self.worker.ready_timeout);
                return Found::Broken(format!("the worker was not ready after {patience}"));
            }
            if now >= deadline {
                return Found::Late;
            }
            // Its exit is not told by a descriptor.
            let left = ready_by.min(deadline).saturating_sub(now);
            let replies: Vec<_> = live.source().into_iter().collect();
            let _ = wait_readable(&replies, Some(left.min(Duration::from_millis(20))));
        }
    }

    fn tell(&self, checked: &Checked, sources: &[Source], ready: &Ready, tried: &mut Tried) {
        for chain in &self.chains {
            for task in &chain.tasks {
                let Command::Call(name) = &task.command else { continue };
                if let Some(raised) = ready.errors.get(name) {
                    let field = format!("tasks.{}.command", task.name);
                    let place = checked.positions.of(&chain.name, &field);
                    let said = safe::line(raised.text().trim(), 300);
                    let message = format!("as {}: cannot import {name}: {said}", self.account.name);
                    tried.faults.push((chain.name.clone(), at(place, message)));
                    continue;
                }
                let own = ready.tasks.get(name).copied().unwrap_or_default();
                let line = options::describe(task, &own, |field| {
                    let field = format!("tasks.{}.{field}", task.name);
                    let place = checked.positions.of(&chain.name, &field);
                    place.map_or_else(String::new, |place| locate(place, sources))
                });
                tried.options.push(format!("chain {}: {line}", chain.name));
            }
        }
    }
}

/// Reaps whatever has ended; whether the worker has.
fn exited(live: &mut Live) -> bool {
    use crate::sys::wait::Change;
    while let Ok(Reaped::One(change)) = reap(false) {
        if let Change::Exited(pid, _) | Change::Killed(pid, _) = change
            && pid == live.pid
        {
            live.exited = Some(change);
        }
    }
    live.exited.is_some()
}

/// Reads what is there and keeps the end of it.
fn hear(stderr: &OwnedFd, said: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    for _ in 0..64 {
        let pipe::Read::Bytes(count) = pipe::read(stderr, &mut buffer) else { return };
        said.extend_from_slice(&buffer[..count]);
        let surplus = said.len().saturating_sub(MOST_SAID);
        said.drain(..surplus);
    }
}
