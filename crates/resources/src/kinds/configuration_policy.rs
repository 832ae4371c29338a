//! Members of a Configuration about access, middleware and workflows.
use serde::{Deserialize, Serialize};

use crate::go_duration::GoDuration;
use crate::shared::{Rest, is_default};

/// Access to secret stores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Secrets {
    /// Per store; `None` is printed as `null`.
    pub scopes: Option<Vec<SecretScope>>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Access to one secret store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SecretScope {
    /// Name of the secret-store Component, or `kubernetes`.
    pub store_name: String,
    /// `allow` or `deny` for secrets without an exception.
    #[serde(skip_serializing_if = "is_default")]
    pub default_access: String,
    /// Secrets that are allowed although the default is `deny`.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_secrets: Vec<String>,
    /// Secrets that are denied although the default is `allow`.
    #[serde(skip_serializing_if = "is_default")]
    pub denied_secrets: Vec<String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Access control of this app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AccessControl {
    /// `allow` or `deny` for callers without an entry.
    #[serde(skip_serializing_if = "is_default")]
    pub default_action: String,
    /// Trust domain of this app.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain: String,
    /// Rules per caller.
    #[serde(skip_serializing_if = "is_default")]
    pub policies: Vec<AppPolicy>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What one caller may invoke.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AppPolicy {
    /// App id of the caller.
    pub app_id: String,
    /// `allow` or `deny` for paths without an entry.
    #[serde(skip_serializing_if = "is_default")]
    pub default_action: String,
    /// The caller's trust domain.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain: String,
    /// The caller's namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Rules per path.
    #[serde(skip_serializing_if = "is_default")]
    pub operations: Vec<AppOperation>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A path and whether the caller may invoke it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AppOperation {
    /// Path with wildcard.
    pub name: String,
    /// Verbs; empty means all.
    #[serde(skip_serializing_if = "is_default")]
    pub http_verb: Vec<String>,
    /// `allow` or `deny`.
    pub action: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// APIs that the sidecar serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ApiAccess {
    /// If not empty, only these.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed: Vec<ApiRule>,
    /// All except these.
    #[serde(skip_serializing_if = "is_default")]
    pub denied: Vec<ApiRule>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One API of the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ApiRule {
    /// Name, such as `state`.
    pub name: String,
    /// Version, such as `v1`; empty means all.
    pub version: String,
    /// `http` or `grpc`, in any case. daprd 1.18 ignores a rule with any other, and one without.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Middleware, in order of execution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Pipeline {
    /// The handlers; `None` is printed as `null`.
    pub handlers: Option<Vec<Handler>>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One middleware Component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    /// Name of the Component.
    pub name: String,
    /// Type of the Component.
    #[serde(rename = "type")]
    pub type_: String,
    /// Restricts it to some requests.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<Selector>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Condition on the requests that a middleware runs for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// All must hold; `None` is printed as `null`.
    pub fields: Option<Vec<SelectorField>>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A field of a request and the value that it must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorField {
    /// Name of the field.
    pub field: String,
    /// Required value of the field.
    pub value: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Workflows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Workflow {
    /// Concurrent workflows of one sidecar; 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrent_workflow_invocations: i32,
    /// Concurrent activities of one sidecar; 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrent_activity_invocations: i32,
    /// Concurrent workflows of all replicas; 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub global_max_concurrent_workflow_invocations: i32,
    /// Concurrent activities of all replicas; 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub global_max_concurrent_activity_invocations: i32,
    /// Limits by workflow.
    #[serde(skip_serializing_if = "is_default")]
    pub workflow_concurrency_limits: Vec<ConcurrencyLimit>,
    /// Limits by activity.
    #[serde(skip_serializing_if = "is_default")]
    pub activity_concurrency_limits: Vec<ConcurrencyLimit>,
    /// How long the state of finished workflows is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub state_retention_policy: Option<StateRetentionPolicy>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Limit of one workflow or activity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ConcurrencyLimit {
    /// Name of the workflow or activity; an empty one is kept (Dapr 1.18.1, observed from its
    /// operator).
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// Concurrent executions; an explicit 0 is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrent: Option<i32>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How long the state of finished workflows is kept; a specific member wins over `any_terminal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct StateRetentionPolicy {
    /// After any terminal state, as Go duration.
    #[serde(skip_serializing_if = "is_default")]
    pub any_terminal: Option<GoDuration>,
    /// After completion, as Go duration.
    #[serde(skip_serializing_if = "is_default")]
    pub completed: Option<GoDuration>,
    /// After failure, as Go duration.
    #[serde(skip_serializing_if = "is_default")]
    pub failed: Option<GoDuration>,
    /// After termination, as Go duration.
    #[serde(skip_serializing_if = "is_default")]
    pub terminated: Option<GoDuration>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
