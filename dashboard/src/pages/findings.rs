//! Findings, worst first, each with its remedy.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{TrustAnchors, expiry_step};
use jiff::Timestamp;
use resources::images::minor;
use resources::names;
use serde::Serialize;

use super::parts::Level;
use super::words;
use crate::model::event::Event;
use crate::model::pod::Pod;
use crate::model::{PLACEMENT, SCHEDULER, Snapshot};

/// Names that one finding lists.
const NAMED: usize = 5;
/// Services of the control plane, and whether every installation has pods of them: placement and the
/// scheduler can be switched off.
const SERVICES: [(&str, bool); 5] = [
    ("dapr-operator", true),
    ("dapr-sentry", true),
    ("dapr-sidecar-injector", true),
    (PLACEMENT, false),
    (SCHEDULER, false),
];

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) text: String,
    pub(crate) remedy: String,
}

fn finding(level: Level, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level, text: text.into(), remedy: remedy.into() }
}

/// All findings, worst first.
pub(crate) fn findings(snapshot: &Snapshot, now: Timestamp) -> Vec<Finding> {
    let mut all = control_plane(snapshot);
    all.extend(root(snapshot, now));
    all.extend(sidecars(snapshot));
    all.extend(resources(snapshot));
    all.sort_by_key(|finding| finding.level); // stable
    all
}

fn control_plane(snapshot: &Snapshot) -> Vec<Finding> {
    let mut all = Vec::new();
    if !snapshot.pods.is_synced {
        return all;
    }
    for (service, is_required) in SERVICES {
        let pods: Vec<_> =
            snapshot.control_plane().filter(|p| p.app() == service && p.is_alive()).collect();
        let namespace = &snapshot.namespace;
        if pods.is_empty() && is_required {
            let remedy = format!(
                "kubectl get deployment {service} -n {namespace}; install the chart if it is missing, and set --namespace if the control plane is elsewhere"
            );
            all.push(finding(Level::Error, format!("no pod of {service} in {namespace}"), remedy));
        } else if !pods.is_empty() && !pods.iter().any(|pod| pod.is_ready()) {
            let reason =
                pods.iter().flat_map(|pod| &pod.containers).find_map(|c| c.waiting.clone());
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            all.push(finding(
                Level::Error,
                format!("{service} is not ready{reason}"),
                format!("kubectl logs -n {namespace} -l app={service}"),
            ));
        }
    }
    let mut versions = BTreeMap::<&str, usize>::new();
    for pod in snapshot.control_plane().filter(|p| p.is_alive() && p.app() != "dapr-dashboard") {
        *versions.entry(pod.version()).or_default() += 1;
    }
    if versions.len() > 1 {
        let list: Vec<_> = versions.keys().copied().collect();
        all.push(finding(
            Level::Warning,
            format!("the control plane runs several versions: {}", list.join(", ")),
            "an upgrade is running; if it does not end, look at the pods of the control plane",
        ));
    }
    all
}

fn root(snapshot: &Snapshot, now: Timestamp) -> Option<Finding> {
    let pem = snapshot.anchors.find(&snapshot.namespace, names::TRUST_BUNDLE)?;
    let (start, end) = TrustAnchors::parse_pem(pem.as_bytes()).ok()?.first_to_end()?;
    let remedy = "rotate the CA: kubectl annotate secret dapr-trust-bundle dapr.io/rotate-ca=now -n NAMESPACE (docs/day-2.md)";
    let left = now.duration_until(end).as_secs();
    if left <= 0 {
        return Some(finding(
            Level::Error,
            format!("the root certificate expired on {end}"),
            remedy,
        ));
    }
    expiry_step(start, end, now)?;
    let text = format!("the root certificate expires in {}", words::span(left));
    Some(finding(Level::Warning, text, remedy))
}

fn sidecars(snapshot: &Snapshot) -> Vec<Finding> {
    let mut all = Vec::new();
    let named = |wanted: &dyn Fn(&Pod) -> bool| {
        let pods = snapshot.app_pods().filter(|pod| pod.is_alive() && wanted(pod));
        pods.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect::<Vec<_>>()
    };
    let lacking = named(&|pod| pod.lacks_sidecar());
    if !lacking.is_empty() {
        all.push(finding(
            Level::Error,
            format!("{} without sidecar: {}", words::count(lacking.len(), "pod"), some(&lacking)),
            "restart their workloads (kubectl rollout restart); if the next pods lack it too, run `daprctl check`",
        ));
    }
    let down = named(&|pod| {
        pod.sidecar().is_some_and(|s| !s.is_ready && (s.restarts > 0 || s.waiting.is_some()))
    });
    if !down.is_empty() {
        all.push(finding(
            Level::Error,
            format!("{} not ready: {}", words::count(down.len(), "sidecar"), some(&down)),
            "kubectl logs POD -c daprd: the last lines say why, often a component that cannot be loaded",
        ));
    }
    let ours = snapshot.version().and_then(minor);
    let old = named(&|pod| {
        pod.sidecar().is_some()
            && minor(pod.version()).zip(ours).is_some_and(|(its, ours)| its < ours)
    });
    if !old.is_empty() {
        all.push(finding(
            Level::Warning,
            format!(
                "{} older than the control plane: {}",
                words::count(old.len(), "sidecar"),
                some(&old)
            ),
            "restart their workloads: new pods get the sidecar of the installed version",
        ));
    }
    all
}

/// Warnings of the operator about objects that exist.
fn resources(snapshot: &Snapshot) -> Vec<Finding> {
    let mut all = Vec::new();
    for (kind, watched) in &snapshot.resources {
        for resource in watched.iter() {
            let about = |event: &&Arc<Event>| {
                event.is_warning && event.is_about(kind.name(), &resource.namespace, &resource.name)
            };
            for event in snapshot.events.iter().filter(about) {
                let name = format!("{} {}/{}", kind.name(), resource.namespace, resource.name);
                let remedy = "correct the object; the Event disappears within an hour";
                all.push(finding(Level::Warning, format!("{name}: {}", event.note), remedy));
            }
        }
    }
    all
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod of the control plane.
    fn pod(service: &str, is_ready: bool) -> Value {
        json!({
            "metadata": {"namespace": "dapr-system", "name": format!("{service}-0"),
                "labels": {"app": service, "app.kubernetes.io/part-of": "dapr"}},
            "spec": {"containers": [{"name": service, "image": "dapr:1.18.3"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": service, "ready": is_ready}]},
        })
    }

    fn found(ready: &[(&str, bool)]) -> Vec<String> {
        let pods = ready.iter().map(|(service, is_ready)| pod(service, *is_ready));
        let found = findings(&Snapshot::of_pods(pods), Timestamp::UNIX_EPOCH);
        found.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_service_without_a_ready_pod_needs_attention() {
        let all = SERVICES.map(|(service, _)| (service, true));
        assert_eq!(found(&all), [""; 0]);
        for lost in 0..all.len() {
            let mut all = all;
            all[lost].1 = false;
            assert_eq!(found(&all), [format!("{} is not ready", all[lost].0)]);
        }
    }

    #[test]
    fn placement_and_the_scheduler_may_be_absent() {
        let all = SERVICES.map(|(service, _)| (service, true));
        assert_eq!(found(&all[..3]), [""; 0]);
        assert_eq!(found(&all[1..]), ["no pod of dapr-operator in dapr-system"]);
    }
}
