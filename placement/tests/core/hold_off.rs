//! The pause after a round: which changes it gathers, and which end it early.

use std::time::Duration;

use placement::rounds::message::Step::Lock;

use crate::fixture::Fixture;

#[test]
fn the_hold_off_gathers_changes_of_one_window() {
    let mut fixture = Fixture::new(Duration::from_millis(500));
    fixture.join("A", &["a"]);
    fixture.settle();
    assert_eq!(fixture.orders("A"), "lock1 update1{a:A} unlock1", "the first change is immediate");
    fixture.pass(Duration::from_millis(50));
    fixture.join("B", &["b"]);
    fixture.pass(Duration::from_millis(100));
    fixture.join("C", &["b"]);
    fixture.pass(Duration::from_millis(349));
    assert_eq!(fixture.orders("A"), "");
    fixture.pass(Duration::from_millis(1));
    for name in ["A", "B", "C"] {
        assert_eq!(fixture.orders(name), "lock2");
        fixture.ack(name, Lock);
    }
    fixture.settle();
    fixture.pass(Duration::from_millis(500));
    fixture.orders("A");
    fixture.leave("C");
    assert_eq!(fixture.orders("A"), "lock3", "nothing was queued, so the next change is immediate");
}

/// Two hosts whose first round took so long, in a hold-off with this window.
fn held_off(window: u64, round: u64) -> Fixture {
    let mut fixture = Fixture::new(Duration::from_millis(window));
    for name in ["A", "B"] {
        fixture.join(name, &["a"]);
        fixture.settle();
        fixture.pass(Duration::from_secs(2));
    }
    fixture.join("C", &["c"]);
    fixture.pass(Duration::from_millis(round));
    fixture.settle();
    fixture.orders("A");
    fixture
}

#[test]
fn a_leave_after_a_short_round_waits_for_two_more_such_rounds() {
    for (round, pause) in [(0, 10), (5, 10), (7, 14), (10, 20)] {
        let mut fixture = held_off(100, round);
        fixture.leave("B");
        fixture.pass(Duration::from_millis(pause - 1));
        fixture.join("D", &["a"]);
        assert_eq!(fixture.orders("A"), "", "{round}");
        fixture.pass(Duration::from_millis(1));
        fixture.settle();
        let orders = fixture.orders("A");
        assert!(orders.contains("{a:A,D c:C}"), "its place is taken in the same round: {orders}");
    }
}

#[test]
fn a_leave_after_a_long_round_or_in_a_longer_window_is_held_off() {
    for (window, round) in [(100, 11), (101, 0)] {
        let mut fixture = held_off(window, round);
        fixture.leave("B");
        fixture.pass(Duration::from_millis(window - 1));
        assert_eq!(fixture.orders("A"), "", "{window} {round}");
        fixture.pass(Duration::from_millis(1));
        assert!(fixture.orders("A").starts_with("lock"), "{window} {round}");
    }
}

#[test]
fn a_host_that_leaves_during_a_short_round_is_gone_after_the_next() {
    let mut fixture = held_off(100, 0);
    fixture.pass(Duration::from_secs(2));
    fixture.join("D", &["d"]);
    fixture.leave("B");
    fixture.settle();
    fixture.orders("A");
    fixture.pass(Duration::from_millis(9));
    assert_eq!(fixture.orders("A"), "");
    fixture.pass(Duration::from_millis(1));
    fixture.settle();
    assert!(fixture.orders("A").contains("{a:A c:C d:D}"));
}

#[test]
fn a_report_of_a_member_is_not_held_off() {
    let mut fixture = Fixture::new(Duration::from_millis(500));
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.orders("A");
    fixture.report("A", &["b"]);
    assert_eq!(fixture.orders("A"), "lock2");
}

/// A thousand workers that register their types one by one must not cause a thousand rounds.
#[test]
fn only_one_report_cuts_hold_offs_short() {
    let mut fixture = Fixture::new(Duration::from_millis(100));
    fixture.join("A", &["t"]);
    fixture.settle();
    fixture.report("A", &["t", "u"]);
    fixture.settle();
    fixture.report("A", &["t", "u", "v"]);
    fixture.settle();
    assert_eq!(fixture.outcomes.len(), 2, "the third waits");
    fixture.pass(Duration::from_millis(100));
    fixture.settle();
    assert!(fixture.orders("A").ends_with("lock3 update3{t:A u:A v:A} unlock3"));
}

#[test]
fn a_hold_off_is_extended_by_changes_up_to_its_limit() {
    let mut fixture = Fixture::new(Duration::from_millis(100));
    fixture.join("A", &["a"]);
    fixture.settle();
    fixture.orders("A");
    for i in 0..5 {
        fixture.pass(Duration::from_millis(90));
        fixture.join(&format!("B{i}"), &["b"]);
        assert_eq!(fixture.orders("A"), "", "join {i}");
    }
    fixture.pass(Duration::from_millis(50));
    assert_eq!(fixture.orders("A"), "lock2", "half a second after the round");
}
