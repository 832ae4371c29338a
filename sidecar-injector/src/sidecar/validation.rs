//! Values of the right type with which daprd does not start or the API server rejects the pod.
//!
//! They are passed on, as in the reference, because another version of daprd can accept them. The
//! user gets a warning before the crash loop. Source: experiments with daprd 1.18.1.

use std::time::Duration;

use resources::{annotations as key, ports};

use super::context::InjectionContext;
use super::options::Options;
use crate::pod::{AnnotationReader, PodView, Problem, quoted};

/// Variables that the injector sets. A variable of the user with the same name has precedence.
const RESERVED: [&str; 6] = [
    "NAMESPACE",
    "DAPR_TRUST_ANCHORS",
    "POD_NAME",
    "DAPR_CONTROLPLANE_NAMESPACE",
    "DAPR_CONTROLPLANE_TRUST_DOMAIN",
    "DAPR_HOST_IP",
];

/// Reads the annotations of a pod and checks their values. An annotation that cannot be read yields the
/// default and a problem, an invalid value is passed on with a problem.
pub(crate) fn checked_options(
    pod: &PodView<'_>,
    cx: &InjectionContext<'_>,
) -> (Options, Vec<Problem>) {
    let (options, mut r) = Options::read(pod, cx);
    values(&options, pod, &mut r);
    (options, r.into_problems())
}

/// Records a problem for each invalid value.
fn values(options: &Options, pod: &PodView<'_>, r: &mut AnnotationReader<'_>) {
    words(options, r);
    durations(options, r);
    sizes(options, r);
    port_numbers(options, r);
    health(options, r);
    variables(options, r);
    if options.seccomp.is_some() && pod.is_windows() {
        let text = "has no effect on a pod with os windows, which has no seccomp profiles";
        r.problem(key::ANNOTATION_SECCOMP_PROFILE_TYPE, text);
    }
    if let Some(path) = options.api.socket_path.as_deref().filter(|path| !path.starts_with('/')) {
        let text =
            format!("{} is not an absolute path; the API server rejects the pod", quoted(path));
        r.problem(key::ANNOTATION_UNIX_DOMAIN_SOCKET_PATH, text);
    }
}

fn words(options: &Options, r: &mut AnnotationReader<'_>) {
    let level = options.log_level.to_ascii_lowercase();
    if !["debug", "info", "warn", "error", "fatal"].contains(&level.as_str()) {
        let shown = quoted(&options.log_level);
        r.problem(
            key::ANNOTATION_LOG_LEVEL,
            format!("{shown} is not debug, info, warn, error or fatal; daprd does not start"),
        );
    }
    if options.app.effective_protocol().is_none() {
        let shown = quoted(&options.app.protocol);
        r.problem(
            key::ANNOTATION_APP_PROTOCOL,
            format!("{shown} is not http, https, grpc, grpcs or h2c; daprd does not start"),
        );
    }
    let endpoints = options.app.disable_init_endpoints.as_deref().unwrap_or_default();
    let known = |word: &&str| ["", "config", "subscribe"].contains(word);
    if let Some(word) = endpoints.split(',').map(str::trim).find(|word| !known(word)) {
        r.problem(
            key::ANNOTATION_DISABLE_INIT_ENDPOINTS,
            format!("{} is not config or subscribe; daprd does not start", quoted(word)),
        );
    }
    if options.seccomp.as_deref() == Some("Localhost") {
        r.problem(
            key::ANNOTATION_SECCOMP_PROFILE_TYPE,
            "Localhost needs a profile path, which no annotation sets; the API server rejects the pod",
        );
    }
}

fn durations(options: &Options, r: &mut AnnotationReader<'_>) {
    let app = &options.app;
    let texts = [
        (key::ANNOTATION_APP_BINDING_OPTIONS_TIMEOUT, &app.binding_options_timeout),
        (key::ANNOTATION_BLOCK_SHUTDOWN_DURATION, &options.api.block_shutdown_duration),
        (key::ANNOTATION_ACTORS_DISSEMINATE_TIMEOUT, &options.control_plane.disseminate_timeout),
    ];
    for (key, text) in texts {
        let Some(text) = text else { continue };
        if let Err(error) = runtime::go_duration::parse(text) {
            r.problem(key, format!("{error}; daprd does not start"));
        }
    }
}

fn sizes(options: &Options, r: &mut AnnotationReader<'_>) {
    let texts = [
        (key::ANNOTATION_MAX_BODY_SIZE, &options.api.max_body_size),
        (key::ANNOTATION_READ_BUFFER_SIZE, &options.api.read_buffer_size),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            r.check_quantity(key, text, "daprd does not start");
        }
    }
}

fn port_numbers(options: &Options, r: &mut AnnotationReader<'_>) {
    let (app, api) = (&options.app, &options.api);
    let mut own = vec![
        (key::ANNOTATION_GRPC_PORT, api.grpc_port),
        (key::ANNOTATION_INTERNAL_GRPC_PORT, api.internal_grpc_port),
        (key::ANNOTATION_METRICS_PORT, api.metrics_port),
    ];
    own.extend(options.debug_port.map(|port| (key::ANNOTATION_DEBUG_PORT, port)));
    let is_port = |port: i32| (1..=65535).contains(&port);
    for (key, port) in own.iter().filter(|(_, port)| !is_port(*port)) {
        r.problem(
            key,
            format!("{port} is not a port from 1 to 65535; the API server rejects the pod"),
        );
    }
    if app.port > 65535 {
        let text = format!("{} is not a port from 1 to 65535; daprd does not start", app.port);
        r.problem(key::ANNOTATION_APP_PORT, text);
    }
    let fixed = [("the HTTP API", ports::SIDECAR_HTTP), ("the health port", ports::SIDECAR_PUBLIC)];
    let mut taken: Vec<(i32, &str)> = fixed.iter().map(|(who, p)| (i32::from(*p), *who)).collect();
    own.push((key::ANNOTATION_APP_PORT, app.port));
    for (key, port) in own.into_iter().filter(|(_, port)| is_port(*port)) {
        match taken.iter().find(|(other, _)| *other == port) {
            Some((_, who)) => {
                r.problem(key, format!("{port} is also the port of {who}; daprd does not start"));
            }
            None => taken.push((port, key)),
        }
    }
}

fn health(options: &Options, r: &mut AnnotationReader<'_>) {
    let Some(health) = &options.app.health else { return };
    let interval = if health.interval_seconds > 0 { health.interval_seconds } else { 5 };
    let interval = Duration::from_secs(u64::from(interval.unsigned_abs()));
    let timeout = u64::try_from(health.timeout_millis).unwrap_or_default();
    if Duration::from_millis(timeout) >= interval {
        r.problem(
            key::ANNOTATION_APP_HEALTH_PROBE_TIMEOUT,
            format!(
                "{timeout} ms is not less than the interval of {} s; daprd does not start",
                interval.as_secs()
            ),
        );
    }
}

fn variables(options: &Options, r: &mut AnnotationReader<'_>) {
    let plain = options.env.iter().map(|var| (key::ANNOTATION_ENV, &var.name));
    let secret = options.env_from_secret.iter().map(|v| (key::ANNOTATION_ENV_FROM_SECRET, &v.name));
    for (key, name) in plain.chain(secret) {
        if RESERVED.contains(&name.as_str()) {
            r.problem(key, format!("{name} overrides the value that the injector sets; rename it"));
        } else if name.is_empty() || name.contains(char::is_whitespace) {
            r.problem(key, format!("{} is not a valid variable name", quoted(name)));
        }
    }
}
