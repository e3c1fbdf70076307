//! What a chain's configuration comes to: every value in force and where it was said.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::load::Checked;
use super::model::{
    Chain, Command, Drain, GroupSpec, IoNice, Isolation, Leftovers, OnFailure, Output, Rlimit,
    Rotate, Scheduler, Task, UserSpec, WorkerProgram,
};
use super::render::locate;
use super::source::Source;
use super::units::signal_name;

/// A chain as RON with a remark at each value: the place that decided it, or what `otherwise` says
/// of the field (`tasks.NAME.fail_cooldown`), or `default`. `None`: there is no such chain.
pub fn show(
    checked: &Checked,
    sources: &[Source],
    chain: &str,
    otherwise: &dyn Fn(&str) -> Option<&'static str>,
) -> Option<String> {
    let chain = checked.config.chains.iter().find(|known| known.name == chain)?;
    let (prefix, lines) = (String::new(), Vec::new());
    let mut page = Page { checked, sources, chain: &chain.name, otherwise, prefix, lines };
    page.plain(0, "(");
    page.chain(chain);
    page.plain(0, ")");
    Some(page.text())
}

struct Page<'a> {
    checked: &'a Checked,
    sources: &'a [Source],
    chain: &'a str,
    otherwise: &'a dyn Fn(&str) -> Option<&'static str>,
    /// In front of a field's name in the positions.
    prefix: String,
    /// What stands in a line, and the remark behind it.
    lines: Vec<(String, Option<String>)>,
}

impl Page<'_> {
    fn chain(&mut self, chain: &Chain) {
        self.line(1, "name", &quote(&chain.name));
        self.line(1, "user", &user(&chain.user));
        self.line(1, "group", &option(chain.group.as_ref(), group));
        self.line(1, "groups", &option(chain.groups.as_ref(), |groups| list(groups, group)));
        self.line(1, "nice", &chain.nice.to_string());
        self.line(1, "ionice", &option(chain.ionice.as_ref(), ionice));
        self.line(1, "scheduler", &option(chain.scheduler.as_ref(), scheduler));
        self.line(
            1,
            "cpu_affinity",
            &option(chain.cpu_affinity.as_ref(), |cpus| list(cpus, u32::to_string)),
        );
        self.line(1, "oom_score_adj", &chain.oom_score_adj.to_string());
        let limits: Vec<String> = chain
            .rlimits
            .iter()
            .map(|(name, limit)| format!("{}: {}", quote(name), rlimit(limit)))
            .collect();
        self.line(1, "rlimits", &format!("{{{}}}", limits.join(", ")));
        self.line(1, "umask", &format!("\"{:03o}\"", chain.umask));
        self.line(1, "no_new_privs", &chain.no_new_privs.to_string());
        self.line(1, "cwd", &option(chain.cwd.as_ref(), |cwd| path(cwd)));
        self.line(1, "path", &list(&chain.path, |folder| path(folder)));
        self.environment(chain);
        self.line(1, "env_file", &option(chain.env_file.as_ref(), |file| path(file)));
        self.line(1, "output", &output(&chain.output));
        self.line(1, "rotate", &rotate(&chain.rotate));
        let on_failure = match chain.on_failure {
            OnFailure::Continue => "Continue",
            OnFailure::FirstTask => "FirstTask",
        };
        self.line(1, "on_failure", on_failure);
        self.line(1, "stop_signal", &signal(chain.stop_signal));
        let drain = match chain.upgrade_drain {
            Drain::Forever => "Forever".to_owned(),
            Drain::Within(time) => duration(&time),
        };
        self.line(1, "upgrade_drain", &drain);
        self.line(1, "drain_timeout", &duration(&chain.drain_timeout));
        self.line(1, "kill_timeout", &duration(&chain.kill_timeout));
        let leftovers = match chain.leftovers {
            Leftovers::End => "End",
            Leftovers::Keep => "Keep",
        };
        self.line(1, "leftovers", leftovers);
        if let Some(worker) = &chain.worker {
            let program = match &worker.program {
                WorkerProgram::Python(program) => format!("Python({})", path(program)),
                WorkerProgram::Command(argv) => {
                    format!("Command({})", list(argv, |word| quote(word)))
                }
            };
            self.line(1, "worker", &program);
            self.line(1, "max_runs", &option(worker.max_runs.as_ref(), u64::to_string));
            self.line(1, "max_rss", &option(worker.max_rss.as_ref(), u64::to_string));
            let isolation = match worker.isolation {
                Isolation::Warm => "Warm",
                Isolation::Fork => "Fork",
            };
            self.line(1, "isolation", isolation);
            self.line(1, "ready_timeout", &duration(&worker.ready_timeout));
        }
        self.plain(1, "tasks: [");
        for task in &chain.tasks {
            self.plain(2, "(");
            self.prefix = format!("tasks.{}.", task.name);
            self.task(task);
            self.prefix.clear();
            self.plain(2, "),");
        }
        self.plain(1, "],");
    }

    fn environment(&mut self, chain: &Chain) {
        if chain.env.is_empty() {
            return self.line(1, "env", "{}");
        }
        self.plain(1, "env: {");
        for (key, value) in &chain.env {
            let remark = self.origin(&format!("env.{key}"));
            self.lines.push((format!("        {}: {},", quote(key), quote(value)), Some(remark)));
        }
        self.plain(1, "},");
    }

    fn task(&mut self, task: &Task) {
        self.line(3, "name", &quote(&task.name));
        let (field, command) = match &task.command {
            Command::Run(argv) => ("run", list(argv, |word| quote(word))),
            Command::Sh(line) => ("sh", quote(line)),
            Command::Call(function) => ("call", quote(function)),
        };
        let remark = self.origin("command");
        self.lines.push((format!("            {field}: {command},"), Some(remark)));
        self.line(3, "success_cooldown", &duration(&task.success_cooldown));
        self.line(3, "fail_cooldown", &duration(&task.fail_cooldown));
        self.line(3, "non_recoverable_downtime", &duration(&task.non_recoverable_downtime));
        self.line(3, "remind_every", &duration(&task.remind_every));
        self.line(3, "timeout", &option(task.timeout.as_ref(), duration));
        self.line(3, "overdue", &option(task.overdue.as_ref(), duration));
        self.line(3, "forget_after", &duration(&task.forget_after));
        self.line(3, "ok_exit", &list(&task.ok_exit, u8::to_string));
        if task.to.is_empty() {
            let to = self.checked.config.mail.as_ref().map(|mail| list(&mail.to, |to| quote(to)));
            let place = self.checked.positions.top.get("mail.to");
            let remark =
                place.map_or_else(|| "default".to_owned(), |place| locate(place, self.sources));
            self.lines.push((
                format!("            to: {},", to.unwrap_or_else(|| "None".to_owned())),
                Some(remark),
            ));
        } else {
            self.line(3, "to", &list(&task.to, |to| quote(to)));
        }
    }

    fn line(&mut self, depth: usize, field: &str, value: &str) {
        let remark = self.origin(field);
        self.lines.push((format!("{}{field}: {value},", "    ".repeat(depth)), Some(remark)));
    }

    fn plain(&mut self, depth: usize, text: &str) {
        self.lines.push((format!("{}{text}", "    ".repeat(depth)), None));
    }

    fn origin(&self, field: &str) -> String {
        let field = format!("{}{field}", self.prefix);
        let places = self.checked.positions.chains.get(self.chain);
        match places.and_then(|places| places.fields.get(&field)) {
            Some(place) => locate(place, self.sources),
            None => (self.otherwise)(&field).unwrap_or("default").to_owned(),
        }
    }

    /// The lines, with the remarks in one column where they fit.
    fn text(&self) -> String {
        const WIDEST: usize = 60;
        let width = |line: &str| line.chars().count();
        let column = self
            .lines
            .iter()
            .filter(|(_, remark)| remark.is_some())
            .map(|(line, _)| width(line))
            .filter(|width| *width <= WIDEST)
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for (line, remark) in &self.lines {
            let _ = match remark {
                Some(remark) => {
                    let gap = column.saturating_sub(width(line));
                    writeln!(text, "{line}{:gap$}  // {remark}", "")
                }
                None => writeln!(text, "{line}"),
            };
        }
        text
    }
}

