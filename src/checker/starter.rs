//! Who starts the runner, and what follows from that where the file says nothing.

use std::path::PathBuf;

use crate::config::Defaults;
use crate::sys::{account, privileges};

/// What depends on the calling process: its account and the XDG folders of its environment.
pub fn starter() -> Defaults {
    if privileges::is_root() {
        return Defaults { user: account::user_name(0), ..Defaults::of_root() };
    }
    let me = account::Account::current().ok();
    let uid = me.as_ref().map_or(u32::MAX, |me| me.uid);
    let folder = |variable: &str| {
        std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let state = folder("XDG_STATE_HOME").or_else(|| {
        let home = folder("HOME").or_else(|| me.as_ref().map(|me| me.home.clone()));
        home.map(|home| home.join(".local/state"))
    });
    Defaults {
        as_root: false,
        uid,
        user: me.map(|me| me.name),
        run_root: folder("XDG_RUNTIME_DIR").map(|folder| folder.join("runner")),
        state_root: state.map(|folder| folder.join("runner")),
    }
}
