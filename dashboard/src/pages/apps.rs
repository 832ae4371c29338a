//! The applications: every workload with a sidecar.

mod order;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use resources::annotations::ANNOTATION_APP_PROTOCOL;
use resources::images::minor;
use serde::Serialize;

use self::order::Column;
pub(crate) use self::order::Order;
use super::parts::{Filter, Level, badge, headed_table, readiness};
use super::sidecars::App;
use super::{Site, words};
use crate::html::{Html, text};
use crate::model::metadata::Metadata;
use crate::model::pod::{Owner, Pod};
use crate::model::{Mode, Snapshot};
use crate::peers::Answer;
use crate::peers::answers::json;

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
    #[serde(skip)]
    created: Option<Timestamp>,
}

impl AppRow {
    /// Compares two rows by a column. Those that are equal in it keep the order of namespaces, app
    /// ids and workloads.
    fn compare(&self, other: &Self, column: Column) -> Ordering {
        let version = |row: &Self| {
            let first = row.versions.first().map(String::as_str).unwrap_or_default();
            (row.without_sidecar == 0, minor(first), first.to_owned())
        };
        match column {
            Column::AppId => self.app_id.cmp(&other.app_id),
            Column::Namespace => self.namespace.cmp(&other.namespace),
            Column::Workload => self.workload.cmp(&other.workload),
            Column::Pods => {
                let missing = |row: &Self| row.pods - row.ready;
                missing(other).cmp(&missing(self)).then(other.pods.cmp(&self.pods))
            }
            Column::Sidecar => version(self).cmp(&version(other)),
            Column::Protocol => self.protocol.cmp(&other.protocol),
            Column::Mtls => {
                let without = |row: &Self| row.sidecars.saturating_sub(row.mtls);
                without(other).cmp(&without(self))
            }
            Column::Age => other.created.cmp(&self.created),
        }
    }
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct AppList {
    filter: Filter,
    sort: Order,
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
    (filter, sort): (Filter, Order),
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
        let youngest = pods.iter().filter_map(|pod| pod.created).max();
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
            age: words::age(youngest, now),
            created: youngest,
        }
    });
    let mut apps: Vec<_> = apps.collect();
    apps.sort_by(|a, b| {
        let ordering = a.compare(b, sort.column);
        if sort.is_descending { ordering.reverse() } else { ordering }
    });
    AppList { filter, sort, apps, namespaces }
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
    let titles = ["App id", "Namespace", "Workload", pods, "Sidecar", "Protocol", "mTLS", "Age"];
    let headings = Column::ALL.into_iter().zip(titles);
    let headings = headings.map(|(column, title)| view.sort.heading(column, title, &view.filter));
    let empty = &format!("No application matches. {remedy}");
    let table = headed_table("Applications", headings, rows, empty);
    let sort = view.sort.value();
    let kept = (view.sort != Order::default()).then_some((order::PARAMETER, sort.as_str()));
    let form = view.filter.form_with(view.namespaces.iter().map(String::as_str), kept);
    [form, table].into_iter().collect()
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
            let list = view(
                &snapshot,
                &said,
                (Filter::default(), Order::default()),
                Timestamp::UNIX_EPOCH,
            );
            list.apps.into_iter().flat_map(|app| app.versions).collect::<Vec<_>>()
        };
        assert_eq!(versions("", Some(r#"{"runtimeVersion":"1.18.3"}"#)), ["1.18.3"]);
        assert_eq!(versions("daprd:1.17.0", None), ["1.17.0"]);
        assert!(versions("", Some("no JSON")).is_empty());
        assert!(versions("", None).is_empty());
    }

    /// Three applications that differ in every column.
    fn three() -> Snapshot {
        let pod = |namespace: &str,
                   app: &str,
                   kind: &str,
                   version: &str,
                   flag: &str,
                   age: &str,
                   ready: bool| {
            json!({"metadata": {"namespace": namespace, "name": app, "creationTimestamp": age,
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app,
                    "dapr.io/app-protocol": format!("{app}-protocol")},
                "ownerReferences": [{"kind": kind, "name": app, "controller": true}]},
                "spec": {"containers": [
                    {"name": "daprd", "image": format!("d:{version}"), "args": [flag]}]},
                "status": {"phase": "Running",
                    "containerStatuses": [{"name": "daprd", "ready": ready}]}})
        };
        Snapshot::of_pods([
            pod("x", "b", "StatefulSet", "1.18.3", "--enable-mtls", "2026-01-03T00:00:00Z", true),
            pod("y", "a", "Job", "1.9.0", "--enable-mtls", "2026-01-01T00:00:00Z", false),
            pod("z", "c", "DaemonSet", "1.17.0", "--x", "2026-01-02T00:00:00Z", true),
        ])
    }

    #[rstest]
    #[case("", "b a c")]
    #[case("-namespace", "c a b")]
    #[case("app", "a b c")]
    #[case("-app", "c b a")]
    #[case("workload", "c a b")]
    #[case("pods", "a b c")]
    #[case("sidecar", "a c b")]
    #[case("-sidecar", "b c a")]
    #[case("protocol", "a b c")]
    #[case("mtls", "c b a")]
    #[case("age", "b c a")]
    #[case("-age", "a c b")]
    fn the_list_is_sorted_by_a_column(#[case] sort: &str, #[case] want: &str) {
        let choice = (Filter::default(), Order::parse(&format!("sort={sort}")));
        let list = view(&three(), &BTreeMap::new(), choice, Timestamp::UNIX_EPOCH);
        let apps: Vec<_> = list.apps.iter().map(|row| row.app_id.as_str()).collect();
        assert_eq!(apps.join(" "), want);
    }

    #[test]
    fn a_filter_keeps_the_order() {
        let page = |query: &str| {
            let choice = (Filter::default(), Order::parse(query));
            let snapshot = three();
            let list = view(&snapshot, &BTreeMap::new(), choice, Timestamp::UNIX_EPOCH);
            render(&Site::new("", &snapshot), &list).into_document()
        };
        let kept = "<input type=\"hidden\" name=\"sort\" value=\"-age\">";
        assert!(page("sort=-age").contains(kept));
        assert!(!page("").contains("type=\"hidden\""));
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
        let list = view(
            &snapshot,
            &BTreeMap::new(),
            (Filter::default(), Order::default()),
            Timestamp::UNIX_EPOCH,
        );
        let page = render(&Site::new("", &snapshot), &list).into_document();
        assert!(page.contains(&format!(">{want}<")), "{page}");
    }
}
