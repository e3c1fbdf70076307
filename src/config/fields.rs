//! Every field of a configuration: the one table behind the refusal of unknown names, "did you
//! mean", and the manual page runner.ron(5), which a test holds to it.

use super::problem::closest;

/// Where a field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// The main file's outermost parentheses.
    File,
    /// An included file's outermost parentheses.
    Included,
    /// `mail: (…)`.
    Mail,
    /// `limit: (…)` of `mail`.
    Limit,
    /// `transport: Smtp(…)` of `mail`.
    Smtp,
    /// `log: (…)`.
    Log,
    /// `rotate: (…)`.
    Rotate,
    /// `defaults: (…)`.
    Defaults,
    /// One of `chains: […]`.
    Chain,
    /// One of `tasks: […]`.
    Task,
    /// A limit of `rlimits: {…}`.
    Rlimit,
}

impl Section {
    /// The section's name in a message.
    pub fn name(self) -> &'static str {
        match self {
            Section::File => "the configuration",
            Section::Included => "an included file",
            Section::Mail => "`mail`",
            Section::Limit => "`limit`",
            Section::Smtp => "`Smtp`",
            Section::Log => "`log`",
            Section::Rotate => "`rotate`",
            Section::Defaults => "`defaults`",
            Section::Chain => "a chain",
            Section::Task => "a task",
            Section::Rlimit => "a limit",
        }
    }

    /// The same, said of a field that stands somewhere else.
    fn place(self) -> &'static str {
        match self {
            Section::File => "the main file's outermost parentheses",
            section => section.name(),
        }
    }
}

/// A field: its name, where it stands, what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// As it is written.
    pub name: &'static str,
    /// The section it belongs to.
    pub section: Section,
    /// What it takes, with unit and range.
    pub takes: &'static str,
    /// What holds where it is not said.
    pub default: &'static str,
    /// Whether it may also be said further out: a task's field in its chain and in `defaults`, a
    /// chain's field in `defaults`.
    pub inherited: bool,
}

impl Field {
    /// Whether the field may stand in `section`.
    pub fn stands_in(&self, section: Section) -> bool {
        let further_out = match self.section {
            Section::Task => matches!(section, Section::Chain | Section::Defaults),
            Section::Chain => section == Section::Defaults,
            Section::File => {
                section == Section::Included && matches!(self.name, "defaults" | "chains")
            }
            _ => false,
        };
        self.section == section || further_out && (self.inherited || self.section == Section::File)
    }
}

const fn own(
    section: Section,
    name: &'static str,
    takes: &'static str,
    default: &'static str,
) -> Field {
    Field { name, section, takes, default, inherited: false }
}

const fn inherited(
    section: Section,
    name: &'static str,
    takes: &'static str,
    default: &'static str,
) -> Field {
    Field { name, section, takes, default, inherited: true }
}

use Section::{Chain, File, Limit, Log, Mail, Rlimit, Rotate, Smtp, Task};

