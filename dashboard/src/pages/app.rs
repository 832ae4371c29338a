//! One application: its pods, the metadata of its sidecar, the resources that apply.

mod manifest;
mod svid;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use resources::annotations::{ANNOTATION_APPLIED_DEFAULTS, ANNOTATION_CONFIG, PREFIX};
use serde::Serialize;
use serde_json::Value;

use self::svid::Svid;
use super::parts::{
    EventRow, Level, badge, event_table, events, facts, hint, readiness, section, table,
};
use super::sidecars::{self, Subject};
use super::{Site, words};
use crate::html::{Html, el, leaf, text};
use crate::model::kind::Kind;
use crate::model::metadata::Metadata;
use crate::model::pod::{Owner, Pod};
use crate::model::{Mode, Snapshot};
use crate::peers::answers::json;
use crate::peers::{Answer, Question};

/// Pods that are shown, those with a sidecar that is ready first. The page counts the others.
const MAX_PODS: usize = 100;

/// A pod.
#[derive(Debug, Serialize)]
struct PodRow {
    name: String,
    workload: Owner,
    phase: String,
    is_ready: bool,
    waiting: Option<String>,
    sidecar: Option<String>,
    /// Whether its sidecar uses mTLS.
    mtls: bool,
    restarts: u64,
    age: String,
}

/// An annotation and its origin.
#[derive(Debug, Serialize)]
struct AnnotationRow {
    name: String,
    value: String,
    /// `pod`, or `namespace` or `cluster` for a default that the injector applied.
    from: String,
}

/// An object that applies to the application.
#[derive(Debug, Serialize)]
struct ResourceRow {
    kind: Kind,
    name: String,
    summary: String,
    /// Whether the sidecar loaded it; `None` if unknown.
    loaded: Option<bool>,
}

/// The metadata of one pod's sidecar, or the reason why it is missing.
#[derive(Debug, Serialize)]
enum Said {
    #[serde(rename = "metadata")]
    Metadata(Box<Metadata>),
    #[serde(rename = "error")]
    Error(String),
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct AppView {
    namespace: String,
    app_id: String,
    service_accounts: BTreeSet<String>,
    /// Name of the Configuration in force, and whether it exists.
    configuration: Option<(String, bool)>,
    pods: Vec<PodRow>,
    /// Pods that are not shown.
    more_pods: usize,
    annotations: Vec<AnnotationRow>,
    resources: Vec<ResourceRow>,
    sidecar: Said,
    /// The certificate of the sidecar; absent without mTLS.
    svid: Option<Svid>,
    events: Vec<EventRow>,
    /// The stored part of the first pod, in the form of the API; absent without a cluster.
    manifest: Option<Value>,
}

/// What one pod's sidecar answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// `None` if no pod has a sidecar with an address.
    pub(crate) metadata: Option<Answer>,
    /// `None` without mTLS.
    pub(crate) svid: Option<Answer>,
}

/// The questions of this page, to one pod's sidecar.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    pub(crate) metadata: Option<Question>,
    pub(crate) svid: Option<Question>,
}

/// The pods of an application, sidecars that are ready first.
fn pods<'a>(snapshot: &'a Snapshot, namespace: &str, app_id: &str) -> Vec<&'a Pod> {
    let pods = snapshot.app_pods().map(AsRef::as_ref);
    let mut pods: Vec<&Pod> = pods
        .filter(|pod: &&Pod| pod.namespace == namespace && pod.app_id() == app_id && pod.is_alive())
        .collect();
    pods.sort_by_key(|pod| !pod.sidecar().is_some_and(|sidecar| sidecar.is_ready));
    pods
}

/// The questions of this page.
pub(crate) fn questions(snapshot: &Snapshot, namespace: &str, app_id: &str) -> Questions {
    let pods = pods(snapshot, namespace, app_id);
    let mut pods = pods.into_iter().filter(|pod| pod.sidecar().is_some());
    let asked = pods.find_map(|pod| Some((pod, sidecars::question(pod, Subject::Metadata)?)));
    asked.map_or_else(Questions::default, |(pod, metadata)| Questions {
        metadata: Some(metadata),
        svid: svid::question(pod),
    })
}

