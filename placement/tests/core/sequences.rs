//! The exchanges that official sidecars rely on.
//! Source: Dapr 1.18, observed on the wire; where ours differs on purpose, the test states it.

use std::time::Duration;

use placement::rounds::event::Outcome;
use placement::rounds::message::Step::{Lock, Unlock, Update};
use rstest::rstest;

use crate::fixture::{Dialect, Fixture, TIMEOUT, table};

const NO_HOLD_OFF: Duration = Duration::ZERO;

#[rstest]
#[case(Dialect::Explicit)]
#[case(Dialect::Bare)]
fn the_first_host_gets_a_round_step_by_step(#[case] dialect: Dialect) {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join_as("A", "ns", &["a"], dialect);
    assert_eq!(fixture.orders("A"), "lock1");
    fixture.ack("A", Lock);
    assert_eq!(fixture.orders("A"), "update1{a:A}");
    fixture.ack("A", Update);
    assert_eq!(fixture.orders("A"), "unlock1");
    fixture.ack("A", Unlock);
    assert_eq!(fixture.orders("A"), "");
    assert_eq!(table(&fixture.core, "ns"), Some((1, vec!["A".to_owned()])));
    assert_eq!(fixture.core.deadline(), None, "nothing is pending");
}

#[rstest]
fn each_step_waits_for_all_members(
    #[values(Dialect::Explicit, Dialect::Bare)] first: Dialect,
    #[values(Dialect::Explicit, Dialect::Bare)] second: Dialect,
) {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join_as("A", "ns", &["a"], first);
    fixture.settle();
    fixture.orders("A");
    fixture.join_as("B", "ns", &["b"], second);
    for (step, want) in [(Lock, "lock2"), (Update, "update2{a:A b:B}"), (Unlock, "unlock2")] {
        assert_eq!((fixture.orders("A").as_str(), fixture.orders("B").as_str()), (want, want));
        fixture.ack("A", step);
        fixture.ack("A", step);
        assert_eq!(fixture.orders("A"), "", "B has not acknowledged {step}");
        fixture.ack("B", step);
    }
    assert_eq!(fixture.orders("A"), "");
}

#[test]
fn joins_during_a_round_share_the_next_one() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    for name in ["B", "C", "D"] {
        fixture.join(name, &["b"]);
    }
    for step in [Lock, Update] {
        fixture.orders("A");
        fixture.ack("A", step);
        assert_eq!(fixture.orders("B"), "");
    }
    fixture.orders("A");
    fixture.ack("A", Unlock);
    for name in ["A", "B", "C", "D"] {
        assert_eq!(fixture.orders(name), "lock2", "{name}");
        fixture.ack(name, Lock);
    }
    fixture.settle();
    assert_eq!(fixture.outcomes, [Outcome::Complete, Outcome::Complete]);
}

#[test]
fn a_host_without_types_gets_the_table_and_affects_no_other() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("N", &[]);
    assert_eq!(fixture.orders("N"), "lock0 update0{} unlock0");
    fixture.join("A", &["a"]);
    fixture.join("O", &[]);
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock1 update1{a:A} unlock1");
    assert_eq!(fixture.orders("N"), "lock1 update1{a:A} unlock1", "a full participant");
    assert_eq!(fixture.orders("O"), "lock1 update1{a:A} unlock1", "after the round");
    fixture.leave("O");
    assert_eq!(fixture.orders("A"), "");
    assert_eq!(table(&fixture.core, "ns").unwrap().0, 1, "the version is unchanged");
}

#[test]
fn a_close_in_mid_round_lets_the_round_go_on_at_once() {
    for (types, then) in [(&["b"][..], "unlock2 lock3 update3{a:A} unlock3"), (&[], "unlock1")] {
        let mut fixture = Fixture::new(NO_HOLD_OFF);
        if types.is_empty() {
            // The reference does not handle this case and waits for its timeout.
            fixture.join("B", types);
            fixture.join("A", &["a"]);
        } else {
            fixture.join("A", &["a"]);
            fixture.settle();
            fixture.join("B", types);
        }
        for (step, other) in [(Lock, true), (Update, false)] {
            fixture.orders("A");
            fixture.orders("B");
            fixture.ack("A", step);
            if other {
                fixture.ack("B", step);
            }
        }
        assert_eq!(fixture.orders("A"), "");
        fixture.leave("B");
        fixture.settle();
        assert_eq!(fixture.orders("A"), then);
        assert!(fixture.timed_out.is_empty());
    }
}

