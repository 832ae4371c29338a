//! The task that owns the engine: it gives it every event and carries out the effects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use runtime::{Scope, clock};
use tokio::sync::{Notify, mpsc};

use super::mailbox::{Delivery, Mailbox};
use super::scan::{self, Found};
use super::writes::{self, Wanted};
use crate::engine::Engine;
use crate::engine::event::{Effect, Event, Observation, Origin, Registration, StreamId};
use crate::metrics::Metrics;
use crate::store::{Change, Source, Store, StoreEvent, keys};
use crate::stored;

/// Messages of streams that the dispatcher has not taken yet; streams wait beyond it.
const INBOX: usize = 4_096;
/// Messages that are taken together, before the clock is looked at again.
const TOGETHER: usize = 256;
/// Writes without an answer of the store. Beyond it no message of a stream is taken, so that
/// results wait in the transport.
const MAX_WRITES: usize = 16_384;
/// Jobs that one task reads back.
const LOADS: usize = 256;
/// The wall clock is looked at this often, so that a step of it is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Gauges are as old as this.
const MEASURE: Duration = Duration::from_secs(1);
/// Pages of the scan that are decoded ahead of the engine.
const PAGES_AHEAD: usize = 2;

/// A handle of the dispatcher. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher(mpsc::Sender<Message>);

enum Message {
    Opened(Registration, Arc<Mailbox>),
    Event(Event),
    /// What was read back, together.
    Loaded(Vec<Event>),
}

impl Dispatcher {
    /// Reads all stored jobs and starts the task. The feed must have every change from now on.
    /// `leadership` is notified when a client of the etcd API changes a key of a member.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        feed: mpsc::Receiver<StoreEvent>,
        leadership: Arc<Notify>,
        metrics: Metrics,
        scope: &Scope,
    ) -> anyhow::Result<Self> {
        let (sender, inbox) = mpsc::channel(INBOX);
        let mut task = Task {
            engine: Engine::default(),
            store,
            mailboxes: HashMap::new(),
            writes: FuturesUnordered::new(),
            wanted: Vec::new(),
            leadership,
            sender: sender.downgrade(),
            metrics,
            scope: scope.clone(),
        };
        task.scan().await?;
        let token = scope.token().clone();
        scope.spawn("scheduler-dispatcher", async move {
            match token.run_until_cancelled(task.run(feed, inbox)).await {
                Some(outcome) => Ok(outcome?),
                None => Ok(()),
            }
        });
        Ok(Self(sender))
    }

    /// Makes a stream known.
    pub(crate) async fn open(&self, registration: Registration, mailbox: Arc<Mailbox>) {
        self.send_message(Message::Opened(registration, mailbox)).await;
    }

    /// Passes an event on.
    pub(crate) async fn send(&self, event: Event) {
        self.send_message(Message::Event(event)).await;
    }

    async fn send_message(&self, message: Message) {
        // Fails only when the process stops, and with it every stream.
        let _ = self.0.send(message).await;
    }
}

struct Task {
    engine: Engine,
    store: Arc<dyn Store>,
    mailboxes: HashMap<StreamId, Arc<Mailbox>>,
    writes: FuturesUnordered<BoxFuture<'static, Event>>,
    wanted: Vec<Wanted>,
    leadership: Arc<Notify>,
    /// For reads; does not keep the dispatcher alive.
    sender: mpsc::WeakSender<Message>,
    metrics: Metrics,
    scope: Scope,
}

