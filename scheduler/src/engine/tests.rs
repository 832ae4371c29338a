mod lag;
mod leaving;
mod limits;
mod summary;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::Engine;
use super::event::{
    AckResult, ConcurrencyLimit, Effect, Event, LoadOutcome, Observation, Origin, Registration,
    Share, StreamId, TargetKind, Undeliverable, WriteOutcome,
};
use super::job::{Counter, FailurePolicy, Job, JobId, Target};
use super::shard::Shard;
use crate::schedule::{Spec, validate};

const START: i64 = 1_700_000_000;

/// An engine with a clock.
struct Fixture {
    engine: Engine,
    now: Timestamp,
    revision: u64,
}

fn spec(schedule: &'static str, repeats: Option<u32>) -> Spec<'static> {
    Spec { schedule: Some(schedule), repeats, ..Spec::default() }
}

fn due(text: &'static str) -> Spec<'static> {
    Spec { due_time: Some(text), ..Spec::default() }
}

impl Fixture {
    fn new() -> Self {
        let now = Timestamp::from_second(START).unwrap();
        Self { engine: Engine::default(), now, revision: 0 }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.engine.step(event, self.now)
    }

    /// Moves the clock and steps until the engine has caught up.
    fn advance(&mut self, millis: i64) -> Vec<Effect> {
        self.now += SignedDuration::from_millis(millis);
        let mut effects = self.step(Event::Tick);
        while self.engine.wake_at() == Some(Timestamp::MIN) {
            effects.extend(self.step(Event::Tick));
        }
        effects
    }

    fn job(&self, spec: &Spec<'_>, target: Target, name: Option<&str>) -> Job {
        Job {
            partition_id: self.revision,
            timetable: validate(spec, self.now).unwrap(),
            policy: FailurePolicy::default(),
            namespace: "ns".into(),
            target,
            concurrency_key: name.map(Into::into),
        }
    }

    fn put_job(&mut self, key: &str, job: Job, counter: Option<Counter>) -> Vec<Effect> {
        self.revision += 1;
        let (key, revision) = (key.into(), self.revision);
        self.step(Event::JobPut { key, revision, job, counter, origin: Origin::Api })
    }

    /// Puts a job of app `app`.
    fn put(&mut self, key: &str, spec: &Spec<'_>) -> Vec<Effect> {
        let job = self.job(spec, Target::App("app".into()), None);
        self.put_job(key, job, None)
    }

    /// Puts a reminder of actor type `type`.
    fn put_actor(&mut self, key: &str, name: Option<&str>) -> Vec<Effect> {
        let job = self.job(&due("0s"), Target::ActorType("type".into()), name);
        self.put_job(key, job, None)
    }

    fn open(&mut self, stream: u64) -> Vec<Effect> {
        self.open_limited(stream, &[])
    }

    fn open_limited(&mut self, stream: u64, limits: &[(Option<&str>, u32)]) -> Vec<Effect> {
        let limit = |(name, max_concurrent): &(Option<&str>, u32)| ConcurrencyLimit {
            actor_type: "type".into(),
            name: name.map(Into::into),
            max_concurrent: *max_concurrent,
        };
        self.step(Event::StreamOpened(Registration {
            stream: StreamId(stream),
            namespace: "ns".into(),
            app_id: Some("app".into()),
            actor_types: vec!["type".into()],
            limits: limits.iter().map(limit).collect(),
        }))
    }

    fn ack(&mut self, stream: u64, id: u64, result: AckResult) -> Vec<Effect> {
        self.step(Event::Ack { stream: StreamId(stream), id, result })
    }

    /// Stores all writes of these effects; returns the effects, and those that follow.
    fn store(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let mut all = Vec::new();
        for job in effects.iter().filter_map(written) {
            all.extend(self.step(Event::Persisted { job, outcome: WriteOutcome::Stored }));
        }
        all
    }
}

fn written(effect: &Effect) -> Option<JobId> {
    match effect {
        Effect::Persist { job, .. } | Effect::Finish { job, .. } => Some(*job),
        _ => None,
    }
}

/// Stream, id and key of each delivery.
fn deliveries(effects: &[Effect]) -> Vec<(u64, u64, &str)> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Deliver { stream, id, key, .. } = effect {
            found.push((stream.0, *id, key.as_ref()));
        }
    }
    found
}

