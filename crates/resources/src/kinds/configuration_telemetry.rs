//! Members of a Configuration about traces, metrics and logs.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go_duration::GoDuration;
use crate::shared::{NameValuePair, Rest, is_default};

/// Traces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Share of traces that are sampled: decimal text from `0` to `1`.
    pub sampling_rate: String,
    /// Prints traces on standard output.
    #[serde(skip_serializing_if = "is_default")]
    pub stdout: Option<bool>,
    /// Exports traces to Zipkin.
    #[serde(skip_serializing_if = "is_default")]
    pub zipkin: Option<Zipkin>,
    /// Exports traces to an OpenTelemetry collector.
    #[serde(skip_serializing_if = "is_default")]
    pub otel: Option<Otel>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A Zipkin server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Zipkin {
    /// URL of its span endpoint.
    pub endpoint_address: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// An OpenTelemetry collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Otel {
    /// `grpc` or `http`.
    pub protocol: String,
    /// `host:port`.
    pub endpoint_address: String,
    /// TLS; always printed, `null` when unset.
    pub is_secure: Option<bool>,
    /// Headers; values from secrets are inserted as plain text.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<NameValuePair>,
    /// Go duration: limit of one export.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<GoDuration>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// On or off; always printed, `null` when unset.
    pub enabled: Option<bool>,
    /// Whether error codes are counted.
    #[serde(skip_serializing_if = "is_default")]
    pub record_error_codes: Option<bool>,
    /// HTTP server metrics.
    #[serde(skip_serializing_if = "is_default")]
    pub http: Option<MetricHttp>,
    /// Label rewriting.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<MetricRule>,
    /// Bounds of the latency buckets in milliseconds; an empty list is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// Workflow and activity metrics (Dapr 1.19); `{}` is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub workflow: Option<MetricWorkflow>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Workflow and activity metrics (Dapr 1.19).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MetricWorkflow {
    /// Bounds of the latency buckets, in `latency_distribution_units`; an empty list is kept. Absent
    /// or empty, sidecars use the shared buckets of [`Metric`].
    #[serde(skip_serializing_if = "is_default")]
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// Unit of the bounds; sidecars take 1 ms when absent, zero or negative.
    #[serde(skip_serializing_if = "is_default")]
    pub latency_distribution_units: Option<GoDuration>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// HTTP server metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MetricHttp {
    /// Whether a label has the path; increases cardinality.
    #[serde(skip_serializing_if = "is_default")]
    pub increased_cardinality: Option<bool>,
    /// Patterns that replace paths in labels.
    #[serde(skip_serializing_if = "is_default")]
    pub path_matching: Vec<String>,
    /// Leaves the HTTP method out of the labels.
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_verbs: Option<bool>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Rewrites labels of one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MetricRule {
    /// Name of the metric.
    pub name: String,
    /// Rules of its labels; `None` is printed as `null`.
    pub labels: Option<Vec<MetricLabel>>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Rewrites one label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MetricLabel {
    /// Name of the label.
    pub name: String,
    /// New value by regular expression of the old one; `None` is printed as `null`.
    pub regex: Option<BTreeMap<String, String>>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Logs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// Log of the sidecar's API.
    #[serde(skip_serializing_if = "is_default")]
    pub api_logging: Option<ApiLogging>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Log of the sidecar's API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ApiLogging {
    /// Whether calls are logged.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
    /// Prints path patterns instead of URLs.
    #[serde(rename = "obfuscateURLs", skip_serializing_if = "is_default")]
    pub obfuscate_urls: Option<bool>,
    /// Leaves health checks out.
    #[serde(skip_serializing_if = "is_default")]
    pub omit_health_checks: Option<bool>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
