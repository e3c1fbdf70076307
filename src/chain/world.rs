//! What a task finds when it starts: program, arguments, environment, folder, limits. Built once
//! per chain process; only the run's number changes.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::config::env_file;
use crate::config::model::{Chain, Command};
use crate::policy::environment::{Login, environment};
use crate::sys::account::Account;
use crate::sys::spawn::{Image, candidates};
use crate::sys::{fs, limits};
use crate::worker::{self, Ground, Program};

/// What a chain runs.
pub(super) struct World {
    /// One per task, in the chain's order.
    pub(super) images: Vec<Image>,
    /// `Some` iff the chain has a worker and a task for it.
    pub(super) worker: Option<Program>,
}

/// Lays everything out; reads the env_file with the caller's rights.
///
/// # Errors
/// When the env_file cannot be read, or something holds NUL.
pub(super) fn lay_out(chain: &Chain, account: &Account, instance: &str) -> Result<World, String> {
    let from_file = match &chain.env_file {
        Some(path) => read_env_file(path)?,
        None => Vec::new(),
    };
    let login =
        Login { name: &account.name, uid: account.uid, home: &account.home, shell: &account.shell };
    let variables = environment(chain, login, &from_file, instance);
    let path = variables
        .iter()
        .find(|variable| variable.name == "PATH")
        .map_or_else(String::new, |variable| variable.value.clone());
    let limits = chain
        .rlimits
        .iter()
        .map(|(name, value)| limits::for_task(name, value.soft, value.hard))
        .collect::<Result<Vec<_>, _>>()?;
    let cwd = chain
        .cwd
        .clone()
        .unwrap_or_else(|| if account.home.is_dir() { account.home.clone() } else { "/".into() });
    let calls = worker::calls(chain);
    let worker = match &chain.worker {
        Some(worker) if !calls.is_empty() => {
            let (variables, cwd) = (variables.as_slice(), cwd.as_path());
            let ground =
                Ground { variables, cwd, death_signal: chain.stop_signal, limits: &limits };
            Some(Program::new(worker, &calls, ground)?)
        }
        _ => None,
    };
    let images = chain
        .tasks
        .iter()
        .map(|task| {
            let (argv, candidates) = match &task.command {
                Command::Run(argv) => (argv.clone(), candidates(&argv[0], &path)),
                Command::Sh(line) => {
                    let argv = vec!["/bin/sh".to_owned(), "-ec".to_owned(), line.clone()];
                    (argv, vec!["/bin/sh".to_owned()])
                }
                Command::Call(name) => (vec![name.clone()], Vec::new()),
            };
            let mut envp: Vec<CString> = variables
                .iter()
                .map(|variable| c_string(format!("{}={}", variable.name, variable.value)))
                .collect::<Result<_, _>>()?;
            envp.push(c_string(format!("RUNNER_TASK={}", task.name))?);
            envp.push(c_string("RUNNER_RUN=0".to_owned())?);
            Ok(Image {
                candidates: candidates.into_iter().map(c_string).collect::<Result<_, _>>()?,
                argv: argv.into_iter().map(c_string).collect::<Result<_, _>>()?,
                envp,
                cwd: CString::new(cwd.clone().into_os_string().into_vec())
                    .map_err(|_| format!("cannot use cwd {}: it holds NUL", cwd.display()))?,
                death_signal: chain.stop_signal,
                limits: limits.clone(),
            })
        })
        .collect::<Result<_, String>>()?;
    Ok(World { images, worker })
}

/// Tells a run its number, in the last variable.
pub(super) fn number_run(image: &mut Image, run: u64) {
    if let (Some(last), Ok(mark)) = (image.envp.last_mut(), c_string(format!("RUNNER_RUN={run}"))) {
        *last = mark;
    }
}

fn read_env_file(path: &Path) -> Result<Vec<env_file::Variable>, String> {
    fs::read_text(path, env_file::MOST)
        .map_err(|cause| cause.to_string())
        .and_then(|text| env_file::read(&text))
        .map_err(|cause| format!("cannot read env_file {}: {cause}", path.display()))
}

fn c_string(text: String) -> Result<CString, String> {
    CString::new(text).map_err(|text| {
        let text = String::from_utf8_lossy(&text.into_vec()).into_owned();
        format!("cannot pass {text:?} to a task: it holds NUL")
    })
}
