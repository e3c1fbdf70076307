//! From a command line to a running master: a clean world, a checked plan, the ground, the lock.
//!
//! The order at a start, each with the accident it prevents: signals are blocked before anything
//! else, so none is lost or kills half-way; the plan comes from a child, so a name service can
//! block without us and leaves nothing in our memory; the ground is checked before the lock, which
//! lies in it; the lock comes before the logger, the log file and every chain, so a second start
//! touches nothing of the first one's.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ground::Ground;
use super::groups::Groups;
use super::handover::Handover;
use super::holder::Holder;
use super::systemd::Systemd;
use super::takeover::{self, Refused};
use super::{Master, Senses, handover};
use crate::checker::{self, Options, Plan};
use crate::cli::{Cli, Descriptors};
use crate::config::model::Config;
use crate::policy::environment::instance_of;
use crate::sys::fork::{EXIT_OSERR, Pid, fork_child, leave};
use crate::sys::signals::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals};
use crate::sys::{clock, exec, limits, memfd, poll, privileges, proc, signals, spawn, stdio, wait};

/// The largest plan or handover, in bytes.
pub(super) const MAX_RECORD: u64 = 256 << 20;

/// How long a check may take; the same at a start and before an upgrade.
pub(super) const CHECK_TIME: Duration = Duration::from_secs(30);

/// Between two tries of what this process cannot be without.
const AGAIN: Duration = Duration::from_millis(500);

/// What this program was started with: an upgrade starts the next image with the same.
#[derive(Debug, Clone)]
pub(super) struct StartContext {
    /// The path to open the next binary by.
    pub(super) program: PathBuf,
    /// The configuration as it was typed, made absolute.
    pub(super) config: PathBuf,
    /// The name in argv\[0\].
    pub(super) argv0: OsString,
    /// The configuration as it was typed.
    pub(super) typed: OsString,
    /// The environment.
    pub(super) env: Vec<(OsString, OsString)>,
    /// Children that the process already had.
    pub(super) inherited: Vec<Pid>,
    /// Whether it was started on a terminal.
    pub(super) had_terminal: bool,
}

impl StartContext {
    /// Whether a signal is a HUP that means that the terminal is gone and not that an operator wants
    /// an upgrade: the kernel sends the first kind itself, or a shell passes it on whose terminal it
    /// was.
    pub(super) fn hung_up(&self, signal: signals::Received) -> bool {
        signal.number == SIGHUP
            && (signal.from_kernel
                || (self.had_terminal
                    && signal.sender == proc::session_leader()
                    && !proc::has_terminal()))
    }

    /// What was sent to a process that is not yet the master: told to stop, it leaves at once, with
    /// nothing of its own to end. Whether an upgrade was asked for: what is on disk may have
    /// changed since it was read.
    pub(super) fn heard(&self, signals: &Signals) -> bool {
        let mut upgrade = false;
        while let Ok(Some(signal)) = signals.read() {
            match signal.number {
                SIGINT | SIGTERM | SIGQUIT => leave(0),
                SIGHUP if self.hung_up(signal) => leave(0),
                SIGHUP => upgrade = true,
                _ => {}
            }
        }
        upgrade
    }
}

/// Makes this process independent of its launcher: nothing open but 0, 1, 2 and `keep`, signals
/// blocked with default dispositions, nothing read from the launcher's input, no limit that would
/// end it.
fn clean_world(keep: &[i32]) {
    signals::block();
    signals::reset_dispositions();
    exec::close_all_but(keep);
    let _ = spawn::reserve_low_descriptors(5);
    let _ = stdio::stdin_to_null();
    stdio::set_umask(0o022);
    limits::become_masters();
}

fn context(cli: &Cli) -> StartContext {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let argv0 = std::env::args_os().next().unwrap_or_default();
    let search = std::env::var("PATH").unwrap_or_default();
    StartContext {
        program: exec::own_path(Path::new(&argv0), &search, &cwd),
        config: cwd.join(&cli.file),
        argv0,
        typed: cli.file.clone().into_os_string(),
        env: std::env::vars_os().collect(),
        inherited: wait::children().unwrap_or_default(),
        had_terminal: proc::has_terminal(),
    }
}

