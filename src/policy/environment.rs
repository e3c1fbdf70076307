//! The environment of a task: empty, then what a login would set, then what the configuration
//! says, then our own marks. Pure, so that runnerctl shows exactly what a chain gets.

use std::path::Path;

use crate::config::model::Chain;

/// One variable and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// For people: "passwd", "default", "path", "env_file", "env", "runner".
    pub origin: &'static str,
}

/// What the account says; see passwd(5).
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Login name.
    pub name: &'a str,
    /// User id.
    pub uid: u32,
    /// Home folder.
    pub home: &'a Path,
    /// Login shell.
    pub shell: &'a Path,
}

/// The chain's environment but for the marks of a single run (`RUNNER_TASK`, `RUNNER_RUN`).
/// `instance` names the master's run_root, so that two masters never take each other's processes
/// for their own.
pub fn environment(
    chain: &Chain,
    login: Login<'_>,
    env_file: &[(String, String)],
    instance: &str,
) -> Vec<Variable> {
    let mut variables: Vec<Variable> = Vec::new();
    let mut set = |name: &str, value: String, origin: &'static str| {
        if let Some(known) = variables.iter_mut().find(|known| known.name == name) {
            known.value = value;
            known.origin = origin;
        } else {
            variables.push(Variable { name: name.to_owned(), value, origin });
        }
    };
    let path = if login.uid == 0 {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    } else {
        "/usr/local/bin:/usr/bin:/bin"
    };
    set("PATH", path.to_owned(), "default");
    set("HOME", login.home.display().to_string(), "passwd");
    set("USER", login.name.to_owned(), "passwd");
    set("LOGNAME", login.name.to_owned(), "passwd");
    set("SHELL", login.shell.display().to_string(), "passwd");
    set("LANG", "C.UTF-8".to_owned(), "default");
    for (name, value) in env_file {
        set(name, value.clone(), "env_file");
    }
    for (name, value) in &chain.env {
        set(name, value.clone(), "env");
    }
    // These are of each run; nobody else says them.
    variables.retain(|known| !matches!(known.name.as_str(), "RUNNER_TASK" | "RUNNER_RUN"));
    let mut set = |name: &str, value: String| {
        variables.retain(|known| known.name != name);
        variables.push(Variable { name: name.to_owned(), value, origin: "runner" });
    };
    set("RUNNER_CHAIN", chain.name.clone());
    set("RUNNER_INSTANCE", instance.to_owned());
    if !chain.path.is_empty() {
        let ahead: Vec<String> = chain.path.iter().map(|dir| dir.display().to_string()).collect();
        if let Some(path) = variables.iter_mut().find(|known| known.name == "PATH") {
            path.value = format!("{}:{}", ahead.join(":"), path.value);
            path.origin = "path";
        }
    }
    variables
}

/// A short safe name for a run_root: letters and digits only (FNV-1a, 64 bits).
pub fn instance_of(run_root: &Path) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in run_root.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
