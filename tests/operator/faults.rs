//! The operator with an API server that is slow, unavailable, restored or limited: it continues to
//! serve cached objects, and each change arrives once.
use std::thread;
use std::time::Duration;

use blackbox::{ApiCluster, KINDS, until};
use proto::operator::ResourceEventType::{self, Created, Deleted, Updated};
use serde_json::Value;
use tonic::Code;

use crate::fixture::proxy::{Fault, Proxy, RequestInfo};
use crate::fixture::{Fixture, Operator, Sidecar};
use crate::rights::{does_its_work, whole_operator};
use crate::{component, component_with_secret, name, pod_of, secret, timeout};

/// An operator that reaches the API server through this proxy.
fn operator(fixture: &Fixture, name: &str, proxy: &Proxy) -> Operator {
    let kubeconfig = proxy.kubeconfig().to_str().unwrap();
    // The last of several wins.
    let spawn = fixture.spawn(name).args(["--kubeconfig", kubeconfig]);
    let mut operator = spawn.arg("--disable-service-reconciler").start_operator().unwrap();
    operator.wait_ready().unwrap();
    operator
}

fn is_about_components(request: &RequestInfo) -> bool {
    request.path.ends_with("/components")
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

/// Whether the fault has to end before a change can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Persistence {
    Passes,
    Stays,
}

/// A watch of this age is resumed where it ended.
const OLD_ENOUGH: Duration = Duration::from_secs(3);

const FAULTS: [(&str, Fault, Persistence); 11] = [
    ("slow", Fault::Late(Duration::from_secs(2)), Persistence::Stays),
    ("watches-end-after-one-event", Fault::Brief, Persistence::Stays),
    ("watches-end-at-once", Fault::Empty, Persistence::Stays),
    ("watches-say-gone", Fault::Gone, Persistence::Stays),
    ("watches-are-refused-as-gone", Fault::Refused(410), Persistence::Stays),
    ("too-many-requests", Fault::Refused(429), Persistence::Passes),
    ("broken", Fault::Refused(500), Persistence::Passes),
    ("unavailable", Fault::Refused(503), Persistence::Passes),
    ("rights-taken-away", Fault::Refused(403), Persistence::Passes),
    ("token-expired", Fault::Refused(401), Persistence::Passes),
    ("connections-lost", Fault::Lost, Persistence::Passes),
];

#[test]
fn faults_of_the_api_server_lose_and_duplicate_no_event() {
    // The cases mostly wait, so they run concurrently.
    thread::scope(|scope| {
        for (name, fault, persistence) in FAULTS {
            let builder = thread::Builder::new().name(name.to_owned());
            builder.spawn_scoped(scope, move || check_fault(name, fault, persistence)).unwrap();
        }
    });
}

fn check_fault(prefix: &str, fault: Fault, persistence: Persistence) {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace(prefix).unwrap();
    fixture.apply(
        &namespace,
        &(component("same", "") + &component("changes", "") + &component("goes", "")),
    );
    let proxy = Proxy::start(fixture.api.kubeconfig()).unwrap();
    let operator = operator(fixture, &namespace, &proxy);
    let mut app = fixture.sidecar(&namespace, "orders", operator.port);
    let mut stream = app.open_components();
    assert_eq!(app.component_names(), ["changes", "goes", "same"]);

    // Lists are forwarded where only watches fail.
    let lists_too = matches!(fault, Fault::Late(_)) || persistence == Persistence::Passes;
    proxy.rule(move |request| {
        let spoiled = is_about_components(request) && (lists_too || request.watch);
        if spoiled { fault } else { Fault::Pass }
    });
    until(timeout(), "the fault to apply", || {
        let met = proxy.spoiled() >= 1;
        if !met {
            // A watch of less than a second is followed by a streaming list, which continues as a
            // watch: let this one grow older.
            thread::sleep(OLD_ENOUGH);
            proxy.complete_watches();
        }
        Ok(met.then_some(()))
    })
    .unwrap();
    fixture
        .apply(&namespace, &(component("changes", "scopes: [orders]") + &component("comes", "")));
    fixture.api.kubectl(&["delete", "component.dapr.io", "goes", "-n", &namespace]).unwrap();
    if persistence == Persistence::Passes {
        until(timeout(), "a second try", || Ok((proxy.spoiled() >= 2).then_some(()))).unwrap();
        // Cached objects are served.
        assert_eq!(app.component_names(), ["changes", "goes", "same"]);
        proxy.rule(|_| Fault::Pass);
    }
    let mut events: Vec<_> = (0..3)
        .map(|_| app.next(&mut stream))
        .map(|(event, body)| (name(&body).to_owned(), event))
        .collect();
    events.sort();
    let want = [("changes", Updated), ("comes", Created), ("goes", Deleted)];
    assert_eq!(events, want.map(|(name, event)| (name.to_owned(), event)));
    // A relist causes no events.
    fixture.apply(&namespace, &component("last", ""));
    assert_eq!(events_until(&app, &mut stream, "last"), []);
    assert_eq!(app.component_names(), ["changes", "comes", "last", "same"]);
}

