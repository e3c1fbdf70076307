//! Children that ended. Reap, then read what is left in a dead chain's pair, then tell of its
//! death: the other order loses last words.

use super::{Child, Master, now, wall};
use crate::config::model::Level;
use crate::policy::supervisor::ExitReason;
use crate::sys::fs;
use crate::sys::oom::{Kills, Since};
use crate::sys::signals::{self, SIGCHLD, SIGCONT, SIGKILL};
use crate::sys::wait::{Change, Reaped, reap, signal_child};

/// Changes of children that are taken note of in one turn of the loop.
const PER_TURN: usize = 500;

/// Turns that a handover waits for; what changes after that, the next image hears of.
const HANDOVER_TURNS: usize = 100;

impl Master {
    /// Everything that ended, however many: signals coalesce (signal(7)). A user can make thousands end,
    /// stop and go on, so others have their turn meanwhile.
    pub(super) fn reap_children(&mut self) {
        if !self.reap_some() {
            signals::raise(SIGCHLD);
            return;
        }
        // Where chains are among them, what they left is looked for next.
        if !self.supervisor.ends_strays_next() {
            self.look_for_strays();
        }
    }

    /// Whether those were all.
    fn reap_some(&mut self) -> bool {
        for _ in 0..PER_TURN {
            match reap(true) {
                Ok(Reaped::One(change)) => self.child_changed(change),
                Ok(Reaped::Nothing | Reaped::NoChildren) => return true,
                Err(cause) => {
                    self.log.error(&format!("cannot wait for my children: {cause}"));
                    return true;
                }
            }
        }
        false
    }

    /// The last look before the handover: what ended by now is not handed over.
    pub(super) fn reap_for_handover(&mut self) {
        for _ in 0..HANDOVER_TURNS {
            if self.reap_some() {
                break;
            }
        }
        self.reap_children();
        self.act();
    }

    fn child_changed(&mut self, change: Change) {
        let (pid, reason) = match change {
            Change::Exited(pid, code) => (pid, ExitReason::Code(code)),
            Change::Killed(pid, signal) => (pid, ExitReason::Signal(signal)),
            Change::Stopped(pid) => return self.child_stopped(pid),
            Change::Continued(_) => return,
        };
        match self.children.remove(&pid) {
            Some(Child::Chain(chain)) => self.chain_exited(&chain, pid, reason),
            Some(Child::Logger) => {
                if reason != ExitReason::Code(0) || self.phase == super::Phase::Running {
                    self.log.warn(&format!("the logger ended ({reason:?}); starting it again"));
                }
                self.logger_died();
            }
            Some(Child::Mailer) => self.mailer_exited(pid, reason),
            Some(Child::Saver) => self.saver_exited(reason),
            Some(Child::Check) => self.check_exited(pid, reason),
            Some(Child::Sweep(chain, uid)) if reason == ExitReason::Code(0) => {
                self.groups.swept(&chain, uid);
            }
            Some(Child::Sweep(..) | Child::Other) => {}
            None => self.strays.reaped(pid),
        }
    }

    fn chain_exited(&mut self, chain: &str, pid: i32, reason: ExitReason) {
        if let Some(token) = self.links.get(chain).map(|link| link.token) {
            self.drain_to_the_end(token);
            self.tell_all_left_out(chain);
        }
        if let Some(link) = self.links.remove(chain) {
            self.epoll.remove(&link.socket);
            self.tokens.remove(&link.token);
        }
        self.desk.chain_down(chain);
        if let Some(loss) = self.losses.get_mut(chain) {
            // Its next process tries anew.
            loss.cause = None;
        }
        // The number may be another process's in a second.
        let _ = fs::truncate(&self.ground.run_root, &format!("{chain}.pid"));
        self.log.say(Level::Debug, Some(chain), None, &format!("process {pid} ended: {reason}"));
        if reason == ExitReason::Signal(SIGKILL)
            && let Some(why) = self.memory_was_short()
        {
            self.supervisor.explain(chain, reason, &why);
        }
        self.supervisor.exited(chain, reason, now());
    }

    /// What the kernel counts since the last look, for a death that nobody of ours asked for.
    fn memory_was_short(&mut self) -> Option<String> {
        let (before, since) = std::mem::replace(&mut self.oom_kills, (Kills::now(), wall()));
        match self.oom_kills.0.since(&before) {
            Since::InGroup(kills) | Since::OnMachine(kills) => {
                Some(format!("the kernel killed {kills} for want of memory since {since}"))
            }
            Since::Unknown => Some("perhaps by the kernel for want of memory".to_owned()),
            Since::None => None,
        }
    }

    /// A stopped child is as good as dead: its user must not be able to halt a chain unnoticed.
    fn child_stopped(&mut self, pid: i32) {
        match self.children.get(&pid) {
            Some(Child::Chain(chain)) => {
                let chain = chain.clone();
                self.supervisor.stopped(&chain);
            }
            Some(_) => {
                let _ = signal_child(pid, SIGCONT);
            }
            None => {}
        }
    }

    /// Kills everything of a chain: its group, its process, what it left.
    pub(super) fn kill_chain(&mut self, chain: &str) {
        let grouped = self.kill_group(chain);
        let pid = self.supervisor.slot(chain).and_then(|slot| slot.state.pid());
        if let Some(pid) = pid
            && self.children.get(&pid) == Some(&Child::Chain(chain.to_owned()))
        {
            let _ = signal_child(pid, SIGKILL);
        }
        self.kill_strays_of(chain);
        if self.supervisor.slot(chain).is_none_or(|slot| slot.kill_rounds <= 1) {
            let how = if grouped { " and its control group" } else { "" };
            self.log.say(Level::Warning, Some(chain), None, &format!("killed its processes{how}"));
        }
    }

    /// The chain has ended for good.
    pub(super) fn forget(&mut self, chain: &str) {
        if self.phase == super::Phase::Running {
            self.sweep_marks_of(chain);
        }
        self.losses.remove(chain);
        if let Some(group) = self.groups.own.as_ref().and_then(|cgroups| cgroups.existing(chain)) {
            let _ = group.remove();
        }
        if !self.groups.old.is_empty() && self.phase == super::Phase::Running {
            self.sweep_old_groups();
        }
        self.log.say(Level::Debug, Some(chain), None, "ended for good");
    }
}
