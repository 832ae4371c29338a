//! The annotations of a pod that configure its sidecar, as typed values.
//! Source of keys, types and defaults: Dapr 1.18.3, annotations of the sidecar injector.

use resources::{annotations as key, ports};

use super::context::InjectionContext;
use super::settings::{NativeDefault, Settings};
use crate::pod::{
    API_TOKEN_DIRECTORY, AnnotationReader, PlainVar, PodView, SecretVar, parse_from_secret,
    parse_plain, quoted,
};

/// The sidecar that a pod requests. Numbers are checked for their type, not for their range.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// Name of a Configuration in the namespace of the pod.
    pub(crate) config: Option<String>,
    pub(crate) image: String,
    /// Position among the init containers; `None` for an ordinary container.
    pub(crate) native: Option<Position>,
    /// Log level, not validated.
    pub(crate) log_level: String,
    pub(crate) log_as_json: bool,
    /// Log API calls; `None` lets the Configuration decide.
    pub(crate) api_logging: Option<bool>,
    pub(crate) profiling: bool,
    /// Port of the debugger; `None` without debugger.
    pub(crate) debug_port: Option<i32>,
    pub(crate) app: AppOptions,
    pub(crate) api: ApiOptions,
    pub(crate) control_plane: ControlPlaneOptions,
    pub(crate) env: Vec<PlainVar>,
    pub(crate) env_from_secret: Vec<SecretVar>,
    pub(crate) mounts: Vec<UserMount>,
    pub(crate) resources: ResourceOptions,
    pub(crate) liveness: ProbeOptions,
    pub(crate) readiness: ProbeOptions,
    /// Type of the seccomp profile.
    pub(crate) seccomp: Option<String>,
    pub(crate) components: ComponentOptions,
}

/// Position of a native sidecar among the init containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// Before those of the pod, which start after the sidecar and can use Dapr.
    First,
    /// After those of the pod, as in Dapr 1.18.
    Last,
}

/// How the sidecar calls the application.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AppOptions {
    /// Port; 0 or negative without one.
    pub(crate) port: i32,
    /// Protocol, not validated.
    pub(crate) protocol: String,
    /// Deprecated switch for TLS.
    pub(crate) ssl: bool,
    /// Default 127.0.0.1.
    pub(crate) channel_address: Option<String>,
    /// Maximum number of concurrent calls.
    pub(crate) max_concurrency: Option<i64>,
    /// Secret with the API token of the application.
    pub(crate) token_secret: Option<String>,
    /// Health checks; `None` without them.
    pub(crate) health: Option<AppHealth>,
    /// Go duration, not validated.
    pub(crate) binding_options_timeout: Option<String>,
    /// Comma-separated list.
    pub(crate) disable_init_endpoints: Option<String>,
}

/// Health checks of the application.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AppHealth {
    pub(crate) path: String,
    pub(crate) interval_seconds: i32,
    pub(crate) timeout_millis: i32,
    /// Failed checks until the application counts as unhealthy.
    pub(crate) threshold: i32,
}

/// Ports, addresses and limits of the sidecar's APIs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiOptions {
    /// Comma-separated list; empty listens on all addresses.
    pub(crate) listen_addresses: String,
    pub(crate) grpc_port: i32,
    /// Port for calls between sidecars.
    pub(crate) internal_grpc_port: i32,
    /// Mount path of the Unix domain sockets in the containers of the application.
    pub(crate) socket_path: Option<String>,
    /// Secret with the API token of the sidecar.
    pub(crate) token_secret: Option<String>,
    /// Quantity, not validated.
    pub(crate) max_body_size: Option<String>,
    /// In megabytes.
    pub(crate) http_max_request_size: Option<i64>,
    /// Quantity, not validated.
    pub(crate) read_buffer_size: Option<String>,
    /// In kilobytes.
    pub(crate) http_read_buffer_size: Option<i64>,
    /// In seconds; negative for the default of daprd.
    pub(crate) graceful_shutdown_seconds: i64,
    /// Go duration, not validated.
    pub(crate) block_shutdown_duration: Option<String>,
    pub(crate) metrics: bool,
    /// Container port, also without metrics.
    pub(crate) metrics_port: i32,
}

/// Addresses of the control plane that the pod overrides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ControlPlaneOptions {
    /// Placement: `Some("")` for none, `None` for that of the cluster.
    pub(crate) placement: Option<String>,
    /// Scheduler: `Some("")` for none, `None` for that of the cluster.
    pub(crate) scheduler: Option<String>,
    /// Go duration, not validated.
    pub(crate) disseminate_timeout: Option<String>,
    /// Comma-separated list.
    pub(crate) jwt_audiences: Option<String>,
    /// Disables the built-in secret store `kubernetes`.
    pub(crate) no_builtin_secret_store: bool,
}