/// What was observed, without deliveries.
fn observed(effects: &[Effect]) -> Vec<&Observation> {
    let observations = effects.iter().filter_map(|effect| match effect {
        Effect::Observe(observation) => Some(observation),
        _ => None,
    });
    observations.filter(|observation| !matches!(observation, Observation::Delivered(..))).collect()
}

#[test]
fn delivers_at_the_due_time_and_not_before() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    assert!(deliveries(&fixture.put("a", &due("2s"))).is_empty());
    assert!(deliveries(&fixture.advance(1_999)).is_empty());
    assert_eq!(deliveries(&fixture.advance(1)), [(1, 1, "a")]);
    let effects = fixture.ack(1, 1, AckResult::Success);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Finish { revision: 1, .. })));
    fixture.store(&effects);
    assert_eq!(fixture.engine.gauges().jobs, 0);
}

#[test]
fn the_next_tick_is_armed_when_the_counter_is_stored() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &spec("@every 1s", Some(2)));
    fixture.advance(1_000);
    let effects = fixture.ack(1, 1, AckResult::Success);
    assert!(deliveries(&fixture.advance(60_000)).is_empty(), "not stored");
    assert_eq!(deliveries(&fixture.store(&effects)), [(1, 2, "a")], "the missed tick");
    let effects = fixture.ack(1, 2, AckResult::Success);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Finish { .. })));
}

#[test]
fn a_job_without_stream_waits_and_counts_once_as_undelivered() {
    let mut fixture = Fixture::new();
    let undelivered = Observation::Undelivered(TargetKind::Job);
    assert_eq!(observed(&fixture.put("a", &due("0s"))), [&undelivered]);
    assert!(fixture.advance(3_600_000).is_empty());
    assert_eq!(fixture.engine.gauges().staged, 1);
    assert_eq!(deliveries(&fixture.open(1)), [(1, 1, "a")]);
}

#[test]
fn overdue_jobs_are_released_in_due_order() {
    let mut fixture = Fixture::new();
    for (key, due_time) in [("a", "3s"), ("b", "1s"), ("c", "2s")] {
        fixture.put(key, &due(due_time));
    }
    fixture.advance(5_000);
    assert_eq!(deliveries(&fixture.open(1)), [(1, 1, "b"), (1, 2, "c"), (1, 3, "a")]);
}

#[test]
fn a_closed_stream_returns_its_deliveries_without_an_attempt() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("0s"));
    fixture.put("b", &due("0s"));
    fixture.open(2);
    let effects = fixture.step(Event::StreamClosed { stream: StreamId(1) });
    assert_eq!(deliveries(&effects), [(2, 1, "a"), (2, 2, "b")]);
    let late = fixture.ack(1, 1, AckResult::Success);
    assert_eq!(observed(&late), [&Observation::UnknownAck(StreamId(1), 1)]);
    let effects = fixture.ack(2, 1, AckResult::Failed);
    let Some(Effect::Persist { counter, .. }) =
        effects.iter().find(|effect| written(effect).is_some())
    else {
        panic!("{effects:?}")
    };
    assert_eq!(counter.attempts, 1);
}

#[test]
fn an_overwritten_job_drops_the_answer_of_its_old_version() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("0s"));
    assert!(deliveries(&fixture.put("a", &due("5s"))).is_empty());
    assert!(fixture.ack(1, 1, AckResult::Success).iter().all(|effect| written(effect).is_none()));
    assert_eq!(deliveries(&fixture.advance(5_000)), [(1, 2, "a")]);
    fixture.step(Event::JobDeleted { key: "a".into(), revision: 3 });
    assert!(fixture.ack(1, 2, AckResult::Failed).iter().all(|effect| written(effect).is_none()));
    assert_eq!(fixture.engine.gauges().jobs, 0);
}

