//! The labels that Dapr's components set on pods and Services. Source: Dapr 1.18.3.

/// `"true"` on a pod that the injector gave a sidecar; the operator's watchdog checks it.
pub const LABEL_SIDECAR_INJECTED: &str = "dapr.io/sidecar-injected";
/// The app id, on injected pods; the CLI selects by it.
pub const LABEL_APP_ID: &str = "dapr.io/app-id";
/// `"true"` or `"false"`: whether the sidecar serves metrics.
pub const LABEL_METRICS_ENABLED: &str = "dapr.io/metrics-enabled";
/// `"true"` on a pod with a sidecar that the injector did not label; the operator's watchdog
/// sets it where it has the right to, and skips the pod from then on.
pub const LABEL_WATCHDOG_PATCHED: &str = "dapr.io/watchdog-patched";
/// On a Namespace: `disabled` disables injection for its pods regardless of their annotations;
/// `enabled` injects every pod that has an app id and does not opt out. Not known to Dapr 1.18.
pub const LABEL_INJECTION: &str = "dapr.io/injection";
