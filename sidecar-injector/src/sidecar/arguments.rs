//! The arguments of daprd, in their order. Source: Dapr 1.18.3, injector.
//!
//! Each value is an element of its own: the CLI reads `--app-id`, `--app-port` and
//! `--dapr-grpc-port` by taking the next element.

use std::fmt::Display;

use resources::{annotations as key, ports};

use super::addresses::Actors;
use super::context::InjectionContext;
use super::daprd_version::{DaprdVersion, LateFlag};
use super::options::{AppOptions, Options};
use crate::pod::{AppId, Problem, is_quantity};

/// Directory of the API's Unix domain sockets in the sidecar.
pub(crate) const SOCKET_DIRECTORY: &str = "/var/run/dapr-sockets";

/// The arguments without the program, and a problem for each flag that the version of the image
/// does not support.
pub(crate) fn arguments(
    options: &Options,
    id: &AppId,
    cx: &InjectionContext<'_>,
) -> (Vec<String>, Vec<Problem>) {
    let mut args = Arguments::new(&options.image);
    always(&mut args, options, id, cx);
    addresses(&mut args, options, cx);
    switches(&mut args, options, cx);
    limits(&mut args, options);
    args.text("--dapr-block-shutdown-duration", options.api.block_shutdown_duration.as_deref());
    args.late(
        LateFlag::DisseminateTimeout,
        ("--actors-disseminate-timeout", key::ANNOTATION_ACTORS_DISSEMINATE_TIMEOUT),
        options.control_plane.disseminate_timeout.as_deref(),
    );
    let scheduler = cx.settings.scheduler.then(|| {
        let control_plane = &cx.settings.control_plane;
        if args.version.is_some_and(DaprdVersion::needs_each_scheduler) {
            control_plane.scheduler_pods(cx.settings.scheduler_replicas)
        } else {
            control_plane.scheduler()
        }
    });
    let scheduler = options.control_plane.scheduler.clone().or(scheduler);
    args.text("--scheduler-host-address", scheduler.as_deref());
    args.late(
        LateFlag::DisableInitEndpoints,
        ("--disable-init-endpoints", key::ANNOTATION_DISABLE_INIT_ENDPOINTS),
        options.app.disable_init_endpoints.as_deref(),
    );
    (args.list, args.left_out)
}

fn always(args: &mut Arguments, options: &Options, id: &AppId, cx: &InjectionContext<'_>) {
    let api = &options.api;
    args.pair("--dapr-http-port", ports::SIDECAR_HTTP);
    args.pair("--dapr-grpc-port", api.grpc_port);
    args.pair("--dapr-internal-grpc-port", api.internal_grpc_port);
    args.pair("--dapr-listen-addresses", &api.listen_addresses);
    args.pair("--dapr-public-port", ports::SIDECAR_PUBLIC);
    args.pair("--app-id", id);
    args.pair("--app-protocol", &options.app.protocol);
    args.pair("--log-level", &options.log_level);
    args.pair(
        "--dapr-graceful-shutdown-seconds",
        at_least_minus_one(api.graceful_shutdown_seconds),
    );
    args.pair("--mode", "kubernetes");
    args.pair("--control-plane-address", cx.settings.control_plane.operator());
    args.pair("--sentry-address", cx.settings.control_plane.sentry());
    if options.app.port > 0 {
        args.pair("--app-port", options.app.port);
    }
    if api.metrics {
        args.flag("--enable-metrics");
        args.pair("--metrics-port", api.metrics_port);
    } else {
        // The default of daprd is on: without the flag it would serve metrics.
        args.flag("--enable-metrics=false");
    }
}

fn addresses(args: &mut Arguments, options: &Options, cx: &InjectionContext<'_>) {
    args.text("--config", options.config.as_deref());
    args.text("--app-channel-address", options.app.channel_address.as_deref());
    match (options.control_plane.placement.as_deref(), &cx.settings.actors) {
        (Some(address), _) if !address.is_empty() => args.pair("--placement-host-address", address),
        (_, Actors::Service(service)) => args.pair("--actors-service", service),
        (None, Actors::Placement(address)) => args.pair("--placement-host-address", address),
        (Some(_), Actors::Placement(_)) | (_, Actors::Off) => {}
    }
    args.text("--reminders-service", cx.settings.reminders.as_deref());
    args.late(
        LateFlag::JwtAudiences,
        ("--sentry-request-jwt-audiences", key::ANNOTATION_SENTRY_REQUEST_JWT_AUDIENCES),
        options.control_plane.jwt_audiences.as_deref(),
    );
}

