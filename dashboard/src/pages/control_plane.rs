//! The services of the control plane and their pods.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::parts::{EventRow, event_table, events, readiness, section, table};
use super::{Site, words};
use crate::html::{Html, text};
use crate::model::Snapshot;

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ServiceRow {
    name: String,
    ready: usize,
    replicas: usize,
    versions: Vec<String>,
    restarts: u64,
    /// Age of the youngest pod.
    age: String,
}

/// A pod.
#[derive(Debug, Serialize)]
struct PodRow {
    name: String,
    service: String,
    phase: String,
    is_ready: bool,
    waiting: Option<String>,
    image: String,
    restarts: u64,
    age: String,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct ControlPlane {
    namespace: String,
    services: Vec<ServiceRow>,
    pods: Vec<PodRow>,
    events: Vec<EventRow>,
}

/// The services, by name.
pub(crate) fn services(snapshot: &Snapshot, now: Timestamp) -> Vec<ServiceRow> {
    let mut services = BTreeMap::<&str, Vec<_>>::new();
    for pod in snapshot.control_plane().filter(|pod| pod.is_alive()) {
        services.entry(pod.app()).or_default().push(pod);
    }
    let rows = services.into_iter().map(|(name, pods)| {
        let versions: BTreeSet<_> = pods.iter().map(|pod| pod.version().to_owned()).collect();
        let containers = pods.iter().flat_map(|pod| &pod.containers);
        ServiceRow {
            name: name.to_owned(),
            ready: pods.iter().filter(|pod| pod.is_ready()).count(),
            replicas: pods.len(),
            versions: versions.into_iter().collect(),
            restarts: containers.map(|container| container.restarts).sum(),
            age: words::age(pods.iter().filter_map(|pod| pod.created).max(), now),
        }
    });
    rows.collect()
}

/// The table of services.
pub(crate) fn service_table(services: &[ServiceRow]) -> Html {
    let rows = services.iter().map(|row| {
        vec![
            text(&row.name),
            readiness(row.ready, row.replicas),
            text(row.versions.join(", ")),
            text(row.restarts.to_string()),
            text(&row.age),
        ]
    });
    let headings = ["Service", "Pods", "Version", "Restarts", "Age"];
    let empty = "No pod of a control plane is in this namespace: install the chart, or name its namespace with --namespace.";
    table("Services of the control plane", &headings, rows, empty)
}

/// Builds the view model.
pub(crate) fn view(snapshot: &Snapshot, now: Timestamp) -> ControlPlane {
    let pods = snapshot.control_plane().map(|pod| PodRow {
        name: pod.name.clone(),
        service: pod.app().to_owned(),
        phase: if pod.is_deleting { "Terminating".to_owned() } else { pod.phase.clone() },
        is_ready: pod.is_ready(),
        waiting: pod.containers.iter().find_map(|container| container.waiting.clone()),
        image: pod.containers.first().map(|c| c.image.clone()).unwrap_or_default(),
        restarts: pod.containers.iter().map(|container| container.restarts).sum(),
        age: words::age(pod.created, now),
    });
    ControlPlane {
        namespace: snapshot.namespace.clone(),
        services: services(snapshot, now),
        pods: pods.collect(),
        events: events(snapshot, now, |event| {
            event.namespace == snapshot.namespace && event.name.starts_with("dapr-")
        }),
    }
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &ControlPlane) -> Html {
    let rows = view.pods.iter().map(|row| {
        vec![
            site.pod(&view.namespace, &row.name),
            text(row.waiting.as_deref().unwrap_or(&row.phase)),
            readiness(usize::from(row.is_ready), 1),
            text(&row.image),
            text(row.restarts.to_string()),
            text(&row.age),
        ]
    });
    let headings = ["Pod", "Phase", "Ready", "Image", "Restarts", "Age"];
    [
        service_table(&view.services),
        section("Pods", table("Pods of the control plane", &headings, rows, "There are none.")),
        section("Events", event_table(&view.events)),
    ]
    .into_iter()
    .collect()
}
