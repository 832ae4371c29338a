//! What the dashboard knows about a cluster, without any secret value. Pure.
//!
//! Start at [`Snapshot`]. Objects are reduced and redacted ([`redaction`]) as they arrive from the API
//! server, before anything else sees them: no page, JSON form or log can show what is not here.

pub(crate) mod component_types;
pub(crate) mod event;
pub(crate) mod pod;
pub(crate) mod redaction;
pub(crate) mod resource;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use event::Event;
use pod::Pod;
use resource::{Kind, Resource};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// The state of one watch.
#[derive(Debug, Clone)]
pub(crate) struct Watched<T> {
    /// The objects.
    pub(crate) objects: Arc<BTreeMap<Key, Arc<T>>>,
    /// Whether the first list is complete.
    pub(crate) is_synced: bool,
    /// Why the watch fails at present; contains what the API server said.
    pub(crate) failure: Option<String>,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { objects: Arc::default(), is_synced: false, failure: None }
    }
}

impl<T> Watched<T> {
    /// The objects in the order of namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values()
    }

    /// The object of this namespace and name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Namespace of the control plane.
    pub(crate) namespace: String,
    /// Pods with a sidecar, pods that ask for one, and those of the control plane.
    pub(crate) pods: Watched<Pod>,
    /// The objects of `dapr.io`, by kind.
    pub(crate) resources: BTreeMap<Kind, Watched<Resource>>,
    /// Events of the control plane.
    pub(crate) events: Watched<Event>,
    /// The `ConfigMap` with the trust anchors in PEM; certificates are public.
    pub(crate) anchors: Watched<String>,
}

impl Snapshot {
    /// Objects of a kind.
    pub(crate) fn kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.get(&kind).into_iter().flat_map(Watched::iter)
    }

    /// Pods of applications: those with a sidecar, and those that ask for one.
    pub(crate) fn app_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| pod.is_app())
    }

    /// Pods of the control plane.
    pub(crate) fn control_plane(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| pod.namespace == self.namespace && pod.is_control_plane())
    }

    /// Version of the control plane: the tag of an image that the operator runs, or of any service.
    pub(crate) fn version(&self) -> Option<&str> {
        let pods = || self.control_plane().filter(|pod| pod.app() != "dapr-dashboard");
        let operator = pods().find(|pod| pod.app() == "dapr-operator");
        let version = operator.or_else(|| pods().next())?.version();
        Some(version).filter(|version| !version.is_empty())
    }

    /// What could not be watched, and why.
    pub(crate) fn failures(&self) -> Vec<(&'static str, &str)> {
        let mut all: Vec<_> =
            self.pods.failure.as_deref().map(|text| ("Pods", text)).into_iter().collect();
        for (kind, watched) in &self.resources {
            all.extend(watched.failure.as_deref().map(|text| (kind.title(), text)));
        }
        all.extend(self.events.failure.as_deref().map(|text| ("Events", text)));
        all.extend(
            self.anchors.failure.as_deref().map(|text| ("ConfigMap dapr-trust-bundle", text)),
        );
        all
    }
}

/// A member as string; empty if it is absent or of another type.
pub(crate) fn string(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Major and minor of a version such as `1.18.3` or `v1.34.4-eks-1`.
pub(crate) fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
