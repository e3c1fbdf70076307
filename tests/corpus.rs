//! What the fuzzer found, without the fuzzer: every property of `fuzz/src` holds for every file of
//! the committed corpus and for everything that once broke one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

#[allow(dead_code, unreachable_pub)]
#[path = "../fuzz/src/lib.rs"]
mod properties;

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_property_holds_for_the_corpus_and_for_what_once_broke_it() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, property) in properties::TARGETS {
        let corpus = files(&fuzz.join("corpus").join(target));
        assert!(!corpus.is_empty(), "no corpus for {target}");
        for path in corpus.into_iter().chain(files(&fuzz.join("regressions").join(target))) {
            let bytes = std::fs::read(&path).unwrap();
            let held = std::panic::catch_unwind(|| property(&bytes));
            assert!(held.is_ok(), "{} breaks the property {target}", path.display());
        }
        // What needs no file.
        property(b"");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: 300, failure_persistence: None, ..Default::default()
    })]

    /// Any order of deaths, orders, upgrades, failed forks and things left behind.
    #[test]
    fn a_world_against_it_does_not_confuse_the_supervisor(
        steps in proptest::collection::vec(0_u8.., 0..400),
    ) {
        properties::check("supervisor", &steps);
    }
}

#[test]
fn every_folder_and_every_program_has_its_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let known = |name: &str| properties::TARGETS.iter().any(|(target, _)| *target == name);
    for folder in ["corpus", "regressions", "fuzz_targets"] {
        for path in files(&fuzz.join(folder)) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(known(&name), "{} belongs to no target", path.display());
        }
    }
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, _) in properties::TARGETS {
        let program = fuzz.join("fuzz_targets").join(format!("{target}.rs"));
        let text = std::fs::read_to_string(&program).unwrap();
        assert!(text.contains(&format!("check({target:?}, ")), "{}", program.display());
        assert!(manifest.contains(&format!("name = {target:?}\n")), "{target} is not built");
    }
}
