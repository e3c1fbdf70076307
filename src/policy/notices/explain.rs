//! `runnerctl explain`: what would be mailed next about a chain, and what was held back by which
//! rule.

use super::desk::NoticeDesk;
use super::rules::Rules;
use super::text::{span, when};
use super::throttle::{FIRSTS, Throttle};
use crate::wire::time::{Timestamp, WallTime};

impl NoticeDesk {
    /// Lines for a person; empty for an unknown chain.
    pub fn explain(&self, chain: &str, now: Timestamp, wall: WallTime) -> Vec<String> {
        let Some(chain) = self.chain(chain) else { return Vec::new() };
        let at = |time: Timestamp| {
            when(WallTime(wall.0.saturating_add_signed(time.0.saturating_sub(now.0))))
        };
        let mut lines = Vec::new();
        if self.admins.is_none() {
            lines.push("no mail is configured: each notice is a warning in the log".to_owned());
        }
        if let Some(silence) = &chain.silence {
            let because = because(&silence.reason);
            lines.push(format!(
                "silenced until {}{because}: what is open then is mailed then",
                at(silence.until)
            ));
        }
        if let (Some(pause), Some(due)) = (&chain.pause, chain.pause_due()) {
            let because = because(&pause.reason);
            lines.push(format!(
                "paused since {}{because}; PAUSED is mailed at {}",
                when(pause.wall),
                at(due)
            ));
        }
        if let Some((task, due)) = chain.run_due() {
            let name = chain.rules.tasks.get(task).map_or("", |(name, _)| name.as_str());
            let open = chain.tasks.get(task).is_some_and(|state| state.outage.is_some());
            let what = if open { "the outage is mailed again" } else { "OVERDUE is mailed" };
            lines.push(format!("{name}: if this run is still going at {}, {what}", at(due)));
        }
        for (state, (name, rules)) in chain.tasks.iter().zip(&chain.rules.tasks) {
            of_task(&mut lines, name, state, rules, now, &at);
        }
        if chain.whole.outage.is_some() || chain.whole.withheld.total() > 0 {
            of_task(&mut lines, "the chain's process", &chain.whole, &chain.rules.whole, now, &at);
        }
        lines
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn of_task(
    lines: &mut Vec<String>,
    name: &str,
    state: &Throttle,
    rules: &Rules,
    now: Timestamp,
    at: &dyn Fn(Timestamp) -> String,
) {
    match (&state.outage, state.limit_due(rules)) {
        (Some(outage), Some(due)) => {
            let told = if outage.told { "mailed" } else { "not mailed yet" };
            lines.push(format!(
                "{name}: failing since {} ({} in a row, {told}): {}",
                when(outage.start_wall),
                outage.failures,
                outage.message
            ));
            let kind = if outage.reached { "AGAIN" } else { "REACHED" };
            let first = if state.first_is_open() {
                "; before that FIRST, at the next failed run of this generation"
            } else {
                ""
            };
            lines.push(format!(
                "{name}: {kind} is mailed at the first failed run that ends at {} or later{first}",
                at(due)
            ));
            let heals = if outage.told { "HEALED is mailed" } else { "nothing is mailed" };
            lines.push(format!("{name}: when a run succeeds, {heals}"));
        }
        _ if state.first_is_open() => {
            lines.push(format!("{name}: well; the next failed run is mailed as FIRST"));
        }
        _ => lines.push(format!(
            "{name}: well; a failed run is mailed if it is one not known in this generation, or once the outage is {} old",
            span(rules.limit)
        )),
    }
    let spent = state.spent(rules, now);
    if spent > 0 {
        let window = span(rules.window());
        lines.push(format!(
            "{name}: {spent} of at most {FIRSTS} FIRST and NEW in {window} are spent"
        ));
    }
    let held = state.withheld;
    if held.bound > 0 {
        lines.push(format!(
            "{name}: {} held back by that bound; the next notice tells it",
            held.bound
        ));
    }
    if held.silence > 0 {
        lines.push(format!(
            "{name}: {} held back by a silence; the next notice tells it",
            held.silence
        ));
    }
    if state.outage.is_none() && state.since.outages > 0 {
        lines.push(format!(
            "{name}: {} unmailed outages since the last notice; the fifth or a later one that ends at {} or later is mailed as UNSTABLE",
            state.since.outages,
            at(state.since.at + rules.limit)
        ));
    }
}
