//! What `runner-master --check` prints, and its exit status.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn check(chains: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let text = format!(
        "(run_root: \"{at}/run\", state_root: \"{at}/state\", log: (user: Current),\n\
         chains: [{chains}])"
    );
    let file = dir.path().join("runner.ron");
    std::fs::write(&file, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_runner-master")).arg("--check").arg(file).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn all_problems_are_counted_once_whatever_kind_they_are_of() {
    let done = check(
        "(name: \"a\", user: Current, tasks: [(name: \"t\", run: [\"/no/such/program\"])]),\n\
         (name: \"b\", user: Current, cwd: \"/no/such/folder\",\n\
         tasks: [(name: \"t\", sh: \"true\", fail_cooldown: \"10ms\")])",
    );
    assert_eq!(done.status.code(), Some(78));
    let told = told(&done);
    let counts: Vec<&str> =
        told.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    let counts: Vec<&&str> = counts.iter().filter(|line| !line.contains('|')).collect();
    assert_eq!(counts, [&"2 errors, 1 warning"], "{told}");
    assert!(told.ends_with("\n2 errors, 1 warning\n"), "{told}");
}

#[test]
fn an_output_is_a_file_or_a_device_that_a_task_can_open() {
    for (output, fault) in [
        ("Lines(\"/dev/null\")", None),
        ("Raw(\"/dev/null\")", None),
        (
            "Lines(\"/dev/tty\")",
            Some("cannot write /dev/tty: it is a terminal, and a task has none"),
        ),
        ("Raw(\"/dev/tty\")", Some("it is a terminal")),
        ("Raw(\"/dev/stdout\")", Some("cannot write /dev/stdout: it is a link")),
        ("Lines(\"{dir}/pipe\")", Some("/pipe: it is neither a file nor a device")),
        ("Lines(\"{dir}/second\")", Some("/second: it has more than one name")),
        ("Lines(\"{dir}\")", Some("it is a folder")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        std::fs::write(at("first"), "").unwrap();
        std::fs::hard_link(at("first"), at("second")).unwrap();
        let output = output.replace("{dir}", &dir.path().display().to_string());
        let done = check(&format!(
            "(name: \"a\", user: Current, output: {output}, tasks: [(name: \"t\", sh: \"true\")])"
        ));
        let told = told(&done);
        match fault {
            None => assert_eq!(done.status.code(), Some(0), "{output}: {told}"),
            Some(fault) => {
                assert_eq!(done.status.code(), Some(78), "{output}: {told}");
                assert!(told.contains(fault), "{output}: {told}");
            }
        }
    }
}
