//! What the gRPC methods have in common: lists, single objects and streams of any kind.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use proto::operator::ResourceEventType;
use resources::{
    Component, Configuration, CustomResource as _, HTTPEndpoint, MCPServer, Resiliency,
    Subscription, WorkflowAccessPolicy, json,
};
use runtime::{clock, random};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Caller,
    assignment::Assignments,
    cache::{Entry, Undecodable},
    cluster::Cluster,
    error::ApiError,
    feed::{Delivery, Pending, Subscription as Feed},
    metrics::Metrics,
    outage::Outage,
    report::{Reason, Reports},
    secrets::{Fetched, FillError, Served},
    store::{Store, Sync},
};

/// An event whose secrets could not be read is tried again after this time.
const RETRY: Duration = Duration::from_secs(30);

/// The kinds that the API serves.
#[derive(Default)]
pub struct Stores {
    /// Components.
    pub components: Arc<Store<Component>>,
    /// Configurations.
    pub configurations: Arc<Store<Configuration>>,
    /// Subscriptions, as v2alpha1.
    pub subscriptions: Arc<Store<Subscription>>,
    /// Resiliencies.
    pub resiliencies: Arc<Store<Resiliency>>,
    /// HTTPEndpoints.
    pub http_endpoints: Arc<Store<HTTPEndpoint>>,
    /// MCPServers.
    pub mcp_servers: Arc<Store<MCPServer>>,
    /// WorkflowAccessPolicies.
    pub workflow_access_policies: Arc<Store<WorkflowAccessPolicy>>,
    /// Which Configuration each app uses.
    pub assignments: Arc<Assignments>,
}

/// What the gRPC methods need.
pub struct Shared {
    /// The kinds.
    pub stores: Stores,
    /// Where Secrets are read.
    pub cluster: Cluster,
    /// Where trouble is reported.
    pub reports: Reports,
    /// Where it is counted.
    pub metrics: Metrics,
    /// What sidecars may have missed.
    pub outage: Outage,
    /// Ends the streams.
    pub token: CancellationToken,
}

impl Shared {
    /// The objects of the caller's namespace that `visible` admits, as JSON with secrets.
    ///
    /// # Errors
    /// [`ApiError`]: still starting, the CRD is missing, or the secret of one object is.
    pub async fn list<K: Served>(
        &self,
        store: &Store<K>,
        caller: &Caller,
        visible: impl Fn(&K) -> bool,
    ) -> Result<Vec<Bytes>, ApiError> {
        self.watched(&caller.namespace)?;
        if store.known().await? == Sync::NoCrd {
            return if K::EMPTY_WITHOUT_CRD { Ok(Vec::new()) } else { Err(no_crd::<K>(None)) };
        }
        let mut entries = store.list(&caller.namespace);
        entries.retain(|entry| visible(&entry.object));
        let names = entries.iter().flat_map(|entry| needed(entry)).collect();
        let fetched = self.fetch(&caller.namespace, names).await;
        entries.iter().map(|entry| self.filled(entry, &fetched)).collect()
    }

    /// One object of the caller's namespace, as JSON with secrets.
    ///
    /// # Errors
    /// [`ApiError`]: still starting, there is no such object, or its secret is missing.
    pub async fn get<K: Served>(
        &self,
        store: &Store<K>,
        caller: &Caller,
        name: &str,
    ) -> Result<Bytes, ApiError> {
        self.watched(&caller.namespace)?;
        let doing = format!("{} {}/{name}", K::WHAT, caller.namespace);
        if store.known().await? == Sync::NoCrd {
            return Err(no_crd::<K>(Some(&doing)));
        }
        let entry = store.get(&caller.namespace, name).ok_or_else(|| ApiError::NotFound {
            doing,
            kind: K::KIND,
            name: name.to_owned(),
        })?;
        let fetched = self.fetch(&caller.namespace, needed(&entry)).await;
        self.filled(&entry, &fetched)
    }

