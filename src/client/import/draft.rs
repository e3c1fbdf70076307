//! Chains as far as another program's file tells them, and the RON that says the same.

use std::fmt::Write;
use std::path::Path;

use crate::config::{self, Defaults, Severity};

/// A chain to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Draft {
    /// What a person should know or decide; each becomes a comment.
    pub(super) notes: Vec<String>,
    pub(super) name: Option<String>,
    pub(super) user: Option<String>,
    pub(super) cwd: Option<String>,
    pub(super) path: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Further fields with their values in RON.
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) tasks: Vec<TaskDraft>,
}

/// A task to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskDraft {
    pub(super) notes: Vec<String>,
    pub(super) name: String,
    pub(super) what: What,
    /// Further fields with their values in RON.
    pub(super) fields: Vec<(&'static str, String)>,
}

/// What a task runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Run(Vec<String>),
    Sh(String),
    /// A function of the chain's worker.
    Call(String),
}

impl TaskDraft {
    /// The pauses after its runs, unless they are known already.
    pub(super) fn pause(&mut self, success: &str, failure: &str) {
        for (field, time) in [("success_cooldown", success), ("fail_cooldown", failure)] {
            if self.fields.iter().all(|(name, _)| *name != field) {
                self.fields.push((field, text(time)));
            }
        }
    }
}

impl Draft {
    /// Sets a field, in place of what it was.
    pub(super) fn set(&mut self, field: &'static str, ron: String) {
        self.fields.retain(|(name, _)| *name != field);
        self.fields.push((field, ron));
    }

    /// Says something once.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// A relative output file is meant in the working folder.
    fn settle_output(&mut self) {
        let Some(cwd) = &self.cwd else { return };
        for (name, value) in &mut self.fields {
            if let Some(file) = value.strip_prefix("Raw(\"").filter(|file| !file.starts_with('/'))
                && *name == "output"
            {
                let folder = text(cwd.trim_end_matches('/'));
                *value = format!("Raw({}/{file}", folder.strip_suffix('"').unwrap_or(&folder));
            }
        }
    }

    /// What the configuration would refuse becomes a note: a mask, a time, a name of another
    /// program's is not always one of ours.
    fn settle_values(&mut self) {
        if let Some(user) = &self.user
            && let Err(why) = accepted("user", &account(user))
        {
            self.note(format!("Put the user in: {why}."));
            self.user = Some("nobody".to_owned());
        }
        if let Some(why) = self.cwd.as_ref().and_then(|cwd| accepted("cwd", &text(cwd)).err()) {
            self.note(format!("Put the working folder in: {why}."));
            self.cwd = None;
        }
        let mut notes = Vec::new();
        let mut keep = |field: &str, value: &str| {
            accepted(field, value)
                .map_err(|why| notes.push(format!("Left out: {field}: {value} ({why}).")))
                .is_ok()
        };
        self.path.retain(|folder| keep("path", &list(std::slice::from_ref(folder))));
        let mut env: Vec<(String, String)> = Vec::new();
        for (name, value) in self.env.drain(..) {
            if keep("env", &variables(&[(name.clone(), value.clone())])) {
                // The last one counts; names are the same that are written alike.
                env.retain(|(known, _)| text(known) != text(&name));
                env.push((name, value));
            }
        }
        self.env = env;
        self.fields.retain(|(field, value)| keep(field, value));
        for task in &mut self.tasks {
            task.fields.dedup_by_key(|(field, _)| *field);
            task.fields.retain(|(field, value)| keep(field, value));
        }
        self.tasks.retain(|task| keep("tasks", &format!("[(name: \"t\", {})]", task.what.ron())));
        notes.into_iter().for_each(|note| self.note(note));
    }

    /// What makes names unique and legal, inside the chain and among `taken`.
    fn settle_names(&mut self, taken: &mut Vec<String>) {
        let mut names: Vec<String> = vec![];
        for task in &mut self.tasks {
            task.name = fresh(&legal(&task.name), &names);
            names.push(task.name.clone());
        }
        let wanted = legal(&self.name.clone().unwrap_or_else(|| names.join("_")));
        let name = fresh(&wanted, taken);
        taken.push(name.clone());
        self.name = Some(name);
    }
}

impl What {
    fn ron(&self) -> String {
        match self {
            What::Run(argv) => format!("run: {}", list(argv)),
            What::Sh(line) => format!("sh: {}", text(line)),
            What::Call(function) => format!("call: {}", text(function)),
        }
    }
}

/// Settles what each draft says; one that is left without a task is none.
pub(super) fn settle(drafts: &mut Vec<Draft>) {
    for draft in drafts.iter_mut() {
        draft.settle_values();
    }
    drafts.retain(|draft| !draft.tasks.is_empty());
}