/// Changes of the store come late, after a read has shown what followed them.
#[test]
fn what_is_older_than_the_known_version_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("5s"));
    let job = fixture.job(&due("0s"), Target::App("app".into()), None);
    fixture.put("a", &due("5s"));
    let late = Event::JobPut {
        key: "a".into(),
        revision: 1,
        job: job.clone(),
        counter: None,
        origin: Origin::Member,
    };
    assert!(fixture.step(late).is_empty());
    fixture.step(Event::JobDeleted { key: "a".into(), revision: 1 });
    assert_eq!(deliveries(&fixture.advance(5_000)), [(1, 1, "a")]);
    // A store that was restored from a backup is read as a whole.
    fixture.step(Event::ScanBegun);
    let origin = Origin::Scan;
    fixture.step(Event::JobPut { key: "a".into(), revision: 1, job, counter: None, origin });
    assert_eq!(deliveries(&fixture.step(Event::ScanEnded)), []);
    assert_eq!(fixture.engine.gauges().jobs, 1);
}

#[test]
fn jobs_of_lost_shards_are_forgotten_and_no_others() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    for key in ["a", "b"] {
        fixture.put(key, &due("0s"));
    }
    // The partition id of the helper is the revision before the put.
    fixture.step(Event::ShardsLost([Shard::of(0)].into()));
    assert_eq!(fixture.engine.gauges().jobs, 1);
    assert!(fixture.ack(1, 1, AckResult::Success).iter().all(|effect| written(effect).is_none()));
    let kept = fixture.ack(1, 2, AckResult::Success);
    assert!(
        kept.iter()
            .any(|effect| matches!(effect, Effect::Finish { shard, .. } if *shard == Shard::of(1)))
    );
}

#[test]
fn a_known_version_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("0s"));
    fixture.put("b", &due("0s"));
    let job = fixture.job(&due("0s"), Target::App("app".into()), None);
    fixture.step(Event::ScanBegun);
    let key: Arc<str> = "a".into();
    let again = Event::JobPut { key, revision: 1, job, counter: None, origin: Origin::Scan };
    assert!(fixture.step(again).is_empty());
    fixture.step(Event::ScanEnded);
    assert_eq!(fixture.engine.gauges().jobs, 1, "b was not in the scan");
    assert!(fixture.ack(1, 1, AckResult::Success).iter().any(|effect| written(effect).is_some()));
}

#[test]
fn far_jobs_are_loaded_before_they_are_due() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    let job = fixture.job(&due("1h"), Target::App("app".into()), None);
    fixture.put_job("a", job.clone(), None);
    let due_at = fixture.now.checked_add(SignedDuration::from_hours(1)).ok();
    assert_eq!(fixture.engine.gauges().next_due, due_at);
    assert!(fixture.advance(3_569_999).is_empty());
    let effects = fixture.advance(1);
    let [Effect::Load { job: id, revision: 1, .. }] = effects[..] else { panic!("{effects:?}") };
    let outcome = LoadOutcome::Found { job: Box::new(job), counter: None };
    fixture.step(Event::Loaded { job: id, outcome });
    assert_eq!(fixture.engine.gauges().next_due, due_at, "in memory as before");
    assert!(deliveries(&fixture.advance(29_999)).is_empty());
    assert_eq!(deliveries(&fixture.advance(1)), [(1, 1, "a")]);
    assert_eq!(fixture.engine.gauges().next_due, None);
}

#[test]
fn a_counter_from_outside_is_read_before_the_job_goes_on() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    let mut job = fixture.job(&spec("@every 1s", Some(3)), Target::App("app".into()), None);
    job.timetable =
        validate(&Spec { due_time: Some("-10s"), ..spec("@every 1s", Some(3)) }, fixture.now)
            .unwrap();
    let put = Event::JobPut {
        key: "a".into(),
        revision: 9,
        job: job.clone(),
        counter: None,
        origin: Origin::ClientPort,
    };
    assert!(fixture.step(put).is_empty(), "an imported job waits for its counter");
    let effects = fixture.step(Event::CounterPut { key: "a".into() });
    let [Effect::Load { job: id, .. }] = effects[..] else { panic!("{effects:?}") };
    let last_trigger = Some(fixture.now - SignedDuration::from_secs(9));
    let counter = Counter { job_partition_id: 0, count: 2, last_trigger, attempts: 0 };
    let outcome = LoadOutcome::Found { job: Box::new(job), counter: Some(counter) };
    let effects = fixture.step(Event::Loaded { job: id, outcome });
    assert_eq!(deliveries(&effects), [(1, 1, "a")]);
    let effects = fixture.ack(1, 1, AckResult::Success);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Finish { .. })), "third of 3");
}

