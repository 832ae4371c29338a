//! A seeded simulation: sidecars join, report, acknowledge, stall, repeat messages, crash and
//! reconnect in any order, and their messages are delayed, late, or lost with their connection.
//! After each step a model that sees only events and effects checks the invariants.
//!
//! A failure prints its seed; `PLACEMENT_SEED=<seed> cargo test -p placement --test core` repeats
//! it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use placement::rounds::event::{Effect, Event, Rules};
use placement::rounds::membership::Membership;
use placement::rounds::message::{Host, Message, Operation, Step, StreamId};
use placement::rounds::outbox::{Order, Outbox};
use testkit::Choice;

const TIMEOUT: Duration = Duration::from_secs(8);
const SEEDS: u64 = 2_000;
const STEPS: usize = 300;
/// Actors of each type, distributed among its hosts.
const ACTORS: usize = 5;

#[test]
fn invariants_hold_for_any_order_of_events() {
    let wanted = runtime::environment::var("PLACEMENT_SEED").and_then(|s| s.parse().ok());
    let mut completed = 0;
    for seed in wanted.map_or(0..SEEDS, |seed: u64| seed..seed + 1) {
        println!("PLACEMENT_SEED={seed}");
        completed += Simulation::new(seed).run();
    }
    assert!(completed > 100 || wanted.is_some(), "only {completed} rounds: it shows nothing");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Explicit,
    Bare,
    Legacy,
}

type Actors = BTreeSet<(String, usize)>;

/// One stream, both ends of it.
struct Peer {
    host: Host,
    dialect: Dialect,
    /// Never reads again.
    stalled: bool,
    /// Acknowledged what it had not read.
    lied: bool,
    /// Actors, as type and number, that run here, and that its newest table gives it.
    active: Actors,
    owned: Actors,
    outbox: Outbox,
    /// Messages in flight to the server.
    wire: VecDeque<Message>,
    /// What the sidecar read last, and the version it locked.
    last: Option<Step>,
    locked: u64,
    table: Option<(u64, Vec<String>)>,
    // State derived from the effects:
    /// The step and version that the server waits for, and the start of the round.
    owes: Option<(Step, u64)>,
}

