//! What `status` shows: one picture of everything, put together when somebody asks.

use std::collections::BTreeSet;

use super::Master;
use crate::config::model::UserSpec;
use crate::policy::supervisor::{Doing, Slot, SlotState, Wanted};
use crate::wire::control::{ChainStatus, LastRun, MasterStatus, Status, TaskStatus, UpgradeStatus};
use crate::wire::time::Timestamp;

impl Master {
    /// The state of these chains, failing ones first.
    pub(super) fn status(&self, names: &[String]) -> Status {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut chains: Vec<ChainStatus> = self
            .plan
            .config
            .chains
            .iter()
            .filter(|chain| names.contains(chain.name.as_str()))
            .map(|chain| self.chain_status(&chain.name))
            .collect();
        // Chains that left the file and still drain.
        let leaving = self.supervisor.slots().filter(|(name, slot)| {
            slot.wanted == Wanted::Gone && names.contains(name) && !self.index.contains_key(*name)
        });
        chains.extend(leaving.map(|(name, _)| self.chain_status(name)));
        chains.sort_by_key(|chain| chain.health != "failing");
        Status { version: 1, master: self.master_status(), chains }
    }

    fn master_status(&self) -> MasterStatus {
        MasterStatus {
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            since: self.since.to_string(),
            config: self.plan.config.file.display().to_string(),
            generation: self.generation,
            binary_version: env!("CARGO_PKG_VERSION").to_owned(),
            mail_waiting: self.post.waiting(),
            mail_error: self.post.error().map(str::to_owned),
            log_dropped: self.log.dropped(),
            log_error: self.log_trouble.as_ref().map(|trouble| trouble.text().to_owned()),
            strays_by: if self.groups.own.is_some() { "cgroup" } else { "marks" }.to_owned(),
            last_upgrade: self.upgrade.last.as_ref().map(|last| UpgradeStatus {
                at: last.at.to_string(),
                outcome: if last.cause.is_some() { "refused" } else { "accepted" }.to_owned(),
                cause: last.cause.clone(),
            }),
            upgrades_begun: self.upgrade.begun,
            upgrades_decided: self.upgrade.decided,
        }
    }

    fn chain_status(&self, name: &str) -> ChainStatus {
        let chain = self.chain(name);
        let slot = self.supervisor.slot(name);
        let at = |at: Timestamp| Some(self.wall_of(at).to_string());
        let state = slot.map_or("stopped", word);
        let doing = slot.map(|slot| &slot.doing);
        let process = slot.is_some_and(|slot| slot.state.pid().is_some());
        let (task, since, until) = match doing {
            Some(Doing::Running { task, since }) if process => {
                let deadline = chain
                    .and_then(|chain| chain.tasks.iter().find(|known| known.name == *task))
                    .and_then(|task| task.timeout)
                    .map(|timeout| *since + timeout);
                (Some(task.clone()), Some(*since), deadline)
            }
            Some(Doing::Cooling { next, until, since, .. }) if process => {
                (Some(next.clone()), Some(*since), Some(*until))
            }
            _ => {
                let next = slot.and_then(|slot| slot.resume.as_ref());
                let next = next.map(|resume| resume.next.trim_end_matches('>').to_owned());
                let first = || chain.and_then(|chain| chain.tasks.first()).map(|t| t.name.clone());
                let until = slot.and_then(|slot| slot.state.deadline());
                (next.or_else(first), slot.map(|slot| slot.since), until)
            }
        };
        let (since, until) = match slot.map(|slot| &slot.state) {
            Some(SlotState::Draining { deadline, .. }) => (slot.map(|slot| slot.since), *deadline),
            Some(SlotState::Stopping { kill_at, .. }) => {
                (slot.map(|slot| slot.since), Some(*kill_at))
            }
            _ => (since, until),
        };
        let paused = self.desk.paused(name);
        let loss = self.losses.get(name);
        let pause_end = self.pauses.get(name).copied();
        ChainStatus {
            name: name.to_owned(),
            health: if self.desk.chain_is_failing(name) { "failing" } else { "ok" }.to_owned(),
            state: state.to_owned(),
            pid: slot.and_then(|slot| slot.state.pid()),
            ready: slot.is_some_and(|slot| {
                slot.state.pid().is_some() && !matches!(slot.state, SlotState::Starting { .. })
            }),
            user: self.user_of(name),
            nice: chain.map_or(0, |chain| chain.nice),
            generation: slot.map_or(0, |slot| slot.generation),
            task,
            since: since.and_then(at),
            until: if state == "paused" { pause_end } else { until }.and_then(at),
            silenced_until: self.desk.silenced_until(name).and_then(at),
            paused_since: paused.map(|(wall, _)| wall.to_string()),
            reason: self.reason(name, slot, paused.map(|(_, reason)| reason)),
            output_lost: loss.map_or(0, |loss| loss.lines),
            output_error: loss.and_then(|loss| loss.cause.clone()),
            tasks: self.task_statuses(name),
        }
    }

