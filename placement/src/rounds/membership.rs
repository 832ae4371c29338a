//! All namespaces of the process: the pure core of placement.
//!
//! [`Membership::step`] takes one event and returns the effects; it does no I/O and reads no clock.
//! Namespaces share only the floor of version numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::rounds::group::Counts;
use crate::rounds::group::{Context, Group, Registration};
use crate::rounds::message::{Message, Step, StreamId};
use crate::rounds::outbox::Order;
use crate::rounds::table::Table;

/// Durations that shape the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Budget of a whole round, from the first `lock` to the last acknowledgement of `unlock`.
    pub round_timeout: Duration,
    /// Pause after a completed round during which changes only queue, extended while they continue
    /// (up to half a second, unless it is longer itself); zero for none.
    pub hold_off: Duration,
}

/// An input of [`Membership::step`].
#[derive(Debug)]
pub enum Event {
    /// The first message of a new stream, authorised.
    Register {
        /// The new stream; its number is greater than all before it.
        stream: StreamId,
        /// The message, which becomes its host if it reports one.
        message: Message,
    },
    /// A later message of a stream, authorised.
    Message {
        /// The stream that sent it.
        stream: StreamId,
        /// A report or an acknowledgement.
        message: Message,
    },
    /// An order was handed to the transport.
    Written {
        /// The stream that it was written to.
        stream: StreamId,
        /// The order's step.
        step: Step,
        /// The order's version.
        version: u64,
    },
    /// A stream ended. Events of ended streams are ignored, so a repetition is harmless.
    Closed {
        /// The stream that ended.
        stream: StreamId,
    },
    /// [`Membership::deadline`] passed.
    Tick,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every member acknowledged every step.
    Complete,
    /// A report changed the hosts and started a new round.
    Superseded,
    /// A member did not acknowledge in time.
    TimedOut,
    /// The last member left.
    Abandoned,
}

/// An output of [`Membership::step`], to be executed in order.
#[derive(Debug)]
pub enum Effect {
    /// Send an order.
    Send {
        /// The receiving stream.
        stream: StreamId,
        /// The step and its table or version.
        order: Order,
    },
    /// Send a whole round on one stream, which does not have to acknowledge it.
    Push {
        /// The receiving stream.
        stream: StreamId,
        /// The table, whose version may be 0.
        table: Arc<Table>,
    },
    /// End a stream that did not acknowledge in time. It is no longer a member.
    TimeOut {
        /// Namespace of the stream.
        namespace: Arc<str>,
        /// The stream to end.
        stream: StreamId,
        /// Version of the round.
        version: u64,
        /// The step that it did not acknowledge.
        expected: Step,
    },
    /// End a stream whose report would make the table too large. It is no longer a member.
    TableFull {
        /// Namespace of the stream.
        namespace: Arc<str>,
        /// The stream to end.
        stream: StreamId,
    },
    /// Report a sidecar that repeatedly uses most of a round's budget.
    SlowDrain {
        /// Namespace of the sidecar.
        namespace: Arc<str>,
        /// App id of the sidecar.
        app_id: String,
        /// Duration from `update` to its acknowledgement.
        took: Duration,
    },
    /// Record the outcome of a round.
    RoundEnded {
        /// Namespace of the round.
        namespace: Arc<str>,
        /// Version of the round.
        version: u64,
        /// The reason of its end.
        outcome: Outcome,
        /// Duration since its first `lock`.
        took: Duration,
    },
    /// Record how many streams a namespace has now.
    Counts {
        /// Namespace that changed.
        namespace: Arc<str>,
        /// Its numbers of streams; all zero when the last has ended.
        counts: Counts,
    },
}

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