/// Builds the view model; `None` if the application has no pods.
pub(crate) fn view(
    snapshot: &Snapshot,
    namespace: &str,
    app_id: &str,
    answers: Answers,
    now: Timestamp,
) -> Option<AppView> {
    let pods = pods(snapshot, namespace, app_id);
    let first = *pods.first()?;
    let svid = answers.svid.map(|said| Svid::read(snapshot, (namespace, app_id), &said, now));
    let sidecar = match answers.metadata {
        None => Said::Error("no pod has a sidecar with an address".to_owned()),
        Some(Err(error)) => Said::Error(error.to_string()),
        Some(Ok(body)) => json(&body).map_or_else(
            || Said::Error("the answer is no metadata of a sidecar".to_owned()),
            |said| Said::Metadata(Box::new(said)),
        ),
    };
    let configuration = first.configuration().map(|name| {
        let watched = snapshot.resources.get(&Kind::Configuration);
        (name.to_owned(), watched.is_some_and(|all| all.find(namespace, name).is_some()))
    });
    let names: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let owners: BTreeSet<&str> = pods.iter().map(|pod| pod.owner.name.as_str()).collect();
    let about = |event: &crate::model::event::Event| {
        event.namespace == namespace
            && (names.contains(event.name.as_str()) || owners.contains(event.name.as_str()))
    };
    Some(AppView {
        namespace: namespace.to_owned(),
        app_id: app_id.to_owned(),
        service_accounts: pods.iter().map(|pod| pod.service_account.clone()).collect(),
        configuration,
        pods: pods.iter().take(MAX_PODS).map(|pod| pod_row(pod, now)).collect(),
        more_pods: pods.len().saturating_sub(MAX_PODS),
        annotations: match snapshot.mode {
            Mode::Kubernetes => annotations(first),
            Mode::SelfHosted => flags(first),
        },
        resources: resources(snapshot, namespace, app_id, &sidecar),
        sidecar,
        svid,
        events: events(snapshot, now, about),
        manifest: (snapshot.mode == Mode::Kubernetes).then(|| manifest::manifest(first)),
    })
}

fn pod_row(pod: &Pod, now: Timestamp) -> PodRow {
    PodRow {
        name: pod.name.clone(),
        workload: pod.owner.clone(),
        phase: pod.phase.clone(),
        is_ready: pod.is_ready(),
        waiting: pod.containers.iter().find_map(|container| container.waiting.clone()),
        sidecar: pod.sidecar().map(|_| pod.version().to_owned()),
        mtls: pod.arguments.has_mtls,
        restarts: pod.containers.iter().map(|container| container.restarts).sum(),
        age: words::age(pod.created, now),
    }
}

/// Annotations in force: the pod's own, and the defaults that the injector recorded by origin.
fn annotations(pod: &Pod) -> Vec<AnnotationRow> {
    let row = |name: &String, value: &String, from: &str| AnnotationRow {
        name: name.clone(),
        value: value.clone(),
        from: from.to_owned(),
    };
    let own = pod.annotations.iter().filter(|(name, _)| *name != ANNOTATION_APPLIED_DEFAULTS);
    let mut rows: Vec<_> = own.map(|(name, value)| row(name, value, "pod")).collect();
    let applied = pod.annotations.get(ANNOTATION_APPLIED_DEFAULTS);
    let applied: BTreeMap<String, BTreeMap<String, String>> =
        applied.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    for (origin, given) in &applied {
        rows.extend(given.iter().map(|(name, value)| row(name, value, origin)));
    }
    rows
}

/// The flags of a sidecar that runs as a process.
fn flags(pod: &Pod) -> Vec<AnnotationRow> {
    // The flag has the path of the Configuration and not its name.
    let own = pod.annotations.iter().filter(|(name, _)| *name != ANNOTATION_CONFIG);
    let row = |(name, value): (&String, &String)| AnnotationRow {
        name: format!("--{}", name.strip_prefix(PREFIX).unwrap_or(name)),
        value: value.clone(),
        from: "command line".to_owned(),
    };
    own.map(row).collect()
}

