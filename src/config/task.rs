//! The tasks of one chain: what each runs, and its options.

use std::collections::BTreeMap;
use std::time::Duration;

use super::chain::{Decider, DefaultLayers, checked_name, name_fault, says};
use super::fields::Section;
use super::layers::{TaskLayer, nearest};
use super::model::{Command, Task};
use super::positions::ChainPlaces;
use super::problem::{Place, Problem, quoted};
use super::reader::{Fields, Reader};
use super::tree::{Kind, Node};

/// The most tasks of one chain.
const MOST_TASKS: usize = 1_000;

/// The longest name of a function, in bytes: it travels in one line with other words.
const LONGEST_CALL: usize = 200;

pub(super) fn tasks(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    opening: &std::ops::Range<usize>,
    chain: &TaskLayer,
    outer: &DefaultLayers,
    places: &mut ChainPlaces,
) -> Vec<Task> {
    let Some(entry) = fields.get("tasks") else {
        if !fields.lacks("tasks") {
            return Vec::new();
        }
        let help = "tasks: [ ( name: \"…\", run: [\"program\", \"argument\"] ) ]".to_owned();
        reader.error(opening, "this chain has no `tasks`", Some(help));
        return Vec::new();
    };
    let nodes = match &entry.value.kind {
        Kind::List(nodes) => nodes,
        _ => {
            let help = Some("tasks: [ ( … ), ( … ) ]".to_owned());
            reader.wrong("tasks", &entry.value, "a list `[…]`", help);
            return Vec::new();
        }
    };
    if nodes.is_empty() {
        reader.error(&entry.value.span, "a chain needs at least one task", None);
    }
    if nodes.len() > MOST_TASKS {
        let message = format!("a chain has at most {MOST_TASKS} tasks");
        reader.error(&entry.name_span, message, None);
        return Vec::new();
    }
    let has_worker = match fields.get("worker") {
        Some(entry) => entry.value.kind != Kind::None,
        None => outer.chain.worker.as_ref().is_some_and(|said| said.value.is_some()),
    };
    let mut tasks = Vec::new();
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    for node in nodes {
        let Some(task) = task(reader, node, chain, outer, has_worker, places, &mut seen) else {
            continue;
        };
        tasks.push(task);
    }
    tasks
}

fn task(
    reader: &mut Reader<'_>,
    node: &Node,
    chain: &TaskLayer,
    outer: &DefaultLayers,
    has_worker: bool,
    places: &mut ChainPlaces,
    seen: &mut BTreeMap<String, Place>,
) -> Option<Task> {
    let fields = reader.fields("a task", node, Section::Task)?;
    let own = TaskLayer::read(reader, &fields);
    let opening = node.span.start..node.span.start + 1;
    let command = command(reader, &fields, &opening, has_worker);
    let (name, name_place) = task_name(reader, &fields, &opening, command.as_ref());
    if !name.is_empty() {
        if let Some(first) = seen.get(&name) {
            let problem = Problem::error(
                reader.file,
                name_place.span.clone(),
                format!("two tasks of this chain have the name {}", quoted(&name)),
            )
            .label("again here")
            .also(first.clone(), "first here")
            .help("give each a `name` of its own");
            reader.problems.push(problem);
        } else {
            seen.insert(name.clone(), name_place.clone());
        }
    }
    let mut decide = Decider { prefix: format!("tasks.{name}."), places };
    decide.note("name", &name_place);
    for field in ["run", "sh", "call"] {
        if let Some(entry) = fields.get(field) {
            decide.note("command", &Place { file: reader.file, span: entry.value.span.clone() });
        }
    }
    macro_rules! layers {
        ($field:ident) => {
            [&own.$field, &chain.$field, &outer.task.$field]
        };
    }
    const HOUR: u64 = 3600;
    let downtime = decide.or(
        "non_recoverable_downtime",
        layers!(non_recoverable_downtime),
        Duration::from_secs(12 * HOUR),
    );
    let overdue_said = nearest(layers!(overdue)).is_some();
    let overdue = decide.maybe("overdue", layers!(overdue));
    let mut said = Vec::new();
    macro_rules! said {
        ($($field:ident),*) => {
            $(if nearest(layers!($field)).is_some() { said.push(stringify!($field).to_owned()); })*
        };
    }
    said!(
        success_cooldown,
        fail_cooldown,
        non_recoverable_downtime,
        remind_every,
        timeout,
        overdue,
        forget_after,
        ok_exit,
        to
    );
    Some(Task {
        success_cooldown: decide.or(
            "success_cooldown",
            layers!(success_cooldown),
            Duration::from_secs(300),
        ),
        fail_cooldown: decide.or(
            "fail_cooldown",
            layers!(fail_cooldown),
            Duration::from_secs(1200),
        ),
        non_recoverable_downtime: downtime,
        remind_every: decide.or("remind_every", layers!(remind_every), downtime),
        timeout: decide.maybe("timeout", layers!(timeout)),
        overdue: if overdue_said { overdue } else { Some(downtime) },
        forget_after: decide.or(
            "forget_after",
            layers!(forget_after),
            Duration::from_secs(7 * 24 * HOUR),
        ),
        ok_exit: decide.or("ok_exit", layers!(ok_exit), vec![0]),
        to: decide.or("to", layers!(to), Vec::new()),
        command: command.unwrap_or(Command::Run(Vec::new())),
        name,
        said,
    })
}

