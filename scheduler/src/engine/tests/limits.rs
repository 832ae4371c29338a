//! Limits of the engine, each met and exceeded by one.

use super::super::pool::MAX_WAITING_AT_GATE;
use super::super::stream::WINDOW;
use super::super::{MAX_DELIVERIES_PER_STEP, MAX_DUE_PER_STEP, MAX_LOADING, MAX_WRITING};
use super::*;

#[test]
fn a_stream_that_is_not_read_gets_a_window_of_deliveries() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    let mut sent = 0;
    for key in 0..=WINDOW {
        sent += deliveries(&fixture.put(&key.to_string(), &due("0s"))).len() as u64;
    }
    assert_eq!(sent, WINDOW);
    let effects = fixture.step(Event::Taken { stream: StreamId(1), through: 1 });
    assert_eq!(deliveries(&effects), [(1, WINDOW + 1, WINDOW.to_string().as_str())]);
    assert_eq!(deliveries(&fixture.put("x", &due("0s"))), []);
    assert_eq!(deliveries(&fixture.open(2)), [(2, 1, "x")]);
}

#[test]
fn a_gate_holds_so_many_waiting_jobs_and_no_more() {
    let mut fixture = Fixture::new();
    fixture.open_limited(1, &[(None, 1)]);
    let overflowed = |effects: &[Effect]| {
        observed(effects).contains(&&Observation::Overflowed(TargetKind::Actor))
    };
    for key in 0..=MAX_WAITING_AT_GATE {
        assert!(!overflowed(&fixture.put_actor(&key.to_string(), None)), "{key}");
    }
    let effects = fixture.put_actor("one too many", None);
    assert!(overflowed(&effects));
    let [Effect::Persist { counter, .. }] =
        effects.iter().filter(|e| written(e).is_some()).collect::<Vec<_>>()[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(counter.attempts, 1);
}

#[test]
fn one_step_starts_so_many_deliveries_and_asks_for_another() {
    let mut fixture = Fixture::new();
    fixture.step(Event::Pause);
    fixture.open(1);
    fixture.open(2);
    for key in 0..=MAX_DELIVERIES_PER_STEP {
        fixture.put(&key.to_string(), &due("0s"));
    }
    assert_eq!(deliveries(&fixture.step(Event::Resume)).len(), MAX_DELIVERIES_PER_STEP);
    assert_eq!(fixture.engine.wake_at(), Some(Timestamp::MIN));
    assert_eq!(deliveries(&fixture.step(Event::Tick)).len(), 1);
    assert_eq!(fixture.engine.wake_at(), None);
}

fn count(effects: &[Effect], wanted: fn(&Effect) -> bool) -> usize {
    effects.iter().filter(|effect| wanted(effect)).count()
}

fn loads(effects: &[Effect]) -> usize {
    count(effects, |effect| matches!(effect, Effect::Load { .. }))
}

#[test]
fn one_step_moves_so_many_due_jobs_and_asks_for_another() {
    let mut fixture = Fixture::new();
    for key in 0..=MAX_DUE_PER_STEP {
        fixture.put(&key.to_string(), &due("5s"));
    }
    fixture.now += SignedDuration::from_secs(5);
    fixture.step(Event::Tick);
    assert_eq!(fixture.engine.gauges().staged, MAX_DUE_PER_STEP);
    assert_eq!(fixture.engine.wake_at(), Some(Timestamp::MIN));
    fixture.step(Event::Tick);
    assert_eq!(fixture.engine.gauges().staged, MAX_DUE_PER_STEP + 1);
    assert_eq!(fixture.engine.wake_at(), None);
}

#[test]
fn one_step_reads_so_many_far_jobs_and_asks_for_another() {
    let mut fixture = Fixture::new();
    for key in 0..=MAX_DUE_PER_STEP {
        fixture.put(&key.to_string(), &due("2m"));
    }
    fixture.now += SignedDuration::from_secs(100);
    assert_eq!(loads(&fixture.step(Event::Tick)), MAX_DUE_PER_STEP);
    assert_eq!(fixture.engine.wake_at(), Some(Timestamp::MIN));
    assert_eq!(loads(&fixture.step(Event::Tick)), 1);
    assert_eq!(fixture.engine.wake_at(), None);
}

#[test]
fn so_many_records_are_read_at_a_time() {
    let mut fixture = Fixture::new();
    for key in 0..=MAX_LOADING {
        fixture.put(&key.to_string(), &due("2m"));
    }
    let effects = fixture.advance(100_000);
    assert_eq!(loads(&effects), MAX_LOADING);
    assert_eq!(fixture.engine.wake_at(), None, "an answer continues");
    let job = effects.iter().find_map(|effect| match effect {
        Effect::Load { job, .. } => Some(*job),
        _ => None,
    });
    let outcome = LoadOutcome::Superseded;
    assert_eq!(loads(&fixture.step(Event::Loaded { job: job.unwrap(), outcome })), 1);
}

#[test]
fn no_delivery_starts_while_so_many_results_are_written() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    let job = fixture.job(&due("0s"), Target::App("app".into()), None);
    let mut first = Vec::new();
    for key in 0..MAX_WRITING {
        let effects = fixture.put_job(&key.to_string(), job.clone(), None);
        let [(_, id, _)] = deliveries(&effects)[..] else { panic!("{key}: {effects:?}") };
        let written = fixture.ack(1, id, AckResult::Success);
        if first.is_empty() {
            first = written;
        }
    }
    assert!(deliveries(&fixture.put_job("last", job, None)).is_empty());
    assert_eq!(deliveries(&fixture.store(&first)).len(), 1, "one was written");
}
