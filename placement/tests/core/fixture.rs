//! Simulated sidecars for the pure core, without network and clock.
#![allow(dead_code, reason = "every test binary uses only a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use placement::rounds::event::{Effect, Event, Outcome, Rules};
use placement::rounds::membership::Membership;
use placement::rounds::message::{Host, Message, Operation, Step, StreamId};
use placement::rounds::outbox::{Order, Outbox};

/// The protocol dialect of a simulated sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// 1.17 and newer: acknowledges each step by name.
    Explicit,
    /// Messages without operation, API level 0: acknowledges the pending step.
    Bare,
    /// 1.14 to 1.16: as `Bare`, with an API level.
    Legacy,
}

#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) stream: StreamId,
    pub(crate) host: Host,
    pub(crate) dialect: Dialect,
    outbox: Outbox,
    pub(crate) got: Vec<String>,
    locked: u64,
}

pub(crate) struct Fixture {
    pub(crate) core: Membership,
    pub(crate) now: Instant,
    pub(crate) sidecars: BTreeMap<String, Sidecar>,
    pub(crate) timed_out: Vec<(String, u64)>,
    pub(crate) outcomes: Vec<Outcome>,
    /// Sidecars whose report did not fit into the table.
    pub(crate) refused: Vec<String>,
    names: HashMap<StreamId, String>,
    streams: u64,
}

pub(crate) const TIMEOUT: Duration = Duration::from_secs(8);

impl Fixture {
    pub(crate) fn new(hold_off: Duration) -> Self {
        Self::taken_over(hold_off, 0)
    }

    pub(crate) fn taken_over(hold_off: Duration, epoch: u64) -> Self {
        let now = runtime::clock::monotonic();
        Self {
            core: Membership::taken_over(Rules { round_timeout: TIMEOUT, hold_off }, epoch, now),
            now,
            sidecars: BTreeMap::new(),
            timed_out: vec![],
            outcomes: vec![],
            refused: vec![],
            names: HashMap::new(),
            streams: 0,
        }
    }

    pub(crate) fn join(&mut self, name: &str, types: &[&str]) {
        self.join_as(name, "ns", types, Dialect::Explicit);
    }

    pub(crate) fn join_as(
        &mut self,
        name: &str,
        namespace: &str,
        types: &[&str],
        dialect: Dialect,
    ) {
        self.streams += 1;
        let stream = StreamId(self.streams);
        let host = Host {
            name: name.to_owned(),
            app_id: name.to_owned(),
            namespace: namespace.to_owned(),
            entities: types.iter().map(ToString::to_string).collect(),
            api_level: if dialect == Dialect::Bare { 0 } else { 20 },
            ..Host::default()
        };
        let sidecar = Sidecar {
            stream,
            host,
            dialect,
            outbox: Outbox::new(dialect == Dialect::Legacy),
            got: vec![],
            locked: 0,
        };
        let message = sidecar.report();
        self.names.insert(stream, name.to_owned());
        self.sidecars.insert(name.to_owned(), sidecar);
        self.step(Event::Register { stream, message });
    }

    /// Renames a sidecar in this fixture only: its host keeps its name.
    pub(crate) fn rename(&mut self, name: &str, new: &str) {
        let sidecar = self.sidecars.remove(name).unwrap();
        self.names.insert(sidecar.stream, new.to_owned());
        self.sidecars.insert(new.to_owned(), sidecar);
    }

    pub(crate) fn leave(&mut self, name: &str) {
        let sidecar = self.sidecars.remove(name).unwrap();
        self.step(Event::Closed { stream: sidecar.stream });
    }

    /// Reports other types on the same stream.
    pub(crate) fn report(&mut self, name: &str, types: &[&str]) {
        let sidecar = self.sidecars.get_mut(name).unwrap();
        sidecar.host.entities = types.iter().map(ToString::to_string).collect();
        let (stream, message) = (sidecar.stream, sidecar.report());
        self.step(Event::Message { stream, message });
    }

    pub(crate) fn ack(&mut self, name: &str, step: Step) {
        let version = self.sidecars[name].locked;
        self.ack_version(name, step, Some(version));
    }