/// `run`, `sh` or `call`: exactly one.
fn command(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    opening: &std::ops::Range<usize>,
    has_worker: bool,
) -> Option<Command> {
    // None takes nothing back here: no command stands further out.
    let said: Vec<_> = ["run", "sh", "call"]
        .into_iter()
        .filter_map(|word| fields.get(word))
        .filter(|entry| entry.value.kind != Kind::None)
        .collect();
    match said.as_slice() {
        [] if ["run", "sh", "call"].iter().any(|word| says(fields, word)) => return None,
        [] => {
            let help =
                "say what it does: run: [\"program\", \"argument\"], or sh: \"a shell's line\"";
            reader.error(
                opening,
                "this task has neither `run` nor `sh` nor `call`",
                Some(help.to_owned()),
            );
            return None;
        }
        [_] => {}
        [first, second, ..] => {
            let message = format!(
                "a task has one of `run`, `sh` and `call`, not both `{}` and `{}`",
                first.name, second.name
            );
            reader.error(
                &second.name_span,
                message,
                Some("make two tasks of it: they run in order".to_owned()),
            );
        }
    }
    if let Some(argv) = reader.take(fields, "run", Reader::argv) {
        return Some(Command::Run(argv));
    }
    if let Some(line) = reader.take(fields, "sh", |reader, name, node| {
        let text = reader.text(name, node)?;
        if text.trim().is_empty() {
            reader.error(&node.span, "`sh` is empty", None);
            return None;
        }
        Some(text)
    }) {
        return Some(Command::Sh(line));
    }
    let call = reader.said(fields, "call", Reader::line)?;
    if !has_worker {
        let help = "give the chain one, as in worker: Python(\"/srv/app/env/bin/python\")";
        reader.error(&call.place.span, "`call` needs a `worker`", Some(help.to_owned()));
    }
    let name = call.value?;
    let fault = if name.is_empty() {
        Some("`call` is empty".to_owned())
    } else if name.len() > LONGEST_CALL {
        Some(format!("`call` has at most {LONGEST_CALL} bytes"))
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some("`call` is the name of one function: no blanks in it".to_owned())
    } else {
        None
    };
    if let Some(fault) = fault {
        let help = Some("as in call: \"tasks.send_mail\"".to_owned());
        reader.error(&call.place.span, fault, help);
        return None;
    }
    Some(Command::Call(name))
}

/// The name said, or what the command is called; empty when there is none (that is told).
fn task_name(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    opening: &std::ops::Range<usize>,
    command: Option<&Command>,
) -> (String, Place) {
    if let Some(said) = reader.said(fields, "name", |reader, name, node| reader.text(name, node))
        && let Some(name) = said.value
    {
        let fine = checked_name(reader, &said.place.span, &name, "task");
        return (if fine { name } else { String::new() }, said.place);
    }
    let place = reader.place(opening);
    if says(fields, "name") {
        return (String::new(), place);
    }
    let derived = match command {
        Some(Command::Run(argv)) => argv.first().and_then(|program| program.rsplit('/').next()),
        Some(Command::Call(function)) => function.rsplit('.').next(),
        Some(Command::Sh(_)) => None,
        None => return (String::new(), place),
    };
    match derived.filter(|name| name_fault(name).is_none()) {
        Some(name) => (name.to_owned(), place),
        None => {
            let help = Some("name: \"…\" stands in mails, logs and status".to_owned());
            reader.error(opening, "this task needs a `name`", help);
            (String::new(), place)
        }
    }
}
