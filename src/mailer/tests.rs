//! Stories of the spool and of what becomes of a mail. Nothing is forked here: what a delivery
//! brings is said by the test.

use std::path::Path;
use std::time::Duration;

use super::desk::{Desk, Next};
use super::ledger::Clock;
use super::spool::{Entry, Place, Spool, list};
use super::transport::{Outcome, Way};
use super::turn::work;
use crate::config::model::{Limit, Mail, Transport, UserSpec};
use crate::sys::socket::{packet_pair, send_packet};
use crate::wire::mail::{Envelope, MailOrder, MailReply, NoticeKind};
use crate::wire::time::WallTime;

fn mail(spool: &Path, mails: u32) -> Mail {
    Mail {
        from: "runner@example.org".to_owned(),
        to: vec!["ops@example.org".to_owned()],
        transport: Transport::Maildir(spool.join("unused")),
        spool: spool.to_owned(),
        user: UserSpec::Current,
        subject_prefix: String::new(),
        limit: Limit { mails, per: Duration::from_secs(3600) },
    }
}

fn notice(id: &str) -> Envelope {
    Envelope {
        id: id.to_owned(),
        thread: None,
        kind: NoticeKind::New,
        to: vec!["ops@example.org".to_owned()],
        subject: format!("subject of {id}"),
        body: format!("body of {id}\n"),
        chain: Some("chain".to_owned()),
        task: Some("task".to_owned()),
        at: WallTime(1_000_000),
    }
}

fn desk<'a>(mail: &'a Mail, clock: &Clock) -> Desk<'a> {
    Desk::new(mail, Spool::open(&mail.spool), clock)
}

fn keep(desk: &mut Desk<'_>, envelope: Envelope, clock: &Clock) {
    let id = envelope.id.clone();
    assert_eq!(desk.keep(envelope, clock), Some(MailReply::Spooled { id }));
}

fn sent() -> Outcome {
    Outcome::Sent { subject: "as sent".to_owned() }
}

/// Delivers what is due; returns the envelopes that a server saw.
fn deliver(
    desk: &mut Desk<'_>,
    clock: &Clock,
    outcome: impl Fn(&Envelope, &str) -> Outcome,
) -> Vec<Envelope> {
    let mut seen = Vec::new();
    assert!(desk.lock(clock), "another one delivers");
    desk.refresh(clock);
    while let Next::Deliver(job) = desk.next(clock) {
        seen.push(job.envelope.clone());
        desk.finish(&job, outcome(&job.envelope, &job.to), clock);
        desk.refresh(clock);
        assert!(seen.len() < 1000, "it never ends");
    }
    desk.unlock();
    seen
}

fn ids(envelopes: &[Envelope]) -> Vec<&str> {
    envelopes.iter().map(|envelope| envelope.id.as_str()).collect()
}

fn listed(dir: &Path) -> Vec<Entry> {
    list(dir, 1000).unwrap()
}

#[test]
fn what_a_master_that_is_gone_had_given_is_brought_into_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let mail = mail(dir.path(), 30);
    let (ours, theirs) = packet_pair().unwrap();
    for n in 0..100 {
        let order = MailOrder::Spool(notice(&format!("m{n}")));
        assert!(send_packet(&ours, &serde_json::to_vec(&order).unwrap()).unwrap());
    }
    drop(ours);
    let way = Way { mail: &mail, secret: Ok(None), host: "here" };
    // No delivery can be forked here: this process has threads.
    work(desk(&mail, &Clock::now()), &way, &theirs);
    assert_eq!(listed(dir.path()).len(), 100);
}

#[test]
fn a_confirmed_mail_is_delivered_by_a_later_mailer() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    keep(&mut desk(&mail, &clock), notice("a"), &clock);
    let mut later = desk(&mail, &clock.after(10));
    assert_eq!(ids(&deliver(&mut later, &clock.after(10), |_, _| sent())), ["a"]);
    assert_eq!(listed(dir.path()), []);
    assert_eq!(later.state(&clock.after(10), false).waiting, 0);
}