/// A volume of the pod to mount into the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserMount {
    pub(crate) volume: String,
    pub(crate) path: String,
    pub(crate) read_only: bool,
}

/// Validated quantities of CPU and memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ResourceOptions {
    pub(crate) cpu_request: Option<String>,
    pub(crate) cpu_limit: Option<String>,
    pub(crate) memory_request: Option<String>,
    pub(crate) memory_limit: Option<String>,
}

/// Timing of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeOptions {
    pub(crate) delay_seconds: i32,
    pub(crate) timeout_seconds: i32,
    pub(crate) period_seconds: i32,
    /// Consecutive failures until the probe fails.
    pub(crate) threshold: i32,
}

/// Pluggable components.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ComponentOptions {
    /// Containers of the pod that implement components.
    pub(crate) containers: Vec<String>,
    /// Directory of their sockets.
    pub(crate) sockets_folder: String,
    /// Adds the containers that Components of the namespace define.
    pub(crate) inject: bool,
}

impl Options {
    /// Reads the annotations of a pod. One that cannot be read yields the default and a problem of the
    /// reader.
    pub(crate) fn read<'a>(
        pod: &PodView<'a>,
        cx: &InjectionContext<'a>,
    ) -> (Self, AnnotationReader<'a>) {
        let settings = cx.settings;
        let mut r = AnnotationReader::new(*pod, cx.defaults());
        let debug = r.boolean(key::ANNOTATION_ENABLE_DEBUG, false);
        let debug_port = r.integer(key::ANNOTATION_DEBUG_PORT, ports::SIDECAR_DEBUG.into());
        let (env_from_secret, dropped) =
            parse_from_secret(&r.text(key::ANNOTATION_ENV_FROM_SECRET, ""));
        let options = Self {
            config: r.filled_text(key::ANNOTATION_CONFIG),
            image: r
                .nonempty_text(key::ANNOTATION_SIDECAR_IMAGE)
                .unwrap_or_else(|| settings.image.clone()),
            native: native(&mut r, cx),
            log_level: r
                .nonempty_text(key::ANNOTATION_LOG_LEVEL)
                .unwrap_or_else(|| "info".to_owned()),
            log_as_json: r.boolean(key::ANNOTATION_LOG_AS_JSON, false),
            api_logging: r.optional_boolean(key::ANNOTATION_ENABLE_API_LOGGING),
            profiling: r.boolean(key::ANNOTATION_ENABLE_PROFILING, false),
            debug_port: debug.then_some(debug_port),
            app: AppOptions::read(&mut r),
            api: ApiOptions::read(&mut r),
            control_plane: ControlPlaneOptions::read(&mut r, pod),
            env: parse_plain(&r.text(key::ANNOTATION_ENV, "")),
            env_from_secret,
            mounts: mounts(&mut r, pod),
            resources: ResourceOptions::read(&mut r),
            liveness: ProbeOptions::read_liveness(&mut r),
            readiness: ProbeOptions::read_readiness(&mut r),
            seccomp: r.filled_text(key::ANNOTATION_SECCOMP_PROFILE_TYPE),
            components: ComponentOptions::read(&mut r, pod, settings),
        };
        for name in dropped {
            let text = format!("variable {name} is dropped; use the form {name}=secret:key");
            r.problem(key::ANNOTATION_ENV_FROM_SECRET, text);
        }
        (options, r)
    }
}

/// The position of a native sidecar. `None` on an API server that would drop the restart policy of
/// the init container, so that the pod would never start.
fn native(r: &mut AnnotationReader<'_>, cx: &InjectionContext<'_>) -> Option<Position> {
    let wanted = r.optional_boolean(key::ANNOTATION_ENABLE_NATIVE_SIDECAR);
    let wanted = wanted.unwrap_or(match cx.settings.native {
        NativeDefault::Off => false,
        NativeDefault::On => true,
        NativeDefault::Auto => cx.platform.runs_native(),
    });
    let position = match r.filled_text(key::ANNOTATION_NATIVE_SIDECAR_POSITION).as_deref() {
        None | Some("last") => Position::Last,
        Some("first") => Position::First,
        Some(other) => {
            let text = format!("{} is not first or last; the default last applies", quoted(other));
            r.problem(key::ANNOTATION_NATIVE_SIDECAR_POSITION, text);
            Position::Last
        }
    };
    match cx.platform.server_too_old().filter(|_| wanted) {
        Some(version) => {
            let text = format!(
                "Kubernetes {version} does not support native sidecars; an ordinary container is used (native sidecars need 1.29)"
            );
            r.problem(key::ANNOTATION_ENABLE_NATIVE_SIDECAR, text);
            None
        }
        None => wanted.then_some(position),
    }
}

