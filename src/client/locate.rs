//! Where the master's socket is: `--run-root`, or `run_root` of the configuration. Only that one
//! field is read: a file whose other parts are wrong must not keep an operator from the master
//! that still runs. Where the file is broken, that field is looked for before the fault, and the master
//! at the place that it names, or at the usual one, is asked whether it runs this file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::talk::{Failure, Master};
use crate::config::top_text;

/// The largest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Where a master that root starts lives.
const SYSTEM_RUN_ROOT: &str = "/run/runner";

/// The exit status for a configuration that says nothing usable (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

#[derive(Deserialize)]
struct JustRunRoot {
    #[serde(default)]
    run_root: Option<PathBuf>,
}

/// The run_root of the configuration `config`.
///
/// # Errors
/// When the file cannot be read, or is not RON and says nothing of its master.
pub fn run_root(config: &Path) -> Result<PathBuf, Failure> {
    let remedy = "give the master's run_root with --run-root";
    let failed = |cause: &dyn std::fmt::Display| {
        let error = format!("cannot read {}: {cause}; {remedy}", config.display());
        Failure::Other(error, EXIT_CONFIG)
    };
    let file = File::open(config).map_err(|cause| failed(&cause))?;
    let owner = file.metadata().map_err(|cause| failed(&cause))?.uid();
    let mut text = String::new();
    file.take(MAX_CONFIG).read_to_string(&mut text).map_err(|cause| failed(&cause))?;
    // A relative one starts at the folder of the file itself, not of a link to it.
    let real = std::fs::canonicalize(config).map_err(|cause| failed(&cause))?;
    let in_folder = |run_root| real.parent().unwrap_or(Path::new("/")).join(run_root);
    // A configuration of root's is for the system's master, whoever asks.
    let usual = || match owner {
        0 => Some(PathBuf::from(SYSTEM_RUN_ROOT)),
        _ => std::env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("runner")),
    };
    match said(&text) {
        Ok(Some(run_root)) => Ok(in_folder(run_root)),
        Ok(None) => {
            usual().ok_or_else(|| failed(&"it names no run_root and XDG_RUNTIME_DIR is not set"))
        }
        Err(broken) => top_text(&text, "run_root")
            .map_or_else(usual, |run_root| Some(in_folder(run_root.into())))
            .filter(|place| runs(place, &real))
            .ok_or_else(|| failed(&broken)),
    }
}

/// Whether the master there says that `config` is its file.
fn runs(run_root: &Path, config: &Path) -> bool {
    let status = Master::at(run_root).status(&[]);
    status.is_ok_and(|status| {
        std::fs::canonicalize(status.master.config).is_ok_and(|of_it| of_it == config)
    })
}

fn said(text: &str) -> Result<Option<PathBuf>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options =
        ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    options.from_str::<JustRunRoot>(text).map(|found| found.run_root).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_is_found_among_anything() {
        let text = r#"
            // a comment
            (
                run_root: "/run/elsewhere", kill_concurrent: true, nonsense: [1, "a", (b: None)],
                mail: (from: "a@b.c", transport: Smtp(host: "h", port: 25, security: None)),
                log: (level: Info, to: File("/x")),
                defaults: (user: Current, nice: -5),
                chains: [(env: {"A": "b"}, output: Lines("/x"), tasks: [(run: ["true"])])],
            )"#;
        assert_eq!(said(text).unwrap(), Some(PathBuf::from("/run/elsewhere")));
        assert_eq!(said("(chains: [])").unwrap(), None);
        assert!(said("(run_root: ").is_err());
    }

    #[test]
    fn it_is_found_before_what_is_broken() {
        let text = "Config( // \")\n log: (level: Info) run_root: r\"/run/x\", chains: [(";
        assert!(said(text).is_err());
        assert_eq!(top_text(text, "run_root").as_deref(), Some("/run/x"));
        for lost in ["", "(", "run_root: \"/a\"", "(chains: [(run_root: \"/a\"", "(run_root: 3, x"]
        {
            assert_eq!(top_text(lost, "run_root"), None, "{lost}");
        }
    }

    #[test]
    fn a_relative_run_root_starts_at_the_real_files_folder() {
        let folder = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(folder.path()).unwrap();
        std::fs::create_dir(real.join("conf")).unwrap();
        std::fs::write(real.join("conf/a.ron"), "(run_root: \"../run\")").unwrap();
        std::os::unix::fs::symlink("conf/a.ron", real.join("link.ron")).unwrap();
        assert_eq!(run_root(&real.join("link.ron")).unwrap(), real.join("conf/../run"));
    }
}