struct Simulation {
    random: Choice,
    core: Membership,
    rules: Rules,
    now: Instant,
    peers: BTreeMap<StreamId, Peer>,
    streams: u64,
    /// Per namespace: the newest version and when its round began.
    rounds: BTreeMap<String, (u64, Instant)>,
    /// Leaders before this one.
    epoch: u64,
    completed: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Choice::new(seed);
        let hold_off = [0, 100, 700][random.below(3)];
        let rules = Rules { round_timeout: TIMEOUT, hold_off: Duration::from_millis(hold_off) };
        Self {
            random,
            core: Membership::new(rules),
            rules,
            now: runtime::clock::monotonic(),
            peers: BTreeMap::new(),
            streams: 0,
            rounds: BTreeMap::new(),
            epoch: 0,
            completed: 0,
        }
    }

    fn run(mut self) -> usize {
        for _ in 0..STEPS {
            self.random_move();
            self.check_counts();
        }
        self.come_to_rest();
        self.check_rest();
        while let Some(stream) = self.peers.keys().next().copied() {
            self.close(stream);
            self.check_counts();
        }
        assert!(self.core.tables().is_empty() && self.core.deadline().is_none(), "nothing remains");
        self.completed
    }

    fn random_move(&mut self) {
        let all: Vec<StreamId> = self.peers.keys().copied().collect();
        let Some(stream) = self.random.pick(&all) else { return self.join() };
        match self.random.below(20) {
            0 | 1 if all.len() < 12 => self.join(),
            2 => self.close(stream),
            3 => {
                let types = self.types();
                let peer = self.peers.get_mut(&stream).unwrap();
                peer.host.entities = types;
                let report = peer.report();
                peer.wire.push_back(report);
            }
            4 if self.random.one_in(4) => self.peers.get_mut(&stream).unwrap().stalled = true,
            5 => self.stray(stream),
            8 if self.random.one_in(20) => self.lead_elsewhere(),
            6 => {
                let step = [10, 200, 2_000][self.random.below(3)];
                self.now += Duration::from_millis(step);
                self.step(Event::Tick);
            }
            7..=12 => self.read(stream),
            _ => self.receive(stream),
        }
    }

    fn types(&mut self) -> Vec<String> {
        ["a", "b", "c"].iter().filter(|_| self.random.one_in(2)).map(ToString::to_string).collect()
    }

    fn join(&mut self) {
        let dialect = [Dialect::Explicit, Dialect::Explicit, Dialect::Bare, Dialect::Legacy]
            [self.random.below(4)];
        let host = Host {
            // Few names, so that sidecars reconnect while their old stream is open.
            name: format!("10.0.0.{}:50002", self.random.below(8)),
            app_id: "app".to_owned(),
            namespace: ["one", "two"][self.random.below(2)].to_owned(),
            entities: self.types(),
            api_level: if dialect == Dialect::Bare { 0 } else { 20 },
            ..Host::default()
        };
        self.open(host, dialect);
    }

    fn open(&mut self, host: Host, dialect: Dialect) {
        self.streams += 1;
        let stream = StreamId(self.streams);
        let peer = Peer {
            host,
            dialect,
            stalled: false,
            lied: false,
            active: Actors::new(),
            owned: Actors::new(),
            outbox: Outbox::new(dialect == Dialect::Legacy),
            wire: VecDeque::new(),
            last: None,
            locked: 0,
            table: None,
            owes: None,
        };
        let message = peer.report();
        self.peers.insert(stream, peer);
        self.step(Event::Register { stream, message });
    }

    /// The connection ends: messages in flight are lost, or some arrive first.
    fn close(&mut self, stream: StreamId) {
        while self.random.one_in(2) && self.peers.get(&stream).is_some_and(|p| !p.wire.is_empty()) {
            self.receive(stream);
        }
        // A round may have timed it out already; its end is reported anyway, sometimes twice.
        for _ in 0..=self.random.below(2) {
            self.peers.remove(&stream);
            self.step(Event::Closed { stream });
        }
    }

    /// Another replica leads: it starts empty, and every sidecar reconnects with a new stream.
    fn lead_elsewhere(&mut self) {
        self.epoch += 1;
        self.core = Membership::taken_over(self.rules, self.epoch, self.now);
        for old in std::mem::take(&mut self.peers).into_values().filter(|p| !p.stalled) {
            self.open(old.host, old.dialect);
        }
    }

    /// A sidecar that violates the protocol.
    fn stray(&mut self, stream: StreamId) {
        let step = [Step::Lock, Step::Update, Step::Unlock][self.random.below(3)];
        let operation = if self.random.one_in(5) { Operation::Other } else { Operation::Ack(step) };
        let peer = self.peers.get_mut(&stream).unwrap();
        peer.lied = true;
        let version = [Some(peer.locked + 1), Some(peer.locked.saturating_sub(1)), Some(u64::MAX)]
            [self.random.below(3)];
        let host = Host { entities: vec![], ..peer.host.clone() };
        peer.wire.push_back(Message { operation, version, host });
    }

    /// The sidecar reads its next order and answers, once or twice.
    fn read(&mut self, stream: StreamId) {
        let twice = self.random.one_in(8);
        let Some(peer) = self.peers.get_mut(&stream).filter(|p| !p.stalled) else { return };
        let Some(order) = peer.outbox.pop() else { return };
        peer.check_order(&order);
        let step = order.step();
        let answer = match peer.dialect {
            Dialect::Explicit => Message {
                operation: Operation::Ack(step),
                version: Some(peer.locked),
                host: Host { entities: vec![], ..peer.host.clone() },
            },
            Dialect::Bare | Dialect::Legacy => peer.report(),
        };
        if peer.dialect == Dialect::Explicit && twice {
            peer.wire.push_back(answer.clone());
        }
        peer.wire.push_back(answer);
        if peer.dialect == Dialect::Legacy && peer.owes == Some((step, order.version())) {
            peer.owes = None;
        }
        self.check_owners(stream);
        self.step(Event::Written { stream, step, version: order.version() });
    }

    /// No actor runs on two hosts that both follow the protocol. A host that reconnects has its
    /// name twice; messages without operation cannot follow it, see `Operation::Unsaid`.
    fn check_owners(&self, stream: StreamId) {
        let here = &self.peers[&stream];
        let honest = |p: &Peer| !p.stalled && !p.lied && p.dialect != Dialect::Bare;
        for other in self.peers.values().filter(|p| {
            honest(p) && p.host.namespace == here.host.namespace && p.host.name != here.host.name
        }) {
            let both: Vec<_> = here.active.intersection(&other.active).collect();
            assert!(!honest(here) || both.is_empty(), "{both:?}: {:?} {:?}", here.host, other.host);
        }
    }

    /// The server receives the next message of a stream.
    fn receive(&mut self, stream: StreamId) {
        let Some(peer) = self.peers.get_mut(&stream) else { return };
        let Some(message) = peer.wire.pop_front() else { return };
        let settles = match message.operation {
            Operation::Ack(step) => peer.owes.is_some_and(|(s, v)| {
                s == step && message.version.is_none_or(|version| version == v)
            }),
            Operation::Unsaid => peer.dialect == Dialect::Bare,
            Operation::Report | Operation::Other => false,
        };
        if settles {
            peer.owes = None;
        }
        self.step(Event::Message { stream, message });
    }

    fn step(&mut self, event: Event) {
        let effects = self.core.step(event, self.now);
        for effect in effects {
            match effect {
                Effect::Send { stream, order } => self.sent(stream, order),
                Effect::Push { stream, table } => {
                    let peer = self.peers.get_mut(&stream).expect("a push to a closed stream");
                    assert_eq!(peer.owes, None, "a push during a round");
                    let version = table.version();
                    peer.outbox.push(Order::Lock(version));
                    peer.outbox.push(Order::Update(table));
                    peer.outbox.push(Order::Unlock(version));
                }
                Effect::TimeOut { stream, version, expected, .. } => {
                    let peer = self.peers.remove(&stream).expect("timed out twice");
                    assert_eq!(peer.owes, Some((expected, version)), "it owed nothing");
                    let (newest, began) = self.rounds[&peer.host.namespace];
                    assert_eq!(newest, version);
                    assert!(self.now >= began + TIMEOUT, "too early");
                }
                Effect::RoundEnded { outcome, .. } => {
                    self.completed +=
                        usize::from(outcome == placement::rounds::event::Outcome::Complete);
                }
                Effect::TableFull { stream, .. } => {
                    panic!("stream {stream} was refused although the table is nearly empty")
                }
                Effect::Counts { .. } | Effect::SlowDrain { .. } => {}
            }
        }
        if let Some(due) = self.core.deadline() {
            assert!(due <= self.now + self.rules.round_timeout.max(self.rules.hold_off));
        }
    }

    /// The gate of the protocol: no sidecar gets the next step before all have acknowledged this
    /// one.
    fn sent(&mut self, stream: StreamId, order: Order) {
        let namespace = self.peers[&stream].host.namespace.clone();
        let (step, version) = (order.step(), order.version());
        let round = self.rounds.entry(namespace.clone()).or_insert((0, self.now));
        if step == Step::Lock && version != round.0 {
            assert!(version > round.0, "versions grow, even after a namespace was empty");
            *round = (version, self.now);
        }
        assert_eq!(round.0, version, "{step} of an old version");
        for other in self.peers.values().filter(|p| p.host.namespace == namespace) {
            if let Some((owed, of)) = other.owes {
                let behind = of == version && owed < step;
                assert!(!behind, "{step} {version} although {owed} is owed by {:?}", other.host);
            }
        }
        let peer = self.peers.get_mut(&stream).expect("an order for a closed stream");
        peer.owes = Some((step, version));
        peer.outbox.push(order);
    }

    fn check_counts(&self) {
        let mut want = BTreeMap::<&str, usize>::new();
        for peer in self.peers.values() {
            *want.entry(&peer.host.namespace).or_default() += 1;
        }
        let counts = self.core.counts();
        let have: BTreeMap<&str, usize> =
            counts.iter().map(|(ns, c)| (&**ns, c.members + c.waiting)).collect();
        assert_eq!(have, want, "members and open streams");
        assert!(
            self.core.tables().len() == have.len(),
            "a namespace without streams costs nothing"
        );
    }

    /// All sidecars that still read do so and answer until nothing changes and no deadline is left.
    fn come_to_rest(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "it does not come to rest");
            let streams: Vec<StreamId> = self.peers.keys().copied().collect();
            let mut moved = false;
            for stream in streams {
                while self.peers.get(&stream).is_some_and(|p| !p.wire.is_empty()) {
                    self.receive(stream);
                    moved = true;
                }
                if self.peers.get(&stream).is_some_and(|p| !p.stalled && !p.outbox.is_empty()) {
                    self.read(stream);
                    moved = true;
                }
            }
            if moved {
                continue;
            }
            if let Some(due) = self.core.deadline() {
                self.now = self.now.max(due);
                self.step(Event::Tick);
            } else {
                self.heartbeats();
                if self.core.deadline().is_none() {
                    return;
                }
            }
        }
    }

    /// Sidecars before 1.17 repeat their report every second: during a round it counts as an
    /// acknowledgement only.
    fn heartbeats(&mut self) {
        let streams: Vec<StreamId> = self.peers.keys().copied().collect();
        for stream in streams {
            let Some(peer) = self.peers.get_mut(&stream) else { continue };
            if peer.dialect != Dialect::Explicit {
                let report = peer.report();
                peer.wire.push_back(report);
                self.receive(stream);
            }
        }
    }

    /// The tables are those of the open streams, and every sidecar that reads has them.
    fn check_rest(&self) {
        for (namespace, table) in self.core.tables() {
            let peers = || self.peers.values().filter(|p| p.host.namespace == *namespace);
            let typed: BTreeSet<&str> = peers()
                .filter(|p| !p.host.entities.is_empty())
                .map(|p| p.host.name.as_str())
                .collect();
            let have: BTreeSet<&str> = table.hosts().iter().map(|h| h.name.as_str()).collect();
            assert_eq!(have, typed, "namespace {namespace}");
            for peer in peers().filter(|p| !p.stalled) {
                let (version, hosts) = peer.table.clone().expect("every sidecar has a table");
                assert_eq!((version, hosts), (table.version(), described(&table)));
                assert_eq!(peer.last, Some(Step::Unlock), "no sidecar stays locked");
            }
        }
    }
}

