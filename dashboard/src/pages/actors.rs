//! Actor types and the applications that host them, from placement's tables, and the owner of one
//! actor, as sidecars compute it.

use std::collections::{BTreeMap, BTreeSet};

use actor_ring::Ring;
use serde::Serialize;

use super::Site;
use super::parts::{Filter, filter_text, hint, options, section, table};
use crate::html::{Html, el, leaf, text};
use crate::model::{PLACEMENT, Snapshot};
use crate::peers::answers::{Host, PLACEMENT_STATE, PlacementState, Table, json};
use crate::peers::{Answer, AskError, Question};

/// Health port of placement, which serves the tables (Dapr 1.18, chart).
const HEALTH_PORT: u16 = 8080;
/// Replicas that are asked; one of them leads.
const MAX_ASKED: usize = 9;
/// Longest actor id that is looked up, in bytes. One that was cut off would have another owner.
const MAX_ID_BYTES: usize = 1_024;
/// Virtual nodes of one ring, and of all shares of a page: 6 MB and a tenth of a second.
const MAX_NODES: usize = 250_000;

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    filter: Filter,
    /// Type and id of an actor.
    actor: Option<(String, String)>,
}

impl Asked {
    /// Reads the query of a URL. Type and id are used as they are: spaces belong to them.
    pub(crate) fn parse(query: &str) -> Self {
        let (mut actor_type, mut id) = (String::new(), String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "type" => filter_text(&value).clone_into(&mut actor_type),
                "id" => id = value.into_owned(),
                _ => {}
            }
        }
        let is_whole = !actor_type.is_empty() && !id.is_empty();
        Self { filter: Filter::parse(query), actor: is_whole.then_some((actor_type, id)) }
    }
}

/// A host of an actor type.
#[derive(Debug, Serialize)]
struct HostRow {
    namespace: String,
    actor_type: String,
    app_id: String,
    /// Pod of that address; empty if unknown.
    pod: String,
    address: String,
    /// Part of the ids of this type that it owns, in percent; absent if there are too many hosts.
    share: Option<f64>,
}

/// The host that owns an actor.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct OwnerRow {
    namespace: String,
    app_id: String,
    /// Pod of that address; empty if unknown.
    pod: String,
    address: String,
}

/// The answer about one actor.
#[derive(Debug, Serialize)]
struct Lookup {
    #[serde(rename = "type")]
    actor_type: String,
    id: String,
    /// One for each namespace with hosts of the type.
    owners: Vec<OwnerRow>,
    /// Why there is no owner.
    error: Option<String>,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct Actors {
    filter: Filter,
    hosts: Vec<HostRow>,
    /// Version of each namespace's table.
    versions: BTreeMap<String, u64>,
    /// Virtual nodes of each host.
    virtual_nodes: u32,
    lookup: Option<Lookup>,
    /// Why there are no tables.
    error: Option<String>,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// The questions of this page.
pub(crate) fn questions(snapshot: &Snapshot) -> Vec<Question> {
    let replicas = snapshot.ready_addresses(PLACEMENT).take(MAX_ASKED);
    Question::to_each(replicas, HEALTH_PORT, PLACEMENT_STATE)
}

/// Builds the view model from the answers. It computes up to [`MAX_NODES`] hashes twice, so it does
/// not belong on a thread that serves others.
pub(crate) fn view(snapshot: &Snapshot, answers: &[Answer], asked: Asked) -> Actors {
    let mut bodies = answers.iter().flatten();
    let state = bodies.find_map(|body| json::<Option<PlacementState>>(body)?);
    let error = state.is_none().then(|| why_not(answers));
    let mut state = state.unwrap_or_default();
    state.tables.retain(|namespace, _| snapshot.shows_namespace(namespace));
    let (pods, virtual_nodes) = (Pods::of(snapshot), snapshot.virtual_nodes());
    let Asked { filter, actor } = asked;
    let hosts = hosts(&state, &pods, &filter, virtual_nodes);
    let lookup = actor.map(|actor| lookup(&state, &pods, &filter.namespace, virtual_nodes, actor));
    let versions = state.tables.iter().map(|(name, table)| (name.clone(), table.version)).collect();
    let namespaces = state.tables.into_keys().collect();
    Actors { filter, hosts, versions, virtual_nodes, lookup, error, namespaces }
}

/// Names of Pods by address and app id: Pods of a host's network share its address.
struct Pods<'a>(BTreeMap<(String, &'a str), &'a str>);

impl<'a> Pods<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let pods = snapshot
            .app_pods()
            .filter_map(|pod| Some(((pod.address?.to_string(), pod.app_id()), pod.name.as_str())));
        Self(pods.collect())
    }

    /// The pod of a host; empty if unknown.
    fn find(&self, host: &Host) -> &'a str {
        let address = host.name.rsplit_once(':').map_or(host.name.as_str(), |(ip, _)| ip);
        let key = (address.trim_matches(['[', ']']).to_owned(), host.id.as_str());
        self.0.get(&key).copied().unwrap_or_default()
    }
}

