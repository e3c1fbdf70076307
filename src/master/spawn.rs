//! Making chain processes and signalling them: each is forked without exec and never returns here.

use std::os::fd::AsFd;
use std::time::Duration;

use super::holder::Former;
use super::{Child, Link, Master, now};
use crate::chain::{self, Setup};
use crate::config::model::Level;
use crate::sys::fork::fork_child;
use crate::sys::poll::Interest;
use crate::sys::socket;
use crate::sys::wait::signal_child;

/// How long after the check a chain's user is taken for who it was: all chains of a start or an upgrade
/// are not to ask the name service at once.
const LOOKED_UP_JUST_NOW: Duration = Duration::from_secs(10);

impl Master {
    /// Forks a chain's process; a failure is an event with backoff.
    pub(super) fn spawn_chain(&mut self, name: &str) {
        if let Err(cause) = self.try_spawn(name) {
            let what = format!("cannot start its process: {cause}");
            self.supervisor.cannot_spawn(name, &what, now());
        }
    }

    fn try_spawn(&mut self, name: &str) -> std::io::Result<()> {
        let Some(index) = self.index.get(name).copied() else {
            return Err(std::io::Error::other("it is not in the configuration"));
        };
        let (ours, theirs) = socket::packet_pair()?;
        let token = self.next_token;
        self.epoll.add(&ours, token, Interest::Read)?;
        let slot = self.supervisor.slot(name);
        let resume = slot.and_then(|slot| slot.resume.clone());
        let chain = &self.plan.config.chains[index];
        let account = self.plan.accounts.get(name).and_then(|found| found.as_ref().ok());
        let users = |former: &Former| former.users.iter().copied().collect();
        let former = &self.groups.former;
        let others: Vec<_> = self.groups.former_with_a_command_of(chain).collect();
        let setup = Setup {
            chain,
            account,
            look_again: now() >= self.plan_since + LOOKED_UP_JUST_NOW,
            master: i32::try_from(std::process::id()).unwrap_or(0),
            reports: theirs,
            run_root: &self.ground.run_root,
            locks: &self.ground.locks,
            lane: Some(self.lanes.output_in.as_fd()),
            link: self.link.as_ref().map(AsFd::as_fd),
            instance: &self.instance,
            cgroups: self.groups.own.as_ref(),
            old_cgroups: &self.groups.old,
            search: self.groups.unclean && !slot.is_some_and(|slot| slot.was_ready),
            former_users: former.get(name).map(users).unwrap_or_default(),
            others: others.iter().map(|(name, former)| (*name, users(former))).collect(),
            until: self.groups.until,
            resume: resume.as_ref().map(|resume| (resume.next.as_str(), resume.until)),
        };
        let pid = match fork_child(|| chain::run(setup)) {
            Ok(pid) => pid,
            Err(cause) => {
                self.epoll.remove(&ours);
                return Err(cause);
            }
        };
        self.next_token += 1;
        self.tokens.insert(token, name.to_owned());
        let looked_for = others.iter().map(|(name, _)| (*name).to_owned()).chain([name.to_owned()]);
        let link = Link { looked_for: looked_for.collect(), ..Link::new(ours, token) };
        self.links.insert(name.to_owned(), link);
        self.children.insert(pid, Child::Chain(name.to_owned()));
        self.supervisor.spawned(name, pid, now());
        let text = format!("started as process {pid}");
        self.log.say(Level::Debug, Some(name), None, &text);
        Ok(())
    }

    pub(super) fn signal_chain(&mut self, chain: &str, pid: i32, signal: i32) {
        // Only while it is our unreaped child does its number mean it.
        if self.children.get(&pid) == Some(&Child::Chain(chain.to_owned()))
            && let Err(cause) = signal_child(pid, signal)
        {
            let text = format!("cannot send signal {signal} to process {pid}: {cause}");
            self.log.say(Level::Warning, Some(chain), None, &text);
        }
    }
}
