//! The exchanges that official sidecars rely on, one by one.
//! Source: Dapr 1.18, observed on the wire; where ours differs on purpose, the test says so.

use std::time::Duration;

use crate::bed::{Bed, Dialect, TIMEOUT, table};
use placement::rounds::membership::Outcome;
use placement::rounds::message::Host;
use placement::rounds::message::Step::{Lock, Unlock, Update};
use placement::rounds::table::{MAX_TABLE_BYTES, ORDER_OVERHEAD, charge};
use rstest::rstest;

const NO_HOLD_OFF: Duration = Duration::ZERO;

#[rstest]
#[case(Dialect::Explicit)]
#[case(Dialect::Bare)]
fn the_first_host_gets_a_round_step_by_step(#[case] dialect: Dialect) {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join_as("A", "ns", &["a"], dialect);
    assert_eq!(bed.orders("A"), "lock1");
    bed.ack("A", Lock);
    assert_eq!(bed.orders("A"), "update1{a:A}");
    bed.ack("A", Update);
    assert_eq!(bed.orders("A"), "unlock1");
    bed.ack("A", Unlock);
    assert_eq!(bed.orders("A"), "");
    assert_eq!(table(&bed.core, "ns"), Some((1, vec!["A".to_owned()])));
    assert_eq!(bed.core.deadline(), None, "nothing is pending");
}

#[rstest]
fn each_step_waits_for_everybody(
    #[values(Dialect::Explicit, Dialect::Bare)] first: Dialect,
    #[values(Dialect::Explicit, Dialect::Bare)] second: Dialect,
) {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join_as("A", "ns", &["a"], first);
    bed.settle();
    bed.orders("A");
    bed.join_as("B", "ns", &["b"], second);
    for (step, want) in [(Lock, "lock2"), (Update, "update2{a:A b:B}"), (Unlock, "unlock2")] {
        assert_eq!((bed.orders("A").as_str(), bed.orders("B").as_str()), (want, want));
        bed.ack("A", step);
        bed.ack("A", step);
        assert_eq!(bed.orders("A"), "", "B has not acknowledged {step}");
        bed.ack("B", step);
    }
    assert_eq!(bed.orders("A"), "");
}

#[test]
fn joins_during_a_round_share_the_next_one() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    for name in ["B", "C", "D"] {
        bed.join(name, &["b"]);
    }
    for step in [Lock, Update] {
        bed.orders("A");
        bed.ack("A", step);
        assert_eq!(bed.orders("B"), "");
    }
    bed.orders("A");
    bed.ack("A", Unlock);
    for name in ["A", "B", "C", "D"] {
        assert_eq!(bed.orders(name), "lock2", "{name}");
        bed.ack(name, Lock);
    }
    bed.settle();
    assert_eq!(bed.outcomes, [Outcome::Complete, Outcome::Complete]);
}

#[test]
fn a_host_without_types_gets_the_table_and_disturbs_nobody() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("N", &[]);
    assert_eq!(bed.orders("N"), "lock0 update0{} unlock0");
    bed.join("A", &["a"]);
    bed.join("O", &[]);
    bed.settle();
    assert_eq!(bed.orders("A"), "lock1 update1{a:A} unlock1");
    assert_eq!(bed.orders("N"), "lock1 update1{a:A} unlock1", "a full participant");
    assert_eq!(bed.orders("O"), "lock1 update1{a:A} unlock1", "after the round");
    bed.leave("O");
    assert_eq!(bed.orders("A"), "");
    assert_eq!(table(&bed.core, "ns").unwrap().0, 1, "the version is unchanged");
}

#[test]
fn a_close_in_mid_round_lets_the_round_go_on_at_once() {
    for (types, then) in [(&["b"][..], "unlock2 lock3 update3{a:A} unlock3"), (&[], "unlock1")] {
        let mut bed = Bed::new(NO_HOLD_OFF);
        if types.is_empty() {
            // The reference forgets this case and waits for its timeout.
            bed.join("B", types);
            bed.join("A", &["a"]);
        } else {
            bed.join("A", &["a"]);
            bed.settle();
            bed.join("B", types);
        }
        for (step, other) in [(Lock, true), (Update, false)] {
            bed.orders("A");
            bed.orders("B");
            bed.ack("A", step);
            if other {
                bed.ack("B", step);
            }
        }
        assert_eq!(bed.orders("A"), "");
        bed.leave("B");
        bed.settle();
        assert_eq!(bed.orders("A"), then);
        assert!(bed.timed_out.is_empty());
    }
}