    /// The changes of a kind as the caller sees them, until it leaves or the operator stops.
    pub fn stream<K: Served>(
        self: &Arc<Self>,
        store: &Arc<Store<K>>,
        caller: Caller,
    ) -> impl Stream<Item = Event> + Send + use<K> {
        let synced = *store.sync().borrow() != Sync::Starting;
        let feed = synced.then(|| store.subscribe(&caller.namespace, &caller.app_id));
        tracing::info!(target: "dapr.operator.api", app_id = caller.app_id,
            namespace = caller.namespace, "sidecar connected for {} updates", K::WHAT);
        let missed_since = K::MISSED_IN_AN_OUTAGE
            .then(|| self.outage.missed_since(K::KIND, &caller, clock::monotonic()))
            .flatten();
        let watcher = Watcher {
            shared: self.clone(),
            missed_since,
            store: store.clone(),
            caller,
            feed,
            failed: BTreeMap::new(),
            retry: Instant::now(),
        };
        let events = stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await;
            Some((event, watcher))
        });
        events.take_until(self.token.clone().cancelled_owned())
    }

    fn watched(&self, namespace: &str) -> Result<(), ApiError> {
        match self.cluster.watch_namespace() {
            Some(only) if only != namespace => Err(ApiError::NotWatched(only.to_owned())),
            _ => Ok(()),
        }
    }

    async fn fetch(&self, namespace: &str, names: BTreeSet<String>) -> Fetched {
        if names.is_empty() {
            return Fetched::new();
        }
        self.cluster.secrets(namespace, names).await
    }

    /// The JSON of an object with `fetched` filled in. The cached object stays as it is.
    fn filled<K: Served>(&self, entry: &Entry<K>, fetched: &Fetched) -> Result<Bytes, ApiError> {
        if entry.object.needed_secrets().is_empty() {
            return Ok(entry.json()?);
        }
        let mut object = entry.object.clone();
        if let Err(error) = object.fill(fetched) {
            self.report(&entry.object, &error);
            entry.sent(b"");
            if !entry.object.serve_unfilled() {
                return Err(error.into());
            }
            return Ok(entry.json()?);
        }
        let body = Bytes::from(json::to_vec(&object)?);
        entry.sent(&body);
        Ok(body)
    }

    /// Tells of an object that is left out because it cannot be decoded.
    pub fn undecodable(&self, bad: &Undecodable) {
        let text = runtime::chain(bad);
        tracing::error!(target: "dapr.operator", "object is left out: {text}");
        self.metrics.undecodable(bad.kind);
        let reference = ObjectReference {
            kind: Some(bad.kind.to_owned()),
            api_version: Some(bad.api_version.clone()),
            namespace: Some(bad.key.namespace.clone()),
            name: Some(bad.key.name.clone()),
            uid: bad.uid.clone(),
            ..ObjectReference::default()
        };
        self.reports.warn(reference, Reason::Undecodable, text);
    }

    fn report<K: Served>(&self, object: &K, error: &FillError) {
        let reason =
            if error.is_key() { Reason::SecretKeyNotFound } else { Reason::SecretNotFound };
        let reference = object.object_ref(&());
        let (namespace, name) = (reference.namespace.as_deref(), reference.name.as_deref());
        tracing::warn!(target: "dapr.operator.api", kind = K::KIND, namespace, name, "{error}");
        self.metrics.secret_failed(K::KIND, namespace.unwrap_or_default());
        self.reports.warn(reference, reason, error.to_string());
    }
}

/// Names of the Secrets that an object needs, each once.
fn needed<K: Served>(entry: &Entry<K>) -> BTreeSet<String> {
    entry.object.needed_secrets().into_iter().map(str::to_owned).collect()
}

fn no_crd<K: Served>(doing: Option<&str>) -> ApiError {
    let doing = doing.map_or_else(
        || format!("error listing {}", K::PLURAL),
        |what| format!("error getting {what}"),
    );
    ApiError::NoCrd { doing, kind: K::KIND, version: K::VERSION }
}

/// The JSON of an object and what happened to it.
pub type Event = (Bytes, ResourceEventType);

/// One open stream.
struct Watcher<K: Served> {
    shared: Arc<Shared>,
    store: Arc<Store<K>>,
    caller: Caller,
    feed: Option<Feed<K>>,
    /// The sidecar has still to be told what was written since.
    missed_since: Option<Timestamp>,
    /// Events that could not be sent, by name of the object.
    failed: BTreeMap<String, Pending<K>>,
    retry: Instant,
}

