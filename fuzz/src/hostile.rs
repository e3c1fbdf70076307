//! What a chain's process says, which runs as a user who may be hostile: packets as the master
//! takes them from its socket, one a line, applied to its state as the master applies them.

use runner::policy::options;
use runner::policy::supervisor::{Resume, Supervisor};
use runner::policy::{Deed, NoticeDesk};
use runner::wire::outcome::Outcome;
use runner::wire::report::{MAX_PACKET, Order, Report, decode, encode};
use runner::wire::time::{Timestamp, WallTime};

use super::configuration::sample;
use super::texts::{plain, shown};

/// The chain that speaks, and one that must not be heard of.
const SPEAKS: &str = "one";
const SILENT: &str = "two";

/// One line of the log, or one name, made of 1,000 bytes, each of them an escape at worst.
const MAX_SAFE: usize = 10_000;

/// Nothing that it says reaches another chain, makes the master's state large, lies after the
/// present, or leaves the master with work that is never done.
pub fn reports(bytes: &[u8]) {
    let begin = Timestamp(1_000_000_000);
    let mut supervisor = Supervisor::new();
    let generation = supervisor.begin_generation();
    supervisor.reconcile(&sample().chains, &[], generation, begin);
    for (pid, chain) in [(100, SPEAKS), (101, SILENT)] {
        supervisor.spawned(chain, pid, begin);
    }
    let mut desk = NoticeDesk::new("host", sample(), begin, WallTime(begin.0 as u64));
    // The same world, in which nobody says anything.
    let mut quiet = supervisor.clone();
    let mut now = begin;
    for packet in bytes.split(|byte| *byte == b'\n').take(200) {
        now = Timestamp(now.0 + 1_000);
        if let Ok(order) = decode::<Order>(packet) {
            assert_eq!(decode::<Order>(&encode(&order).unwrap()).unwrap(), order);
        }
        let Ok(report) = decode::<Report>(packet) else { continue };
        match encode(&report) {
            Ok(again) => assert_eq!(decode::<Report>(&again).unwrap(), report),
            Err(_) => assert!(packet.len() * 6 > MAX_PACKET, "{} bytes", packet.len()),
        }
        let (report, next) = report.parts();
        assert!(next.as_ref().is_none_or(Report::may_follow));
        for report in [Some(report), next].into_iter().flatten() {
            take(&mut supervisor, &mut desk, report.bounded(now), now);
        }
        let wall = WallTime(now.0 as u64);
        desk.handle_timeout(now, wall);
        assert!(desk.next_timeout().is_none_or(|due| due > now), "it never rests");
        supervisor.handle_timeout(now);
        quiet.handle_timeout(now);
        assert!(supervisor.next_timeout().is_none_or(|due| due > now), "it never rests");
        for deed in desk.take_deeds() {
            expect_own(deed);
        }
    }
    assert_eq!(supervisor.slot(SILENT), quiet.slot(SILENT));
    let saved = serde_json::to_vec(&desk.save(now, WallTime(now.0 as u64))).unwrap();
    assert!(saved.len() < 256 * 1024, "{} bytes", saved.len());
    let slots = serde_json::to_vec(&supervisor).unwrap();
    assert!(slots.len() < 64 * 1024, "{} bytes", slots.len());
    for chain in [SPEAKS, SILENT] {
        for row in desk.history(chain) {
            assert_eq!(row["chain"], chain, "{row}");
            assert_eq!(chain, SPEAKS, "somebody else's runs: {row}");
        }
        desk.explain(chain, now, WallTime(now.0 as u64)).iter().for_each(|line| shown(line));
    }
    assert!(!desk.chain_is_failing(SILENT));
}

/// As the master's inbox does it.
fn take(supervisor: &mut Supervisor, desk: &mut NoticeDesk, report: Report, now: Timestamp) {
    match report {
        Report::Ready => supervisor.ready(SPEAKS, now),
        Report::CannotStart { what } => {
            plain(&what);
            assert!(what.len() <= MAX_SAFE);
            supervisor.cannot_start(SPEAKS, &what);
            desk.chain_failed(SPEAKS, &what, now, WallTime(now.0 as u64));
        }
        Report::Started { run, task, at } => {
            assert!(at <= now && task.len() <= MAX_SAFE);
            supervisor.run_started(SPEAKS, &task, at);
            desk.run_started(SPEAKS, &task, run, at, now);
        }
        Report::Ended(end) => {
            assert!(end.started <= end.ended && end.ended <= now && end.count > 0);
            assert!(!(end.success && end.outcome == Outcome::Interrupted));
            plain(&end.task);
            supervisor.run_ended(SPEAKS, end.outcome != Outcome::Interrupted);
            desk.run_ended(SPEAKS, &end, now);
        }
        Report::Cooling { next, until, after_failure } => {
            plain(&next);
            let resume = Resume { next, until: Some(until), after_failure };
            supervisor.cooling(SPEAKS, resume, now);
        }
        Report::Leaving { next, until, after_failure, signal } => {
            plain(&next);
            supervisor.leaving(SPEAKS, Resume { next, until, after_failure }, signal);
        }
        Report::Options { tasks } => {
            let Some(mut applied) = sample().chains.first().cloned() else { return };
            for task in &mut applied.tasks {
                if let Some(own) = tasks.get(&task.name) {
                    *task = options::apply(task, own);
                }
            }
            desk.adjust(&applied);
        }
        Report::Lost { lines, cause, .. } => match cause {
            Some(cause) => {
                plain(&cause);
                desk.output_fails(SPEAKS, &cause, now, WallTime(now.0 as u64));
            }
            None => desk.output_works(SPEAKS, lines, now, WallTime(now.0 as u64)),
        },
        Report::Said { text: line, .. } | Report::Leftovers { task: line, .. } => {
            plain(&line);
            assert!(line.len() <= MAX_SAFE);
        }
    }
}

fn expect_own(deed: Deed) {
    match deed {
        Deed::Mail(mail) => {
            assert_eq!(mail.chain.as_deref(), Some(SPEAKS));
            assert_eq!(mail.to, ["b@example.org"]);
            assert!(runner::mailer::spool::safe_id(&mail.id) == mail.id, "{}", mail.id);
            let thread = mail.thread.expect("a thread");
            assert!(runner::mailer::spool::safe_id(&thread) == thread, "{thread}");
            shown(&mail.subject);
            assert!(mail.subject.len() <= 1_000, "{} bytes", mail.subject.len());
            assert!(mail.body.len() <= runner::policy::notices::MAX_BODY + 200);
            mail.body.split('\n').for_each(shown);
        }
        Deed::Log { chain, text, .. } => {
            assert_eq!(chain.as_deref(), Some(SPEAKS));
            shown(&text);
        }
    }
}