#[rstest]
#[case(0, "lock3 update3{a:A} unlock3")]
#[case(1, "update2{a:A b:B} lock3 update3{a:A} unlock3")]
#[case(2, "update2{a:A b:B} unlock2 lock3 update3{a:A} unlock3")]
fn whoever_does_not_acknowledge_is_removed_alone(#[case] acked: usize, #[case] want: &str) {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.settle();
    bed.join("B", &["b"]);
    bed.orders("A");
    assert_eq!(bed.orders("B"), "lock2");
    for step in [Lock, Update].into_iter().take(acked) {
        bed.ack("A", step);
        bed.ack("B", step);
        bed.read("A");
        bed.read("B");
    }
    bed.ack("A", [Lock, Update, Unlock][acked]);
    bed.pass(TIMEOUT.saturating_sub(Duration::from_millis(1)));
    assert!(bed.timed_out.is_empty());
    bed.pass(Duration::from_millis(1));
    assert_eq!(bed.timed_out, [("B".to_owned(), 2)]);
    bed.settle();
    assert_eq!(bed.orders("A"), want);
    assert_eq!(bed.outcomes[1..], [Outcome::TimedOut, Outcome::Complete]);
}

#[test]
fn those_who_waited_for_a_round_are_not_punished_for_it() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    for name in ["B", "C", "D", "E"] {
        bed.join(name, &["a"]);
    }
    bed.pass(TIMEOUT);
    assert_eq!(bed.timed_out, [("A".to_owned(), 1)]);
    for name in ["B", "C", "D", "E"] {
        assert_eq!(bed.orders(name), "lock2");
    }
}

#[test]
fn a_rolling_update_ends_with_the_new_hosts() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    for i in 0..5 {
        bed.join(&format!("old{i}"), &["a"]);
    }
    bed.settle();
    for i in 0..5 {
        bed.leave(&format!("old{i}"));
        bed.join(&format!("new{i}"), &["a"]);
    }
    bed.settle();
    let want: Vec<String> = (0..5).map(|i| format!("new{i}")).collect();
    assert_eq!(table(&bed.core, "ns").unwrap().1, want);
    assert!(bed.timed_out.is_empty());
}

#[test]
fn a_leave_and_a_join_in_one_round_share_the_next() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    for name in ["A", "B"] {
        bed.join(name, &["a"]);
        bed.settle();
    }
    bed.report("A", &["a", "b"]);
    bed.leave("B");
    bed.join("C", &["a"]);
    bed.settle();
    // The reference needs a fifth round: deletions first, additions later.
    assert_eq!(table(&bed.core, "ns"), Some((4, vec!["A".to_owned(), "C".to_owned()])));
}

#[test]
fn a_report_with_other_types_supersedes_the_round() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.orders("A");
    bed.ack("A", Lock);
    assert_eq!(bed.orders("A"), "update1{a:A}");
    bed.report("A", &["a", "b"]);
    bed.ack_version("A", Update, Some(1)); // late, ignored
    assert_eq!(bed.orders("A"), "lock2");
    bed.settle();
    bed.ack("A", Lock);
    bed.settle();
    assert_eq!(bed.orders("A"), "update2{a:A b:A} unlock2");
    assert_eq!(bed.outcomes, [Outcome::Superseded, Outcome::Complete]);
    bed.report("A", &["a", "b"]);
    assert_eq!(bed.orders("A"), "", "the same types are no change");
    bed.report("A", &[]);
    bed.settle();
    assert_eq!(bed.orders("A"), "lock3 update3{} unlock3");
}

/// Found by the simulation: a report that was kept for the end of its round, and over it by the
/// hold-off, undid a newer one.
#[test]
fn a_newer_report_replaces_one_that_was_kept() {
    let mut bed = Bed::new(Duration::from_millis(500));
    bed.join("A", &["t"]);
    for types in [&["t", "u"][..], &["t", "v"], &["t", "w"], &["kept"]] {
        bed.report("A", types);
    }
    bed.settle();
    bed.report("A", &["new"]);
    bed.pass(Duration::from_millis(500));
    bed.settle();
    assert!(bed.orders("A").ends_with("lock5 update5{new:A} unlock5"));
}

#[test]
fn a_storm_of_reports_cannot_hold_a_round_open() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["t0"]);
    for i in 1..=10 {
        let types: Vec<String> = (0..=i).map(|t| format!("t{t}")).collect();
        bed.report("A", &types.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(bed.orders("A"), "lock4", "three rounds were superseded, the rest waits");
    bed.ack("A", Lock);
    bed.settle();
    let orders = bed.orders("A");
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
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.orders("A");
    bed.ack_version("A", step, version);
    assert_eq!(bed.orders("A"), "");
    bed.ack_version("A", Lock, None); // without a version it counts for the pending step
    assert_eq!(bed.orders("A"), "update1{a:A}");
}

#[test]
fn acknowledgements_while_idle_are_ignored() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.settle();
    bed.orders("A");
    for step in [Lock, Update, Unlock] {
        bed.ack("A", step);
        assert_eq!(bed.orders("A"), "", "{step}");
    }
    assert_eq!(bed.core.deadline(), None);
}

