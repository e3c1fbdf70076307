//! One chain: its layers become one [`Chain`], every option with the place that decided it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::Section;
use super::layers::{ChainLayer, Slot, TaskLayer, nearest};
use super::load::Defaults;
use super::model::{
    Chain, Command, Drain, Isolation, Leftovers, OnFailure, Output, Rotate, Task, UserSpec, Worker,
};
use super::positions::ChainPlaces;
use super::problem::{Place, Problem, quoted};
use super::reader::{Fields, Reader, Said};
use super::task;
use super::tree::{Kind, Node};

/// The longest name of a chain or a task, in bytes.
pub(super) const LONGEST_NAME: usize = 100;

/// What `defaults` says.
#[derive(Default)]
pub(crate) struct DefaultLayers {
    pub(crate) chain: ChainLayer,
    pub(crate) task: TaskLayer,
    /// Whether it has a `user`, be it a faulty one.
    pub(crate) has_user: bool,
}

/// Options as they are decided, each with its place.
pub(super) struct Decider<'p> {
    pub(super) places: &'p mut ChainPlaces,
    pub(super) prefix: String,
}

impl Decider<'_> {
    /// The nearest value; the built-in default where none is said or `None` is.
    pub(super) fn or<'s, T: Clone + 's>(
        &mut self,
        field: &str,
        layers: impl IntoIterator<Item = &'s Slot<T>>,
        default: T,
    ) -> T {
        self.maybe(field, layers).unwrap_or(default)
    }

    /// The nearest value; `None` where none is said or `None` is.
    pub(super) fn maybe<'s, T: Clone + 's>(
        &mut self,
        field: &str,
        layers: impl IntoIterator<Item = &'s Slot<T>>,
    ) -> Option<T> {
        let said = nearest(layers)?;
        self.note(field, &said.place);
        said.value.clone()
    }

    pub(super) fn note(&mut self, field: &str, place: &Place) {
        self.places.fields.insert(format!("{}{field}", self.prefix), place.clone());
    }
}

/// Reads one chain. `None`: so much is wrong that nothing can be said of it; the faults are told.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    node: &Node,
    outer: &DefaultLayers,
    who: &Defaults,
) -> Option<(Chain, ChainPlaces)> {
    let fields = reader.fields("a chain", node, Section::Chain)?;
    let own = ChainLayer::read(reader, &fields);
    let own_tasks = TaskLayer::read(reader, &fields);
    let opening = node.span.start..node.span.start + 1;
    let mut places = ChainPlaces::new(reader.place(&opening));
    let tasks = task::tasks(reader, &fields, &opening, &own_tasks, outer, &mut places);
    let name = name(reader, &fields, &opening, &tasks, &mut places);
    let has_user = outer.has_user || says(&fields, "user");
    let user = user(reader, &own, outer, who, &opening, name.as_deref(), has_user);
    let mut decide = Decider { places: &mut places, prefix: String::new() };
    macro_rules! layers {
        ($field:ident) => {
            [&own.$field, &outer.chain.$field]
        };
    }
    if let Some(said) = nearest(layers!(user)) {
        decide.note("user", &said.place);
    }
    let worker = worker(&mut decide, &own, outer);
    let chain = Chain {
        name: name.clone().unwrap_or_default(),
        user,
        group: decide.maybe("group", layers!(group)),
        groups: decide.maybe("groups", layers!(groups)),
        nice: decide.or("nice", layers!(nice), 0),
        ionice: decide.maybe("ionice", layers!(ionice)),
        scheduler: decide.maybe("scheduler", layers!(scheduler)),
        cpu_affinity: decide.maybe("cpu_affinity", layers!(cpu_affinity)),
        oom_score_adj: decide.or("oom_score_adj", layers!(oom_score_adj), 0),
        rlimits: decide.or("rlimits", layers!(rlimits), BTreeMap::new()),
        umask: decide.or("umask", layers!(umask), 0o022),
        no_new_privs: decide.or("no_new_privs", layers!(no_new_privs), false),
        cwd: decide.maybe("cwd", layers!(cwd)),
        path: decide.or("path", layers!(path), Vec::new()),
        env: environment(&mut decide, layers!(env)),
        env_file: decide.maybe("env_file", layers!(env_file)),
        output: decide.or("output", layers!(output), Output::Main),
        rotate: decide.or("rotate", layers!(rotate), Rotate::default()),
        on_failure: decide.or("on_failure", layers!(on_failure), OnFailure::Continue),
        stop_signal: decide.or("stop_signal", layers!(stop_signal), 15),
        upgrade_drain: decide.or("upgrade_drain", layers!(upgrade_drain), Drain::Forever),
        drain_timeout: decide.or("drain_timeout", layers!(drain_timeout), Duration::from_secs(60)),
        kill_timeout: decide.or("kill_timeout", layers!(kill_timeout), Duration::from_secs(10)),
        leftovers: decide.or("leftovers", layers!(leftovers), Leftovers::End),
        worker,
        tasks,
    };
    idle_worker(reader, &fields, &chain);
    (name.is_some()).then_some((chain, places))
}

fn worker(decide: &mut Decider<'_>, own: &ChainLayer, outer: &DefaultLayers) -> Option<Worker> {
    let max_runs = decide.maybe("max_runs", [&own.max_runs, &outer.chain.max_runs]);
    let max_rss = decide.maybe("max_rss", [&own.max_rss, &outer.chain.max_rss]);
    let isolation =
        decide.or("isolation", [&own.isolation, &outer.chain.isolation], Isolation::Warm);
    let ready_timeout = decide.or(
        "ready_timeout",
        [&own.ready_timeout, &outer.chain.ready_timeout],
        Duration::from_secs(60),
    );
    let program = decide.maybe("worker", [&own.worker, &outer.chain.worker])?;
    Some(Worker { program, max_runs, max_rss, isolation, ready_timeout })
}

