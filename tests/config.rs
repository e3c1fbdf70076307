//! Configurations as files: the shipped examples are accepted, broken ones are told in full.

#![allow(clippy::unwrap_used)]
use std::path::{Path, PathBuf};

use runner::config::{self, Defaults, File, Loaded, Want};

fn somebody() -> Defaults {
    Defaults {
        as_root: false,
        uid: 1000,
        user: Some("ann".to_owned()),
        run_root: Some(PathBuf::from("/run/user/1000/runner")),
        state_root: Some(PathBuf::from("/home/ann/.local/state/runner")),
    }
}

fn file(path: &str, who: &Defaults) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    config::parse(&path, &text, who)
}

fn accepted(loaded: Loaded) -> config::model::Config {
    let told = config::render(&loaded.problems, &loaded.sources, false);
    assert_eq!(told, "");
    loaded.checked.unwrap().config
}

#[test]
fn the_demo_is_good_for_root_and_for_anybody() {
    for who in [Defaults::of_root(), somebody()] {
        let config = accepted(file("conf/demo.ron", &who));
        let names: Vec<_> = config.chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["divide_by_zero", "fetch_index", "heals"]);
    }
}

#[test]
fn the_example_of_a_site_is_accepted() {
    let config = accepted(file("conf/prod.ron", &Defaults::of_root()));
    let nice: Vec<_> = config.chains.iter().map(|c| (c.name.as_str(), c.nice)).collect();
    assert_eq!(
        nice,
        [("gsm_sync_update_index", 5), ("gsm_sync_live", 5), ("send_mail_retry_deferred", 15)]
    );
}

/// Every broken file with what is told of it, side by side in tests/data/broken.
#[test]
fn each_mistake_is_told_with_its_place_and_its_remedy() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/broken");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".ron").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 50, "only {} broken files", names.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("data/broken");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for name in names {
        let bytes = std::fs::read(folder.join(format!("{name}.ron"))).unwrap();
        let loaded =
            config::load(Path::new("runner.ron"), &Defaults::of_root(), &mut |want| match want {
                Want::Main(path) => Ok(vec![File {
                    name: path.to_owned(),
                    path: PathBuf::from("/etc/runner/runner.ron"),
                    bytes: bytes.clone(),
                }]),
                Want::Include(_) => Ok(Vec::new()),
            });
        assert!(loaded.checked.is_none(), "{name} is accepted");
        insta::assert_snapshot!(name, config::render(&loaded.problems, &loaded.sources, false));
    }
}