#[test]
fn a_server_that_is_down_is_asked_after_two_seconds_then_four_up_to_five_minutes() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, mut clock) = (mail(dir.path(), 30), Clock::now());
    let mut waits = Vec::new();
    keep(&mut desk(&mail, &clock), notice("a"), &clock);
    keep(&mut desk(&mail, &clock), notice("b"), &clock);
    for _ in 0..10 {
        // A new mailer each time: the tries are kept with the spool.
        let mut desk = desk(&mail, &clock);
        let tried = deliver(&mut desk, &clock, |_, _| Outcome::ServerLater("down".to_owned()));
        assert_eq!(tried.len(), 1, "one try speaks for all mails");
        let state = desk.state(&clock, false);
        assert_eq!((state.waiting, state.error.as_deref()), (2, Some("down")));
        let wait = state.next_try.unwrap() / 1000;
        waits.push(wait);
        clock = clock.after(wait);
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert_eq!(deliver(&mut desk(&mail, &clock), &clock, |_, _| sent()).len(), 2);
}

#[test]
fn flush_tries_at_once_whoever_delivers() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    let mut first = desk(&mail, &clock);
    keep(&mut first, notice("a"), &clock);
    deliver(&mut first, &clock, |_, _| Outcome::ServerLater("down".to_owned()));
    assert!(first.lock(&clock));
    assert!(matches!(first.next(&clock), Next::Wait(_)));
    first.unlock();
    desk(&mail, &clock).flush(&clock);
    assert_eq!(ids(&deliver(&mut first, &clock, |_, _| sent())), ["a"]);
}

#[test]
fn a_refused_recipient_lies_in_dead_and_the_other_one_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    let mut desk = desk(&mail, &clock);
    let two = vec!["gone@example.org".to_owned(), "ops@example.org".to_owned()];
    keep(&mut desk, Envelope { to: two, ..notice("a") }, &clock);
    let refuse = |_: &Envelope, to: &str| match to {
        "gone@example.org" => Outcome::Refused("550 no such user".to_owned()),
        _ => sent(),
    };
    assert_eq!(deliver(&mut desk, &clock, refuse).len(), 2);
    let entries = listed(dir.path());
    assert_eq!(entries.len(), 1);
    assert!(entries[0].place == Place::Dead && entries[0].to == "gone@example.org");
    assert_eq!(entries[0].error.as_deref(), Some("550 no such user"));
    let state = desk.state(&clock, false);
    assert_eq!((state.waiting, state.dead, state.next_try), (0, 1, None));
}

#[test]
fn a_recipient_that_is_put_off_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    let mut desk = desk(&mail, &clock);
    keep(&mut desk, notice("busy"), &clock);
    keep(&mut desk, notice("other"), &clock);
    let busy = |envelope: &Envelope, _: &str| match envelope.id.as_str() {
        "busy" => Outcome::MailLater("450 greylisted".to_owned()),
        _ => sent(),
    };
    assert_eq!(deliver(&mut desk, &clock, busy).len(), 2);
    let entries = listed(dir.path());
    assert_eq!((entries[0].id.as_str(), entries[0].tries), ("busy", 1));
    assert_eq!(ids(&deliver(&mut desk, &clock.after(3), |_, _| sent())), ["busy"]);
}

