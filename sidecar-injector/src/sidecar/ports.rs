//! Ports of the sidecar, and conflicts with other processes.

use resources::{annotations as key, names, ports};

use super::options::Options;
use crate::pod::PodView;

/// The listening ports of daprd: number, purpose, and the annotation that changes it.
fn listening(options: &Options) -> Vec<(i64, &'static str, Option<&'static str>)> {
    let api = &options.api;
    let mut all = vec![
        (ports::SIDECAR_HTTP.into(), "HTTP API", None),
        (ports::SIDECAR_PUBLIC.into(), "health port", None),
        (api.grpc_port.into(), "gRPC API", Some(key::ANNOTATION_GRPC_PORT)),
        (
            api.internal_grpc_port.into(),
            "port for calls between sidecars",
            Some(key::ANNOTATION_INTERNAL_GRPC_PORT),
        ),
    ];
    if api.metrics {
        all.push((api.metrics_port.into(), "metrics port", Some(key::ANNOTATION_METRICS_PORT)));
    }
    let debug = options.debug_port.map(i64::from);
    all.extend(debug.map(|port| (port, "debugger", Some(key::ANNOTATION_DEBUG_PORT))));
    all
}

/// One message for each port of daprd that a container of the pod declares too, and one for a pod in
/// the network of its node.
pub(crate) fn port_conflicts(pod: &PodView<'_>, options: &Options) -> Vec<String> {
    let own = listening(options);
    let mut others = pod.init_containers();
    others.retain(|container| container.keeps_running());
    others.splice(0..0, pod.containers());
    let mut problems = Vec::new();
    for container in others.into_iter().filter(|c| c.name() != names::SIDECAR_CONTAINER) {
        for port in container.tcp_ports() {
            let Some((_, purpose, annotation)) = own.iter().find(|(own, ..)| *own == port) else {
                continue;
            };
            let remedy = match annotation {
                Some(key) => format!("set {key} to another port"),
                None => "change the port of the container".to_owned(),
            };
            problems.push(format!(
                "port {port} of container {} is also the {purpose} of daprd, so one of them cannot \
                 start; {remedy}",
                container.name()
            ));
        }
    }
    if pod.uses_host_network() {
        let mut all: Vec<i64> = own.iter().map(|(port, ..)| *port).collect();
        all.sort_unstable();
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        problems.push(format!(
            "hostNetwork: daprd uses ports {} of the node, so a node can run one such pod, and no \
             other process on these ports",
            all.join(", ")
        ));
    }
    problems
}