/// All fields, in the order of the manual page.
pub const FIELDS: &[Field] = &[
    own(File, "run_root", "folder", "/run/runner as root, else $XDG_RUNTIME_DIR/runner"),
    own(
        File,
        "state_root",
        "folder",
        "/var/lib/runner as root, else $XDG_STATE_HOME/runner or ~/.local/state/runner",
    ),
    own(File, "kill_concurrent", "true or false", "true"),
    own(File, "control_group", "group name or id", "None"),
    own(File, "include", "list of patterns", "[]"),
    own(File, "mail", "( … )", "None: each notice is a warning in the log"),
    own(File, "log", "( … )", "()"),
    own(File, "defaults", "( … )", "()"),
    own(File, "chains", "list of ( … )", "[]"),
    own(Mail, "from", "address", "required"),
    own(Mail, "to", "list of addresses", "required"),
    own(Mail, "transport", "Smtp(…), Sendmail(\"program\") or Maildir(\"folder\")", "required"),
    own(Mail, "spool", "folder", "state_root/spool"),
    own(Mail, "user", "user name or id, or Current", "\"runner-mail\" as root, else Current"),
    own(Mail, "subject_prefix", "text", "\"\""),
    own(Mail, "limit", "( … )", "(mails: 30, per: \"1h\")"),
    own(Limit, "mails", "number, 1 to 10000", "30"),
    own(Limit, "per", "duration, more than 0", "1h"),
    own(Smtp, "host", "host name or address", "required"),
    own(Smtp, "port", "number, 1 to 65535", "587 with StartTls, 465 with Tls, 25 with None"),
    own(Smtp, "security", "StartTls, Tls or None", "StartTls"),
    own(Smtp, "username", "text", "None: no authentication"),
    own(Smtp, "password_file", "file", "None"),
    own(Smtp, "ca_file", "file", "None"),
    own(Log, "level", "Critical, Error, Warning, Info, Debug or Trace", "Info"),
    own(Log, "format", "Text or Json", "Text"),
    own(Log, "to", "Stderr or File(\"file\")", "Stderr"),
    own(Log, "user", "user name or id, or Current", "\"runner-log\" as root, else Current"),
    own(Log, "rotate", "( … )", "()"),
    own(Rotate, "max_size", "size, at least 4KiB", "100MiB"),
    own(Rotate, "keep", "number, 1 to 1000", "7"),
    own(Rotate, "max_age", "duration, at least 1m", "None"),
    own(Rotate, "compress", "true or false", "true"),
    own(Chain, "name", "[A-Za-z0-9._-], at most 100 bytes", "the tasks' names joined by \"_\""),
    inherited(Chain, "user", "user name or id, or Current", "required as root, else Current"),
    inherited(Chain, "group", "group name or id", "the user's own"),
    inherited(Chain, "groups", "list of group names or ids", "the user's own"),
    inherited(Chain, "nice", "number, -20 to 19", "0"),
    inherited(Chain, "ionice", "Realtime(0 to 7), BestEffort(0 to 7) or Idle", "None: by nice"),
    inherited(Chain, "scheduler", "Other, Batch, Idle, Fifo(1 to 99) or Rr(1 to 99)", "Other"),
    inherited(Chain, "cpu_affinity", "list of CPU numbers", "None: all"),
    inherited(Chain, "oom_score_adj", "number, -1000 to 1000", "0"),
    inherited(Chain, "rlimits", "map of limits", "{}"),
    inherited(Chain, "umask", "octal text or number", "\"022\""),
    inherited(Chain, "no_new_privs", "true or false", "false"),
    inherited(Chain, "cwd", "folder", "the user's home"),
    inherited(Chain, "path", "list of folders", "[]"),
    inherited(Chain, "env", "map of texts", "{}"),
    inherited(Chain, "env_file", "file", "None"),
    inherited(Chain, "output", "Main, Lines(\"file\"), Raw(\"file\") or Discard", "Main"),
    inherited(Chain, "rotate", "( … )", "()"),
    inherited(Chain, "on_failure", "Continue or FirstTask", "Continue"),
    inherited(Chain, "stop_signal", "signal name or number", "\"SIGTERM\""),
    inherited(Chain, "upgrade_drain", "Forever or duration", "Forever"),
    inherited(Chain, "drain_timeout", "duration", "60s"),
    inherited(Chain, "kill_timeout", "duration", "10s"),
    inherited(Chain, "leftovers", "End or Keep", "End"),
    inherited(Chain, "worker", "Python(\"program\") or Command([\"program\", …])", "None"),
    inherited(Chain, "max_runs", "number, at least 1", "None"),
    inherited(Chain, "max_rss", "size", "None"),
    inherited(Chain, "isolation", "Warm or Fork", "Warm"),
    inherited(Chain, "ready_timeout", "duration, more than 0", "60s"),
    own(Chain, "tasks", "list of ( … )", "required"),
    own(
        Task,
        "name",
        "[A-Za-z0-9._-], at most 100 bytes",
        "the program's name, or the last part of call",
    ),
    own(Task, "run", "list of texts", "one of run, sh and call is required"),
    own(Task, "sh", "text for /bin/sh -ec", "one of run, sh and call is required"),
    own(Task, "call", "name of a function", "one of run, sh and call is required"),
    inherited(Task, "success_cooldown", "duration", "5m"),
    inherited(Task, "fail_cooldown", "duration", "20m"),
    inherited(Task, "non_recoverable_downtime", "duration, more than 0", "12h"),
    inherited(Task, "remind_every", "duration, more than 0", "as non_recoverable_downtime"),
    inherited(Task, "timeout", "duration, more than 0", "None"),
    inherited(Task, "overdue", "duration, more than 0", "as non_recoverable_downtime"),
    inherited(Task, "forget_after", "duration, more than 0", "7d"),
    inherited(Task, "ok_exit", "list of exit codes, 0 to 255", "[0]"),
    inherited(Task, "to", "list of addresses", "mail.to"),
    own(Rlimit, "soft", "number, size or Unlimited", "as hard"),
    own(Rlimit, "hard", "number, size or Unlimited", "as soft"),
];