    pub(crate) fn ack_version(&mut self, name: &str, step: Step, version: Option<u64>) {
        let sidecar = &self.sidecars[name];
        let stream = sidecar.stream;
        let message = match sidecar.dialect {
            Dialect::Explicit => Message {
                operation: Operation::Ack(step),
                version,
                host: Host { entities: vec![], name: String::new(), ..sidecar.host.clone() },
            },
            Dialect::Bare | Dialect::Legacy => sidecar.report(),
        };
        self.step(Event::Message { stream, message });
    }

    /// Marks the next order as written in the core; returns the order.
    pub(crate) fn read(&mut self, name: &str) -> Option<Order> {
        let sidecar = self.sidecars.get_mut(name)?;
        let order = sidecar.outbox.pop()?;
        sidecar.got.push(shown(&order));
        if let Order::Lock(version) = &order {
            sidecar.locked = *version;
        }
        let (stream, step, version) = (sidecar.stream, order.step(), order.version());
        self.step(Event::Written { stream, step, version });
        Some(order)
    }

    /// Reads all orders of a sidecar and returns everything since the last call.
    pub(crate) fn orders(&mut self, name: &str) -> String {
        while self.read(name).is_some() {}
        self.sidecars
            .get_mut(name)
            .map(|s| std::mem::take(&mut s.got).join(" "))
            .unwrap_or_default()
    }

    /// Lets every sidecar read and acknowledge until nothing changes.
    pub(crate) fn settle(&mut self) {
        loop {
            let names: Vec<String> = self.sidecars.keys().cloned().collect();
            let mut moved = false;
            for name in &names {
                while let Some(order) = self.read(name) {
                    moved = true;
                    if self.sidecars[name].dialect != Dialect::Legacy {
                        self.ack(name, order.step());
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.step(Event::Tick);
    }

    pub(crate) fn step(&mut self, event: Event) {
        for effect in self.core.step(event, self.now) {
            match effect {
                Effect::Send { stream, order } => self.deliver(stream, [order]),
                Effect::Push { stream, table } => {
                    let version = table.version();
                    let orders =
                        [Order::Lock(version), Order::Update(table), Order::Unlock(version)];
                    self.deliver(stream, orders);
                }
                Effect::TimeOut { stream, version, .. } => {
                    let name = self.names[&stream].clone();
                    self.sidecars.remove(&name);
                    self.timed_out.push((name, version));
                }
                Effect::TableFull { stream, .. } => {
                    let name = self.names[&stream].clone();
                    self.sidecars.remove(&name);
                    self.refused.push(name);
                }
                Effect::RoundEnded { outcome, .. } => self.outcomes.push(outcome),
                Effect::SlowDrain { .. } | Effect::Counts { .. } => {}
            }
        }
    }

    fn deliver<const N: usize>(&mut self, stream: StreamId, orders: [Order; N]) {
        let name = &self.names[&stream];
        let sidecar = self.sidecars.get_mut(name).filter(|s| s.stream == stream);
        let sidecar = sidecar.unwrap_or_else(|| panic!("an order for {name}, which is gone"));
        for order in orders {
            sidecar.outbox.push(order);
        }
    }
}

impl Sidecar {
    pub(crate) fn report(&self) -> Message {
        let operation = match self.dialect {
            Dialect::Explicit => Operation::Report,
            Dialect::Bare | Dialect::Legacy => Operation::Unsaid,
        };
        Message { operation, version: None, host: self.host.clone() }
    }
}

/// `lock1`, `update1{a:A,B}`, `unlock1`.
pub(crate) fn shown(order: &Order) -> String {
    let head = format!("{}{}", order.step().to_string().to_lowercase(), order.version());
    let Order::Update(table) = order else { return head };
    let types: Vec<String> = table
        .by_type(|host| host)
        .into_iter()
        .map(|(entity, hosts)| {
            let hosts: Vec<&str> = hosts.iter().map(|h| h.name.as_str()).collect();
            format!("{entity}:{}", hosts.join(","))
        })
        .collect();
    format!("{head}{{{}}}", types.join(" "))
}

/// The stream count and the table of a namespace, as the state endpoint would show them.
pub(crate) fn table(core: &Membership, namespace: &str) -> Option<(u64, Vec<String>)> {
    let tables = core.tables();
    let table = tables.get(&Arc::<str>::from(namespace))?;
    Some((table.version(), table.hosts().iter().map(|h| h.name.clone()).collect()))
}