impl<K: Served> Watcher<K> {
    async fn next(&mut self) -> Event {
        loop {
            let pending = self.pending().await;
            let name = pending.delivery.entry.name().to_owned();
            self.failed.remove(&name);
            if !self.concerns(&name) {
                continue;
            }
            match self.body(&pending).await {
                Ok(body) => {
                    self.shared.metrics.sent(K::KIND, pending.event);
                    return (body, pending.event);
                }
                Err(_) => self.keep(name, &pending),
            }
        }
    }

    /// The next event from the feed, or one that failed before.
    async fn pending(&mut self) -> Pending<K> {
        loop {
            let Some(feed) = &self.feed else {
                self.store.known_at_last().await;
                let caller = &self.caller;
                self.feed = Some(self.store.subscribe(&caller.namespace, &caller.app_id));
                continue;
            };
            if let Some(since) = self.missed_since {
                // Which Configuration is its own is known from pods.
                self.shared.stores.assignments.known_at_last().await;
                self.missed_since = None;
                for missed in self.missed(since) {
                    feed.put_back(missed);
                }
            }
            tokio::select! {
                pending = feed.next() => return pending,
                () = sleep_until(self.retry), if !self.failed.is_empty() => {
                    for (_, pending) in std::mem::take(&mut self.failed) {
                        feed.put_back(pending);
                    }
                }
            }
        }
    }

    /// What the sidecar may not have heard of, as updates: it does nothing about what it knows. An
    /// object with Secrets is left out: every sidecar would cost reads, and a rotated Secret, for
    /// which none shall start anew, would look like a change.
    fn missed(&self, since: Timestamp) -> Vec<Pending<K>> {
        let Caller { namespace, app_id, .. } = &self.caller;
        let mut entries = self.store.list(namespace);
        entries.retain(|entry| {
            let (object, late) = (&entry.object, entry.written.is_some_and(|at| at >= since));
            late && object.in_scope(app_id) && object.needed_secrets().is_empty()
        });
        let event = ResourceEventType::Updated;
        let delivery = |entry| Arc::new(Delivery::new(entry));
        entries.into_iter().map(|entry| Pending { event, delivery: delivery(entry) }).collect()
    }

    /// A foreign Configuration would restart the sidecar; all other kinds have scopes.
    fn concerns(&self, name: &str) -> bool {
        let Caller { namespace, app_id, .. } = &self.caller;
        K::KIND != Configuration::KIND
            || self.shared.stores.assignments.uses(namespace, app_id, name)
    }

    /// The JSON to send. Of a deleted object only the name matters, and its Secret may be gone.
    async fn body(&self, pending: &Pending<K>) -> Result<Bytes, ApiError> {
        let entry = &pending.delivery.entry;
        if pending.event == ResourceEventType::Deleted {
            return Ok(entry.json()?);
        }
        let filled = pending.delivery.filled.get_or_init(|| self.shared.deliver(entry)).await;
        filled.clone().map_err(ApiError::Fill)
    }

    /// Keeps the stream alive and the event for later.
    fn keep(&mut self, name: String, pending: &Pending<K>) {
        let delivery = Arc::new(Delivery::new(pending.delivery.entry.clone()));
        if self.failed.is_empty() {
            self.retry = Instant::now() + random::jittered(RETRY, 0.2);
        }
        self.failed.insert(name, Pending { event: pending.event, delivery });
    }
}

impl Shared {
    /// The JSON of a changed object, made once for all its streams.
    ///
    /// # Errors
    /// [`FillError`]: a secret is missing.
    pub async fn deliver<K: Served>(&self, entry: &Entry<K>) -> Result<Bytes, FillError> {
        let namespace = entry.object.meta().namespace.clone().unwrap_or_default();
        let fetched = self.fetch(&namespace, needed(entry)).await;
        match self.filled(entry, &fetched) {
            Ok(body) => Ok(body),
            Err(ApiError::Fill(error)) => Err(error),
            Err(error) => {
                tracing::error!(target: "dapr.operator.api", kind = K::KIND, name = entry.name(), "{error}");
                Err(FillError::Unprintable)
            }
        }
    }
}
