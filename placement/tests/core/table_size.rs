//! A table has a size that no report may exceed.

use std::time::Duration;

use placement::rounds::message::Host;
use placement::rounds::table::{MAX_TABLE_BYTES, ORDER_OVERHEAD, charge};

use crate::fixture::{Fixture, table};

const NO_HOLD_OFF: Duration = Duration::ZERO;

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
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("B", &["b"]);
    let small = MAX_TABLE_BYTES - ORDER_OVERHEAD - filling("B", 0).len() + 1;
    fixture.settle();
    fixture.join("A", &[&filling("A", small - 1)]);
    assert_eq!(fixture.refused, ["A"], "one byte too many");
    assert_eq!(fixture.orders("B"), "lock1 update1{b:B} unlock1", "no new round");
    fixture.join("A", &[&filling("A", small)]);
    fixture.settle();
    assert_eq!(fixture.refused.len(), 1, "it fits exactly");
    assert_eq!(table(&fixture.core, "ns"), Some((2, vec!["A".to_owned(), "B".to_owned()])));
    fixture.report("B", &["bb"]);
    assert_eq!(fixture.refused, ["A", "B"], "also a member whose report grows by one byte");
    fixture.settle();
    assert_eq!(table(&fixture.core, "ns"), Some((3, vec!["A".to_owned()])));
    fixture.leave("A");
    fixture.join("A", &[&filling("A", 0)]);
    fixture.settle();
    assert_eq!(fixture.refused.len(), 2, "what left is not charged any more");
}

#[test]
fn reports_that_wait_are_charged_as_well() {
    let mut fixture = Fixture::new(NO_HOLD_OFF);
    fixture.join("A", &["a"]);
    fixture.join("B", &[&filling("B", 100)]); // waits for the end of A's round
    fixture.join("C", &[&filling("C", 1_000)]);
    assert_eq!(fixture.refused, ["C"]);
    fixture.leave("B");
    fixture.join("D", &[&filling("D", 1_000)]);
    fixture.settle();
    assert_eq!(fixture.refused, ["C"]);
}
