//! Objects of `dapr.io`: the list of a kind, and one object.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::parts::{
    EventRow, Filter, Level, badge, event_table, events, facts, notice, section, table,
};
use super::sidecars::{self, Subject};
use super::{Site, words};
use crate::html::{Html, el, text};
use crate::model::kind::Kind;
use crate::model::metadata::Metadata;
use crate::model::resource::Resource;
use crate::model::{Mode, Snapshot};
use crate::peers::answers::json;
use crate::peers::{Answer, Question};

/// Applications whose sidecars are asked for one page.
const MAX_ASKED: usize = 64;

/// An object.
#[derive(Debug, Serialize)]
struct ResourceRow {
    namespace: String,
    name: String,
    summary: String,
    /// App ids; empty for every application of the namespace.
    scopes: Vec<String>,
    warnings: usize,
    age: String,
}

/// The objects of a kind.
#[derive(Debug, Serialize)]
pub(crate) struct ResourceList {
    kind: Kind,
    filter: Filter,
    resources: Vec<ResourceRow>,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// Builds the view model of the list.
pub(crate) fn list(
    snapshot: &Snapshot,
    kind: Kind,
    filter: Filter,
    now: Timestamp,
) -> ResourceList {
    let mut namespaces = BTreeSet::new();
    let mut warnings = BTreeMap::<(&str, &str), usize>::new();
    for event in snapshot.events.iter().filter(|e| e.is_warning && e.kind == kind.name()) {
        *warnings.entry((&event.namespace, &event.name)).or_default() += 1;
    }
    let mut rows = Vec::new();
    for resource in snapshot.kind(kind) {
        namespaces.insert(resource.namespace.clone());
        if filter.admits(&resource.namespace, &[&resource.name, &resource.summary]) {
            let key = (resource.namespace.as_str(), resource.name.as_str());
            rows.push(ResourceRow {
                namespace: resource.namespace.clone(),
                name: resource.name.clone(),
                summary: resource.summary.clone(),
                scopes: resource.scopes.clone(),
                warnings: warnings.get(&key).copied().unwrap_or_default(),
                age: words::age(resource.created, now),
            });
        }
    }
    ResourceList { kind, filter, resources: rows, namespaces }
}

/// The page of the list.
pub(crate) fn render_list(site: &Site<'_>, view: &ResourceList) -> Html {
    let rows = view.resources.iter().map(|row| {
        let state = match row.warnings {
            0 => badge(Level::Ok, "no warnings"),
            number => badge(Level::Warning, &words::count(number, "warning")),
        };
        let scopes = if row.scopes.is_empty() { "all".to_owned() } else { row.scopes.join(", ") };
        vec![
            site.resource(view.kind, &row.namespace, &row.name),
            text(&row.namespace),
            text(&row.summary),
            text(scopes),
            state,
            text(&row.age),
        ]
    });
    let headings = ["Name", "Namespace", "What", "Scopes", "State", "Age"];
    let remedy = match site.snapshot.mode {
        Mode::Kubernetes => "Apply one with kubectl; it appears here at once.",
        Mode::SelfHosted => {
            "Objects are read from ~/.dapr, and from the --resources-path and --config of running sidecars."
        }
    };
    let empty = format!("No {} matches. {remedy}", view.kind.name());
    let table = table(view.kind.title(), &headings, rows, &empty);
    [view.filter.form(view.namespaces.iter().map(String::as_str)), table].into_iter().collect()
}

/// An application that an object is for.
#[derive(Debug, Serialize)]
struct UserRow {
    app_id: String,
    /// Whether its sidecar loaded the object; `None` if unknown.
    loaded: Option<bool>,
    /// Why that is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// One object.
#[derive(Debug, Serialize)]
pub(crate) struct OneResource {
    kind: Kind,
    namespace: String,
    name: String,
    summary: String,
    age: String,
    used_by: Vec<UserRow>,
    /// App ids in its scopes without a pod.
    unknown_scopes: Vec<String>,
    events: Vec<EventRow>,
    /// The redacted object.
    object: Value,
}

/// The applications that use an object, with the question to one sidecar each.
fn users<'a>(snapshot: &'a Snapshot, resource: &Resource) -> BTreeMap<&'a str, Option<Question>> {
    let mut users = BTreeMap::new();
    for pod in snapshot.app_pods() {
        let is_user = match resource.kind {
            Kind::Configuration => pod.configuration() == Some(&resource.name),
            _ => resource.applies_to(pod.app_id()),
        };
        if is_user && pod.namespace == resource.namespace && pod.is_alive() {
            let ready = pod.sidecar().is_some_and(|sidecar| sidecar.is_ready);
            let asked = users.entry(pod.app_id()).or_insert(None);
            if asked.is_none() && ready {
                *asked = sidecars::question(pod, Subject::Metadata);
            }
        }
    }
    users
}

