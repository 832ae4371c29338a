//! Plans the headless Service of an app, which other sidecars resolve to find its sidecars.
//!
//! Pure: the desired Service is compared with the current one. One workload has the selector of its
//! Pure: the desired Service is compared with the current one. One workload has the selector of its
//! workload, as with Dapr. Several workloads with one app id, such as the two Deployments of a
//! canary release, share the Service: it selects the label that the injector sets on each pod with
//! this app id, so endpoints remain while one of them is scaled to zero, and all of them are its
//! owners, so it exists as long as one of them does.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use resources::annotations::{
    ANNOTATION_APP_ID, ANNOTATION_ENABLE_METRICS, ANNOTATION_ENABLED, ANNOTATION_GRPC_PORT,
    ANNOTATION_INTERNAL_GRPC_PORT, ANNOTATION_METRICS_PORT, ANNOTATION_SIDECAR_SERVICE_ANNOTATIONS,
    is_truthy,
};
use resources::labels::LABEL_APP_ID;
use resources::{names, ports};

use crate::services::workload::Workload;

/// Port of the Service for the sidecar's HTTP API (Dapr 1.18).
const SERVICE_HTTP: u16 = 80;
/// Annotations for discovery by Prometheus (Dapr 1.18).
const PROBE: &str = "prometheus.io/probe";
const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const PROMETHEUS: [&str; 4] = [PROBE, SCRAPE, PORT, PATH];

/// Name of the Service of an app (Dapr 1.18).
pub(crate) fn service_name(app_id: &str) -> String {
    format!("{app_id}-dapr")
}

/// Why a workload cannot have a Service until it is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("value for the {ANNOTATION_APP_ID} annotation is empty")]
    NoAppId,
    /// The app id does not give a valid Service name.
    #[error(
        "app id {0:?} is invalid: {0}-dapr must consist of at most 63 characters a-z, 0-9 or '-' and start and end with a letter or digit"
    )]
    AppId(String),
    #[error("port {0} is not between 1 and 65535, or is used twice by the sidecar")]
    Port(i32),
}

/// What to do with one Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    Create(Box<Service>),
    /// Replace the current Service; contains its resource version.
    Update(Box<Service>),
    /// Delete the Service with this UID.
    Delete(String),
    Keep,
    /// Keep a Service that was not created by Dapr.
    Foreign,
}

/// Plans the Service of one name. `wanted` is the workload that it belongs to, if any; `sharing` are the
/// others with the same app id; `owners` are the workloads in its namespace that have Services.
///
/// # Errors
/// [`Invalid`]: `wanted` cannot have a Service.
pub(crate) fn plan<'a>(
    wanted: Option<&Workload>,
    sharing: &[&Workload],
    mtls: bool,
    current: Option<&Service>,
    mut owners: impl Iterator<Item = &'a Workload>,
) -> Result<Plan, Invalid> {
    let Some(workload) = wanted else {
        let abandoned = current.filter(|service| is_ours(service)).and_then(|service| {
            // The workload has another app id or no sidecars, and no pod with the previous app id is
            // left.
            let moved = |owner: &Workload| owned_by(service, &owner.uid) && owner.rolled_out;
            owners.any(moved).then(|| service.metadata.uid.clone())?
        });
        return Ok(abandoned.map_or(Plan::Keep, Plan::Delete));
    };
    let desired = desired(workload, sharing, mtls)?;
    let Some(current) = current else { return Ok(Plan::Create(Box::new(desired))) };
    if !is_ours(current) && !owned_by(current, &workload.uid) || !is_headless(current) {
        return Ok(Plan::Foreign);
    }
    let updated = merged(current, desired);
    Ok(if updated == *current { Plan::Keep } else { Plan::Update(Box::new(updated)) })
}

