//! Settings of an injector from the manifests of its control plane, as `kubectl get -o yaml` or
//! `helm template` print them.

use std::collections::HashMap;

use resources::names;
use serde_json::Value;

use super::templates::objects;

/// Settings in the manifests.
#[derive(Debug, Default)]
pub(crate) struct ControlPlane {
    /// Environment variables of the injector.
    pub(crate) env: HashMap<String, String>,
    /// Arguments of the injector.
    pub(crate) args: Vec<String>,
    /// The trust anchors of the ConfigMap.
    pub(crate) trust_anchors: Option<String>,
    /// The mTLS setting of the Configuration.
    pub(crate) mtls_enabled: Option<bool>,
}

impl ControlPlane {
    /// Reads a document; ignores objects of other parts.
    pub(crate) fn read(&mut self, document: &Value) {
        for found in objects(document) {
            let Some(object) = document.pointer(&found.pointer) else { continue };
            let text =
                |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
            match (text("/kind"), text("/metadata/name")) {
                ("Deployment", names::SERVICE_INJECTOR) => self.read_deployment(object),
                ("ConfigMap", names::TRUST_BUNDLE) => {
                    let anchors = object.pointer("/data/ca.crt").and_then(Value::as_str);
                    self.trust_anchors = anchors.map(str::to_owned).or(self.trust_anchors.take());
                }
                ("Configuration", names::CONTROL_PLANE_CONFIGURATION) => {
                    self.mtls_enabled = Some(crate::sidecar::mtls_enabled(object));
                }
                _ => {}
            }
        }
    }

    fn read_deployment(&mut self, deployment: &Value) {
        let namespace = deployment.pointer("/metadata/namespace").and_then(Value::as_str);
        self.env.extend(namespace.map(|name| ("NAMESPACE".to_owned(), name.to_owned())));
        let containers = deployment.pointer("/spec/template/spec/containers");
        let containers =
            containers.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let own =
            containers.iter().find(|c| c.get("name").is_some_and(|n| n == names::SERVICE_INJECTOR));
        let Some(container) = own else { return };
        let list = |key: &str| container.get(key).and_then(Value::as_array).into_iter().flatten();
        for variable in list("env") {
            let text = |key: &str| variable.get(key).and_then(Value::as_str);
            // Without a value it refers to the namespace of the pod, which is set above.
            if let Some((name, value)) = text("name").zip(text("value")) {
                self.env.insert(name.to_owned(), value.to_owned());
            }
        }
        self.args = list("args").filter_map(|arg| arg.as_str().map(str::to_owned)).collect();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_the_settings_of_an_installation() {
        let list = json!({"kind": "List", "items": [
            {"kind": "Deployment", "metadata": {"name": "dapr-sidecar-injector", "namespace": "dapr"}, "spec": {"template": {"spec": {"containers": [
                {"name": "other", "env": [{"name": "SIDECAR_IMAGE", "value": "wrong"}]},
                {"name": "dapr-sidecar-injector", "args": ["--scheduler-enabled=false"], "env": [
                    {"name": "SIDECAR_IMAGE", "value": "daprd:1"},
                    {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                ]},
            ]}}}},
            {"kind": "ConfigMap", "metadata": {"name": "dapr-trust-bundle"}, "data": {"ca.crt": "PEM"}},
            {"kind": "Configuration", "metadata": {"name": "daprsystem"}, "spec": {"mtls": {"enabled": false}}},
        ]});
        let mut found = ControlPlane::default();
        found.read(&list);
        found.read(&json!({"kind": "Deployment", "metadata": {"name": "web"}}));
        assert_eq!(found.env["SIDECAR_IMAGE"], "daprd:1");
        assert_eq!(found.env["NAMESPACE"], "dapr");
        assert_eq!(found.args, ["--scheduler-enabled=false"]);
        assert_eq!(
            (found.trust_anchors.as_deref(), found.mtls_enabled),
            (Some("PEM"), Some(false))
        );
    }
}