#[test]
fn the_clock_that_is_set_back_delays_and_never_repeats() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &due("10s"));
    fixture.advance(-3_600_000);
    assert!(deliveries(&fixture.advance(3_609_999)).is_empty());
    assert_eq!(deliveries(&fixture.advance(1)), [(1, 1, "a")]);
    fixture.step(Event::Undeliverable {
        stream: StreamId(1),
        id: 1,
        reason: Undeliverable::Failed,
    });
    fixture.advance(-5);
    assert_eq!(fixture.engine.gauges().in_flight, 0);
    assert_eq!(deliveries(&fixture.advance(25)), [(1, 2, "a")]);
}

#[test]
fn a_full_store_does_not_stop_a_recurring_job() {
    let mut fixture = Fixture::new();
    fixture.open(1);
    fixture.put("a", &spec("@every 1s", None));
    fixture.advance(1_000);
    let effects = fixture.ack(1, 1, AckResult::Success);
    let job = effects.iter().find_map(written).unwrap();
    fixture.step(Event::Persisted { job, outcome: WriteOutcome::Full });
    assert_eq!(deliveries(&fixture.advance(1_000)), [(1, 2, "a")]);
    let effects = fixture.advance(4_000);
    let [Effect::Persist { counter, .. }] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(counter.count, 1, "the refused counter is written again");
}

#[test]
fn streams_of_a_pool_take_turns() {
    let mut fixture = Fixture::new();
    (1..=3).for_each(|stream| drop(fixture.open(stream)));
    let mut streams = Vec::new();
    for key in ["a", "b", "c", "d"] {
        streams.push(deliveries(&fixture.put(key, &due("0s")))[0].0);
    }
    assert_eq!(streams, [1, 2, 3, 1]);
}

#[test]
fn gates_of_type_and_name_both_apply_and_keep_the_order() {
    let mut fixture = Fixture::new();
    fixture.open_limited(1, &[(None, 2), (Some("x"), 1)]);
    let mut started = Vec::new();
    for (key, name) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "x")] {
        let effects = fixture.put_actor(key, Some(name));
        started.extend(deliveries(&effects).iter().map(|(_, _, key)| (*key).to_owned()));
    }
    assert_eq!(started, ["a", "c"]);
    let gauges = fixture.engine.gauges();
    assert_eq!(gauges.gates.iter().map(|gate| gate.in_flight).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(deliveries(&fixture.ack(1, 2, AckResult::Failed)), [(1, 3, "d")], "b waits for x");
    assert_eq!(deliveries(&fixture.ack(1, 1, AckResult::Success)), [(1, 4, "b")]);
    assert_eq!(deliveries(&fixture.ack(1, 3, AckResult::Success)), [], "e waits for x");
    assert_eq!(deliveries(&fixture.ack(1, 4, AckResult::Success)), [(1, 5, "e")]);
}

/// Dapr 1.19: a job that was skipped because of its own gate keeps its position.
#[test]
fn the_oldest_trigger_that_can_run_runs_first() {
    let mut fixture = Fixture::new();
    fixture.open_limited(1, &[(None, 2), (Some("x"), 1)]);
    let mut started = Vec::new();
    for (key, name) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "x"), ("f", "y")] {
        let effects = fixture.put_actor(key, Some(name));
        started.extend(deliveries(&effects).iter().map(|(_, _, key)| (*key).to_owned()));
    }
    assert_eq!(started, ["a", "c"]);
    assert_eq!(deliveries(&fixture.ack(1, 1, AckResult::Success)), [(1, 3, "b")], "before d");
    assert_eq!(deliveries(&fixture.ack(1, 2, AckResult::Success)), [(1, 4, "d")], "e waits for x");
    assert_eq!(deliveries(&fixture.ack(1, 4, AckResult::Success)), [(1, 5, "f")], "e waits still");
    assert_eq!(deliveries(&fixture.ack(1, 3, AckResult::Success)), [(1, 6, "e")]);
}

