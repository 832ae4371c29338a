//! The applications: every workload with a sidecar.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use resources::annotations::ANNOTATION_APP_PROTOCOL;
use serde::Serialize;

use super::parts::{Filter, Level, badge, readiness, table};
use super::{Site, words};
use crate::html::{Html, text};
use crate::model::Snapshot;
use crate::model::pod::{Owner, Pod};

/// An application of one workload. Two workloads may share an app id during a migration.
#[derive(Debug, Serialize)]
struct AppRow {
    namespace: String,
    app_id: String,
    workload: Owner,
    /// Pods of which each container is ready.
    ready: usize,
    pods: usize,
    /// Pods that ask for a sidecar and have none.
    without_sidecar: usize,
    /// Versions of the sidecars.
    versions: Vec<String>,
    protocol: String,
    /// Age of the youngest pod.
    age: String,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct AppList {
    filter: Filter,
    apps: Vec<AppRow>,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// Number of applications.
pub(crate) fn count(snapshot: &Snapshot) -> usize {
    let alive = snapshot.app_pods().filter(|pod| pod.is_alive());
    alive.map(|pod| (&pod.namespace, pod.app_id())).collect::<BTreeSet<_>>().len()
}

/// Builds the view model.
pub(crate) fn view(snapshot: &Snapshot, filter: Filter, now: Timestamp) -> AppList {
    let mut apps = BTreeMap::<(&str, &str, &Owner), Vec<&Pod>>::new();
    let mut namespaces = BTreeSet::new();
    for pod in snapshot.app_pods().filter(|pod| pod.is_alive()) {
        namespaces.insert(pod.namespace.clone());
        let texts = [pod.app_id(), &pod.owner.name, &pod.owner.kind, pod.version()];
        if filter.admits(&pod.namespace, &texts) {
            let key = (pod.namespace.as_str(), pod.app_id(), &pod.owner);
            apps.entry(key).or_default().push(pod);
        }
    }
    let apps = apps.into_iter().map(|((namespace, app_id, owner), pods)| {
        let versions = pods.iter().filter(|pod| pod.sidecar().is_some()).map(|pod| pod.version());
        let protocol = pods.iter().find_map(|pod| pod.annotations.get(ANNOTATION_APP_PROTOCOL));
        AppRow {
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
            workload: owner.clone(),
            ready: pods.iter().filter(|pod| pod.is_ready()).count(),
            pods: pods.len(),
            without_sidecar: pods.iter().filter(|pod| pod.lacks_sidecar()).count(),
            versions: versions.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect(),
            protocol: protocol.map_or("http", String::as_str).to_owned(),
            age: words::age(pods.iter().filter_map(|pod| pod.created).max(), now),
        }
    });
    AppList { apps: apps.collect(), filter, namespaces }
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &AppList) -> Html {
    let rows = view.apps.iter().map(|row| {
        let version = if row.without_sidecar > 0 {
            badge(Level::Error, &format!("{} without sidecar", row.without_sidecar))
        } else {
            text(row.versions.join(", "))
        };
        vec![
            site.app(&row.namespace, &row.app_id),
            text(&row.namespace),
            text(format!("{} {}", row.workload.kind, row.workload.name)),
            readiness(row.ready, row.pods),
            version,
            text(&row.protocol),
            text(&row.age),
        ]
    });
    let headings = ["App id", "Namespace", "Workload", "Pods", "Sidecar", "Protocol", "Age"];
    let empty = "No application matches. An application gets a sidecar by the annotations dapr.io/enabled: \"true\" and dapr.io/app-id on its pod template.";
    let table = table("Applications", &headings, rows, empty);
    [view.filter.form(view.namespaces.iter().map(String::as_str)), table].into_iter().collect()
}