/// Whether a chain may say this.
///
/// # Errors
/// Why not.
fn accepted(field: &str, value: &str) -> Result<(), String> {
    // A `call` needs a worker beside it.
    let others = match field {
        "tasks" => "worker: Python(\"python3\")",
        _ => "tasks: [(name: \"t\", sh: \"x\")]",
    };
    let user = if field == "user" { "" } else { "user: Current, " };
    let text = format!("(chains: [({field}: {value}, {user}{others})])");
    let folder = Some(Path::new("/run").to_owned());
    let (run_root, state_root) = (folder.clone(), folder);
    let who = Defaults { as_root: true, uid: 0, user: None, run_root, state_root };
    let problems = config::parse(Path::new("/import.ron"), &text, &who).problems;
    match problems.into_iter().find(|problem| problem.severity == Severity::Error) {
        Some(problem) => Err(problem.message),
        None => Ok(()),
    }
}

/// A configuration of these chains. `about` comes first, as comments.
pub(super) fn to_ron(about: &[String], mut drafts: Vec<Draft>) -> String {
    let mut taken = vec!["master".to_owned(), "runner".to_owned()];
    let mut out = String::new();
    comment(&mut out, 0, about);
    out.push_str("(\n");
    comment(
        &mut out,
        1,
        &["Who is told of failures; without it each notice is a warning in the log.".to_owned(),
          "mail: (from: \"runner@example.org\", to: [\"ops@example.org\"], transport: Sendmail(\"/usr/sbin/sendmail\")),".to_owned()],
    );
    out.push_str("    chains: [\n");
    for draft in &mut drafts {
        draft.settle_names(&mut taken);
        draft.settle_output();
        chain(&mut out, draft);
    }
    out.push_str("    ],\n)\n");
    out
}

// Writing to a String cannot fail; its results are dropped below.
fn chain(out: &mut String, draft: &Draft) {
    comment(out, 2, &draft.notes);
    if draft.user.is_none() {
        comment(out, 2, &["It ran as whoever started the script.".to_owned()]);
    }
    out.push_str("        (\n");
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(out, "            {name}: {value},");
    };
    if let Some(name) = &draft.name {
        field("name", &text(name));
    }
    let user = draft.user.as_ref().map_or("Current".to_owned(), |user| account(user));
    field("user", &user);
    if let Some(cwd) = &draft.cwd {
        field("cwd", &text(cwd));
    }
    if !draft.path.is_empty() {
        field("path", &list(&draft.path));
    }
    if !draft.env.is_empty() {
        field("env", &variables(&draft.env));
    }
    for (name, value) in &draft.fields {
        field(name, value);
    }
    out.push_str("            tasks: [\n");
    for task in &draft.tasks {
        comment(out, 4, &task.notes);
        let _ = write!(out, "                (name: {}, {}", text(&task.name), task.what.ron());
        for (name, value) in &task.fields {
            let _ = write!(out, ", {name}: {value}");
        }
        out.push_str("),\n");
    }
    out.push_str("            ],\n        ),\n");
}

fn comment(out: &mut String, depth: usize, lines: &[String]) {
    for line in lines.iter().flat_map(|line| line.lines()) {
        let safe = crate::wire::safe::safe_line(line);
        let _ = writeln!(out, "{:1$}// {safe}", "", depth * 4);
    }
}

/// A text in RON.
pub(super) fn text(text: &str) -> String {
    format!("{:?}", text.replace('\0', ""))
}

/// An account in RON: a number is an id.
fn account(user: &str) -> String {
    match user.parse::<u32>() {
        Ok(id) if user.bytes().all(|byte| byte.is_ascii_digit()) => id.to_string(),
        _ => text(user),
    }
}

/// Variables in RON.
fn variables(pairs: &[(String, String)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{}: {}", text(name), text(value)));
    format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
}

/// A list of texts in RON.
pub(super) fn list(texts: &[String]) -> String {
    let all: Vec<String> = texts.iter().map(|one| text(one)).collect();
    format!("[{}]", all.join(", "))
}

/// A program's name without folder and suffix.
pub(super) fn base_name(program: &str) -> String {
    let last = program.trim_end_matches('/').rsplit('/').next().unwrap_or(program);
    [".sh", ".py", ".pl", ".rb"]
        .iter()
        .find_map(|end| last.strip_suffix(end))
        .unwrap_or(last)
        .to_owned()
}

/// As a name of a chain or a task may be.
fn legal(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .take(90)
        .collect();
    let kept = kept.trim_matches(['_', '.', '-']).to_owned();
    if kept.is_empty() { "task".to_owned() } else { kept }
}

fn fresh(name: &str, taken: &[String]) -> String {
    if !taken.iter().any(|one| one == name) {
        return name.to_owned();
    }
    let mut number = 2;
    loop {
        let candidate = format!("{name}-{number}");
        if !taken.contains(&candidate) {
            return candidate;
        }
        number += 1;
    }
}
