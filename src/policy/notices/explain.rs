//! `runnerctl explain`: what would be mailed next about a chain, and what was held back by which
//! rule.

use super::desk::NoticeDesk;
use super::rules::Rules;
use super::text::{span, when};
use super::throttle::{FIRSTS, Moment, Throttle};
use crate::wire::time::{Timestamp, WallTime};
use crate::wire::words::counted;

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
        let until = chain.silence.as_ref().map(|silence| silence.until.max(now));
        if let (Some(pause), Some(due)) = (&chain.pause, chain.pause_due()) {
            let because = because(&pause.reason);
            let due =
                until.map_or(due, |until| if pause.silenced { until } else { due.max(until) });
            lines.push(format!(
                "paused since {}{because}; PAUSED is mailed at {}",
                when(pause.wall),
                at(due)
            ));
        }
        if let Some((task, due)) =
            chain.run_due().filter(|(_, due)| until.is_none_or(|u| u <= *due))
        {
            let name = chain.rules.tasks.get(task).map_or("", |(name, _)| name.as_str());
            let open = chain.tasks.get(task).is_some_and(|state| state.outage.is_some());
            let what = if open { "the outage is mailed again" } else { "OVERDUE is mailed" };
            lines.push(format!("{name}: if this run is still going at {}, {what}", at(due)));
        }
        if let Some(kind) = chain.output.told_at(chain.output.due().max(until).unwrap_or(now)) {
            let due = at(chain.output.due().max(until).unwrap_or(now));
            lines.push(format!("the chain's output: {} is mailed at {due}", kind.word()));
        }
        for (place, (state, (name, rules))) in
            chain.tasks.iter().zip(&chain.rules.tasks).enumerate()
        {
            let running = chain.running.is_some_and(|running| running.task == place);
            of_task(&mut lines, name, state, rules, (now, until, running), &at);
        }
        if chain.whole.outage.is_some() || chain.whole.withheld.total() > 0 {
            let (name, rules) = ("the chain's process", &chain.rules.whole);
            of_task(&mut lines, name, &chain.whole, rules, (now, until, false), &at);
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
    (now, until, running): (Timestamp, Option<Timestamp>, bool),
    at: &dyn Fn(Timestamp) -> String,
) {
    let (held, spent) = (state.withheld, state.spent(rules, now));
    if let Some(outage) = &state.outage {
        let told = if outage.told { "mailed" } else { "not mailed yet" };
        lines.push(format!(
            "{name}: failing since {} ({} in a row, {told}): {}",
            when(outage.start_wall),
            outage.failures,
            outage.message
        ));
    }
    // What the end of a silence will tell is what it would tell of things as they are; what comes
    // after that follows from how they are then.
    let mut after = state.clone();
    if let Some(until) = until {
        let moment = Moment { at: until, wall: WallTime(0), quiet: false, thread: 0 };
        let told = after.silence_ended(rules, running, moment);
        let what = told.map_or("nothing", |verdict| verdict.kind.word());
        lines.push(format!("{name}: when the silence ends at {}, {what} is mailed", at(until)));
    }
    let state = &after;
    let then = if until.is_some() { "after that " } else { "" };
    match (&state.outage, state.limit_due(rules)) {
        (Some(outage), Some(due)) => {
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
            lines.push(format!("{name}: well; the next failed run {then}is mailed as FIRST"));
        }
        _ => lines.push(format!(
            "{name}: well; a failed run {then}is mailed if it is one not known in this generation, or once the outage is {} old",
            span(rules.limit)
        )),
    }
    if spent > 0 {
        let window = span(rules.window());
        lines.push(format!(
            "{name}: {spent} of at most {FIRSTS} FIRST and NEW in {window} are spent"
        ));
    }
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
            "{name}: {} since the last notice; the fifth or a later one that ends at {} or later is mailed as UNSTABLE",
            counted(state.since.outages, "unmailed outage", "unmailed outages"),
            at(state.since.at + rules.limit)
        ));
    }
}
