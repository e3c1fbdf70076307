//! What a chain needs around it, tried with the chain's own rights: one child per account that is
//! not the caller's drops to it, looks, and tells. Nothing is created. All look at the same time, and
//! one that is stopped or hangs is not waited for: its user harms its own chains alone.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::accounts::at;
use crate::config::model::{Chain, Command, LogTarget, Output};
use crate::config::{Checked, Place, Problem, env_file};
use crate::policy::environment::{Login, environment};
use crate::sys::account::Account;
use crate::sys::fork::{Pid, fork_child, leave};
use crate::sys::fs;
use crate::sys::poll::wait_readable;
use crate::sys::privileges::{die_with_parent, drop_to};
use crate::sys::probe::{Wish, may};
use crate::sys::wait::end_child;

/// How long one account's look may take: a folder that its user mounted may answer never.
const PATIENCE: Duration = Duration::from_secs(10);

/// Accounts that look at the same time.
const AT_ONCE: usize = 256;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Look {
    /// Can the folder be entered?
    Enter(PathBuf),
    /// Can the program be executed, looked for in PATH or, with a slash, from `cwd`?
    Execute { program: String, cwd: PathBuf, path: SearchPath },
    /// Can the file be appended to, or be made?
    Append(PathBuf),
    /// Can the file of variables be read, and is it one?
    Variables(PathBuf),
}

/// The PATH of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct SearchPath {
    /// As far as the configuration says it.
    said: String,
    /// A file that may say another one, and the folders that come ahead of that.
    env_file: Option<(PathBuf, String)>,
}

/// A question, the chain whose it is (empty: the logger's), and the field that asks it.
struct Question {
    chain: String,
    field: String,
    look: Look,
}

/// Tries everything; the faults by chain.
pub(super) fn check(
    checked: &Checked,
    accounts: &BTreeMap<String, Result<Account, String>>,
    logger: Option<&Account>,
) -> Vec<(String, Problem)> {
    let mut by_account: HashMap<&Account, Vec<Question>> = HashMap::new();
    for chain in &checked.config.chains {
        if let Some(Ok(account)) = accounts.get(&chain.name) {
            by_account.entry(account).or_default().extend(questions(chain, account));
        }
    }
    if let (Some(account), LogTarget::File(file)) = (logger, &checked.config.log.to) {
        let (chain, field) = (String::new(), "log.to".to_owned());
        let question = Question { chain, field, look: Look::Append(file.clone()) };
        by_account.entry(account).or_default().push(question);
    }
    let me = Account::current().ok();
    let mut faults = Vec::new();
    let mut accounts: Vec<_> = by_account.into_iter().collect();
    accounts.sort_by_key(|(account, _)| (account.uid, account.gid));
    let is_own = |account: &Account| {
        me.as_ref().is_some_and(|me| {
            (me.uid, me.gid, &me.groups) == (account.uid, account.gid, &account.groups)
        })
    };
    for batch in accounts.chunks(AT_ONCE) {
        let deadline = Instant::now() + PATIENCE;
        let mut sent: Vec<Option<Result<Looker, String>>> = batch
            .iter()
            .map(|(who, what)| (!is_own(who)).then(|| Looker::send(who, what)))
            .collect();
        hear_all(sent.iter_mut().flatten().flatten(), deadline);
        for ((account, questions), looker) in batch.iter().zip(sent) {
            let answers = match looker {
                Some(looker) => looker.and_then(Looker::answers),
                None => Ok(look_all(questions)),
            };
            tell(checked, account, questions, answers, &mut faults);
        }
    }
    faults
}

/// What was found with an account's rights, as faults.
fn tell(
    checked: &Checked,
    account: &Account,
    questions: &[Question],
    answers: Answers,
    faults: &mut Vec<(String, Problem)>,
) {
    match answers {
        Ok(answers) => {
            for (index, answer) in answers {
                let Some(question) = questions.get(index) else { continue };
                let place = place(checked, question, &question.field);
                let message = format!("as {}: {answer}", account.name);
                faults.push((question.chain.clone(), at(place, message)));
            }
        }
        Err(cause) => {
            for question in questions {
                let place = place(checked, question, "user");
                let message = format!("cannot try as {}: {cause}", account.name);
                faults.push((question.chain.clone(), at(place, message)));
            }
        }
    }
}

