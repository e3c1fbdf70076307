//! The real runnerctl against the real control server, which serves a made-up system: what an
//! operator types, sees and gets as exit status.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use runner::master::control::{Asked, ControlServer, Doors};
use runner::sys::poll::{Epoll, Interest};
use runner::wire::control::{
    Answer, ChainStatus, MasterStatus, Request, Status, TaskStatus, UpgradeStatus,
};
use runner::wire::time::Timestamp;

fn status(chains: Vec<ChainStatus>) -> Status {
    Status {
        version: 1,
        master: MasterStatus {
            pid: 1,
            since: "2026-01-01T00:00:00Z".to_owned(),
            config: "/etc/runner/runner.ron".to_owned(),
            generation: 1,
            binary_version: "0.1.0".to_owned(),
            mail_waiting: 0,
            mail_error: None,
            log_dropped: 0,
            log_error: None,
            strays_by: "cgroup".to_owned(),
            last_upgrade: None,
            upgrades_begun: 0,
            upgrades_decided: 0,
        },
        chains,
    }
}

fn chain(name: &str, state: &str, health: &str) -> ChainStatus {
    ChainStatus {
        name: name.to_owned(),
        health: health.to_owned(),
        state: state.to_owned(),
        pid: Some(42),
        ready: true,
        user: "shop".to_owned(),
        nice: 0,
        generation: 1,
        task: Some("send".to_owned()),
        since: None,
        until: None,
        silenced_until: None,
        paused_since: None,
        reason: None,
        output_lost: 0,
        output_error: None,
        tasks: vec![TaskStatus {
            name: "send".to_owned(),
            ok: 1,
            failed: 0,
            last: None,
            down_since: None,
            notices: 0,
            withheld: 0,
        }],
    }
}

/// Runs `story` while a server in `run_root` answers each request by `reply`.
fn served<R>(
    mut reply: impl FnMut(&Request) -> Vec<Answer> + Send,
    story: impl FnOnce(&Path) -> R,
) -> R {
    let root = tempfile::tempdir().unwrap();
    let over = AtomicBool::new(false);
    let doors = Doors { gid: None, everybody: false };
    let (wake, waker) = std::os::unix::net::UnixStream::pair().unwrap();
    let (listens, ready) = std::sync::mpsc::channel();
    let (path, stop) = (root.path(), &over);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut epoll = Epoll::new().unwrap();
            let mut server = ControlServer::open(path, doors, 0, &epoll, 1).unwrap();
            epoll.add(&wake, 0, Interest::Read).unwrap();
            listens.send(()).unwrap();
            while !stop.load(Ordering::SeqCst) {
                let tokens = epoll.wait().unwrap();
                for token in tokens.into_iter().filter(|token| *token > 0) {
                    for Asked { id, request, .. } in server.ready(&epoll, token, Timestamp(0)) {
                        let answers = reply(&request);
                        for (at, answer) in answers.iter().enumerate() {
                            let last = at + 1 == answers.len();
                            server.answer(&epoll, id, answer, last, Timestamp(0));
                        }
                    }
                }
            }
        });
        ready.recv().unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(root.path())));
        over.store(true, Ordering::SeqCst);
        drop(waker);
        result.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