/// A first start. Never returns.
pub(super) fn start(cli: &Cli) -> ! {
    begin(cli, None)
}

/// After an upgrade whose records cannot be read, or whose descriptors are not there: this image begins
/// like a first start, in the same process, and says so. Every descriptor is closed, so each chain's
/// process of the image before sees that it is alone, ends its run and itself; its successor waits for
/// its lock, and after a last patience kills it. What was not saved by then is lost. The program before
/// this one is not gone back to: it could read its own record, but what it had open is as little there.
fn start_anew(cli: &Cli, problem: String) -> ! {
    tell(&format!("{problem}; beginning like a first start"));
    begin(cli, Some(problem))
}

fn begin(cli: &Cli, lost: Option<String>) -> ! {
    clean_world(&[]);
    let mut context = context(cli);
    let signals = Signals::new().unwrap_or_else(|cause| {
        die(&format!("cannot receive signals: {cause}"), EXIT_OSERR);
    });
    let (plan, upgrade) = checked_plan(&mut context, &signals);
    let ground = Ground::prepare(&plan.config)
        .unwrap_or_else(|problem| die(&problem, i32::from(checker::EXIT_CONFIG)));
    if let Err(problem) = privileges::become_subreaper() {
        die(&problem, EXIT_OSERR);
    }
    let mut systemd = Systemd::new(&context.env);
    systemd.starting();
    let taken = takeover::take_lock(
        ground,
        &plan.config,
        cli.replace,
        (&context, &signals, &mut systemd),
        &mut |text| {
            tell(text);
        },
    );
    let (ground, lock, before) = match taken {
        Ok(taken) => taken,
        Err(Refused { text, exit }) => die(&text, exit),
    };
    if upgrade {
        signals::raise(SIGHUP);
    }
    let instance = instance_of(&ground.run_root_path);
    let groups = Groups::find(&instance, before);
    let holder = Holder::of(&plan, &ground, &groups);
    if let Err(cause) = holder.write(&lock) {
        tell(&format!("cannot describe myself in master.lock: {cause}"));
    }
    let _ = std::env::set_current_dir("/");
    let master = Master::new(context, plan, ground, lock, signals, groups);
    match master {
        Ok(mut master) => {
            if let Some(problem) = lost {
                master.began_anew(&problem);
            }
            master.live()
        }
        Err(problem) => die(&problem, EXIT_OSERR),
    }
}

/// After an upgrade: this image takes over what the one before it left. Never returns.
pub(super) fn resume(cli: &Cli, descriptors: Descriptors) -> ! {
    signals::block();
    let fail = |problem: String| -> ! { start_anew(cli, problem) };
    let (plan, mut handover) = match read_records(descriptors) {
        Ok(records) => records,
        Err(problem) => fail(problem),
    };
    handover.forget_closed(exec::is_open);
    clean_world(&handover.descriptors());
    let mut context = context(cli);
    context.inherited.clone_from(&handover.inherited);
    context.had_terminal = handover.had_terminal;
    if !handover.program.as_os_str().is_empty() {
        context.program.clone_from(&handover.program);
    }
    proc::set_title(&format!(
        "{} {}",
        context.argv0.to_string_lossy(),
        context.typed.to_string_lossy()
    ));
    let mut troubles = Vec::new();
    let signals = patiently("receive signals", &mut troubles, Signals::new);
    let mut spare = Some(signals);
    let senses = patiently("watch my descriptors", &mut troubles, || {
        let Some(signals) = spare.take() else { return Err(std::io::ErrorKind::NotFound.into()) };
        Senses::new(signals).map_err(|(signals, cause)| {
            spare = Some(signals);
            cause
        })
    });
    let (ground, makeshift) = open_ground(&plan.config, &handover).unwrap_or_else(|e| fail(e));
    match Master::take_over(context, plan, ground, senses, handover, troubles) {
        Ok(mut master) => {
            if let Some(problem) = makeshift {
                master.make_shift(&problem);
            }
            master.live()
        }
        Err(problem) => fail(problem),
    }
}

