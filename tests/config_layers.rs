//! The nearest says: a task over its chain, a chain over its file's defaults.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runner::config::model::{Chain, Command, Config, Output, Security, Transport, UserSpec};
use runner::config::{self, Defaults, File, Loaded, Unreadable, Want};

const ROOT_FILE: &str = "/etc/runner/runner.ron";

fn ann() -> Defaults {
    Defaults {
        as_root: false,
        uid: 1000,
        user: Some("ann".to_owned()),
        run_root: None,
        ..Defaults::of_root()
    }
}

fn told(loaded: &Loaded) -> String {
    config::render(&loaded.problems, &loaded.sources, false)
}

fn parsed(text: &str) -> Config {
    let loaded = config::parse(Path::new(ROOT_FILE), text, &Defaults::of_root());
    assert_eq!(told(&loaded), "");
    loaded.checked.unwrap().config
}

fn one(text: &str) -> Chain {
    let mut config = parsed(text);
    assert_eq!(config.chains.len(), 1);
    config.chains.remove(0)
}

/// Reads a main file and what it includes out of a map from path to text.
fn files(texts: &[(&str, &str)]) -> Loaded {
    let texts: BTreeMap<PathBuf, &str> =
        texts.iter().map(|(path, text)| (PathBuf::from(path), *text)).collect();
    let file = |path: &Path| {
        let text = texts.get(path).ok_or_else(|| Unreadable {
            message: format!("cannot read {}: no such file", path.display()),
            help: None,
        })?;
        let (name, path) = (path.to_owned(), path.to_owned());
        Ok(File { name, path, bytes: text.as_bytes().to_vec() })
    };
    config::load(Path::new(ROOT_FILE), &Defaults::of_root(), &mut |want| match want {
        Want::Main(path) => file(path).map(|file| vec![file]),
        Want::Include(pattern) if pattern.ends_with("*.ron") => {
            let folder = pattern.parent().unwrap();
            texts
                .keys()
                .filter(|path| path.parent() == Some(folder))
                .map(|path| file(path))
                .collect()
        }
        Want::Include(path) => file(path).map(|file| vec![file]),
    })
}

#[test]
fn what_nobody_says_has_its_default() {
    let chain = one(r#"(chains: [(user: "bin", tasks: [(name: "a", sh: "true")])])"#);
    assert_eq!(chain.name, "a");
    assert_eq!((chain.nice, chain.umask, chain.stop_signal), (0, 0o022, 15));
    assert_eq!(chain.drain_timeout, Duration::from_secs(60));
    assert_eq!(chain.kill_timeout, Duration::from_secs(10));
    let task = &chain.tasks[0];
    assert_eq!(task.success_cooldown, Duration::from_secs(5 * 60));
    assert_eq!(task.fail_cooldown, Duration::from_secs(20 * 60));
    assert_eq!(task.non_recoverable_downtime, Duration::from_secs(12 * 3600));
    assert_eq!(task.remind_every, Duration::from_secs(12 * 3600));
    assert_eq!(task.overdue, Some(Duration::from_secs(12 * 3600)));
    assert_eq!(task.forget_after, Duration::from_secs(7 * 24 * 3600));
    assert_eq!((task.timeout, task.ok_exit.as_slice()), (None, [0_u8].as_slice()));
    assert!(task.said.is_empty());
}

#[test]
fn the_nearest_says() {
    let chain = one(r#"(
        defaults: (user: "bin", nice: 3, fail_cooldown: "1m", success_cooldown: "1m", timeout: "1m"),
        chains: [(nice: 7, fail_cooldown: "2m", success_cooldown: "2m", tasks: [
            (name: "a", sh: "true", fail_cooldown: "3m"),
            (name: "b", sh: "true"),
        ])],
    )"#);
    assert_eq!((chain.user.clone(), chain.nice), (UserSpec::Name("bin".to_owned()), 7));
    let minutes = |time: Duration| time.as_secs() / 60;
    let seen: Vec<_> = chain
        .tasks
        .iter()
        .map(|t| (minutes(t.fail_cooldown), minutes(t.success_cooldown), t.timeout.map(minutes)))
        .collect();
    assert_eq!(seen, [(3, 2, Some(1)), (2, 2, Some(1))]);
    assert_eq!(chain.tasks[1].said, ["success_cooldown", "fail_cooldown", "timeout"]);
}

#[test]
fn an_explicit_none_overrides() {
    let chain = one(r#"(
        defaults: (user: "bin", timeout: "1m", overdue: "1m", cwd: "/srv", nice: 3, output: Discard, env: {"A": "1"}),
        chains: [(cwd: None, nice: None, output: None, env: None, tasks: [
            (name: "a", sh: "true", timeout: None, overdue: None),
            (name: "b", sh: "true"),
        ])],
    )"#);
    assert_eq!((chain.cwd.clone(), chain.nice, chain.output.clone()), (None, 0, Output::Main));
    assert!(chain.env.is_empty());
    assert_eq!((chain.tasks[0].timeout, chain.tasks[0].overdue), (None, None));
    assert_eq!(chain.tasks[1].timeout, Some(Duration::from_secs(60)));
}

#[test]
fn env_merges_by_key() {
    let chain = one(r#"(
        defaults: (user: "bin", env: {"A": "outer", "B": "outer", "C": "outer"}),
        chains: [(env: {"B": "inner", "C": None, "D": "inner"}, tasks: [(name: "a", sh: "true")])],
    )"#);
    let env: Vec<_> = chain.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("A", "outer"), ("B", "inner"), ("D", "inner")]);
}