#[rstest]
#[case(0, "lock3 update3{a:A} unlock3")]
#[case(1, "update2{a:A b:B} lock3 update3{a:A} unlock3")]
#[case(2, "update2{a:A b:B} unlock2 lock3 update3{a:A} unlock3")]
fn a_sidecar_without_acknowledgement_is_removed_alone(#[case] acked: usize, #[case] want: &str) {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.join("B", &["b"]);
    fixture.orders("A");
    assert_eq!(fixture.orders("B"), "lock2");
    for step in [Lock, Update].into_iter().take(acked) {
        fixture.ack("A", step);
        fixture.ack("B", step);
        fixture.read("A");
        fixture.read("B");
    }
    fixture.ack("A", [Lock, Update, Unlock][acked]);
    fixture.pass(TIMEOUT.saturating_sub(Duration::from_millis(1)));
    assert!(fixture.timed_out.is_empty());
    fixture.pass(Duration::from_millis(1));
    assert_eq!(fixture.timed_out, [("B".to_owned(), 2)]);
    fixture.settle();
    assert_eq!(fixture.orders("A"), want);
    assert_eq!(fixture.outcomes[1..], [Outcome::TimedOut, Outcome::Complete]);
}

#[test]
fn sidecars_that_wait_for_a_round_stay_when_it_times_out() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    for name in ["B", "C", "D", "E"] {
        fixture.join(name, &["a"]);
    }
    fixture.pass(TIMEOUT);
    assert_eq!(fixture.timed_out, [("A".to_owned(), 1)]);
    for name in ["B", "C", "D", "E"] {
        assert_eq!(fixture.orders(name), "lock2");
    }
}

#[test]
fn a_rolling_update_ends_with_the_new_hosts() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    for i in 0..5 {
        fixture.join(&format!("old{i}"), &["a"]);
    }
    fixture.settle();
    for i in 0..5 {
        fixture.leave(&format!("old{i}"));
        fixture.join(&format!("new{i}"), &["a"]);
    }
    fixture.settle();
    let want: Vec<String> = (0..5).map(|i| format!("new{i}")).collect();
    assert_eq!(table(&fixture.core, "ns").unwrap().1, want);
    assert!(fixture.timed_out.is_empty());
}

#[test]
fn a_leave_and_a_join_in_one_round_share_the_next() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    for name in ["A", "B"] {
        fixture.join(name, &["a"]);
        fixture.settle();
    }
    fixture.report("A", &["a", "b"]);
    fixture.leave("B");
    fixture.join("C", &["a"]);
    fixture.settle();
    // The reference needs a fifth round: deletions first, additions later.
    assert_eq!(table(&fixture.core, "ns"), Some((4, vec!["A".to_owned(), "C".to_owned()])));
}

#[test]
fn a_report_with_other_types_supersedes_the_round() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.orders("A");
    fixture.ack("A", Lock);
    assert_eq!(fixture.orders("A"), "update1{a:A}");
    fixture.report("A", &["a", "b"]);
    fixture.ack_version("A", Update, Some(1)); // late, ignored
    assert_eq!(fixture.orders("A"), "lock2");
    fixture.settle();
    fixture.ack("A", Lock);
    fixture.settle();
    assert_eq!(fixture.orders("A"), "update2{a:A b:A} unlock2");
    assert_eq!(fixture.outcomes, [Outcome::Superseded, Outcome::Complete]);
    fixture.report("A", &["a", "b"]);
    assert_eq!(fixture.orders("A"), "", "the same types are no change");
    fixture.report("A", &[]);
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock3 update3{} unlock3");
}

/// Found by the simulation: a report that waited for the end of its round and of the hold-off
/// replaced a newer one.
#[test]
fn a_newer_report_replaces_one_that_was_kept() {
    let mut fixture = Fixture::new(Duration::from_millis(500));
    fixture.join("A", &["t"]);
    for types in [&["t", "u"][..], &["t", "v"], &["t", "w"], &["kept"]] {
        fixture.report("A", types);
    }
    fixture.settle();
    fixture.report("A", &["new"]);
    fixture.pass(Duration::from_millis(500));
    fixture.settle();
    assert!(fixture.orders("A").ends_with("lock5 update5{new:A} unlock5"));
}

#[test]
fn a_storm_of_reports_cannot_hold_a_round_open() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["t0"]);
    for i in 1..=10 {
        let types: Vec<String> = (0..=i).map(|t| format!("t{t}")).collect();
        fixture.report("A", &types.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(fixture.orders("A"), "lock4", "three rounds were superseded, the rest waits");
    fixture.ack("A", Lock);
    fixture.settle();
    let orders = fixture.orders("A");
    assert!(orders.contains("unlock4 lock5"), "{orders}");
    assert!(orders.contains("update5{t0:A t1:A t10:A t2:A"), "{orders}");
    assert!(orders.ends_with("unlock5"), "{orders}");
}

#[rstest]
#[case::out_of_phase(Update, Some(1))]
#[case::out_of_phase_2(Unlock, Some(1))]
#[case::future(Lock, Some(2))]
fn acknowledgements_that_do_not_fit_are_ignored(
    #[case] step: placement::rounds::message::Step,
    #[case] version: Option<u64>,
) {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.orders("A");
    fixture.ack_version("A", step, version);
    assert_eq!(fixture.orders("A"), "");
    fixture.ack_version("A", Lock, None); // without a version it counts for the pending step
    assert_eq!(fixture.orders("A"), "update1{a:A}");
}

#[test]
fn acknowledgements_while_idle_are_ignored() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.orders("A");
    for step in [Lock, Update, Unlock] {
        fixture.ack("A", step);
        assert_eq!(fixture.orders("A"), "", "{step}");
    }
    assert_eq!(fixture.core.deadline(), None);
}

