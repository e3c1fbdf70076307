//! The options that a chain has and a task has, as one layer of the file says them: the task
//! itself, its chain, the file's `defaults`. The nearest layer that says an option decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::model::{
    Drain, GroupSpec, IoNice, Isolation, Leftovers, OnFailure, Output, Rlimit, Rotate, Scheduler,
    UserSpec, WorkerProgram,
};
use super::reader::{Fields, Reader, Said};
use super::tree::Kind;

/// What a layer says of one option: nothing, an explicit `None`, or a value.
pub(crate) type Slot<T> = Option<Said<T>>;

/// The options of a task that one layer says.
#[derive(Debug, Default)]
pub(crate) struct TaskLayer {
    pub(crate) success_cooldown: Slot<Duration>,
    pub(crate) fail_cooldown: Slot<Duration>,
    pub(crate) non_recoverable_downtime: Slot<Duration>,
    pub(crate) remind_every: Slot<Duration>,
    pub(crate) timeout: Slot<Duration>,
    pub(crate) overdue: Slot<Duration>,
    pub(crate) forget_after: Slot<Duration>,
    pub(crate) ok_exit: Slot<Vec<u8>>,
    pub(crate) to: Slot<Vec<String>>,
}

/// The options of a chain that one layer says.
#[derive(Debug, Default)]
pub(crate) struct ChainLayer {
    pub(crate) user: Slot<UserSpec>,
    pub(crate) group: Slot<GroupSpec>,
    pub(crate) groups: Slot<Vec<GroupSpec>>,
    pub(crate) nice: Slot<i32>,
    pub(crate) ionice: Slot<IoNice>,
    pub(crate) scheduler: Slot<Scheduler>,
    pub(crate) cpu_affinity: Slot<Vec<u32>>,
    pub(crate) oom_score_adj: Slot<i32>,
    pub(crate) rlimits: Slot<BTreeMap<String, Rlimit>>,
    pub(crate) umask: Slot<u32>,
    pub(crate) no_new_privs: Slot<bool>,
    pub(crate) cwd: Slot<PathBuf>,
    pub(crate) path: Slot<Vec<PathBuf>>,
    /// By key, each with its own place; merged by key with what is said further out.
    pub(crate) env: Slot<BTreeMap<String, Said<String>>>,
    pub(crate) env_file: Slot<PathBuf>,
    pub(crate) output: Slot<Output>,
    pub(crate) rotate: Slot<Rotate>,
    pub(crate) on_failure: Slot<OnFailure>,
    pub(crate) stop_signal: Slot<i32>,
    pub(crate) upgrade_drain: Slot<Drain>,
    pub(crate) drain_timeout: Slot<Duration>,
    pub(crate) kill_timeout: Slot<Duration>,
    pub(crate) leftovers: Slot<Leftovers>,
    pub(crate) worker: Slot<WorkerProgram>,
    pub(crate) max_runs: Slot<u64>,
    pub(crate) max_rss: Slot<u64>,
    pub(crate) isolation: Slot<Isolation>,
    pub(crate) ready_timeout: Slot<Duration>,
}

impl TaskLayer {
    /// Reads the options of a task out of a task, a chain or `defaults`.
    pub(crate) fn read(reader: &mut Reader<'_>, fields: &Fields<'_>) -> TaskLayer {
        TaskLayer {
            success_cooldown: reader.said(fields, "success_cooldown", Reader::duration),
            fail_cooldown: reader.said(fields, "fail_cooldown", |reader, name, node| {
                let pause = reader.duration(name, node)?;
                if pause < Duration::from_secs(1) {
                    reader.warn(
                        &node.span,
                        "a fail_cooldown under 1 s: a task that fails at once will run all the time",
                        "the default is \"20m\"",
                    );
                }
                Some(pause)
            }),
            non_recoverable_downtime: reader.said(
                fields,
                "non_recoverable_downtime",
                Reader::some_time,
            ),
            remind_every: reader.said(fields, "remind_every", Reader::some_time),
            timeout: reader.said(fields, "timeout", Reader::some_time),
            overdue: reader.said(fields, "overdue", Reader::some_time),
            forget_after: reader.said(fields, "forget_after", Reader::some_time),
            ok_exit: reader.said(fields, "ok_exit", Reader::exit_codes),
            to: reader.said(fields, "to", Reader::addresses),
        }
    }
}