/// Names that other programs use for what we have under another name.
const ELSEWHERE: &[(&str, &str)] = &[
    ("command", "run"),
    ("cmd", "run"),
    ("exec", "run"),
    ("argv", "run"),
    ("shell", "sh"),
    ("directory", "cwd"),
    ("dir", "cwd"),
    ("workdir", "cwd"),
    ("working_dir", "cwd"),
    ("working_directory", "cwd"),
    ("environment", "env"),
    ("vars", "env"),
    ("environment_file", "env_file"),
    ("username", "user"),
    ("run_as", "user"),
    ("priority", "nice"),
    ("interval", "success_cooldown"),
    ("cooldown", "success_cooldown"),
    ("sleep", "success_cooldown"),
    ("every", "success_cooldown"),
    ("stdout", "output"),
    ("log_file", "output"),
    ("stopsignal", "stop_signal"),
    ("killconcurrent", "kill_concurrent"),
    ("email", "mail"),
    ("logging", "log"),
    ("args", "run"),
    ("mailto", "to"),
    ("recipients", "to"),
    ("limits", "rlimits"),
    ("rlimit", "rlimits"),
    ("exitcodes", "ok_exit"),
];

/// Whether `name` may stand in `section`.
pub(crate) fn known(section: Section, name: &str) -> bool {
    FIELDS.iter().any(|field| field.name == name && field.stands_in(section))
}

/// What to say of a name that may not stand in `section`, and which name of it was probably meant.
pub(crate) fn advice(section: Section, name: &str) -> (Option<String>, Option<&'static str>) {
    let here = || FIELDS.iter().filter(|field| field.stands_in(section)).map(|field| field.name);
    // One letter too many is likelier than the wrong place.
    if let Some(field) = here().find(|field| strsim::osa_distance(field, name) == 1) {
        return (Some(format!("did you mean `{field}`?")), Some(field));
    }
    if let Some(field) = home(name) {
        let defaults = if field.inherited { " or into `defaults`" } else { "" };
        let place = field.section.place();
        return (Some(format!("`{name}` belongs into {place}{defaults}")), None);
    }
    let theirs = closest(name, ELSEWHERE.iter().map(|(theirs, _)| *theirs));
    let ours = ELSEWHERE.iter().find(|(known, _)| Some(*known) == theirs).map(|(_, ours)| *ours);
    let translated = ours.and_then(|ours| here().find(|field| *field == ours));
    if let Some(field) = closest(name, here()).or(translated) {
        return (Some(format!("did you mean `{field}`?")), Some(field));
    }
    let elsewhere = closest(name, FIELDS.iter().map(|field| field.name)).or(ours).and_then(home);
    let text = elsewhere.map(|field| {
        format!("did you mean `{}`? It belongs into {}", field.name, field.section.place())
    });
    (text, None)
}

/// The field of that name that people mean most often.
fn home(name: &str) -> Option<&'static Field> {
    let all = || FIELDS.iter().filter(|field| field.name == name);
    all().find(|field| field.section == Chain).or_else(|| all().next())
}
