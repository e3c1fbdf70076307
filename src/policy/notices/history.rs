//! What is remembered of a chain's runs: the last [`RUNS`], compact, in the form that `runnerctl
//! simulate --history` reads.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::policy::safe;
use crate::wire::outcome::Outcome;
use crate::wire::time::WallTime;

/// Entries kept per chain.
const RUNS: usize = 100;
/// Distinct texts of standard error kept per chain.
const TEXTS: usize = 8;
/// Bytes kept of one such text.
const TEXT: usize = 1024;

/// One entry: a run, or a new generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    at: WallTime,
    millis: u64,
    /// `None`: a new generation began.
    run: Option<(u16, Outcome)>,
    /// Coalesced runs.
    count: u64,
    fingerprint: u64,
}

/// The last runs of a chain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    /// What failures said, by fingerprint; the one used longest ago goes first.
    texts: Vec<(u64, String)>,
}

/// A run as it is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered<'a> {
    pub(crate) task: usize,
    pub(crate) started: WallTime,
    pub(crate) millis: u64,
    pub(crate) outcome: &'a Outcome,
    pub(crate) count: u64,
    /// 0: a success.
    pub(crate) fingerprint: u64,
    pub(crate) stderr: &'a str,
}

impl History {
    /// Remembers a run.
    pub(crate) fn push(&mut self, run: Remembered<'_>) {
        if run.fingerprint != 0 {
            match self.texts.iter().position(|(known, _)| *known == run.fingerprint) {
                Some(place) => self.texts[place..].rotate_left(1),
                None => {
                    if self.texts.len() >= TEXTS {
                        self.texts.remove(0);
                    }
                    let kept = safe::last_lines(run.stderr, 40, 400, TEXT).join("\n");
                    self.texts.push((run.fingerprint, kept));
                }
            }
        }
        self.add(Entry {
            at: run.started,
            millis: run.millis,
            run: Some((u16::try_from(run.task).unwrap_or(u16::MAX), run.outcome.clone())),
            count: run.count,
            fingerprint: run.fingerprint,
        });
    }

    /// Remembers that a new generation began.
    pub(crate) fn new_generation(&mut self, wall: WallTime) {
        if self.entries.back().is_some_and(|last| last.run.is_some()) {
            self.add(Entry { at: wall, millis: 0, run: None, count: 1, fingerprint: 0 });
        }
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() >= RUNS {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Renames the tasks by position after the chain changed: `moved[old]` is the new position.
    pub(crate) fn retarget(&mut self, moved: &[Option<usize>]) {
        self.entries.retain_mut(|entry| {
            let Some((task, _)) = &mut entry.run else { return true };
            let now = moved.get(usize::from(*task)).copied().flatten();
            *task = now.and_then(|now| u16::try_from(now).ok()).unwrap_or(u16::MAX);
            now.is_some()
        });
    }

    /// Cuts what was read from a file to the sizes that hold here.
    pub(crate) fn bound(&mut self) {
        self.entries.truncate(RUNS);
        self.texts.truncate(TEXTS);
        self.texts
            .iter_mut()
            .for_each(|(_, text)| *text = safe::last_lines(text, 40, 400, TEXT).join("\n"));
    }

    /// The last run of a task: outcome, start, milliseconds.
    pub(crate) fn last_of(&self, task: usize) -> Option<(Outcome, WallTime, u64)> {
        self.entries.iter().rev().find_map(|entry| match &entry.run {
            Some((of, outcome)) if usize::from(*of) == task => {
                Some((outcome.clone(), entry.at, entry.millis))
            }
            _ => None,
        })
    }

    /// The entries as recorded runs, oldest first. `at` is seconds since 1970, when the run
    /// began.
    pub(crate) fn rows(&self, chain: &str, tasks: &[(String, super::rules::Rules)]) -> Vec<Value> {
        let mut rows = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let at = seconds(entry.at.0);
            let Some((task, outcome)) = &entry.run else {
                rows.push(json!({ "at": at, "upgrade": true }));
                continue;
            };
            let Some((name, _)) = tasks.get(usize::from(*task)) else { continue };
            let mut row = json!({
                "at": at, "chain": chain, "task": name,
                "seconds": seconds(entry.millis), "outcome": outcome.to_string(),
            });
            if let Some((_, text)) = self.texts.iter().find(|(of, _)| *of == entry.fingerprint)
                && entry.fingerprint != 0
            {
                row["stderr"] = Value::from(text.as_str());
            }
            if entry.count > 1 {
                row["count"] = Value::from(entry.count);
            }
            rows.push(row);
        }
        rows
    }
}

/// Milliseconds as seconds: a whole number where it is one.
pub(crate) fn seconds(millis: u64) -> Value {
    if millis.is_multiple_of(1000) { json!(millis / 1000) } else { json!(millis as f64 / 1000.0) }
}
