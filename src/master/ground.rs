//! The master's own ground: run_root with its private `lock/` folder, and state_root. What others
//! could write or read there is refused with the command that mends it.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::checker;
use crate::config::model::Config;
use crate::sys::{exec, fs, privileges};

/// Opened folders. Locks are taken in `locks`, which only the master's account enters: whoever can
/// read a file can lock it (fcntl(2)).
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) run_root: File,
    pub(super) locks: File,
    pub(super) state: File,
    /// Without links: two paths that mean one folder are one here.
    pub(super) run_root_path: PathBuf,
}

/// For people and scripts; no chain has this name.
const PIDFILE: &str = "master.pid";

impl Ground {
    /// Says which process is the master. Nothing of ours believes it: the lock decides.
    ///
    /// # Errors
    /// When run_root cannot be written.
    pub(super) fn write_pidfile(&self) -> std::io::Result<()> {
        let pid = format!("{}\n", std::process::id());
        fs::replace(&self.run_root, PIDFILE, pid.as_bytes(), 0o644, false)
    }

    /// At a clean end, while the lock is still held: a successor has not written its own.
    pub(super) fn remove_pidfile(&self) {
        let _ = fs::remove(&self.run_root, PIDFILE);
    }

    /// The folders that the image before this one had open.
    ///
    /// # Errors
    /// When one of the descriptors is not open.
    pub(super) fn adopt(descriptors: [i32; 3], run_root_path: PathBuf) -> std::io::Result<Ground> {
        let [run_root, locks, state] = descriptors;
        let adopt = |number| exec::adopt(number).map(File::from);
        let (run_root, locks, state) = (adopt(run_root)?, adopt(locks)?, adopt(state)?);
        Ok(Ground { run_root, locks, state, run_root_path })
    }

    /// Its descriptors, in the order of [`Ground::adopt`].
    pub(super) fn folders(&self) -> [&File; 3] {
        [&self.run_root, &self.locks, &self.state]
    }

    /// Makes what is missing and checks what is there, and the way to it: whoever can change that could
    /// have root make folders anywhere.
    ///
    /// # Errors
    /// For people, with the remedy.
    pub(super) fn prepare(config: &Config) -> Result<Ground, String> {
        checker::trust_the_way(&config.run_root)
            .map_err(|fault| format!("cannot use run_root: {fault}"))?;
        checker::trust_the_way(&config.state_root)
            .map_err(|fault| format!("cannot use state_root: {fault}"))?;
        let run_root = folder(&config.run_root, 0o755, 0o022, "run_root")?;
        let locks = folder(&config.run_root.join("lock"), 0o700, 0o077, "the lock folder")?;
        // Others may pass through it: the spool of the mail account lies in it by default.
        let state = folder(&config.state_root, 0o711, 0o022, "state_root")?;
        if fs::is_remote(&run_root).unwrap_or(false) {
            return Err(format!(
                "cannot use run_root {}: it lies on a network file system, where locks cannot be \
                 trusted; name a local folder",
                config.run_root.display()
            ));
        }
        let run_root_path = config.run_root.canonicalize().map_err(|cause| {
            format!("cannot find run_root {}: {cause}", config.run_root.display())
        })?;
        Ok(Ground { run_root, locks, state, run_root_path })
    }
}

fn folder(path: &Path, mode: u32, refused: u32, what: &str) -> Result<File, String> {
    let shown = path.display();
    fs::make_folder(path, mode).map_err(|cause| format!("cannot make {what} {shown}: {cause}"))?;
    let folder =
        fs::open_folder(path).map_err(|cause| format!("cannot open {what} {shown}: {cause}"))?;
    let owner =
        fs::owner_of(&folder).map_err(|cause| format!("cannot look at {what} {shown}: {cause}"))?;
    let me = privileges::my_uid();
    if owner.uid != me {
        return Err(format!(
            "cannot use {what} {shown}: it belongs to user {}, who could replace what is in it; \
             mend it with: chown {me} {shown}",
            owner.uid
        ));
    }
    if owner.mode & refused != 0 {
        return Err(format!(
            "cannot use {what} {shown}: others may enter or write it (mode {:o}); mend it with: \
             chmod {mode:o} {shown}",
            owner.mode
        ));
    }
    if let Err(cause) = fs::may_write(path) {
        let remedy = match cause.kind() {
            std::io::ErrorKind::PermissionDenied => format!("mend it with: chmod {mode:o} {shown}"),
            _ => "name a folder that can be written, or mount its file system so".to_owned(),
        };
        let cause = crate::sys::error_text(&cause);
        return Err(format!("cannot use {what} {shown}: it cannot be written ({cause}); {remedy}"));
    }
    Ok(folder)
}
