//! Recorded runs, one JSON object a line, as `runnerctl history --jsonl` writes them:
//!
//! - `{"at": S, "chain": C, "task": T, "seconds": D, "outcome": O, "stderr": E}`: a run that began
//!   at second S and took D seconds (0 if it is not said). O is `exit N`, `signal N`, `timeout`,
//!   `cannot start`, `raised` or `interrupted`; whether an exit is a success says the task's
//!   `ok_exit`. `"count": N` makes it stand for N runs like it.
//! - `{"at": S, "upgrade": true}`: an accepted upgrade.
//!
//! `at` is the *start* of a run, so that an outage, which begins with the start of its first
//! failed run, begins at a number that stands in the file, and so that what falls due during a
//! run can be told while the run goes on. A notice's `at` is when it would have been decided: the
//! end of a run (`at` + `seconds`), or a reminder's own time. Lines are expected in order of
//! time, by start or by end; where they are not, they are put in order of their starts. Unknown
//! keys are ignored, and so are empty lines.

use serde::Deserialize;

use super::{Run, Simulated, Stage};
use crate::config::model::Config;
use crate::wire::outcome::Outcome;
use crate::wire::time::Timestamp;

/// No time lies further from zero, in seconds.
const FURTHEST: f64 = 1e12;

/// So many times what falls due between the lines (reminders, above all) is decided, and
/// [`DUE_PER_RECORD`] more for each line: a run of a thousand years would take as long.
const DUE: usize = 100_000;
const DUE_PER_RECORD: usize = 10;

#[derive(Debug, Deserialize)]
struct Line {
    at: f64,
    #[serde(default)]
    upgrade: Option<bool>,
    #[serde(default)]
    chain: Option<String>,
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    seconds: Option<f64>,
    #[serde(default)]
    outcome: Option<String>,
    #[serde(default)]
    stderr: Option<String>,
    #[serde(default)]
    count: Option<u64>,
}

/// What a line says, checked against the configuration. `chain` and `task` are positions.
#[derive(Debug)]
struct Record {
    /// Of the line, from 1.
    number: usize,
    at: Timestamp,
    run: Option<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    chain: usize,
    task: usize,
    ended: Timestamp,
    outcome: Outcome,
    count: u64,
    stderr: String,
}

/// The notices that recorded runs would have brought under this configuration.
///
/// # Errors
/// At the first line that cannot be used, with its number.
pub fn replay(config: &Config, text: &str) -> Result<Simulated, String> {
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if !line.trim().is_empty() {
            let number = number + 1;
            let read = read(config, line).map_err(|why| format!("line {number}: {why}"))?;
            records.push(Record { number, ..read });
        }
    }
    let Some(begin) = records.iter().map(|record| record.at).min() else {
        return Ok(Stage::new(config, Timestamp(0), 0).finish());
    };
    let mut stage = Stage::new(config, begin, 0);
    stage.most_due = DUE.saturating_add(records.len().saturating_mul(DUE_PER_RECORD));
    // Starts, ends and upgrades in order of time; at one time in the order of the lines, and a
    // run of no length begins before it ends.
    let mut agenda: Vec<(Timestamp, usize, bool)> = Vec::with_capacity(2 * records.len());
    for (place, record) in records.iter().enumerate() {
        agenda.push((record.at, place, false));
        agenda.extend(record.run.as_ref().map(|run| (run.ended, place, true)));
    }
    agenda.sort();
    for (at, place, is_end) in agenda {
        let Some(record) = records.get(place) else { continue };
        if !stage.advance(at) {
            return Err(format!(
                "line {}: more than {} reminders fall due on the way here; \
                 cut the recording, or raise remind_every",
                record.number, stage.most_due
            ));
        }
        let Some(recorded) = &record.run else {
            stage.upgrade(at);
            continue;
        };
        let Some(chain) = config.chains.get(recorded.chain) else { continue };
        let Some(task) = chain.tasks.get(recorded.task) else { continue };
        let success =
            matches!(recorded.outcome, Outcome::Exit(code) if task.ok_exit.contains(&code));
        let run = Run {
            number: place as u64 + 1,
            chain: &chain.name,
            task: &task.name,
            started: record.at,
            ended: recorded.ended,
            outcome: recorded.outcome.clone(),
            success,
            count: recorded.count,
            stderr: &recorded.stderr,
        };
        if is_end { stage.end(&run) } else { stage.start(&run) }
    }
    Ok(stage.finish())
}

fn read(config: &Config, line: &str) -> Result<Record, String> {
    let line: Line = serde_json::from_str(line).map_err(|cause| {
        format!("cannot read a recorded run: {}", cause.to_string().replace(" at line 1", " at"))
    })?;
    let at = time("at", line.at)?;
    if line.upgrade == Some(true) {
        return Ok(Record { number: 0, at, run: None });
    }
    let chain_name = line.chain.ok_or("a run has no \"chain\"")?;
    let task_name = line.task.ok_or("a run has no \"task\"")?;
    let outcome: Outcome = line.outcome.ok_or("a run has no \"outcome\"")?.parse()?;
    let chain = (config.chains.iter().position(|chain| chain.name == chain_name))
        .ok_or_else(|| format!("no chain {chain_name:?} in the configuration"))?;
    let task = (config.chains[chain].tasks.iter().position(|task| task.name == task_name))
        .ok_or_else(|| format!("chain {chain_name:?} has no task {task_name:?}"))?;
    let seconds = line.seconds.unwrap_or(0.0);
    if seconds < 0.0 {
        return Err(format!("a run cannot take {seconds} seconds"));
    }
    let ended = time("seconds", line.at + seconds)?;
    let count = line.count.unwrap_or(1).max(1);
    let stderr = line.stderr.unwrap_or_default();
    Ok(Record { number: 0, at, run: Some(Recorded { chain, task, ended, outcome, count, stderr }) })
}

fn time(key: &str, seconds: f64) -> Result<Timestamp, String> {
    if !seconds.is_finite() || seconds.abs() > FURTHEST {
        return Err(format!("{key:?} is no time: {seconds} seconds"));
    }
    Ok(Timestamp((seconds * 1000.0).round() as i64))
}
