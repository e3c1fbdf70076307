//! `runnerctl status` for people: one line per chain, columns that awk(1) can cut, the state as
//! one word in the second. Pure: the answer and the time go in, text comes out.

use std::time::SystemTime;

use super::text::{Colour, Paint, ago, ahead, brief, columns, word};
use crate::wire::control::{ChainStatus, MasterStatus, Status, TaskStatus};
use crate::wire::safe::safe_line;
use crate::wire::words::mails_wait;

/// The exit status of a system that is up while something in it fails.
pub const EXIT_FAILING: u8 = 150;

/// The names of the columns; shown on a terminal only.
const HEAD: [&str; 9] =
    ["CHAIN", "STATE", "HEALTH", "PID", "USER", "TASK", "SINCE", "LEFT", "NOTE"];

/// 0 if all is well, else [`EXIT_FAILING`].
pub fn exit(status: &Status) -> u8 {
    if status.chains.iter().any(failing) { EXIT_FAILING } else { 0 }
}

/// Whether a chain is failing.
pub fn failing(chain: &ChainStatus) -> bool {
    chain.health != "ok"
}

/// The lines of the chains; with `head` the columns' names first.
pub fn chains(status: &Status, now: SystemTime, paint: Paint, head: bool) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    if head {
        rows.push(HEAD.iter().map(|name| (*name).to_owned()).collect());
    }
    rows.extend(status.chains.iter().map(|chain| row(chain, now)));
    let mut lines = columns(&rows);
    let from = usize::from(head);
    if let (true, Some(first)) = (head, lines.first_mut()) {
        *first = paint.paint(Colour::Dim, first);
    }
    for (line, chain) in lines.iter_mut().skip(from).zip(&status.chains) {
        if let Some(colour) = colour(chain) {
            *line = paint.paint(colour, line);
        }
    }
    lines
}

fn colour(chain: &ChainStatus) -> Option<Colour> {
    match chain.state.as_str() {
        _ if failing(chain) => Some(Colour::Red),
        "paused" | "backoff" => Some(Colour::Yellow),
        "draining" => Some(Colour::Cyan),
        "stopped" => Some(Colour::Dim),
        _ => None,
    }
}

fn row(chain: &ChainStatus, now: SystemTime) -> Vec<String> {
    let age = |time: &Option<String>| {
        time.as_deref().and_then(|time| ago(time, now)).map_or("-".to_owned(), brief)
    };
    let left = chain.until.as_deref().and_then(|time| ahead(time, now));
    vec![
        word(&chain.name),
        word(&chain.state),
        word(&chain.health),
        chain.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        word(&chain.user),
        word(chain.task.as_deref().unwrap_or("")),
        age(&chain.since),
        left.map_or("-".to_owned(), brief),
        note(chain, now),
    ]
}

/// What is worth a look: outages first, then what an operator did, then the counters.
fn note(chain: &ChainStatus, now: SystemTime) -> String {
    let mut notes: Vec<String> = Vec::new();
    if chain.pid.is_some() && !chain.ready {
        notes.push("starting".to_owned());
    }
    notes.extend(chain.tasks.iter().filter_map(|task| outage(task, now)));
    if let Some(since) = &chain.paused_since {
        notes.push(format!("paused {}", ago(since, now).map_or("-".to_owned(), brief)));
    }
    if let Some(until) = &chain.silenced_until {
        notes.push(format!("silent for {}", ahead(until, now).map_or("-".to_owned(), brief)));
    }
    if let Some(reason) = chain.reason.as_deref().filter(|reason| !reason.is_empty()) {
        notes.push(safe_line(reason).into_owned());
    }
    match &chain.output_error {
        Some(error) => {
            notes.push(format!("{} lines lost: {}", chain.output_lost, safe_line(error)));
        }
        None if chain.output_lost > 0 => notes.push(format!("{} lines lost", chain.output_lost)),
        None => {}
    }
    if notes.is_empty() {
        // What a chain says of itself may be any number.
        let sum = |of: fn(&TaskStatus) -> u64| {
            chain.tasks.iter().fold(0_u64, |sum, task| sum.saturating_add(of(task)))
        };
        let (ok, failed) = (sum(|task| task.ok), sum(|task| task.failed));
        notes.push(format!("{ok} ok, {failed} failed"));
    }
    notes.join("; ")
}

