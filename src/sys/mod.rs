//! The ground floor: the only place for system calls and for `unsafe`. It knows nothing of the
//! rest of the house.
#![allow(unsafe_code)]

pub mod account;
pub mod append;
pub mod cgroup;
pub mod clock;
pub mod folder;
pub mod fork;
pub mod fs;
mod launcher;
pub mod limits;
pub mod lockers;
pub mod locks;
pub mod memfd;
pub mod oom;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod priorities;
pub mod privileges;
pub mod probe;
pub mod proc;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod terminal;
pub mod tree;
pub mod wait;
pub mod watch;

/// A system error for people: "No such file or directory", without the number that Rust adds.
pub fn error_text(cause: &std::io::Error) -> String {
    let text = cause.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
pub mod exec;
pub mod stdio;

/// This machine's name (gethostname(2)).
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
