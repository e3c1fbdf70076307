//! A chain's life on a virtual clock.

use super::*;
use crate::config::model::Chain;

const KILL: Duration = Duration::from_secs(10);

fn chains(names: &[&str]) -> Vec<Chain> {
    let text: String = names
        .iter()
        .map(|name| format!("(name: \"{name}\", tasks: [(name: \"t\", sh: \"true\")]),"))
        .collect();
    let text = format!(
        "(run_root: \"/run/x\", state_root: \"/var/x\", defaults: (user: Current), chains: [{text}])"
    );
    let who = crate::config::Defaults::default();
    let loaded = crate::config::parse(std::path::Path::new("/x.ron"), &text, &who);
    loaded.checked.map(|checked| checked.config.chains).unwrap_or_default()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1000)
}

fn reconcile(supervisor: &mut Supervisor, names: &[&str], now: Timestamp) {
    let generation = supervisor.begin_generation();
    let none = BTreeMap::new();
    supervisor.reconcile(&chains(names), &none, &BTreeMap::new(), &[], generation, now);
}

/// One chain, up with process 100.
fn up() -> Supervisor {
    let mut supervisor = Supervisor::new();
    reconcile(&mut supervisor, &["a"], at(0));
    supervisor.handle_timeout(&|_| KILL, at(0));
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
    supervisor.exited("a", ExitReason::Signal(9), KILL, at(1));
    let actions = supervisor.take_actions();
    assert!(matches!(actions[0], Action::Failed { .. }));
    assert_eq!(actions[1], Action::EndStrays { chain: "a".into() });
    supervisor.handle_timeout(&|_| KILL, at(2));
    assert_eq!(spawns(&mut supervisor), 0);
    supervisor.cleared("a", at(2));
    supervisor.handle_timeout(&|_| KILL, at(2));
    assert_eq!(spawns(&mut supervisor), 1);
}

#[test]
fn deaths_without_a_completed_run_are_answered_with_waiting() {
    let mut supervisor = up();
    for (death, wait) in [(1, 0), (2, 1), (3, 2), (4, 4)] {
        let now = at(death * 100);
        supervisor.exited("a", ExitReason::Code(71), KILL, now);
        supervisor.cleared("a", now);
        assert_eq!(supervisor.next_timeout(), Some(now + Duration::from_secs(wait)));
        supervisor.handle_timeout(&|_| KILL, at(death * 100 + 90));
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
    supervisor.exited("a", ExitReason::Code(0), KILL, at(6));
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
    supervisor.exited("a", ExitReason::Code(0), KILL, at(6));
    supervisor.cleared("a", at(6));
    assert!(supervisor.take_actions().contains(&Action::Forget { chain: "a".into() }));
    assert!(supervisor.slot("a").is_none() && supervisor.slot("b").is_some());
}

#[test]
fn a_deaf_chain_is_told_to_stop_and_killed_in_the_end() {
    let mut supervisor = up();
    supervisor.shut_down(&|_| (Some(Duration::from_secs(60)), KILL), at(0));
    supervisor.take_actions();
    supervisor.handle_timeout(&|_| KILL, at(60));
    let signal = Action::Signal { chain: "a".into(), pid: 100, signal: SIGTERM };
    assert_eq!(supervisor.take_actions(), [signal]);
    supervisor.handle_timeout(&|_| KILL, at(60) + KILL + MARGIN);
    assert_eq!(supervisor.take_actions(), [Action::Kill { chain: "a".into() }]);
}
