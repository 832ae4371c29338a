//! The task that owns the engine: it passes every event to the engine and applies the effects.

mod control;
mod count;
mod feed;
mod gain;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use runtime::{Heartbeat, Scope, clock};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use self::control::{Control, Releasing};
use self::count::{Caller, Count};
use self::gain::Gain;
use super::mailbox::{Delivery, Mailbox};
use super::writes::{self, Wanted, Writes};
use crate::engine::Engine;
use crate::engine::event::{Effect, Event, Observation, Registration, StreamId};
use crate::engine::shard::Shard;
use crate::engine::summary::Summary;
use crate::membership::fence::Fence;
use crate::membership::ownership::Ownership;
use crate::metrics::Metrics;
use crate::store::{Condition, Revision, STUCK, Store, StoreError, StoreEvent};

/// Messages of streams that the dispatcher has not taken yet, each with up to
/// [`super::stream::RESULTS`] results; streams wait beyond it.
const INBOX: usize = 1_024;
/// Messages that are taken together.
const TOGETHER: usize = 64;
/// Unanswered writes. Beyond it no message of a stream is taken, so that results wait in the
/// transport.
const MAX_WRITES: usize = 16_384;
/// Jobs that one task reads back.
const LOADS: usize = 256;
/// Interval of checks of the wall clock, to detect steps.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Interval of updates of gauges.
const MEASURE: Duration = Duration::from_secs(1);
/// The pause before a read of all jobs that failed is repeated.
const SCAN_RETRY: Duration = Duration::from_secs(1);

/// Why the stored jobs cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("read the stored jobs")]
    Store(#[from] StoreError),
    #[error("the task that reads the stored jobs ended")]
    Task(#[from] JoinError),
}

/// Why the dispatcher ends before the process is stopped.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the writer of the job store ended")]
    Writer,
    #[error("every handle of the dispatcher is gone")]
    Handles,
}

/// A handle of the dispatcher. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    messages: mpsc::Sender<Message>,
    control: mpsc::Sender<Control>,
    closing: CancellationToken,
}

/// The parts of the dispatcher.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    /// Every change from now on.
    pub(crate) feed: mpsc::Receiver<StoreEvent>,
    pub(crate) fence: Arc<Fence>,
    /// Notified when a client of the etcd API changes a key of a member.
    pub(crate) leadership: Arc<Notify>,
    pub(crate) metrics: Metrics,
}

enum Message {
    Opened(Registration, Arc<Mailbox>),
    Event(Event),
    /// Results of one stream, or records that were loaded.
    Events(Vec<Event>),
    Count(Caller),
}

impl Dispatcher {
    /// Reads all stored jobs and starts the task of a single member.
    ///
    /// # Errors
    /// [`ScanError`]
    pub(crate) async fn start(parts: Parts, scope: &Scope) -> Result<Self, ScanError> {
        let (mut task, dispatcher, inboxes) = Task::new(parts, scope);
        task.owner = Some(Ownership::All);
        task.scan().await?;
        task.spawn(inboxes, scope);
        Ok(dispatcher)
    }

    /// Starts the task of one of several members: it triggers nothing until the membership starts
    /// it.
    pub(crate) fn start_idle(parts: Parts, scope: &Scope) -> Self {
        let (task, dispatcher, inboxes) = Task::new(parts, scope);
        task.spawn(inboxes, scope);
        dispatcher
    }

    /// Cancelled when streams end: the process stops, and answers that were under way have come.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Registers a stream.
    pub(crate) async fn open(&self, registration: Registration, mailbox: Arc<Mailbox>) {
        self.send_message(Message::Opened(registration, mailbox)).await;
    }

    /// Passes an event on.
    pub(crate) async fn send(&self, event: Event) {
        self.send_message(Message::Event(event)).await;
    }

    /// Counts the jobs of this member by application; `None` when the process stops. Waits while the
    /// member has no jobs of its own.
    pub(crate) async fn count(&self) -> Option<Arc<Summary>> {
        let (caller, counted) = oneshot::channel();
        self.send_message(Message::Count(caller)).await;
        counted.await.ok()
    }

    /// Waits for a place for events.
    pub(crate) async fn room(&self) -> Room<'_> {
        Room(self.messages.reserve().await.ok())
    }

    async fn send_message(&self, message: Message) {
        // Fails only when the process stops, and with it every stream.
        let _ = self.messages.send(message).await;
    }
}

/// A place for events; none when the process stops, and with it every stream.
pub(crate) struct Room<'a>(Option<mpsc::Permit<'a, Message>>);

