//! Everything that a pod's annotations say about its sidecar, as typed values.
//! Source of keys, kinds and defaults: Dapr 1.18.3, annotations of the sidecar injector.

use resources::annotations as key;
use resources::ports;

use crate::check;
use crate::mutate::Situation;
use crate::pod::PodView;
use crate::reader::{Problem, Reader};
use crate::settings::{NativeDefault, Settings};
use crate::user_env::{self, PlainVar, SecretVar};

/// The sidecar that a pod asks for. Numbers are as annotated, checked for their type only.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Configuration in the pod's namespace.
    pub config: Option<String>,
    /// Image of the sidecar.
    pub image: String,
    /// Run as a Kubernetes native sidecar, and where.
    pub native: Option<Position>,
    /// Log level as annotated.
    pub log_level: String,
    /// JSON log lines.
    pub log_as_json: bool,
    /// Log each API call; `None` leaves it to the Configuration.
    pub api_logging: Option<bool>,
    /// Serve pprof.
    pub profiling: bool,
    /// Port of the debugger, when debugging.
    pub debug_port: Option<i32>,
    /// The application.
    pub app: AppOptions,
    /// Ports, addresses and limits of the sidecar's APIs.
    pub api: ApiOptions,
    /// Addresses of the control plane that the pod overrides.
    pub control_plane: ControlPlaneOptions,
    /// `dapr.io/env`
    pub env: Vec<PlainVar>,
    /// `dapr.io/env-from-secret`
    pub env_from_secret: Vec<SecretVar>,
    /// Volumes of the pod to mount into the sidecar.
    pub mounts: Vec<UserMount>,
    /// CPU and memory.
    pub resources: ResourceOptions,
    /// Liveness probe.
    pub liveness: ProbeOptions,
    /// Readiness probe.
    pub readiness: ProbeOptions,
    /// Type of the seccomp profile.
    pub seccomp: Option<String>,
    /// Pluggable components.
    pub components: ComponentOptions,
}

/// Where a native sidecar is among the init containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Before the pod's own: they can use Dapr, and wait until the sidecar has started.
    First,
    /// After the pod's own, as Dapr 1.18 does.
    Last,
}

/// How the sidecar speaks to the application.
#[derive(Debug, Clone, PartialEq)]
pub struct AppOptions {
    /// Port; none is 0 or negative.
    pub port: i32,
    /// Protocol as annotated.
    pub protocol: String,
    /// Deprecated: TLS.
    pub ssl: bool,
    /// Address other than 127.0.0.1.
    pub channel_address: Option<String>,
    /// Concurrent calls.
    pub max_concurrency: Option<i64>,
    /// Secret with the application's token.
    pub token_secret: Option<String>,
    /// Health checks, when on.
    pub health: Option<AppHealth>,
    /// Go duration.
    pub binding_options_timeout: Option<String>,
    /// Comma list.
    pub disable_init_endpoints: Option<String>,
}

/// Health checks of the application.
#[derive(Debug, Clone, PartialEq)]
pub struct AppHealth {
    /// Path.
    pub path: String,
    /// Seconds between checks.
    pub interval_seconds: i32,
    /// Milliseconds a check may take.
    pub timeout_millis: i32,
    /// Failures until unhealthy.
    pub threshold: i32,
}

/// Ports, addresses and limits of the sidecar's APIs.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiOptions {
    /// Comma list; empty is all addresses.
    pub listen_addresses: String,
    /// gRPC API.
    pub grpc_port: i32,
    /// Calls between sidecars.
    pub internal_grpc_port: i32,
    /// Directory of the Unix domain sockets in the application's containers.
    pub socket_path: Option<String>,
    /// Secret with the API's token.
    pub token_secret: Option<String>,
    /// Quantity.
    pub max_body_size: Option<String>,
    /// Megabytes.
    pub http_max_request_size: Option<i64>,
    /// Quantity.
    pub read_buffer_size: Option<String>,
    /// Kilobytes.
    pub http_read_buffer_size: Option<i64>,
    /// Seconds; negative leaves it to the sidecar.
    pub graceful_shutdown_seconds: i64,
    /// Go duration.
    pub block_shutdown_duration: Option<String>,
    /// Serve metrics.
    pub metrics: bool,
    /// Port of the metrics, listed in the container even when off.
    pub metrics_port: i32,
}

/// Addresses of the control plane that the pod overrides.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlPlaneOptions {
    /// Placement: `Some("")` is none, `None` the cluster's.
    pub placement: Option<String>,
    /// Scheduler: `Some("")` is none, `None` the cluster's.
    pub scheduler: Option<String>,
    /// Go duration.
    pub disseminate_timeout: Option<String>,
    /// Comma list.
    pub jwt_audiences: Option<String>,
    /// No built-in `kubernetes` secret store.
    pub no_builtin_secret_store: bool,
}