#[test]
fn the_last_member_leaving_during_a_round_frees_waiting_streams() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.join("B", &["b"]);
    assert_eq!(fixture.orders("B"), "");
    fixture.leave("A");
    fixture.settle();
    assert_eq!(fixture.orders("B"), "lock2 update2{b:B} unlock2");
}

#[test]
fn a_waiting_stream_that_dies_leaves_no_trace_and_its_newest_report_counts() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.join("B", &["b"]);
    fixture.join("C", &["c"]);
    fixture.report("C", &["c", "d"]);
    fixture.leave("B");
    fixture.settle();
    assert_eq!(fixture.orders("C"), "lock2 update2{a:A c:C d:C} unlock2");
}

#[test]
fn a_reconnect_before_the_old_stream_is_noticed_keeps_the_host() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.orders("A");
    fixture.rename("A", "dead A");
    fixture.join("A", &["a", "b"]);
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock2 update2{a:A b:A} unlock2");
    fixture.leave("dead A");
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock3 update3{a:A b:A} unlock3");
}

#[test]
fn after_a_change_of_leader_the_first_round_waits_for_reconnects() {
    let mut fixture = Fixture::taken_over(NO_HOLD_OFF, 1);
    for name in ["A", "B", "C"] {
        fixture.join(name, &["a"]);
        fixture.pass(Duration::from_millis(60));
        assert_eq!(fixture.orders(name), "");
    }
    fixture.pass(Duration::from_millis(40));
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock4294967297 update4294967297{a:A,B,C} unlock4294967297");
    // Does not apply to later namespaces.
    fixture.pass(Duration::from_secs(10));
    fixture.join_as("D", "other", &["a"], Dialect::Explicit);
    assert_eq!(fixture.orders("D"), "lock4294967297");
}

#[test]
fn sidecars_before_1_17_are_not_waited_for() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join_as("L", "ns", &["l"], Dialect::Legacy);
    assert_eq!(
        fixture.orders("L"),
        "lock1 update1{l:L} unlock1",
        "an order that is written counts"
    );
    fixture.join("A", &["a"]);
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock2 update2{a:A l:L} unlock2");
    assert_eq!(fixture.orders("L"), "lock2 update2{a:A l:L} unlock2");
    fixture.report("L", &["l"]); // once per second
    assert_eq!(fixture.orders("L"), "");
    fixture.join_as("M", "ns", &[], Dialect::Legacy);
    assert_eq!(fixture.orders("M"), "lock2 update2{a:A l:L} unlock2");
    fixture.report("M", &[]);
    assert_eq!(fixture.orders("M"), "", "the reference pushes the table again every second");
}

#[test]
fn a_superseded_round_is_paired_for_sidecars_before_1_17() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.join_as("L", "ns", &["l"], Dialect::Legacy);
    assert_eq!(fixture.orders("L"), "lock2");
    fixture.report("A", &["b"]);
    assert_eq!(fixture.orders("L"), "unlock2 lock3");
    fixture.orders("A");
    fixture.ack("A", Lock);
    fixture.settle();
    assert_eq!(fixture.orders("L"), "update3{b:A l:L} unlock3");
}

#[test]
fn namespaces_do_not_see_each_other() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join_as("A", "one", &["a"], Dialect::Explicit); // never acknowledges
    fixture.join_as("B", "two", &["a"], Dialect::Explicit);
    fixture.read("B");
    for step in [Lock, Update, Unlock] {
        fixture.ack("B", step);
        fixture.read("B");
    }
    assert_eq!(fixture.orders("B"), "lock1 update1{a:B} unlock1");
    fixture.pass(TIMEOUT);
    assert_eq!(fixture.timed_out, [("A".to_owned(), 1)]);
    assert_eq!(fixture.orders("B"), "");
    assert_eq!(table(&fixture.core, "one"), None, "a namespace without streams is gone");
}

#[test]
fn a_namespace_that_reappears_uses_higher_versions() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.leave("A");
    assert_eq!(table(&fixture.core, "ns"), None);
    fixture.join("B", &["a"]);
    assert_eq!(fixture.orders("B"), "lock3", "version 2 would be the empty table");
}
