//! Configurations as files: the shipped examples are accepted, broken ones are told in full.

use std::path::{Path, PathBuf};

use runner::config::{self, Defaults, Loaded};

fn root() -> Defaults {
    Defaults {
        as_root: true,
        uid: 0,
        user: Some("root".to_owned()),
        run_root: Some(PathBuf::from("/run/runner")),
        state_root: Some(PathBuf::from("/var/lib/runner")),
    }
}

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
    for who in [root(), somebody()] {
        let config = accepted(file("conf/demo.ron", &who));
        let names: Vec<_> = config.chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["divide_by_zero", "fetch_index", "heals"]);
    }
}

#[test]
fn the_example_of_a_site_is_accepted() {
    let config = accepted(file("conf/prod.ron", &root()));
    let nice: Vec<_> = config.chains.iter().map(|c| (c.name.as_str(), c.nice)).collect();
    assert_eq!(
        nice,
        [("gsm_sync_update_index", 5), ("gsm_sync_live", 5), ("send_mail_retry_deferred", 15)]
    );
}
