//! What a chain needs around it, tried with the chain's own rights: one child per account that is
//! not the caller's drops to it, looks, and tells. Nothing is created.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::accounts::at;
use crate::config::model::{Chain, Command, Output};
use crate::config::{Checked, Problem};
use crate::sys::account::Account;
use crate::sys::fork::{fork_child, leave};
use crate::sys::poll::wait_readable;
use crate::sys::privileges::{die_with_parent, drop_to};
use crate::sys::probe::{Wish, may};
use crate::sys::wait::{signal_child, wait_for};

/// How long one account's look may take: a folder that its user mounted may answer never.
const PATIENCE: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Look {
    /// Can the folder be entered?
    Enter(PathBuf),
    /// Can the program be executed, looked for in these folders or, with a slash, from `cwd`?
    Execute { program: String, cwd: PathBuf, path: Vec<PathBuf> },
    /// Can the file be appended to, or be made?
    Append(PathBuf),
    /// Can the file be read?
    Read(PathBuf),
}

/// A question, whose it is, and the field that asks it.
struct Question {
    chain: String,
    field: String,
    look: Look,
}

/// Tries everything; the faults by chain.
pub(super) fn check(
    checked: &Checked,
    accounts: &BTreeMap<String, Result<Account, String>>,
) -> Vec<(String, Problem)> {
    let mut by_account: HashMap<&Account, Vec<Question>> = HashMap::new();
    for chain in &checked.config.chains {
        if let Some(Ok(account)) = accounts.get(&chain.name) {
            by_account.entry(account).or_default().extend(questions(chain, account));
        }
    }
    let me = Account::current().ok();
    let mut faults = Vec::new();
    let mut accounts: Vec<_> = by_account.into_iter().collect();
    accounts.sort_by_key(|(account, _)| (account.uid, account.gid));
    for (account, questions) in accounts {
        let own = me.as_ref().is_some_and(|me| {
            (me.uid, me.gid, &me.groups) == (account.uid, account.gid, &account.groups)
        });
        let answers =
            if own { Ok(look_all(&questions)) } else { ask_as(account, &questions, PATIENCE) };
        match answers {
            Ok(answers) => {
                for (index, answer) in answers {
                    let Some(question) = questions.get(index) else { continue };
                    let place = checked.positions.of(&question.chain, &question.field);
                    let message = format!("as {}: {answer}", account.name);
                    faults.push((question.chain.clone(), at(place, message)));
                }
            }
            Err(cause) => {
                for question in &questions {
                    let place = checked.positions.of(&question.chain, "user");
                    let message = format!("cannot try as {}: {cause}", account.name);
                    faults.push((question.chain.clone(), at(place, message)));
                }
            }
        }
    }
    faults
}

/// What a chain needs.
fn questions(chain: &Chain, account: &Account) -> Vec<Question> {
    let mut questions = Vec::new();
    let mut ask = |field: &str, look: Look| {
        questions.push(Question { chain: chain.name.clone(), field: field.to_owned(), look });
    };
    // Without a cwd it is the home, or else `/`: nothing that can be wrong.
    let cwd = chain.cwd.clone().unwrap_or_else(|| account.home.clone());
    if chain.cwd.is_some() {
        ask("cwd", Look::Enter(cwd.clone()));
    }
    let usual = if account.uid == 0 {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    } else {
        "/usr/local/bin:/usr/bin:/bin"
    };
    let said = chain.env.get("PATH").map_or(usual, String::as_str);
    let path: Vec<PathBuf> =
        chain.path.iter().cloned().chain(said.split(':').map(PathBuf::from)).collect();
    for task in &chain.tasks {
        let program = match &task.command {
            // The PATH of an env_file is not known here.
            Command::Run(argv) => argv.first(),
            Command::Sh(_) | Command::Call(_) => None,
        };
        if let Some(program) = program
            && (program.contains('/') || chain.env_file.is_none())
        {
            let look = Look::Execute {
                program: program.clone(),
                cwd: cwd.clone(),
                path: if program.contains('/') { Vec::new() } else { path.clone() },
            };
            ask(&format!("tasks.{}.command", task.name), look);
        }
    }
    if let Output::Lines(file) | Output::Raw(file) = &chain.output {
        ask("output", Look::Append(file.clone()));
    }
    if let Some(file) = &chain.env_file {
        ask("env_file", Look::Read(file.clone()));
    }
    questions
}

/// Answers by the question's index; nothing for what is well.
fn look_all(questions: &[Question]) -> Vec<(usize, String)> {
    let mut known: HashMap<&Look, Result<(), String>> = HashMap::new();
    let mut answers = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        let answer = known.entry(&question.look).or_insert_with(|| answer(&question.look));
        if let Err(cause) = answer {
            answers.push((index, cause.clone()));
        }
    }
    answers
}

