use rstest::rstest;

use super::*;
use crate::store::Record;

const LEASE: i64 = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Member b itself.
    Me,
    /// Another one with a second key.
    Ours,
    /// One of Dapr 1.18.
    Other,
}
use Kind::{Me, Other, Ours};

fn own(joined: bool) -> Own {
    Own { id: "b".into(), address: "host-b".into(), uid: 2, lease: LEASE, joined }
}

fn entry(key: Bytes, value: Bytes, lease: i64) -> Entry {
    let lease = lease.cast_unsigned();
    let record = Record { create_revision: 1, mod_revision: 9, version: 1, lease, value };
    Entry { key, record }
}

/// Members with these numbers in their keys.
fn table(members: &[(&str, Kind, u64)]) -> Table {
    let mut table = Table::default();
    for (id, kind, total) in members {
        let (uid, lease) = if *kind == Me { (2, LEASE) } else { (7, 1) };
        let value = record(*total, uid, &format!("host-{id}"));
        table.leadership.push(entry(key(id), value, lease));
        if *kind != Other {
            table.members.push(entry(member_key(id), Bytes::new(), lease));
        }
    }
    table
}

fn one(total: u64, uid: u64, lease: i64) -> Table {
    let leadership = vec![entry(key("b"), record(total, uid, "host-b"), lease)];
    let members = vec![entry(member_key("b"), Bytes::new(), lease)];
    Table { leadership, members, shards: Vec::new() }
}

#[rstest]
#[case::first(&[])]
#[case::third(&[("a", Ours, NATIVE), ("c", Ours, NATIVE)])]
#[case::among_others(&[("a", Other, 2), ("c", Other, 2)])]
fn joins_for_the_native_mode(#[case] found: &[(&str, Kind, u64)]) {
    assert_eq!(assess(&own(false), &table(found), false), Step::Join { replaces: None });
}

#[test]
fn waits_for_the_lease_of_a_life_before() {
    assert_eq!(assess(&own(false), &one(NATIVE, 1, 77), false), Step::Wait);
    let forever = assess(&own(false), &one(NATIVE, 1, 0), false);
    assert_eq!(forever, Step::Join { replaces: Some(9) });
}

#[rstest]
#[case::deleted(table(&[("a", Ours, NATIVE)]))]
#[case::of_another_process(one(NATIVE, 3, LEASE))]
#[case::without_lease(one(NATIVE, 2, 0))]
#[case::second_key_deleted(Table { members: Vec::new(), ..one(NATIVE, 2, LEASE) })]
fn begins_again_when_its_key_is_not_its_own(#[case] table: Table) {
    assert_eq!(assess(&own(true), &table, false), Step::Lost);
}

const COMPATIBLE: Mode = Mode::Compatible;

#[rstest]
#[case::one_of_dapr_came(&[("a", Ours, NATIVE), ("b", Me, NATIVE), ("c", Other, 3)],
    Step::Enter { mode: COMPATIBLE, total: 3, replaces: 9 })]
#[case::the_last_of_dapr_left(&[("a", Ours, 3), ("b", Me, 3)],
    Step::Enter { mode: Mode::Native, total: NATIVE, replaces: 9 })]
#[case::another_has_its_part_still(&[("a", Ours, 3), ("b", Me, NATIVE)], Step::Wait)]
#[case::another_has_left_the_native_mode(&[("a", Ours, 3), ("b", Me, NATIVE), ("c", Other, 3)],
    Step::Enter { mode: COMPATIBLE, total: 3, replaces: 9 })]
#[case::another_has_not_left_it(&[("a", Ours, NATIVE), ("b", Me, 3), ("c", Other, 3)], Step::Wait)]
fn modes_follow_the_members(#[case] found: &[(&str, Kind, u64)], #[case] want: Step) {
    assert_eq!(assess(&own(true), &table(found), false), want);
}

/// A key that has the same id and another lease is of an earlier process.
#[test]
fn the_second_key_has_the_lease_of_the_first() {
    let mut table = table(&[("a", Ours, NATIVE), ("b", Me, NATIVE)]);
    table.members[0].record.lease = 3;
    let enters = Step::Enter { mode: COMPATIBLE, total: 2, replaces: 9 };
    assert_eq!(assess(&own(true), &table, false), enters);
}

#[test]
fn divides_the_shards_when_all_are_native() {
    let table = table(&[("a", Ours, NATIVE), ("b", Me, NATIVE)]);
    let Step::Divide(team) = assess(&own(true), &table, false) else { panic!("all are native") };
    assert_eq!((team.ids, team.hosts), (["a", "b"].map(Into::into).into(), hosts(&["a", "b"])));
    assert_eq!(team.share, Share { index: 1, total: 2 });
}

fn hosts(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| format!("host-{id}")).collect()
}

#[rstest]
#[case::one_left(&[("a", Other, 3), ("b", Me, 3)], Step::Recount { total: 2, replaces: 9 })]
#[case::one_came(&[("a", Other, 2), ("b", Me, 2), ("c", Other, 3)],
    Step::Recount { total: 3, replaces: 9 })]
#[case::others_count_differently(&[("a", Other, 2), ("b", Me, 3), ("c", Other, 3)], Step::Wait)]
fn counts_again_after_it_stopped(#[case] found: &[(&str, Kind, u64)], #[case] want: Step) {
    assert_eq!(assess(&own(true), &table(found), false), want);
}

#[test]
fn runs_its_part_when_all_agree() {
    let entries = table(&[("a", Other, 3), ("b", Me, 3), ("c", Ours, 3)]);
    let Step::Run(part, team) = assess(&own(true), &entries, false) else { panic!("all agree") };
    assert_eq!(team.hosts, hosts(&["a", "b", "c"]));
    assert_eq!((part.epoch, part.index, part.total), (9, 1, 3));
    assert_eq!(team.share, Share { index: 1, total: 3 });
    let owned: Vec<u64> = (0..7).filter(|id| part.owns(*id)).collect();
    assert_eq!(owned, [1, 4]);
}

#[test]
fn a_key_that_is_no_record_stops_all() {
    let mut entries = table(&[("a", Other, 2), ("b", Me, 2)]);
    entries.leadership[0].record.value = "\u{fffd}".into();
    assert_eq!(assess(&own(true), &entries, false), Step::Wait);
}

/// One left and another one came before the third has looked: the numbers are the same.
#[test]
fn a_member_that_came_unnoticed_is_known_before_anything_runs() {
    let two = || table(&[("a", Other, 2), ("b", Me, 2)]);
    let mut entries = two();
    entries.leadership[0].record.create_revision = 20; // a came
    let step = assess(&own(true), &entries, false);
    assert_eq!(step, Step::Recount { total: 2, replaces: 9 });
    entries.leadership[1].record.mod_revision = 21; // this one wrote its key again
    entries.leadership[0].record.mod_revision = 20;
    assert!(matches!(assess(&own(true), &entries, false), Step::Run(..)));
    // Seen by the one that came, while the other one has not looked.
    let mut entries = two();
    entries.leadership[1].record.create_revision = 20;
    entries.leadership[1].record.mod_revision = 20;
    assert_eq!(assess(&own(true), &entries, false), Step::Confirm);
    assert!(matches!(assess(&own(true), &entries, true), Step::Run(..)));
}

/// Dapr 1.18: with an address that all announce, each takes the part of the first.
#[test]
fn equal_addresses_have_the_first_part() {
    let hosts = ["x".to_owned(), "x".to_owned()];
    assert_eq!(share("x", &hosts), Share { index: 0, total: 2 });
    assert_eq!(share("y", &hosts), Share { index: 0, total: 2 });
}