/// The objects whose scopes contain the application.
fn resources(
    snapshot: &Snapshot,
    namespace: &str,
    app_id: &str,
    sidecar: &Said,
) -> Vec<ResourceRow> {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Configuration);
    let rows = kinds
        .flat_map(|kind| snapshot.kind(kind))
        .filter(|resource| resource.namespace == namespace && resource.applies_to(app_id));
    let loaded = |kind: Kind, name: &str| match sidecar {
        Said::Error(_) => None,
        Said::Metadata(said) => match kind {
            Kind::Component => Some(said.components.iter().any(|c| c.name == name)),
            Kind::HttpEndpoint => Some(said.http_endpoints.iter().any(|e| e.name == name)),
            _ => None,
        },
    };
    rows.map(|resource| ResourceRow {
        kind: resource.kind,
        name: resource.name.clone(),
        summary: resource.summary.clone(),
        loaded: loaded(resource.kind, &resource.name),
    })
    .collect()
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &AppView) -> Html {
    let own_words = Words::of(site.snapshot.mode);
    let configuration = match &view.configuration {
        None => text("none: the defaults of the sidecar"),
        Some((name, true)) => site.resource(Kind::Configuration, &view.namespace, name),
        Some((name, false)) => badge(Level::Error, &format!("{name} does not exist")),
    };
    let accounts: Vec<_> = view.service_accounts.iter().map(String::as_str).collect();
    let svid = view.svid.as_ref().map_or_else(|| text("none: mTLS is off"), Svid::render);
    let summary = facts([
        ("Namespace", text(&view.namespace)),
        ("Configuration", configuration),
        ("Service accounts", text(accounts.join(", "))),
        ("SVID", svid),
    ]);
    let pods = view.pods.iter().map(|row| {
        vec![
            site.pod(&view.namespace, &row.name),
            text(format!("{} {}", row.workload.kind, row.workload.name)),
            text(row.waiting.as_deref().unwrap_or(&row.phase)),
            readiness(usize::from(row.is_ready), 1),
            row.sidecar.as_ref().map_or_else(|| badge(Level::Error, "none"), text),
            text(if row.mtls { "on" } else { "off" }),
            text(row.restarts.to_string()),
            text(&row.age),
        ]
    });
    let headings = ["Pod", "Workload", "Phase", "Ready", "Sidecar", "mTLS", "Restarts", "Age"];
    let more = (view.more_pods > 0).then(|| {
        let words = words::not_shown(view.more_pods, "pod");
        hint(format!("{words}: kubectl get pods lists all."))
    });
    let pods =
        [Some(table(own_words.pods, &headings, pods, "")), more].into_iter().flatten().collect();
    let resources = view.resources.iter().map(|row| {
        let loaded = match row.loaded {
            Some(true) => badge(Level::Ok, "loaded"),
            Some(false) => badge(Level::Error, "not loaded"),
            None if matches!(row.kind, Kind::Component | Kind::HttpEndpoint) => text("unknown"),
            None => text("not reported"),
        };
        let name = site.resource(row.kind, &view.namespace, &row.name);
        vec![name, text(row.kind.name()), text(&row.summary), loaded]
    });
    let empty = "No object of dapr.io in this namespace is for this application.";
    let headings = ["Name", "Kind", "What", "In the sidecar"];
    let resources = table("Resources that apply", &headings, resources, empty);
    let annotations =
        view.annotations.iter().map(|row| vec![text(&row.name), text(&row.value), text(&row.from)]);
    let headings = [own_words.annotation, "Value", "Set by"];
    let annotations = table(own_words.annotations, &headings, annotations, "There are none.");
    [
        summary,
        section(own_words.pods, pods),
        section("Resources", resources),
        section("Sidecar", sidecar(&view.sidecar, own_words.no_answer)),
        section(own_words.annotations, annotations),
        section("Events", event_table(&view.events)),
    ]
    .into_iter()
    .chain(view.manifest.as_ref().map(yaml))
    .collect()
}

/// The pod as text.
fn yaml(manifest: &Value) -> Html {
    let yaml = serde_saphyr::to_string(manifest).unwrap_or_else(|error| error.to_string());
    let hint = "One of the pods. Environment, arguments, volumes and values that may be secret are left out or hidden.";
    let parts = [leaf("p", hint), el("pre", &[("tabindex", "0")], [text(yaml)])];
    section("YAML", parts.into_iter().collect())
}

/// Words of the page.
struct Words {
    pods: &'static str,
    annotation: &'static str,
    annotations: &'static str,
    /// What to look at if the sidecar does not answer.
    no_answer: &'static str,
}