/// The hosts of each actor type.
fn by_type(table: &Table) -> BTreeMap<&str, Vec<&Host>> {
    let mut types = BTreeMap::<&str, Vec<&Host>>::new();
    for host in &table.hosts {
        for entity in &host.entities {
            types.entry(entity).or_default().push(host);
        }
    }
    types
}

/// Shares of the rings of one page. Most types have the same hosts as another.
struct Rings<'a> {
    virtual_nodes: u32,
    /// Virtual nodes that may still be computed.
    left: usize,
    shares: BTreeMap<Vec<&'a str>, BTreeMap<&'a str, f64>>,
}

impl<'a> Rings<'a> {
    /// The share of each host; `None` beyond [`MAX_NODES`].
    fn shares(&mut self, hosts: &[&'a str]) -> Option<&BTreeMap<&'a str, f64>> {
        if !self.shares.contains_key(hosts) {
            self.left = self.left.checked_sub(nodes(hosts.len(), self.virtual_nodes))?;
            let shares = Ring::new(hosts.iter().copied(), self.virtual_nodes).shares();
            self.shares.insert(hosts.to_vec(), shares);
        }
        self.shares.get(hosts)
    }
}

/// Virtual nodes of a ring.
fn nodes(hosts: usize, virtual_nodes: u32) -> usize {
    hosts.saturating_mul(usize::try_from(virtual_nodes).unwrap_or(usize::MAX))
}

fn hosts(
    state: &PlacementState,
    pods: &Pods<'_>,
    filter: &Filter,
    virtual_nodes: u32,
) -> Vec<HostRow> {
    let mut rings = Rings { virtual_nodes, left: MAX_NODES, shares: BTreeMap::new() };
    let mut rows = Vec::new();
    for (namespace, table) in &state.tables {
        for (actor_type, hosts) in by_type(table) {
            let admitted = hosts
                .iter()
                .filter(|host| filter.admits(namespace, &[actor_type, &host.id, pods.find(host)]));
            let admitted: Vec<_> = admitted.copied().collect();
            if admitted.is_empty() {
                continue; // its ring is not needed
            }
            let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
            let shares = rings.shares(&names);
            rows.extend(admitted.into_iter().map(|host| HostRow {
                namespace: namespace.clone(),
                actor_type: actor_type.to_owned(),
                app_id: host.id.clone(),
                pod: pods.find(host).to_owned(),
                address: host.name.clone(),
                share: shares.and_then(|of| of.get(host.name.as_str())).map(|part| part * 100.0),
            }));
        }
    }
    rows.sort_by(|a, b| {
        let key = |row: &HostRow| (row.namespace.clone(), row.actor_type.clone(), row.pod.clone());
        key(a).cmp(&key(b))
    });
    rows
}

/// The owner of an actor in each namespace that hosts its type, or in `namespace` if it is not empty.
fn lookup(
    state: &PlacementState,
    pods: &Pods<'_>,
    namespace: &str,
    virtual_nodes: u32,
    (actor_type, id): (String, String),
) -> Lookup {
    let mut owners = Vec::new();
    let mut error = None;
    if id.len() > MAX_ID_BYTES {
        let words = format!("The id has {} bytes; at most {MAX_ID_BYTES} are read.", id.len());
        return Lookup { actor_type, id: String::new(), owners, error: Some(words) };
    }
    let tables = state.tables.iter();
    for (own, table) in tables.filter(|(own, _)| namespace.is_empty() || *own == namespace) {
        let Some(hosts) = by_type(table).remove(actor_type.as_str()) else { continue };
        if nodes(hosts.len(), virtual_nodes) > MAX_NODES {
            let words = format!("{own} has too many hosts of {actor_type} to compute their ring.");
            error.get_or_insert(words);
            continue;
        }
        let ring = Ring::new(hosts.iter().map(|host| host.name.as_str()), virtual_nodes);
        let owner = ring.owner(&id);
        owners.extend(hosts.iter().find(|host| Some(host.name.as_str()) == owner).map(|host| {
            OwnerRow {
                namespace: own.clone(),
                app_id: host.id.clone(),
                pod: pods.find(host).to_owned(),
                address: host.name.clone(),
            }
        }));
    }
    if owners.is_empty() {
        error.get_or_insert(format!("No application hosts actors of type {actor_type}."));
    }
    Lookup { actor_type, id, owners, error }
}

fn why_not(answers: &[Answer]) -> String {
    let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    if answers.is_empty() {
        "No pod of placement is ready. Applications without actors and workflows do not need it."
            .to_owned()
    } else if errors.clone().any(AskError::is_not_found) {
        "Placement does not serve its tables: set the chart value dapr_placement.metadataEnabled=true.".to_owned()
    } else if let Some(error) = errors.next() {
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
        let share = row.share.map_or_else(|| "–".to_owned(), |share| format!("{share:.1} %"));
        vec![
            text(&row.actor_type),
            text(&row.namespace),
            site.app(&row.namespace, &row.app_id),
            text(if row.pod.is_empty() { &row.address } else { &row.pod }),
            text(share),
        ]
    });
    let headings = ["Actor type", "Namespace", "App id", "Pod", "Share"];
    let table = table("Actor hosts", &headings, rows, "No application hosts actors.");
    let is_cut = view.hosts.iter().any(|row| row.share.is_none());
    let cut = is_cut.then(|| hint("Shares of types with very many hosts are not computed."));
    let versions = view.versions.iter().map(|(name, version)| format!("{name}: {version}"));
    let versions = format!("Versions of the tables: {}", versions.collect::<Vec<_>>().join(", "));
    let form = view.filter.form(view.namespaces.iter().map(String::as_str));
    let parts = [section("Which pod owns an actor", owner_box(site, view)), form, table];
    parts.into_iter().chain(cut).chain([leaf("p", versions)]).collect()
}

/// The form for one actor, and its answer.
fn owner_box(site: &Site<'_>, view: &Actors) -> Html {
    let asked = view.lookup.as_ref();
    let actor_type = asked.map_or("", |lookup| lookup.actor_type.as_str());
    let id = asked.map_or("", |lookup| lookup.id.as_str());
    let types: BTreeSet<_> = view.hosts.iter().map(|row| row.actor_type.as_str()).collect();
    let types = types.into_iter().map(|name| el("option", &[("value", name)], []));
    let field = |name: &'static str, label: &'static str, value: &str, list: &'static str| {
        let mut attributes = vec![("name", name), ("value", value), ("required", "")];
        if !list.is_empty() {
            attributes.push(("list", list));
        }
        el("label", &[], [text(label), text(" "), el("input", &attributes, [])])
    };
    let namespaces = view.namespaces.iter().map(|name| (name.as_str(), name.as_str()));
    let namespaces = [("", "all")].into_iter().chain(namespaces);
    let select = [("name", "namespace")];
    let select = el("select", &select, options(namespaces, &view.filter.namespace));
    let content = [
        el("label", &[], [text("Namespace "), select]),
        field("type", "Actor type", actor_type, "actor-types"),
        field("id", "Id", id, ""),
        el("datalist", &[("id", "actor-types")], types),
        el("button", &[("type", "submit")], [text("Find")]),
    ];
    let form = el("form", &[("method", "get"), ("aria-label", "Owner of an actor")], content);
    let Some(lookup) = asked else { return form };
    let rows = lookup.owners.iter().map(|row| {
        vec![
            text(if row.pod.is_empty() { "unknown" } else { &row.pod }),
            site.app(&row.namespace, &row.app_id),
            text(&row.namespace),
            text(&row.address),
        ]
    });
    let caption = format!("Owner of {}/{}", lookup.actor_type, lookup.id);
    let headings = ["Pod", "App id", "Namespace", "Address"];
    let owners = table(&caption, &headings, rows, lookup.error.as_deref().unwrap_or_default());
    let partly = lookup.error.as_deref().filter(|_| !lookup.owners.is_empty()).map(hint);
    [Some(form), Some(owners), partly].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

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