#[test]
fn limited_api_server_is_sufficient() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("peculiar").unwrap();
    let manifests = secret("redis") + &component_with_secret("store", "redis", "");
    fixture.apply(&namespace, &manifests);
    let proxy = Proxy::start(fixture.api.kubeconfig()).unwrap();
    let discovery = ["/version", "/api", "/apis", "/api/v1", "/apis/dapr.io/v1alpha1"];
    proxy.rule(move |request| match request.path.as_str() {
        // Whole pods instead of their metadata.
        "/api/v1/pods" => Fault::Deaf,
        "/api/v1/secrets" => Fault::Refused(404),
        path if discovery.contains(&path) => Fault::Refused(404),
        _ => Fault::Pass,
    });
    let operator = operator(fixture, "peculiar", &proxy);
    let mut app = fixture.sidecar(&namespace, "orders", operator.port);
    let components = app.components().unwrap();
    assert_eq!(components[0]["spec"]["metadata"][0]["value"], "aHVudGVyMg==");
    // The Configuration of the app is known from its pod.
    let configuration = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: mine}\n\
                         spec: {}\n---\n";
    let mut stream = app.open_configurations();
    fixture.apply(&namespace, &pod_of("orders", "mine"));
    // Pods and Configurations have separate watches.
    fixture.apply(&namespace, configuration);
    let received = until(timeout(), "the event of the assigned Configuration", || {
        let label = format!("note={}", blackbox::environment::secret()?);
        let object = ["configuration.dapr.io", "mine", "-n", &namespace];
        fixture.api.kubectl(&[&["label", "--overwrite"], &object[..], &[&label]].concat())?;
        Ok(app.soon(&mut stream))
    });
    let received: Value = serde_json::from_slice(&received.unwrap().configuration).unwrap();
    assert_eq!(name(&received), "mine");
    let paths = proxy.paths();
    let used: Vec<_> = discovery.iter().filter(|path| paths.contains(**path)).collect();
    assert!(used.is_empty(), "known kinds need no discovery: {used:?}");
}

