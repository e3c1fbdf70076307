//! A chain's life on a virtual clock.

use super::*;
use crate::config::model::{Chain, Leftovers};

const KILL: Duration = Duration::from_secs(10);

fn parsed(chains: &str) -> Vec<Chain> {
    let text = format!(
        "(run_root: \"/run/x\", state_root: \"/var/x\", defaults: (user: Current), chains: [{chains}])"
    );
    let who = crate::config::Defaults::default();
    let loaded = crate::config::parse(std::path::Path::new("/x.ron"), &text, &who);
    loaded.checked.map(|checked| checked.config.chains).unwrap_or_default()
}

/// Chains of one task each: `"a=true"` runs `true`, `"a"` a command of its own.
fn chains(specs: &[&str]) -> Vec<Chain> {
    let chain = |spec: &&str| {
        let (name, command) = spec.split_once('=').unwrap_or((spec, spec));
        format!("(name: \"{name}\", tasks: [(name: \"t\", sh: \"{command}\")]),")
    };
    parsed(&specs.iter().map(chain).collect::<String>())
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1000)
}

fn reconcile(supervisor: &mut Supervisor, names: &[&str], now: Timestamp) {
    let generation = supervisor.begin_generation();
    supervisor.reconcile(&chains(names), &[], generation, now);
}

/// One chain, up with process 100.
fn up() -> Supervisor {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a"], at(0));
    supervisor.handle_timeout(at(0));
    assert_eq!(supervisor.take_actions(), [Action::Spawn { chain: "a".into() }]);
    supervisor.spawned("a", 100, at(0));
    supervisor.ready("a", at(0));
    supervisor
}

fn spawns(supervisor: &mut Supervisor) -> usize {
    let actions = supervisor.take_actions();
    actions.iter().filter(|action| matches!(action, Action::Spawn { .. })).count()
}

#[test]
fn a_dead_chain_is_started_again_only_when_nothing_of_it_is_left() {
    let mut supervisor = up();
    supervisor.exited("a", ExitReason::Signal(9), at(1));
    let actions = supervisor.take_actions();
    assert!(matches!(actions[0], Action::Failed { .. }));
    assert_eq!(actions[1], Action::EndStrays { chain: "a".into() });
    supervisor.handle_timeout(at(2));
    assert_eq!(spawns(&mut supervisor), 0);
    supervisor.cleared("a", at(2));
    supervisor.handle_timeout(at(2));
    assert_eq!(spawns(&mut supervisor), 1);
}

#[test]
fn deaths_without_a_completed_run_are_answered_with_waiting() {
    let mut supervisor = up();
    for (death, wait) in [(1, 0), (2, 1), (3, 2), (4, 4)] {
        let now = at(death * 100);
        supervisor.exited("a", ExitReason::Code(71), now);
        supervisor.cleared("a", now);
        assert_eq!(supervisor.next_timeout(), Some(now + Duration::from_secs(wait)));
        supervisor.handle_timeout(at(death * 100 + 90));
        supervisor.spawned("a", 100, at(death * 100 + 90));
    }
}

#[test]
fn an_upgrade_drains_a_chain_and_replaces_it_without_a_word_to_the_admins() {
    let mut supervisor = up();
    reconcile(&mut supervisor, &["a"], at(5));
    let signal = Action::Signal { chain: "a".into(), pid: 100, signal: SIGHUP };
    assert_eq!(supervisor.take_actions(), [signal]);
    assert_eq!(supervisor.slot("a").map(|slot| slot.generation), Some(1));
    let resume = Resume { next: "t".into(), until: Some(at(900)), after_failure: true };
    supervisor.leaving("a", resume, SIGHUP);
    supervisor.exited("a", ExitReason::Code(0), at(6));
    supervisor.cleared("a", at(6));
    assert_eq!(supervisor.take_actions(), [Action::EndStrays { chain: "a".into() }]);
    let slot = supervisor.slot("a").cloned();
    assert_eq!(slot.as_ref().map(|slot| slot.generation), Some(2));
    // The code may be mended: what remains of a fail cooldown is dropped.
    assert_eq!(slot.and_then(|slot| slot.resume).and_then(|resume| resume.until), None);
}

#[test]
fn a_chain_that_left_the_file_drains_and_is_forgotten() {
    let mut supervisor = up();
    reconcile(&mut supervisor, &["b"], at(5));
    supervisor.take_actions();
    supervisor.exited("a", ExitReason::Code(0), at(6));
    supervisor.cleared("a", at(6));
    assert!(supervisor.take_actions().contains(&Action::Forget { chain: "a".into() }));
    assert!(supervisor.slot("a").is_none() && supervisor.slot("b").is_some());
}

#[test]
fn a_deaf_chain_is_told_to_stop_and_killed_in_the_end() {
    let mut supervisor = up();
    supervisor.shut_down(false, at(0));
    supervisor.take_actions();
    supervisor.handle_timeout(at(60));
    let signal = Action::Signal { chain: "a".into(), pid: 100, signal: SIGTERM };
    assert_eq!(supervisor.take_actions(), [signal]);
    supervisor.handle_timeout(at(60) + KILL + MARGIN);
    assert_eq!(supervisor.take_actions(), [Action::Kill { chain: "a".into() }]);
}

