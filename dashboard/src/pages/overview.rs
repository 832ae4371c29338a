//! The first page: installation, workloads, findings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use resources::names;
use serde::Serialize;
use serde_json::Value;

use super::certificates::{self, CertificateRow};
use super::control_plane::{self, ServiceRow};
use super::findings::{self, Finding};
use super::parts::{Level, badge, facts, readiness, section, table};
use super::{Site, apps, words};
use crate::html::{Html, el, leaf, link, text};
use crate::model::Snapshot;
use crate::model::kind::Kind;

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    /// Version of the control plane.
    version: Option<String>,
    services: Vec<ServiceRow>,
    /// Whether sidecars use mTLS, as the Configuration of the control plane says; `None` without one.
    mtls: Option<bool>,
    /// The root certificate; `None` without a trust bundle.
    root: Option<CertificateRow>,
    /// Applications, by namespace and app id.
    apps: usize,
    sidecars_ready: usize,
    sidecars: usize,
    /// Sidecars by version.
    versions: BTreeMap<String, usize>,
    /// Objects by kind.
    resources: BTreeMap<&'static str, usize>,
    findings: Vec<Finding>,
}

/// Builds the view model.
pub(crate) fn view(snapshot: &Snapshot, now: Timestamp) -> Overview {
    let mut versions = BTreeMap::<String, usize>::new();
    let (mut ready, mut sidecars) = (0, 0);
    for pod in snapshot.app_pods().filter(|pod| pod.is_alive()) {
        if let Some(sidecar) = pod.sidecar() {
            sidecars += 1;
            ready += usize::from(sidecar.is_ready);
            *versions.entry(pod.version().to_owned()).or_default() += 1;
        }
    }
    let resources = Kind::ALL.map(|kind| (kind.plural(), snapshot.kind(kind).count()));
    Overview {
        version: snapshot.version().map(str::to_owned),
        services: control_plane::services(snapshot, now),
        mtls: mtls(snapshot),
        root: certificates::root(snapshot, now),
        apps: apps::count(snapshot),
        sidecars_ready: ready,
        sidecars,
        versions,
        resources: resources.into_iter().collect(),
        findings: findings::findings(snapshot, now),
    }
}

fn mtls(snapshot: &Snapshot) -> Option<bool> {
    let all = snapshot.resources.get(&Kind::Configuration)?;
    let own = all.find(&snapshot.namespace, names::CONTROL_PLANE_CONFIGURATION)?;
    own.object.pointer("/spec/mtls/enabled").and_then(Value::as_bool)
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &Overview) -> Html {
    let versions: Vec<_> =
        view.versions.iter().map(|(version, number)| format!("{version} × {number}")).collect();
    let apps = link(&site.path(["apps"]), words::count(view.apps, "application"));
    let mtls = match view.mtls {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    };
    let root = view.root.as_ref().map_or_else(|| text("unknown"), CertificateRow::badge);
    let certificates = link(&site.path(["certificates"]), "certificates");
    let summary = facts([
        ("Control plane", text(view.version.as_deref().unwrap_or("not found"))),
        ("Applications", apps),
        ("Sidecars", readiness(view.sidecars_ready, view.sidecars)),
        ("Versions of sidecars", text(versions.join(", "))),
        ("mTLS", text(mtls)),
        ("Root", [root, text(" "), certificates].into_iter().collect()),
    ]);
    let attention = if view.findings.is_empty() {
        el("p", &[], [badge(Level::Ok, "Nothing needs attention")])
    } else {
        let items = view.findings.iter().map(|finding| {
            let words = if finding.level == Level::Error { "Error" } else { "Warning" };
            let parts = [
                badge(finding.level, words),
                text(" "),
                text(&finding.text),
                el("p", &[("class", "remedy")], [text(&finding.remedy)]),
            ];
            el("li", &[], parts)
        });
        el("ul", &[("class", "findings")], items)
    };
    let kinds = Kind::ALL.into_iter().filter_map(|kind| {
        let number = *view.resources.get(kind.plural())?;
        Some(vec![link(&site.path([kind.plural()]), kind.title()), text(number.to_string())])
    });
    let kinds = table("Resources", &["Kind", "Objects"], kinds, "");
    [
        summary,
        section("Needs attention", attention),
        section("Control plane", control_plane::service_table(&view.services)),
        section("Resources", kinds),
        leaf("p", "This page changes nothing in the cluster and shows no secret values."),
    ]
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::model::Watched;
    use crate::model::resource::Resource;

    #[rstest]
    #[case("dapr-system", "daprsystem", json!({"mtls": {"enabled": true}}), Some(true))]
    #[case("dapr-system", "daprsystem", json!({"mtls": {"enabled": false}}), Some(false))]
    #[case("dapr-system", "daprsystem", json!({}), None)]
    #[case("dapr-system", "other", json!({"mtls": {"enabled": false}}), None)]
    #[case("shop", "daprsystem", json!({"mtls": {"enabled": false}}), None)]
    fn mtls_is_that_of_the_control_planes_configuration(
        #[case] namespace: &str,
        #[case] name: &str,
        #[case] spec: Value,
        #[case] want: Option<bool>,
    ) {
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        let kind = Kind::Configuration;
        let key = (namespace.to_owned(), name.to_owned());
        let all = Watched::of([(key, Resource::read(kind, &object))], None);
        let snapshot =
            Snapshot { resources: BTreeMap::from([(kind, all)]), ..Snapshot::of_pods([]) };
        assert_eq!(view(&snapshot, Timestamp::UNIX_EPOCH).mtls, want);
    }
}