fn place<'c>(checked: &'c Checked, question: &Question, field: &str) -> Option<&'c Place> {
    match checked.positions.of(&question.chain, field) {
        Some(place) => Some(place),
        None => checked.positions.top(&question.field),
    }
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
    let path = search_path(chain, account);
    for task in &chain.tasks {
        let program = match &task.command {
            Command::Run(argv) => argv.first(),
            Command::Sh(_) | Command::Call(_) => None,
        };
        if let Some(program) = program {
            let path = if program.contains('/') { SearchPath::default() } else { path.clone() };
            let look = Look::Execute { program: program.clone(), cwd: cwd.clone(), path };
            ask(&format!("tasks.{}.command", task.name), look);
        }
    }
    if let Output::Lines(file) | Output::Raw(file) = &chain.output {
        ask("output", Look::Append(file.clone()));
    }
    if let Some(file) = &chain.env_file {
        ask("env_file", Look::Variables(file.clone()));
    }
    questions
}

fn search_path(chain: &Chain, account: &Account) -> SearchPath {
    let login =
        Login { name: &account.name, uid: account.uid, home: &account.home, shell: &account.shell };
    let said = environment(chain, login, &[], "")
        .into_iter()
        .find(|variable| variable.name == "PATH")
        .map_or_else(String::new, |variable| variable.value);
    let ahead: Vec<String> = chain.path.iter().map(|folder| folder.display().to_string()).collect();
    let env_file = chain
        .env_file
        .clone()
        .filter(|_| !chain.env.contains_key("PATH"))
        .map(|file| (file, ahead.join(":")));
    SearchPath { said, env_file }
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

/// By the question's index; nothing for what is well.
type Answers = Result<Vec<(usize, String)>, String>;

/// A child that has dropped to an account and looks.
struct Looker {
    child: Pid,
    reader: PipeReader,
    told: Vec<u8>,
    /// It has told everything.
    finished: bool,
}

impl Looker {
    fn send(account: &Account, questions: &[Question]) -> Result<Looker, String> {
        let (reader, writer) =
            io::pipe().map_err(|cause| format!("cannot make a pipe: {cause}"))?;
        let parent = i32::try_from(std::process::id()).unwrap_or(0);
        let child = fork_child(|| -> Infallible {
            let done = drop_to(account).and_then(|()| die_with_parent(parent));
            let answers: Answers = done.map(|()| look_all(questions));
            let told = serde_json::to_vec(&answers).unwrap_or_default();
            let written = (&writer).write_all(&told).is_ok();
            leave(i32::from(!written))
        })
        .map_err(|cause| cause.to_string())?;
        Ok(Looker { child, reader, told: Vec::new(), finished: false })
    }

    fn hear(&mut self) {
        let mut chunk = [0_u8; 4096];
        match self.reader.read(&mut chunk) {
            Ok(length) if length > 0 => self.told.extend_from_slice(&chunk[..length]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            _ => self.finished = true,
        }
    }

    fn answers(self) -> Answers {
        end_child(self.child);
        if !self.finished {
            return Err(format!("no answer within {} s", PATIENCE.as_secs()));
        }
        serde_json::from_slice::<Answers>(&self.told)
            .unwrap_or_else(|_| Err("the child that tried it died".to_owned()))
    }
}

/// Until all have told everything, or the time is over.
fn hear_all<'l>(lookers: impl Iterator<Item = &'l mut Looker>, deadline: Instant) {
    let mut open: Vec<&mut Looker> = lookers.collect();
    while !open.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let readers: Vec<_> = open.iter().map(|looker| looker.reader.as_fd()).collect();
        let Ok(ready) = wait_readable(&readers, Some(left)) else { return };
        if left.is_zero() && !ready.contains(&true) {
            return;
        }
        for (looker, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            looker.hear();
        }
        open.retain(|looker| !looker.finished);
    }
}

fn answer(look: &Look) -> Result<(), String> {
    match look {
        Look::Enter(folder) => enter(folder),
        Look::Execute { program, cwd, path } => execute(program, cwd, path),
        Look::Append(file) => append(file),
        Look::Variables(file) => variables(file).map(|_| ()),
    }
}

fn enter(folder: &Path) -> Result<(), String> {
    let found = std::fs::metadata(folder).map_err(|cause| cannot("enter", folder, &cause))?;
    if !found.is_dir() {
        return Err(format!("cannot enter {}: it is no folder", folder.display()));
    }
    may(folder, Wish::Execute).map_err(|cause| cannot("enter", folder, &cause))
}

