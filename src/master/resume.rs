//! The image after an upgrade: takes over children, queues and memory of the image before it, then
//! makes the chains those of the new plan.

use std::fs::File;
use std::os::unix::net::UnixListener;

use super::boot::{StartContext, patiently};
use super::ground::Ground;
use super::groups::Groups;
use super::handover::Handover;
use super::holder::Before;
use super::upgrade::{LastUpgrade, RETRY};
use super::{Child, Link, Loss, Master, Senses, now, wall};
use crate::checker::Plan;
use crate::logger::Lanes;
use crate::policy::notices::NoticeDesk;
use crate::policy::supervisor::{Slot, SlotState};
use crate::sys::exec;
use crate::sys::poll::Interest;
use crate::sys::signals::SIGKILL;
use crate::sys::wait::signal_child;

impl Master {
    /// The image after an upgrade: takes the children over, then makes the chains those of the
    /// new plan.
    ///
    /// # Errors
    /// When what the old image left is not open, or the system is short of descriptors.
    pub(super) fn take_over(
        context: StartContext,
        plan: Plan,
        ground: Ground,
        senses: Senses,
        handover: Handover,
        mut troubles: Vec<String>,
    ) -> Result<Master, String> {
        let adopt =
            |fd: i32| exec::adopt(fd).map_err(|e| format!("cannot go on: descriptor {fd}: {e}"));
        let lock = File::from(adopt(handover.lock)?);
        let [a, b, c, d] = handover.lanes;
        let lanes = Lanes::from_ends([adopt(a)?, adopt(b)?, adopt(c)?, adopt(d)?]);
        let listener = match handover.control {
            Some((listener, identity)) => Some((UnixListener::from(adopt(listener)?), identity)),
            None => None,
        };
        let lane = patiently("reach the logger", &mut troubles, || lanes.master_in.try_clone());
        let mut master = Master::assemble(context, plan, ground, lock, senses, (lanes, lane));
        master.open_control(listener);
        master.since = handover.since;
        master.upgrade.last = handover.last_upgrade;
        // An older program did not count.
        master.upgrade.begun = handover.upgrades.max(1);
        let before = Before {
            cgroups: handover.old_cgroups,
            chains: handover.old_chains,
            unclean: handover.unclean,
            until: handover.old_until,
        };
        master.groups = Groups::at(handover.cgroups, before);
        master.supervisor = handover.supervisor.restored();
        master.desk = NoticeDesk::restore(
            handover.desk,
            &master.host,
            &master.plan.config,
            now(),
            wall(),
            true,
        );
        master.log.add_dropped(handover.log_dropped, handover.log_untold);
        let lost = handover.output_lost.into_iter();
        master.losses = lost.map(|(chain, lines)| (chain, Loss { lines, cause: None })).collect();
        master.pauses = handover.pauses;
        master.strays.kept = handover.kept;
        let strays = handover.strays.into_iter();
        master.strays.left =
            strays.map(|(chain, strays)| (chain, strays.into_iter().collect())).collect();
        master.strays.seen = handover.seen.into_iter().collect();
        master.strays.seen.extend(master.strays.left.values().flatten());
        let clearing = |slot: &Slot| matches!(slot.state, SlotState::Clearing { .. });
        let slots = master.supervisor.slots().filter(|(_, slot)| clearing(slot));
        master.strays.waiting = slots.map(|(name, _)| name.to_owned()).collect();
        for pid in handover.others {
            master.children.insert(pid, Child::Other);
        }
        for (name, fd) in handover.links {
            let pid = master.supervisor.slot(&name).and_then(|slot| slot.state.pid());
            if let Some(pid) = pid {
                master.children.insert(pid, Child::Chain(name.clone()));
            }
            let socket = match adopt(fd) {
                Ok(socket) => socket,
                Err(problem) => {
                    // Nobody hears it any more: it is replaced like one that died.
                    troubles.push(format!("chain {name}: {problem}"));
                    let _ = pid.map(|pid| signal_child(pid, SIGKILL));
                    continue;
                }
            };
            let token = master.next_token;
            master.next_token += 1;
            patiently("watch a chain", &mut troubles, || {
                master.epoll.add(&socket, token, Interest::Read)
            });
            master.tokens.insert(token, name.clone());
            master.links.insert(name, Link::new(socket, token));
        }
        master.post.adopt(handover.mails);
        for mailer in handover.mailers {
            let adopted = adopt(mailer.socket)
                .and_then(|socket| master.adopt_mailer(mailer.pid, socket, mailer.ids));
            if let Err(problem) = adopted {
                // What it was given is given to another one, too.
                troubles.push(problem);
                master.children.insert(mailer.pid, Child::Other);
            }
        }
        troubles.iter().for_each(|trouble| master.log.error(trouble));
        master.replace_logger(handover.logger);
        master.reconcile(&handover.only);
        master.sweep_old_marks();
        for (chain, told) in handover.options {
            master.take_options(&chain, told);
        }
        master.pack();
        if let Some(next) = handover.next {
            // What changed on disk after the check is for this one.
            master.begin_upgrade(next);
        }
        Ok(master)
    }

    /// This image could not take over and began like a first start.
    pub(super) fn began_anew(&mut self, problem: &str) {
        let cause = format!(
            "in part: {problem}; began like a first start: runs were ended, what was not yet saved is lost"
        );
        self.log.error(&format!("upgrade refused {cause}"));
        self.desk.upgrade_refused(&cause, now(), wall());
        self.upgrade.last = Some(LastUpgrade { at: wall(), cause: Some(cause) });
    }

    /// The folders of the new configuration could not be opened, though the check did: everything
    /// else is upgraded and works on with the folders that it has, the admins are told, and it is
    /// tried again.
    pub(super) fn make_shift(&mut self, problem: &str) {
        let cause = format!("in part: {problem}; the folders of before stay in use");
        self.log.error(&format!("upgrade refused {cause}"));
        self.desk.upgrade_refused(&cause, now(), wall());
        self.upgrade.last = Some(LastUpgrade { at: wall(), cause: Some(cause) });
        self.upgrade.retry_at = Some(now() + RETRY);
    }

    /// The records were decoded piece by piece, with gaps where what was only needed for that lay,
    /// and the chains are forked from here on: every page that is touched is paid for at each fork
    /// and again at the end of each chain. What is kept is copied once more, so that it lies
    /// together; the loop gives the rest back.
    fn pack(&mut self) {
        let packed = self.plan.config.chains.clone();
        let chains = std::mem::replace(&mut self.plan.config.chains, packed);
        let packed = self.plan.accounts.iter().map(|(name, who)| (name.clone(), who.clone()));
        let packed = packed.collect();
        let accounts = std::mem::replace(&mut self.plan.accounts, packed);
        drop((chains, accounts, self.supervisor.pack(), self.desk.pack()));
    }

    fn reconcile(&mut self, only: &[String]) {
        let at = now();
        self.generation = self.supervisor.begin_generation();
        let generation = self.generation;
        let chains = std::mem::take(&mut self.plan.config.chains);
        self.supervisor.reconcile(&chains, only, generation, at);
        self.plan.config.chains = chains;
        let config = self.plan.config.clone();
        self.desk.reconfigure(&config, at, wall());
        self.desk.upgrade_accepted(at, wall());
        self.upgrade.last = Some(LastUpgrade { at: wall(), cause: None });
        self.upgrade.decided = self.upgrade.begun;
        self.saver.important(at);
        self.describe_myself(false);
        self.tell_start("upgraded");
    }
}