#[test]
fn staged_jobs_that_meet_a_full_gate_count_as_throttled() {
    let mut fixture = Fixture::new();
    for (key, name) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")] {
        fixture.put_actor(key, Some(name));
    }
    let effects = fixture.open_limited(1, &[(None, 2), (Some("x"), 1)]);
    assert_eq!(deliveries(&effects), [(1, 1, "a"), (1, 2, "c")]);
    let throttled = |gate: &str| Observation::Throttled(gate.into(), 1);
    assert_eq!(observed(&effects), [&throttled("type:x"), &throttled("type")]);
    assert_eq!(observed(&fixture.open(2)), [&Observation::Undelivered(TargetKind::Actor); 0]);
}

#[test]
fn a_raised_limit_starts_waiting_jobs_and_a_gate_ends_with_its_streams() {
    let mut fixture = Fixture::new();
    fixture.open_limited(1, &[(None, 1)]);
    for key in ["a", "b", "c", "d", "e"] {
        fixture.put_actor(key, None);
    }
    assert_eq!(deliveries(&fixture.open_limited(2, &[(None, 3)])).len(), 2);
    assert!(fixture.step(Event::StreamClosed { stream: StreamId(9) }).is_empty());
    fixture.open(3);
    fixture.step(Event::StreamClosed { stream: StreamId(2) });
    let effects = fixture.step(Event::StreamClosed { stream: StreamId(1) });
    assert!(!deliveries(&effects).is_empty());
    assert_eq!(fixture.engine.gauges().in_flight, 5, "no stream gives a limit");
    assert_eq!(fixture.engine.gauges().gates, []);
}

#[test]
fn replicas_share_a_limit_and_each_has_at_least_one() {
    let mut fixture = Fixture::new();
    for key in 0..20 {
        fixture.put_actor(&key.to_string(), None);
    }
    fixture.step(Event::Share(Share { index: 1, total: 3 }));
    assert_eq!(deliveries(&fixture.open_limited(1, &[(None, 7)])).len(), 2);
    assert_eq!(deliveries(&fixture.step(Event::Share(Share { index: 0, total: 3 }))).len(), 1);
    assert_eq!(deliveries(&fixture.step(Event::Share(Share { index: 0, total: 1 }))).len(), 4);
    fixture.step(Event::Share(Share { index: 8, total: 9 }));
    for id in 1..=6 {
        assert_eq!(deliveries(&fixture.ack(1, id, AckResult::Success)).len(), 0, "{id}");
    }
    assert_eq!(deliveries(&fixture.ack(1, 7, AckResult::Success)).len(), 1);
}

#[test]
fn namespaces_and_pools_take_turns() {
    let mut fixture = Fixture::new();
    fixture.step(Event::Pause);
    for stream in 0..3 {
        fixture.step(Event::StreamOpened(Registration {
            stream: StreamId(stream),
            namespace: stream.to_string().into(),
            app_id: Some("app".into()),
            actor_types: Vec::new(),
            limits: Vec::new(),
        }));
    }
    for key in 0..1_000 {
        let mut job = fixture.job(&due("0s"), Target::App("app".into()), None);
        job.namespace = if key < 980 { "0" } else { ["1", "2"][key % 2] }.into();
        fixture.put_job(&key.to_string(), job, None);
    }
    let effects = fixture.step(Event::Resume);
    let streams: Vec<u64> = deliveries(&effects).iter().map(|(stream, ..)| *stream).collect();
    assert_eq!(streams.len(), 1_000);
    let last_of_small = streams.iter().rposition(|stream| *stream != 0).unwrap();
    assert!(last_of_small < 60, "{last_of_small}");
}
