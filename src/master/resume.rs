//! The image after an upgrade: takes over children, queues and memory of the image before it, then
//! makes the chains those of the new plan.

use std::fs::File;
use std::os::unix::net::UnixListener;

use super::boot::StartContext;
use super::ground::Ground;
use super::groups::Groups;
use super::handover::Handover;
use super::takeover::Before;
use super::upgrade::LastUpgrade;
use super::{Child, Link, Loss, Master, now, wall};
use crate::checker::Plan;
use crate::logger::Lanes;
use crate::policy::notices::NoticeDesk;
use crate::policy::supervisor::{Slot, SlotState};
use crate::sys::exec;
use crate::sys::poll::Interest;
use crate::sys::signals::Signals;

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
        signals: Signals,
        handover: Handover,
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
        let mut master = Master::assemble(context, plan, ground, lock, signals, lanes)?;
        master.open_control(listener);
        master.since = handover.since;
        master.upgrade.last = handover.last_upgrade;
        // An older program did not count.
        master.upgrade.begun = handover.upgrades.max(1);
        let before = Before { cgroups: handover.old_cgroups, unclean: handover.unclean };
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
            let socket = adopt(fd)?;
            let token = master.next_token;
            master.next_token += 1;
            if let Err(cause) = master.epoll.add(&socket, token, Interest::Read) {
                return Err(format!("cannot watch chain {name}: {cause}"));
            }
            master.tokens.insert(token, name.clone());
            if let Some(pid) = master.supervisor.slot(&name).and_then(|slot| slot.state.pid()) {
                master.children.insert(pid, Child::Chain(name.clone()));
            }
            master.links.insert(name, Link::new(socket, token));
        }
        master.post.adopt(handover.mails);
        for mailer in handover.mailers {
            let socket = adopt(mailer.socket)?;
            master.adopt_mailer(mailer.pid, socket, mailer.ids)?;
        }
        master.replace_logger(handover.logger);
        master.reconcile(&handover.only);
        for (chain, told) in handover.options {
            master.take_options(&chain, told);
        }
        if let Some(next) = handover.next {
            // What changed on disk after the check is for this one.
            master.begin_upgrade(next);
        }
        Ok(master)
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
