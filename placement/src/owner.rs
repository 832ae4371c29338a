//! The one task that owns the membership. Streams and the state endpoint speak to it by channel;
//! it never waits for any of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use runtime::{Scope, clock};
use tokio::sync::{mpsc, oneshot};

use crate::error::End;
use crate::mailbox::Mailbox;
use crate::membership::{Effect, Event, Membership, Outcome, Rules};
use crate::message::{Message, Step, StreamId};
use crate::metrics::Metrics;
use crate::outbox::Order;
use crate::table::Table;

/// Commands that wait for the owner. Above it streams wait with their next message; 1,000 sidecars
/// acknowledging at once fit.
const COMMANDS: usize = 1_024;

/// The table of each namespace with at least one stream.
pub(crate) type Tables = BTreeMap<Arc<str>, Arc<Table>>;

enum Command {
    Register { stream: StreamId, message: Message, mailbox: Arc<Mailbox> },
    Event(Event),
    Tables(oneshot::Sender<Tables>),
}

/// The owner has stopped, which it does only with the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopped;

/// The way to the owner. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Owner(mpsc::Sender<Command>);

impl Owner {
    /// Starts the owner in the scope.
    pub(crate) fn start(rules: Rules, metrics: Metrics, scope: &Scope) -> Self {
        let (send, receive) = mpsc::channel(COMMANDS);
        let task = Task {
            membership: Membership::new(rules),
            mailboxes: HashMap::new(),
            round_timeout: rules.round_timeout,
            metrics,
        };
        scope.spawn("placement-membership", task.run(receive, scope.clone()));
        Self(send)
    }

    /// A new stream, whose orders go to the mailbox.
    pub(crate) async fn register(
        &self,
        stream: StreamId,
        message: Message,
        mailbox: Arc<Mailbox>,
    ) -> Result<(), Stopped> {
        self.send(Command::Register { stream, message, mailbox }).await
    }

    /// Something happened on a stream.
    pub(crate) async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.send(Command::Event(event)).await
    }

    /// The tables as they are now.
    pub(crate) async fn tables(&self) -> Result<Tables, Stopped> {
        let (send, receive) = oneshot::channel();
        self.send(Command::Tables(send)).await?;
        receive.await.map_err(|_| Stopped)
    }

    async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.0.send(command).await.map_err(|_| Stopped)
    }
}

struct Task {
    membership: Membership,
    mailboxes: HashMap<StreamId, Arc<Mailbox>>,
    round_timeout: Duration,
    metrics: Metrics,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        scope: Scope,
    ) -> anyhow::Result<()> {
        loop {
            let tick = async {
                match self.membership.deadline() {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = scope.token().cancelled() => break,
                () = tick => self.step(Event::Tick),
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break, // every stream and server is gone
                }
            }
        }
        for namespace in self.membership.counts().into_keys() {
            self.metrics.streams(&namespace, crate::membership::Counts::default());
        }
        scope.token().cancelled().await;
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Register { stream, message, mailbox } => {
                self.mailboxes.insert(stream, mailbox);
                self.step(Event::Register { stream, message });
            }
            Command::Event(event) => {
                if let Event::Closed { stream } = &event {
                    self.mailboxes.remove(stream);
                }
                self.step(event);
            }
            // The asker may have gone.
            Command::Tables(reply) => drop(reply.send(self.membership.tables())),
        }
    }

    fn step(&mut self, event: Event) {
        for effect in self.membership.step(event, clock::monotonic()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { stream, order } => {
                if let Some(mailbox) = self.mailboxes.get(&stream) {
                    mailbox.push(order);
                }
            }
            Effect::Push { stream, table } => {
                if let Some(mailbox) = self.mailboxes.get(&stream) {
                    let version = table.version();
                    mailbox.push(Order::Lock(version));
                    mailbox.push(Order::Update(table));
                    mailbox.push(Order::Unlock(version));
                }
                self.metrics.pushed();
            }
            Effect::TimeOut { namespace, stream, version, expected } => {
                let state = acknowledged_before(expected);
                tracing::warn!(target: "dapr.placement.server.disseminator",
                    "Closing non-responding stream {namespace}:{stream} (state={state}, expected={expected})");
                if let Some(mailbox) = self.mailboxes.remove(&stream) {
                    mailbox.end(End::TimedOut { after: self.round_timeout, version }.into());
                }
                self.metrics.timed_out();
            }
            Effect::SlowDrain { namespace, app_id, took } => {
                tracing::warn!(target: "dapr.placement.server.disseminator",
                    %namespace, app = app_id, took = ?took, budget = ?self.round_timeout,
                    "Sidecar takes most of the round to drain its actors: raise --disseminate-timeout \
                     or shorten its drain, or it will be disconnected");
            }
            Effect::RoundEnded { namespace, version, outcome, took } => {
                self.metrics.round(outcome, took);
                match outcome {
                    Outcome::TimedOut => {
                        tracing::warn!(target: "dapr.placement.server.disseminator", %namespace,
                            "Dissemination timeout for version {version}");
                    }
                    Outcome::Complete => {
                        tracing::debug!(target: "dapr.placement.server.disseminator",
                            "Dissemination of version {version} in {namespace} complete");
                    }
                    Outcome::Superseded | Outcome::Abandoned => {}
                }
            }
            Effect::Counts { namespace, counts } => self.metrics.streams(&namespace, counts),
        }
    }
}

/// The step that a stream acknowledged last, for the log: `REPORT` before the first.
fn acknowledged_before(expected: Step) -> &'static str {
    match expected {
        Step::Lock => "REPORT",
        Step::Update => "LOCK",
        Step::Unlock => "UPDATE",
    }
}
