//! Shards that go to another member: what was answered in time is not repeated there.

use std::collections::BTreeSet;

use super::*;

/// The shards of the first jobs of a fixture: their partition ids are the numbers of their puts.
fn first(count: u64) -> BTreeSet<Shard> {
    (0..count).map(Shard::of).collect()
}

#[test]
fn answers_of_a_shard_that_leaves_are_written_and_nothing_of_it_is_delivered() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("tick", &spec("@every 1s", None));
    fixture.put("once", &due("1s"));
    fixture.put("later", &due("2s"));
    fixture.put("far", &due("1h"));
    fixture.put("stays", &spec("@every 1s", None));
    let sent = fixture.advance(1_000);
    assert_eq!(deliveries(&sent), [(1, 1, "tick"), (1, 2, "once"), (1, 3, "stays")]);

    fixture.step(Event::ShardsLeaving(first(4)));
    assert_eq!((fixture.engine.leaving(), fixture.engine.gauges().jobs), (2, 3));
    let mut effects = fixture.ack(1, 1, AckResult::Success);
    let [Effect::Persist { shard, counter, .. }] =
        effects.iter().filter(|effect| written(effect).is_some()).collect::<Vec<_>>()[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((*shard, counter.count), (Shard::of(0), 1));
    assert_eq!(fixture.engine.leaving(), 1);
    effects.extend(fixture.ack(1, 2, AckResult::Success));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Finish { revision: 2, .. })));
    assert_eq!((fixture.engine.leaving(), fixture.engine.gauges().jobs), (0, 1));
    assert!(deliveries(&fixture.store(&effects)).is_empty());
    assert!(deliveries(&fixture.advance(3_600_000)).is_empty());
    let effects = fixture.ack(1, 3, AckResult::Success);
    assert_eq!(deliveries(&fixture.store(&effects)), [(1, 4, "stays")]);
}

#[test]
fn a_failure_in_a_shard_that_leaves_is_counted_and_repeated_elsewhere() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("0s"));
    fixture.step(Event::ShardsLeaving(first(1)));
    let effects = fixture.ack(1, 1, AckResult::Failed);
    let attempts = effects.iter().find_map(|effect| match effect {
        Effect::Persist { counter, .. } => Some(counter.attempts),
        _ => None,
    });
    assert_eq!(attempts, Some(1));
    assert!(deliveries(&fixture.store(&effects)).is_empty());
    assert!(deliveries(&fixture.advance(60_000)).is_empty());
    assert_eq!(fixture.engine.gauges().jobs, 0);
}

#[test]
fn a_delivery_of_a_shard_that_leaves_is_not_repeated_here_when_its_stream_ends() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    for key in ["closed", "unsent", "overwritten", "late"] {
        fixture.put(key, &due("0s"));
    }
    fixture.step(Event::ShardsLeaving(first(4)));
    fixture.open(2);
    let reason = Undeliverable::Failed;
    fixture.step(Event::Undeliverable { stream: StreamId(1), id: 2, reason });
    fixture.step(Event::JobDeleted { key: "overwritten".into(), revision: 9 });
    assert_eq!(fixture.engine.leaving(), 2);
    assert!(fixture.ack(1, 3, AckResult::Success).iter().all(|effect| written(effect).is_none()));
    let effects = fixture.step(Event::StreamClosed { stream: StreamId(1) });
    assert!(deliveries(&effects).is_empty());
    assert!(deliveries(&fixture.advance(60_000)).is_empty());
    assert_eq!((fixture.engine.leaving(), fixture.engine.gauges().jobs), (0, 0));
}

/// What is not answered in time is the next owner's.
#[test]
fn an_answer_after_a_shard_is_lost_applies_to_nothing() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("0s"));
    fixture.step(Event::ShardsLeaving(first(1)));
    fixture.step(Event::ShardsLost(first(1)));
    assert_eq!((fixture.engine.leaving(), fixture.engine.gauges().jobs), (0, 0));
    assert!(fixture.ack(1, 1, AckResult::Success).iter().all(|effect| written(effect).is_none()));
}