/// The folders of the new configuration; where they cannot be opened although the check has just
/// done so, those of the image before this one, and why.
fn open_ground(config: &Config, handover: &Handover) -> Result<(Ground, Option<String>), String> {
    let old = handover.ground.map(|numbers| Ground::adopt(numbers, handover.run_root.clone()));
    match (Ground::prepare(config), old) {
        (Ok(ground), _) => Ok((ground, None)),
        (Err(problem), Some(Ok(old))) => Ok((old, Some(problem))),
        (Err(problem), _) => Err(problem),
    }
}

/// Tries until it works: what the system is short of for a moment (descriptors, memory) must not
/// cost the chains, which work on meanwhile. Told to stop, this process leaves, and they with it.
pub(super) fn patiently<T>(
    what: &str,
    troubles: &mut Vec<String>,
    mut attempt: impl FnMut() -> std::io::Result<T>,
) -> T {
    let mut told = false;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(cause) if !told => {
                let cause = crate::sys::error_text(&cause);
                let text =
                    format!("cannot {what} after the upgrade: {cause}; tried until it works");
                tell(&text);
                troubles.push(text);
                told = true;
            }
            Err(_) => {}
        }
        if signals::is_pending(&[SIGTERM, SIGINT, SIGQUIT]) {
            die("told to stop before the upgrade was done", EXIT_OSERR);
        }
        let _ = poll::wait_readable(&[], Some(AGAIN));
    }
}

/// The check before an upgrade, in a child of the running master: the plan goes into the memory
/// file, problems to standard error. The exit status: 0 or 78.
pub(super) fn check(cli: &Cli, descriptors: Descriptors) -> i32 {
    let refused = i32::from(checker::EXIT_CONFIG);
    let plan = exec::adopt(descriptors.plan);
    let handover = exec::adopt(descriptors.handover);
    let (Ok(plan), Ok(handover)) = (plan, handover) else {
        eprintln!("cannot check: the descriptors {descriptors:?} are not open");
        return refused;
    };
    let handover = match read_record(handover).and_then(|bytes| Handover::decode(&bytes)) {
        Ok(handover) => handover,
        Err(problem) => {
            eprintln!("cannot take over from the running program: {problem}");
            return refused;
        }
    };
    signals::unblock();
    let checked = fill_plan(&cli.file, &mut File::from(plan), cli.internal_force)
        .and_then(|config| same_ground(&config, &handover));
    match checked {
        Ok(()) => 0,
        Err(text) => {
            eprint!("{text}");
            refused
        }
    }
}

/// The lock and the chains' pidfiles lie in run_root: it cannot change while they are held.
fn same_ground(config: &Config, handover: &Handover) -> Result<(), String> {
    let ground = Ground::prepare(config).map_err(|problem| format!("{problem}\n"))?;
    if handover.run_root.as_os_str().is_empty() || ground.run_root_path == handover.run_root {
        return Ok(());
    }
    Err(format!(
        "cannot change run_root from {} to {} in an upgrade: stop the runner and start it again\n",
        handover.run_root.display(),
        ground.run_root_path.display()
    ))
}

fn fill_plan(config: &Path, into: &mut File, force: bool) -> Result<Config, String> {
    let outcome = checker::check(config, Options { color: false, workers: true });
    let accepted = force || outcome.surroundings.is_empty();
    match outcome.plan {
        Some(plan) if accepted => {
            let bytes = serde_json::to_vec(&plan).map_err(|e| format!("cannot encode: {e}\n"))?;
            memfd::fill_and_seal(into, &bytes).map_err(|e| format!("cannot hand over: {e}\n"))?;
            Ok(plan.config)
        }
        _ => Err(outcome.text()),
    }
}