impl AppOptions {
    fn read(r: &mut AnnotationReader<'_>) -> Self {
        let health = AppHealth {
            path: r.text(key::ANNOTATION_APP_HEALTH_CHECK_PATH, "/healthz"),
            interval_seconds: r.integer(key::ANNOTATION_APP_HEALTH_PROBE_INTERVAL, 5),
            timeout_millis: r.integer(key::ANNOTATION_APP_HEALTH_PROBE_TIMEOUT, 500),
            threshold: r.integer(key::ANNOTATION_APP_HEALTH_THRESHOLD, 3),
        };
        Self {
            port: r.integer(key::ANNOTATION_APP_PORT, 0),
            protocol: r.text(key::ANNOTATION_APP_PROTOCOL, "http"),
            ssl: r.boolean(key::ANNOTATION_APP_SSL, false),
            channel_address: r.filled_text(key::ANNOTATION_APP_CHANNEL_ADDRESS),
            max_concurrency: r.optional_integer(key::ANNOTATION_APP_MAX_CONCURRENCY),
            token_secret: r.filled_text(key::ANNOTATION_APP_TOKEN_SECRET),
            health: r.boolean(key::ANNOTATION_ENABLE_APP_HEALTH_CHECK, false).then_some(health),
            binding_options_timeout: r.nonempty_text(key::ANNOTATION_APP_BINDING_OPTIONS_TIMEOUT),
            disable_init_endpoints: r.optional_text(key::ANNOTATION_DISABLE_INIT_ENDPOINTS),
        }
    }

    /// The value of `APP_PROTOCOL`: lower case, with the deprecated TLS switch applied; `None` for a
    /// protocol that daprd does not support.
    pub(crate) fn effective_protocol(&self) -> Option<&'static str> {
        match (self.protocol.to_ascii_lowercase().as_str(), self.ssl) {
            // Without a protocol the switch has no effect (observed with Dapr 1.18.1).
            ("", _) | ("http", false) => Some("http"),
            ("http", true) | ("https", _) => Some("https"),
            ("grpc", false) => Some("grpc"),
            ("grpc", true) | ("grpcs", _) => Some("grpcs"),
            ("h2c", _) => Some("h2c"),
            _ => None,
        }
    }
}

impl ApiOptions {
    fn read(r: &mut AnnotationReader<'_>) -> Self {
        let internal = ports::SIDECAR_INTERNAL_GRPC.into();
        Self {
            listen_addresses: r.text(key::ANNOTATION_SIDECAR_LISTEN_ADDRESSES, "[::1],127.0.0.1"),
            grpc_port: r.integer(key::ANNOTATION_GRPC_PORT, ports::SIDECAR_GRPC.into()),
            internal_grpc_port: r.integer(key::ANNOTATION_INTERNAL_GRPC_PORT, internal),
            socket_path: r.filled_text(key::ANNOTATION_UNIX_DOMAIN_SOCKET_PATH),
            token_secret: r.filled_text(key::ANNOTATION_API_TOKEN_SECRET),
            max_body_size: r.filled_text(key::ANNOTATION_MAX_BODY_SIZE),
            http_max_request_size: r.optional_integer(key::ANNOTATION_HTTP_MAX_REQUEST_SIZE),
            read_buffer_size: r.filled_text(key::ANNOTATION_READ_BUFFER_SIZE),
            http_read_buffer_size: r.optional_integer(key::ANNOTATION_HTTP_READ_BUFFER_SIZE),
            graceful_shutdown_seconds: r
                .optional_integer(key::ANNOTATION_GRACEFUL_SHUTDOWN_SECONDS)
                .unwrap_or(-1),
            block_shutdown_duration: r.nonempty_text(key::ANNOTATION_BLOCK_SHUTDOWN_DURATION),
            metrics: r.boolean(key::ANNOTATION_ENABLE_METRICS, true),
            metrics_port: r.integer(key::ANNOTATION_METRICS_PORT, ports::SIDECAR_METRICS.into()),
        }
    }
}

impl ControlPlaneOptions {
    fn read(r: &mut AnnotationReader<'_>, pod: &PodView<'_>) -> Self {
        Self {
            placement: r.address(key::ANNOTATION_PLACEMENT_HOST_ADDRESS),
            scheduler: r.address(key::ANNOTATION_SCHEDULER_HOST_ADDRESS),
            disseminate_timeout: r.nonempty_text(key::ANNOTATION_ACTORS_DISSEMINATE_TIMEOUT),
            jwt_audiences: r.filled_text(key::ANNOTATION_SENTRY_REQUEST_JWT_AUDIENCES),
            no_builtin_secret_store: no_builtin_secret_store(r, pod),
        }
    }
}