#[test]
fn the_last_member_leaving_in_mid_round_frees_those_who_wait() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.join("B", &["b"]);
    assert_eq!(bed.orders("B"), "");
    bed.leave("A");
    bed.settle();
    assert_eq!(bed.orders("B"), "lock2 update2{b:B} unlock2");
}

#[test]
fn a_waiting_stream_that_dies_leaves_no_trace_and_its_newest_report_counts() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.join("B", &["b"]);
    bed.join("C", &["c"]);
    bed.report("C", &["c", "d"]);
    bed.leave("B");
    bed.settle();
    assert_eq!(bed.orders("C"), "lock2 update2{a:A c:C d:C} unlock2");
}

#[test]
fn a_reconnect_before_the_old_stream_is_noticed_keeps_the_host() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.settle();
    bed.orders("A");
    bed.rename("A", "dead A");
    bed.join("A", &["a", "b"]);
    bed.settle();
    assert_eq!(bed.orders("A"), "lock2 update2{a:A b:A} unlock2");
    bed.leave("dead A");
    bed.settle();
    assert_eq!(bed.orders("A"), "lock3 update3{a:A b:A} unlock3");
}

#[test]
fn the_hold_off_gathers_changes_of_one_window() {
    let mut bed = Bed::new(Duration::from_millis(500));
    bed.join("A", &["a"]);
    bed.settle();
    assert_eq!(bed.orders("A"), "lock1 update1{a:A} unlock1", "the first change is immediate");
    bed.pass(Duration::from_millis(50));
    bed.join("B", &["b"]);
    bed.pass(Duration::from_millis(100));
    bed.join("C", &["b"]);
    bed.pass(Duration::from_millis(349));
    assert_eq!(bed.orders("A"), "");
    bed.pass(Duration::from_millis(1));
    for name in ["A", "B", "C"] {
        assert_eq!(bed.orders(name), "lock2");
        bed.ack(name, Lock);
    }
    bed.settle();
    bed.pass(Duration::from_millis(500));
    bed.orders("A");
    bed.leave("C");
    assert_eq!(bed.orders("A"), "lock3", "nothing was queued, so the next change is immediate");
}

#[test]
fn a_report_of_a_member_is_not_held_off() {
    let mut bed = Bed::new(Duration::from_millis(500));
    bed.join("A", &["a"]);
    bed.settle();
    bed.orders("A");
    bed.report("A", &["b"]);
    assert_eq!(bed.orders("A"), "lock2");
}

/// A thousand workers that register their types one by one must not make a thousand rounds.
#[test]
fn only_one_report_cuts_hold_offs_short() {
    let mut bed = Bed::new(Duration::from_millis(100));
    bed.join("A", &["t"]);
    bed.settle();
    bed.report("A", &["t", "u"]);
    bed.settle();
    bed.report("A", &["t", "u", "v"]);
    bed.settle();
    assert_eq!(bed.outcomes.len(), 2, "the third waits");
    bed.pass(Duration::from_millis(100));
    bed.settle();
    assert!(bed.orders("A").ends_with("lock3 update3{t:A u:A v:A} unlock3"));
}

#[test]
fn a_hold_off_lasts_while_changes_go_on_but_not_for_ever() {
    let mut bed = Bed::new(Duration::from_millis(100));
    bed.join("A", &["a"]);
    bed.settle();
    bed.orders("A");
    for i in 0..5 {
        bed.pass(Duration::from_millis(90));
        bed.join(&format!("B{i}"), &["b"]);
        assert_eq!(bed.orders("A"), "", "join {i}");
    }
    bed.pass(Duration::from_millis(50));
    assert_eq!(bed.orders("A"), "lock2", "half a second after the round");
}

#[test]
fn after_a_take_over_the_first_round_waits_for_those_who_come_back() {
    let mut bed = Bed::taken_over(NO_HOLD_OFF, 1);
    for name in ["A", "B", "C"] {
        bed.join(name, &["a"]);
        bed.pass(Duration::from_millis(60));
        assert_eq!(bed.orders(name), "");
    }
    bed.pass(Duration::from_millis(40));
    bed.settle();
    assert_eq!(bed.orders("A"), "lock4294967297 update4294967297{a:A,B,C} unlock4294967297");
    // Later namespaces need no such care.
    bed.pass(Duration::from_secs(10));
    bed.join_as("D", "other", &["a"], Dialect::Explicit);
    assert_eq!(bed.orders("D"), "lock4294967297");
}