    fn pod(namespace: &str, number: usize) -> Value {
        json!({"metadata": {"namespace": namespace, "name": format!("cat-{number}"),
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cat"}},
            "status": {"podIP": format!("10.0.0.{number}"), "phase": "Running"}})
    }

    fn placement(virtual_nodes: u32) -> Value {
        json!({"metadata": {"namespace": "dapr-system", "name": "dapr-placement-server-0",
                "labels": {"app": "dapr-placement-server", "app.kubernetes.io/part-of": "dapr"}},
            "spec": {"containers": [{"name": "dapr-placement-server",
                "args": [format!("--replicationFactor={virtual_nodes}")]}]}})
    }

    /// A namespace whose hosts have the addresses of the vectors that official sidecars were compared
    /// with.
    fn page(namespaces: &[&str], virtual_nodes: u32, query: &str) -> Actors {
        let pods = namespaces.iter().flat_map(|name| (1..=3).map(|number| pod(name, number)));
        let snapshot = Snapshot::of_pods(pods.chain([placement(virtual_nodes)]));
        let hosts: Vec<_> = (1..=3)
            .map(|number| {
                json!({"name": format!("10.0.0.{number}:50002"), "id": "cat", "entities": ["Cat"]})
            })
            .collect();
        let tables: serde_json::Map<_, _> = namespaces
            .iter()
            .map(|name| ((*name).to_owned(), json!({"hosts": hosts, "version": 3})))
            .collect();
        let answer = Ok(json!({ "tables": tables }).to_string().into());
        view(&snapshot, &[answer], Asked::parse(query))
    }

    fn owners(view: &Actors) -> Vec<(&str, &str)> {
        let rows = view.lookup.iter().flat_map(|lookup| &lookup.owners);
        rows.map(|row| (row.namespace.as_str(), row.pod.as_str())).collect()
    }

    /// The answers of `crates/actor-ring/tests/vectors.rs`.
    #[rstest]
    #[case("actor-1", 100, "cat-1")]
    #[case("alice", 100, "cat-3")]
    #[case("order-42", 100, "cat-1")]
    #[case("user%7C%7Cdevice-7", 100, "cat-1")]
    #[case("%C3%BCn%C3%AFcode", 100, "cat-2")]
    #[case("actor-1", 1_000, "cat-3")]
    #[case("alice", 3, "cat-2")]
    fn the_owner_is_the_one_that_sidecars_choose(
        #[case] id: &str,
        #[case] virtual_nodes: u32,
        #[case] want: &str,
    ) {
        let view = page(&["shop"], virtual_nodes, &format!("type=Cat&id={id}"));
        assert_eq!(owners(&view), [("shop", want)]);
        let snapshot = Snapshot::default();
        let html = render(&Site::new("", &snapshot), &view).into_document();
        assert!(html.contains(&format!("<td>{want}</td>")), "{html}");
    }

    #[test]
    fn each_namespace_has_a_ring_of_its_own() {
        let of = |query: &str| {
            let view = page(&["bank", "shop"], 100, query);
            owners(&view).into_iter().map(|(namespace, _)| namespace.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of("type=Cat&id=1"), ["bank", "shop"]);
        assert_eq!(of("type=Cat&id=1&namespace=shop"), ["shop"]);
        assert!(of("type=Cat&id=").is_empty() && of("id=1").is_empty());
    }

    #[test]
    fn a_type_without_hosts_is_said() {
        let lookup = page(&["shop"], 100, "type=Dog&id=1").lookup.unwrap();
        assert_eq!(lookup.error.as_deref(), Some("No application hosts actors of type Dog."));
    }

    #[test]
    fn an_id_of_the_limit_is_looked_up_and_one_byte_more_is_not() {
        let of = |bytes: usize| {
            let view = page(&["shop"], 100, &format!("type=Cat&id={}", "a".repeat(bytes)));
            (owners(&view).len(), view.lookup.unwrap().error.is_some())
        };
        assert_eq!(of(MAX_ID_BYTES), (1, false));
        assert_eq!(of(MAX_ID_BYTES + 1), (0, true));
    }

    #[test]
    fn rings_have_a_limit_and_the_page_says_so() {
        let largest = u32::try_from(MAX_NODES / 3).unwrap();
        for (virtual_nodes, is_cut) in [(largest, false), (largest + 1, true)] {
            let view = page(&["shop"], virtual_nodes, "type=Cat&id=1");
            assert_eq!(view.hosts.len(), 3);
            assert!(view.hosts.iter().all(|row| row.share.is_none() == is_cut), "{view:?}");
            assert_eq!(owners(&view).is_empty(), is_cut);
            let snapshot = Snapshot::default();
            let html = render(&Site::new("", &snapshot), &view).into_document();
            assert_eq!(html.contains("are not computed"), is_cut, "{html}");
        }
    }

    #[test]
    fn shares_are_those_of_the_ring() {
        let view = page(&["shop"], 100, "");
        let sum: f64 = view.hosts.iter().filter_map(|row| row.share).sum();
        assert!((sum - 100.0).abs() < 1e-6, "{view:?}");
        let even =
            |row: &HostRow| row.share.is_some_and(|share| (share - 100.0 / 3.0).abs() < 1e-6);
        assert!(!view.hosts.iter().any(even), "hosts own different parts: {view:?}");
    }

    #[test]
    fn pods_of_one_address_are_told_apart_by_their_app_id() {
        let mut other = pod("shop", 1);
        other["metadata"]["name"] = json!("z-dog-1");
        other["metadata"]["annotations"]["dapr.io/app-id"] = json!("dog");
        let snapshot = Snapshot::of_pods([pod("shop", 1), other]);
        let host = |id: &str| Host {
            name: "10.0.0.1:50002".to_owned(),
            id: id.to_owned(),
            entities: Vec::new(),
        };
        let pods = Pods::of(&snapshot);
        assert_eq!((pods.find(&host("cat")), pods.find(&host("dog"))), ("cat-1", "z-dog-1"));
        assert_eq!(pods.find(&host("cow")), "");
    }
}
