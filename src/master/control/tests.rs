//! The server against clients of every kind, in one thread: readiness is polled, time is told.

use std::io::{BufRead, BufReader};

use super::*;
use crate::wire::control::Request;

const FIRST: u64 = 1 << 32;
const NOBODY: Doors = Doors { gid: None, everybody: false };

struct Bench {
    root: tempfile::TempDir,
    epoll: Epoll,
    server: ControlServer,
    now: Timestamp,
    /// What wakes the set when nothing else is ready, so that a turn never blocks.
    _waker: (UnixStream, UnixStream),
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let epoll = Epoll::new().unwrap();
        let waker = UnixStream::pair().unwrap();
        (&waker.1).write_all(b"!").unwrap();
        epoll.add(&waker.0, 0, Interest::Read).unwrap();
        let uid = fs::metadata(root.path()).unwrap().uid();
        let server = ControlServer::open(root.path(), NOBODY, uid, &epoll, FIRST).unwrap();
        Bench { root, epoll, server, now: Timestamp(1_000), _waker: waker }
    }

    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.root.path().join(SOCKET)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client
    }

    /// One turn of the loop: what was asked, and how many events were the server's.
    fn turn(&mut self) -> (Vec<Asked>, usize) {
        let mut asked = Vec::new();
        let tokens = self.epoll.wait().unwrap();
        let mine: Vec<u64> = tokens.into_iter().filter(|t| self.server.owns(*t)).collect();
        for token in &mine {
            asked.extend(self.server.ready(&self.epoll, *token, self.now));
        }
        (asked, mine.len())
    }

    /// Turns until nothing of the server's is ready.
    fn settle(&mut self) -> Vec<Asked> {
        let mut asked = Vec::new();
        for _ in 0..1_000 {
            let (more, events) = self.turn();
            asked.extend(more);
            if events == 0 {
                return asked;
            }
        }
        panic!("the server spins");
    }

    fn done(&mut self, id: ConnId, text: &str, last: bool) {
        self.server.answer(&self.epoll, id, &Answer::Done(text.to_owned()), last, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.server.handle_timeout(&self.epoll, self.now);
    }
}

fn read_all(client: UnixStream) -> Vec<String> {
    BufReader::new(client).lines().map(|line| line.unwrap()).collect()
}

fn ask(mut client: &UnixStream, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
}