/// Asks in a child that has dropped to the account.
fn ask_as(
    account: &Account,
    questions: &[Question],
    patience: Duration,
) -> Result<Vec<(usize, String)>, String> {
    let (mut reader, writer) =
        io::pipe().map_err(|cause| format!("cannot make a pipe: {cause}"))?;
    let parent = i32::try_from(std::process::id()).unwrap_or(0);
    let child = fork_child(|| -> Infallible {
        let done = drop_to(account).and_then(|()| die_with_parent(parent));
        let answers = match done {
            Ok(()) => Ok(look_all(questions)),
            Err(cause) => Err(cause),
        };
        let told = serde_json::to_vec(&answers).unwrap_or_default();
        let written = (&writer).write_all(&told).is_ok();
        leave(i32::from(!written))
    })
    .map_err(|cause| cause.to_string())?;
    drop(writer);
    let deadline = Instant::now() + patience;
    let mut told = Vec::new();
    let finished = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match wait_readable(&[reader.as_fd()], Some(left)) {
            Ok(ready) if ready.first() == Some(&true) => {}
            _ => break false,
        }
        let mut chunk = [0_u8; 4096];
        match reader.read(&mut chunk) {
            Ok(0) => break true,
            Ok(length) => told.extend_from_slice(&chunk[..length]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break false,
        }
    };
    if !finished {
        let _ = signal_child(child, SIGKILL);
    }
    let _ = wait_for(child);
    if !finished {
        return Err(format!("no answer within {} s", patience.as_secs()));
    }
    serde_json::from_slice::<Result<Vec<(usize, String)>, String>>(&told)
        .unwrap_or_else(|_| Err("the child that tried it died".to_owned()))
}

fn answer(look: &Look) -> Result<(), String> {
    match look {
        Look::Enter(folder) => enter(folder),
        Look::Execute { program, cwd, path } => execute(program, cwd, path),
        Look::Append(file) => append(file),
        Look::Read(file) => {
            regular("read", file)?;
            may(file, Wish::Read).map_err(|cause| cannot("read", file, &cause))
        }
    }
}

fn enter(folder: &Path) -> Result<(), String> {
    let found = std::fs::metadata(folder).map_err(|cause| cannot("enter", folder, &cause))?;
    if !found.is_dir() {
        return Err(format!("cannot enter {}: it is no folder", folder.display()));
    }
    may(folder, Wish::Execute).map_err(|cause| cannot("enter", folder, &cause))
}

fn execute(program: &str, cwd: &Path, path: &[PathBuf]) -> Result<(), String> {
    if program.contains('/') {
        if !program.starts_with('/') && enter(cwd).is_err() {
            // Told for cwd already.
            return Ok(());
        }
        return executable(&cwd.join(program));
    }
    let mut fault = None;
    for folder in path {
        match executable(&cwd.join(folder).join(program)) {
            Ok(()) => return Ok(()),
            Err(cause) if std::fs::symlink_metadata(folder.join(program)).is_ok() => {
                fault.get_or_insert(cause);
            }
            Err(_) => {}
        }
    }
    let folders: Vec<String> = path.iter().map(|folder| folder.display().to_string()).collect();
    Err(fault.unwrap_or_else(|| {
        format!("cannot run {program}: it is in none of {}", folders.join(", "))
    }))
}

fn executable(program: &Path) -> Result<(), String> {
    let found = std::fs::metadata(program).map_err(|cause| cannot("run", program, &cause))?;
    if found.is_dir() {
        return Err(format!("cannot run {}: it is a folder", program.display()));
    }
    if !found.is_file() {
        return Err(format!("cannot run {}: it is no regular file", program.display()));
    }
    may(program, Wish::Execute).map_err(|cause| {
        if cause.kind() == io::ErrorKind::PermissionDenied {
            format!("cannot run {}: it is not executable (chmod +x)", program.display())
        } else {
            cannot("run", program, &cause)
        }
    })
}

/// A file that is there must be one that can be appended to, never a link; for one that is not
/// there its folder decides.
fn append(file: &Path) -> Result<(), String> {
    match std::fs::symlink_metadata(file) {
        Ok(found) if found.is_symlink() => {
            Err(format!("cannot write {}: it is a link", file.display()))
        }
        Ok(found) if found.is_dir() => {
            Err(format!("cannot write {}: it is a folder", file.display()))
        }
        Ok(_) => may(file, Wish::Write).map_err(|cause| cannot("write", file, &cause)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let folder = file.parent().unwrap_or(Path::new("/"));
            may(folder, Wish::Write)
                .and_then(|()| may(folder, Wish::Execute))
                .map_err(|cause| cannot("make a file in", folder, &cause))
        }
        Err(cause) => Err(cannot("write", file, &cause)),
    }
}

fn regular(verb: &str, file: &Path) -> Result<(), String> {
    let found = std::fs::metadata(file).map_err(|cause| cannot(verb, file, &cause))?;
    if found.is_file() {
        return Ok(());
    }
    Err(format!("cannot {verb} {}: it is no regular file", file.display()))
}

fn cannot(verb: &str, path: &Path, cause: &io::Error) -> String {
    let cause = match cause.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    };
    format!("cannot {verb} {}: {cause}", path.display())
}
