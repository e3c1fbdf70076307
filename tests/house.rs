//! The map of the house in src/lib.rs, held against the code.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Every file below a folder of src, with its code: comments are no imports.
fn code_of(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(!found.is_empty());
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.collect::<Vec<_>>().join("\n");
            (path, code)
        })
        .collect()
}

fn never(folder: &str, words: &[&str]) {
    for (path, code) in code_of(folder) {
        for word in words {
            assert!(!code.contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn imports_point_down_only() {
    let processes = ["crate::master", "crate::chain", "crate::logger", "crate::mailer"];
    let mut above: Vec<&str> = processes.to_vec();
    above.extend(["crate::checker", "crate::client", "crate::sys"]);
    for floor in ["config", "wire", "policy"] {
        never(floor, &above);
    }
    never("config", &["crate::policy"]);
    never("wire", &["crate::policy", "crate::config"]);
    above.retain(|word| *word != "crate::sys");
    above.extend(["crate::policy", "crate::config", "crate::wire"]);
    never("sys", &above);
    never("chain", &["crate::master", "crate::mailer", "crate::checker", "crate::client"]);
    never("mailer", &["crate::master", "crate::chain", "crate::checker", "crate::client"]);
    never("worker", &["crate::checker", "crate::client"]);
    never("worker", &processes);
    never("logger", &["crate::master", "crate::chain", "crate::mailer", "crate::client"]);
}

#[test]
fn system_calls_and_unsafe_live_on_the_ground_floor_alone() {
    for folder in [
        "master", "chain", "logger", "mailer", "checker", "client", "worker", "policy", "config",
        "wire",
    ] {
        never(
            folder,
            &[" nix::", "(nix::", "rustix::", "libc::", "unsafe {", "unsafe fn", "unsafe impl"],
        );
    }
}

#[test]
fn policy_reads_no_clock_and_opens_nothing() {
    never("policy", &["SystemTime::now", "Instant::now", "std::fs", "File::open", "std::net"]);
}

#[test]
fn a_file_is_one_responsibility() {
    for (path, code) in code_of("") {
        let lines = code.lines().take_while(|line| !line.contains("#[cfg(test)]")).count();
        let tests = path.file_name().is_some_and(|name| name == "tests.rs");
        assert!(tests || lines <= 500, "{} has {lines} lines before its tests", path.display());
    }
}

/// A row of SECURITY.md is worth what its test is: `file::name`, in backquotes.
#[test]
fn every_test_that_the_ledger_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && line.matches("::").count() > 0)
    {
        rows += 1;
        let names: Vec<&str> = row.split('`').filter(|word| word.contains("::")).collect();
        assert!(!names.is_empty(), "no test in the row {row}");
        for name in names {
            let (file, test) = name.split_once("::").unwrap();
            let code = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let keyword = if file.ends_with(".py") { "def" } else { "fn" };
            assert!(code.contains(&format!("{keyword} {test}(")), "{file} has no test {test}");
        }
    }
    assert!(rows >= 43, "only {rows} rows");
}
