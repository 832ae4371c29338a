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
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Access to one secret store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SecretScope {
    /// The store.
    pub store_name: String,
    /// `allow` or `deny`.
    #[serde(skip_serializing_if = "is_default")]
    pub default_access: String,
    /// Exceptions to `deny`.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_secrets: Vec<String>,
    /// Exceptions to `allow`.
    #[serde(skip_serializing_if = "is_default")]
    pub denied_secrets: Vec<String>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Access control of this app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AccessControl {
    /// `allow` or `deny`.
    #[serde(skip_serializing_if = "is_default")]
    pub default_action: String,
    /// Trust domain of this app.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain: String,
    /// Per caller.
    #[serde(skip_serializing_if = "is_default")]
    pub policies: Vec<AppPolicy>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What one caller may invoke.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AppPolicy {
    /// The caller's id.
    pub app_id: String,
    /// `allow` or `deny`.
    #[serde(skip_serializing_if = "is_default")]
    pub default_action: String,
    /// The caller's trust domain.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain: String,
    /// The caller's namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Per path.
    #[serde(skip_serializing_if = "is_default")]
    pub operations: Vec<AppOperation>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A path that a caller may or may not invoke.
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
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Which APIs of the sidecar exist.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ApiAccess {
    /// Only these.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed: Vec<ApiRule>,
    /// All but these.
    #[serde(skip_serializing_if = "is_default")]
    pub denied: Vec<ApiRule>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One API of the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ApiRule {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `http` or `grpc`; empty means both.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Middleware, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Pipeline {
    /// The handlers; `None` is printed as `null`.
    pub handlers: Option<Vec<Handler>>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One middleware Component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    /// The Component's name.
    pub name: String,
    /// The Component's type.
    #[serde(rename = "type")]
    pub type_: String,
    /// For which requests.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<Selector>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// For which requests a middleware runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// All must hold; `None` is printed as `null`.
    pub fields: Option<Vec<SelectorField>>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A field of a request and its value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorField {
    /// The field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// Members that this version does not know; they pass through unchanged.
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
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Limit of one workflow or activity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ConcurrencyLimit {
    /// Its name; an empty one is kept (Dapr 1.18.1, observed from its operator).
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// Concurrent executions; an explicit 0 is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrent: Option<i32>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How long the state of finished workflows is kept; a specific member wins over `any_terminal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct StateRetentionPolicy {
    /// Any terminal state.
    #[serde(skip_serializing_if = "is_default")]
    pub any_terminal: Option<GoDuration>,
    /// Completed.
    #[serde(skip_serializing_if = "is_default")]
    pub completed: Option<GoDuration>,
    /// Failed.
    #[serde(skip_serializing_if = "is_default")]
    pub failed: Option<GoDuration>,
    /// Terminated.
    #[serde(skip_serializing_if = "is_default")]
    pub terminated: Option<GoDuration>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