fn runnerctl(run_root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_runnerctl"))
        .arg("--run-root")
        .arg(run_root)
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn status_is_one_line_a_chain_and_its_exit_says_whether_all_is_well() {
    let well = || vec![Answer::Status(Box::new(status(vec![chain("mail", "running", "ok")])))];
    served(
        |_| well(),
        |root| {
            let shown = runnerctl(root, &["status"]);
            assert_eq!(out(&shown), "mail  running  ok  42  shop  send  -  -  1 ok, 0 failed\n");
            assert_eq!(shown.status.code(), Some(0), "{}", err(&shown));
            let json = out(&runnerctl(root, &["status", "--json"]));
            assert!(json.starts_with(r#"{"version":1,"master":{"pid":1,"since":"#), "{json}");
            assert_eq!(out(&runnerctl(root, &["status", "--failing"])), "");
        },
    );
    let failing = vec![chain("bad", "cooling", "failing"), chain("mail", "running", "ok")];
    served(
        |_| vec![Answer::Status(Box::new(status(failing.clone())))],
        |root| {
            let shown = runnerctl(root, &["status", "--failing"]);
            assert_eq!(shown.status.code(), Some(150));
            assert_eq!(out(&shown).lines().count(), 1);
            assert!(out(&shown).starts_with("bad  cooling  failing  "));
            assert_eq!(runnerctl(root, &["check"]).status.code(), Some(2));
            let metrics = runnerctl(root, &["metrics"]);
            assert!(out(&metrics).ends_with("# EOF\n"));
        },
    );
}

#[test]
fn without_a_master_every_verb_says_so_with_3() {
    let root = tempfile::tempdir().unwrap();
    for verb in [&["status"][..], &["stop", "--all", "--wait"], &["reload", "--wait"], &["metrics"]]
    {
        let output = runnerctl(root.path(), verb);
        assert_eq!(output.status.code(), Some(3), "{verb:?}: {}", err(&output));
        assert!(err(&output).contains("no master runs"), "{}", err(&output));
    }
    // A dead master's socket is no master either.
    drop(std::os::unix::net::UnixListener::bind(root.path().join("control.sock")).unwrap());
    assert_eq!(runnerctl(root.path(), &["status"]).status.code(), Some(3));
}

#[test]
fn a_refusal_is_told_with_its_own_exit_status() {
    served(
        |_| vec![Answer::Refused { error: "no chain is named \"x\x1b[2J\"".to_owned(), exit: 4 }],
        |root| {
            let output = runnerctl(root, &["run", "x"]);
            assert_eq!(output.status.code(), Some(4));
            assert_eq!(err(&output), "runnerctl: no chain is named \"x\\x1b[2J\"\n");
        },
    );
}

#[test]
fn what_is_typed_is_what_is_asked() {
    let seen = std::sync::Mutex::new(Vec::new());
    served(
        |request| {
            seen.lock().unwrap().push(request.clone());
            vec![Answer::Progress("working".to_owned()), Answer::Done("done".to_owned())]
        },
        |root| {
            for typed in [
                &["pause", "mail", "--for", "1h 30m", "--reason", "disk"][..],
                &["silence", "mail", "--for", "2h"],
                &["run", "mail", "send"],
                &["restart", "--all", "--now"],
                &["log-level", "debug"],
                &["reload", "--dry-run", "--force", "mail"],
                &["mail", "flush"],
                &["shutdown", "--now"],
            ] {
                let output = runnerctl(root, typed);
                assert_eq!(output.status.code(), Some(0), "{typed:?}: {}", err(&output));
                assert_eq!(out(&output), "working\ndone\n");
            }
        },
    );
    let seen: Vec<String> =
        seen.into_inner().unwrap().iter().map(|r| serde_json::to_string(r).unwrap()).collect();
    assert_eq!(
        seen,
        [
            r#"{"verb":"pause","chain":"mail","millis":5400000,"reason":"disk"}"#,
            r#"{"verb":"silence","chain":"mail","millis":7200000,"reason":""}"#,
            r#"{"verb":"run","chain":"mail","task":"send"}"#,
            r#"{"verb":"restart","chains":["*"],"now":true}"#,
            r#"{"verb":"log-level","level":"debug"}"#,
            r#"{"verb":"reload","chains":["mail"],"force":true,"dry_run":true,"wait":"no"}"#,
            r#"{"verb":"mail-flush"}"#,
            r#"{"verb":"shutdown","now":true}"#,
        ]
    );
}

#[test]
fn reload_waits_over_the_end_of_the_connection_until_every_chain_is_replaced() {
    // The master answers nothing to an accepted upgrade: its exec closes the connection. Here an
    // answer without text stands for the gap; then the statuses of a draining system follow.
    let mut asked = 0;
    let reply = move |request: &Request| {
        if matches!(request, Request::Reload { .. }) {
            return vec![Answer::Progress("checking".to_owned()), Answer::Done(String::new())];
        }
        asked += 1;
        let mut system =
            status(vec![chain("mail", "running", "ok"), chain("slow", "running", "ok")]);
        if asked > 2 {
            system.master.generation = 2;
            (system.master.upgrades_begun, system.master.upgrades_decided) = (1, 1);
            system.master.last_upgrade = Some(UpgradeStatus {
                at: "2026-01-01T00:00:01Z".to_owned(),
                outcome: "accepted".to_owned(),
                cause: None,
            });
            system.chains[0].generation = 2;
            system.chains[1].state = "draining".to_owned();
        }
        if asked > 5 {
            system.chains[1].state = "running".to_owned();
            system.chains[1].generation = 2;
        }
        vec![Answer::Status(Box::new(system))]
    };
    served(reply, |root| {
        let output = runnerctl(root, &["reload", "--wait=drained"]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(
            out(&output),
            "checking\nmail: replaced (1 of 2)\nslow: replaced (2 of 2)\nupgrade accepted\n"
        );
    });
}

#[test]
fn the_socket_is_found_by_the_configuration_even_where_its_rest_is_wrong() {
    served(
        |_| vec![Answer::Status(Box::new(status(vec![])))],
        |root| {
            let file = root.join("runner.ron");
            let text = format!("(run_root: {:?}, chains: [(nice: 99, usr: \"x\")])", root);
            std::fs::write(&file, text).unwrap();
            let with = |variable: Option<&PathBuf>, arguments: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_runnerctl"));
                command.env_clear().args(arguments);
                if let Some(path) = variable {
                    command.env("RUNNER_CONFIG", path);
                }
                command.output().unwrap()
            };
            assert_eq!(with(Some(&file), &["status"]).status.code(), Some(0));
            let named = with(None, &["status", "-c", file.to_str().unwrap()]);
            assert_eq!(named.status.code(), Some(0), "{}", err(&named));
            std::fs::write(&file, "(run_root: ").unwrap();
            let broken = with(Some(&file), &["status"]);
            assert_eq!(broken.status.code(), Some(78));
            assert!(err(&broken).contains("--run-root"), "{}", err(&broken));
        },
    );
}

#[test]
fn show_config_show_env_and_import_need_no_master() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("runner.ron");
    let text = format!(
        "(run_root: {0:?}, state_root: {0:?}, defaults: (nice: 7), chains: [\n(user: Current, env: {{ \"A\": \"b c\" }}, tasks: [(run: [\"/bin/true\"])])])",
        root.path()
    );
    std::fs::write(&file, text).unwrap();
    let with = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_runnerctl"))
            .args(arguments)
            .env_clear()
            .env("RUNNER_CONFIG", &file)
            .output()
            .unwrap()
    };
    let shown = with(&["show-config", "true"]);
    let nice =
        out(&shown).lines().find(|line| line.contains("nice")).unwrap_or_default().to_owned();
    assert!(nice.contains("nice: 7") && nice.contains("runner.ron:1:"), "{nice:?} {}", err(&shown));
    let env = with(&["show-env", "true"]);
    assert!(out(&env).lines().any(|line| line == "A='b c'  # env"), "{} {}", out(&env), err(&env));
    assert!(out(&env).contains("RUNNER_CHAIN=true  # runner\n"));
    assert_eq!(with(&["show-config", "none"]).status.code(), Some(4));
    let script = root.path().join("start.sh");
    std::fs::write(&script, "su shop -c \"./sync &>> /tmp/log & disown\"\n").unwrap();
    let imported = with(&["import", script.to_str().unwrap()]);
    assert!(out(&imported).contains("run: [\"./sync\"]"), "{}", err(&imported));
    std::fs::write(&file, "(chains: [(usr: 1)])").unwrap();
    let wrong = with(&["show-config", "true"]);
    assert_eq!(wrong.status.code(), Some(78));
    assert!(err(&wrong).contains("did you mean"), "{}", err(&wrong));
}