fn switches(args: &mut Arguments, options: &Options, cx: &InjectionContext<'_>) {
    match options.api_logging {
        Some(true) => args.flag("--enable-api-logging=true"),
        Some(false) => args.flag("--enable-api-logging=false"),
        None => {}
    }
    args.switch(
        "--disable-builtin-k8s-secret-store",
        options.control_plane.no_builtin_secret_store,
    );
    health(args, &options.app);
    args.late(
        LateFlag::BindingOptionsTimeout,
        ("--app-binding-options-timeout", key::ANNOTATION_APP_BINDING_OPTIONS_TIMEOUT),
        options.app.binding_options_timeout.as_deref(),
    );
    args.switch("--log-as-json", options.log_as_json);
    args.switch("--enable-profiling", options.profiling);
    args.switch("--enable-mtls", cx.mtls_enabled);
    args.switch("--app-ssl", options.app.ssl);
}

fn health(args: &mut Arguments, app: &AppOptions) {
    let Some(health) = &app.health else { return };
    args.flag("--enable-app-health-check");
    args.pair("--app-health-check-path", &health.path);
    args.pair("--app-health-probe-interval", health.interval_seconds.max(-1));
    args.pair("--app-health-probe-timeout", health.timeout_millis.max(-1));
    args.pair("--app-health-threshold", health.threshold.max(-1));
}

fn limits(args: &mut Arguments, options: &Options) {
    let api = &options.api;
    let number = |n: Option<i64>| n.map(|n| at_least_minus_one(n).to_string());
    args.text("--app-max-concurrency", number(options.app.max_concurrency).as_deref());
    args.text("--dapr-http-max-request-size", number(api.http_max_request_size).as_deref());
    args.text("--max-body-size", api.max_body_size.as_deref().map(size));
    args.text("--dapr-http-read-buffer-size", number(api.http_read_buffer_size).as_deref());
    args.text("--read-buffer-size", api.read_buffer_size.as_deref().map(size));
    if api.socket_path.is_some() {
        args.pair("--unix-domain-socket", SOCKET_DIRECTORY);
    }
}

/// Clamps to -1: daprd parses an argument such as `-10`, but not `-1`, as a flag. Negative values
/// are equivalent wherever this is used.
fn at_least_minus_one(number: i64) -> i64 {
    number.max(-1)
}

fn size(text: &str) -> &str {
    if text.starts_with('-') && is_quantity(text) { "-1" } else { text }
}

struct Arguments {
    list: Vec<String>,
    left_out: Vec<Problem>,
    version: Option<DaprdVersion>,
}

impl Arguments {
    fn new(image: &str) -> Self {
        let version = DaprdVersion::of_image(image);
        Self { list: Vec::with_capacity(64), left_out: Vec::new(), version }
    }

    fn flag(&mut self, flag: &str) {
        self.list.push(flag.to_owned());
    }

    fn switch(&mut self, flag: &str, on: bool) {
        if on {
            self.flag(flag);
        }
    }

    fn pair(&mut self, flag: &str, value: impl Display) {
        self.list.extend([flag.to_owned(), value.to_string()]);
    }

    fn text(&mut self, flag: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.pair(flag, value);
        }
    }

    fn late(&mut self, late: LateFlag, names: (&str, &'static str), value: Option<&str>) {
        let (flag, annotation) = names;
        if value.is_some() && self.version.is_some_and(|version| !version.accepts(late)) {
            let text = format!(
                "the version of the sidecar image does not support {flag}; the value is ignored"
            );
            self.left_out.push(Problem { annotation, text });
        } else {
            self.text(flag, value);
        }
    }
}
