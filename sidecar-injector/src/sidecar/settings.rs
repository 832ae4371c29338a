//! Settings of the administrator that apply to every sidecar.

use serde_json::Value;

use super::addresses::{Actors, ControlPlane};
use crate::pod::Defaults;

/// Validated settings of the injection. Parsed by [`crate::Flags::into_config`].
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
    /// SPIFFE ID of sentry; audience of the identity tokens.
    pub sentry_id: String,
    /// Addresses of the control plane's Services.
    pub control_plane: ControlPlane,
    /// The actor service.
    pub actors: Actors,
    /// Value of `--reminders-service`.
    pub reminders: Option<String>,
    /// Whether sidecars get the address of the scheduler. Default true.
    pub scheduler: bool,
    /// Number of scheduler pods; sidecars before 1.15 need the address of each. Default 3.
    pub scheduler_replicas: u32,
    /// Default of `dapr.io/enable-native-sidecar`.
    pub native: NativeDefault,
    /// Defaults for annotations of pods.
    pub defaults: Defaults,
    /// Default directory for sockets of pluggable components.
    pub sockets_folder: String,
    /// Whether sidecars get the variable `DAPR_HOST_IP`. Default false.
    pub downward_api: bool,
    /// Whether sidecars mount an identity token: true if the injector has one.
    pub identity_token: bool,
    /// Pods with one of these tolerations get `command` instead of `args` only.
    pub entrypoint_tolerations: Vec<Toleration>,
    /// Security context of the sidecar.
    pub security: Security,
    /// Whether invalid annotations reject the pod instead of yielding warnings. Default false.
    pub strict_annotations: bool,
}

/// Default of `dapr.io/enable-native-sidecar`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NativeDefault {
    /// Ordinary containers; the CLI lists only these.
    #[default]
    Off,
    /// Restartable init containers.
    On,
    /// Restartable init containers if API server and all nodes support them.
    Auto,
}

/// Security context of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// `runAsNonRoot`; default true.
    pub run_as_non_root: bool,
    /// `runAsUser`; `None` leaves it to the image.
    pub run_as_user: Option<i64>,
    /// `runAsGroup`; `None` leaves it to the image.
    pub run_as_group: Option<i64>,
    /// `readOnlyRootFilesystem`; default true.
    pub read_only_root: bool,
    /// Whether to drop all capabilities; default false.
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

/// A toleration of virtual nodes, whose kubelets ignore the entrypoint of an image.
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
    /// Parses a JSON list. Accepts quotes that are escaped once more, as the official chart does.
    ///
    /// # Errors
    /// The text is not a JSON list of tolerations, with and without the additional escapes.
    pub fn parse_list(text: &str) -> serde_json::Result<Vec<Self>> {
        serde_json::from_str(text)
            .or_else(|error| serde_json::from_str(&text.replace("\\\"", "\"")).map_err(|_| error))
    }

    /// Whether one of the tolerations equals this one in all fields.
    pub(crate) fn is_among(&self, tolerations: &[Value]) -> bool {
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
    use serde_json::json;

    use super::*;

    #[test]
    fn parses_tolerations_with_and_without_additional_escapes() {
        let clean = r#"[{"effect":"NoSchedule","key":"aws","operator":"Exists"}]"#;
        let escaped = clean.replace('"', "\\\"");
        let list = Toleration::parse_list(clean).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(Toleration::parse_list(&escaped).unwrap(), list);
        assert!(Toleration::parse_list("[1]").is_err());
        assert!(Toleration::parse_list("aws").is_err());
    }

    #[test]
    fn compares_all_fields_of_tolerations() {
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