/// A volume of the pod to mount into the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMount {
    /// The volume's name.
    pub volume: String,
    /// Where to mount it.
    pub path: String,
    /// Not writable.
    pub read_only: bool,
}

/// Quantities of CPU and memory, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourceOptions {
    /// CPU request.
    pub cpu_request: Option<String>,
    /// CPU limit.
    pub cpu_limit: Option<String>,
    /// Memory request.
    pub memory_request: Option<String>,
    /// Memory limit.
    pub memory_limit: Option<String>,
}

/// Timing of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOptions {
    /// Seconds before the first.
    pub delay_seconds: i32,
    /// Seconds it may take.
    pub timeout_seconds: i32,
    /// Seconds between two.
    pub period_seconds: i32,
    /// Failures that count.
    pub threshold: i32,
}

/// Pluggable components.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentOptions {
    /// Containers of the pod that are components.
    pub containers: Vec<String>,
    /// Where their sockets are.
    pub sockets_folder: String,
    /// Add the containers of the namespace's Components.
    pub inject: bool,
}

impl Options {
    /// Reads a pod's annotations. Never fails: what cannot be read keeps its default, and the
    /// problem list says so.
    pub fn parse(pod: &PodView<'_>, at: &Situation<'_>) -> (Self, Vec<Problem>) {
        let settings = at.settings;
        let mut r = Reader::new(*pod, at.defaults());
        let debug = r.boolean(key::ANNOTATION_ENABLE_DEBUG, false);
        let debug_port = r.integer(key::ANNOTATION_DEBUG_PORT, ports::SIDECAR_DEBUG.into());
        let (env_from_secret, dropped) =
            user_env::parse_from_secret(&r.text(key::ANNOTATION_ENV_FROM_SECRET, ""));
        let options = Self {
            config: r.filled_text(key::ANNOTATION_CONFIG),
            image: r.text(key::ANNOTATION_SIDECAR_IMAGE, &settings.image),
            native: native(&mut r, at),
            log_level: r.text(key::ANNOTATION_LOG_LEVEL, "info"),
            log_as_json: r.boolean(key::ANNOTATION_LOG_AS_JSON, false),
            api_logging: r.optional_boolean(key::ANNOTATION_ENABLE_API_LOGGING),
            profiling: r.boolean(key::ANNOTATION_ENABLE_PROFILING, false),
            debug_port: debug.then_some(debug_port),
            app: AppOptions::read(&mut r),
            api: ApiOptions::read(&mut r),
            control_plane: ControlPlaneOptions::read(&r),
            env: user_env::parse_plain(&r.text(key::ANNOTATION_ENV, "")),
            env_from_secret,
            mounts: mounts(&mut r, pod),
            resources: ResourceOptions::read(&mut r),
            liveness: ProbeOptions::read_liveness(&mut r),
            readiness: ProbeOptions::read_readiness(&mut r),
            seccomp: r.filled_text(key::ANNOTATION_SECCOMP_PROFILE_TYPE),
            components: ComponentOptions::read(&mut r, pod, settings),
        };
        for name in dropped {
            let text = format!("variable {name} is dropped; write {name}=secret:key");
            r.problem(key::ANNOTATION_ENV_FROM_SECRET, text);
        }
        check::values(&options, &mut r);
        (options, r.into_problems())
    }
}

/// Whether and where to run as a native sidecar. Never where the pod would hang for it.
fn native(r: &mut Reader<'_>, at: &Situation<'_>) -> Option<Position> {
    let wanted = r.optional_boolean(key::ANNOTATION_ENABLE_NATIVE_SIDECAR);
    let wanted = wanted.unwrap_or(match at.settings.native {
        NativeDefault::Off => false,
        NativeDefault::On => true,
        NativeDefault::Auto => at.platform.runs_native(),
    });
    let position = match r.filled_text(key::ANNOTATION_NATIVE_SIDECAR_POSITION).as_deref() {
        None | Some("last") => Position::Last,
        Some("first") => Position::First,
        Some(other) => {
            let text =
                format!("{} is not first or last, last is used", crate::reader::quoted(other));
            r.problem(key::ANNOTATION_NATIVE_SIDECAR_POSITION, text);
            Position::Last
        }
    };
    match at.platform.server_too_old().filter(|_| wanted) {
        Some(version) => {
            let text = format!(
                "Kubernetes {version} has no native sidecars, an ordinary container is used; 1.29 has"
            );
            r.problem(key::ANNOTATION_ENABLE_NATIVE_SIDECAR, text);
            None
        }
        None => wanted.then_some(position),
    }
}

