//! The inputs of an injection besides the pod.

use serde_json::Value;

use super::platform::Platform;
use super::settings::Settings;
use crate::pod::{DefaultLayers, NamespacePolicy};

/// A Component that defines a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentContainer {
    /// Name of the Component.
    pub name: String,
    /// App ids that can use it; empty for all.
    pub scopes: Vec<String>,
    /// Value of its annotation: a core/v1 Container as JSON.
    pub container: String,
}

/// Settings and cluster state that the sidecar of a pod depends on.
#[derive(Debug, Clone, Copy)]
pub struct InjectionContext<'a> {
    /// Settings of the cluster.
    pub settings: &'a Settings,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Labels and annotations of that Namespace that apply to sidecars.
    pub policy: &'a NamespacePolicy,
    /// Versions of the API server and of the nodes.
    pub platform: Platform,
    /// PEM bundle for the environment variable `DAPR_TRUST_ANCHORS`.
    pub trust_anchors: &'a str,
    /// Whether sidecars use mTLS.
    pub mtls_enabled: bool,
    /// Components of the namespace that define containers, or the reason why they are unknown.
    pub components: Result<&'a [ComponentContainer], &'a str>,
}

impl<'a> InjectionContext<'a> {
    /// The defaults for annotations of the pod.
    pub(crate) fn defaults(&self) -> DefaultLayers<'a> {
        DefaultLayers { cluster: &self.settings.defaults, namespace: &self.policy.defaults }
    }
}

/// `spec.mtls.enabled` of the control plane's Configuration. Default true.
pub(crate) fn mtls_enabled(configuration: &Value) -> bool {
    configuration.pointer("/spec/mtls/enabled").and_then(Value::as_bool).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mtls_is_on_by_default() {
        assert!(mtls_enabled(&json!({})));
        assert!(mtls_enabled(&json!({"spec": {"mtls": {}}})));
        assert!(!mtls_enabled(&json!({"spec": {"mtls": {"enabled": false}}})));
    }
}
