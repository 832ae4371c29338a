//! The labels that Dapr's parts put on pods and Services. Source: Dapr 1.18.3.

/// `"true"` on a pod that the injector gave a sidecar; the operator's watchdog looks for it.
pub const LABEL_SIDECAR_INJECTED: &str = "dapr.io/sidecar-injected";
/// The app id, on injected pods; the CLI selects by it.
pub const LABEL_APP_ID: &str = "dapr.io/app-id";
/// `"true"` or `"false"`: whether the sidecar serves metrics.
pub const LABEL_METRICS_ENABLED: &str = "dapr.io/metrics-enabled";
