//! `runnerctl metrics`: a status in the OpenMetrics text format (version 1.0.0). Pure.

use std::fmt::Write;

use crate::wire::control::{ChainStatus, Status, TaskStatus};

const STATES: [&str; 6] = ["running", "cooling", "draining", "backoff", "paused", "stopped"];

/// The exposition; `None`: no master runs, which is told as `runner_up 0`.
pub fn metrics(status: Option<&Status>) -> String {
    let mut out = Exposition::default();
    out.family("runner_up", "gauge", None, "Whether a master answers.");
    out.sample("runner_up", &[], if status.is_some() { 1.0 } else { 0.0 });
    if let Some(status) = status {
        of_master(&mut out, status);
        of_chains(&mut out, &status.chains);
        of_tasks(&mut out, &status.chains);
    }
    out.text.push_str("# EOF\n");
    out.text
}

fn of_master(out: &mut Exposition, status: &Status) {
    let master = &status.master;
    out.family("runner_build", "info", None, "The version of the running binary.");
    out.sample("runner_build_info", &[("version", &master.binary_version)], 1.0);
    let mut gauge = |name: &str, unit, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            out.family(name, "gauge", unit, help);
            out.sample(name, &[], value);
        }
    };
    let flag = |yes: bool| Some(if yes { 1.0 } else { 0.0 });
    let seconds = Some("seconds");
    gauge(
        "runner_start_time_seconds",
        seconds,
        "When the master started.",
        unix_seconds(&master.since),
    );
    gauge("runner_generation", None, "Upgrades and starts so far.", Some(count(master.generation)));
    gauge("runner_mail_waiting", None, "Mails that wait.", Some(count(master.mail_waiting)));
    gauge(
        "runner_mail_failing",
        None,
        "Whether the last delivery failed.",
        flag(master.mail_error.is_some()),
    );
    if let Some(upgrade) = &master.last_upgrade {
        let accepted = flag(upgrade.outcome == "accepted");
        gauge("runner_upgrade_accepted", None, "Whether the last upgrade was accepted.", accepted);
        let at = unix_seconds(&upgrade.at);
        gauge("runner_upgrade_time_seconds", seconds, "When the last upgrade was tried.", at);
    }
    gauge(
        "runner_log_failing",
        None,
        "Whether the log cannot be written.",
        flag(master.log_error.is_some()),
    );
    out.family("runner_log_dropped", "counter", None, "Log records that were dropped.");
    out.sample("runner_log_dropped_total", &[], count(master.log_dropped));
}

fn of_chains(out: &mut Exposition, chains: &[ChainStatus]) {
    out.family("runner_chain_failing", "gauge", None, "Whether a task of the chain is down.");
    for chain in chains {
        let value = if chain.health == "ok" { 0.0 } else { 1.0 };
        out.sample("runner_chain_failing", &[("chain", &chain.name)], value);
    }
    out.family("runner_chain_state", "stateset", None, "What the chain does now.");
    for chain in chains {
        for state in STATES {
            let labels = [("chain", chain.name.as_str()), ("runner_chain_state", state)];
            let value = if chain.state == state { 1.0 } else { 0.0 };
            out.sample("runner_chain_state", &labels, value);
        }
    }
    out.family("runner_chain_output_lost", "counter", None, "Lines that could not be written.");
    for chain in chains {
        let value = count(chain.output_lost);
        out.sample("runner_chain_output_lost_total", &[("chain", &chain.name)], value);
    }
    out.family("runner_chain_generation", "gauge", None, "The chain's generation.");
    for chain in chains {
        let value = count(chain.generation);
        out.sample("runner_chain_generation", &[("chain", &chain.name)], value);
    }
}

fn of_tasks(out: &mut Exposition, chains: &[ChainStatus]) {
    out.family("runner_task_runs", "counter", None, "Finished runs by their result.");
    for_each(chains, |labels, task| {
        for (result, value) in [("ok", task.ok), ("failed", task.failed)] {
            let labels = [labels[0], labels[1], ("result", result)];
            out.sample("runner_task_runs_total", &labels, count(value));
        }
    });
    out.family("runner_task_down", "gauge", None, "Whether the task's last runs failed.");
    for_each(chains, |labels, task| {
        let value = if task.down_since.is_some() { 1.0 } else { 0.0 };
        out.sample("runner_task_down", labels, value);
    });
    let seconds = Some("seconds");
    out.family("runner_task_down_since_seconds", "gauge", seconds, "When the outage began.");
    for_each(chains, |labels, task| {
        if let Some(at) = task.down_since.as_deref().and_then(unix_seconds) {
            out.sample("runner_task_down_since_seconds", labels, at);
        }
    });
    out.family("runner_task_last_run_seconds", "gauge", seconds, "How long the last run took.");
    for_each(chains, |labels, task| {
        if let Some(last) = &task.last {
            out.sample("runner_task_last_run_seconds", labels, last.seconds);
        }
    });
    out.family("runner_task_notices", "counter", None, "Notices to the admins.");
    for_each(chains, |labels, task| {
        out.sample("runner_task_notices_total", labels, count(task.notices));
    });
    out.family("runner_task_withheld", "counter", None, "Notices that were held back.");
    for_each(chains, |labels, task| {
        out.sample("runner_task_withheld_total", labels, count(task.withheld));
    });
}

fn for_each(chains: &[ChainStatus], mut see: impl FnMut(&[(&str, &str); 2], &TaskStatus)) {
    for chain in chains {
        for task in &chain.tasks {
            see(&[("chain", &chain.name), ("task", &task.name)], task);
        }
    }
}

#[derive(Debug, Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, unit: Option<&str>, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if let Some(unit) = unit {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Exact up to 2^53, as every value of the format.
#[allow(clippy::cast_precision_loss)]
fn count(number: u64) -> f64 {
    number as f64
}

fn unix_seconds(time: &str) -> Option<f64> {
    let time = humantime::parse_rfc3339_weak(time).ok()?;
    Some(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::sample;
    use super::*;

    #[test]
    fn a_status_becomes_families_that_end_with_eof() {
        let text = metrics(Some(&sample()));
        for line in [
            "runner_up 1",
            "runner_build_info{version=\"0.1.0\"} 1",
            "runner_mail_waiting 2",
            "runner_upgrade_accepted 0",
            "runner_log_dropped_total 3",
            "runner_chain_failing{chain=\"import\"} 1",
            "runner_chain_state{chain=\"index\",runner_chain_state=\"paused\"} 1",
            "runner_chain_state{chain=\"index\",runner_chain_state=\"running\"} 0",
            "runner_task_runs_total{chain=\"import\",task=\"send\",result=\"ok\"} 12",
            "runner_task_down_since_seconds{chain=\"import\",task=\"send\"} 1767344400",
            "runner_task_last_run_seconds{chain=\"import\",task=\"send\"} 0.25",
            "runner_task_withheld_total{chain=\"import\",task=\"send\"} 7",
        ] {
            assert!(text.lines().any(|has| has == line), "{line} in:\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn without_a_master_it_is_down() {
        assert!(metrics(None).contains("\nrunner_up 0\n# EOF\n"));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
