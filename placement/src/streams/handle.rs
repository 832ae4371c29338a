//! The one task that owns the membership. Streams and the state endpoint send it commands over a
//! channel; it never waits for any of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use runtime::{BoxError, Scope, clock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::election::Role;
use crate::metrics::Metrics;
use crate::rounds::event::{Counts, Effect, Event, Outcome, Rules};
use crate::rounds::membership::Membership;
use crate::rounds::message::{Message, Step, StreamId};
use crate::rounds::outbox::Order;
use crate::rounds::table::Table;
use crate::streams::error::End;
use crate::streams::mailbox::Mailbox;

/// Commands in the queue. When it is full, streams wait before they read their next message; 1,000
/// sidecars that acknowledge at once fit.
const COMMANDS: usize = 1_024;

/// The table of each namespace with at least one stream.
pub(crate) type Tables = BTreeMap<Arc<str>, Arc<Table>>;

enum Command {
    Register { stream: StreamId, message: Message, mailbox: Arc<Mailbox> },
    Event(Event),
    Tables(oneshot::Sender<Option<Tables>>),
}

/// The task has stopped, which happens only when the process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopped;

/// A handle to the membership task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MembershipHandle(mpsc::Sender<Command>);

impl MembershipHandle {
    /// Starts the task in the scope. It serves while this replica leads, until `ending`.
    pub(crate) fn start(
        rules: Rules,
        metrics: Metrics,
        election: watch::Receiver<Role>,
        ending: CancellationToken,
        scope: &Scope,
    ) -> Self {
        let (send, receive) = mpsc::channel(COMMANDS);
        let task = Task { membership: None, floor: 0, mailboxes: HashMap::new(), rules, metrics };
        scope.spawn("placement-membership", task.run(receive, election, ending));
        Self(send)
    }

    /// Registers a new stream, whose orders go to the mailbox.
    pub(crate) async fn register(
        &self,
        stream: StreamId,
        message: Message,
        mailbox: Arc<Mailbox>,
    ) -> Result<(), Stopped> {
        self.send(Command::Register { stream, message, mailbox }).await
    }

    /// Sends an event of a stream.
    pub(crate) async fn send_event(&self, event: Event) -> Result<(), Stopped> {
        self.send(Command::Event(event)).await
    }

    /// The current tables; `None` if another replica leads.
    pub(crate) async fn tables(&self) -> Result<Option<Tables>, Stopped> {
        let (send, receive) = oneshot::channel();
        self.send(Command::Tables(send)).await?;
        receive.await.map_err(|_| Stopped)
    }

    async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.0.send(command).await.map_err(|_| Stopped)
    }
}

struct Task {
    /// Present while this replica leads.
    membership: Option<Membership>,
    /// Versions up to here are used; needed if this replica leads again in the same epoch.
    floor: u64,
    mailboxes: HashMap<StreamId, Arc<Mailbox>>,
    rules: Rules,
    metrics: Metrics,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut roles: watch::Receiver<Role>,
        ending: CancellationToken,
    ) -> Result<(), BoxError> {
        let role = *roles.borrow_and_update();
        self.set_role(role);
        // The role of a single replica never changes.
        let mut elected = true;
        loop {
            let deadline = self.membership.as_ref().and_then(Membership::deadline);
            let tick = async {
                match deadline {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Leading ends before anything else happens.
                biased;
                () = ending.cancelled() => break,
                changed = roles.changed(), if elected => match changed {
                    Ok(()) => {
                        let role = *roles.borrow_and_update();
                        self.set_role(role);
                    }
                    Err(_) => elected = false,
                },
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break, // every stream and server has ended
                },
                () = tick => self.step(Event::Tick),
            }
        }
        self.resign(&End::Stopped);
        ending.cancelled().await;
        Ok(())
    }

    fn set_role(&mut self, role: Role) {
        self.resign(&End::LostLeadership);
        if let Role::Leader { epoch } = role {
            let core = Membership::taken_over(self.rules, epoch, clock::monotonic());
            self.membership = Some(core.above(self.floor));
            self.metrics.leads(true);
        }
    }

    /// Ends every stream: sidecars register again with the next leader.
    fn resign(&mut self, end: &End) {
        let Some(membership) = self.membership.take() else { return };
        self.metrics.leads(false);
        self.floor = membership.highest_version();
        for mailbox in std::mem::take(&mut self.mailboxes).into_values() {
            mailbox.end(end.clone().into());
        }
        for namespace in membership.counts().into_keys() {
            self.metrics.streams(&namespace, Counts::default());
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Register { mailbox, .. } if self.membership.is_none() => {
                mailbox.end(End::LostLeadership.into());
            }
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
            Command::Tables(reply) => {
                // The receiver may have been dropped.
                drop(reply.send(self.membership.as_ref().map(Membership::tables)));
            }
        }
    }

    fn step(&mut self, event: Event) {
        let Some(membership) = &mut self.membership else { return };
        for effect in membership.step(event, clock::monotonic()) {
            self.apply(effect);
        }
    }

    fn apply(&mut self, effect: Effect) {
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
                    mailbox.end(End::TimedOut { after: self.rules.round_timeout, version }.into());
                }
                self.metrics.timed_out();
            }
            Effect::TableFull { namespace, stream } => {
                tracing::warn!(target: "dapr.placement.server.disseminator", %namespace, %stream,
                    "Refused a report that would make the actor table larger than sidecars can read");
                if let Some(mailbox) = self.mailboxes.remove(&stream) {
                    mailbox.end(End::TableFull { namespace: namespace.to_string() }.into());
                }
                self.metrics.table_full();
            }
            Effect::SlowDrain { namespace, app_id, took } => {
                tracing::warn!(target: "dapr.placement.server.disseminator",
                    %namespace, app = app_id, took = ?took, budget = ?self.rules.round_timeout,
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