#[test]
fn reminders_and_overdue_follow_the_downtime_unless_they_are_said() {
    let chain = one(r#"(chains: [(user: "bin", non_recoverable_downtime: "3s", tasks: [
        (name: "a", sh: "true"), (name: "b", sh: "true", remind_every: "1h"),
    ])])"#);
    let seen: Vec<_> = chain
        .tasks
        .iter()
        .map(|t| (t.remind_every.as_secs(), t.overdue.unwrap().as_secs()))
        .collect();
    assert_eq!(seen, [(3, 3), (3600, 3)]);
}

#[test]
fn a_file_that_is_included_has_its_own_defaults() {
    let loaded = files(&[
        (
            ROOT_FILE,
            r#"(include: ["conf.d/*.ron", "more.ron"], defaults: (user: "bin", nice: 1),
                chains: [(name: "main", tasks: [(name: "a", sh: "true")])])"#,
        ),
        (
            "/etc/runner/conf.d/b.ron",
            r#"(defaults: (user: "daemon", cwd: "data"), chains: [(name: "b", tasks: [(name: "a", sh: "true")])])"#,
        ),
        (
            "/etc/runner/conf.d/a.ron",
            r#"(chains: [(name: "a", user: "sys", tasks: [(name: "a", sh: "true")])])"#,
        ),
        ("/etc/runner/more.ron", "()"),
    ]);
    assert_eq!(told(&loaded), "");
    let config = loaded.checked.unwrap().config;
    let seen: Vec<_> = config
        .chains
        .iter()
        .map(|c| {
            let UserSpec::Name(user) = &c.user else { panic!("{:?}", c.user) };
            (c.name.as_str(), user.as_str(), c.nice, c.cwd.as_deref())
        })
        .collect();
    let data = Path::new("/etc/runner/conf.d/data");
    assert_eq!(
        seen,
        [("main", "bin", 1, None), ("a", "sys", 0, None), ("b", "daemon", 0, Some(data))]
    );
}

#[test]
fn problems_of_all_files_are_told_in_one_go() {
    let loaded = files(&[
        (
            ROOT_FILE,
            r#"(
    include: ["conf.d/*.ron", "missing.ron", "a*/b.ron", "conf.d/a.ron"],
    chains: [(name: "x", user: "bin", nise: 1, tasks: [(name: "a", sh: "true")])],
)"#,
        ),
        (
            "/etc/runner/conf.d/a.ron",
            r#"(
    include: ["other.ron"],
    chains: [(name: "x", user: "bin", tasks: [(name: "a", sh: "true")])],
)"#,
        ),
        ("/etc/runner/conf.d/b.ron", "{}"),
    ]);
    assert!(loaded.checked.is_none());
    insta::assert_snapshot!(told(&loaded));
}

