//! Made-up runs: every chain that something is to fail of runs its tasks in order, with the
//! cooldowns of the configuration. Runs take no time, so that the figures are those of the
//! configuration.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::time::Duration;

use super::{Run, Simulated, Stage};
use crate::config::model::{Chain, Config, OnFailure};
use crate::wire::outcome::Outcome;
use crate::wire::time::Timestamp;

/// Friday, 2 January 2026, 18:00 UTC: when a made-up weekend begins, in milliseconds since 1970.
const FRIDAY_EVENING: i64 = 1_767_376_800_000;

/// More runs than anybody waits for.
const MOST_RUNS: u64 = 20_000_000;

/// What is to fail: `CHAIN/TASK[:every=N][:message=random]`. `*` for CHAIN or TASK means each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailSpec {
    /// The chain's name, or `*`.
    pub chain: String,
    /// The task's name, or `*`.
    pub task: String,
    /// Each Nth run of the task fails, the others succeed; 1: every run.
    pub every: u64,
    /// Every failure says something else.
    pub random: bool,
}

impl FromStr for FailSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "write CHAIN/TASK[:every=N][:message=random]";
        let mut parts = text.split(':');
        let (chain, task) = parts
            .next()
            .and_then(|name| name.split_once('/'))
            .filter(|(chain, task)| !chain.is_empty() && !task.is_empty() && !task.contains('/'))
            .ok_or_else(|| format!("cannot read {text:?}: {form}"))?;
        let mut spec =
            FailSpec { chain: chain.to_owned(), task: task.to_owned(), every: 1, random: false };
        for part in parts {
            match part.split_once('=') {
                Some(("every", number)) => {
                    spec.every =
                        number.parse().ok().filter(|every| *every > 0).ok_or_else(|| {
                            format!("cannot read {part:?}: N is a whole number from 1 on")
                        })?;
                }
                Some(("message", "random")) => spec.random = true,
                _ => return Err(format!("cannot read {part:?}: {form}")),
            }
        }
        Ok(spec)
    }
}

impl FailSpec {
    fn names(&self, chain: &str, task: &str) -> bool {
        let is = |pattern: &str, name: &str| pattern == "*" || pattern == name;
        is(&self.chain, chain) && is(&self.task, task)
    }
}

/// A chain under way.
struct Walk<'a> {
    chain: &'a Chain,
    /// Per task: what fails of it, and its runs so far.
    tasks: Vec<(Option<&'a FailSpec>, u64)>,
    next: usize,
}

/// What a time of `span` would bring if this failed. The virtual clock begins at 0; what would
/// happen at its very end is left out.
///
/// # Errors
/// When a chain or a task is not in the configuration, or there would be too many runs.
pub fn weekend(config: &Config, fails: &[FailSpec], span: Duration) -> Result<Simulated, String> {
    for spec in fails {
        check(config, spec)?;
    }
    let mut walks: Vec<Walk<'_>> = Vec::new();
    for chain in &config.chains {
        let of = |task: &str| fails.iter().rev().find(|spec| spec.names(&chain.name, task));
        let tasks: Vec<_> = chain.tasks.iter().map(|task| (of(&task.name), 0)).collect();
        if tasks.iter().any(|(spec, _)| spec.is_some()) {
            walks.push(Walk { chain, tasks, next: 0 });
        }
    }
    let begin = Timestamp(0);
    let end = begin + span;
    let mut stage = Stage::new(config, begin, FRIDAY_EVENING);
    let mut agenda: BinaryHeap<Reverse<(Timestamp, usize)>> =
        (0..walks.len()).map(|walk| Reverse((begin, walk))).collect();
    let mut words = Words(1);
    let mut number = 0;
    while let Some(Reverse((at, place))) = agenda.pop() {
        if at >= end {
            break;
        }
        number += 1;
        if number > MOST_RUNS {
            return Err(format!("cannot simulate more than {MOST_RUNS} runs: take a shorter time"));
        }
        let Some(walk) = walks.get_mut(place) else { continue };
        stage.advance(at);
        let pause = walk.run(&mut stage, at, number, &mut words);
        // A cooldown of nothing would make the clock stand still.
        let pause = if pause.is_zero() { Duration::from_secs(1) } else { pause };
        agenda.push(Reverse((at + pause, place)));
    }
    stage.advance(end);
    Ok(stage.finish())
}

impl Walk<'_> {
    /// Runs the next task at `at`; the cooldown that follows.
    fn run(
        &mut self,
        stage: &mut Stage<'_>,
        at: Timestamp,
        number: u64,
        words: &mut Words,
    ) -> Duration {
        let (Some(task), Some((spec, runs))) =
            (self.chain.tasks.get(self.next), self.tasks.get_mut(self.next))
        else {
            self.next = 0;
            return Duration::ZERO;
        };
        *runs += 1;
        let fails = spec.is_some_and(|spec| *runs % spec.every == 0);
        let stderr = match spec {
            Some(spec) if fails && spec.random => format!("simulated failure: {}\n", words.three()),
            _ if fails => "simulated failure\n".to_owned(),
            _ => String::new(),
        };
        // A code that the task does not take for a success.
        let code = (1..=u8::MAX).find(|code| !task.ok_exit.contains(code));
        let failure = code.map_or(Outcome::Timeout, Outcome::Exit);
        let fine = task.ok_exit.first().copied().unwrap_or(0);
        let run = Run {
            number,
            chain: &self.chain.name,
            task: &task.name,
            started: at,
            ended: at,
            outcome: if fails { failure } else { Outcome::Exit(fine) },
            success: !fails,
            count: 1,
            stderr: &stderr,
        };
        stage.start(&run);
        stage.end(&run);
        let start_over = fails && self.chain.on_failure == OnFailure::FirstTask;
        self.next = if start_over { 0 } else { (self.next + 1) % self.chain.tasks.len() };
        if fails { task.fail_cooldown } else { task.success_cooldown }
    }
}

/// Whether there is a task that fails.
///
/// # Errors
/// What of it is not in the configuration.
pub fn check(config: &Config, spec: &FailSpec) -> Result<(), String> {
    let chains: Vec<&Chain> = (config.chains.iter())
        .filter(|chain| spec.chain == "*" || spec.chain == chain.name)
        .collect();
    if chains.is_empty() {
        return Err(format!("cannot fail {:?}: no such chain in the configuration", spec.chain));
    }
    if !chains.iter().any(|c| c.tasks.iter().any(|task| spec.names(&c.name, &task.name))) {
        return Err(format!("cannot fail {:?}: chain {} has no such task", spec.task, spec.chain));
    }
    Ok(())
}

/// Words without meaning, the same in every simulation.
struct Words(u64);

impl Words {
    fn three(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..3 {
            for _ in 0..3 {
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let pick = usize::try_from(self.0 >> 33).unwrap_or(0);
                text.push(char::from(b"klmnprstvw"[pick % 10]));
                text.push(char::from(b"aeiou"[pick / 16 % 5]));
            }
            text.push(' ');
        }
        text.truncate(text.trim_end().len());
        text
    }
}