/// The questions of this page, by app id: only Components and HTTPEndpoints are in a
/// sidecar's metadata.
pub(crate) fn questions(
    snapshot: &Snapshot,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Vec<(String, Question)> {
    if !matches!(kind, Kind::Component | Kind::HttpEndpoint) {
        return Vec::new();
    }
    let found = snapshot.resources.get(&kind).and_then(|all| all.find(namespace, name));
    let users = found.map(|resource| users(snapshot, resource)).unwrap_or_default();
    let asked = users.into_iter().filter_map(|(app_id, asked)| Some((app_id.to_owned(), asked?)));
    asked.take(MAX_ASKED).collect()
}

/// Builds the view model of one object; `None` if it does not exist.
pub(crate) fn one(
    snapshot: &Snapshot,
    (kind, namespace, name): (Kind, &str, &str),
    answers: &BTreeMap<String, Answer>,
    now: Timestamp,
) -> Option<OneResource> {
    let resource = snapshot.resources.get(&kind)?.find(namespace, name)?;
    let users = users(snapshot, resource);
    let used_by = users.keys().map(|app_id| {
        let (loaded, error) = match answers.get(*app_id) {
            None => (None, None),
            Some(Err(error)) => (None, Some(error.to_string())),
            Some(Ok(body)) => match json::<Metadata>(body) {
                Some(said) if kind == Kind::Component => {
                    (Some(said.components.iter().any(|c| c.name == name)), None)
                }
                Some(said) => (Some(said.http_endpoints.iter().any(|e| e.name == name)), None),
                None => (None, Some("the answer is no metadata of a sidecar".to_owned())),
            },
        };
        UserRow { app_id: (*app_id).to_owned(), loaded, error }
    });
    let unknown = resource.scopes.iter().filter(|scope| !users.contains_key(scope.as_str()));
    Some(OneResource {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        summary: resource.summary.clone(),
        age: words::age(resource.created, now),
        used_by: used_by.collect(),
        unknown_scopes: unknown.cloned().collect(),
        events: events(snapshot, now, |event| event.is_about(kind.name(), namespace, name)),
        object: resource.object.clone(),
    })
}

/// The page of one object.
pub(crate) fn render_one(site: &Site<'_>, view: &OneResource) -> Html {
    let summary = facts([
        ("Namespace", text(&view.namespace)),
        ("What", text(&view.summary)),
        ("Age", text(&view.age)),
    ]);
    let users = view.used_by.iter().map(|row| {
        let loaded = match (row.loaded, &row.error) {
            (Some(true), _) => badge(Level::Ok, "loaded"),
            (Some(false), _) => badge(Level::Error, "not loaded"),
            (None, Some(error)) => text(error),
            (None, None) => text("unknown"),
        };
        vec![site.app(&view.namespace, &row.app_id), loaded]
    });
    let empty = "No running application uses it.";
    let users = table("Used by", &["App id", "In the sidecar"], users, empty);
    let unknown = (!view.unknown_scopes.is_empty()).then(|| {
        let words = format!("No pod has app id {}.", view.unknown_scopes.join(", "));
        notice(words)
    });
    let yaml = serde_saphyr::to_string(&view.object).unwrap_or_else(|error| error.to_string());
    let hint = "Values that are or may be secret are hidden; annotations and status are left out.";
    [
        Some(summary),
        Some(section("Used by", users)),
        unknown,
        Some(section("Events", event_table(&view.events))),
        Some(section(
            "Object",
            [el("p", &[], [text(hint)]), el("pre", &[("tabindex", "0")], [text(yaml)])]
                .into_iter()
                .collect(),
        )),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_number_of_applications_that_are_asked_is_limited() {
        let asked = |number: usize| {
            let mut snapshot = Snapshot::of_pods((0..number).map(|index| {
                json!({
                    "metadata": {"namespace": "shop", "name": format!("app-{index}"),
                        "annotations": {"dapr.io/enabled": "true"}},
                    "status": {"podIP": "10.0.0.1", "phase": "Running",
                        "containerStatuses": [{"name": "daprd", "image": "daprd:1", "ready": true}]},
                    "spec": {"containers": [{"name": "daprd", "image": "daprd:1"}]},
                })
            }));
            let store = json!({"metadata": {"namespace": "shop", "name": "store"}});
            let key = ("shop".to_owned(), "store".to_owned());
            let store = [(key, Resource::read(Kind::Component, &store))].into_iter().collect();
            snapshot.resources.insert(Kind::Component, store);
            questions(&snapshot, Kind::Component, "shop", "store").len()
        };
        assert_eq!(asked(MAX_ASKED), MAX_ASKED);
        assert_eq!(asked(MAX_ASKED + 1), MAX_ASKED);
    }
}
