//! What the operator makes of an API server that is slow, refuses, loses its memory or knows less
//! than it should: what it knew it goes on serving, and what changed meanwhile arrives once.
use std::{thread, time::Duration};

use blackbox::{ApiCluster, until};
use proto::operator::ResourceEventType::{self, Created, Deleted, Updated};
use serde_json::Value;
use tonic::Code;

use crate::{
    component, component_with_secret,
    differential::KINDS,
    name, pod_of,
    proxy::{Asked, Fate, Proxy},
    rights::{does_its_work, whole_operator},
    secret,
    stage::{Operator, Sidecar, Stage},
    timeout,
};

/// An operator that reaches the API server by this way.
fn operator(stage: &Stage, name: &str, proxy: &Proxy) -> Operator {
    let kubeconfig = proxy.kubeconfig().to_str().unwrap();
    // The last of several wins.
    let spawn = stage.spawn(name).args(["--kubeconfig", kubeconfig]);
    let mut operator = spawn.arg("--disable-service-reconciler").start_operator().unwrap();
    operator.wait_ready().unwrap();
    operator
}

fn is_about_components(asked: &Asked) -> bool {
    asked.path.ends_with("/components")
}

/// Events of Components up to that of `last`, without it.
fn events_until(
    app: &Sidecar,
    stream: &mut tonic::Streaming<proto::operator::ComponentUpdateEvent>,
    last: &str,
) -> Vec<(ResourceEventType, String)> {
    let mut events = Vec::new();
    loop {
        let (event, body) = app.next(stream);
        if name(&body) == last {
            return events;
        }
        events.push((event, name(&body).to_owned()));
    }
}

/// Whether the trouble has to end before anything can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Passes,
    Stays,
}

/// A watch of this age is taken up again where it was cut.
const OLD_ENOUGH: Duration = Duration::from_secs(3);

const TROUBLES: [(&str, Fate, Trouble); 11] = [
    ("slow", Fate::Late(Duration::from_secs(2)), Trouble::Stays),
    ("watches-end-after-one-event", Fate::Brief, Trouble::Stays),
    ("watches-end-at-once", Fate::Empty, Trouble::Stays),
    ("watches-say-gone", Fate::Gone, Trouble::Stays),
    ("watches-are-refused-as-gone", Fate::Refused(410), Trouble::Stays),
    ("too-many-requests", Fate::Refused(429), Trouble::Passes),
    ("broken", Fate::Refused(500), Trouble::Passes),
    ("unavailable", Fate::Refused(503), Trouble::Passes),
    ("rights-taken-away", Fate::Refused(403), Trouble::Passes),
    ("token-expired", Fate::Refused(401), Trouble::Passes),
    ("connections-lost", Fate::Lost, Trouble::Passes),
];

#[test]
fn trouble_with_the_api_server_loses_and_invents_nothing() {
    // They mostly wait, so all at once.
    thread::scope(|scope| {
        for (name, fate, trouble) in TROUBLES {
            let builder = thread::Builder::new().name(name.to_owned());
            builder.spawn_scoped(scope, move || meet_trouble(name, fate, trouble)).unwrap();
        }
    });
}

