//! Values that can be read but with which daprd, or the pod, will not start.
//!
//! They are passed on all the same (the reference does, and another daprd may know better); the
//! user is told before the crash loop. Source: daprd 1.18.1, asked one by one.

use std::time::Duration;

use resources::annotations as key;
use resources::ports;

use crate::options::Options;
use crate::quantity::is_quantity;
use crate::reader::{Reader, quoted};

/// Variables that the injector sets; a user's of the same name wins.
const RESERVED: [&str; 6] = [
    "NAMESPACE",
    "DAPR_TRUST_ANCHORS",
    "POD_NAME",
    "DAPR_CONTROLPLANE_NAMESPACE",
    "DAPR_CONTROLPLANE_TRUST_DOMAIN",
    "DAPR_HOST_IP",
];

/// Notes every value that will not do.
pub fn values(options: &Options, r: &mut Reader<'_>) {
    words(options, r);
    durations(options, r);
    sizes(options, r);
    port_numbers(options, r);
    health(options, r);
    variables(options, r);
    if let Some(path) = options.api.socket_path.as_deref().filter(|path| !path.starts_with('/')) {
        let text = format!("{} is not an absolute path, the pod will be refused", quoted(path));
        r.problem(key::ANNOTATION_UNIX_DOMAIN_SOCKET_PATH, text);
    }
    if options.image.is_empty() {
        let text = "is empty, the pod will be refused; name an image or leave it out";
        r.problem(key::ANNOTATION_SIDECAR_IMAGE, text);
    }
}

/// Whether a text is a quantity; notes a problem, ending in `consequence`, when it is not.
pub fn quantity(r: &mut Reader<'_>, key: &'static str, text: &str, consequence: &str) -> bool {
    let good = is_quantity(text);
    if !good {
        r.problem(
            key,
            format!("{} is not a quantity such as 100m or 64Mi, {consequence}", quoted(text)),
        );
    }
    good
}

fn words(options: &Options, r: &mut Reader<'_>) {
    let level = options.log_level.to_ascii_lowercase();
    if !["debug", "info", "warn", "error", "fatal"].contains(&level.as_str()) {
        let shown = quoted(&options.log_level);
        r.problem(
            key::ANNOTATION_LOG_LEVEL,
            format!("{shown} is not debug, info, warn, error or fatal, daprd will not start"),
        );
    }
    if options.app.effective_protocol().is_none() {
        let shown = quoted(&options.app.protocol);
        r.problem(
            key::ANNOTATION_APP_PROTOCOL,
            format!("{shown} is not http, https, grpc, grpcs or h2c, daprd will not start"),
        );
    }
    let endpoints = options.app.disable_init_endpoints.as_deref().unwrap_or_default();
    let known = |word: &&str| ["", "config", "subscribe"].contains(word);
    if let Some(word) = endpoints.split(',').map(str::trim).find(|word| !known(word)) {
        r.problem(
            key::ANNOTATION_DISABLE_INIT_ENDPOINTS,
            format!("{} is not config or subscribe, daprd will not start", quoted(word)),
        );
    }
    if options.seccomp.as_deref() == Some("Localhost") {
        r.problem(
            key::ANNOTATION_SECCOMP_PROFILE_TYPE,
            "Localhost needs a profile path, which cannot be given; the pod will be refused",
        );
    }
}

fn durations(options: &Options, r: &mut Reader<'_>) {
    let app = &options.app;
    let texts = [
        (key::ANNOTATION_APP_BINDING_OPTIONS_TIMEOUT, &app.binding_options_timeout),
        (key::ANNOTATION_BLOCK_SHUTDOWN_DURATION, &options.api.block_shutdown_duration),
        (key::ANNOTATION_ACTORS_DISSEMINATE_TIMEOUT, &options.control_plane.disseminate_timeout),
    ];
    for (key, text) in texts {
        let Some(text) = text else { continue };
        if let Err(error) = runtime::go_duration::parse(text) {
            r.problem(key, format!("{error}; daprd will not start"));
        }
    }
}

fn sizes(options: &Options, r: &mut Reader<'_>) {
    let texts = [
        (key::ANNOTATION_MAX_BODY_SIZE, &options.api.max_body_size),
        (key::ANNOTATION_READ_BUFFER_SIZE, &options.api.read_buffer_size),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            quantity(r, key, text, "daprd will not start");
        }
    }
}

fn port_numbers(options: &Options, r: &mut Reader<'_>) {
    let (app, api) = (&options.app, &options.api);
    let mut own = vec![
        (key::ANNOTATION_GRPC_PORT, api.grpc_port),
        (key::ANNOTATION_INTERNAL_GRPC_PORT, api.internal_grpc_port),
        (key::ANNOTATION_METRICS_PORT, api.metrics_port),
    ];
    own.extend(options.debug_port.map(|port| (key::ANNOTATION_DEBUG_PORT, port)));
    let is_port = |port: i32| (1..=65535).contains(&port);
    for (key, port) in own.iter().filter(|(_, port)| !is_port(*port)) {
        r.problem(key, format!("{port} is not a port from 1 to 65535, the pod will be refused"));
    }
    if app.port > 65535 {
        let text = format!("{} is not a port from 1 to 65535, daprd will not start", app.port);
        r.problem(key::ANNOTATION_APP_PORT, text);
    }
    let fixed = [("the HTTP API", ports::SIDECAR_HTTP), ("the health port", ports::SIDECAR_PUBLIC)];
    let mut taken: Vec<(i32, &str)> = fixed.iter().map(|(who, p)| (i32::from(*p), *who)).collect();
    own.push((key::ANNOTATION_APP_PORT, app.port));
    for (key, port) in own.into_iter().filter(|(_, port)| is_port(*port)) {
        match taken.iter().find(|(other, _)| *other == port) {
            Some((_, who)) => {
                r.problem(
                    key,
                    format!("{port} is the port of {who} as well, daprd will not start"),
                );
            }
            None => taken.push((port, key)),
        }
    }
}

fn health(options: &Options, r: &mut Reader<'_>) {
    let Some(health) = &options.app.health else { return };
    let interval = if health.interval_seconds > 0 { health.interval_seconds } else { 5 };
    let interval = Duration::from_secs(u64::from(interval.unsigned_abs()));
    let timeout = u64::try_from(health.timeout_millis).unwrap_or_default();
    if Duration::from_millis(timeout) >= interval {
        r.problem(
            key::ANNOTATION_APP_HEALTH_PROBE_TIMEOUT,
            format!(
                "{timeout} ms is not below the interval of {} s, daprd will not start",
                interval.as_secs()
            ),
        );
    }
}

fn variables(options: &Options, r: &mut Reader<'_>) {
    let plain = options.env.iter().map(|var| (key::ANNOTATION_ENV, &var.name));
    let secret = options.env_from_secret.iter().map(|v| (key::ANNOTATION_ENV_FROM_SECRET, &v.name));
    for (key, name) in plain.chain(secret) {
        if RESERVED.contains(&name.as_str()) {
            r.problem(key, format!("{name} replaces the value that Dapr sets; rename it"));
        } else if name.is_empty() || name.contains(char::is_whitespace) {
            r.problem(key, format!("{} is not a good name for a variable", quoted(name)));
        }
    }
}