impl Words {
    fn of(mode: Mode) -> Self {
        match mode {
            Mode::Kubernetes => Self {
                pods: "Pods",
                annotation: "Annotation",
                annotations: "Annotations",
                no_answer: "The dashboard asks port 3501 of the pod, which a NetworkPolicy may forbid.",
            },
            Mode::SelfHosted => Self {
                pods: "Processes",
                annotation: "Flag",
                annotations: "Flags",
                no_answer: "The dashboard asks the HTTP port of the sidecar, without the token of DAPR_API_TOKEN.",
            },
        }
    }
}

fn sidecar(said: &Said, remedy: &str) -> Html {
    let said = match said {
        Said::Metadata(said) => said,
        Said::Error(error) => {
            return hint(format!("{error}. {remedy}"));
        }
    };
    let subscriptions = said.subscriptions.iter().map(|row| {
        let routes: Vec<_> = row.rules.iter().map(|rule| rule.path.as_str()).collect();
        vec![
            text(&row.topic),
            text(&row.pubsubname),
            text(routes.join(", ")),
            text(&row.dead_letter_topic),
            text(row.type_.to_lowercase()),
        ]
    });
    let headings = ["Topic", "Pub/sub", "Routes", "Dead letters", "Declared"];
    let subscriptions =
        table("Subscriptions", &headings, subscriptions, "The application subscribes to no topic.");
    let actors = said.actor_runtime.active_actors.iter();
    let actors = actors.map(|row| vec![text(&row.type_), text(row.count.to_string())]);
    let actors =
        table("Actors", &["Actor type", "In memory"], actors, "The application hosts no actors.");
    let facts = facts([
        ("Version", text(&said.runtime_version)),
        ("Features", text(said.enabled_features.join(", "))),
        ("Placement", text(said.placement())),
        ("Scheduler", scheduler(said.schedulers())),
        ("Workflow workers", text(said.workflows.connected_workers.to_string())),
    ]);
    [facts, subscriptions, actors].into_iter().collect()
}

fn scheduler(addresses: &[String]) -> Html {
    if addresses.is_empty() {
        return text("not connected");
    }
    text(format!("connected: {}", addresses.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Pods of one application, all but the last without a ready sidecar.
    fn cart(number: usize) -> Snapshot {
        Snapshot::of_pods((0..number).map(|index| {
            json!({
                "metadata": {"namespace": "shop", "name": format!("cart-{index:03}"),
                    "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cart"}},
                "status": {"podIP": "10.0.0.1", "phase": "Running", "containerStatuses": [
                    {"name": "daprd", "image": "daprd:1", "ready": index + 1 == number}]},
                "spec": {"containers": [{"name": "daprd", "image": "daprd:1"}]},
            })
        }))
    }

    fn shown(number: usize) -> AppView {
        view(&cart(number), "shop", "cart", Answers::default(), Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn pods_have_a_limit_and_the_page_says_so() {
        let page = |view: &AppView| {
            let snapshot = Snapshot::default();
            render(&Site::new("", &snapshot), view).into_document()
        };
        let all = shown(MAX_PODS);
        assert_eq!((all.pods.len(), all.more_pods), (MAX_PODS, 0));
        assert!(!page(&all).contains("not shown"));
        let cut = shown(MAX_PODS + 1);
        assert_eq!((cut.pods.len(), cut.more_pods), (MAX_PODS, 1));
        assert!(page(&cut).contains("1 more pod is not shown"));
    }

    #[test]
    fn a_sidecar_with_mtls_is_asked_for_its_certificate() {
        let of = |flags: &[&str]| {
            let pod = json!({
                "metadata": {"namespace": "shop", "name": "cart-0",
                    "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cart"}},
                "status": {"podIP": "10.0.0.1", "phase": "Running"},
                "spec": {"containers": [{"name": "daprd", "image": "daprd:1", "args": flags}]},
            });
            questions(&Snapshot::of_pods([pod]), "shop", "cart")
        };
        let with = of(&["--enable-mtls"]);
        let svid = with.svid.unwrap();
        assert_eq!((svid.port, svid.wanted), (50002, crate::peers::Wanted::Svid));
        assert!(with.metadata.is_some());
        let without = of(&[]);
        assert!(without.svid.is_none() && without.metadata.is_some());
    }

    #[test]
    fn a_ready_pod_is_shown_however_many_others_there_are() {
        let cut = shown(MAX_PODS + 1);
        assert_eq!(cut.pods.first().unwrap().name, format!("cart-{MAX_PODS:03}"));
    }
}
