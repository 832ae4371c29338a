//! What the gRPC methods share: lists and gets of any kind, with Secrets resolved.
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::ObjectReference;
use resources::{
    Component, Configuration, HTTPEndpoint, MCPServer, Resiliency, Subscription,
    WorkflowAccessPolicy, json,
};
use runtime::LimitMeter;
use tokio_util::sync::CancellationToken;

use crate::api::access::Caller;
use crate::api::assignment::Assignments;
use crate::api::budget::{Budget, MAX_MESSAGE_BYTES, Share, field_bytes};
use crate::api::error::ApiError;
use crate::api::gated_rules::GatedRules;
use crate::api::missed_updates::MissedUpdates;
use crate::api::open_calls::OpenCalls;
use crate::cache::objects::{Entry, Undecodable};
use crate::cache::store::{Store, SyncState};
use crate::cluster::Cluster;
use crate::cluster::report::Reports;
use crate::metrics::Metrics;
use crate::secrets::resolution::{Fetched, FillError, ServedKind};

/// Bytes of an event besides its object.
const EVENT_TYPE_BYTES: usize = 2;

/// The stores of all served kinds, and the Configuration assigned to each app.
#[derive(Default)]
pub(crate) struct Stores {
    pub(crate) components: Arc<Store<Component>>,
    pub(crate) configurations: Arc<Store<Configuration>>,
    /// In version `v2alpha1`.
    pub(crate) subscriptions: Arc<Store<Subscription>>,
    pub(crate) resiliencies: Arc<Store<Resiliency>>,
    pub(crate) http_endpoints: Arc<Store<HTTPEndpoint>>,
    pub(crate) mcp_servers: Arc<Store<MCPServer>>,
    pub(crate) workflow_access_policies: Arc<Store<WorkflowAccessPolicy>>,
    pub(crate) assignments: Arc<Assignments>,
}

/// The state shared by all gRPC methods.
pub(crate) struct Context {
    pub(crate) stores: Stores,
    pub(crate) cluster: Cluster,
    pub(crate) reports: Reports,
    pub(crate) metrics: Metrics,
    pub(crate) missed_updates: MissedUpdates,
    pub(crate) gated_rules: GatedRules,
    /// Memory for what sidecars have not read.
    pub(crate) budget: Budget,
    /// Lists and gets.
    pub(crate) requests: OpenCalls,
    pub(crate) streams: OpenCalls,
    /// Counts answers that are larger than a sidecar can read.
    pub(crate) too_large: LimitMeter,
    /// Ends the streams when it is cancelled.
    pub(crate) token: CancellationToken,
}

impl Context {
    /// The objects in the caller's namespace that `visible` admits, as JSON with Secrets resolved.
    ///
    /// # Errors
    /// [`ApiError`]: the kind has not been listed yet, its CRD is not installed, a Secret that one of
    /// the objects references cannot be resolved, or the caller's app has too many requests or too
    /// much that it has not read.
    pub(crate) async fn list<K: ServedKind>(
        &self,
        store: &Store<K>,
        caller: &Caller,
        visible: impl Fn(&K) -> bool,
    ) -> Result<Vec<Bytes>, ApiError> {
        caller.outgoing.keep(self.requests.open(caller)?);
        self.check_watched(&caller.namespace)?;
        if store.wait_ready().await? == SyncState::NoCrd {
            return if K::EMPTY_WITHOUT_CRD { Ok(Vec::new()) } else { Err(no_crd::<K>(None)) };
        }
        let mut entries = store.list(&caller.namespace);
        entries.retain(|entry| visible(&entry.object));
        let names = entries.iter().flat_map(|entry| needed_secrets(entry)).collect();
        let fetched = self.fetch(&caller.namespace, names).await;
        let share = self.reserve(&entries, &fetched, caller).await?;
        let (mut bodies, mut total) = (Vec::with_capacity(entries.len()), 0);
        for entry in &entries {
            let body = self.resolved_json(entry, &fetched)?;
            total += field_bytes(body.len());
            if total > MAX_MESSAGE_BYTES {
                self.too_large.hit();
                let (namespace, app_id) = (caller.namespace.clone(), caller.app_id.clone());
                return Err(ApiError::TooLarge { plural: K::PLURAL, namespace, app_id });
            }
            bodies.push(body);
        }
        caller.outgoing.keep(share);
        Ok(bodies)
    }

    /// One object in the caller's namespace, as JSON with Secrets resolved.
    ///
    /// # Errors
    /// [`ApiError`]: the kind has not been listed yet, the object does not exist, a Secret that it
    /// references cannot be resolved, or the caller's app has too many requests or too much that it has
    /// not read.
    pub(crate) async fn get<K: ServedKind>(
        &self,
        store: &Store<K>,
        caller: &Caller,
        name: &str,
    ) -> Result<Bytes, ApiError> {
        caller.outgoing.keep(self.requests.open(caller)?);
        self.check_watched(&caller.namespace)?;
        let doing = format!("{} {}/{name}", K::WHAT, caller.namespace);
        if store.wait_ready().await? == SyncState::NoCrd {
            return Err(no_crd::<K>(Some(&doing)));
        }
        let entry = store.get(&caller.namespace, name).ok_or_else(|| ApiError::NotFound {
            doing,
            kind: K::KIND,
            name: name.to_owned(),
        })?;
        let fetched = self.fetch(&caller.namespace, needed_secrets(&entry)).await;
        let share = self.reserve(std::slice::from_ref(&entry), &fetched, caller).await?;
        let body = self.resolved_json(&entry, &fetched)?;
        caller.outgoing.keep(share);
        Ok(body)
    }

