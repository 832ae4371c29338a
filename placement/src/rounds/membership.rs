//! All namespaces of the process: the pure core of placement.
//!
//! [`Membership::step`] takes one event and returns the effects; it does no I/O and reads no clock.
//! Namespaces share only the floor of version numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rounds::event::{Counts, Effect, Event, Rules};
use crate::rounds::group::{Context, Group, Registration};
use crate::rounds::message::StreamId;
use crate::rounds::table::Table;

/// All namespaces and their streams.
#[derive(Debug)]
pub struct Membership {
    rules: Rules,
    groups: HashMap<Arc<str>, Group>,
    streams: HashMap<StreamId, Arc<str>>,
    deadlines: BTreeSet<(Instant, Arc<str>)>,
    /// First version of a new namespace: above every version of removed namespaces, so that a
    /// sidecar that reconnects never gets a version that it has seen (Dapr 1.14 skips such a
    /// table), without a record of the namespaces themselves.
    floor: u64,
    /// Until then a new namespace waits for its sidecars to reconnect from the former leader.
    returning: Option<Instant>,
}

/// After this time the sidecars of a former leader have reconnected or ended.
const RETURN: Duration = Duration::from_secs(10);

/// Each leader numbers its tables from the epoch of its election in the upper half of the version,
/// so that versions grow across leaders.
const EPOCH_SHIFT: u32 = 32;

impl Membership {
    /// No stream at all. The first round has version 1.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            groups: HashMap::new(),
            streams: HashMap::new(),
            deadlines: BTreeSet::new(),
            floor: 0,
            returning: None,
        }
    }

    /// No stream yet, after `epoch` changes of the leader. Sidecars are expected to reconnect from
    /// the former leader. 0 is the same as [`Self::new`].
    pub fn taken_over(rules: Rules, epoch: u64, now: Instant) -> Self {
        let floor = epoch << EPOCH_SHIFT;
        Self { floor, returning: (epoch > 0).then(|| now + RETURN), ..Self::new(rules) }
    }

    /// As [`Self::new`], with versions above `floor`.
    #[must_use]
    pub fn above(mut self, floor: u64) -> Self {
        self.floor = self.floor.max(floor);
        self
    }

    /// The highest version that any namespace has had.
    pub fn highest_version(&self) -> u64 {
        self.groups.values().map(Group::version).fold(self.floor, u64::max)
    }

    /// The effects of an event at `now`. Times must not go backwards.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Register { stream, message } => {
                let namespace: Arc<str> = message.host.namespace.as_str().into();
                self.streams.insert(stream, namespace.clone());
                let (floor, returning) = (self.floor, self.returning.is_some_and(|end| now < end));
                self.groups.entry(namespace.clone()).or_insert_with(|| {
                    if returning { Group::settling(floor, now) } else { Group::new(floor) }
                });
                let new = Registration { legacy: message.is_legacy(), host: message.host };
                self.with_group(&namespace, now, &mut effects, |g, cx| g.register(stream, new, cx));
            }
            Event::Message { stream, message } => {
                self.with_group_of(stream, now, &mut effects, |g, cx| {
                    g.message(stream, message, cx);
                });
            }
            Event::Written { stream, step, version } => {
                self.with_group_of(stream, now, &mut effects, |g, cx| {
                    g.written(stream, step, version, cx);
                });
            }
            Event::Closed { stream } => {
                self.with_group_of(stream, now, &mut effects, |g, cx| g.close(stream, cx));
                self.streams.remove(&stream);
            }
            Event::Tick => {
                while let Some((due, namespace)) = self.deadlines.first().cloned()
                    && due <= now
                {
                    self.with_group(&namespace, now, &mut effects, Group::tick);
                }
            }
        }
        effects
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The table of each namespace with at least one stream, waiting or not.
    pub fn tables(&self) -> BTreeMap<Arc<str>, Arc<Table>> {
        self.groups.iter().map(|(ns, group)| (ns.clone(), group.table().clone())).collect()
    }

    /// The streams of each namespace.
    pub fn counts(&self) -> BTreeMap<Arc<str>, Counts> {
        self.groups.iter().map(|(ns, group)| (ns.clone(), group.counts())).collect()
    }

    fn with_group_of(
        &mut self,
        stream: StreamId,
        now: Instant,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Group, &mut Context<'_>),
    ) {
        if let Some(namespace) = self.streams.get(&stream).cloned() {
            self.with_group(&namespace, now, effects, work);
        }
    }

    /// Runs `work` on a group, then updates what is derived from it: its deadline and its counts. A
    /// group without streams is removed.
    fn with_group(
        &mut self,
        namespace: &Arc<str>,
        now: Instant,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Group, &mut Context<'_>),
    ) {
        let Some(group) = self.groups.get_mut(namespace) else { return };
        let (deadline, counts) = (group.deadline(), group.counts());
        let first = effects.len();
        work(group, &mut Context { now, rules: &self.rules, namespace, effects });
        if let Some(due) = deadline {
            self.deadlines.remove(&(due, namespace.clone()));
        }
        if group.counts() != counts {
            let counts = group.counts();
            effects.push(Effect::Counts { namespace: namespace.clone(), counts });
        }
        for effect in effects.iter().skip(first) {
            if let Effect::TimeOut { stream, .. } | Effect::TableFull { stream, .. } = effect {
                self.streams.remove(stream);
            }
        }
        if group.is_empty() {
            self.floor = self.floor.max(group.version() + u64::from(group.version() > 0));
            self.groups.remove(namespace);
        } else if let Some(due) = group.deadline() {
            self.deadlines.insert((due, namespace.clone()));
        }
    }
}
