//! `Resiliency`: named timeouts, retries and circuit breakers, and what they apply to.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::shared::{Rest, is_default};

custom_resource! {
    /// Named timeouts, retries and circuit breakers, and what they apply to.
    scoped Resiliency "v1alpha1" "resiliencies" {
        /// Policies and their targets.
        pub spec: ResiliencySpec,
    }
}

/// Policies and their targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ResiliencySpec {
    /// The policies, by name.
    pub policies: Policies,
    /// What they apply to.
    pub targets: Targets,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The policies, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Policies {
    /// Go durations, or integers as text in milliseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: BTreeMap<String, String>,
    /// How often and how fast to try again.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: BTreeMap<String, Retry>,
    /// When to stop trying.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breakers: BTreeMap<String, CircuitBreaker>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How often and how fast to try again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// `constant` or `exponential`.
    #[serde(skip_serializing_if = "is_default")]
    pub policy: String,
    /// Go duration between tries of `constant`.
    #[serde(skip_serializing_if = "is_default")]
    pub duration: String,
    /// Go duration: upper limit of `exponential`.
    #[serde(skip_serializing_if = "is_default")]
    pub max_interval: String,
    /// Tries after the first; negative is unlimited. 0 differs from absent.
    #[serde(skip_serializing_if = "is_default")]
    pub max_retries: Option<i64>,
    /// Which results are tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub matching: Option<RetryMatching>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Which results are tried again: comma lists of codes and ranges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RetryMatching {
    /// Within 100–599.
    #[serde(rename = "httpStatusCodes", skip_serializing_if = "is_default")]
    pub http_status_codes: String,
    /// Within 0–16.
    #[serde(rename = "gRPCStatusCodes", skip_serializing_if = "is_default")]
    pub grpc_status_codes: String,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// When to stop trying.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Probes while half open.
    #[serde(skip_serializing_if = "is_default")]
    pub max_requests: i64,
    /// Go duration after which the counts start over.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: String,
    /// Go duration from open to half open.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: String,
    /// CEL over the counts.
    #[serde(skip_serializing_if = "is_default")]
    pub trip: String,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What the policies apply to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Targets {
    /// By app id.
    #[serde(skip_serializing_if = "is_default")]
    pub apps: BTreeMap<String, AppTarget>,
    /// By actor type.
    #[serde(skip_serializing_if = "is_default")]
    pub actors: BTreeMap<String, ActorTarget>,
    /// By Component name.
    #[serde(skip_serializing_if = "is_default")]
    pub components: BTreeMap<String, ComponentTarget>,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Policies of the calls to an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AppTarget {
    /// Name of a timeout.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: String,
    /// Name of a retry policy.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: String,
    /// Name of a circuit breaker.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker: String,
    /// Circuit breakers kept per app; 0 means the sidecar's default.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker_cache_size: i64,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Policies of the calls to an actor type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ActorTarget {
    /// Name of a timeout.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: String,
    /// Name of a retry policy.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: String,
    /// Name of a circuit breaker.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker: String,
    /// `type`, `id` or `both`.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker_scope: String,
    /// Circuit breakers kept per type; 0 means the sidecar's default.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker_cache_size: i64,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Policies of a Component, per direction; both are always printed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentTarget {
    /// From the component to the app.
    pub inbound: PolicyNames,
    /// From the app to the component.
    pub outbound: PolicyNames,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Names of policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyNames {
    /// Name of a timeout.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: String,
    /// Name of a retry policy.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: String,
    /// Name of a circuit breaker.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker: String,
    /// Members that this version does not know; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