#[test]
fn what_is_over_the_limit_comes_as_one_digest_that_lists_every_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 3), Clock::now());
    let mut desk = desk(&mail, &clock);
    for n in 0..10 {
        keep(&mut desk, notice(&format!("n{n}")), &clock);
    }
    assert_eq!(deliver(&mut desk, &clock, |_, _| sent()).len(), 3);
    assert_eq!(desk.state(&clock, false).next_try, Some(3_600_000));
    let end = clock.after(3601);
    // The window's state is kept with the spool.
    let mut desk = self::desk(&mail, &end);
    let digests = deliver(&mut desk, &end, |_, _| Outcome::ServerLater("down".to_owned()));
    let again = deliver(&mut desk, &end.after(5), |_, _| sent());
    assert_eq!(digests, again, "a digest is stable over its tries");
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].subject.as_str(), again[0].kind),
        ("[runner] 7 notices", NoticeKind::Digest)
    );
    for n in 3..10 {
        assert!(again[0].body.contains(&format!("chain/task: subject of n{n}")), "{n}");
    }
    assert_eq!(listed(dir.path()), []);
}

#[test]
fn a_crash_between_a_digest_and_the_removal_of_its_parts_sends_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 1), Clock::now());
    let mut before = desk(&mail, &clock);
    for n in 0..4 {
        keep(&mut before, notice(&format!("n{n}")), &clock);
    }
    deliver(&mut before, &clock, |_, _| sent());
    let held = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".mail"))
        .collect();
    let copies: Vec<(String, Vec<u8>)> = names.iter().map(|n| (n.clone(), held(n))).collect();
    let end = clock.after(3601);
    let mut crashed = desk(&mail, &end);
    assert!(crashed.lock(&end));
    crashed.refresh(&end);
    assert!(matches!(crashed.next(&end), Next::Deliver(_)));
    drop(crashed);
    for (name, copy) in &copies {
        std::fs::write(dir.path().join(name), copy).unwrap();
    }
    let seen = deliver(&mut desk(&mail, &end), &end, |_, _| sent());
    assert_eq!(seen.len(), 1, "{:?}", ids(&seen));
    assert_eq!(seen[0].subject, "[runner] 3 notices");
}

#[test]
fn what_is_not_ours_is_skipped_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    keep(&mut desk(&mail, &clock), notice("good"), &clock);
    let good = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "mail"))
        .unwrap();
    let text = std::fs::read_to_string(&good).unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put("old.0000000000000000.mail", &text.replace("\"version\":1", "\"version\":0"));
    put("renamed.0000000000000000.mail", &text);
    put("garbage.mail", "{");
    put("README", "what is this?");
    std::fs::File::create(dir.path().join("huge.mail")).unwrap().set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.mail")).unwrap();
    std::fs::create_dir(dir.path().join("folder.mail")).unwrap();
    let mut desk = desk(&mail, &clock);
    assert_eq!(ids(&deliver(&mut desk, &clock, |_, _| sent())), ["good"]);
    let state = desk.state(&clock, false);
    assert_eq!(state.waiting, 0);
    let error = state.error.unwrap();
    assert!(error.contains("version 0") || error.contains("not a regular file"), "{error}");
    for name in ["old.0000000000000000.mail", "garbage.mail", "README", "huge.mail", "link.mail"] {
        assert!(dir.path().join(name).symlink_metadata().is_ok(), "{name} is gone");
    }
}

#[test]
fn a_full_spool_counts_what_it_cannot_keep() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 100), Clock::now());
    let mut desk = desk(&mail, &clock);
    desk.spool.as_mut().unwrap().most_mails = 5;
    for n in 0..12 {
        keep(&mut desk, notice(&format!("n{n}")), &clock);
    }
    let seen = deliver(&mut desk, &clock, |_, _| sent());
    assert_eq!(seen.len(), 6);
    let more = seen.iter().find(|envelope| envelope.subject == "[runner] 7 notices").unwrap();
    assert!(more.body.contains("NEW: 7") && more.body.contains("subject of n11"), "{}", more.body);
    assert_eq!(listed(dir.path()), []);
}

