//! `runnerctl simulate`: prints what the admins would be mailed, with no running master.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::show::{self, EXIT_UNKNOWN};
use super::talk::Failure;
use crate::config::model::Config;
use crate::policy::notices::Decision;
use crate::policy::simulate::{self, FailSpec, Simulated};

/// The verb: reads the configuration and the recorded runs, if any, and prints to standard output.
///
/// # Errors
/// When the configuration is wrong, a file cannot be read, or what is asked for cannot be
/// simulated.
pub(super) fn run(
    file: &Path,
    fails: &[FailSpec],
    span: Duration,
    history: Option<&Path>,
    json: bool,
) -> Result<u8, Failure> {
    let config = show::load(file)?.0.config;
    for spec in fails {
        simulate::check(&config, spec).map_err(|why| Failure::Other(why, EXIT_UNKNOWN))?;
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match history {
        Some(path) => {
            let text = read(path).map_err(|cause| {
                Failure::Other(format!("cannot read {}: {cause}", path.display()), 1)
            })?;
            simulate_history(&config, &text, json, &mut out)
                .map_err(|why| format!("{}: {why}", path.display()))
        }
        None => simulate(&config, fails, span, json, &mut out),
    };
    done.map(|()| 0).map_err(|error| Failure::Other(error, 1))
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)?;
    } else {
        bytes = std::fs::read(path)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Prints what a time of `span` would bring if `fails` failed. With `json` the decisions, a JSON
/// object a line, `at` in seconds from the begin; without it the mails as they would arrive.
///
/// # Errors
/// When a chain or task is not in the configuration, or `out` cannot be written.
pub fn simulate(
    config: &Config,
    fails: &[FailSpec],
    span: Duration,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), String> {
    print(config, &simulate::weekend(config, fails, span)?, json, out)
}

/// Prints what recorded runs (the text of a file of JSON lines) would have brought. `at` is on
/// the clock of the file.
///
/// # Errors
/// At the first line that cannot be used, with its number, or when `out` cannot be written.
pub fn simulate_history(
    config: &Config,
    history: &str,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), String> {
    print(config, &simulate::replay(config, history)?, json, out)
}

fn print(config: &Config, done: &Simulated, json: bool, out: &mut dyn Write) -> Result<(), String> {
    let written = if json { decisions(done, out) } else { mails(config, done, out) };
    match written {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the simulation: {cause}"))
        }
        _ => Ok(()),
    }
}

fn decisions(done: &Simulated, out: &mut dyn Write) -> io::Result<()> {
    for decision in &done.decisions {
        writeln!(out, "{}", row(decision))?;
    }
    out.flush()
}

/// One decision in the form of the contract, its keys in that order.
fn row(decision: &Decision) -> String {
    let key = |name: &str, value: Value| format!("{}:{value}", Value::from(name));
    let millis = decision.at.0;
    let at = if millis % 1000 == 0 { json!(millis / 1000) } else { json!(millis as f64 / 1000.0) };
    let keys = [
        key("at", at),
        key("chain", json!(decision.chain)),
        key("task", json!(decision.task)),
        key("notice", json!(decision.kind.word())),
        key("subject", json!(decision.subject)),
        key("withheld", json!(decision.withheld)),
    ];
    format!("{{{}}}", keys.join(","))
}

fn mails(config: &Config, done: &Simulated, out: &mut dyn Write) -> io::Result<()> {
    let Some(mail) = &config.mail else {
        for decision in &done.decisions {
            writeln!(out, "{}  {}", decision.wall, decision.subject)?;
        }
        writeln!(
            out,
            "{} notices, each a warning in the log: no mail is configured. {} runs, {} failed.",
            done.decisions.len(),
            done.runs,
            done.failed
        )?;
        return out.flush();
    };
    for arrival in &done.mails {
        let at = arrival.at.0.saturating_sub(done.begin.0);
        let after = Duration::from_millis(u64::try_from(at).unwrap_or(0));
        writeln!(out, "==== after {}", humantime::format_duration(after))?;
        writeln!(out, "To: {}", arrival.to)?;
        writeln!(out, "Subject: {}{}\n", mail.subject_prefix, arrival.mail.subject)?;
        writeln!(out, "{}", arrival.mail.body)?;
    }
    writeln!(
        out,
        "==== {} mails with {} notices. {} runs, {} failed.",
        done.mails.len(),
        done.decisions.len(),
        done.runs,
        done.failed
    )?;
    out.flush()
}
