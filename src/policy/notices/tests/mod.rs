//! A desk with one chain and what may happen to it; `table`: each row of the table of notices,
//! `silence`: what its end tells, `saved`: what survives the master, `properties`: what must hold
//! for every history.

mod properties;
mod saved;
mod silence;
mod table;

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::model::{Config, Level};
use crate::config::{Defaults, parse};
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::outcome::Outcome;
use crate::wire::report::RunEnd;
use crate::wire::time::{Timestamp, WallTime};

const HOUR: i64 = 3600;
const BOOT: u64 = 1_767_376_800_000;

fn config(chains: &str) -> Config {
    let text = format!(
        "(run_root: \"/r\", state_root: \"/s\", mail: (from: \"a@example.org\", \
         to: [\"ops@example.org\"], transport: Maildir(\"/m\")), chains: [{chains}])"
    );
    let who = Defaults {
        as_root: false,
        uid: 1000,
        user: Some("me".to_owned()),
        run_root: None,
        state_root: None,
    };
    let loaded = parse(Path::new("/etc/runner.ron"), &text, &who);
    loaded.checked.unwrap_or_else(|| panic!("{:?}", loaded.problems)).config
}

fn chain(name: &str, task: &str) -> String {
    format!("(name: \"{name}\", tasks: [(name: \"job\", run: [\"/bin/job\", \"a b\"], {task})]),")
}

/// A desk with one chain `c` and its task `job`, times in milliseconds.
struct Desk {
    desk: NoticeDesk,
    config: Config,
    run: u64,
    mails: Vec<Envelope>,
    logs: Vec<(Level, String)>,
}

impl Desk {
    fn new(config: Config) -> Desk {
        let mut desk = NoticeDesk::new("web1", &config, Timestamp(0), WallTime(BOOT));
        desk.take_decisions();
        Desk { desk, config, run: 0, mails: Vec::new(), logs: Vec::new() }
    }

    fn plain() -> Desk {
        Desk::new(config(&chain("c", "")))
    }

    fn wall(at: i64) -> WallTime {
        WallTime(BOOT.saturating_add_signed(at))
    }

    fn collect(&mut self) {
        for deed in self.desk.take_deeds() {
            match deed {
                Deed::Mail(mail) => self.mails.push(mail),
                Deed::Log { level, text, .. } => self.logs.push((level, text)),
            }
        }
    }

    /// Lets time pass, as the master does.
    fn pass(&mut self, to: i64) {
        while let Some(due) = self.desk.next_timeout().filter(|due| due.0 < to) {
            self.desk.handle_timeout(due, Desk::wall(due.0));
        }
        self.collect();
    }

    fn start(&mut self, at: i64) {
        self.pass(at);
        self.run += 1;
        self.desk.run_started("c", "job", self.run, Timestamp(at), Timestamp(at));
    }

    fn end_of(&self, from: i64, to: i64, outcome: &str, message: &str) -> RunEnd {
        let outcome: Outcome = outcome.parse().unwrap();
        RunEnd {
            run: self.run,
            task: "job".to_owned(),
            success: outcome == Outcome::Exit(0),
            outcome,
            started: Timestamp(from),
            ended: Timestamp(to),
            wall: Desk::wall(to),
            millis: u64::try_from(to - from).unwrap(),
            count: 1,
            fingerprint: message.to_owned(),
            message: message.to_owned(),
            stderr: format!("working\n{message}\n"),
            stdout: "hello\n".to_owned(),
            next: None,
        }
    }

    fn run(&mut self, from: i64, to: i64, outcome: &str, message: &str) {
        self.start(from);
        self.pass(to);
        let end = self.end_of(from, to, outcome, message);
        self.desk.run_ended("c", &end, Timestamp(to));
        self.collect();
    }

    fn fail(&mut self, second: i64, message: &str) {
        self.run(second * 1000, second * 1000, "exit 1", message);
    }

    fn ok(&mut self, second: i64) {
        self.run(second * 1000, second * 1000, "exit 0", "");
    }

    fn deploy(&mut self, second: i64) {
        self.pass(second * 1000);
        let config = self.config.clone();
        self.desk.reconfigure(&config, Timestamp(second * 1000), Desk::wall(second * 1000));
    }

    /// (second, notice) since the last call.
    fn told(&mut self) -> Vec<(i64, &'static str)> {
        let decisions = self.desk.take_decisions();
        decisions.iter().map(|decision| (decision.at.0 / 1000, decision.kind.word())).collect()
    }
}