impl Room<'_> {
    /// Passes events on, in their order.
    pub(crate) fn send_all(self, events: Vec<Event>) {
        if let Some(place) = self.0 {
            place.send(Message::Events(events));
        }
    }
}

/// Inputs of the task.
struct Inboxes {
    feed: mpsc::Receiver<StoreEvent>,
    messages: mpsc::Receiver<Message>,
    control: mpsc::Receiver<Control>,
}

struct Task {
    engine: Engine,
    store: Arc<dyn Store>,
    mailboxes: HashMap<StreamId, Arc<Mailbox>>,
    writes: Writes,
    wanted: Vec<Wanted>,
    fence: Arc<Fence>,
    /// The jobs in the engine; `None` while they may be another member's. The engine then gets no
    /// event: messages of streams wait.
    owner: Option<Ownership>,
    /// The store has changes that the engine does not know.
    unread: bool,
    /// The engine starts no delivery.
    paused: bool,
    /// Revision of the last whole read: changes of the feed up to it are known.
    scanned: Revision,
    /// The jobs of new shards are being read.
    gain: Option<Gain>,
    /// Jobs that other members wait for.
    releasing: Option<Releasing>,
    count: Count,
    /// Once the first scan is done.
    heartbeat: Option<Heartbeat>,
    leadership: Arc<Notify>,
    closing: CancellationToken,
    /// For reads; does not keep the dispatcher alive.
    sender: mpsc::WeakSender<Message>,
    metrics: Metrics,
    scope: Scope,
}

impl Task {
    fn new(parts: Parts, scope: &Scope) -> (Self, Dispatcher, Inboxes) {
        let Parts { store, feed, fence, leadership, metrics } = parts;
        let (sender, messages) = mpsc::channel(INBOX);
        let (orders, control) = mpsc::channel(1);
        let closing = CancellationToken::new();
        let task = Self {
            engine: Engine::default(),
            store,
            mailboxes: HashMap::new(),
            writes: Writes::default(),
            wanted: Vec::new(),
            fence,
            owner: None,
            unread: false,
            paused: false,
            scanned: 0,
            gain: None,
            releasing: None,
            count: Count::default(),
            leadership,
            closing: closing.clone(),
            sender: sender.downgrade(),
            metrics,
            scope: scope.clone(),
            heartbeat: None,
        };
        let dispatcher = Dispatcher { messages: sender, control: orders, closing };
        (task, dispatcher, Inboxes { feed, messages, control })
    }

    fn spawn(mut self, mut inboxes: Inboxes, scope: &Scope) {
        // Not earlier: the first scan takes as long as there are jobs.
        self.heartbeat = Some(scope.heartbeat("scheduler-dispatcher", STUCK));
        let token = scope.token().clone();
        scope.spawn("scheduler-dispatcher", async move {
            // Streams end whatever ends the task.
            let closing = self.closing.clone().drop_guard();
            if let Some(outcome) = token.run_until_cancelled(self.run(&mut inboxes)).await {
                return Ok(outcome?);
            }
            self.await_answers(&mut inboxes.messages).await;
            drop(closing);
            self.await_writes().await;
            Ok(())
        });
    }