/// A text as RON writes it; nothing in it is obeyed by a terminal.
fn quote(text: &str) -> String {
    format!("{text:?}")
}

fn path(path: &Path) -> String {
    quote(&path.display().to_string())
}

fn list<T>(values: &[T], show: impl Fn(&T) -> String) -> String {
    format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn option<T>(value: Option<&T>, show: impl Fn(&T) -> String) -> String {
    value.map_or_else(|| "None".to_owned(), show)
}

fn duration(time: &Duration) -> String {
    quote(&humantime::format_duration(*time).to_string())
}

fn user(user: &UserSpec) -> String {
    match user {
        UserSpec::Current => "Current".to_owned(),
        UserSpec::Name(name) => quote(name),
        UserSpec::Id(id) => id.to_string(),
    }
}

fn group(group: &GroupSpec) -> String {
    match group {
        GroupSpec::Name(name) => quote(name),
        GroupSpec::Id(id) => id.to_string(),
    }
}

fn ionice(ionice: &IoNice) -> String {
    match ionice {
        IoNice::Realtime(level) => format!("Realtime({level})"),
        IoNice::BestEffort(level) => format!("BestEffort({level})"),
        IoNice::Idle => "Idle".to_owned(),
    }
}

fn scheduler(scheduler: &Scheduler) -> String {
    match scheduler {
        Scheduler::Other => "Other".to_owned(),
        Scheduler::Batch => "Batch".to_owned(),
        Scheduler::Idle => "Idle".to_owned(),
        Scheduler::Fifo(priority) => format!("Fifo({priority})"),
        Scheduler::Rr(priority) => format!("Rr({priority})"),
    }
}

fn rlimit(limit: &Rlimit) -> String {
    let value =
        |value: Option<u64>| option(value.as_ref(), u64::to_string).replace("None", "Unlimited");
    if limit.soft == limit.hard {
        return value(limit.soft);
    }
    format!("(soft: {}, hard: {})", value(limit.soft), value(limit.hard))
}

fn output(output: &Output) -> String {
    match output {
        Output::Main => "Main".to_owned(),
        Output::Discard => "Discard".to_owned(),
        Output::Lines(file) => format!("Lines({})", path(file)),
        Output::Raw(file) => format!("Raw({})", path(file)),
    }
}

fn rotate(rotate: &Rotate) -> String {
    format!(
        "(max_size: {}, keep: {}, max_age: {}, compress: {})",
        option(rotate.max_size.as_ref(), u64::to_string),
        rotate.keep,
        option(rotate.max_age.as_ref(), duration),
        rotate.compress
    )
}

fn signal(number: i32) -> String {
    let name = signal_name(number);
    if name.starts_with("SIG") { quote(&name) } else { name }
}
