//! How late due jobs are delivered.

use std::time::Duration;

use super::*;

/// Kind and milliseconds of each first delivery.
fn lags(effects: &[Effect]) -> Vec<(TargetKind, Duration)> {
    let lag = |effect: &Effect| match effect {
        Effect::Observe(Observation::Delivered(kind, lag)) => Some((*kind, *lag)),
        _ => None,
    };
    effects.iter().filter_map(lag).collect()
}

fn late(millis: u64) -> (TargetKind, Duration) {
    (TargetKind::Job, Duration::from_millis(millis))
}

#[test]
fn the_lag_of_a_delivery_is_counted_from_the_time_of_its_tick() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &spec("@every 1s", None));
    assert_eq!(lags(&fixture.advance(1_007)), [late(7)]);
    let effects = fixture.ack(1, 1, AckResult::Success);
    assert!(lags(&effects).is_empty());
    fixture.store(&effects);
    assert_eq!(lags(&fixture.advance(993)), [late(0)]);
    // A retry has a time of its own, a second after the tick.
    let effects = fixture.ack(1, 2, AckResult::Failed);
    fixture.store(&effects);
    assert_eq!(lags(&fixture.advance(1_002)), [late(2)]);
}

#[test]
fn the_wait_for_a_sidecar_is_part_of_the_lag() {
    let mut fixture = Fixture::new();
    fixture.put("a", &due("1s"));
    fixture.advance(5_000);
    assert_eq!(lags(&fixture.open(1)), [late(4_000)]);
}

#[test]
fn a_delivery_that_is_repeated_counts_no_second_lag() {
    let mut fixture = Fixture::new();
    for stream in [1, 2] {
        fixture.open(stream);
    }
    fixture.put_actor("a", None);
    fixture.advance(3_600_000);
    let effects = fixture.step(Event::StreamClosed { stream: StreamId(1) });
    assert_eq!(deliveries(&effects), [(2, 1, "a")]);
    assert!(lags(&effects).is_empty());
}
