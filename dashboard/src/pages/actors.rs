//! Actor types and the applications that host them, from placement's tables.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Site;
use super::parts::{Filter, hint, table};
use crate::html::{Html, leaf, text};
use crate::model::Snapshot;
use crate::peers::answers::{PLACEMENT_STATE, PlacementState, json};
use crate::peers::{Answer, AskError, Question};

/// Health port of placement, which serves the tables (Dapr 1.18, chart).
const HEALTH_PORT: u16 = 8080;
/// Replicas that are asked; one of them leads.
const MAX_ASKED: usize = 9;
/// Status of a placement that does not serve its tables.
const NOT_FOUND: u16 = 404;

/// A host of an actor type.
#[derive(Debug, Serialize)]
struct HostRow {
    namespace: String,
    actor_type: String,
    app_id: String,
    /// Pod of that address; empty if unknown.
    pod: String,
    address: String,
    /// Average share of the actors of this type that it hosts, in percent.
    share: f64,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct Actors {
    filter: Filter,
    hosts: Vec<HostRow>,
    /// Version of each namespace's table.
    versions: BTreeMap<String, u64>,
    /// Why there are no tables.
    error: Option<String>,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// The questions of this page.
pub(crate) fn questions(snapshot: &Snapshot) -> Vec<Question> {
    let ask = |address| Question { address, port: HEALTH_PORT, path: PLACEMENT_STATE };
    snapshot.ready_addresses("dapr-placement-server").take(MAX_ASKED).map(ask).collect()
}

/// Builds the view model from the answers.
pub(crate) fn view(snapshot: &Snapshot, answers: &[Answer], filter: Filter) -> Actors {
    let mut bodies = answers.iter().flatten();
    let state = bodies.find_map(|body| json::<Option<PlacementState>>(body)?);
    let error = state.is_none().then(|| why_not(answers));
    let mut state = state.unwrap_or_default();
    state.tables.retain(|namespace, _| snapshot.shows_namespace(namespace));
    let addresses: BTreeMap<String, &str> = snapshot
        .app_pods()
        .filter_map(|pod| Some((pod.address?.to_string(), pod.name.as_str())))
        .collect();
    let mut hosts = Vec::new();
    for (namespace, table) in &state.tables {
        let mut of_type = BTreeMap::<&str, u32>::new();
        for entity in table.hosts.iter().flat_map(|host| &host.entities) {
            *of_type.entry(entity).or_default() += 1;
        }
        for host in &table.hosts {
            let address = host.name.rsplit_once(':').map_or(host.name.as_str(), |(ip, _)| ip);
            let address = address.trim_matches(['[', ']']);
            let pod = addresses.get(address).copied().unwrap_or_default();
            for entity in &host.entities {
                if filter.admits(namespace, &[entity, &host.id, pod]) {
                    let hosts_of_type = of_type.get(entity.as_str()).copied().unwrap_or(1);
                    hosts.push(HostRow {
                        namespace: namespace.clone(),
                        actor_type: entity.clone(),
                        app_id: host.id.clone(),
                        pod: pod.to_owned(),
                        address: host.name.clone(),
                        share: 100.0 / f64::from(hosts_of_type),
                    });
                }
            }
        }
    }
    hosts.sort_by(|a, b| {
        let key = |row: &HostRow| (row.namespace.clone(), row.actor_type.clone(), row.pod.clone());
        key(a).cmp(&key(b))
    });
    let versions = state.tables.iter().map(|(name, table)| (name.clone(), table.version)).collect();
    let namespaces = state.tables.into_keys().collect();
    Actors { filter, hosts, versions, error, namespaces }
}

fn why_not(answers: &[Answer]) -> String {
    let closed =
        |answer: &Answer| matches!(answer, Err(AskError::Status { status: NOT_FOUND, .. }));
    if answers.is_empty() {
        "No pod of placement is ready. Applications without actors and workflows do not need it."
            .to_owned()
    } else if answers.iter().any(closed) {
        "Placement does not serve its tables: set the chart value dapr_placement.metadataEnabled=true.".to_owned()
    } else if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        format!("Placement cannot be asked: {error}")
    } else {
        "No replica of placement leads at present.".to_owned()
    }
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &Actors) -> Html {
    if let Some(error) = &view.error {
        return hint(error);
    }
    let rows = view.hosts.iter().map(|row| {
        vec![
            text(&row.actor_type),
            text(&row.namespace),
            site.app(&row.namespace, &row.app_id),
            text(if row.pod.is_empty() { &row.address } else { &row.pod }),
            text(format!("{:.0} %", row.share)),
        ]
    });
    let headings = ["Actor type", "Namespace", "App id", "Pod", "Share"];
    let table = table("Actor hosts", &headings, rows, "No application hosts actors.");
    let versions = view.versions.iter().map(|(name, version)| format!("{name}: {version}"));
    let versions = format!("Versions of the tables: {}", versions.collect::<Vec<_>>().join(", "));
    let form = view.filter.form(view.namespaces.iter().map(String::as_str));
    [form, table, leaf("p", versions)].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_so_many_pods_of_placement_are_asked() {
        let asked = |number: usize| {
            let pods = (0..number).map(|index| {
                json!({
                    "metadata": {"namespace": "dapr-system", "name": format!("placement-{index}"),
                        "labels": {"app": "dapr-placement-server"}},
                    "status": {"podIP": "10.0.0.1", "phase": "Running"},
                })
            });
            questions(&Snapshot::of_pods(pods)).len()
        };
        assert_eq!(asked(MAX_ASKED), MAX_ASKED);
        assert_eq!(asked(MAX_ASKED + 1), MAX_ASKED);
    }
}
