//! What [`Membership::step`](super::membership::Membership::step) takes and returns.

use std::sync::Arc;
use std::time::Duration;

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

/// An input of [`Membership::step`](super::membership::Membership::step).
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
    /// [`Membership::deadline`](super::membership::Membership::deadline) passed.
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

/// An output of [`Membership::step`](super::membership::Membership::step), to be executed in order.
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

/// Numbers of streams of a namespace, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Streams that are members of rounds.
    pub members: usize,
    /// Those of them that host actor types.
    pub hosts: usize,
    /// Streams that wait for the end of a round or a hold-off.
    pub waiting: usize,
}