/// Whether to disable the secret store `kubernetes`. It is on by default, and daprd does not start
/// if it cannot read a service account token.
fn no_builtin_secret_store(r: &mut AnnotationReader<'_>, pod: &PodView<'_>) -> bool {
    let key = key::ANNOTATION_DISABLE_BUILTIN_K8S_SECRET_STORE;
    let mounted = |key| r.text(key, "").contains(API_TOKEN_DIRECTORY);
    let has_token = mounted(key::ANNOTATION_VOLUME_MOUNTS)
        || mounted(key::ANNOTATION_VOLUME_MOUNTS_RW)
        || !pod.has_no_api_token();
    match r.optional_boolean(key) {
        Some(disable) => disable,
        None if has_token => false,
        None => {
            r.problem(
                key,
                "is set to true, because the pod has no service account token \
                 (automountServiceAccountToken: false); set it to remove this warning",
            );
            true
        }
    }
}

impl ResourceOptions {
    fn read(r: &mut AnnotationReader<'_>) -> Self {
        let mut quantity =
            |key| r.filled_text(key).filter(|text| r.check_quantity(key, text, "is ignored"));
        Self {
            cpu_request: quantity(key::ANNOTATION_CPU_REQUEST),
            cpu_limit: quantity(key::ANNOTATION_CPU_LIMIT),
            memory_request: quantity(key::ANNOTATION_MEMORY_REQUEST),
            memory_limit: quantity(key::ANNOTATION_MEMORY_LIMIT),
        }
    }
}

impl ProbeOptions {
    fn read_liveness(r: &mut AnnotationReader<'_>) -> Self {
        Self {
            delay_seconds: r.integer(key::ANNOTATION_LIVENESS_DELAY, 180),
            timeout_seconds: r.integer(key::ANNOTATION_LIVENESS_TIMEOUT, 3),
            period_seconds: r.integer(key::ANNOTATION_LIVENESS_PERIOD, 10),
            threshold: r.integer(key::ANNOTATION_LIVENESS_THRESHOLD, 5),
        }
    }

    fn read_readiness(r: &mut AnnotationReader<'_>) -> Self {
        Self {
            delay_seconds: r.integer(key::ANNOTATION_READINESS_DELAY, 1),
            timeout_seconds: r.integer(key::ANNOTATION_READINESS_TIMEOUT, 1),
            period_seconds: r.integer(key::ANNOTATION_READINESS_PERIOD, 1),
            threshold: r.integer(key::ANNOTATION_READINESS_THRESHOLD, 5),
        }
    }
}

impl ComponentOptions {
    fn read(r: &mut AnnotationReader<'_>, pod: &PodView<'_>, settings: &Settings) -> Self {
        let key = key::ANNOTATION_PLUGGABLE_COMPONENTS;
        let names = r.text(key, "");
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let own = pod.containers();
        let mut containers = Vec::new();
        for name in names {
            if own.iter().any(|c| c.name() == name) {
                containers.push(name.to_owned());
            } else {
                let shown = quoted(name);
                r.problem(key, format!("the pod has no container {shown}; the entry is ignored"));
            }
        }
        let folder = r.filled_text(key::ANNOTATION_PLUGGABLE_COMPONENTS_SOCKETS_FOLDER);
        Self {
            containers,
            sockets_folder: folder.unwrap_or_else(|| settings.sockets_folder.clone()),
            inject: r.boolean(key::ANNOTATION_INJECT_PLUGGABLE_COMPONENTS, false),
        }
    }
}

/// The mounts that both annotations request, of volumes that the pod has; read-only ones first.
fn mounts(r: &mut AnnotationReader<'_>, pod: &PodView<'_>) -> Vec<UserMount> {
    let volumes = pod.volumes();
    let lists = [(key::ANNOTATION_VOLUME_MOUNTS, true), (key::ANNOTATION_VOLUME_MOUNTS_RW, false)];
    let mut mounts = Vec::new();
    for (key, read_only) in lists {
        for entry in r.text(key, "").split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let shown = quoted(entry);
            match entry.split_once(':').filter(|(_, path)| !path.contains(':')) {
                None => {
                    r.problem(
                        key,
                        format!("{shown} is not of the form volume:path and is ignored"),
                    );
                }
                Some((volume, path)) if volumes.contains(&volume) => {
                    let (volume, path) = (volume.to_owned(), path.to_owned());
                    mounts.push(UserMount { volume, path, read_only });
                }
                Some(_) => {
                    r.problem(
                        key,
                        format!("the pod has no volume for {shown}; the entry is ignored"),
                    );
                }
            }
        }
    }
    mounts
}
