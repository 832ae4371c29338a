//! Random histories of the engine with a store, streams and a clock, checked after every step
//! against an oracle: no tick is lost or early, a version has one delivery at a time,
//! and every written counter is correct.

mod oracle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use testkit::Choice;

use self::oracle::{Done, Recipe, instant, small};
use super::Engine;
use super::event::{
    AckResult, ConcurrencyLimit, Effect, Event, Found, LoadOutcome, Origin, Registration, Share,
    StreamId, Undeliverable, WriteOutcome,
};
use super::job::{Counter, Job, Target};
use super::shard::Shard;

const HISTORIES: u64 = 10_000;
const ACTIONS: usize = 120;
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const NAMES: [&str; 2] = ["x", "y"];

/// A stored version of a job.
#[derive(Debug, Clone)]
struct Record {
    revision: u64,
    recipe: Recipe,
    app: bool,
    name: Option<&'static str>,
}

/// The oracle's state of the version that the engine runs.
#[derive(Debug, Clone, Copy)]
struct Version {
    revision: u64,
    done: Done,
    delivered: bool,
}

/// A delivery that a stream has.
#[derive(Debug, Clone)]
struct Sent {
    key: Arc<str>,
    revision: u64,
}

struct Simulation {
    choice: Choice,
    engine: Engine,
    now: i64,
    revision: u64,
    jobs: BTreeMap<String, Record>,
    counters: BTreeMap<String, Counter>,
    /// Changes of the store that the engine has not seen.
    feed: VecDeque<(String, u64, Option<Record>)>,
    /// Writes and loads that the store has not done.
    requests: VecDeque<Effect>,
    streams: BTreeMap<u64, BTreeMap<u64, Sent>>,
    next_stream: u64,
    versions: BTreeMap<String, Version>,
    leaving: BTreeSet<Shard>,
    deliveries: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            choice: Choice::new(seed),
            engine: Engine::default(),
            now: 0,
            revision: 0,
            jobs: BTreeMap::new(),
            counters: BTreeMap::new(),
            feed: VecDeque::new(),
            requests: VecDeque::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            versions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            deliveries: 0,
        }
    }

    fn step(&mut self, event: Event) {
        let effects = self.engine.step(event, instant(self.now));
        for effect in effects {
            match effect {
                Effect::Deliver { stream, id, key, revision, .. } => {
                    self.delivered(stream, id, key, revision);
                }
                Effect::Persist { ref key, revision, counter, .. } => {
                    self.check_counter(key, revision, counter);
                    self.requests.push_back(effect);
                }
                Effect::Finish { ref key, revision, .. } => {
                    let recipe = self.recipe(key, revision);
                    let version = self.version(key, revision);
                    if let (Some(version), Some(recipe)) = (version, recipe) {
                        assert_eq!(recipe.tick(version.done.count), None, "{key} ends early");
                    }
                    self.requests.push_back(effect);
                }
                Effect::Load { .. } => self.requests.push_back(effect),
                Effect::Observe(_) => {}
            }
        }
    }

    fn version(&mut self, key: &str, revision: u64) -> Option<&mut Version> {
        self.versions.get_mut(key).filter(|version| version.revision == revision)
    }

    /// The recipe of a version that the store still has.
    fn recipe(&self, key: &str, revision: u64) -> Option<Recipe> {
        self.jobs.get(key).filter(|job| job.revision == revision).map(|job| job.recipe.clone())
    }

    fn delivered(&mut self, stream: StreamId, id: u64, key: Arc<str>, revision: u64) {
        self.deliveries += 1;
        let now = self.now;
        assert!(!self.leaving.contains(&Shard::of(revision)), "{key} is going elsewhere");
        let recipe = self.recipe(&key, revision);
        let version = self.version(&key, revision).expect("the engine runs a version of the feed");
        assert!(!version.delivered, "{key} has two deliveries");
        version.delivered = true;
        if let Some(recipe) = recipe {
            let due = recipe.tick(version.done.count).expect("a tick is left") + version.done.delay;
            assert!(due <= now, "{key} is {} ms early", due - now);
        }
        let sent = self.streams.get_mut(&stream.0).expect("the stream is open");
        assert!(sent.insert(id, Sent { key, revision }).is_none());
    }

    fn check_counter(&mut self, key: &str, revision: u64, counter: Counter) {
        let recipe = self.recipe(key, revision);
        if let (Some(version), Some(recipe)) = (self.version(key, revision), recipe) {
            assert_eq!(counter, version.done.counter(&recipe, revision), "{key}");
        }
    }

    /// Puts a job or overwrites one.
    fn put(&mut self) {
        let key = self.choice.of(&KEYS).to_owned();
        self.revision += 1;
        let app = self.choice.chance(50);
        let name = self.choice.chance(50).then(|| self.choice.of(&NAMES)).filter(|_| !app);
        let name = name.and_then(|name| NAMES.into_iter().find(|known| *known == name));
        let recipe = Recipe::random(&mut self.choice, self.now);
        let record = Record { revision: self.revision, recipe, app, name };
        self.jobs.insert(key.clone(), record.clone());
        self.feed.push_back((key, self.revision, Some(record)));
    }

    fn delete(&mut self) {
        let key = self.choice.of(&KEYS).to_owned();
        if self.jobs.remove(&key).is_some() {
            self.revision += 1;
            self.counters.remove(&key);
            self.feed.push_back((key, self.revision, None));
        }
    }

    /// Shows the engine the oldest change of the store.
    fn feed(&mut self) {
        match self.feed.pop_front() {
            Some((key, _, Some(record))) => self.show(key, &record, Origin::Api),
            Some((key, revision, None)) => {
                if self.versions.get(&key).is_some_and(|version| version.revision <= revision) {
                    self.versions.remove(&key);
                }
                self.step(Event::JobDeleted { key: key.into(), revision });
            }
            None => {}
        }
    }

    fn show(&mut self, key: String, record: &Record, origin: Origin) {
        let Found { key, revision, job, counter } = self.found(key, record);
        self.step(Event::JobPut { key, revision, job, counter, origin });
    }

    /// Shows jobs as pages of a read.
    fn show_pages(&mut self, jobs: Vec<(String, Record)>) {
        let mut page = Vec::new();
        for (key, record) in jobs {
            page.push(self.found(key, &record));
            if self.choice.chance(30) {
                self.step(Event::JobsFound(std::mem::take(&mut page)));
            }
        }
        self.step(Event::JobsFound(page));
    }

    fn found(&mut self, key: String, record: &Record) -> Found {
        let counter = self.counters.get(&key).copied();
        if self.versions.get(&key).is_none_or(|version| version.revision < record.revision) {
            let stored = counter.filter(|counter| counter.job_partition_id == record.revision);
            let done = stored.map_or_else(Done::default, |counter| Done {
                count: counter.count,
                attempts: counter.attempts,
                delay: 0,
            });
            let version = Version { revision: record.revision, done, delivered: false };
            self.versions.insert(key.clone(), version);
        }
        Found { key: key.into(), revision: record.revision, job: record.job(), counter }
    }

    /// Serves the oldest request of the engine, or refuses it.
    fn serve(&mut self, full: bool) {
        match self.requests.pop_front() {
            Some(Effect::Persist { job, key, revision, counter, .. }) => {
                let outcome = if self.recipe(&key, revision).is_none() {
                    WriteOutcome::Superseded
                } else if full {
                    WriteOutcome::Full
                } else {
                    self.revision += 1;
                    self.counters.insert(key.to_string(), counter);
                    WriteOutcome::Stored
                };
                self.step(Event::Persisted { job, outcome });
            }
            Some(Effect::Finish { job, key, revision, .. }) => {
                let outcome = if self.recipe(&key, revision).is_none() {
                    WriteOutcome::Superseded
                } else {
                    self.revision += 1;
                    self.jobs.remove(key.as_ref());
                    self.counters.remove(key.as_ref());
                    self.versions.remove(key.as_ref());
                    self.feed.push_back((key.to_string(), self.revision, None));
                    WriteOutcome::Stored
                };
                self.step(Event::Persisted { job, outcome });
            }
            Some(Effect::Load { job, key, revision }) => {
                let record = self.jobs.get(key.as_ref()).filter(|job| job.revision == revision);
                let counter = self.counters.get(key.as_ref()).copied();
                let outcome = record.map_or(LoadOutcome::Superseded, |record| LoadOutcome::Found {
                    job: Box::new(record.job()),
                    counter,
                });
                self.step(Event::Loaded { job, outcome });
            }
            _ => {}
        }
    }

    fn open(&mut self, limited: bool) {
        self.next_stream += 1;
        let mut limits = Vec::new();
        if limited {
            for name in [None, Some("x".into())] {
                let max_concurrent = 1 + small(&mut self.choice, 3);
                limits.push(ConcurrencyLimit { actor_type: "type".into(), name, max_concurrent });
            }
        }
        let both = !limited && self.choice.chance(50);
        let jobs = both || self.choice.chance(50);
        self.streams.insert(self.next_stream, BTreeMap::new());
        self.step(Event::StreamOpened(Registration {
            stream: StreamId(self.next_stream),
            namespace: "ns".into(),
            app_id: jobs.then(|| "app".into()),
            actor_types: if limited || both { vec!["type".into()] } else { Vec::new() },
            limits,
        }));
    }

    fn close(&mut self, stream: u64) {
        let Some(sent) = self.streams.remove(&stream) else { return };
        for sent in sent.into_values() {
            if let Some(version) = self.version(&sent.key, sent.revision) {
                version.delivered = false;
            }
        }
        self.step(Event::StreamClosed { stream: StreamId(stream) });
    }

    /// Answers a delivery of a stream in any way.
    fn answer(&mut self, stream: u64, percent_success: u64) {
        let ids: Vec<u64> = self.streams[&stream].keys().copied().collect();
        let Some(id) = self.choice.pick(&ids) else { return };
        let sent = self.streams.get_mut(&stream).unwrap().remove(&id).unwrap();
        let stream = StreamId(stream);
        let recipe = self.recipe(&sent.key, sent.revision);
        let success = self.choice.chance(percent_success);
        let dropped = self.choice.one_in(20);
        if let Some(version) = self.version(&sent.key, sent.revision) {
            version.delivered = false;
            match &recipe {
                Some(recipe) if !dropped => version.done = version.done.after(recipe, success),
                _ => {}
            }
        }
        self.step(if recipe.is_none() {
            Event::Undeliverable { stream, id, reason: Undeliverable::Superseded }
        } else if dropped {
            Event::Undeliverable { stream, id, reason: Undeliverable::Failed }
        } else {
            let result = if success { AckResult::Success } else { AckResult::Failed };
            Event::Ack { stream, id, result }
        });
    }

    /// The process dies between any two writes, and the next one reads the store.
    fn crash(&mut self) {
        self.engine = Engine::default();
        self.requests.clear();
        self.feed.clear();
        self.streams.clear();
        self.versions.clear();
        self.scan();
    }

    fn scan(&mut self) {
        self.step(Event::ScanBegun);
        self.show_pages(self.jobs.clone().into_iter().collect());
        self.step(Event::ScanEnded);
    }

    /// What is answered before some shards go counts.
    fn leave_shards(&mut self, lost: &BTreeSet<Shard>) {
        self.leaving.clone_from(lost);
        self.step(Event::ShardsLeaving(lost.clone()));
        for _ in 0..4 {
            let streams: Vec<u64> = self.streams.keys().copied().collect();
            match self.choice.pick(&streams) {
                Some(stream) if self.choice.chance(80) => self.answer(stream, 60),
                Some(stream) => self.close(stream),
                None => self.open(false),
            }
            self.now += 1_000;
            self.step(Event::Tick);
        }
        while !self.requests.is_empty() {
            self.serve(false);
        }
        self.leaving.clear();
    }

    /// Some shards go to another member, whose changes are not seen yet, and come back.
    fn lose_shards(&mut self) {
        while !self.requests.is_empty() {
            self.serve(false);
        }
        let lost: BTreeSet<Shard> = Shard::all().filter(|_| self.choice.chance(50)).collect();
        if self.choice.chance(50) {
            self.leave_shards(&lost);
        }
        self.versions.retain(|_, version| !lost.contains(&Shard::of(version.revision)));
        for sent in self.streams.values_mut().flat_map(BTreeMap::values_mut) {
            if lost.contains(&Shard::of(sent.revision)) {
                sent.revision = 0; // the answer applies to nothing
            }
        }
        self.step(Event::ShardsLost(lost.clone()));
        let mut back = self.jobs.clone();
        back.retain(|_, record| lost.contains(&Shard::of(record.revision)));
        self.show_pages(back.into_iter().collect());
    }

    fn act(&mut self) {
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        let stream = self.choice.pick(&streams);
        match (self.choice.below(100), stream) {
            (0..12, _) => self.put(),
            (12..14, _) => self.delete(),
            (14..30, _) => self.feed(),
            (30..48, _) => self.serve(false),
            (48..50, _) => self.serve(true),
            (50..54, _) => {
                let limited = self.choice.chance(40);
                self.open(limited);
            }
            (54..56, Some(stream)) => self.close(stream),
            (56..74, Some(stream)) => self.answer(stream, 60),
            (74, Some(stream)) => {
                let id = self.choice.number();
                let result = AckResult::Failed;
                self.step(Event::Ack { stream: StreamId(stream), id, result });
            }
            (75..92, _) => {
                self.now += [1, 400, 1_000, 1_000, 35_000][self.choice.below(5)];
                self.step(Event::Tick);
            }
            (92..94, _) => {
                self.now -= [1, 500, 60_000][self.choice.below(3)];
                self.step(Event::Tick);
            }
            (94, _) => self.crash(),
            (95, _) if self.feed.is_empty() => self.scan(),
            (96, _) => self.step(Event::Pause),
            (97, _) => self.step(Event::Resume),
            (99, _) => self.lose_shards(),
            (98, _) => {
                let (index, total) = (small(&mut self.choice, 3), small(&mut self.choice, 4));
                self.step(Event::Share(Share { index, total }));
            }
            _ => self.step(Event::Tick),
        }
    }

    /// Runs without faults until no job is left.
    fn settle(&mut self) {
        self.step(Event::Resume);
        self.open(true);
        self.next_stream += 1;
        self.streams.insert(self.next_stream, BTreeMap::new());
        self.step(Event::StreamOpened(Registration {
            stream: StreamId(self.next_stream),
            namespace: "ns".into(),
            app_id: Some("app".into()),
            actor_types: Vec::new(),
            limits: Vec::new(),
        }));
        for _ in 0..2_000 {
            while !self.feed.is_empty() || !self.requests.is_empty() {
                self.feed();
                self.serve(false);
            }
            let streams: Vec<u64> = self.streams.keys().copied().collect();
            for stream in streams {
                self.answer(stream, 100);
            }
            let quiet = self.feed.is_empty() && self.requests.is_empty();
            if self.jobs.is_empty() && quiet && self.streams.values().all(BTreeMap::is_empty) {
                assert_eq!(self.engine.gauges().jobs, 0, "the engine keeps a job that is gone");
                assert_eq!(self.engine.gauges().in_flight, 0);
                return;
            }
            self.now += 20_000;
            self.step(Event::Tick);
        }
        panic!("lost: {:?} in {:?}", self.jobs, self.engine);
    }
}

impl Record {
    fn job(&self) -> Job {
        Job {
            partition_id: self.revision,
            timetable: self.recipe.timetable(),
            policy: self.recipe.policy(),
            namespace: "ns".into(),
            target: if self.app {
                Target::App("app".into())
            } else {
                Target::ActorType("type".into())
            },
            concurrency_key: self.name.map(Into::into),
        }
    }
}

/// Prints the seed of a history that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn no_history_loses_a_tick_or_delivers_one_early_or_twice_at_once() {
    let mut deliveries = 0;
    for seed in 0..HISTORIES {
        let _printed = Seed(seed);
        let mut simulation = Simulation::new(seed);
        for _ in 0..ACTIONS {
            simulation.act();
        }
        simulation.settle();
        deliveries += simulation.deliveries;
    }
    assert!(deliveries as u64 > 10 * HISTORIES, "the histories are too quiet: {deliveries}");
}