fn execute(program: &str, cwd: &Path, path: &SearchPath) -> Result<(), String> {
    if program.contains('/') {
        if !program.starts_with('/') && enter(cwd).is_err() {
            // Told for cwd already.
            return Ok(());
        }
        return executable(&cwd.join(program));
    }
    let mut folders = path.said.clone();
    if let Some((file, ahead)) = &path.env_file
        && let Ok(variables) = variables(file)
        && let Some((_, value)) = variables.iter().find(|(name, _)| name == "PATH")
    {
        folders = if ahead.is_empty() { value.clone() } else { format!("{ahead}:{value}") };
    }
    let mut fault = None;
    for folder in folders.split(':') {
        let candidate = cwd.join(folder).join(program);
        match executable(&candidate) {
            Ok(()) => return Ok(()),
            Err(cause) if std::fs::symlink_metadata(&candidate).is_ok() => {
                fault.get_or_insert(cause);
            }
            Err(_) => {}
        }
    }
    Err(fault.unwrap_or_else(|| format!("cannot run {program}: it is not in {folders}")))
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
        Ok(found) => match crate::sys::append::unfit(&found) {
            Some(why) => Err(format!("cannot write {}: {why}", file.display())),
            None => may(file, Wish::Write).map_err(|cause| cannot("write", file, &cause)),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let folder = file.parent().unwrap_or(Path::new("/"));
            may(folder, Wish::Write)
                .and_then(|()| may(folder, Wish::Execute))
                .map_err(|cause| cannot("make a file in", folder, &cause))
        }
        Err(cause) => Err(cannot("write", file, &cause)),
    }
}

/// The variables of an env_file.
pub(super) fn variables(file: &Path) -> Result<Vec<env_file::Variable>, String> {
    let text = fs::read_text(file, env_file::MOST).map_err(|cause| cannot("read", file, &cause))?;
    env_file::read(&text).map_err(|cause| format!("cannot read {}: {cause}", file.display()))
}

fn cannot(verb: &str, path: &Path, cause: &io::Error) -> String {
    let cause = match cause.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    };
    format!("cannot {verb} {}: {cause}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn program(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn execute_of(program: &str, cwd: &Path, path: SearchPath) -> Result<(), String> {
        answer(&Look::Execute { program: program.to_owned(), cwd: cwd.to_owned(), path })
    }

    #[test]
    fn a_program_is_found_as_the_task_will_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for name in ["first", "second"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        program(&at.join("first/plain"), 0o644);
        program(&at.join("second/tool"), 0o755);
        program(&at.join("tool"), 0o755);
        let said = |said: String| SearchPath { said, env_file: None };
        let both = format!("{}:{}", at.join("first").display(), at.join("second").display());
        assert_eq!(execute_of("tool", at, said(both.clone())), Ok(()));
        assert_eq!(execute_of("./tool", at, SearchPath::default()), Ok(()));
        assert_eq!(execute_of("tool", at, said("second".to_owned())), Ok(()), "from cwd");
        for (program, words) in [
            ("plain", "it is not executable"),
            ("other", "it is not in"),
            ("./first", "it is a folder"),
            ("./none", "it does not exist"),
        ] {
            let fault = execute_of(program, at, said(both.clone())).unwrap_err();
            assert!(fault.contains(words), "{program}: {fault}");
        }
        assert_eq!(
            execute_of("./none", &at.join("gone"), SearchPath::default()),
            Ok(()),
            "cwd tells"
        );
    }

    #[test]
    fn the_path_of_an_env_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        program(&at.join("tool"), 0o755);
        let file = at.join("env.list");
        fs::write(&file, format!("PATH={}\n", at.display())).unwrap();
        let path =
            SearchPath { said: "/nowhere".to_owned(), env_file: Some((file, String::new())) };
        assert_eq!(execute_of("tool", Path::new("/"), path), Ok(()));
    }

    #[test]
    fn files_are_tried_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (link, new, list) = (at.join("link"), at.join("new"), at.join("list"));
        symlink("/etc/passwd", &link).unwrap();
        fs::write(&list, "A=1\nno name=2\n").unwrap();
        assert_eq!(answer(&Look::Append(new.clone())), Ok(()));
        assert!(!new.exists());
        for (look, words) in [
            (Look::Append(link), "it is a link"),
            (Look::Append(at.to_owned()), "it is a folder"),
            (Look::Append(at.join("none/new")), "cannot make a file in"),
            (Look::Variables(list.clone()), "line 2"),
            (Look::Variables(at.to_owned()), "it is no regular file"),
            (Look::Enter(list), "it is no folder"),
            (Look::Enter(at.join("none")), "it does not exist"),
        ] {
            let fault = answer(&look).unwrap_err();
            assert!(fault.contains(words), "{look:?}: {fault}");
        }
    }
}