impl AppOptions {
    fn read(r: &mut Reader<'_>) -> Self {
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
            binding_options_timeout: r.optional_text(key::ANNOTATION_APP_BINDING_OPTIONS_TIMEOUT),
            disable_init_endpoints: r.optional_text(key::ANNOTATION_DISABLE_INIT_ENDPOINTS),
        }
    }

    /// What `APP_PROTOCOL` tells the application: lower case, with the deprecated TLS switch
    /// worked in; `None` for a protocol that daprd does not know.
    pub fn effective_protocol(&self) -> Option<&'static str> {
        match (self.protocol.to_ascii_lowercase().as_str(), self.ssl) {
            // Without a protocol the switch has no effect: asked of Dapr 1.18.1.
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
    fn read(r: &mut Reader<'_>) -> Self {
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
            block_shutdown_duration: r.optional_text(key::ANNOTATION_BLOCK_SHUTDOWN_DURATION),
            metrics: r.boolean(key::ANNOTATION_ENABLE_METRICS, true),
            metrics_port: r.integer(key::ANNOTATION_METRICS_PORT, ports::SIDECAR_METRICS.into()),
        }
    }
}

impl ControlPlaneOptions {
    fn read(r: &Reader<'_>) -> Self {
        Self {
            placement: r.address(key::ANNOTATION_PLACEMENT_HOST_ADDRESS),
            scheduler: r.address(key::ANNOTATION_SCHEDULER_HOST_ADDRESS),
            disseminate_timeout: r.optional_text(key::ANNOTATION_ACTORS_DISSEMINATE_TIMEOUT),
            jwt_audiences: r.filled_text(key::ANNOTATION_SENTRY_REQUEST_JWT_AUDIENCES),
            no_builtin_secret_store: r
                .boolean(key::ANNOTATION_DISABLE_BUILTIN_K8S_SECRET_STORE, false),
        }
    }
}

impl ResourceOptions {
    fn read(r: &mut Reader<'_>) -> Self {
        let mut quantity =
            |key| r.filled_text(key).filter(|text| check::quantity(r, key, text, "it is left out"));
        Self {
            cpu_request: quantity(key::ANNOTATION_CPU_REQUEST),
            cpu_limit: quantity(key::ANNOTATION_CPU_LIMIT),
            memory_request: quantity(key::ANNOTATION_MEMORY_REQUEST),
            memory_limit: quantity(key::ANNOTATION_MEMORY_LIMIT),
        }
    }
}

impl ProbeOptions {
    fn read_liveness(r: &mut Reader<'_>) -> Self {
        Self {
            delay_seconds: r.integer(key::ANNOTATION_LIVENESS_DELAY, 180),
            timeout_seconds: r.integer(key::ANNOTATION_LIVENESS_TIMEOUT, 3),
            period_seconds: r.integer(key::ANNOTATION_LIVENESS_PERIOD, 10),
            threshold: r.integer(key::ANNOTATION_LIVENESS_THRESHOLD, 5),
        }
    }

    fn read_readiness(r: &mut Reader<'_>) -> Self {
        Self {
            delay_seconds: r.integer(key::ANNOTATION_READINESS_DELAY, 1),
            timeout_seconds: r.integer(key::ANNOTATION_READINESS_TIMEOUT, 1),
            period_seconds: r.integer(key::ANNOTATION_READINESS_PERIOD, 1),
            threshold: r.integer(key::ANNOTATION_READINESS_THRESHOLD, 5),
        }
    }
}

impl ComponentOptions {
    fn read(r: &mut Reader<'_>, pod: &PodView<'_>, settings: &Settings) -> Self {
        let key = key::ANNOTATION_PLUGGABLE_COMPONENTS;
        let names = r.text(key, "");
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let own = pod.containers();
        let mut containers = Vec::new();
        for name in names {
            if own.iter().any(|c| c.name() == name) {
                containers.push(name.to_owned());
            } else {
                let shown = crate::reader::quoted(name);
                r.problem(key, format!("the pod has no container {shown}, it is ignored"));
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

/// The mounts that both annotations ask for, read-only first, of volumes that the pod has.
fn mounts(r: &mut Reader<'_>, pod: &PodView<'_>) -> Vec<UserMount> {
    let volumes = pod.volumes();
    let lists = [(key::ANNOTATION_VOLUME_MOUNTS, true), (key::ANNOTATION_VOLUME_MOUNTS_RW, false)];
    let mut mounts = Vec::new();
    for (key, read_only) in lists {
        for entry in r.text(key, "").split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let shown = crate::reader::quoted(entry);
            match entry.split_once(':').filter(|(_, path)| !path.contains(':')) {
                None => r.problem(key, format!("{shown} is not volume:path, it is ignored")),
                Some((volume, path)) if volumes.contains(&volume) => {
                    let (volume, path) = (volume.to_owned(), path.to_owned());
                    mounts.push(UserMount { volume, path, read_only });
                }
                Some(_) => {
                    r.problem(key, format!("the pod has no volume for {shown}, it is ignored"));
                }
            }
        }
    }
    mounts
}