/// What is started now, each with the process number that the test gives it.
fn spawn_all(supervisor: &mut Supervisor, first: i32, now: Timestamp) -> Vec<String> {
    supervisor.handle_timeout(now);
    let mut names = Vec::new();
    for action in supervisor.take_actions() {
        if let Action::Spawn { chain } = action {
            supervisor.spawned(&chain, first + i32::try_from(names.len()).unwrap_or(0), now);
            supervisor.ready(&chain, now);
            names.push(chain);
        }
    }
    names
}

fn ended(supervisor: &mut Supervisor, chain: &str, now: Timestamp) {
    supervisor.exited(chain, ExitReason::Code(0), now);
    supervisor.cleared(chain, now);
}

#[test]
fn a_new_chain_waits_for_the_old_process_with_its_command_even_if_that_chain_comes_back() {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a=x"], at(0));
    assert_eq!(spawn_all(&mut supervisor, 100, at(0)), ["a"]);
    reconcile(&mut supervisor, &["b=x"], at(1));
    assert_eq!(spawn_all(&mut supervisor, 200, at(1)), [""; 0]);
    assert_eq!(supervisor.slot("b").map(|slot| slot.after.clone()), Some(vec!["a".to_owned()]));
    reconcile(&mut supervisor, &["a=y", "b=x"], at(2));
    assert_eq!(spawn_all(&mut supervisor, 200, at(2)), [""; 0]);
    ended(&mut supervisor, "a", at(3));
    assert_eq!(spawn_all(&mut supervisor, 200, at(3)), ["a", "b"]);
}

#[test]
fn a_chain_renamed_while_it_waits_goes_on_waiting() {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a=x"], at(0));
    spawn_all(&mut supervisor, 100, at(0));
    reconcile(&mut supervisor, &["b=x"], at(1));
    reconcile(&mut supervisor, &["c=x"], at(2));
    assert_eq!(spawn_all(&mut supervisor, 200, at(2)), [""; 0]);
    assert!(supervisor.slot("b").is_none());
    // One that is new later still knows of the process that is left from long ago.
    reconcile(&mut supervisor, &["c=x", "d=x"], at(3));
    assert_eq!(spawn_all(&mut supervisor, 200, at(3)), [""; 0]);
    ended(&mut supervisor, "a", at(4));
    assert_eq!(spawn_all(&mut supervisor, 200, at(4)), ["c", "d"]);
}

#[test]
fn a_command_that_moves_to_a_new_chain_is_not_run_there_while_the_old_process_may_run_it() {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a=x", "e=z"], at(0));
    spawn_all(&mut supervisor, 100, at(0));
    reconcile(&mut supervisor, &["a=y", "b=x", "e=z", "f=z"], at(1));
    // f shares with one that keeps the command: both are wanted.
    assert_eq!(spawn_all(&mut supervisor, 200, at(1)), ["f"]);
    ended(&mut supervisor, "a", at(2));
    assert_eq!(spawn_all(&mut supervisor, 300, at(2)), ["a", "b"]);
}

#[test]
fn a_waiting_chain_whose_command_changes_waits_no_longer() {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a=x"], at(0));
    spawn_all(&mut supervisor, 100, at(0));
    reconcile(&mut supervisor, &["b=x"], at(1));
    reconcile(&mut supervisor, &["b=y"], at(2));
    assert_eq!(spawn_all(&mut supervisor, 200, at(2)), ["b"]);
}

#[test]
fn a_process_lives_and_ends_by_the_configuration_it_was_started_with() {
    let with = |kill: u32, more: &str| {
        parsed(&format!(
            "(name: \"a\", kill_timeout: \"{kill}s\", {more} tasks: [(name: \"t\", sh: \"x\")]),"
        ))
    };
    let mut supervisor = Supervisor::new();
    let old = with(100, "leftovers: Keep, stop_signal: \"INT\", upgrade_drain: \"7s\",");
    supervisor.reconcile(&old, &[], 1, at(0));
    spawn_all(&mut supervisor, 100, at(0));
    // An upgrade with other numbers, then one without the chain.
    supervisor.reconcile(&with(1, ""), &[], 2, at(10));
    supervisor.reconcile(&[], &[], 3, at(11));
    supervisor.take_actions();
    assert_eq!(supervisor.next_timeout(), Some(at(17)));
    supervisor.handle_timeout(at(17));
    assert_eq!(supervisor.next_timeout(), Some(at(117) + MARGIN));
    let terms = supervisor.slot("a").map(|slot| slot.terms.clone());
    let said = terms.map(|terms| (terms.stop_signal, terms.leftovers));
    assert_eq!(said, Some((2, Leftovers::Keep)));
}