impl ChainLayer {
    /// Reads the options of a chain out of a chain or `defaults`.
    pub(crate) fn read(reader: &mut Reader<'_>, fields: &Fields<'_>) -> ChainLayer {
        ChainLayer {
            user: reader.said(fields, "user", Reader::user),
            group: reader.said(fields, "group", Reader::group),
            groups: reader.said(fields, "groups", |reader, name, node| {
                reader.list(name, node, Reader::group)
            }),
            nice: reader.said(fields, "nice", |reader, name, node| {
                reader.number(name, node, -20, 19).and_then(|n| i32::try_from(n).ok())
            }),
            ionice: reader.said(fields, "ionice", Reader::ionice),
            scheduler: reader.said(fields, "scheduler", Reader::scheduler),
            cpu_affinity: reader.said(fields, "cpu_affinity", Reader::cpus),
            oom_score_adj: reader.said(fields, "oom_score_adj", |reader, name, node| {
                reader.number(name, node, -1000, 1000).and_then(|n| i32::try_from(n).ok())
            }),
            rlimits: reader.said(fields, "rlimits", Reader::rlimits),
            umask: reader.said(fields, "umask", Reader::umask),
            no_new_privs: reader.said(fields, "no_new_privs", Reader::bool),
            cwd: reader.said(fields, "cwd", Reader::path),
            path: reader
                .said(fields, "path", |reader, name, node| reader.list(name, node, Reader::folder)),
            env: reader.said(fields, "env", Reader::env),
            env_file: reader.said(fields, "env_file", Reader::path),
            output: reader.said(fields, "output", Reader::output),
            rotate: reader.said(fields, "rotate", Reader::rotate),
            on_failure: reader.said(fields, "on_failure", |reader, name, node| {
                match reader.lone_word(name, node, &["Continue", "FirstTask"])? {
                    "FirstTask" => Some(OnFailure::FirstTask),
                    _ => Some(OnFailure::Continue),
                }
            }),
            stop_signal: reader.said(fields, "stop_signal", Reader::signal),
            upgrade_drain: reader.said(fields, "upgrade_drain", |reader, name, node| {
                if let Kind::Text(_) | Kind::Int(_) = node.kind {
                    return reader.duration(name, node).map(Drain::Within);
                }
                reader.lone_word(name, node, &["Forever"]).map(|_| Drain::Forever)
            }),
            drain_timeout: reader.said(fields, "drain_timeout", Reader::duration),
            kill_timeout: reader.said(fields, "kill_timeout", Reader::duration),
            leftovers: reader.said(fields, "leftovers", |reader, name, node| {
                match reader.lone_word(name, node, &["End", "Keep"])? {
                    "Keep" => Some(Leftovers::Keep),
                    _ => Some(Leftovers::End),
                }
            }),
            worker: reader.said(fields, "worker", Reader::worker),
            max_runs: reader.said(fields, "max_runs", |reader, name, node| {
                reader.number(name, node, 1, i64::MAX).and_then(|n| u64::try_from(n).ok())
            }),
            max_rss: reader.said(fields, "max_rss", Reader::size),
            isolation: reader.said(fields, "isolation", |reader, name, node| {
                match reader.lone_word(name, node, &["Warm", "Fork"])? {
                    "Fork" => Some(Isolation::Fork),
                    _ => Some(Isolation::Warm),
                }
            }),
            ready_timeout: reader.said(fields, "ready_timeout", Reader::some_time),
        }
    }
}

/// The nearest layer that says something; layers go from the nearest outwards.
pub(crate) fn nearest<'s, T>(layers: impl IntoIterator<Item = &'s Slot<T>>) -> Option<&'s Said<T>>
where
    T: 's,
{
    layers.into_iter().flatten().next()
}
