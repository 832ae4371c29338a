//! The rounds of one namespace.
//!
//! ```text
//!  idle ──change──► LOCK(v) ──all acked──► UPDATE(v) ──all acked──► UNLOCK(v) ──all acked──► idle
//! ```
//! The members store their hosts; there is no other store. Hosts may differ from the table
//! (`dirty`) only while a round or a hold-off is pending; [`Group::settle`] is the one place that
//! starts a round for them. A table is built when its round starts, so equal versions are equal
//! tables.
//! Source: Dapr 1.18, placement; where this differs, the code states the reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rounds::event::{Counts, Effect, Outcome, Rules};
use crate::rounds::hold_off::HoldOff;
use crate::rounds::message::{Host, Message, Operation, Step, StreamId};
use crate::rounds::outbox::Order;
use crate::rounds::table::{MAX_TABLE_BYTES, ORDER_OVERHEAD, Table, charge};

/// A report that changes types restarts the current round at most this often; then it waits for its
/// end, so that many reports cannot lock a namespace indefinitely.
const MAX_SUPERSESSIONS: u32 = 3;

/// Slow drains of one sidecar after which it is reported in the log; one may be a coincidence.
const SLOW_DRAINS: u32 = 2;

/// The window of the first round after a change of leader: the sidecars of the former leader
/// reconnect together, and the first of them must not get all actors.
const SETTLE: Duration = Duration::from_millis(100);

/// The streams of one namespace and their round.
#[derive(Debug)]
pub(crate) struct Group {
    version: u64,
    table: Arc<Table>,
    /// The hosts differ from the table.
    dirty: bool,
    members: BTreeMap<StreamId, Member>,
    /// Members that host actor types.
    hosts: usize,
    /// Sum over all streams of what their hosts add to a table; see [`charge`].
    charged: usize,
    /// Registered, but not yet members: they get no orders and owe no acknowledgement.
    waiting: BTreeMap<StreamId, Registration>,
    round: Option<Round>,
    hold_off: Option<HoldOff>,
    /// How long the last round took that was completed.
    last_round: Option<Duration>,
    /// A report ended the previous hold-off early.
    cut_short: bool,
    /// How often the current round replaced an unfinished one.
    supersessions: u32,
}

/// A stream that waits to become a member.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) legacy: bool,
    pub(crate) host: Host,
}

#[derive(Debug)]
struct Member {
    app_id: String,
    legacy: bool,
    /// Present if it hosts actor types.
    host: Option<Arc<Host>>,
    /// A report that waits for the end of the round.
    held: Option<Host>,
    /// The larger of what its stored host and its waiting report add to the table, in bytes.
    charge: usize,
    /// Acknowledged the current step.
    acked: bool,
    slow_drains: u32,
}

#[derive(Debug)]
struct Round {
    step: Step,
    started: Instant,
    step_started: Instant,
    deadline: Instant,
    /// Members that have not acknowledged the step.
    missing: usize,
}

impl Group {
    /// An empty group whose first round is `floor + 1`.
    pub(crate) fn new(floor: u64) -> Self {
        Self {
            version: floor,
            table: Arc::new(Table::new(floor, [])),
            dirty: false,
            members: BTreeMap::new(),
            hosts: 0,
            charged: 0,
            waiting: BTreeMap::new(),
            round: None,
            hold_off: None,
            last_round: None,
            cut_short: false,
            supersessions: 0,
        }
    }

    /// A group after a change of leader: its first round waits until no more sidecars join.
    pub(crate) fn settling(floor: u64, now: Instant) -> Self {
        Self { hold_off: Some(HoldOff::new(SETTLE, now)), ..Self::new(floor) }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { members: self.members.len(), hosts: self.hosts, waiting: self.waiting.len() }
    }