impl Task {
    async fn run(
        mut self,
        mut feed: mpsc::Receiver<StoreEvent>,
        mut inbox: mpsc::Receiver<Message>,
    ) -> anyhow::Result<()> {
        let mut messages = Vec::with_capacity(TOGETHER);
        let mut measured = clock::monotonic();
        loop {
            self.load_wanted();
            if measured.elapsed() >= MEASURE {
                self.metrics.engine_holds(&self.engine.gauges());
                measured = clock::monotonic();
            }
            let sleep = tokio::time::sleep(until(self.engine.wake_at(), clock::now()));
            tokio::select! {
                change = feed.recv() => {
                    let Some(change) = change else { bail!("the writer of the job store ended") };
                    self.take_feed(change).await;
                    while let Ok(change) = feed.try_recv() {
                        self.take_feed(change).await;
                    }
                }
                taken = inbox.recv_many(&mut messages, TOGETHER),
                        if self.writes.len() < MAX_WRITES => {
                    if taken == 0 {
                        bail!("every handle of the dispatcher is gone");
                    }
                    for message in messages.drain(..) {
                        self.take(message);
                    }
                }
                Some(event) = self.writes.next(), if !self.writes.is_empty() => self.step(event),
                () = sleep => self.step(Event::Tick),
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
            Message::Loaded(events) => events.into_iter().for_each(|event| self.step(event)),
        }
    }

    async fn take_feed(&mut self, feed: StoreEvent) {
        match feed {
            // The engine knows its own writes.
            StoreEvent::Changes { source: Source::Engine, .. } => {}
            StoreEvent::Changes { source, changes } => self.take_changes(source, &changes).await,
            // Deliveries need their records, which cannot be read.
            StoreEvent::Failed => self.step(Event::Pause),
            StoreEvent::Reopened => match self.scan().await {
                Ok(()) => self.step(Event::Resume),
                // It failed again, and is read when it serves.
                Err(error) => tracing::warn!(target: "dapr.scheduler.store", "{error:#}"),
            },
        }
    }

    /// Takes the changes of one revision: its jobs before its counters, which are read again for
    /// jobs that are known.
    async fn take_changes(&mut self, source: Source, changes: &[Change]) {
        for change in changes {
            if let Some(name) = keys::job_name(&change.key) {
                self.take_job(source, &name, change).await;
            }
        }
        if source != Source::ClientPort {
            return;
        }
        if changes.iter().any(|change| change.key.starts_with(keys::LEADERSHIP.as_bytes())) {
            self.leadership.notify_one();
        }
        for change in changes.iter().filter(|change| change.new.is_some()) {
            let name = keys::counter_name(&change.key);
            let name = name.as_deref().and_then(|name| std::str::from_utf8(name).ok());
            if let Some(name) = name {
                self.step(Event::CounterPut { key: name.into() });
            }
        }
    }

    async fn take_job(&mut self, source: Source, name: &Bytes, change: &Change) {
        let Some(record) = &change.new else {
            if let Ok(key) = std::str::from_utf8(name) {
                self.step(Event::JobDeleted { key: key.into() });
            }
            return;
        };
        let Some((key, job)) = scan::decode(name, &record.value, &self.metrics) else {
            // What was there before is not armed any more.
            if let Ok(key) = std::str::from_utf8(name) {
                self.step(Event::JobDeleted { key: key.into() });
            }
            return;
        };
        // A job of the API has no counter yet: its partition id is new. One of the client port may
        // have any; a store that cannot be read is scanned when it serves again.
        let (counter, origin) = match source {
            Source::ClientPort => {
                let stored = self.store.get(keys::counter(name)).await.ok().flatten();
                let counter = stored.and_then(|record| stored::engine_counter(&record.value));
                (counter, Origin::ClientPort)
            }
            Source::Api | Source::Engine => (None, Origin::Api),
        };
        let revision = change.revision;
        self.step(Event::JobPut { key, revision, job, counter, origin });
    }

    /// Gives the engine everything that is stored; it forgets what is not.
    async fn scan(&mut self) -> anyhow::Result<()> {
        let snapshot = self.store.snapshot().context("read the stored jobs")?;
        let (pages, mut found) = mpsc::channel(PAGES_AHEAD);
        let metrics = self.metrics.clone();
        let read = tokio::task::spawn_blocking(move || scan::read(&*snapshot, &metrics, &pages));
        self.step(Event::ScanBegun);
        while let Some(page) = found.recv().await {
            for Found { key, revision, job, counter } in page {
                self.step(Event::JobPut { key, revision, job, counter, origin: Origin::Scan });
            }
        }
        read.await.context("read the stored jobs")?.context("read the stored jobs")?;
        self.step(Event::ScanEnded);
        Ok(())
    }

    fn step(&mut self, event: Event) {
        for effect in self.engine.step(event, clock::now()) {
            self.apply(effect);
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver { stream, id, key, revision } => {
                // A stream that is gone is closed by an event that follows.
                if let Some(mailbox) = self.mailboxes.get(&stream) {
                    mailbox.push(Delivery { id, key, revision });
                }
            }
            Effect::Persist { job, key, revision, counter } => {
                let txn = writes::persist(&key, revision, &counter);
                self.writes.push(Box::pin(writes::write(self.store.clone(), job, txn)));
            }
            Effect::Finish { job, key, revision } => {
                let txn = writes::finish(&key, revision);
                self.writes.push(Box::pin(writes::write(self.store.clone(), job, txn)));
            }
            Effect::Load { job, key, revision } => self.wanted.push(Wanted { job, key, revision }),
            Effect::Observe(observation) => self.observe(&observation),
        }
    }

    fn observe(&self, observation: &Observation) {
        if let Observation::UnknownAck(stream, id) = observation {
            tracing::warn!(target: "dapr.scheduler.server",
                stream = stream.0, id, "A sidecar answered a trigger that does not wait for it");
        }
        self.metrics.observe(observation);
    }

    /// Reads what the engine wants, in tasks of their own.
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
                    let _ = sender.send(Message::Loaded(events)).await;
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
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(None, LONGEST_SLEEP)]
    #[case(Some(5), LONGEST_SLEEP)]
    #[case(Some(-5), Duration::ZERO)]
    #[case(Some(0), Duration::ZERO)]
    fn sleeps_until_the_engine_wakes_and_never_long(
        #[case] seconds: Option<i64>,
        #[case] want: Duration,
    ) {
        let at = |second| Timestamp::new(second, 0).unwrap();
        assert_eq!(until(seconds.map(|offset| at(100 + offset)), at(100)), want);
    }
}
