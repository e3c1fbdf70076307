//! What runnerctl does: it asks the master over the control socket, waits where it is told to,
//! and shows answers to people and scripts. Nothing that comes from a task reaches the terminal
//! unescaped.

pub mod check;
pub mod cli;
pub mod import;
pub mod locate;
pub mod logs;
mod mail;
pub mod metrics;
pub mod rows;
pub mod show;
pub mod simulate;
pub mod status;
pub mod talk;
pub mod text;
pub mod wait;
mod watch;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::CommandFactory;

use self::cli::{Cli, MailVerb, Verb};
use self::talk::{Failure, Master};
use self::text::Paint;
use self::wait::Until;
use crate::wire::control::{Answer, Request};
use crate::wire::safe::safe_line;

/// Does what the command line says. Returns the exit status.
pub fn run(cli: Cli) -> u8 {
    let done = match cli.verb {
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "runnerctl", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(0)
        }
        Verb::Import { file, from } => import_file(&file, from),
        Verb::Simulate { fail, time, history, json } => {
            simulate::run(&cli.config, &fail, time, history.as_deref(), json)
        }
        Verb::ShowConfig { chain } => show::config(&cli.config, &chain),
        Verb::ShowEnv { chain } => show::env(&cli.config, &chain),
        Verb::Logs { chain, follow, stream, lines } => {
            show::load(&cli.config).and_then(|(checked, _)| {
                logs::logs(&checked.config, &chain, logs::Wanted { follow, stream, lines })
            })
        }
        Verb::Mail { what: MailVerb::List { json } } => {
            mail_list(&cli.config, cli.run_root.as_deref(), json)
        }
        verb => {
            let run_root = cli.run_root.map_or_else(|| locate::run_root(&cli.config), Ok);
            run_root.and_then(|run_root| obey(verb, &Master::at(&run_root)))
        }
    };
    let exit = done.unwrap_or_else(|failure| {
        complain(&failure.to_string());
        failure.exit()
    });
    // What was to be shown is not there, whatever it says.
    let well = matches!(exit, 0 | status::EXIT_FAILING);
    if well && UNWRITTEN.load(Ordering::Relaxed) { NOT_DONE } else { exit }
}

/// Standard output took not all that was printed: a full disk.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// What was asked for was not done.
const NOT_DONE: u8 = 1;

/// The largest file that is imported, in bytes.
const MAX_IMPORT: u64 = 1 << 20;

fn import_file(path: &Path, from: Option<import::Kind>) -> Result<u8, Failure> {
    let failed =
        |cause: io::Error| Failure::Other(format!("cannot read {}: {cause}", path.display()), 1);
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut text = Vec::new();
    input.take(MAX_IMPORT).read_to_end(&mut text).map_err(failed)?;
    let imported = import::import(path, &String::from_utf8_lossy(&text), from);
    print(&imported.map_err(|error| Failure::Other(error, 1))?);
    Ok(0)
}

fn obey(verb: Verb, master: &Master) -> Result<u8, Failure> {
    match verb {
        Verb::Status { chains, json, failing, watch } => {
            if watch {
                return watch::watch(master, &chains, failing);
            }
            show_status(master, &chains, json, failing)
        }
        Verb::Reload { chains, dry_run, force, wait } => {
            let request = Request::Reload { chains, force, dry_run, wait: wait::on_the_wire(wait) };
            say(&wait::reload(master, &request, wait, say)?);
            Ok(0)
        }
        Verb::Start { which, wait } => {
            let chains = which.patterns();
            steer(master, &Request::Start { chains }, wait.then_some(Until::Started))
        }
        Verb::Stop { which, now, wait } => {
            let chains = which.patterns();
            steer(master, &Request::Stop { chains, now }, wait.then_some(Until::Stopped))
        }
        Verb::Restart { which, now, wait } => {
            let chains = which.patterns();
            steer(master, &Request::Restart { chains, now }, wait.then_some(Until::Replaced))
        }
        Verb::Pause { chain, time, reason } => {
            plain(master, &Request::Pause { chain, millis: time.map(millis), reason })
        }
        Verb::Resume { chain } => plain(master, &Request::Resume { chain }),
        Verb::Run { chain, task } => plain(master, &Request::Run { chain, task }),
        Verb::Silence { chain, time, reason } => {
            plain(master, &Request::Silence { chain, millis: millis(time), reason })
        }
        Verb::Shutdown { now, wait } => {
            plain(master, &Request::Shutdown { now })?;
            if wait {
                wait::gone(master)?;
            }
            Ok(0)
        }
        Verb::Explain { chain } => plain(master, &Request::Explain { chain }),
        Verb::History { chain, jsonl } => {
            let fields = ["at", "task", "outcome", "seconds", "stderr"];
            show_rows(master, &Request::History { chain }, jsonl, &fields)
        }
        Verb::Notices { json } => {
            let fields = ["at", "notice", "chain", "task", "subject"];
            show_rows(master, &Request::Notices, json, &fields)
        }
        Verb::Mail { what: MailVerb::Flush } => plain(master, &Request::MailFlush),
        Verb::Mail { what: MailVerb::Test } => plain(master, &Request::MailTest),
        Verb::LogLevel { level } => {
            plain(master, &Request::LogLevel { level: level.name().to_owned() })
        }
        Verb::Check => {
            let (line, exit) = check::check(&master.status(&[]));
            say(&line);
            Ok(exit)
        }
        Verb::Metrics => match master.status(&[]) {
            Ok(status) => {
                print(&metrics::metrics(Some(&status)));
                Ok(0)
            }
            Err(failure @ Failure::NotRunning(_)) => {
                print(&metrics::metrics(None));
                Err(failure)
            }
            Err(failure) => Err(failure),
        },
        // Done without a master.
        Verb::Completions { .. }
        | Verb::Mail { what: MailVerb::List { .. } }
        | Verb::Import { .. }
        | Verb::Simulate { .. }
        | Verb::ShowConfig { .. }
        | Verb::ShowEnv { .. }
        | Verb::Logs { .. } => Ok(0),
    }
}

