//! What the cluster's administrator decided about sidecars: the same for every pod.

use serde_json::Value;

use crate::addresses::{Actors, ControlPlane};
use crate::defaults::Defaults;

/// Settings of the injection, checked; made by [`crate::config`].
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the administrator")]
pub struct Settings {
    /// Image of daprd.
    pub image: String,
    /// `Always`, `Never` or `IfNotPresent`.
    pub pull_policy: &'static str,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Trust domain of the control plane.
    pub trust_domain: String,
    /// SPIFFE id of sentry: the audience of the sidecars' tokens.
    pub sentry_id: String,
    /// Names of the control plane's Services.
    pub control_plane: ControlPlane,
    /// Where actors live.
    pub actors: Actors,
    /// `--reminders-service`, if any.
    pub reminders: Option<String>,
    /// Give sidecars the scheduler's address.
    pub scheduler: bool,
    /// Pods of the scheduler, for sidecars that need all of their addresses.
    pub scheduler_replicas: u32,
    /// Whether sidecars are native unless annotated otherwise.
    pub native: NativeDefault,
    /// Defaults for annotations of all pods.
    pub defaults: Defaults,
    /// Default directory of the sockets of pluggable components.
    pub sockets_folder: String,
    /// Give sidecars `DAPR_HOST_IP`.
    pub downward_api: bool,
    /// Mount the identity token: true when the injector itself has one.
    pub identity_token: bool,
    /// Tolerations of pods that need `command`, see [`Toleration`].
    pub entrypoint_tolerations: Vec<Toleration>,
    /// Security context of the sidecar.
    pub security: Security,
    /// Refuse pods whose annotations have bad values, instead of warning.
    pub strict_annotations: bool,
}

/// Whether sidecars are native where no annotation says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NativeDefault {
    /// Ordinary containers, which the CLI lists.
    #[default]
    Off,
    /// Restartable init containers.
    On,
    /// Restartable init containers where API server and all nodes are known to run them.
    Auto,
}

/// Security context of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// `runAsNonRoot`
    pub run_as_non_root: bool,
    /// `runAsUser`
    pub run_as_user: Option<i64>,
    /// `runAsGroup`
    pub run_as_group: Option<i64>,
    /// `readOnlyRootFilesystem`
    pub read_only_root: bool,
    /// Drop all capabilities.
    pub drop_all: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            run_as_non_root: true,
            run_as_user: None,
            run_as_group: None,
            read_only_root: true,
            drop_all: false,
        }
    }
}

/// A toleration of nodes that are not machines (virtual kubelets) and run `command` only.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Toleration {
    key: Option<String>,
    operator: Option<String>,
    value: Option<String>,
    effect: Option<String>,
    #[serde(rename = "tolerationSeconds")]
    seconds: Option<i64>,
}

impl Toleration {
    /// Reads a JSON list. The official chart escapes the quotes once too often; that is undone.
    ///
    /// # Errors
    /// The text is no JSON list of tolerations, as it stands and without the escapes.
    pub fn parse_list(text: &str) -> serde_json::Result<Vec<Self>> {
        serde_json::from_str(text)
            .or_else(|error| serde_json::from_str(&text.replace("\\\"", "\"")).map_err(|_| error))
    }

    /// Whether this is one of a pod's tolerations, all fields equal by value.
    pub fn is_among(&self, tolerations: &[Value]) -> bool {
        let text = |own: &Option<String>, other: &Value, key: &str| {
            own.as_deref().unwrap_or_default()
                == other.get(key).and_then(Value::as_str).unwrap_or_default()
        };
        tolerations.iter().any(|other| {
            text(&self.key, other, "key")
                && text(&self.operator, other, "operator")
                && text(&self.value, other, "value")
                && text(&self.effect, other, "effect")
                && self.seconds == other.get("tolerationSeconds").and_then(Value::as_i64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_tolerations_also_with_the_charts_stray_escapes() {
        let clean = r#"[{"effect":"NoSchedule","key":"aws","operator":"Exists"}]"#;
        let escaped = clean.replace('"', "\\\"");
        let list = Toleration::parse_list(clean).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(Toleration::parse_list(&escaped).unwrap(), list);
        assert!(Toleration::parse_list("[1]").is_err());
        assert!(Toleration::parse_list("aws").is_err());
    }

    #[test]
    fn tolerations_are_equal_by_value() {
        let wanted: Toleration =
            serde_json::from_value(json!({"key": "aws", "tolerationSeconds": 5})).unwrap();
        assert!(
            wanted.is_among(&[json!({"key": "x"}), json!({"key": "aws", "tolerationSeconds": 5})])
        );
        assert!(!wanted.is_among(&[json!({"key": "aws"})]));
        assert!(
            !wanted
                .is_among(&[json!({"key": "aws", "tolerationSeconds": 5, "effect": "NoSchedule"})])
        );
    }
}