#[test]
fn older_api_server_is_sufficient() {
    let fixture = Fixture::shared();
    let (api, webhook) = fixture.of_old();
    let namespace = api.namespace("old").unwrap();
    let streamed = format!(
        "/apis/dapr.io/v1alpha1/namespaces/{namespace}/components?watch=true&sendInitialEvents=true\
         &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let refused = api.kubectl(&["get", "--raw", &streamed]).unwrap_err();
    assert!(format!("{refused:#}").contains("sendInitialEvents"), "{refused:#}");
    let proxy = Proxy::start(api.kubeconfig()).unwrap();
    proxy.rule(|request| {
        let list = request.path.starts_with("/apis/") && !request.watch;
        if list && KINDS.iter().any(|kind| request.path.ends_with(kind)) {
            Fault::Bare
        } else {
            Fault::Pass
        }
    });
    let only = ["--watch-namespace", &namespace];
    let operator = whole_operator(fixture, &namespace, &proxy, webhook, &only);
    does_its_work(fixture, api, &namespace, &operator);
    assert!(proxy.spoiled() >= KINDS.len(), "lists were requested");
}

#[test]
fn restored_api_server_is_listed_again() {
    let fixture = Fixture::shared();
    let (_turn, other) = fixture.second();
    fixture.install_on(other).unwrap();
    let namespace = fixture.api.namespace("history").unwrap();
    other.kubectl(&["create", "namespace", &namespace]).unwrap();
    fixture.apply(
        &namespace,
        &(component("same", "") + &component("changes", "") + &component("goes", "")),
    );
    let restored =
        component("same", "") + &component("changes", "scopes: [orders]") + &component("comes", "");
    fixture.apply_on(other, &namespace, &restored);
    let version = |api: &ApiCluster| {
        let list = api.get(&["components.dapr.io", "-n", &namespace]).unwrap();
        let newest = |item: &Value| item["metadata"]["resourceVersion"].as_str()?.parse().ok();
        list["items"].as_array().unwrap().iter().filter_map(newest).max().unwrap_or(0_u64)
    };
    assert!(
        version(fixture.api) > version(other),
        "the versions go back, as after a restored backup"
    );

    let proxy = Proxy::start(fixture.api.kubeconfig()).unwrap();
    let operator = operator(fixture, "history", &proxy);
    let mut app = fixture.sidecar(&namespace, "orders", operator.port);
    let mut stream = app.open_components();
    assert_eq!(app.component_names(), ["changes", "goes", "same"]);
    proxy.rule(|_| Fault::Lost);
    until(timeout(), "the API server to be missed", || Ok((proxy.spoiled() >= 8).then_some(())))
        .unwrap();
    proxy.lead_to(other.kubeconfig()).unwrap();
    proxy.rule(|_| Fault::Pass);
    until(timeout(), "what is there now", || {
        Ok((app.component_names() == ["changes", "comes", "same"]).then_some(()))
    })
    .unwrap();
    fixture.apply_on(other, &namespace, &component("last", ""));
    let mut events = events_until(&app, &mut stream, "last");
    // The same object in another history is another object; an event without a difference is allowed.
    events.retain(|(_, name)| name != "same");
    events.sort();
    let want = [(Created, "comes"), (Updated, "changes"), (Deleted, "goes")];
    assert_eq!(events, want.map(|(event, name)| (event, name.to_owned())));
}

#[test]
fn kind_that_is_installed_later_is_served_and_streamed() {
    let fixture = Fixture::shared();
    let (_turn, api) = fixture.second();
    fixture.install_on(api).unwrap();
    let namespace = "late-kinds";
    let _ = api.kubectl(&["create", "namespace", namespace]);
    let kinds = ["resiliencies", "components", "mcpservers", "workflowaccesspolicies"];
    let definitions = kinds.map(|kind| format!("{kind}.dapr.io"));
    let remove = || {
        for definition in &definitions {
            api.kubectl(&["delete", "crd", definition]).unwrap();
        }
    };
    remove();
    let proxy = Proxy::start(api.kubeconfig()).unwrap();
    let operator = operator(fixture, "late-kinds", &proxy);
    let mut app = fixture.sidecar(namespace, "orders", operator.port);
    let status = app.components().unwrap_err();
    let text = "error listing components: no matches for kind \"Component\" in version \
                \"dapr.io/v1alpha1\"";
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    let mut stream = app.open_components();

    for round in 0..2 {
        fixture.install_on(api).unwrap();
        // The operator retries the kind every few seconds.
        fixture.apply_on(api, namespace, &component("store", ""));
        let (event, body) = app.next(&mut stream);
        assert_eq!((event, name(&body)), (Created, "store"), "round {round}");
        assert_eq!(app.component_names(), ["store"]);
        // Objects are deleted with their kind.
        remove();
        let (event, body) = app.next(&mut stream);
        assert_eq!((event, name(&body)), (Deleted, "store"), "round {round}");
        until(timeout(), "the kind to be missed", || {
            Ok(app.components().is_err_and(|status| status.message() == text).then_some(()))
        })
        .unwrap();
    }
    fixture.install_on(api).unwrap();
}
