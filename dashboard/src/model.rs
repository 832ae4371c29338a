//! The dashboard's model of a cluster, without secret values. Pure.
//!
//! Start at [`Snapshot`]. Objects are reduced and redacted ([`redaction`]) as they arrive from the API
//! server, before any other code sees them: pages, JSON forms and logs can show nothing else.

pub(crate) mod access;
pub(crate) mod arguments;
pub(crate) mod event;
pub(crate) mod kind;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod pod;
pub(crate) mod process;
pub(crate) mod public_metadata;
pub(crate) mod redaction;
pub(crate) mod resource;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use actor_ring::VIRTUAL_NODES;
use serde_json::Value;

use crate::model::access::{Right, Visible};
use event::Event;
use kind::Kind;
use pod::Pod;
use resource::Resource;

/// Label `app` of the pods of placement (Dapr 1.18, chart).
pub(crate) const PLACEMENT: &str = "dapr-placement-server";
/// The same of the scheduler.
pub(crate) const SCHEDULER: &str = "dapr-scheduler-server";

/// Namespace and name.
pub(crate) type Key = (String, String);

/// The state of one watch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Watched<T> {
    /// By namespace and name.
    pub(crate) objects: Arc<BTreeMap<Key, Arc<T>>>,
    /// Whether the first list is complete.
    pub(crate) is_synced: bool,
    /// Why the watch fails at present, with the answer of the API server.
    pub(crate) failure: Option<String>,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { objects: Arc::default(), is_synced: false, failure: None }
    }
}

impl<T> Watched<T> {
    /// All objects, of a complete list.
    pub(crate) fn of(objects: impl IntoIterator<Item = (Key, T)>, failure: Option<String>) -> Self {
        let objects = objects.into_iter().map(|(key, object)| (key, Arc::new(object)));
        Self { objects: Arc::new(objects.collect()), is_synced: true, failure }
    }

    /// The objects in the order of namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values()
    }

    /// The object of this namespace and name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// Where applications run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Kubernetes,
    /// As processes of this machine.
    SelfHosted,
}

/// The state at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) mode: Mode,
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
    /// What the user may see; `None` for everything.
    pub(crate) visible: Option<Arc<Visible>>,
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
        self.pods.iter().filter(|pod| self.is_control_plane(pod))
    }

    /// Whether a pod belongs to the control plane: labels alone are anybody's.
    pub(crate) fn is_control_plane(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace && pod.is_control_plane()
    }

    /// Addresses of the ready pods of a service of the control plane, by its label `app`.
    pub(crate) fn ready_addresses(&self, app: &str) -> impl Iterator<Item = IpAddr> {
        let ready = self.control_plane().filter(move |pod| pod.app() == app && pod.is_ready());
        ready.filter_map(|pod| pod.address)
    }

    /// Version of the control plane: the tag of an image that the operator runs, or of any service.
    pub(crate) fn version(&self) -> Option<&str> {
        let pods = || self.control_plane().filter(|pod| pod.app() != "dapr-dashboard");
        let operator = pods().find(|pod| pod.app() == "dapr-operator");
        let version = operator.or_else(|| pods().next())?.version();
        Some(version).filter(|version| !version.is_empty())
    }

    /// Virtual nodes of each actor host, as the arguments of placement say.
    pub(crate) fn virtual_nodes(&self) -> u32 {
        let mut pods = self.control_plane().filter(|pod| pod.app() == PLACEMENT);
        pods.find_map(|pod| pod.arguments.virtual_nodes).unwrap_or(VIRTUAL_NODES)
    }

    /// Whether the user may see Pods of this namespace, for facts that come from elsewhere.
    pub(crate) fn shows_namespace(&self, namespace: &str) -> bool {
        self.visible.as_ref().is_none_or(|visible| visible.admits(Right::Pods, namespace))
    }

    /// Watches that fail, and why.
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

#[cfg(test)]
impl<T> FromIterator<(Key, T)> for Watched<T> {
    fn from_iter<I: IntoIterator<Item = (Key, T)>>(objects: I) -> Self {
        Self::of(objects, None)
    }
}

#[cfg(test)]
impl Snapshot {
    /// A cluster with these Pods of the API, control plane in `dapr-system`.
    pub(crate) fn of_pods(pods: impl IntoIterator<Item = Value>) -> Self {
        let pods = pods.into_iter().filter_map(|pod| Pod::read(&pod));
        let pods = pods.map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod)).collect();
        Self { namespace: "dapr-system".to_owned(), pods, ..Self::default() }
    }
}
