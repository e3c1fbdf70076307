//! What is known of a worker before it runs: which program it is, what it is started with, and
//! the built-in Python shim. A worker is started by a chain, which keeps it, and by the check,
//! which only looks whether it becomes ready.
//!
//! The shim is carried inside this program. It reaches the interpreter as the first bytes on the
//! worker's descriptor 3: no file that somebody could change, nothing that the chain's user must
//! be able to read, no further descriptor.

mod session;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::config::model::{Chain, Command, Isolation, Worker, WorkerProgram};
use crate::policy::environment::Variable;
use crate::sys::fork::Pid;
use crate::sys::pipe;
use crate::sys::spawn::{Failure, Image, Limit, Step, candidates, spawn};

/// The built-in worker for Python functions.
const SHIM: &str = include_str!("shim.py");

pub use session::{Heard, Live, manner};

/// How long an interpreter may take until it reads the shim.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the interpreter is given as `-c`: it reads the shim, whose length is put in, and runs it
/// in a namespace of its own.
const BOOT: &str = "# runner: worker
import os, sys
if sys.version_info < (3, 8):
    exit('the built-in worker needs Python 3.8 or newer, this is ' + sys.version.split()[0])
shim = b''
while len(shim) < @:
    shim += os.read(3, @ - len(shim)) or exit('runner: no shim')
exec(compile(shim, 'runner-worker', 'exec'), {'__name__': 'runner_worker'})";

/// The names of a chain's `call` tasks, in its order, each once.
pub fn calls(chain: &Chain) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for task in &chain.tasks {
        if let Command::Call(name) = &task.command
            && !names.contains(&name.as_str())
        {
            names.push(name);
        }
    }
    names
}

/// A worker that can be started.
#[derive(Debug)]
pub struct Program {
    image: Image,
    /// What is written to its descriptor 3 ahead of everything.
    preface: &'static str,
}

/// A worker that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process.
    pub pid: Pid,
    /// Where requests are written. Never waits.
    pub requests: OwnedFd,
    /// Where replies are read. Never waits.
    pub replies: OwnedFd,
}

/// What all programs of a chain have in common.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The whole environment but for what is added here.
    pub variables: &'a [Variable],
    /// The working folder.
    pub cwd: &'a Path,
    /// The signal at the death of the process that starts it.
    pub death_signal: i32,
    /// The limits that it gets.
    pub limits: &'a [Limit],
}

impl Program {
    /// What `worker` means with this ground, for these tasks.
    ///
    /// # Errors
    /// When something holds NUL.
    pub fn new(worker: &Worker, calls: &[&str], ground: Ground<'_>) -> Result<Program, String> {
        let path = ground.variables.iter().find(|variable| variable.name == "PATH");
        let path = path.map_or("", |variable| variable.value.as_str());
        let (argv, preface) = match &worker.program {
            WorkerProgram::Python(python) => {
                let boot = BOOT.replace('@', &SHIM.len().to_string());
                let argv =
                    vec![python.as_os_str().as_bytes().to_vec(), b"-c".to_vec(), boot.into()];
                (argv, SHIM)
            }
            WorkerProgram::Command(argv) => {
                (argv.iter().map(|word| word.clone().into_bytes()).collect(), "")
            }
        };
        let isolation = match worker.isolation {
            Isolation::Warm => "warm",
            Isolation::Fork => "fork",
        };
        let program = String::from_utf8_lossy(argv.first().map_or(b"", |word| word)).into_owned();
        let mut envp: Vec<CString> = Vec::new();
        for variable in ground.variables {
            envp.push(c_string(format!("{}={}", variable.name, variable.value))?);
        }
        envp.push(c_string(format!("RUNNER_CALLS={}", calls.join(" ")))?);
        envp.push(c_string(format!("RUNNER_ISOLATION={isolation}"))?);
        let candidates =
            candidates(&program, path).into_iter().map(c_string).collect::<Result<_, _>>()?;
        let argv = argv.into_iter().map(c_string).collect::<Result<_, _>>()?;
        let cwd = c_string(ground.cwd.as_os_str().as_bytes().to_vec())?;
        let (death_signal, limits) = (ground.death_signal, ground.limits.to_vec());
        Ok(Program { image: Image { candidates, argv, envp, cwd, death_signal, limits }, preface })
    }

    /// Starts it with `standard` as its descriptors 0, 1 and 2, and a pair of pipes as 3 and 4.
    ///
    /// # Errors
    /// As [`spawn`].
    pub fn start(&self, standard: [BorrowedFd<'_>; 3]) -> Result<Started, Failure> {
        let cannot = |cause: io::Error| Failure { step: Step::Descriptors, cause };
        let (requests_out, requests) = pipe::request_pipe().map_err(cannot)?;
        let (replies, replies_in) = pipe::output_pipe().map_err(cannot)?;
        let [stdin, stdout, stderr] = standard;
        let fds = [stdin, stdout, stderr, requests_out.as_fd(), replies_in.as_fd()];
        let pid = spawn(&self.image, &fds)?;
        drop((requests_out, replies_in));
        // A pipe takes it at once, but for a user who has too many (pipe(7)). What could not be
        // written shows: the worker does not become ready.
        let _ = pipe::write_all(&requests, self.preface.as_bytes(), PATIENCE);
        Ok(Started { pid, requests, replies })
    }
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, String> {
    CString::new(text).map_err(|text| {
        let text = String::from_utf8_lossy(&text.into_vec()).into_owned();
        format!("cannot pass {text:?} to a task: it holds NUL")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever newer Python there is here: it knows the grammar of 3.8.
    #[test]
    fn the_shim_is_python_3_8() {
        const PARSE: &str = "import ast, sys\nast.parse(sys.argv[1], feature_version=(3, 8))";
        let python = std::process::Command::new("python3").args(["-c", PARSE, SHIM]).output();
        let Ok(python) = python else { return };
        assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    }
}