fn meet_trouble(prefix: &str, fate: Fate, trouble: Trouble) {
    let stage = Stage::shared();
    let namespace = stage.bed.namespace(prefix).unwrap();
    stage.apply(
        &namespace,
        &(component("same", "") + &component("changes", "") + &component("goes", "")),
    );
    let proxy = Proxy::start(stage.bed.kubeconfig()).unwrap();
    let operator = operator(stage, &namespace, &proxy);
    let mut app = stage.sidecar(&namespace, "orders", operator.port);
    let mut stream = app.open_components();
    assert_eq!(app.component_names(), ["changes", "goes", "same"]);

    // Lists pass where it is the watches that are broken.
    let lists_too = matches!(fate, Fate::Late(_)) || trouble == Trouble::Passes;
    proxy.rule(move |asked| {
        let spoiled = is_about_components(asked) && (lists_too || asked.watch);
        if spoiled { fate } else { Fate::Pass }
    });
    until(timeout(), "the trouble to be met", || {
        let met = proxy.spoiled() >= 1;
        if !met {
            // A watch that lasted for less than a second is followed by a list, which goes on as a
            // watch by itself: this one is let grow older.
            thread::sleep(OLD_ENOUGH);
            proxy.cut();
        }
        Ok(met.then_some(()))
    })
    .unwrap();
    stage.apply(&namespace, &(component("changes", "scopes: [orders]") + &component("comes", "")));
    stage.bed.kubectl(&["delete", "component.dapr.io", "goes", "-n", &namespace]).unwrap();
    if trouble == Trouble::Passes {
        until(timeout(), "a second try", || Ok((proxy.spoiled() >= 2).then_some(()))).unwrap();
        // Nothing new is known, so what was known is served.
        assert_eq!(app.component_names(), ["changes", "goes", "same"]);
        proxy.rule(|_| Fate::Pass);
    }
    let mut events: Vec<_> = (0..3)
        .map(|_| app.next(&mut stream))
        .map(|(event, body)| (name(&body).to_owned(), event))
        .collect();
    events.sort();
    let want = [("changes", Updated), ("comes", Created), ("goes", Deleted)];
    assert_eq!(events, want.map(|(name, event)| (name.to_owned(), event)));
    // Whatever was listed again meanwhile, nobody hears of it.
    stage.apply(&namespace, &component("last", ""));
    assert_eq!(events_until(&app, &mut stream, "last"), []);
    assert_eq!(app.component_names(), ["changes", "comes", "last", "same"]);
}

#[test]
fn an_api_server_that_knows_less_than_usual_is_enough() {
    let stage = Stage::shared();
    let namespace = stage.bed.namespace("peculiar").unwrap();
    let manifests = secret("redis") + &component_with_secret("store", "redis", "");
    stage.apply(&namespace, &manifests);
    let proxy = Proxy::start(stage.bed.kubeconfig()).unwrap();
    let discovery = ["/version", "/api", "/apis", "/api/v1", "/apis/dapr.io/v1alpha1"];
    proxy.rule(move |asked| match asked.path.as_str() {
        // Whole pods where their metadata was asked for.
        "/api/v1/pods" => Fate::Deaf,
        "/api/v1/secrets" => Fate::Refused(404),
        path if discovery.contains(&path) => Fate::Refused(404),
        _ => Fate::Pass,
    });
    let operator = operator(stage, "peculiar", &proxy);
    let mut app = stage.sidecar(&namespace, "orders", operator.port);
    let components = app.components().unwrap();
    assert_eq!(components[0]["spec"]["metadata"][0]["value"], "aHVudGVyMg==");
    // The Configuration of the app is known from its pod.
    let configuration = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: mine}\n\
                         spec: {}\n---\n";
    let mut stream = app.open_configurations();
    stage.apply(&namespace, &pod_of("orders", "mine"));
    // The pod is seen by another watch than the Configuration.
    stage.apply(&namespace, configuration);
    let heard = until(timeout(), "the event of the assigned Configuration", || {
        let label = format!("note={}", blackbox::environment::secret()?);
        let object = ["configuration.dapr.io", "mine", "-n", &namespace];
        stage.bed.kubectl(&[&["label", "--overwrite"], &object[..], &[&label]].concat())?;
        Ok(app.soon(&mut stream))
    });
    let heard: Value = serde_json::from_slice(&heard.unwrap().configuration).unwrap();
    assert_eq!(name(&heard), "mine");
    let asked = proxy.paths();
    let used: Vec<_> = discovery.iter().filter(|path| asked.contains(**path)).collect();
    assert!(used.is_empty(), "known kinds need no discovery: {used:?}");
}