fn read_record(fd: std::os::fd::OwnedFd) -> Result<Vec<u8>, String> {
    memfd::read_sealed(fd, MAX_RECORD).map_err(|cause| format!("cannot read it: {cause}"))
}

fn read_records(descriptors: Descriptors) -> Result<(Plan, Handover), String> {
    let adopt = |fd| exec::adopt(fd).map_err(|e| format!("cannot go on: descriptor {fd}: {e}"));
    let plan = read_record(adopt(descriptors.plan)?)?;
    let handover = read_record(adopt(descriptors.handover)?)?;
    let plan = serde_json::from_slice(&plan).map_err(|e| format!("cannot read the plan: {e}"))?;
    Ok((plan, handover::Handover::decode(&handover)?))
}

/// The plan of a first start, from a child with a deadline; leaves with 78 if it is refused. Whether
/// an upgrade was asked for meanwhile.
fn checked_plan(context: &mut StartContext, signals: &Signals) -> (Plan, bool) {
    let config = context.config.clone();
    let oserr = |problem: String| -> ! { die(&problem, EXIT_OSERR) };
    let mut memory = memfd::create("plan").unwrap_or_else(|e| oserr(format!("no memory: {e}")));
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let child = fork_child(|| {
        // Told to stop meanwhile, the parent leaves.
        if privileges::die_with_parent(me).is_err() {
            leave(EXIT_OSERR);
        }
        signals::unblock();
        leave(check_at_start(&config, &mut memory))
    });
    let child = child.unwrap_or_else(|cause| oserr(format!("cannot fork: {cause}")));
    let deadline = clock::monotonic().saturating_add(CHECK_TIME);
    let mut upgrade = false;
    loop {
        match wait::reap(false) {
            Ok(wait::Reaped::One(wait::Change::Exited(pid, 0))) if pid == child => break,
            Ok(wait::Reaped::One(wait::Change::Exited(pid, code))) if pid == child => leave(code),
            Ok(wait::Reaped::One(wait::Change::Killed(pid, signal))) if pid == child => {
                oserr(format!("the check of {} was killed by signal {signal}", config.display()));
            }
            // A child of the launcher or of the image before: one SIGCHLD may stand for both.
            Ok(wait::Reaped::One(wait::Change::Exited(pid, _) | wait::Change::Killed(pid, _))) => {
                context.inherited.retain(|known| *known != pid);
                continue;
            }
            _ => {}
        }
        let left = deadline.saturating_sub(clock::monotonic());
        if left.is_zero() {
            let _ = wait::signal_child(child, SIGKILL);
            oserr(format!("the check of {} took more than 30 s", config.display()));
        }
        let _ = poll::wait_readable(&[signals.as_fd()], Some(left));
        upgrade |= context.heard(signals);
    }
    let mut bytes = Vec::new();
    let read = std::io::Seek::rewind(&mut memory).and_then(|()| memory.read_to_end(&mut bytes));
    match read
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_slice(&bytes).map_err(|e| e.to_string()))
    {
        Ok(plan) => (plan, upgrade),
        Err(cause) => oserr(format!("cannot read the checked plan: {cause}")),
    }
}

/// In the child: problems go to standard error as `--check` shows them.
fn check_at_start(config: &Path, into: &mut File) -> i32 {
    use std::io::IsTerminal;
    let color = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let outcome = checker::check(config, Options { color, workers: false });
    eprint!("{}", outcome.text());
    let Some(plan) = outcome.plan else { return i32::from(checker::EXIT_CONFIG) };
    let written = serde_json::to_vec(&plan)
        .map_err(std::io::Error::from)
        .and_then(|bytes| memfd::fill_and_seal(into, &bytes));
    match written {
        Ok(()) => 0,
        Err(cause) => {
            eprintln!("cannot hand the plan over: {cause}");
            EXIT_OSERR
        }
    }
}

fn tell(text: &str) {
    eprintln!("runner-master: {text}");
}

pub(super) fn die(text: &str, code: i32) -> ! {
    tell(text);
    leave(code)
}
