//! Whether pods are injected: the registration of the injector's webhook, a probe pod, and the
//! sidecar of a pod.
//!
//! Pure. Objects are untyped JSON, so that members newer than our types are harmless.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::{Expression, ParseExpressionError, Selector, SelectorExt as _};
use serde_json::{Value, json};

use crate::annotations::{ANNOTATION_APP_ID, ANNOTATION_ENABLED};
use crate::names;

/// Label that the API server puts on each namespace (Kubernetes, well-known labels).
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Whether a container or a restartable init container is the sidecar.
pub fn has_sidecar(pod: &Value) -> bool {
    ["/spec/containers", "/spec/initContainers"].iter().any(|list| {
        let containers = pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
        containers.into_iter().any(|container| {
            container.get("name").and_then(Value::as_str) == Some(names::SIDECAR_CONTAINER)
        })
    })
}

/// A pod for a dry run that tests injection; `name` is its app id and the prefix of its name. It
/// passes Pod Security `restricted` and quotas; its image is never pulled.
pub fn probe(name: &str) -> Value {
    let tiny = json!({"cpu": "1m", "memory": "1Mi"});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{name}-"),
            "annotations": {ANNOTATION_ENABLED: "true", ANNOTATION_APP_ID: name},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "probe",
                "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": tiny, "limits": tiny},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                },
            }],
        },
    })
}

/// The pods that the injector's webhook matches.
#[derive(Clone, Debug)]
pub struct Selection {
    namespaces: Selector,
    pods: Selector,
}

/// Why a registration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadRegistration {
    /// The configuration lacks the webhook.
    #[error("it has no webhook {}", names::WEBHOOK)]
    NoWebhook,
    /// A selector is malformed.
    #[error("read a selector of it")]
    Form(#[from] serde_json::Error),
    /// A selector has an unknown operator.
    #[error("read a selector of it")]
    Selector(#[from] ParseExpressionError),
}

impl Selection {
    /// Reads the injector's MutatingWebhookConfiguration.
    ///
    /// # Errors
    /// [`BadRegistration`]
    pub fn read(registration: &Value) -> Result<Self, BadRegistration> {
        let webhooks = registration.get("webhooks").and_then(Value::as_array);
        let ours = webhooks
            .into_iter()
            .flatten()
            .find(|webhook| webhook.get("name").and_then(Value::as_str) == Some(names::WEBHOOK));
        let ours = ours.ok_or(BadRegistration::NoWebhook)?;
        Ok(Self {
            namespaces: selector(ours.get("namespaceSelector"))?,
            pods: selector(ours.get("objectSelector"))?,
        })
    }

    /// Whether the selection depends on labels of a namespace other than its name.
    pub fn needs_namespace(&self) -> bool {
        self.namespaces.clone().into_iter().any(|expression| key(&expression) != NAMESPACE_NAME)
    }

    /// Whether the webhook matches a pod and a namespace with these labels.
    pub fn covers(
        &self,
        namespace: &BTreeMap<String, String>,
        pod: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let none = BTreeMap::new();
        self.namespaces.matches(namespace) && self.pods.matches(pod.unwrap_or(&none))
    }
}

fn key(expression: &Expression) -> &str {
    use Expression::{DoesNotExist, Equal, Exists, In, NotEqual, NotIn};
    let (In(key, _)
    | NotIn(key, _)
    | Equal(key, _)
    | NotEqual(key, _)
    | Exists(key)
    | DoesNotExist(key)) = expression;
    key
}

/// An absent selector selects everything (Kubernetes, admission registration).
fn selector(value: Option<&Value>) -> Result<Selector, BadRegistration> {
    let Some(value) = value else { return Ok(Selector::default()) };
    let parsed: LabelSelector = serde_json::from_value(value.clone())?;
    Ok(parsed.try_into()?)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_probe_requests_a_sidecar_and_has_none() {
        assert!(!has_sidecar(&probe("it")));
        assert_eq!(probe("it")["metadata"]["annotations"]["dapr.io/enabled"], "true");
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[rstest]
    #[case::usual(&[("kubernetes.io/metadata.name", "shop")], &[("app", "orders")], true)]
    #[case::no_labels(&[], &[], true)]
    #[case::excluded_namespace(&[("kubernetes.io/metadata.name", "kube-system")], &[("app", "orders")], false)]
    #[case::control_plane(&[("kubernetes.io/metadata.name", "shop")], &[("app", "dapr-operator")], false)]
    fn the_webhook_sees_what_its_selectors_admit(
        #[case] namespace: &[(&str, &str)],
        #[case] pod: &[(&str, &str)],
        #[case] want: bool,
    ) {
        let registration = json!({"webhooks": [
            {"name": "other.example"},
            {"name": "sidecar-injector.dapr.io",
             "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}]},
             "objectSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["dapr-operator"]}]}},
        ]});
        let selection = Selection::read(&registration).unwrap();
        assert_eq!(selection.covers(&labels(namespace), Some(&labels(pod))), want);
    }

    #[test]
    fn registration_without_selectors_covers_everything() {
        let registration = json!({"webhooks": [{"name": "sidecar-injector.dapr.io"}]});
        assert!(Selection::read(&registration).unwrap().covers(&labels(&[]), None));
        assert!(Selection::read(&json!({})).is_err(), "no webhook, no injection");
    }

    #[rstest]
    #[case::none(json!({}), false)]
    #[case::by_name(json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}), false)]
    #[case::by_team(json!({"matchLabels": {"team": "a"}}), true)]
    fn a_namespace_is_read_only_for_its_other_labels(#[case] selector: Value, #[case] want: bool) {
        let registration = json!({"webhooks": [
            {"name": "sidecar-injector.dapr.io", "namespaceSelector": selector},
        ]});
        assert_eq!(Selection::read(&registration).unwrap().needs_namespace(), want);
    }
}
