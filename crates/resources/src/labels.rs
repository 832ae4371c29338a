//! The labels that Dapr's parts put on pods and Services. Source: Dapr 1.18.3.

/// `"true"` on a pod that the injector gave a sidecar; the operator's watchdog looks for it.
pub const LABEL_SIDECAR_INJECTED: &str = "dapr.io/sidecar-injected";
/// The app id, on injected pods; the CLI selects by it.
pub const LABEL_APP_ID: &str = "dapr.io/app-id";
/// `"true"` or `"false"`: whether the sidecar serves metrics.
pub const LABEL_METRICS_ENABLED: &str = "dapr.io/metrics-enabled";
/// `"true"` on a pod with a sidecar that the injector did not label; the operator's watchdog puts
/// it there, where it may, and looks at the pod no more.
pub const LABEL_WATCHDOG_PATCHED: &str = "dapr.io/watchdog-patched";
/// On a Namespace: `disabled` leaves its pods without sidecars whatever they ask for; `enabled`
/// gives one to every pod that has an app id and does not refuse it. Not known to Dapr 1.18.
pub const LABEL_INJECTION: &str = "dapr.io/injection";