fn show_status(
    master: &Master,
    chains: &[String],
    json: bool,
    failing: bool,
) -> Result<u8, Failure> {
    let mut status = master.status(chains)?;
    let exit = status::exit(&status);
    if failing {
        status.chains.retain(status::failing);
    }
    if json {
        print(&format!("{}\n", rows::json(&status)));
        return Ok(exit);
    }
    let (now, paint) = (SystemTime::now(), Paint::for_stdout());
    let mut text = status::chains(&status, now, paint, io::IsTerminal::is_terminal(&io::stdout()));
    text.push(String::new());
    print(&text.join("\n"));
    for remark in status::remarks(&status.master, now) {
        complain(&remark);
    }
    Ok(exit)
}

fn mail_list(config: &Path, run_root: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let master = run_root.map_or_else(|| locate::run_root(config), |root| Ok(root.into()));
    let rows = match master.and_then(|root| Master::at(&root).ask(&Request::MailList, say)) {
        Ok(Answer::Rows(rows)) => rows,
        Ok(answer) => return tell(answer).map(|()| 0),
        // Nobody keeps anything but the spool.
        Err(failure @ Failure::NotRunning(_)) => mail::spooled(config).map_err(|_| failure)?,
        Err(failure) => return Err(failure),
    };
    let lines = if json { rows::lines(&rows) } else { mail::lines(&rows) };
    lines.iter().for_each(|line| say(line));
    Ok(0)
}

fn show_rows(
    master: &Master,
    request: &Request,
    json: bool,
    fields: &[&str],
) -> Result<u8, Failure> {
    match master.ask(request, say)? {
        Answer::Rows(rows) if json => rows::lines(&rows).iter().for_each(|line| say(line)),
        Answer::Rows(rows) => rows::table(&rows, fields).iter().for_each(|line| say(line)),
        answer => tell(answer)?,
    }
    Ok(0)
}

/// Asks for a change of chains and waits for it where that is wanted.
fn steer(master: &Master, request: &Request, until: Option<Until>) -> Result<u8, Failure> {
    let (Request::Start { chains }
    | Request::Stop { chains, .. }
    | Request::Restart { chains, .. }) = request
    else {
        return plain(master, request);
    };
    let before = until.map(|until| master.status(chains).map(|before| (until, before)));
    let before = before.transpose()?;
    tell(master.ask(request, say)?)?;
    if let Some((until, before)) = before {
        wait::wait(master, &before, until, say)?;
    }
    Ok(0)
}

fn plain(master: &Master, request: &Request) -> Result<u8, Failure> {
    tell(master.ask(request, say)?)?;
    Ok(0)
}

fn tell(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Done(text) => say(&text),
        Answer::Text(lines) => lines.iter().for_each(|line| say(line)),
        other => return Err(talk::unexpected(&other)),
    }
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Lines of the master's, safe; an empty text says nothing.
fn say(text: &str) {
    if !text.is_empty() {
        let safe: Vec<_> = text.lines().map(safe_line).collect();
        print(&format!("{}\n", safe.join("\n")));
    }
}

fn complain(text: &str) {
    let safe: Vec<_> = text.lines().map(safe_line).collect();
    let _ = writeln!(io::stderr(), "runnerctl: {}", safe.join("\n"));
}

/// All of it at once, also what ends without a newline. A reader that is gone (`| head`) is no
/// fault of ours.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(cause) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        && cause.kind() != io::ErrorKind::BrokenPipe
        && !UNWRITTEN.swap(true, Ordering::Relaxed)
    {
        complain(&format!("cannot write the output: {cause}"));
    }
}