#[test]
fn an_api_server_of_old_is_enough() {
    let stage = Stage::shared();
    let (bed, webhook) = stage.of_old();
    let namespace = bed.namespace("old").unwrap();
    let streamed = format!(
        "/apis/dapr.io/v1alpha1/namespaces/{namespace}/components?watch=true&sendInitialEvents=true\
         &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let refused = bed.kubectl(&["get", "--raw", &streamed]).unwrap_err();
    assert!(format!("{refused:#}").contains("sendInitialEvents"), "{refused:#}");
    let proxy = Proxy::start(bed.kubeconfig()).unwrap();
    proxy.rule(|asked| {
        let list = asked.path.starts_with("/apis/") && !asked.watch;
        if list && KINDS.iter().any(|kind| asked.path.ends_with(kind)) {
            Fate::Bare
        } else {
            Fate::Pass
        }
    });
    let only = ["--watch-namespace", &namespace];
    let operator = whole_operator(stage, &namespace, &proxy, webhook, &only);
    does_its_work(stage, bed, &namespace, &operator);
    assert!(proxy.spoiled() >= KINDS.len(), "lists were asked for");
}

#[test]
fn an_api_server_with_another_history_is_read_anew() {
    let stage = Stage::shared();
    let (_turn, other) = stage.second();
    stage.install_on(other).unwrap();
    let namespace = stage.bed.namespace("history").unwrap();
    other.kubectl(&["create", "namespace", &namespace]).unwrap();
    stage.apply(
        &namespace,
        &(component("same", "") + &component("changes", "") + &component("goes", "")),
    );
    let restored =
        component("same", "") + &component("changes", "scopes: [orders]") + &component("comes", "");
    stage.apply_on(other, &namespace, &restored);
    let version = |bed: &ApiCluster| {
        let list = bed.get(&["components.dapr.io", "-n", &namespace]).unwrap();
        let newest = |item: &Value| item["metadata"]["resourceVersion"].as_str()?.parse().ok();
        list["items"].as_array().unwrap().iter().filter_map(newest).max().unwrap_or(0_u64)
    };
    assert!(
        version(stage.bed) > version(other),
        "the versions go back, as after a restored backup"
    );

    let proxy = Proxy::start(stage.bed.kubeconfig()).unwrap();
    let operator = operator(stage, "history", &proxy);
    let mut app = stage.sidecar(&namespace, "orders", operator.port);
    let mut stream = app.open_components();
    assert_eq!(app.component_names(), ["changes", "goes", "same"]);
    proxy.rule(|_| Fate::Lost);
    until(timeout(), "the API server to be missed", || Ok((proxy.spoiled() >= 8).then_some(())))
        .unwrap();
    proxy.lead_to(other.kubeconfig()).unwrap();
    proxy.rule(|_| Fate::Pass);
    until(timeout(), "what is there now", || {
        Ok((app.component_names() == ["changes", "comes", "same"]).then_some(()))
    })
    .unwrap();
    stage.apply_on(other, &namespace, &component("last", ""));
    let mut events = events_until(&app, &mut stream, "last");
    // The same object of another history is another object; that nothing about it differs may be
    // said or not.
    events.retain(|(_, name)| name != "same");
    events.sort();
    let want = [(Created, "comes"), (Updated, "changes"), (Deleted, "goes")];
    assert_eq!(events, want.map(|(event, name)| (event, name.to_owned())));
}

#[test]
fn a_kind_that_appears_later_is_served_and_streamed() {
    let stage = Stage::shared();
    let (_turn, bed) = stage.second();
    stage.install_on(bed).unwrap();
    let namespace = "late-kinds";
    let _ = bed.kubectl(&["create", "namespace", namespace]);
    let kinds = ["resiliencies", "components", "mcpservers", "workflowaccesspolicies"];
    let definitions = kinds.map(|kind| format!("{kind}.dapr.io"));
    let remove = || {
        for definition in &definitions {
            bed.kubectl(&["delete", "crd", definition]).unwrap();
        }
    };
    remove();
    let proxy = Proxy::start(bed.kubeconfig()).unwrap();
    let operator = operator(stage, "late-kinds", &proxy);
    let mut app = stage.sidecar(namespace, "orders", operator.port);
    let status = app.components().unwrap_err();
    let text = "error listing components: no matches for kind \"Component\" in version \
                \"dapr.io/v1alpha1\"";
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    let mut stream = app.open_components();

    for round in 0..2 {
        stage.install_on(bed).unwrap();
        // The kind is looked for every few seconds.
        stage.apply_on(bed, namespace, &component("store", ""));
        let (event, body) = app.next(&mut stream);
        assert_eq!((event, name(&body)), (Created, "store"), "round {round}");
        assert_eq!(app.component_names(), ["store"]);
        // Objects go with their kind.
        remove();
        let (event, body) = app.next(&mut stream);
        assert_eq!((event, name(&body)), (Deleted, "store"), "round {round}");
        until(timeout(), "the kind to be missed", || {
            Ok(app.components().is_err_and(|status| status.message() == text).then_some(()))
        })
        .unwrap();
    }
    stage.install_on(bed).unwrap();
}