#[test]
fn without_a_spool_a_mail_is_confirmed_only_once_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(&dir.path().join("missing"), 30), Clock::now());
    let mut desk = Desk::new(&mail, Spool::open(&mail.spool), &clock);
    let two = vec!["one@example.org".to_owned(), "two@example.org".to_owned()];
    assert_eq!(desk.keep(Envelope { to: two, ..notice("a") }, &clock), None);
    assert_eq!(desk.keep(notice("b"), &clock), None);
    let mut replies = Vec::new();
    let mut tries = 0;
    while let Next::Deliver(job) = desk.next(&clock) {
        tries += 1;
        let outcome = if tries < 3 { sent() } else { Outcome::ServerLater("down".to_owned()) };
        replies.push(desk.finish(&job, outcome, &clock));
    }
    assert!(matches!(replies[0][..], [MailReply::Sent { .. }]));
    let [MailReply::Sent { .. }, MailReply::Spooled { id }] = &replies[1][..] else {
        panic!("{replies:?}")
    };
    assert_eq!(id, "a");
    let [MailReply::NotSpooled { id, error }] = &replies[2][..] else { panic!("{replies:?}") };
    assert!(id == "b" && error.contains("cannot open the spool") && error.contains("down"));
}

#[test]
fn one_of_two_mailers_delivers() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    let (mut one, mut other) = (desk(&mail, &clock), desk(&mail, &clock));
    assert!(one.lock(&clock));
    assert!(!other.lock(&clock) && other.is_locked_out());
    one.unlock();
    assert!(other.lock(&clock) && !other.is_locked_out());
}

#[test]
fn the_limit_holds_without_a_spool_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(&dir.path().join("missing"), 2), Clock::now());
    let mut desk = Desk::new(&mail, Spool::open(&mail.spool), &clock);
    for n in 0..4 {
        assert_eq!(desk.keep(notice(&format!("n{n}")), &clock), None);
    }
    let (mut sent_count, mut given_back) = (0, Vec::new());
    loop {
        match desk.next(&clock) {
            Next::Deliver(job) => {
                sent_count += 1;
                desk.finish(&job, sent(), &clock);
            }
            Next::GiveBack(MailReply::NotSpooled { id, .. }) => given_back.push(id),
            _ => break,
        }
    }
    assert_eq!((sent_count, given_back), (2, vec!["n2".to_owned(), "n3".to_owned()]));
}

#[test]
fn an_unusable_ledger_costs_no_mail() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    keep(&mut desk(&mail, &clock), notice("a"), &clock);
    std::fs::write(dir.path().join("ledger.json"), "[").unwrap();
    assert_eq!(deliver(&mut desk(&mail, &clock), &clock, |_, _| sent()).len(), 1);
}

#[test]
fn hostile_ids_never_leave_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, clock) = (mail(dir.path(), 30), Clock::now());
    let mut desk = desk(&mail, &clock);
    for id in ["../../x", "", ".hidden", "a/b", "a\0b", "..", &"x".repeat(300), "é"] {
        keep(&mut desk, notice(id), &clock);
    }
    assert_eq!(deliver(&mut desk, &clock, |_, _| sent()).len(), 8);
    assert!(!dir.path().parent().unwrap().join("x").exists());
}

fn of_thread(id: &str, kind: NoticeKind, to: &[&str]) -> Envelope {
    let to = to.iter().map(|to| (*to).to_owned()).collect();
    Envelope { thread: Some("o1".to_owned()), kind, to, ..notice(id) }
}

/// Delivers what is due; for each mail to whom it went, its id and what it answered to.
fn answers(
    desk: &mut Desk<'_>,
    clock: &Clock,
    outcome: impl Fn(&str) -> Outcome,
) -> Vec<(String, String, Option<String>)> {
    assert!(desk.lock(clock), "another one delivers");
    desk.refresh(clock);
    let mut seen = Vec::new();
    while let Next::Deliver(job) = desk.next(clock) {
        seen.push((job.to.clone(), job.envelope.id.clone(), job.answers_to.clone()));
        desk.finish(&job, outcome(&job.to), clock);
        desk.refresh(clock);
    }
    desk.unlock();
    seen
}

