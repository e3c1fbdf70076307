//! A fluent way to tell a story of the real program: a configuration in a folder of its own, tasks
//! that append to a ledger there, bounded waiting, and a look at the log at the end.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::new_without_default
)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What a story begins with.
pub struct Story {
    dir: TempDir,
    chains: String,
}

impl Story {
    pub fn new() -> Story {
        Story { dir: TempDir::new().unwrap(), chains: String::new() }
    }

    /// One more chain, as RON; `{dir}` stands for the story's folder.
    pub fn chain(mut self, ron: &str) -> Story {
        self.chains.push_str(ron);
        self.chains.push_str(",\n");
        self
    }

    pub fn start(self) -> Running {
        let mut running = Running { dir: self.dir, master: None, expected: Vec::new() };
        running.write(&self.chains);
        running.master = Some(running.spawn());
        running.until("the master answers", |it| it.status().is_some());
        running
    }
}

/// A running master; it and everything of it is gone when this is dropped.
pub struct Running {
    dir: TempDir,
    pub master: Option<Child>,
    expected: Vec<&'static str>,
}

impl Running {
    /// Writes the configuration anew.
    pub fn write(&self, chains: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "(run_root: \"{dir}/run\", state_root: \"{dir}/state\",\n\
             log: (level: Debug, user: Current, to: File(\"{dir}/log\")),\n\
             mail: (from: \"a@example.org\", to: [\"b@example.org\"], user: Current,\n\
             transport: Maildir(\"{dir}/mail\"), spool: \"{dir}/spool\"),\n\
             defaults: (user: Current, cwd: \"{dir}\"),\nchains: [\n{chains}])\n"
        );
        std::fs::write(self.path("runner.ron"), text.replace("{dir}", &dir.to_string())).unwrap();
    }

    /// Puts any text in place of the configuration.
    pub fn write_text(&self, text: &str) {
        std::fs::write(self.path("runner.ron"), text).unwrap();
    }

    /// One more master with the same configuration.
    pub fn spawn(&self) -> Child {
        let err = std::fs::File::options().create(true).append(true).open(self.path("stderr"));
        Command::new(env!("CARGO_BIN_EXE_runner-master"))
            .arg(self.path("runner.ron"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(err.unwrap())
            .spawn()
            .unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The words that the tasks have written so far.
    pub fn ledger(&self) -> Vec<String> {
        self.read("ledger").split_whitespace().map(str::to_owned).collect()
    }

    pub fn runnerctl(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_runnerctl"))
            .arg("--run-root")
            .arg(self.path("run"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn status(&self) -> Option<serde_json::Value> {
        let out = self.runnerctl(&["status", "--json"]);
        serde_json::from_slice(&out.stdout).ok()
    }

    /// A chain's part of the status.
    pub fn chain(&self, name: &str) -> serde_json::Value {
        let status = self.status().unwrap_or_default();
        let chains = status["chains"].as_array().cloned().unwrap_or_default();
        chains.into_iter().find(|chain| chain["name"] == name).unwrap_or_default()
    }

    /// The subjects of the mails so far.
    pub fn subjects(&self) -> Vec<String> {
        let mut mails: Vec<_> = std::fs::read_dir(self.path("mail/new"))
            .map(|found| found.filter_map(Result::ok).collect())
            .unwrap_or_default();
        mails.sort_by_key(|mail| mail.metadata().and_then(|meta| meta.modified()).ok());
        let subject = |text: String| {
            let unfolded = text.replace("\n ", " ").replace("\r\n ", " ");
            unfolded.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned))
        };
        mails
            .into_iter()
            .filter_map(|mail| subject(std::fs::read_to_string(mail.path()).ok()?))
            .collect()
    }

    /// Polls until `holds`, at most 20 s.
    pub fn until(&self, what: &str, holds: impl Fn(&Running) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(
                Instant::now() < end,
                "never: {what}\n{}\n{}\n{}",
                self.read("stderr"),
                self.read("log"),
                self.read("ledger"),
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> i32 {
        self.master.as_ref().map_or(0, |master| i32::try_from(master.id()).unwrap())
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str, pid: i64) {
        assert!(pid > 1);
        let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// An error that this story provokes: a part of its line in the log.
    pub fn expect_error(&mut self, part: &'static str) {
        self.expected.push(part);
    }

    /// Ends the master with a signal: it exits 0, and the log holds no unexpected error.
    pub fn end(mut self, signal: &str) -> Ended {
        self.signal(signal, i64::from(self.pid()));
        self.wait_for_end()
    }

    pub fn wait_for_end(&mut self) -> Ended {
        let mut master = self.master.take().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let code = loop {
            if let Some(status) = master.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < end, "the master does not end\n{}", self.read("log"));
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = self.read("log");
        for line in log.lines().filter(|line| line.contains(" ERRO ") || line.contains(" CRIT ")) {
            assert!(
                self.expected.iter().any(|part| line.contains(part)),
                "an unexpected error in the log: {line}"
            );
        }
        Ended { code, ledger: self.ledger(), log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut master) = self.master.take() {
            // The chains end by themselves when their master is gone.
            let _ = master.kill();
            let _ = master.wait();
        }
    }
}

/// What is left of a story.
pub struct Ended {
    pub code: Option<i32>,
    pub ledger: Vec<String>,
    pub log: String,
}
