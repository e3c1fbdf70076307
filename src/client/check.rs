//! `runnerctl check`: a status as one line and an exit status for a monitoring system, as the
//! Monitoring Plugins Development Guidelines want them. Pure.

use super::status::failing;
use super::talk::Failure;
use super::text::word;
use crate::wire::control::Status;
use crate::wire::safe::safe_line;
use crate::wire::words::mails_wait;

const OK: u8 = 0;
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
const UNKNOWN: u8 = 3;

/// The line and the exit status.
pub fn check(status: &Result<Status, Failure>) -> (String, u8) {
    let status = match status {
        Ok(status) => status,
        Err(failure @ (Failure::NotRunning(_) | Failure::Silent)) => {
            return (format!("RUNNER CRITICAL - {}", safe_line(&failure.to_string())), CRITICAL);
        }
        Err(failure) => {
            return (format!("RUNNER UNKNOWN - {}", safe_line(&failure.to_string())), UNKNOWN);
        }
    };
    let named = |wanted: &dyn Fn(&crate::wire::control::ChainStatus) -> bool| {
        let found = status.chains.iter().filter(|chain| wanted(chain));
        found.map(|chain| word(&chain.name)).collect::<Vec<String>>()
    };
    let down = named(&failing);
    let held = named(&|chain| matches!(chain.state.as_str(), "paused" | "stopped"));
    let mut critical = Vec::new();
    let mut warning = Vec::new();
    if !down.is_empty() {
        critical.push(format!(
            "{} of {} chains failing: {}",
            down.len(),
            status.chains.len(),
            list(&down)
        ));
    }
    if !held.is_empty() {
        warning.push(format!("not running: {}", list(&held)));
    }
    let master = &status.master;
    if let Some(error) = &master.mail_error {
        warning.push(format!("{}: {}", mails_wait(master.mail_waiting), safe_line(error)));
    }
    if master.last_upgrade.as_ref().is_some_and(|last| last.outcome != "accepted") {
        warning.push("last upgrade refused".to_owned());
    }
    let (name, exit) = match (critical.is_empty(), warning.is_empty()) {
        (false, _) => ("CRITICAL", CRITICAL),
        (true, false) => ("WARNING", WARNING),
        (true, true) => ("OK", OK),
    };
    critical.append(&mut warning);
    if critical.is_empty() {
        critical.push(format!("{} chains", status.chains.len()));
    }
    // A bar begins the performance data, so none may stand before it.
    let text = critical.join("; ").replace('|', "/");
    let line = format!(
        "RUNNER {name} - {text} | chains={} failing={} held={} mail_waiting={}",
        status.chains.len(),
        down.len(),
        held.len(),
        master.mail_waiting
    );
    (line, exit)
}

/// The first few names.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::sample;
    use super::*;

    #[test]
    fn a_failing_chain_is_critical_and_the_rest_is_told_too() {
        let (line, exit) = check(&Ok(sample()));
        assert_eq!(exit, CRITICAL);
        assert_eq!(
            line,
            "RUNNER CRITICAL - 1 of 5 chains failing: import; not running: index; 2 mails wait: connection refused; last upgrade refused | chains=5 failing=1 held=1 mail_waiting=2"
        );
    }

    #[test]
    fn less_is_a_warning_and_nothing_is_ok() {
        let mut status = sample();
        status.chains.retain(|chain| !failing(chain));
        assert_eq!(check(&Ok(status.clone())).1, WARNING);
        status.chains.retain(|chain| chain.state == "running");
        status.master.mail_error = None;
        status.master.last_upgrade = None;
        let (line, exit) = check(&Ok(status));
        assert_eq!(exit, OK);
        assert!(line.starts_with("RUNNER OK - 2 chains | "), "{line}");
    }

    #[test]
    fn no_master_is_critical_and_no_right_is_unknown() {
        assert_eq!(check(&Err(Failure::NotRunning("/x".into()))).1, CRITICAL);
        assert_eq!(check(&Err(Failure::NoRight("/x".into()))).1, UNKNOWN);
        let hostile = Failure::Refused("a | b\nc".to_owned(), 77);
        assert_eq!(check(&Err(hostile)).1, UNKNOWN);
    }
}