#[test]
fn a_request_comes_with_its_sender_and_gets_its_answer() {
    let mut bench = Bench::new();
    let client = bench.client();
    ask(&client, b"{\"verb\":\"sta");
    assert!(bench.settle().is_empty());
    ask(&client, b"tus\"}\n");
    let asked = bench.settle();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].request, Request::Status { chains: vec![] });
    assert_eq!(u32::try_from(asked[0].peer.pid).unwrap(), std::process::id());
    bench.done(asked[0].id, "first", false);
    bench.settle();
    bench.done(asked[0].id, "second", true);
    assert_eq!(read_all(client), [r#"{"done":"first"}"#, r#"{"done":"second"}"#]);
    assert_eq!(bench.server.next_timeout(), None);
}

#[test]
fn a_client_that_never_finishes_is_ended_after_its_time_and_delays_nobody() {
    let mut bench = Bench::new();
    let silent = bench.client();
    let half = bench.client();
    ask(&half, b"{\"verb\":");
    bench.settle();
    let good = bench.client();
    ask(&good, b"{\"verb\":\"notices\"}");
    good.shutdown(std::net::Shutdown::Write).unwrap();
    let asked = bench.settle();
    assert_eq!(asked.len(), 1);
    bench.done(asked[0].id, "", true);
    assert_eq!(read_all(good).len(), 1);
    assert_eq!(bench.server.next_timeout(), Some(bench.now + PATIENCE));
    bench.pass(PATIENCE);
    assert!(read_all(silent).is_empty());
    assert!(read_all(half).is_empty());
    assert_eq!(bench.server.next_timeout(), None);
}

#[test]
fn a_client_that_never_reads_is_ended_after_its_time() {
    let mut bench = Bench::new();
    let deaf = bench.client();
    ask(&deaf, b"{\"verb\":\"status\"}\n");
    let asked = bench.settle();
    bench.done(asked[0].id, &"x".repeat(8 << 20), true);
    bench.settle();
    assert!(bench.server.next_timeout().is_some());
    bench.pass(PATIENCE);
    assert_eq!(bench.server.next_timeout(), None);
}

#[test]
fn a_client_that_leaves_while_the_master_works_costs_no_turn() {
    let mut bench = Bench::new();
    let client = bench.client();
    ask(&client, b"{\"verb\":\"mail-test\"}\n");
    let asked = bench.settle();
    drop(client);
    assert!(bench.settle().is_empty());
    bench.done(asked[0].id, "sent", true);
    assert_eq!(bench.server.next_timeout(), None);
}

#[test]
fn a_large_answer_reaches_a_slow_reader_whole() {
    let mut bench = Bench::new();
    let client = bench.client();
    ask(&client, b"{\"verb\":\"status\"}\n");
    let asked = bench.settle();
    let text = "x".repeat(4 << 20);
    bench.done(asked[0].id, &text, true);
    client.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    for _ in 0..1_000_000 {
        bench.turn();
        match io::Read::read(&mut &client, &mut chunk) {
            Ok(0) => break,
            Ok(length) => got.extend_from_slice(&chunk[..length]),
            Err(cause) => assert_eq!(cause.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(got.len(), text.len() + "{\"done\":\"\"}\n".len());
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let mut bench = Bench::new();
    for bad in [
        &b"\n"[..],
        b"{}\n",
        b"{\"verb\":\"stop\"}\n",
        b"{\"verb\":\"fly\"}\n",
        b"{\"verb\":\"status\",\"extra\":1}\n",
        b"\xff\xfe\x00\n",
        &[b'['; MAX + 10],
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    ] {
        let client = bench.client();
        ask(&client, bad);
        assert!(bench.settle().is_empty());
        let answer = read_all(client);
        assert_eq!(answer.len(), 1, "{bad:?}");
        assert!(answer[0].contains("cannot read the request"), "{answer:?}");
    }
}

const MAX: usize = crate::wire::control::MAX_REQUEST;

#[test]
fn connections_are_bounded_and_the_next_one_is_told() {
    let mut bench = Bench::new();
    let held: Vec<UnixStream> = (0..MAX_CONNECTIONS).map(|_| bench.client()).collect();
    bench.settle();
    let late = bench.client();
    bench.settle();
    assert!(read_all(late)[0].contains("too many connections"));
    bench.pass(PATIENCE);
    drop(held);
    let again = bench.client();
    ask(&again, b"{\"verb\":\"status\"}\n");
    assert_eq!(bench.settle().len(), 1);
}

#[test]
fn the_socket_is_ours_to_replace_and_only_ours_to_remove() {
    let mut bench = Bench::new();
    let path = bench.root.path().join(SOCKET);
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let own_uid = bench.server.own_uid;
    let other =
        ControlServer::open(bench.root.path(), NOBODY, own_uid, &bench.epoll, 2 * FIRST).unwrap();
    assert_eq!(mode(), 0o600);
    let fresh = Bench::new();
    std::mem::replace(&mut bench.server, fresh.server).close(&bench.epoll);
    assert!(path.exists(), "the successor's socket was removed");
    other.close(&bench.epoll);
    assert!(!path.exists());
    assert_eq!(fs::read_dir(bench.root.path()).unwrap().count(), 0);
}

#[test]
fn the_next_image_answers_who_connected_before_it() {
    let mut bench = Bench::new();
    let path = bench.root.path().join(SOCKET);
    let early = bench.client();
    ask(&early, b"{\"verb\":\"status\"}\n");
    let handed = |server: &ControlServer| {
        let (listener, identity) = server.hand_over();
        (listener.try_clone().unwrap(), identity)
    };
    let next = handed(&bench.server);
    bench.epoll.remove(&bench.server.listener);
    let uid = bench.server.own_uid;
    let doors = Doors { gid: None, everybody: true };
    bench.server =
        ControlServer::take_over(next, bench.root.path(), doors, uid, &bench.epoll, FIRST).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let id = bench.settle()[0].id;
    bench.done(id, "hello", true);
    assert_eq!(read_all(early), [r#"{"done":"hello"}"#]);
    // Not where somebody else listens meanwhile.
    let next = handed(&bench.server);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    let epoll = Epoll::new().unwrap();
    assert!(ControlServer::take_over(next, bench.root.path(), NOBODY, uid, &epoll, FIRST).is_err());
}

#[test]
fn a_path_that_no_socket_can_have_is_told() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("x".repeat(120));
    fs::create_dir(&deep).unwrap();
    let error = ControlServer::open(&deep, NOBODY, 0, &Epoll::new().unwrap(), FIRST).unwrap_err();
    assert!(error.to_string().starts_with("cannot bind "), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(bytes: Vec<u8>) {
        let _ = Request::decode(&bytes);
    }
}