#[test]
fn sidecars_before_1_17_are_not_waited_for() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join_as("L", "ns", &["l"], Dialect::Legacy);
    assert_eq!(bed.orders("L"), "lock1 update1{l:L} unlock1", "an order that is written counts");
    bed.join("A", &["a"]);
    bed.settle();
    assert_eq!(bed.orders("A"), "lock2 update2{a:A l:L} unlock2");
    assert_eq!(bed.orders("L"), "lock2 update2{a:A l:L} unlock2");
    bed.report("L", &["l"]); // once per second
    assert_eq!(bed.orders("L"), "");
    bed.join_as("M", "ns", &[], Dialect::Legacy);
    assert_eq!(bed.orders("M"), "lock2 update2{a:A l:L} unlock2");
    bed.report("M", &[]);
    assert_eq!(bed.orders("M"), "", "the reference pushes the table again every second");
}

#[test]
fn a_superseded_round_is_paired_for_sidecars_before_1_17() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.settle();
    bed.join_as("L", "ns", &["l"], Dialect::Legacy);
    assert_eq!(bed.orders("L"), "lock2");
    bed.report("A", &["b"]);
    assert_eq!(bed.orders("L"), "unlock2 lock3");
    bed.orders("A");
    bed.ack("A", Lock);
    bed.settle();
    assert_eq!(bed.orders("L"), "update3{b:A l:L} unlock3");
}

#[test]
fn namespaces_do_not_see_each_other() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join_as("A", "one", &["a"], Dialect::Explicit); // never acknowledges
    bed.join_as("B", "two", &["a"], Dialect::Explicit);
    bed.read("B");
    for step in [Lock, Update, Unlock] {
        bed.ack("B", step);
        bed.read("B");
    }
    assert_eq!(bed.orders("B"), "lock1 update1{a:B} unlock1");
    bed.pass(TIMEOUT);
    assert_eq!(bed.timed_out, [("A".to_owned(), 1)]);
    assert_eq!(bed.orders("B"), "");
    assert_eq!(table(&bed.core, "one"), None, "a namespace without streams is gone");
}

#[test]
fn a_namespace_that_comes_back_uses_higher_versions() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.settle();
    bed.leave("A");
    assert_eq!(table(&bed.core, "ns"), None);
    bed.join("B", &["a"]);
    assert_eq!(bed.orders("B"), "lock3", "version 2 would be the empty table");
}

/// An actor type that fills a table, alone in it, up to `free` bytes.
fn filling(name: &str, free: usize) -> String {
    let used = charge(&Host {
        name: name.to_owned(),
        app_id: name.to_owned(),
        namespace: "ns".to_owned(),
        entities: vec![String::new()],
        ..Host::default()
    });
    "x".repeat(MAX_TABLE_BYTES - ORDER_OVERHEAD - used - free)
}

#[test]
fn a_report_that_makes_the_table_too_large_is_refused_alone() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("B", &["b"]);
    let small = MAX_TABLE_BYTES - ORDER_OVERHEAD - filling("B", 0).len() + 1;
    bed.settle();
    bed.join("A", &[&filling("A", small - 1)]);
    assert_eq!(bed.refused, ["A"], "one byte too many");
    assert_eq!(bed.orders("B"), "lock1 update1{b:B} unlock1", "no new round");
    bed.join("A", &[&filling("A", small)]);
    bed.settle();
    assert_eq!(bed.refused.len(), 1, "it fits exactly");
    assert_eq!(table(&bed.core, "ns"), Some((2, vec!["A".to_owned(), "B".to_owned()])));
    bed.report("B", &["bb"]);
    assert_eq!(bed.refused, ["A", "B"], "also a member whose report grows by one byte");
    bed.settle();
    assert_eq!(table(&bed.core, "ns"), Some((3, vec!["A".to_owned()])));
    bed.leave("A");
    bed.join("A", &[&filling("A", 0)]);
    bed.settle();
    assert_eq!(bed.refused.len(), 2, "what left is not charged any more");
}

#[test]
fn reports_that_wait_are_charged_as_well() {
    let mut bed = Bed::new(NO_HOLD_OFF);
    bed.join("A", &["a"]);
    bed.join("B", &[&filling("B", 100)]); // waits for the end of A's round
    bed.join("C", &[&filling("C", 1_000)]);
    assert_eq!(bed.refused, ["C"]);
    bed.leave("B");
    bed.join("D", &[&filling("D", 1_000)]);
    bed.settle();
    assert_eq!(bed.refused, ["C"]);
}
