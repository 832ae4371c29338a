//! The annotations of `dapr.io`: keys of pods, keys that Dapr's components write,
//! and how their booleans are read.
//!
//! Source of the keys: Dapr 1.18.3, annotations reference of the sidecar injector. Keys are matched
//! exactly, including case.

/// Prefix of every annotation and label of Dapr.
pub const PREFIX: &str = "dapr.io/";

/// Declares the keys once, as constants and as the list [`POD`].
macro_rules! pod_annotations {
    ($($(#[doc = $doc:literal])+ $name:ident = $key:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = concat!("dapr.io/", $key);)+

        /// Every annotation that a pod template may carry, in no particular order.
        pub const POD: &[&str] = &[$($name),+];
    };
}

pod_annotations! {
    /// Master switch, see [`is_truthy`].
    ANNOTATION_ENABLED = "enabled";
    /// The Dapr id of the application; the pod's name when absent or empty.
    ANNOTATION_APP_ID = "app-id";
    /// Name of a Configuration in the pod's namespace.
    ANNOTATION_CONFIG = "config";
    /// Image of the sidecar instead of the cluster's default.
    ANNOTATION_SIDECAR_IMAGE = "sidecar-image";
    /// Run the sidecar as a Kubernetes native sidecar (restartable init container).
    ANNOTATION_ENABLE_NATIVE_SIDECAR = "enable-native-sidecar";
    /// Of a native sidecar: `first` or `last` (the default) among the init containers.
    /// Not known to Dapr 1.18, whose sidecar is always the last.
    ANNOTATION_NATIVE_SIDECAR_POSITION = "native-sidecar-position";
    /// Log level of the sidecar.
    ANNOTATION_LOG_LEVEL = "log-level";
    /// JSON log lines.
    ANNOTATION_LOG_AS_JSON = "log-as-json";
    /// Log each API call; unset lets the Configuration decide.
    ANNOTATION_ENABLE_API_LOGGING = "enable-api-logging";
    /// Serve pprof on port 7777.
    ANNOTATION_ENABLE_PROFILING = "enable-profiling";
    /// Run the sidecar under the Delve debugger.
    ANNOTATION_ENABLE_DEBUG = "enable-debug";
    /// Port of the debugger.
    ANNOTATION_DEBUG_PORT = "debug-port";

    /// Port the application listens on.
    ANNOTATION_APP_PORT = "app-port";
    /// Protocol of the application: http, https, grpc, grpcs or h2c.
    ANNOTATION_APP_PROTOCOL = "app-protocol";
    /// Deprecated: TLS towards the application.
    ANNOTATION_APP_SSL = "app-ssl";
    /// Address of the application, 127.0.0.1 when empty.
    ANNOTATION_APP_CHANNEL_ADDRESS = "app-channel-address";
    /// Concurrent calls to the application; -1 is unlimited.
    ANNOTATION_APP_MAX_CONCURRENCY = "app-max-concurrency";
    /// Secret with the token that the sidecar presents to the application.
    ANNOTATION_APP_TOKEN_SECRET = "app-token-secret";
    /// Health checks of the application.
    ANNOTATION_ENABLE_APP_HEALTH_CHECK = "enable-app-health-check";
    /// Path of the application's health check.
    ANNOTATION_APP_HEALTH_CHECK_PATH = "app-health-check-path";
    /// Seconds between two health checks of the application.
    ANNOTATION_APP_HEALTH_PROBE_INTERVAL = "app-health-probe-interval";
    /// Milliseconds a health check of the application may take.
    ANNOTATION_APP_HEALTH_PROBE_TIMEOUT = "app-health-probe-timeout";
    /// Failures before the application counts as unhealthy.
    ANNOTATION_APP_HEALTH_THRESHOLD = "app-health-threshold";
    /// Go duration to wait for the application's binding options.
    ANNOTATION_APP_BINDING_OPTIONS_TIMEOUT = "app-binding-options-timeout";
    /// Comma list of endpoints not called at start: config, subscribe.
    ANNOTATION_DISABLE_INIT_ENDPOINTS = "disable-init-endpoints";

    /// Comma list of addresses the sidecar's API listens on; empty means all.
    ANNOTATION_SIDECAR_LISTEN_ADDRESSES = "sidecar-listen-addresses";
    /// Port of the gRPC API.
    ANNOTATION_GRPC_PORT = "grpc-port";
    /// Port for calls between sidecars.
    ANNOTATION_INTERNAL_GRPC_PORT = "internal-grpc-port";
    /// Directory, in the application's containers, of the API's Unix domain sockets.
    ANNOTATION_UNIX_DOMAIN_SOCKET_PATH = "unix-domain-socket-path";
    /// Secret with the token that the sidecar's API requires.
    ANNOTATION_API_TOKEN_SECRET = "api-token-secret";
    /// Largest request body, a quantity.
    ANNOTATION_MAX_BODY_SIZE = "max-body-size";
    /// Legacy: largest request body in megabytes.
    ANNOTATION_HTTP_MAX_REQUEST_SIZE = "http-max-request-size";
    /// Read buffer for headers, a quantity.
    ANNOTATION_READ_BUFFER_SIZE = "read-buffer-size";
    /// Legacy: read buffer for headers in kilobytes.
    ANNOTATION_HTTP_READ_BUFFER_SIZE = "http-read-buffer-size";
    /// Seconds for a graceful stop; negative leaves it to the sidecar.
    ANNOTATION_GRACEFUL_SHUTDOWN_SECONDS = "graceful-shutdown-seconds";
    /// Go duration to keep the API open after a stop signal.
    ANNOTATION_BLOCK_SHUTDOWN_DURATION = "block-shutdown-duration";

    /// Prometheus metrics of the sidecar.
    ANNOTATION_ENABLE_METRICS = "enable-metrics";
    /// Port of the metrics.
    ANNOTATION_METRICS_PORT = "metrics-port";

    /// Address of placement; empty means none.
    ANNOTATION_PLACEMENT_HOST_ADDRESS = "placement-host-address";
    /// Address of the scheduler; empty means none.
    ANNOTATION_SCHEDULER_HOST_ADDRESS = "scheduler-host-address";
    /// Go duration for a round of actor tables.
    ANNOTATION_ACTORS_DISSEMINATE_TIMEOUT = "actors-disseminate-timeout";
    /// Comma list of audiences of the JWT identities that the sidecar requests from sentry.
    ANNOTATION_SENTRY_REQUEST_JWT_AUDIENCES = "sentry-request-jwt-audiences";
    /// No built-in `kubernetes` secret store.
    ANNOTATION_DISABLE_BUILTIN_K8S_SECRET_STORE = "disable-builtin-k8s-secret-store";

    /// Environment variables of the sidecar, `A=1,B=2`.
    ANNOTATION_ENV = "env";
    /// Environment variables from Secrets, `A=secret:key`.
    ANNOTATION_ENV_FROM_SECRET = "env-from-secret";
    /// Read-only mounts into the sidecar, `volume:path`.
    ANNOTATION_VOLUME_MOUNTS = "volume-mounts";
    /// Read-write mounts into the sidecar, `volume:path`.
    ANNOTATION_VOLUME_MOUNTS_RW = "volume-mounts-rw";

    /// CPU request, a quantity.
    ANNOTATION_CPU_REQUEST = "sidecar-cpu-request";
    /// CPU limit, a quantity.
    ANNOTATION_CPU_LIMIT = "sidecar-cpu-limit";
    /// Memory request, a quantity.
    ANNOTATION_MEMORY_REQUEST = "sidecar-memory-request";
    /// Memory limit, a quantity.
    ANNOTATION_MEMORY_LIMIT = "sidecar-memory-limit";
    /// Seconds before the first liveness probe.
    ANNOTATION_LIVENESS_DELAY = "sidecar-liveness-probe-delay-seconds";
    /// Seconds a liveness probe may take.
    ANNOTATION_LIVENESS_TIMEOUT = "sidecar-liveness-probe-timeout-seconds";
    /// Seconds between liveness probes.
    ANNOTATION_LIVENESS_PERIOD = "sidecar-liveness-probe-period-seconds";
    /// Failed liveness probes before a restart.
    ANNOTATION_LIVENESS_THRESHOLD = "sidecar-liveness-probe-threshold";
    /// Seconds before the first readiness probe.
    ANNOTATION_READINESS_DELAY = "sidecar-readiness-probe-delay-seconds";
    /// Seconds a readiness probe may take.
    ANNOTATION_READINESS_TIMEOUT = "sidecar-readiness-probe-timeout-seconds";
    /// Seconds between readiness probes.
    ANNOTATION_READINESS_PERIOD = "sidecar-readiness-probe-period-seconds";
    /// Failed readiness probes before the sidecar counts as not ready.
    ANNOTATION_READINESS_THRESHOLD = "sidecar-readiness-probe-threshold";
    /// Type of the seccomp profile of the sidecar.
    ANNOTATION_SECCOMP_PROFILE_TYPE = "sidecar-seccomp-profile-type";

    /// Comma list of this pod's containers that are pluggable components.
    ANNOTATION_PLUGGABLE_COMPONENTS = "pluggable-components";
    /// Directory of the sockets of pluggable components.
    ANNOTATION_PLUGGABLE_COMPONENTS_SOCKETS_FOLDER = "pluggable-components-sockets-folder";
    /// Add the containers that Components of the namespace define.
    ANNOTATION_INJECT_PLUGGABLE_COMPONENTS = "inject-pluggable-components";

    /// Extra annotations of the `<app-id>-dapr` Service, read by the operator.
    ANNOTATION_SIDECAR_SERVICE_ANNOTATIONS = "sidecar-svc-annotations";
    /// Without effect since daprd 1.13; still found in manifests.
    ANNOTATION_HTTP_STREAM_REQUEST_BODY = "http-stream-request-body";
}

/// On a Component: the container that implements it, core/v1 Container as JSON.
pub const ANNOTATION_COMPONENT_CONTAINER: &str = "dapr.io/component-container";

/// On a pod of the control plane, naming its service; the webhook leaves such pods alone.
pub const ANNOTATION_CONTROL_PLANE: &str = "dapr.io/control-plane";

/// Written by the injector on a pod that it leaves without a sidecar on purpose, so that an
/// admission guard does not mistake it for an accident. The value is the reason.
pub const ANNOTATION_INJECTION_SKIPPED: &str = "dapr.io/injection-skipped";

/// Written by the injector on a pod whose sidecar follows defaults of its Namespace or of the
/// cluster: which ones, as JSON.
pub const ANNOTATION_APPLIED_DEFAULTS: &str = "dapr.io/applied-defaults";

/// On the Secret of the CA while sentry replaces it: the stage. Not known to Dapr 1.18.
pub const ANNOTATION_ROTATION_STAGE: &str = "dapr.io/ca-rotation-stage";

/// Keys of `dapr.io` that Dapr's own components write on pods; they cause no warning.
pub const WRITTEN_BY_DAPR: &[&str] =
    &[ANNOTATION_CONTROL_PLANE, ANNOTATION_INJECTION_SKIPPED, ANNOTATION_APPLIED_DEFAULTS];

/// Whether a boolean annotation is true, as every service reads it: `y yes true t on 1`, any case,
/// blanks around it allowed. Anything else is false.
pub fn is_truthy(text: &str) -> bool {
    let text = text.trim();
    ["y", "yes", "true", "t", "on", "1"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether a text is false on purpose: `n no false f off 0` or empty. A text that is neither this
/// nor [`is_truthy`] counts as false, but is probably a mistake.
pub fn is_falsy(text: &str) -> bool {
    let text = text.trim();
    ["", "n", "no", "false", "f", "off", "0"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("true", true)]
    #[case(" YES ", true)]
    #[case("On", true)]
    #[case("1", true)]
    #[case("t", true)]
    #[case("y", true)]
    #[case("ture", false)]
    #[case("10", false)]
    #[case("", false)]
    fn reads_booleans_as_every_service_does(#[case] text: &str, #[case] want: bool) {
        assert_eq!(is_truthy(text), want);
    }

    #[test]
    fn no_text_is_both_true_and_false() {
        for text in ["", "no", "Off", "0", " f ", "yes", "1"] {
            assert_ne!(is_truthy(text), is_falsy(text), "{text:?}");
        }
        assert!(!is_truthy("ture") && !is_falsy("ture"));
    }

    #[test]
    fn keys_are_unique_and_prefixed() {
        let mut keys: Vec<&str> = POD.to_vec();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), POD.len());
        assert!(keys.iter().all(|key| key.starts_with(PREFIX)));
    }
}
