//! `Resiliency`: named timeouts, retries and circuit breakers, and their targets.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::shared::{Rest, is_default};

custom_resource! {
    /// Named timeouts, retries and circuit breakers, and their targets.
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
    /// Apps, actors and components that the policies apply to.
    pub targets: Targets,
    /// Unknown members; they pass through unchanged.
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
    /// Retry policies by name.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: BTreeMap<String, Retry>,
    /// Circuit breakers by name.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breakers: BTreeMap<String, CircuitBreaker>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Number and intervals of retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// `constant` or `exponential`.
    #[serde(skip_serializing_if = "is_default")]
    pub policy: String,
    /// Go duration between retries of `constant`.
    #[serde(skip_serializing_if = "is_default")]
    pub duration: String,
    /// Go duration: upper limit of `exponential`.
    #[serde(skip_serializing_if = "is_default")]
    pub max_interval: String,
    /// Retries after the first call; negative is unlimited. 0 differs from absent.
    #[serde(skip_serializing_if = "is_default")]
    pub max_retries: Option<i64>,
    /// Results that are retried.
    #[serde(skip_serializing_if = "is_default")]
    pub matching: Option<RetryMatching>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Results that are retried: comma lists of codes and ranges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RetryMatching {
    /// HTTP status codes within 100–599.
    #[serde(rename = "httpStatusCodes", skip_serializing_if = "is_default")]
    pub http_status_codes: String,
    /// gRPC status codes within 0–16.
    #[serde(rename = "gRPCStatusCodes", skip_serializing_if = "is_default")]
    pub grpc_status_codes: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// When a circuit breaker opens and closes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Requests while half open.
    #[serde(skip_serializing_if = "is_default")]
    pub max_requests: i64,
    /// Go duration after which the counts are reset.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: String,
    /// Go duration from open to half open.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: String,
    /// CEL expression over the counts; opens the circuit when true.
    #[serde(skip_serializing_if = "is_default")]
    pub trip: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Targets of the policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Targets {
    /// Policies by app id.
    #[serde(skip_serializing_if = "is_default")]
    pub apps: BTreeMap<String, AppTarget>,
    /// Policies by actor type.
    #[serde(skip_serializing_if = "is_default")]
    pub actors: BTreeMap<String, ActorTarget>,
    /// Policies by Component name.
    #[serde(skip_serializing_if = "is_default")]
    pub components: BTreeMap<String, ComponentTarget>,
    /// Unknown members; they pass through unchanged.
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
    /// Unknown members; they pass through unchanged.
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
    /// Unknown members; they pass through unchanged.
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
    /// Unknown members; they pass through unchanged.
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
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
