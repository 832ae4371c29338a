//! One update stream of a sidecar.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use proto::operator::ResourceEventType;
use resources::{Configuration, CustomResource as _, WorkflowAccessPolicy};
use runtime::{clock, random};
use tokio::time::{Instant, sleep_until};

use crate::api::access::Caller;
use crate::api::budget::Share;
use crate::api::context::Context;
use crate::api::error::ApiError;
use crate::api::gated_rules::OutdatedSidecar;
use crate::api::open_calls::OpenCall;
use crate::cache::broadcaster::{self, ResolvedEvent, StreamEvent};
use crate::cache::objects::Entry;
use crate::cache::store::Store;
use crate::secrets::resolution::{FillError, ServedKind};

/// Interval between attempts to send an event whose Secrets could not be resolved, or that depends on
/// the version of a sidecar whose pod could not be read.
const RETRY: Duration = Duration::from_secs(30);

/// The JSON of an object and the type of its event.
pub(crate) type Event = (Bytes, ResourceEventType);

impl Context {
    /// The changes of a kind in the caller's scope. Ends when the caller disconnects or the operator
    /// stops.
    ///
    /// # Errors
    /// [`ApiError::TooManyCalls`]: the caller's app has too many streams.
    pub(crate) fn stream<K: ServedKind>(
        self: &Arc<Self>,
        store: &Arc<Store<K>>,
        caller: Caller,
    ) -> Result<impl Stream<Item = Event> + Send + use<K>, ApiError> {
        let open = self.streams.open(&caller)?;
        // Before the kind has been listed nothing is published.
        let subscription = store.subscribe(&caller.namespace, &caller.app_id);
        tracing::info!(target: "dapr.operator.api", app_id = caller.app_id,
            namespace = caller.namespace, "sidecar connected for {} updates", K::WHAT);
        let missed_since = K::RESEND_AFTER_RESTART
            .then(|| self.missed_updates.since(K::KIND, &caller, clock::monotonic()))
            .flatten();
        let stream = EventStream {
            context: self.clone(),
            missed_since,
            store: store.clone(),
            caller,
            _open: open,
            subscription,
            outdated: OutdatedSidecar::new(),
            failed: BTreeMap::new(),
            retry_at: Instant::now(),
        };
        let events = stream::unfold(stream, |mut stream| async move {
            let event = stream.next().await;
            Some((event, stream))
        });
        Ok(events.take_until(self.token.clone().cancelled_owned()))
    }
}

struct EventStream<K: ServedKind> {
    context: Arc<Context>,
    store: Arc<Store<K>>,
    caller: Caller,
    _open: OpenCall,
    subscription: broadcaster::Subscription<K>,
    /// Objects written since this time are sent before any other event.
    missed_since: Option<Timestamp>,
    outdated: OutdatedSidecar,
    /// Events that could not be sent, by name of the object.
    failed: BTreeMap<String, StreamEvent<K>>,
    retry_at: Instant,
}

impl<K: ServedKind> EventStream<K> {
    async fn next(&mut self) -> Event {
        loop {
            let event = self.next_unresolved().await;
            let name = event.resolved.entry.name().to_owned();
            self.failed.remove(&name);
            if !self.is_relevant(&name) {
                continue;
            }
            if let Some(body) = self.body_for_caller(&event).await {
                let share = self.reserve(&body).await;
                self.caller.outgoing.keep(share);
                self.context.metrics.sent(K::KIND, event.event);
                return (body, event.event);
            }
            self.retry_later(name, &event);
        }
    }

    /// The next event from the subscription, or one that is retried.
    async fn next_unresolved(&mut self) -> StreamEvent<K> {
        loop {
            if let Some(since) = self.missed_since {
                self.store.wait_synced().await;
                // The assigned Configuration is known only when all pods are.
                self.context.stores.assignments.wait_synced().await;
                self.missed_since = None;
                for missed in self.missed(since) {
                    self.subscription.put_back(missed);
                }
            }
            tokio::select! {
                event = self.subscription.next() => return event,
                () = sleep_until(self.retry_at), if !self.failed.is_empty() => {
                    for (_, event) in std::mem::take(&mut self.failed) {
                        self.subscription.put_back(event);
                    }
                }
            }
        }
    }

    /// Updates that the sidecar may have missed; it ignores an object that equals its own copy.
    /// Objects that reference Secrets are omitted: each sidecar would cause reads, and a rotated
    /// Secret would look like a change and restart it.
    fn missed(&self, since: Timestamp) -> Vec<StreamEvent<K>> {
        let Caller { namespace, app_id, .. } = &self.caller;
        let mut entries = self.store.list(namespace);
        entries.retain(|entry| {
            let (object, recent) = (&entry.object, entry.written.is_some_and(|at| at >= since));
            recent && object.in_scope(app_id) && object.needed_secrets().is_empty()
        });
        let event = ResourceEventType::Updated;
        let resolved = |entry| Arc::new(ResolvedEvent::new(entry));
        entries.into_iter().map(|entry| StreamEvent { event, resolved: resolved(entry) }).collect()
    }

    /// A sidecar restarts when it receives a Configuration that it does not use; all other kinds
    /// have scopes.
    fn is_relevant(&self, name: &str) -> bool {
        let Caller { namespace, app_id, .. } = &self.caller;
        K::KIND != Configuration::KIND
            || self.context.stores.assignments.uses(namespace, app_id, name)
    }

    /// The JSON to send to this sidecar; `None` to retry later.
    async fn body_for_caller(&self, event: &StreamEvent<K>) -> Option<Bytes> {
        let body = self.body(event).await.ok()?;
        if K::KIND != WorkflowAccessPolicy::KIND || event.event == ResourceEventType::Deleted {
            return Some(body);
        }
        self.context.gated_rules.withhold(&self.caller, &self.outdated, body).await.ok()
    }

    /// The JSON for all sidecars. Secrets of a deleted object are not resolved: sidecars read its name only,
    /// and the Secret may be deleted too. A state is sent either as deleted or as current, so both
    /// share the cell.
    async fn body(&self, event: &StreamEvent<K>) -> Result<Bytes, FillError> {
        let resolve = async || {
            let entry = &event.resolved.entry;
            let body = if event.event == ResourceEventType::Deleted {
                entry.json().map_err(|_| FillError::Unserializable)?
            } else {
                self.context.resolve(entry).await?
            };
            Entry::<K>::event_json(&body).ok_or(FillError::Unserializable)
        };
        event.resolved.body.get_or_init(resolve).await.clone()
    }

    /// A share of the caller's budget for an event.
    async fn reserve(&self, body: &[u8]) -> Share {
        self.context.budget.wait_for(&self.caller, body.len()).await
    }

    /// Keeps the event for a later attempt; the stream stays open.
    fn retry_later(&mut self, name: String, event: &StreamEvent<K>) {
        let resolved = Arc::new(ResolvedEvent::new(event.resolved.entry.clone()));
        if self.failed.is_empty() {
            self.retry_at = Instant::now() + random::jittered(RETRY, 0.2);
        }
        self.failed.insert(name, StreamEvent { event: event.event, resolved });
    }
}
