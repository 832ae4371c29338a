//! `Configuration`: settings of sidecars, assigned by annotation; `daprsystem` holds the control
//! plane's own. Every member of the specification is optional and left out when absent, because
//! sidecars merge the object into their defaults (Dapr 1.18).
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::configuration_policy::{AccessControl, ApiAccess, Pipeline, Secrets, Workflow};
use super::configuration_telemetry::{Logging, Metric, Tracing};
use crate::crd::custom_resource;
use crate::shared::{Rest, is_default};

custom_resource! {
    /// Settings of sidecars; has no scopes.
    unscoped Configuration "v1alpha1" "configurations" {
        /// The settings.
        pub spec: ConfigurationSpec,
    }
}

/// The settings of a Configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigurationSpec {
    /// Middleware before requests of clients.
    #[serde(skip_serializing_if = "is_default")]
    pub http_pipeline: Option<Pipeline>,
    /// Middleware before requests to the app.
    #[serde(skip_serializing_if = "is_default")]
    pub app_http_pipeline: Option<Pipeline>,
    /// Traces.
    #[serde(skip_serializing_if = "is_default")]
    pub tracing: Option<Tracing>,
    /// Older spelling of `metrics`.
    #[serde(skip_serializing_if = "is_default")]
    pub metric: Option<Metric>,
    /// Metrics.
    #[serde(skip_serializing_if = "is_default")]
    pub metrics: Option<Metric>,
    /// Mutual TLS; used only in the control plane's own Configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub mtls: Option<Mtls>,
    /// Access to secret stores.
    #[serde(skip_serializing_if = "is_default")]
    pub secrets: Option<Secrets>,
    /// Access to this app.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control: Option<AccessControl>,
    /// Name resolution.
    #[serde(skip_serializing_if = "is_default")]
    pub name_resolution: Option<NameResolution>,
    /// Feature gates.
    #[serde(skip_serializing_if = "is_default")]
    pub features: Vec<Feature>,
    /// APIs that the sidecar serves.
    #[serde(skip_serializing_if = "is_default")]
    pub api: Option<ApiAccess>,
    /// Components that may not be loaded.
    #[serde(skip_serializing_if = "is_default")]
    pub components: Option<ComponentsAccess>,
    /// Logs.
    #[serde(skip_serializing_if = "is_default")]
    pub logging: Option<Logging>,
    /// WebAssembly.
    #[serde(skip_serializing_if = "is_default")]
    pub wasm: Option<Wasm>,
    /// Workflows.
    #[serde(skip_serializing_if = "is_default")]
    pub workflow: Option<Workflow>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Mutual TLS of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Mtls {
    /// Whether sidecars use it; always printed, `null` when unset.
    pub enabled: Option<bool>,
    /// Go duration: lifetime of a sidecar's certificate.
    #[serde(rename = "workloadCertTTL", skip_serializing_if = "is_default")]
    pub workload_cert_ttl: String,
    /// Go duration: tolerated difference between clocks.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_clock_skew: String,
    /// `host:port` of sentry.
    pub sentry_address: String,
    /// Trust domain of the control plane's own identities.
    pub control_plane_trust_domain: String,
    /// Additional validators of identities in sentry.
    #[serde(skip_serializing_if = "is_default")]
    pub token_validators: Vec<TokenValidator>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A validator of identities in sentry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TokenValidator {
    /// Type of the validator: `jwks`.
    pub name: String,
    /// Settings of the validator, depending on its type.
    #[serde(skip_serializing_if = "is_default")]
    pub options: Option<Value>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Name resolution; all three members are always printed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct NameResolution {
    /// Type of the resolver, such as `mdns`.
    pub component: String,
    /// Version of the resolver; empty means `v1`.
    pub version: String,
    /// Settings of the resolver, in its own form.
    pub configuration: Value,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A feature gate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Feature {
    /// Name of the feature.
    pub name: String,
    /// On or off; `null` when unset.
    pub enabled: Option<bool>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Components that may not be loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentsAccess {
    /// Denied types, each optionally with `/version`.
    #[serde(skip_serializing_if = "is_default")]
    pub deny: Vec<String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// WebAssembly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Wasm {
    /// Denies functions that could change the host.
    #[serde(skip_serializing_if = "is_default")]
    pub strict_sandbox: bool,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
