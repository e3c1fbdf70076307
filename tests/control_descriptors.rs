//! When no descriptor is left for a new connection, the control server rests instead of spinning,
//! and serves the client afterwards. In a process of its own, whose limit is low.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use runner::master::control::{ControlServer, Doors};
use runner::sys::poll::{Epoll, Interest};
use runner::wire::time::Timestamp;

#[test]
fn a_lack_of_descriptors_makes_the_listener_rest() {
    let test = std::env::current_dir().unwrap().join(std::env::args_os().next().unwrap());
    let output = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 40; exec \"$0\" --exact --nocapture inside"])
        .arg(test)
        .env("RUNNER_TEST_INSIDE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn inside() {
    if std::env::var_os("RUNNER_TEST_INSIDE").is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut epoll = Epoll::new().unwrap();
    // Always ready, so that a turn never blocks.
    let (here, there) = UnixStream::pair().unwrap();
    drop(there);
    epoll.add(&here, 0, Interest::Read).unwrap();
    let doors = Doors { gid: None, everybody: false };
    let mut server = ControlServer::open(root.path(), doors, 0, &epoll, 1).unwrap();
    let mut now = Timestamp(0);

    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(hoard.len() < 40, "the limit is not low");
    hoard.pop();
    let client = UnixStream::connect(root.path().join("control.sock")).unwrap();

    let tokens = epoll.wait().unwrap();
    assert!(tokens.contains(&1), "the listener is ready");
    assert!(server.ready(&epoll, 1, now).is_empty());
    assert_eq!(server.next_timeout(), Some(now + Duration::from_secs(1)));
    for _ in 0..10 {
        assert_eq!(epoll.wait().unwrap(), [0], "the resting listener costs no turn");
    }

    // Still none left: another rest. Then there are some.
    now = now + Duration::from_secs(1);
    server.handle_timeout(&epoll, now);
    assert!(epoll.wait().unwrap().contains(&1));
    server.ready(&epoll, 1, now);
    assert_eq!(server.next_timeout(), Some(now + Duration::from_secs(1)));
    hoard.clear();
    now = now + Duration::from_secs(1);
    server.handle_timeout(&epoll, now);
    assert!(epoll.wait().unwrap().contains(&1));
    server.ready(&epoll, 1, now);
    std::io::Write::write_all(&mut &client, b"{\"verb\":\"notices\"}\n").unwrap();
    let tokens = epoll.wait().unwrap();
    let asked: Vec<_> =
        tokens.into_iter().filter(|t| *t > 1).flat_map(|t| server.ready(&epoll, t, now)).collect();
    assert_eq!(asked.len(), 1);
}