#[test]
fn what_comes_up_after_the_last_patience_is_killed_at_once() {
    let mut supervisor = up();
    supervisor.shut_down(true, at(1));
    supervisor.kill_all(at(2));
    supervisor.exited("a", ExitReason::Signal(9), at(3));
    supervisor.take_actions();
    assert_eq!(supervisor.next_timeout(), Some(at(3)));
    supervisor.handle_timeout(at(3));
    assert_eq!(supervisor.take_actions(), [Action::Kill { chain: "a".into() }]);
    assert_eq!(supervisor.next_timeout(), Some(at(3) + KILL_ROUND));
}

#[test]
fn one_that_does_not_die_is_killed_again() {
    let mut supervisor = up();
    supervisor.kill_all(at(2));
    supervisor.take_actions();
    supervisor.handle_timeout(at(2) + MARGIN);
    assert_eq!(supervisor.take_actions(), [Action::Kill { chain: "a".into() }]);
}

#[test]
fn a_chain_that_never_becomes_ready_is_replaced_and_told() {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a"], at(0));
    supervisor.handle_timeout(at(0));
    supervisor.take_actions();
    supervisor.spawned("a", 100, at(0));
    let due = supervisor.next_timeout().expect("a start has a deadline");
    // An upgrade meanwhile lets no run finish, for there is none.
    reconcile(&mut supervisor, &["a"], at(1));
    assert_eq!(supervisor.next_timeout(), Some(due));
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a"], at(0));
    supervisor.handle_timeout(at(0));
    supervisor.spawned("a", 100, at(0));
    supervisor.take_actions();
    supervisor.handle_timeout(due);
    assert_eq!(supervisor.take_actions(), [Action::Kill { chain: "a".into() }]);
    supervisor.exited("a", ExitReason::Signal(9), due);
    let what = "cannot start: it was not ready in time".to_owned();
    assert_eq!(supervisor.take_actions()[0], Action::Failed { chain: "a".into(), what });
}

#[test]
fn a_stopped_chain_is_told_once() {
    let mut supervisor = up();
    supervisor.stopped("a");
    assert_eq!(supervisor.take_actions(), [Action::Kill { chain: "a".into() }]);
    supervisor.exited("a", ExitReason::Signal(9), at(1));
    let what = "its process was stopped by a signal".to_owned();
    let told = Action::Failed { chain: "a".into(), what };
    assert_eq!(supervisor.take_actions(), [told, Action::EndStrays { chain: "a".into() }]);
}

#[test]
fn a_chain_told_to_leave_again_and_again_is_not_forked_as_often() {
    let mut supervisor = up();
    for (round, wait) in [(1, 0), (2, 1), (3, 2), (4, 4)] {
        let now = at(round * 100);
        supervisor.leaving("a", Resume { next: "t".into(), until: None, after_failure: false }, 15);
        ended(&mut supervisor, "a", now);
        assert_eq!(supervisor.next_timeout(), Some(now + Duration::from_secs(wait)));
        let actions = supervisor.take_actions();
        assert!(!actions.iter().any(|action| matches!(action, Action::Failed { .. })));
        spawn_all(&mut supervisor, 100, now + Duration::from_secs(wait));
    }
}

#[test]
fn a_process_that_leaves_before_it_is_ready_because_it_was_told_to_has_not_failed() {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a"], at(0));
    supervisor.handle_timeout(at(0));
    supervisor.spawned("a", 100, at(0));
    supervisor.take_actions();
    supervisor.exited("a", ExitReason::Code(0), at(1));
    assert_eq!(supervisor.take_actions(), [Action::EndStrays { chain: "a".into() }]);
    assert!(supervisor.slot("a").is_some_and(|slot| !slot.was_ready));
}

#[test]
fn a_removed_chain_that_an_operator_stops_or_pauses_is_forgotten_all_the_same() {
    for stop in [true, false] {
        let mut supervisor = up();
        reconcile(&mut supervisor, &["b"], at(5));
        if stop {
            supervisor.stop_chain("a", true, at(6));
        } else {
            supervisor.pause_chain("a", at(6));
        }
        supervisor.take_actions();
        supervisor.exited("a", ExitReason::Code(0), at(7));
        supervisor.cleared("a", at(7));
        assert!(supervisor.take_actions().contains(&Action::Forget { chain: "a".into() }));
    }
}

#[test]
fn an_upgrade_while_the_last_process_is_cleared_away_ends_the_waiting_after_it() {
    let mut supervisor = up();
    for death in [1, 2, 3, 4, 5] {
        supervisor.exited("a", ExitReason::Code(71), at(death));
    }
    reconcile(&mut supervisor, &["a"], at(6));
    supervisor.cleared("a", at(7));
    assert_eq!(spawn_all(&mut supervisor, 100, at(7)), ["a"]);
}

#[test]
fn what_cannot_be_killed_is_killed_more_and_more_seldom() {
    let mut supervisor = up();
    supervisor.exited("a", ExitReason::Signal(9), at(0));
    let mut rounds = 0;
    while let Some(due) = supervisor.next_timeout().filter(|due| *due < at(3600)) {
        supervisor.handle_timeout(due);
        rounds += 1;
    }
    assert!((250..400).contains(&rounds), "{rounds}");
}
