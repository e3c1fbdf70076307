//! What survives the master: an upgrade, a restart, a reboot, a damaged file.

use super::*;

#[test]
fn everything_survives_a_restart_and_a_reboot() {
    for same_boot in [true, false] {
        let mut desk = Desk::plain();
        desk.fail(0, "x");
        desk.fail(12 * HOUR, "x");
        let (now, wall) = (Timestamp(13 * HOUR * 1000), Desk::wall(13 * HOUR * 1000));
        let text = serde_json::to_string(&desk.desk.save(now, wall)).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        // Down for an hour; the clock of another boot begins anew.
        let back = if same_boot { Timestamp(14 * HOUR * 1000) } else { Timestamp(5000) };
        let zero = back.0 - 14 * HOUR * 1000;
        let wall = Desk::wall(14 * HOUR * 1000);
        let mut other = NoticeDesk::restore(saved, "web1", &desk.config, back, wall, same_boot);
        let mut told = Vec::new();
        other.take_decisions();
        for hour in [14, 23, 26] {
            let at = zero + hour * HOUR * 1000;
            let mut end = desk.end_of(at, at, "exit 1", "x");
            end.wall = Desk::wall(hour * HOUR * 1000);
            other.run_ended("c", &end, Timestamp(at));
            told.extend(other.take_decisions().iter().map(|decision| (hour, decision.kind.word())));
        }
        assert_eq!(told, [(14, "FIRST"), (26, "AGAIN")], "same boot: {same_boot}");
        let threads: Vec<_> = other
            .take_deeds()
            .into_iter()
            .filter_map(|deed| match deed {
                Deed::Mail(mail) => Some(mail.thread),
                Deed::Log { .. } => None,
            })
            .collect();
        assert!(threads.iter().all(|thread| *thread == desk.mails[0].thread));
        assert_eq!(other.task_status("c", "job").unwrap().failed, 5);
    }
}

#[test]
fn a_damaged_part_of_what_was_saved_costs_only_itself() {
    let config = config(&(chain("c", "") + &chain("d", "")));
    let mut desk = Desk::new(config.clone());
    desk.fail(0, "x");
    desk.desk.pause("d", "why", Timestamp(0), Desk::wall(0));
    let saved = desk.desk.save(Timestamp(1000), Desk::wall(1000));
    let mut value = serde_json::to_value(saved).unwrap();
    value["from the future"] = 1.into();
    value["upgrades"] = "what?".into();
    value["chains"]["d"]["tasks"] = 7.into();
    value["chains"]["d"]["whole"] = serde_json::json!({"outage": []});
    let saved = serde_json::from_value(value).unwrap();
    let desk = NoticeDesk::restore(saved, "h", &config, Timestamp(2000), Desk::wall(2000), true);
    assert!(desk.chain_is_failing("c"));
    assert_eq!(desk.paused("d").map(|(_, why)| why), Some("why"));
    for text in ["{}", "{\"chains\": 3}", "{\"chains\": {\"c\": []}}", "{\"at\": \"x\"}"] {
        let saved = serde_json::from_str(text).unwrap();
        let desk = NoticeDesk::restore(saved, "h", &config, Timestamp(0), Desk::wall(0), false);
        assert!(!desk.chain_is_failing("c"));
    }
}

#[test]
fn a_chain_and_a_task_that_keep_their_names_keep_their_state() {
    let mut desk = Desk::plain();
    desk.fail(0, "x");
    let more = "(name: \"c\", tasks: [(name: \"other\", run: [\"/bin/o\"]), (name: \"job\", run: [\"/bin/j\"])]),";
    desk.config = config(&(chain("b", "") + more));
    desk.deploy(60);
    assert!(desk.desk.chain_is_failing("c"));
    desk.ok(1200);
    assert_eq!(desk.told(), [(0, "FIRST"), (1200, "HEALED")]);
    let history = desk.desk.history("c");
    assert_eq!(history.len(), 3);
    assert_eq!(history[1]["upgrade"], true);
    desk.config = config(&chain("b", ""));
    desk.deploy(1300);
    assert!(desk.desk.task_status("c", "job").is_none());
}

#[test]
fn the_clock_of_overdue_runs_goes_on_over_a_reboot() {
    let mut desk = Desk::new(config(&chain("c", "overdue: \"1h\", remind_every: \"12h\",")));
    desk.start(0);
    desk.pass(2 * HOUR * 1000);
    assert_eq!(desk.mails.len(), 1);
    let wall = |hour: i64| Desk::wall(hour * HOUR * 1000);
    let saved = desk.desk.save(Timestamp(2 * HOUR * 1000), wall(2));
    let saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    // The other boot's clock shows five seconds when it is two o'clock.
    let zero = 5000 - 2 * HOUR * 1000;
    let mut other = NoticeDesk::restore(saved, "h", &desk.config, Timestamp(5000), wall(2), false);
    other.run_started("c", "job", 1, Timestamp(5000), Timestamp(5000));
    assert_eq!(other.next_timeout(), Some(Timestamp(zero + 13 * HOUR * 1000)));
}