#[test]
fn a_thread_that_begins_in_a_digest_goes_on_as_answers_to_the_digest() {
    let dir = tempfile::tempdir().unwrap();
    let mail = mail(dir.path(), 2);
    let clock = Clock::now();
    let mut ops = desk(&mail, &clock);
    for id in ["a", "b", "c"] {
        keep(&mut ops, notice(id), &clock);
    }
    keep(&mut ops, of_thread("o1.thread", NoticeKind::First, &["ops@example.org"]), &clock);
    assert_eq!(answers(&mut ops, &clock, |_| sent()).len(), 2);
    let later = clock.after(3700);
    let digests = answers(&mut ops, &later, |_| sent());
    assert!(digests[0].1.starts_with("digest-"), "{digests:?}");
    assert_eq!(digests[0].2, None);
    // Another mailer, and another day.
    let after = clock.after(90_000);
    let mut ops = desk(&mail, &after);
    keep(&mut ops, of_thread("d", NoticeKind::Again, &["ops@example.org"]), &after);
    keep(&mut ops, of_thread("e", NoticeKind::Healed, &["ops@example.org"]), &after);
    let told = answers(&mut ops, &after, |_| sent());
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(_, _, before)| before.as_ref() == Some(&digests[0].1)), "{told:?}");
}

#[test]
fn each_recipient_has_a_thread_of_what_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let mail = mail(dir.path(), 30);
    let clock = Clock::now();
    let mut ops = desk(&mail, &clock);
    let both = ["a@example.org", "b@example.org"];
    let b_only_later = |to: &str| match to {
        "b@example.org" => Outcome::Refused("550 no".to_owned()),
        _ => sent(),
    };
    keep(&mut ops, of_thread("o1.thread", NoticeKind::First, &both), &clock);
    answers(&mut ops, &clock, b_only_later);
    keep(&mut ops, of_thread("d", NoticeKind::Reached, &both), &clock);
    let told = |to: &str, id: &str, before: Option<&str>| {
        (to.to_owned(), id.to_owned(), before.map(str::to_owned))
    };
    let mut seen = answers(&mut ops, &clock, |_| sent());
    seen.sort();
    assert_eq!(seen, [told(both[0], "d", Some("o1.thread")), told(both[1], "d", None)]);
    let ops = &mut desk(&mail, &clock);
    keep(ops, of_thread("e", NoticeKind::Healed, &both), &clock);
    let mut seen = answers(ops, &clock, |_| sent());
    seen.sort();
    assert_eq!(seen, [told(both[0], "e", Some("o1.thread")), told(both[1], "e", Some("d"))]);
    // A thread that is closed is not remembered for ever.
    let ledger = std::fs::read_to_string(dir.path().join("ledger.json")).unwrap();
    assert!(ledger.contains("\"threads\":[]"), "{ledger}");
}

#[test]
fn without_a_spool_a_mail_answers_to_the_first_of_its_thread() {
    let mail = mail(Path::new("/nowhere"), 30);
    let clock = Clock::now();
    let mut ops = Desk::new(&mail, Err("no room".to_owned()), &clock);
    assert_eq!(ops.keep(of_thread("d", NoticeKind::Again, &["a@example.org"]), &clock), None);
    let Next::Deliver(job) = ops.next(&clock) else { panic!("nothing to deliver") };
    assert_eq!(job.answers_to.as_deref(), Some("o1.thread"));
}

#[test]
fn threads_that_are_remembered_are_bounded_and_the_latest_used_stay() {
    let mut ledger = super::ledger::Ledger::default();
    ledger.note_heard("a", "kept", "first", false);
    for n in 0..2_000 {
        ledger.note_heard("a", &format!("t{n}"), "id", false);
        ledger.note_heard("a", "kept", "later", false);
    }
    assert_eq!(ledger.heard("a", "kept"), Some("first"));
    assert_eq!(ledger.heard("a", "t1999"), Some("id"));
    assert_eq!(ledger.heard("a", "t10"), None);
    assert_eq!(ledger.threads.len(), 1_000);
}