fn outage(task: &TaskStatus, now: SystemTime) -> Option<String> {
    let since = ago(task.down_since.as_deref()?, now).map_or("-".to_owned(), brief);
    let outcome = task.last.as_ref().map_or("no run yet", |last| last.outcome.as_str());
    let mut text = format!("{} down {since}: {}", word(&task.name), safe_line(outcome));
    if task.withheld > 0 {
        text.push_str(&format!(", {} withheld", task.withheld));
    }
    Some(text)
}

/// What the operator should know of the master itself; empty when all is well.
pub fn remarks(master: &MasterStatus, now: SystemTime) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(upgrade) = master.last_upgrade.as_ref().filter(|last| last.outcome != "accepted") {
        let age = ago(&upgrade.at, now).map_or("-".to_owned(), brief);
        let cause = upgrade.cause.as_deref().unwrap_or("no cause told");
        remarks.push(format!(
            "the last upgrade, {age} ago, was {}: {}",
            safe_line(&upgrade.outcome),
            safe_line(cause)
        ));
    }
    if let Some(error) = &master.mail_error {
        remarks.push(format!("{}: {}", mails_wait(master.mail_waiting), safe_line(error)));
    }
    if let Some(error) = &master.log_error {
        remarks.push(safe_line(error).into_owned());
    }
    if master.log_dropped > 0 {
        remarks.push(format!("{} log records were dropped", master.log_dropped));
    }
    if master.strays_by == "marks" {
        remarks.push(
            "without a writable cgroup v2, what outlives both the master and a chain is found by its environment only"
                .to_owned(),
        );
    }
    remarks
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::control::{LastRun, UpgradeStatus};

    /// 2026-01-02 12:00:00 UTC.
    pub(in super::super) fn noon() -> SystemTime {
        humantime::parse_rfc3339("2026-01-02T12:00:00Z").unwrap()
    }

    fn chain(name: &str, state: &str, health: &str) -> ChainStatus {
        ChainStatus {
            name: name.to_owned(),
            health: health.to_owned(),
            state: state.to_owned(),
            pid: Some(4242),
            ready: true,
            user: "shop".to_owned(),
            nice: 5,
            generation: 3,
            task: Some("send".to_owned()),
            since: Some("2026-01-02T11:58:20Z".to_owned()),
            until: None,
            silenced_until: None,
            paused_since: None,
            reason: None,
            output_lost: 0,
            output_error: None,
            tasks: vec![TaskStatus {
                name: "send".to_owned(),
                ok: 12,
                failed: 1,
                last: Some(LastRun {
                    outcome: "exit 0".to_owned(),
                    started: "2026-01-02T11:50:00Z".to_owned(),
                    seconds: 1.5,
                }),
                down_since: None,
                notices: 1,
                withheld: 0,
            }],
        }
    }

    /// A system with one chain of every state.
    pub(in super::super) fn sample() -> Status {
        let mut down = chain("import", "cooling", "failing");
        down.until = Some("2026-01-02T12:20:00Z".to_owned());
        down.tasks[0].down_since = Some("2026-01-02T09:00:00Z".to_owned());
        down.tasks[0].withheld = 7;
        down.tasks[0].last = Some(LastRun {
            outcome: "exit 1\x1b[2J".to_owned(),
            started: "2026-01-02T11:50:00Z".to_owned(),
            seconds: 0.25,
        });
        let mut paused = chain("index", "paused", "ok");
        paused.paused_since = Some("2026-01-02T11:00:00Z".to_owned());
        paused.reason = Some("disk swap\n\x07".to_owned());
        paused.pid = None;
        let mut silent = chain("mail", "running", "ok");
        silent.output_lost = 9;
        silent.output_error = Some("cannot write output to /out: no space".to_owned());
        silent.silenced_until = Some("2026-01-02T14:00:00Z".to_owned());
        Status {
            version: 1,
            master: MasterStatus {
                pid: 7,
                since: "2026-01-01T00:00:00Z".to_owned(),
                config: "/etc/runner/runner.ron".to_owned(),
                generation: 3,
                binary_version: "0.1.0".to_owned(),
                mail_waiting: 2,
                mail_error: Some("connection refused".to_owned()),
                log_dropped: 3,
                log_error: Some("cannot write the log to /log: no space".to_owned()),
                strays_by: "cgroup".to_owned(),
                last_upgrade: Some(UpgradeStatus {
                    at: "2026-01-02T11:59:00Z".to_owned(),
                    outcome: "refused".to_owned(),
                    cause: Some("unknown field `usr`".to_owned()),
                }),
                upgrades_begun: 4,
                upgrades_decided: 4,
            },
            chains: vec![
                down,
                paused,
                silent,
                chain("slow", "draining", "ok"),
                chain("sync", "running", "ok"),
            ],
        }
    }

    #[test]
    fn one_line_per_chain_that_awk_can_cut() {
        let lines = chains(&sample(), noon(), Paint(false), false);
        assert_eq!(
            lines,
            [
                "import  cooling   failing  4242  shop  send  1m40s  20m  send down 3h: exit 1\\x1b[2J, 7 withheld",
                "index   paused    ok       -     shop  send  1m40s  -    paused 1h; disk swap\\n\\x07",
                "mail    running   ok       4242  shop  send  1m40s  -    silent for 2h; 9 lines lost: cannot write output to /out: no space",
                "slow    draining  ok       4242  shop  send  1m40s  -    12 ok, 1 failed",
                "sync    running   ok       4242  shop  send  1m40s  -    12 ok, 1 failed",
            ]
        );
        let states: Vec<&str> =
            lines.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(states, ["cooling", "paused", "running", "draining", "running"]);
    }

    #[test]
    fn a_terminal_gets_heads_and_colours_but_nothing_of_a_tasks() {
        let lines = chains(&sample(), noon(), Paint(true), true);
        assert!(lines[0].starts_with("\x1b[2mCHAIN"), "{:?}", lines[0]);
        assert!(lines[1].starts_with("\x1b[31mimport"), "{:?}", lines[1]);
        assert!(lines.iter().all(|line| !line.contains("\x1b[2J") && !line.contains('\n')));
    }

    #[test]
    fn the_master_says_what_is_wrong_with_itself() {
        let status = sample();
        assert_eq!(
            remarks(&status.master, noon()),
            [
                "the last upgrade, 1m ago, was refused: unknown field `usr`",
                "2 mails wait: connection refused",
                "cannot write the log to /log: no space",
                "3 log records were dropped"
            ]
        );
        assert_eq!(exit(&status), EXIT_FAILING);
    }

    #[test]
    fn the_json_form_keeps_its_keys_and_their_order() {
        let json = serde_json::to_string(&sample()).unwrap();
        let mut at = 0;
        for key in [
            "version",
            "master",
            "pid",
            "since",
            "config",
            "generation",
            "binary_version",
            "mail_waiting",
            "mail_error",
            "log_dropped",
            "log_error",
            "strays_by",
            "last_upgrade",
            "at",
            "outcome",
            "cause",
            "upgrades_begun",
            "upgrades_decided",
            "chains",
            "name",
            "health",
            "state",
            "pid",
            "user",
            "nice",
            "generation",
            "task",
            "since",
            "until",
            "silenced_until",
            "paused_since",
            "reason",
            "output_lost",
            "output_error",
            "tasks",
            "name",
            "ok",
            "failed",
            "last",
            "outcome",
            "started",
            "seconds",
            "down_since",
            "notices",
            "withheld",
        ] {
            let key = format!("\"{key}\":");
            let found = json[at..].find(&key).unwrap_or_else(|| panic!("{key} after {at}"));
            at += found + key.len();
        }
    }
}