    /// Beats with each round, at least every [`LONGEST_SLEEP`], and with each page of a scan.
    fn beat(&self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat();
        }
    }

    async fn run(&mut self, inboxes: &mut Inboxes) -> Result<(), Ended> {
        let Inboxes { feed, messages: inbox, control } = inboxes;
        let mut messages = Vec::with_capacity(TOGETHER);
        let mut measured = clock::monotonic();
        loop {
            self.beat();
            self.load_wanted();
            self.writes.send(&self.store, clock::monotonic());
            self.check_release();
            self.count.go_on(&self.engine);
            if measured.elapsed() >= MEASURE {
                self.metrics.engine_holds(&self.engine.gauges());
                measured = clock::monotonic();
            }
            let sleep = tokio::time::sleep(self.idle());
            tokio::select! {
                Some(control) = control.recv() => {
                    self.take_arrived(inbox);
                    self.handle_control(control).await;
                }
                page = Gain::next(&mut self.gain) => self.take_page(page),
                change = feed.recv(), if self.gain.as_ref().is_none_or(Gain::has_room) => {
                    let Some(change) = change else { return Err(Ended::Writer) };
                    self.take_feed(change).await;
                    while let Ok(change) = feed.try_recv() {
                        self.beat();
                        self.take_feed(change).await;
                    }
                }
                taken = inbox.recv_many(&mut messages, TOGETHER),
                        if self.owner.is_some() && self.writes.len() < MAX_WRITES => {
                    if taken == 0 {
                        return Err(Ended::Handles);
                    }
                    for message in messages.drain(..) {
                        self.take(message);
                    }
                }
                Some(events) = self.writes.next(), if self.writes.len() > 0 => {
                    self.step_all(events);
                    while let Some(Some(events)) = self.writes.next().now_or_never() {
                        self.step_all(events);
                    }
                }
                () = sleep, if !self.unread => {
                    if self.owner.is_some() {
                        self.step(Event::Tick);
                    }
                }
                () = tokio::time::sleep(SCAN_RETRY), if self.unread => self.scan_again().await,
            }
        }
    }

    /// How long nothing is to be done without an event.
    fn idle(&self) -> Duration {
        if self.count.is_under_way() {
            return Duration::ZERO;
        }
        let wake_at = self.engine.wake_at().filter(|_| self.owner.is_some() && !self.unread);
        let releasing = self.releasing.as_ref().map(Releasing::wake_at);
        let now = clock::monotonic();
        let others = releasing.into_iter().chain(self.writes.wake_at(&self.store));
        let others = others.map(|at| at.saturating_duration_since(now));
        others.fold(until(wake_at, clock::now()), Duration::min)
    }

    /// Results that have arrived count before their jobs move.
    fn take_arrived(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        for _ in 0..inbox.len() {
            if self.owner.is_some()
                && let Ok(message) = inbox.try_recv()
            {
                self.take(message);
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Opened(registration, mailbox) => {
                self.mailboxes.insert(registration.stream, mailbox);
                self.metrics.sidecar_connected();
                self.step(Event::StreamOpened(registration));
            }
            Message::Event(event) => {
                if let Event::StreamClosed { stream } = event
                    && self.mailboxes.remove(&stream).is_some()
                {
                    self.metrics.sidecar_disconnected();
                }
                self.step(event);
            }
            Message::Events(events) => self.step_all(events),
            Message::Count(caller) => self.count.answer(caller),
        }
    }

    fn step_all(&mut self, events: Vec<Event>) {
        for event in events {
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        self.heed_fence();
        for effect in self.engine.step(event, clock::now()) {
            self.apply(effect);
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver { stream, id, key, revision, shard } => {
                // The end of a stream follows as an event.
                if let Some(mailbox) = self.mailboxes.get(&stream) {
                    let epoch = self.owner.as_ref().and_then(|owner| owner.epoch_of(shard));
                    let epoch = epoch.unwrap_or_default();
                    mailbox.push(Delivery { id, key, revision, shard, epoch });
                }
            }
            Effect::Persist { job, key, revision, shard, counter } => {
                let txn = writes::persist(&key, revision, &counter, self.condition(shard));
                self.writes.push(job, txn);
            }
            Effect::Finish { job, key, revision, shard } => {
                let txn = writes::finish(&key, revision, self.condition(shard));
                self.writes.push(job, txn);
            }
            Effect::Load { job, key, revision } => self.wanted.push(Wanted { job, key, revision }),
            Effect::Observe(observation) => self.observe(&observation),
        }
    }

    /// The condition of writes of the engine.
    fn condition(&self, shard: Shard) -> Option<Condition> {
        self.owner.as_ref().and_then(|owner| owner.condition(shard))
    }

    fn observe(&self, observation: &Observation) {
        if let Observation::UnknownAck(stream, id) = observation {
            tracing::warn!(target: "dapr.scheduler.server",
                stream = stream.0, id, "A sidecar answered a trigger that does not wait for it");
        }
        self.metrics.observe(observation);
    }

    /// Reads the records that the engine requests, in separate tasks.
    fn load_wanted(&mut self) {
        let Some(sender) = self.sender.upgrade() else { return };
        while !self.wanted.is_empty() {
            let rest = self.wanted.split_off(self.wanted.len().min(LOADS));
            let batch = std::mem::replace(&mut self.wanted, rest);
            let (store, metrics) = (self.store.clone(), self.metrics.clone());
            let (sender, token) = (sender.clone(), self.scope.token().clone());
            self.scope.spawn_detached("scheduler-load", async move {
                let read = async {
                    let mut events = Vec::with_capacity(batch.len());
                    for wanted in &batch {
                        events.push(writes::load(&*store, wanted, &metrics).await);
                    }
                    let _ = sender.send(Message::Events(events)).await;
                };
                token.run_until_cancelled(read).await;
            });
        }
    }
}

/// How long to sleep before the engine is asked again.
fn until(wake_at: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(at) = wake_at else { return LONGEST_SLEEP };
    Duration::try_from(at.duration_since(now)).unwrap_or_default().min(LONGEST_SLEEP)
}

#[cfg(test)]
mod tests;
