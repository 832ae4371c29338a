//! The applications: every workload with a sidecar.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use resources::annotations::ANNOTATION_APP_PROTOCOL;
use serde::Serialize;

use super::parts::{Filter, Level, badge, readiness, table};
use super::sidecars::App;
use super::{Site, words};
use crate::html::{Html, text};
use crate::model::pod::{Owner, Pod};
use crate::model::{Mode, Snapshot};
use crate::peers::Answer;
use crate::peers::answers::{Metadata, json};

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
    /// Pods with a sidecar.
    sidecars: usize,
    /// Sidecars that use mTLS.
    mtls: usize,
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

/// Builds the view model. A process has no image whose tag is the version of the sidecar: `metadata`
/// has it, of one sidecar of each application.
pub(crate) fn view(
    snapshot: &Snapshot,
    metadata: &BTreeMap<App, Answer>,
    filter: Filter,
    now: Timestamp,
) -> AppList {
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
        let own = metadata.get(&(namespace.to_owned(), app_id.to_owned()));
        let said = own.and_then(|answer| json::<Metadata>(answer.as_ref().ok()?));
        let said = said.map(|said| said.runtime_version);
        let versions =
            versions.map(str::to_owned).chain(said).filter(|version| !version.is_empty());
        let protocol = pods.iter().find_map(|pod| pod.annotations.get(ANNOTATION_APP_PROTOCOL));
        AppRow {
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
            workload: owner.clone(),
            ready: pods.iter().filter(|pod| pod.is_ready()).count(),
            pods: pods.len(),
            without_sidecar: pods.iter().filter(|pod| pod.lacks_sidecar()).count(),
            versions: versions.collect::<BTreeSet<_>>().into_iter().collect(),
            protocol: protocol.map_or("http", String::as_str).to_owned(),
            sidecars: pods.iter().filter(|pod| pod.sidecar().is_some()).count(),
            mtls: pods.iter().filter(|pod| pod.arguments.has_mtls).count(),
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
            mtls(row.mtls, row.sidecars),
            text(&row.age),
        ]
    });
    let (pods, remedy) = match site.snapshot.mode {
        Mode::Kubernetes => (
            "Pods",
            "An application gets a sidecar by the annotations dapr.io/enabled: \"true\" and dapr.io/app-id on its pod template.",
        ),
        Mode::SelfHosted => {
            ("Processes", "dapr run --app-id NAME -- PROGRAM starts one with its sidecar.")
        }
    };
    let headings = ["App id", "Namespace", "Workload", pods, "Sidecar", "Protocol", "mTLS", "Age"];
    let empty = &format!("No application matches. {remedy}");
    let table = table("Applications", &headings, rows, empty);
    [view.filter.form(view.namespaces.iter().map(String::as_str)), table].into_iter().collect()
}

/// Whether calls between the sidecars of an application and others are encrypted. A part of them
/// cannot talk to the rest.
fn mtls(with: usize, of: usize) -> Html {
    match with {
        _ if of == 0 => text("–"),
        0 => text("off"),
        with if with == of => text("on"),
        with => badge(Level::Warning, &format!("on in {with} of {of}")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_version_of_a_process_is_what_its_sidecar_says() {
        let versions = |image: &str, said: Option<&'static str>| {
            let pod = json!({"metadata": {"namespace": "shop", "name": "cart-0",
                "annotations": {"dapr.io/app-id": "cart"}},
                "spec": {"containers": [{"name": "daprd", "image": image}]}});
            let app = ("shop".to_owned(), "cart".to_owned());
            let said = said.map(|said| (app, Ok(Bytes::from_static(said.as_bytes()))));
            let snapshot = Snapshot::of_pods([pod]);
            let said = said.into_iter().collect();
            let list = view(&snapshot, &said, Filter::default(), Timestamp::UNIX_EPOCH);
            list.apps.into_iter().flat_map(|app| app.versions).collect::<Vec<_>>()
        };
        assert_eq!(versions("", Some(r#"{"runtimeVersion":"1.18.3"}"#)), ["1.18.3"]);
        assert_eq!(versions("daprd:1.17.0", None), ["1.17.0"]);
        assert!(versions("", Some("no JSON")).is_empty());
        assert!(versions("", None).is_empty());
    }

    #[rstest]
    #[case("", "–")]
    #[case("--enable-mtls --enable-mtls", "on")]
    #[case("--mode --enable-mtls=false", "off")]
    #[case("--enable-mtls --mode", "on in 1 of 2")]
    fn mtls_is_that_of_the_sidecars(#[case] flags: &str, #[case] want: &str) {
        let sidecars = flags.split_whitespace().enumerate().map(|(number, flag)| {
            json!({"metadata": {"namespace": "shop", "name": format!("cart-{number}"),
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cart"},
                "ownerReferences": [{"kind": "StatefulSet", "name": "cart", "controller": true}]},
                "spec": {"containers": [{"name": "daprd", "image": "d:1", "args": [flag]}]}})
        });
        let without = json!({"metadata": {"namespace": "shop", "name": "cart-9",
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cart"},
            "ownerReferences": [{"kind": "StatefulSet", "name": "cart", "controller": true}]}});
        let snapshot = Snapshot::of_pods(sidecars.chain([without]));
        let list = view(&snapshot, &BTreeMap::new(), Filter::default(), Timestamp::UNIX_EPOCH);
        let page = render(&Site::new("", &snapshot), &list).into_document();
        assert!(page.contains(&format!(">{want}<")), "{page}");
    }
}