/// The actors that a table assigns to a host. Any function of the table can replace the ring here.
fn owned(table: &placement::rounds::table::Table, name: &str) -> Actors {
    let share = |(entity, hosts): (&str, Vec<&Host>)| {
        let own = (0..ACTORS).filter(|i| hosts[i % hosts.len()].name == name);
        own.map(|i| (entity.to_owned(), i)).collect::<Vec<_>>()
    };
    table.by_type(|host| host).into_iter().flat_map(share).collect()
}

fn described(table: &placement::rounds::table::Table) -> Vec<String> {
    table.hosts().iter().map(|h| format!("{} {:?}", h.name, h.entities)).collect()
}

impl Peer {
    fn report(&self) -> Message {
        let operation = match self.dialect {
            Dialect::Explicit => Operation::Report,
            Dialect::Bare | Dialect::Legacy => Operation::Unsaid,
        };
        Message { operation, version: None, host: self.host.clone() }
    }

    /// What a sidecar of this kind accepts.
    fn check_order(&mut self, order: &Order) {
        let version = order.version();
        match order {
            Order::Lock(_) => {
                assert!(version >= self.locked, "lock of a lower version");
                let paired = !matches!(self.last, Some(Step::Lock | Step::Update));
                assert!(paired || self.dialect != Dialect::Legacy, "two locks in a row");
                self.locked = version;
            }
            Order::Update(table) => {
                assert_eq!((self.last, self.locked), (Some(Step::Lock), version));
                self.table = Some((version, described(table)));
                self.owned = owned(table, &self.host.name);
                self.active.retain(|actor| self.owned.contains(actor));
            }
            Order::Unlock(_) => {
                assert_eq!(self.locked, version);
                let legacy = self.dialect == Dialect::Legacy && self.last == Some(Step::Lock);
                assert!(self.last == Some(Step::Update) || legacy, "unlock after {:?}", self.last);
                self.active.clone_from(&self.owned);
            }
        }
        self.last = Some(order.step());
    }
}