/// A chain that names a worker of its own and has nothing for it to do.
fn idle_worker(reader: &mut Reader<'_>, fields: &Fields<'_>, chain: &Chain) {
    // What a task with a fault would run is not known: that was told.
    let other = |task: &Task| match &task.command {
        Command::Run(argv) => !argv.is_empty(),
        Command::Sh(_) => true,
        Command::Call(_) => false,
    };
    let idle = !chain.tasks.is_empty() && chain.tasks.iter().all(other);
    if let (Some(_), true, Some(entry)) = (&chain.worker, idle, fields.get("worker")) {
        reader.warn(
            &entry.name_span,
            "this `worker` will not be started: no task of the chain has a `call`",
            "a task for it is written (call: \"module.function\")",
        );
    }
}

/// Variables by key, the nearest layer first; an explicit `env: None` cuts off what is further out.
fn environment(
    decide: &mut Decider<'_>,
    layers: [&Slot<BTreeMap<String, Said<String>>>; 2],
) -> BTreeMap<String, String> {
    let mut merged: BTreeMap<String, Said<String>> = BTreeMap::new();
    for layer in layers.into_iter().flatten() {
        let Some(variables) = &layer.value else { break };
        for (key, said) in variables {
            merged.entry(key.clone()).or_insert_with(|| said.clone());
        }
    }
    let mut environment = BTreeMap::new();
    for (key, said) in merged {
        decide.note(&format!("env.{key}"), &said.place);
        if let Some(value) = said.value {
            environment.insert(key, value);
        }
    }
    environment
}

/// Whether a field is there with something else than `None`, be it faulty or misspelt.
pub(crate) fn says(fields: &Fields<'_>, name: &str) -> bool {
    match fields.get(name) {
        Some(entry) => entry.value.kind != Kind::None,
        None => !fields.lacks(name),
    }
}

/// Who the chain runs as. As root it must be said; a normal user is nobody but itself.
fn user(
    reader: &mut Reader<'_>,
    own: &ChainLayer,
    outer: &DefaultLayers,
    who: &Defaults,
    opening: &std::ops::Range<usize>,
    name: Option<&str>,
    has_user: bool,
) -> UserSpec {
    let said = nearest([&own.user, &outer.chain.user]);
    let spec = said.and_then(|said| said.value.clone());
    match (&spec, said) {
        (Some(spec), Some(said)) => {
            if !who.may_be(spec) {
                let problem = Problem::error(
                    said.place.file,
                    said.place.span.clone(),
                    "only root can run a chain as another user",
                )
                .help("write user: Current, or start it as root");
                reader.problems.push(problem);
            }
            spec.clone()
        }
        _ => {
            // An explicit None is no answer; a faulty one has been told.
            if who.as_root && (said.is_some() || !has_user) {
                let message = match name {
                    Some(name) => format!("the chain {} has no `user`", quoted(name)),
                    None => "this chain has no `user`".to_owned(),
                };
                let help = "say who it runs as, here or in `defaults`: user: \"name\"; root must be asked for by name: user: \"root\"";
                reader.error(opening, message, Some(help.to_owned()));
            }
            UserSpec::Current
        }
    }
}

fn name(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    opening: &std::ops::Range<usize>,
    tasks: &[Task],
    places: &mut ChainPlaces,
) -> Option<String> {
    if let Some(said) = reader.said(fields, "name", |reader, name, node| reader.text(name, node))
        && let Some(name) = said.value
    {
        places.fields.insert("name".to_owned(), said.place.clone());
        let fine = checked_name(reader, &said.place.span, &name, "chain");
        if fine && matches!(name.as_str(), "master" | "runner") {
            let message = format!("the name `{name}` is taken by the runner itself");
            reader.error(&said.place.span, message, None);
        }
        return fine.then_some(name);
    }
    if says(fields, "name") || tasks.is_empty() {
        return None;
    }
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    let joined = names.join("_");
    if names.iter().any(|name| name.is_empty()) {
        return None;
    }
    let help = Some("give it one: name: \"…\"".to_owned());
    if joined.len() > LONGEST_NAME {
        let message = format!(
            "this chain needs a name: its tasks' names joined are longer than {LONGEST_NAME} bytes"
        );
        reader.error(opening, message, help);
        return None;
    }
    if matches!(joined.as_str(), "master" | "runner") {
        let message =
            format!("this chain needs a name: {} is taken by the runner itself", quoted(&joined));
        reader.error(opening, message, help);
        return None;
    }
    Some(joined)
}

/// Whether a name can be a file's name, a mail's subject and a word on a command line.
pub(super) fn checked_name(
    reader: &mut Reader<'_>,
    span: &std::ops::Range<usize>,
    name: &str,
    what: &str,
) -> bool {
    let Some(fault) = name_fault(name) else { return true };
    let help = "letters, digits, `.`, `_` and `-` are allowed".to_owned();
    reader.error(span, format!("the name of a {what} {fault}"), Some(help));
    false
}

/// Why something is no name.
pub(super) fn name_fault(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Some("cannot be empty".to_owned())
    } else if name.len() > LONGEST_NAME {
        Some(format!("has at most {LONGEST_NAME} bytes"))
    } else if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        Some(format!("cannot hold {}", quoted(&c.to_string())))
    } else if name.chars().all(|c| c == '.') {
        Some("cannot be dots only".to_owned())
    } else if name.starts_with('-') {
        Some("cannot begin with `-`: programs would take it for an option".to_owned())
    } else {
        None
    }
}