    /// A share of the caller's budget for the JSON of these objects.
    async fn reserve<K: ServedKind>(
        &self,
        entries: &[Arc<Entry<K>>],
        fetched: &Fetched,
        caller: &Caller,
    ) -> Result<Share, ApiError> {
        let mut bytes = 0_usize;
        for entry in entries {
            let filled = entry.object.filled_bytes(fetched);
            bytes = bytes.saturating_add(field_bytes(entry.json()?.len())).saturating_add(filled);
        }
        let bytes = bytes.min(MAX_MESSAGE_BYTES);
        self.budget.reserve(caller, bytes).await
    }

    /// The JSON of a changed object with Secrets resolved.
    ///
    /// # Errors
    /// [`FillError`]: a Secret that it references cannot be resolved.
    pub(crate) async fn resolve<K: ServedKind>(
        &self,
        entry: &Entry<K>,
    ) -> Result<Bytes, FillError> {
        let namespace = entry.object.meta().namespace.clone().unwrap_or_default();
        let fetched = self.fetch(&namespace, needed_secrets(entry)).await;
        match self.resolved_json(entry, &fetched) {
            Ok(body) => Ok(body),
            Err(ApiError::Fill(error)) => Err(error),
            Err(error) => {
                tracing::error!(target: "dapr.operator.api", kind = K::KIND, name = entry.name(), "{error}");
                Err(FillError::Unserializable)
            }
        }
    }

    /// Records an object that is not served because it cannot be decoded.
    pub(crate) fn report_undecodable(&self, bad: &Undecodable) {
        let text = runtime::chain(bad);
        tracing::error!(target: "dapr.operator", "object is not served: {text}");
        self.metrics.undecodable(bad.kind);
        let reference = ObjectReference {
            kind: Some(bad.kind.to_owned()),
            api_version: Some(bad.api_version.clone()),
            namespace: Some(bad.key.namespace.clone()),
            name: Some(bad.key.name.clone()),
            uid: bad.uid.clone(),
            ..ObjectReference::default()
        };
        self.reports.warn(reference, "Undecodable", text);
    }

    fn check_watched(&self, namespace: &str) -> Result<(), ApiError> {
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

    /// The JSON of an object with the values of `fetched`. The cached object is not modified.
    fn resolved_json<K: ServedKind>(
        &self,
        entry: &Entry<K>,
        fetched: &Fetched,
    ) -> Result<Bytes, ApiError> {
        if entry.object.needed_secrets().is_empty() {
            return Ok(entry.json()?);
        }
        let mut object = entry.object.clone();
        if let Err(error) = self.fill(&mut object, fetched) {
            self.report_unresolved(&entry.object, &error);
            entry.record_sent(b"");
            if !entry.object.serve_unfilled() {
                return Err(error.into());
            }
            return Ok(entry.json()?);
        }
        let body = Bytes::from(json::to_vec(&object)?);
        entry.record_sent(&body);
        if field_bytes(body.len()) + EVENT_TYPE_BYTES > MAX_MESSAGE_BYTES {
            return Err(self.too_large(&entry.object).into());
        }
        Ok(body)
    }

    /// Sets the values of the Secrets, unless they make the object larger than a sidecar can read.
    fn fill<K: ServedKind>(&self, object: &mut K, fetched: &Fetched) -> Result<(), FillError> {
        if object.filled_bytes(fetched) > MAX_MESSAGE_BYTES {
            return Err(self.too_large(object));
        }
        object.fill(fetched)
    }

    fn too_large<K: ServedKind>(&self, object: &K) -> FillError {
        self.too_large.hit();
        let name = object.meta().name.clone().unwrap_or_default();
        FillError::TooLarge { kind: K::KIND, name }
    }

    fn report_unresolved<K: ServedKind>(&self, object: &K, error: &FillError) {
        let reason = match error {
            FillError::TooLarge { .. } => "TooLarge",
            error if error.is_key() => "SecretKeyNotFound",
            _ => "SecretNotFound",
        };
        let reference = object.object_ref(&());
        let (namespace, name) = (reference.namespace.as_deref(), reference.name.as_deref());
        tracing::warn!(target: "dapr.operator.api", kind = K::KIND, namespace, name, "{error}");
        self.metrics.secret_failed(K::KIND, namespace.unwrap_or_default());
        self.reports.warn(reference, reason, error.to_string());
    }
}

/// Names of the Secrets that an object references, without duplicates.
fn needed_secrets<K: ServedKind>(entry: &Entry<K>) -> BTreeSet<String> {
    entry.object.needed_secrets().into_iter().map(str::to_owned).collect()
}

fn no_crd<K: ServedKind>(doing: Option<&str>) -> ApiError {
    let doing = doing.map_or_else(
        || format!("error listing {}", K::PLURAL),
        |what| format!("error getting {what}"),
    );
    ApiError::NoCrd { doing, kind: K::KIND, version: K::VERSION }
}