    /// Why a chain is as it is, where that is no matter of course.
    fn reason(&self, name: &str, slot: Option<&Slot>, paused: Option<&str>) -> Option<String> {
        if let Some(reason) = paused.filter(|reason| !reason.is_empty()) {
            return Some(reason.to_owned());
        }
        let slot = slot?;
        match &slot.state {
            SlotState::Backoff { .. } => slot
                .last_failure
                .clone()
                .or_else(|| self.plan.accounts.get(name)?.as_ref().err().cloned()),
            SlotState::Down if !slot.after.is_empty() => {
                Some(format!("waits for the end of {}", slot.after.join(", ")))
            }
            SlotState::Clearing { .. } => Some("ending what it left behind".to_owned()),
            _ => None,
        }
    }

    pub(super) fn user_of(&self, name: &str) -> String {
        match self.plan.accounts.get(name) {
            Some(Ok(account)) => account.name.clone(),
            _ => match self.chain(name).map(|chain| &chain.user) {
                Some(UserSpec::Name(user)) => user.clone(),
                Some(UserSpec::Id(id)) => id.to_string(),
                Some(UserSpec::Current) | None => String::new(),
            },
        }
    }

    fn task_statuses(&self, name: &str) -> Vec<TaskStatus> {
        let Some(chain) = self.chain(name) else { return Vec::new() };
        let status = |task: &crate::config::model::Task| {
            let counters = self.desk.task_status(name, &task.name);
            TaskStatus {
                name: task.name.clone(),
                ok: counters.as_ref().map_or(0, |counters| counters.ok),
                failed: counters.as_ref().map_or(0, |counters| counters.failed),
                last: counters.as_ref().and_then(|counters| counters.last.as_ref()).map(
                    |(outcome, started, seconds)| LastRun {
                        outcome: outcome.to_string(),
                        started: started.to_string(),
                        seconds: *seconds,
                    },
                ),
                down_since: counters
                    .as_ref()
                    .and_then(|counters| counters.down_since)
                    .map(|since| since.to_string()),
                notices: counters.as_ref().map_or(0, |counters| counters.notices),
                withheld: counters.as_ref().map_or(0, |counters| counters.withheld),
            }
        };
        chain.tasks.iter().map(status).collect()
    }
}

/// The state in one word.
fn word(slot: &Slot) -> &'static str {
    match (&slot.state, slot.wanted) {
        (SlotState::Down, Wanted::Paused) => "paused",
        (SlotState::Down, Wanted::Running) => "backoff",
        (SlotState::Down, Wanted::Stopped | Wanted::Gone) => "stopped",
        (SlotState::Backoff { .. }, _) => "backoff",
        (
            SlotState::Draining { .. } | SlotState::Stopping { .. } | SlotState::Clearing { .. },
            _,
        ) => "draining",
        (SlotState::Starting { .. }, _) => "running",
        (SlotState::Up { .. }, _) => match slot.doing {
            Doing::Cooling { .. } => "cooling",
            Doing::Running { .. } | Doing::Unknown => "running",
        },
    }
}