#[test]
fn a_name_in_front_of_parentheses_is_accepted() {
    let chain =
        one(r#"Config(chains: [Chain(user: "bin", tasks: [Task(name: "a", run: ["true"])])])"#);
    assert_eq!(chain.tasks[0].command, Command::Run(vec!["true".to_owned()]));
}

#[test]
fn all_forms_of_ron_are_understood() {
    let chain = one("#![enable(implicit_some)]\n/* a /* nested */ comment */ (chains: [(
        user: Some(1000), // an id
        r#nice: 0x5, umask: 0o27, env: {\"A\": r#\"raw \"text\"\"#,},
        output: Lines(\"/x\"), rlimits: {\"NOFILE\": 1_024, \"CORE\": (soft: 0, hard: Unlimited), \"AS\": \"2GiB\", \"CPU\": \"infinity\"},
        tasks: [(name: \"a\\u{62}\", sh: \"x\\ty\")],
    )],)");
    assert_eq!((chain.user, chain.nice, chain.umask), (UserSpec::Id(1000), 5, 0o27));
    assert_eq!(chain.env["A"], "raw \"text\"");
    assert_eq!(chain.tasks[0].name, "ab");
    let limits: Vec<_> =
        chain.rlimits.iter().map(|(name, limit)| (name.as_str(), limit.soft, limit.hard)).collect();
    assert_eq!(
        limits,
        [
            ("AS", Some(2 << 30), Some(2 << 30)),
            ("CORE", Some(0), None),
            ("CPU", None, None),
            ("NOFILE", Some(1024), Some(1024)),
        ]
    );
}

#[test]
fn smtp_has_the_port_of_its_protection() {
    for (security, port) in [("", 587), ("security: Tls", 465), ("security: None", 25)] {
        let config = parsed(&format!(
            r#"(mail: (from: "a@b.example", to: ["c@d.example"], transport: Smtp(host: "h", {security})),
                chains: [(user: "bin", tasks: [(name: "a", sh: "true")])])"#
        ));
        let mail = config.mail.unwrap();
        assert_eq!(mail.spool, Path::new("/var/lib/runner/spool"));
        assert_eq!(mail.user, UserSpec::Name("runner-mail".to_owned()));
        let Transport::Smtp { port: seen, security, .. } = mail.transport else { panic!() };
        assert_eq!(seen, port);
        assert_eq!(security == Security::None, port == 25);
    }
}

#[test]
fn a_normal_user_runs_as_itself_and_needs_a_place() {
    let text = r#"(chains: [
        (name: "a", tasks: [(name: "a", sh: "true")]),
        (name: "b", user: Current, tasks: [(name: "a", sh: "true")]),
        (name: "c", user: "ann", tasks: [(name: "a", sh: "true")]),
        (name: "d", user: 1000, tasks: [(name: "a", sh: "true")]),
        (name: "e", user: "root", tasks: [(name: "a", sh: "true")]),
    ])"#;
    let loaded = config::parse(Path::new("runner.ron"), text, &ann());
    insta::assert_snapshot!(told(&loaded));
}

#[test]
fn a_fault_in_defaults_is_told_once() {
    let text = r#"(defaults: (user: "bin", nice: 50), chains: [
        (name: "a", tasks: [(name: "a", sh: "true")]),
        (name: "b", tasks: [(name: "a", sh: "true")]),
    ])"#;
    let loaded = config::parse(Path::new("runner.ron"), text, &Defaults::of_root());
    assert_eq!(loaded.problems.len(), 1);
}

#[test]
fn show_says_where_each_value_comes_from() {
    let text = r#"(
    defaults: (user: "bin", fail_cooldown: "1m", env: {"A": "1"}),
    chains: [
        (
            nice: 5,
            tasks: [(name: "a", run: ["echo", "x"], timeout: "10s")],
        ),
    ],
)"#;
    let loaded = config::parse(Path::new("runner.ron"), text, &Defaults::of_root());
    let shown =
        config::show(loaded.checked.as_ref().unwrap(), &loaded.sources, "a", &|_| None).unwrap();
    insta::assert_snapshot!(shown);
    // What is shown is itself a chain that means the same.
    let again = one(&format!("(chains: [{shown}])"));
    let mut chain = loaded.checked.unwrap().config.chains.remove(0);
    chain.tasks[0].said = again.tasks[0].said.clone();
    assert_eq!(again, chain);
}

#[test]
fn a_very_long_line_is_shown_around_its_fault() {
    let filler = "x".repeat(1 << 20);
    let text = format!("(run_root: \"/{filler}\", nise: 5, state_root: \"/{filler}\")");
    let loaded = config::parse(Path::new("runner.ron"), &text, &Defaults::of_root());
    let told = told(&loaded);
    assert!(told.contains("has no field `nise`") && told.len() < 2000, "{}", told.len());
    assert!(told.contains("runner.ron:1:1048593"), "{told}");
}

#[test]
fn ten_thousand_chains_are_read_in_good_time() {
    let chains: String = (0..10_000)
        .map(|n| format!("(name: \"c{n}\", nice: 5, tasks: [(name: \"a\", run: [\"true\"]), (name: \"b\", sh: \"true\")]),\n"))
        .collect();
    let text = format!("(defaults: (user: \"bin\", env: {{\"A\": \"1\"}}), chains: [\n{chains}])");
    let begun = std::time::Instant::now();
    let config = parsed(&text);
    assert_eq!(config.chains.len(), 10_000);
    // A second in release; a debug build on a busy machine is slow, but nothing here is quadratic.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