/// The desired Service of a workload and those that share its app id. `mtls` is whether sidecars
/// use mTLS among each other.
/// # Errors
/// [`Invalid`]: the workload cannot have a Service.
pub(crate) fn desired(
    workload: &Workload,
    sharing: &[&Workload],
    mtls: bool,
) -> Result<Service, Invalid> {
    let app_id = workload.app_id();
    if app_id.is_empty() {
        return Err(Invalid::NoAppId);
    }
    let name = service_name(app_id);
    if !is_dns_label(&name) {
        return Err(Invalid::AppId(app_id.to_owned()));
    }
    let owners = std::iter::once(owner(workload, true))
        .chain(sharing.iter().map(|other| owner(other, false)))
        .collect();
    Ok(Service {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(workload.key.namespace.clone()),
            labels: Some([(ANNOTATION_ENABLED.to_owned(), "true".to_owned())].into()),
            annotations: Some(annotations(workload)),
            owner_references: Some(owners),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(selector(workload, sharing)),
            cluster_ip: Some("None".to_owned()),
            ports: Some(service_ports(workload, mtls)?),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// The selector of the only workload, as with Dapr; else the label that the injector sets.
fn selector(workload: &Workload, sharing: &[&Workload]) -> BTreeMap<String, String> {
    let label = (LABEL_APP_ID.to_owned(), workload.app_id().to_owned());
    if !sharing.is_empty() {
        return [label].into();
    }
    let mut selector = workload.selector.clone();
    // Dapr creates a Service without selector then, which never has endpoints.
    if workload.selects_more || selector.is_empty() {
        selector.extend([label]);
    }
    selector
}

/// A reference to an owner. The garbage collector deletes a Service without any owner only.
fn owner(workload: &Workload, controller: bool) -> OwnerReference {
    let (group, version, kind, _) = workload.key.kind.names();
    OwnerReference {
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        name: workload.key.name.clone(),
        uid: workload.uid.clone(),
        controller: controller.then_some(true),
        block_owner_deletion: controller.then_some(true),
    }
}

fn service_ports(workload: &Workload, mtls: bool) -> Result<Vec<ServicePort>, Invalid> {
    let own = |annotation, default| port(workload, annotation, default);
    let grpc = own(ANNOTATION_GRPC_PORT, ports::SIDECAR_GRPC);
    let internal = own(ANNOTATION_INTERNAL_GRPC_PORT, ports::SIDECAR_INTERNAL_GRPC);
    let metrics = own(ANNOTATION_METRICS_PORT, ports::SIDECAR_METRICS);
    // Service meshes read the protocol (Dapr 1.19); metrics have one even when they are disabled.
    let internal_protocol = if mtls { "tls" } else { "grpc" };
    let list = [
        (names::PORT_HTTP, i32::from(SERVICE_HTTP), i32::from(ports::SIDECAR_HTTP), "http"),
        (names::PORT_GRPC, grpc, grpc, "grpc"),
        (names::PORT_INTERNAL_GRPC, internal, internal, internal_protocol),
        (names::PORT_METRICS, metrics, metrics, "http"),
    ];
    let mut seen = Vec::new();
    for (_, port, ..) in list {
        if !(1..=65535).contains(&port) || seen.contains(&port) {
            return Err(Invalid::Port(port));
        }
        seen.push(port);
    }
    let made = list.map(|(name, port, target, protocol)| ServicePort {
        name: Some(name.to_owned()),
        app_protocol: Some(protocol.to_owned()),
        protocol: Some("TCP".to_owned()),
        port,
        target_port: Some(IntOrString::Int(target)),
        ..ServicePort::default()
    });
    Ok(made.into())
}

/// A decimal number with an optional sign; anything else is the default (Dapr 1.18).
fn port(workload: &Workload, annotation: &str, default: u16) -> i32 {
    workload.annotation(annotation).parse().unwrap_or_else(|_| i32::from(default))
}

fn annotations(workload: &Workload) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |key: &str, value: &str| out.insert(key.to_owned(), value.to_owned());
    put(ANNOTATION_APP_ID, workload.app_id());
    let metrics = workload.annotation(ANNOTATION_ENABLE_METRICS);
    if metrics.is_empty() || is_truthy(metrics) {
        let port = port(workload, ANNOTATION_METRICS_PORT, ports::SIDECAR_METRICS).to_string();
        for (key, value) in [(PROBE, "true"), (SCRAPE, "true"), (PORT, &port), (PATH, "/")] {
            put(key, value);
        }
    }
    for item in workload.annotation(ANNOTATION_SIDECAR_SERVICE_ANNOTATIONS).split(',') {
        let Some((key, value)) = item.split_once('=') else { continue };
        let key = key.trim();
        // The first item wins, and the annotations above cannot be overridden (Dapr 1.18).
        if !key.is_empty() {
            out.entry(key.to_owned()).or_insert_with(|| value.trim().to_owned());
        }
    }
    out
}

/// RFC 1123: at most 63 of `a-z 0-9 -`, no `-` at either end.
fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(ANNOTATION_ENABLED)).is_some_and(|value| value == "true")
}

/// Whether the workload with this unique id is the Service's controller.
pub(crate) fn owned_by(service: &Service, uid: &str) -> bool {
    let owners = service.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// `clusterIP` is immutable, so a Service with an address was not created by Dapr.
fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// `current` with the owned members of `desired`. Other labels and annotations and the defaults of the
/// API server are kept.
fn merged(current: &Service, desired: Service) -> Service {
    let mut out = current.clone();
    let (from, to) = (desired.metadata, &mut out.metadata);
    to.labels.get_or_insert_default().extend(from.labels.unwrap_or_default());
    let annotations = to.annotations.get_or_insert_default();
    let wanted = from.annotations.unwrap_or_default();
    annotations.retain(|key, _| !PROMETHEUS.contains(&key.as_str()) || wanted.contains_key(key));
    annotations.extend(wanted);
    to.owner_references = from.owner_references;
    if let (Some(from), Some(to)) = (desired.spec, out.spec.as_mut()) {
        to.selector = from.selector;
        if ports_differ(to.ports.as_deref(), from.ports.as_deref()) {
            to.ports = from.ports;
        }
    }
    out
}

fn ports_differ(current: Option<&[ServicePort]>, wanted: Option<&[ServicePort]>) -> bool {
    let key = |ports: Option<&[ServicePort]>| -> Vec<_> {
        let own = |p: &ServicePort| {
            let protocols = (p.protocol.clone(), p.app_protocol.clone());
            (p.name.clone(), p.port, p.target_port.clone(), protocols)
        };
        ports.unwrap_or_default().iter().map(own).collect()
    };
    key(current) != key(wanted)
}

#[cfg(test)]
mod tests;