    /// When [`Group::tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let hold_off = self.hold_off.as_ref().map(HoldOff::due);
        self.round.as_ref().map(|r| r.deadline).or(hold_off)
    }

    /// Starts a round or pushes the table if needed, unless a round or a hold-off is pending.
    fn settle_when_idle(&mut self, cx: &mut Context<'_>) {
        if let Some(hold_off) = &mut self.hold_off {
            hold_off.extend(cx.now);
        } else if self.round.is_none() {
            self.settle(cx);
        }
    }

    /// Ends a hold-off early if a host has left that the table still has.
    fn shorten_hold_off(&mut self, now: Instant) {
        if let (Some(hold_off), Some(took), true) =
            (&mut self.hold_off, self.last_round, self.dirty)
        {
            hold_off.shorten(took, now);
        }
    }

    /// A stream sent its first message.
    pub(crate) fn register(&mut self, stream: StreamId, new: Registration, cx: &mut Context<'_>) {
        if !self.recharge(0, charge(&new.host)) {
            return refuse(stream, cx);
        }
        self.waiting.insert(stream, new);
        self.settle_when_idle(cx);
    }

    /// Accounts for a stream whose charge changes; returns false, without effect, if the table
    /// would exceed what sidecars can read. A smaller charge is always accepted.
    fn recharge(&mut self, old: usize, new: usize) -> bool {
        let charged = self.charged - old + new;
        if new > old && charged + ORDER_OVERHEAD > MAX_TABLE_BYTES {
            return false;
        }
        self.charged = charged;
        true
    }

    /// A stream sent a later message.
    pub(crate) fn message(&mut self, stream: StreamId, message: Message, cx: &mut Context<'_>) {
        if let Some(waiting) = self.waiting.get_mut(&stream) {
            // The newest report counts, so that admitting it later costs one round, not two.
            if matches!(message.operation, Operation::Unsaid | Operation::Report) {
                let (old, new) = (charge(&waiting.host), charge(&message.host));
                waiting.host = message.host;
                if !self.recharge(old, new) {
                    self.waiting.remove(&stream);
                    self.charged -= old;
                    refuse(stream, cx);
                }
            }
            return;
        }
        if message.version.is_some_and(|v| v < self.version) {
            return; // acknowledges a superseded round
        }
        let pending = self.round.as_ref().map(|r| r.step);
        match (message.operation, pending) {
            (Operation::Report, _) | (Operation::Unsaid, None) => {
                self.report(stream, message.host, cx);
            }
            (Operation::Unsaid, Some(step)) => self.unsaid(stream, step, cx),
            (Operation::Ack(step), _) => {
                if message.version.is_none_or(|v| v == self.version) {
                    self.ack(stream, step, cx);
                }
            }
            (Operation::Other, _) => {}
        }
    }

    /// An order was written to a stream of a sidecar that sends no acknowledgements. Its next
    /// message, one per second, would count too, but the other sidecars would stay locked until
    /// then.
    pub(crate) fn written(
        &mut self,
        stream: StreamId,
        step: Step,
        version: u64,
        cx: &mut Context<'_>,
    ) {
        let legacy = self.members.get(&stream).is_some_and(|m| m.legacy);
        if legacy && version == self.version {
            self.ack(stream, step, cx);
        }
    }

    /// A stream ended.
    pub(crate) fn close(&mut self, stream: StreamId, cx: &mut Context<'_>) {
        if let Some(waiting) = self.waiting.remove(&stream) {
            self.charged -= charge(&waiting.host);
            return;
        }
        let Some(member) = self.remove(stream) else { return };
        if let Some(round) = &mut self.round {
            round.missing -= usize::from(!member.acked);
            if self.members.is_empty() {
                // No member is left to finish it, so waiting streams need not wait for its end.
                self.end_round(Outcome::Abandoned, cx);
                self.settle(cx);
            } else {
                self.advance(cx);
            }
        } else {
            self.settle_when_idle(cx);
            self.shorten_hold_off(cx.now);
        }
    }

    /// A deadline passed.
    pub(crate) fn tick(&mut self, cx: &mut Context<'_>) {
        if self.round.as_ref().is_some_and(|r| r.deadline <= cx.now) {
            self.time_out(cx);
        }
        if self.hold_off.as_ref().is_some_and(|h| h.due() <= cx.now) {
            self.hold_off = None;
            self.cut_short = false;
            self.settle(cx);
        }
    }

    fn report(&mut self, stream: StreamId, host: Host, cx: &mut Context<'_>) {
        let Some(member) = self.members.get_mut(&stream) else { return };
        member.held = None; // an older report that waited for a round or a hold-off
        let (old, current) = (member.charge, member.host.as_deref().map_or(0, charge));
        let changed = member.entities() != host.entities;
        let new = if changed { current.max(charge(&host)) } else { current };
        if !self.recharge(old, new) {
            self.close(stream, cx);
            return refuse(stream, cx);
        }
        let Some(member) = self.members.get_mut(&stream) else { return };
        member.charge = new;
        // An unchanged report of a stream without types needs no answer: an idle member always
        // holds the table of the current version.
        if !changed {
            return;
        }
        if let Some(hold_off) = &mut self.hold_off {
            // The change of a known host need not wait for new streams, once.
            if self.cut_short {
                member.held = Some(host);
                return hold_off.extend(cx.now);
            }
            self.cut_short = true;
        } else if self.round.is_some() && self.supersessions >= MAX_SUPERSESSIONS {
            member.held = Some(host);
            return;
        }
        self.store(stream, host);
        self.settle(cx);
    }

    /// A message without operation during a round. From a sidecar before 1.17 it is its report of
    /// this second, possibly sent before the order arrived: for those [`Self::written`] counts.
    fn unsaid(&mut self, stream: StreamId, step: Step, cx: &mut Context<'_>) {
        if self.members.get(&stream).is_some_and(|m| !m.legacy) {
            self.ack(stream, step, cx);
        }
    }

    fn ack(&mut self, stream: StreamId, step: Step, cx: &mut Context<'_>) {
        let Some(round) = self.round.as_mut().filter(|r| r.step == step) else { return };
        let Some(member) = self.members.get_mut(&stream).filter(|m| !m.acked) else { return };
        member.acked = true;
        round.missing -= 1;
        let took = cx.now.saturating_duration_since(round.step_started);
        if step == Step::Update && took > cx.rules.round_timeout / 2 {
            member.slow_drains += 1;
            if member.slow_drains >= SLOW_DRAINS {
                let (namespace, app_id) = (cx.namespace.clone(), member.app_id.clone());
                cx.effects.push(Effect::SlowDrain { namespace, app_id, took });
            }
        }
        self.advance(cx);
    }

    /// Goes to the next step if every member acknowledged this one.
    fn advance(&mut self, cx: &mut Context<'_>) {
        let Some(round) = self.round.as_mut().filter(|r| r.missing == 0) else { return };
        let order = match round.step {
            Step::Lock => Order::Update(self.table.clone()),
            Step::Update => Order::Unlock(self.version),
            Step::Unlock => return self.complete(cx),
        };
        round.step = order.step();
        round.step_started = cx.now;
        round.missing = self.members.len();
        self.order_all(&order, cx);
    }

    fn complete(&mut self, cx: &mut Context<'_>) {
        self.end_round(Outcome::Complete, cx);
        if cx.rules.hold_off.is_zero() {
            self.settle(cx);
        } else {
            self.hold_off = Some(HoldOff::new(cx.rules.hold_off, cx.now));
            self.shorten_hold_off(cx.now);
        }
    }

    /// Removes the members that did not acknowledge in time; the others get a new round.
    fn time_out(&mut self, cx: &mut Context<'_>) {
        let Some(expected) = self.round.as_ref().map(|r| r.step) else { return };
        let slow: Vec<StreamId> =
            self.members.iter().filter(|(_, m)| !m.acked).map(|(s, _)| *s).collect();
        self.end_round(Outcome::TimedOut, cx);
        for stream in slow {
            self.remove(stream);
            let (namespace, version) = (cx.namespace.clone(), self.version);
            cx.effects.push(Effect::TimeOut { namespace, stream, version, expected });
        }
        self.dirty = true; // the remaining members are still locked
        self.settle(cx);
    }

    fn end_round(&mut self, outcome: Outcome, cx: &mut Context<'_>) {
        if let Some(round) = self.round.take() {
            let took = cx.now.saturating_duration_since(round.started);
            if outcome == Outcome::Complete {
                self.last_round = Some(took);
            }
            let (namespace, version) = (cx.namespace.clone(), self.version);
            cx.effects.push(Effect::RoundEnded { namespace, version, outcome, took });
        }
        if outcome != Outcome::Superseded {
            self.supersessions = 0;
        }
    }

    /// Brings the table up to date with the hosts: admits waiting streams, applies waiting reports,
    /// and starts one round for all of it. If no host changed, only the new streams get the table.
    fn settle(&mut self, cx: &mut Context<'_>) {
        let waiting = std::mem::take(&mut self.waiting);
        let new: Vec<StreamId> = waiting.keys().copied().collect();
        for (stream, Registration { legacy, host }) in waiting {
            self.members.insert(stream, Member::new(&host, legacy));
            self.store(stream, host);
        }
        let held: Vec<(StreamId, Host)> =
            self.members.iter_mut().filter_map(|(s, m)| Some((*s, m.held.take()?))).collect();
        for (stream, host) in held {
            self.store(stream, host);
        }
        if self.members.is_empty() {
            return;
        }
        if self.dirty {
            return self.start_round(cx);
        }
        for stream in new {
            cx.effects.push(Effect::Push { stream, table: self.table.clone() });
        }
    }

    fn start_round(&mut self, cx: &mut Context<'_>) {
        if self.round.is_some() {
            self.supersessions += 1;
            self.end_round(Outcome::Superseded, cx);
        }
        self.version += 1;
        let hosts = self.members.iter().filter_map(|(s, m)| Some((*s, m.host.as_ref()?)));
        self.table = Arc::new(Table::new(self.version, hosts));
        self.dirty = false;
        self.hold_off = None;
        self.round = Some(Round {
            step: Step::Lock,
            started: cx.now,
            step_started: cx.now,
            deadline: cx.now + cx.rules.round_timeout,
            missing: self.members.len(),
        });
        self.order_all(&Order::Lock(self.version), cx);
    }

    /// Stores the host of a member; returns whether its types changed. A new name or port alone
    /// does not count.
    fn store(&mut self, stream: StreamId, host: Host) -> bool {
        let Some(member) = self.members.get_mut(&stream) else { return false };
        let unchanged = member.entities() == host.entities;
        // A smaller charge is always accepted: that of the report was accepted when it arrived.
        let charge =
            if unchanged { member.host.as_deref().map_or(0, charge) } else { charge(&host) };
        self.charged = self.charged - member.charge + charge;
        member.charge = charge;
        if unchanged {
            return false;
        }
        self.hosts -= usize::from(member.host.is_some());
        member.host = (!host.entities.is_empty()).then(|| Arc::new(host));
        self.hosts += usize::from(member.host.is_some());
        self.dirty = true;
        true
    }

    /// Removes a member and its host.
    fn remove(&mut self, stream: StreamId) -> Option<Member> {
        let member = self.members.remove(&stream)?;
        self.charged -= member.charge;
        if member.host.is_some() {
            self.hosts -= 1;
            self.dirty = true;
        }
        Some(member)
    }

    fn order_all(&mut self, order: &Order, cx: &mut Context<'_>) {
        for (stream, member) in &mut self.members {
            member.acked = false;
            cx.effects.push(Effect::Send { stream: *stream, order: order.clone() });
        }
    }
}

/// Ends a stream whose report does not fit into the table.
fn refuse(stream: StreamId, cx: &mut Context<'_>) {
    cx.effects.push(Effect::TableFull { namespace: cx.namespace.clone(), stream });
}

impl Member {
    /// A member that is charged for a host which it has not stored yet.
    fn new(host: &Host, legacy: bool) -> Self {
        let (app_id, charge) = (host.app_id.clone(), charge(host));
        Self { app_id, legacy, host: None, held: None, charge, acked: false, slow_drains: 0 }
    }

    /// The actor types that it hosts.
    fn entities(&self) -> &[String] {
        self.host.as_ref().map_or(&[], |host| &host.entities)
    }
}

/// What every step of a group needs: rules, time, effects.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) rules: &'a Rules,
    pub(crate) namespace: &'a Arc<str>,
    pub(crate) effects: &'a mut Vec<Effect>,
}
