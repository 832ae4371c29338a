//! Status conditions of Components and the columns of every kind, which must be enabled.
use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

use blackbox::{ApiCluster, environment, until};
use proto::operator::ResourceEventType;
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::fixture::proxy::{Fault, Proxy};
use crate::rights::{as_the_charts_operator, whole_operator};
use crate::{component, deployment, name, timeout};

/// The status of the condition `Ready` and its reason, for the generation that is stored.
fn ready(fixture: &Fixture, namespace: &str, component: &str) -> Option<(String, String)> {
    let object = fixture.api.get(&["component", component, "-n", namespace]).unwrap();
    let conditions = object["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    let current = ready["observedGeneration"] == object["metadata"]["generation"];
    let text = |member: &str| ready[member].as_str().map(str::to_owned);
    current.then(|| Some((text("status")?, text("reason")?))).flatten()
}

fn wait_for(fixture: &Fixture, namespace: &str, component: &str, status: &str, reason: &str) {
    let want = (status.to_owned(), reason.to_owned());
    let seen = until(timeout(), "the status", || {
        Ok(ready(fixture, namespace, component).filter(|seen| *seen == want))
    });
    assert!(seen.is_ok(), "{component}: {seen:?}");
}

fn set_type(fixture: &Fixture, namespace: &str, component: &str, type_: &str) {
    let patch = json!({"spec": {"type": type_}}).to_string();
    let args = ["patch", "component", component, "-n", namespace, "--type=merge", "-p", &patch];
    fixture.api.kubectl(&args).unwrap();
}

#[test]
fn findings_become_status_conditions_that_are_not_sent_to_sidecars() {
    let fixture = Fixture::shared();
    let _alone = fixture.component_status();
    let namespace = fixture.api.namespace("status").unwrap();
    let mut app = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    let mut events = app.open_components();
    fixture.apply(&namespace, &(component("good", "") + &component("bad", "")));
    let mut created = [app.next(&mut events), app.next(&mut events)].map(|(event, object)| {
        assert_eq!(event, ResourceEventType::Created);
        name(&object).to_owned()
    });
    created.sort();
    assert_eq!(created, ["bad", "good"]);

    let writer = || {
        let spawn =
            fixture.spawn("status").args(["--component-status", "--disable-service-reconciler"]);
        let mut operator = spawn.start_operator().unwrap();
        operator.wait_ready().unwrap();
        operator
    };
    let first = writer();
    wait_for(fixture, &namespace, "good", "True", "Ready");
    wait_for(fixture, &namespace, "bad", "True", "Ready");
    set_type(fixture, &namespace, "bad", "state.rediss");
    wait_for(fixture, &namespace, "bad", "False", "UnknownType");
    let table = fixture.api.kubectl(&["get", "components", "-n", &namespace]).unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "TYPE", "VERSION", "SCOPES", "READY", "REASON", "AGE"]);
    assert_eq!(rows[1][..5], ["bad", "state.rediss", "v1", "False", "UnknownType"]);
    assert_eq!(rows[2][..5], ["good", "state.in-memory", "v1", "True", "Ready"]);

    // The next leader writes nothing until something changes.
    let version = |name: &str| {
        let object = fixture.api.get(&["component", name, "-n", &namespace]).unwrap();
        object["metadata"]["resourceVersion"].clone()
    };
    let (good, crd) =
        (version("good"), || fixture.api.get(&["crd", "components.dapr.io"]).unwrap());
    let generation = crd()["metadata"]["generation"].clone();
    drop(first);
    let second = writer();
    set_type(fixture, &namespace, "bad", "state.in-memory");
    wait_for(fixture, &namespace, "bad", "True", "Ready");
    assert_eq!(crd()["metadata"]["generation"], generation, "the CRD was right already");

    // Sidecars received only the changes of the type, and get no status.
    for type_ in ["state.rediss", "state.in-memory"] {
        let (event, object) = app.next(&mut events);
        assert_eq!(event, ResourceEventType::Updated);
        assert_eq!((name(&object), object["spec"]["type"].as_str()), ("bad", Some(type_)));
        assert_eq!(object.get("status"), None);
    }
    fixture.apply(&namespace, &component("last", ""));
    let (event, object) = app.next(&mut events);
    assert_eq!((event, name(&object)), (ResourceEventType::Created, "last"));
    assert!(app.components().unwrap().iter().all(|object| object.get("status").is_none()));
    wait_for(fixture, &namespace, "last", "True", "Ready");
    assert_eq!(version("good"), good, "several looks later");

    // Applying the upstream file removes the status subresource; the leader adds it again.
    let file = environment::workspace().join("crds/components.yaml");
    let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    fixture.api.cluster().kubectl_with_input(&args, &fs::read_to_string(file).unwrap()).unwrap();
    let mut waited = 0;
    let back = until(timeout(), "the status of the CRD", || {
        waited += 1; // causes a write before the leader's next check
        let patch = json!({"spec": {"initTimeout": format!("{waited}s")}}).to_string();
        let args = ["patch", "component", "good", "-n", &namespace, "--type=merge", "-p", &patch];
        fixture.api.kubectl(&args)?;
        let version: &Value = &crd()["spec"]["versions"][0];
        Ok(version["subresources"]["status"].is_object().then_some(()))
    });
    back.unwrap();
    drop(second);
}

/// As while the API server installs the status subresource, or is overloaded.
#[test]
fn a_status_that_could_not_be_written_is_written_within_seconds() {
    const REFUSED: [(&str, u16); 3] =
        [("/components.dapr.io", 500), ("/absent/status", 404), ("/busy/status", 429)];
    let fixture = Fixture::shared();
    let _alone = fixture.component_status();
    let namespace = fixture.api.namespace("refused-status").unwrap();
    fixture.apply(&namespace, &(component("absent", "") + &component("busy", "")));
    let proxy = Proxy::start(fixture.api.kubeconfig()).unwrap();
    let once = Mutex::new(BTreeSet::new());
    proxy.rule(move |request| {
        let refused = REFUSED.iter().find(|(path, _)| request.path.ends_with(path));
        match refused {
            Some((path, code)) if once.lock().unwrap().insert(*path) => Fault::Refused(*code),
            _ => Fault::Pass,
        }
    });
    let kubeconfig = proxy.kubeconfig().to_str().unwrap();
    let flags = ["--kubeconfig", kubeconfig, "--component-status", "--disable-service-reconciler"];
    let mut operator = fixture.spawn("refused-status").args(flags).start_operator().unwrap();
    operator.wait_ready().unwrap();
    // The regular checks are a minute apart.
    wait_for(fixture, &namespace, "absent", "True", "Ready");
    wait_for(fixture, &namespace, "busy", "True", "Ready");
    assert_eq!(proxy.spoiled(), REFUSED.len());
}

/// An object of each kind.
const OBJECTS: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: a}
spec: {type: state.in-memory, version: v1, metadata: []}
scopes: [orders]
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: a}
spec: {tracing: {samplingRate: '0.5'}, metrics: {enabled: false}}
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: a}
spec: {baseUrl: 'https://a.example'}
---
apiVersion: dapr.io/v1alpha1
kind: MCPServer
metadata: {name: a}
spec: {endpoint: {sse: {url: 'https://a.example/sse'}}}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: a}
spec: {policies: {}, targets: {}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: a}
spec: {pubsubname: p, topic: t, deadLetterTopic: d, routes: {default: /a}}
---
apiVersion: dapr.io/v1alpha1
kind: WorkflowAccessPolicy
metadata: {name: a}
---
";

/// Kind, headings and the row of its object, both without name and age; HTTPEndpoints are
/// [`FOREIGN`] at first.
const TABLES: [(&str, &str, &str); 7] = [
    ("components", "TYPE VERSION SCOPES", r#"state.in-memory v1 ["orders"]"#),
    ("configurations.dapr.io", "TRACING METRICS", "0.5 false"),
    ("mcpservers", "URL", "https://a.example/sse"),
    ("resiliencies", "", ""),
    ("subscriptions.v1alpha1.dapr.io", "PUBSUB TOPIC DEADLETTER", "p t d"),
    ("subscriptions.v2alpha1.dapr.io", "PUBSUB TOPIC DEADLETTER", "p t d"),
    ("workflowaccesspolicies", "", ""),
];
const NAMESPACE: &str = "columns";
/// A definition with a column of another author.
const FOREIGN: &str = "httpendpoints.dapr.io";

/// The words between the name and the last column of each line of `kubectl get`.
fn table(api: &ApiCluster, kind: &str) -> Option<Vec<String>> {
    let table = api.kubectl(&["get", kind, "-n", NAMESPACE]).ok()?;
    let words = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1..words.len() - 1).map(|words| words.join(" "))
    };
    table.lines().map(words).collect()
}

fn wait_for_table(api: &ApiCluster, kind: &str, headings: &str, row: &str) {
    let mut seen = None;
    let shown = until(timeout(), "the columns", || {
        seen = table(api, kind);
        Ok(seen.as_deref().is_some_and(|lines| lines == [headings, row]).then_some(()))
    });
    assert!(shown.is_ok(), "{kind}: {seen:?}");
}

/// The definitions without columns and without what the webhook's controller writes.
fn definitions(api: &ApiCluster) -> Vec<Value> {
    let mut list = api.get(&["crd"]).unwrap();
    let items = list["items"].as_array_mut().unwrap();
    for crd in items.iter_mut() {
        let spec = crd["spec"].as_object_mut().unwrap();
        spec.remove("conversion");
        for version in spec["versions"].as_array_mut().unwrap() {
            version.as_object_mut().unwrap().remove("additionalPrinterColumns");
        }
    }
    items.iter().map(|crd| crd["spec"].clone()).collect()
}

fn set_columns(api: &ApiCluster, crd: &str, columns: &Value) {
    let path = "/spec/versions/0/additionalPrinterColumns";
    let operations = json!([{"op": "add", "path": path, "value": columns}]).to_string();
    api.kubectl(&["patch", "crd", crd, "--type=json", "-p", &operations]).unwrap();
}

/// Every version of every definition has columns.
fn all_have_columns(api: &ApiCluster) -> bool {
    let list = api.get(&["crd"]).unwrap();
    let mut versions = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|crd| crd["spec"]["versions"].as_array().into_iter().flatten());
    versions.all(|version| version["additionalPrinterColumns"].is_array())
}

#[test]
fn kubectl_shows_the_columns_of_every_kind() {
    let fixture = Fixture::shared();
    let (_turn, api) = fixture.second();
    let webhook = fixture.install_on(api).unwrap();
    let before = definitions(api);
    let owner = json!([{"name": "Owner", "type": "string", "jsonPath": ".metadata.namespace"}]);
    set_columns(api, FOREIGN, &owner);
    fixture.apply_on(api, NAMESPACE, &(OBJECTS.to_owned() + &deployment("orders", "orders")));
    let values = "dapr_operator.printerColumns.enabled=true";
    let proxy = as_the_charts_operator(api, values);
    let flags = ["--printer-columns", "--disable-service-reconciler"];
    let operator = whole_operator(fixture, "columns", &proxy, webhook, &flags);
    for (kind, headings, row) in TABLES {
        wait_for_table(api, kind, headings, row);
    }
    until(timeout(), "the other columns", || Ok(all_have_columns(api).then_some(()))).unwrap();
    assert_eq!(definitions(api), before, "the schemas are unchanged");

    // Columns that were removed are added again, while those of another author stay.
    set_columns(api, "mcpservers.dapr.io", &json!([]));
    wait_for_table(api, "mcpservers", "URL", "https://a.example/sse");
    let foreign = api.kubectl(&["get", FOREIGN, "-n", NAMESPACE]).unwrap();
    let foreign: Vec<&str> = foreign.split_whitespace().collect();
    assert_eq!(foreign, ["NAME", "OWNER", "a", NAMESPACE]);
    // Without those of the other author the definition gets its own.
    set_columns(api, FOREIGN, &json!([]));
    wait_for_table(api, FOREIGN, "URL", "https://a.example");
    assert_eq!(proxy.forbidden(), [""; 0]);
    drop(operator);

    let values = format!("{values},dapr_operator.componentStatus.enabled=true");
    let proxy = as_the_charts_operator(api, &values);
    let leader = |name| {
        let flags = ["--printer-columns", "--component-status", "--disable-service-reconciler"];
        whole_operator(fixture, name, &proxy, webhook, &flags)
    };
    let first = leader("status-columns");
    let row = r#"state.in-memory v1 ["orders"] True Ready"#;
    wait_for_table(api, "components", "TYPE VERSION SCOPES READY REASON", row);
    drop(first);

    // The next leader finds status and columns as it wants them.
    let second = leader("status-columns-again");
    let checks = |result: &str| {
        let labels = format!("{{crd=\"components.dapr.io\",result=\"{result}\"}}");
        second.metric(&format!("dapr_operator_crd_checks_total{labels}"))
    };
    until(timeout(), "both checks", || Ok((checks("right") >= 2.0).then_some(()))).unwrap();
    assert_eq!((checks("patched"), checks("failed")), (0.0, 0.0));
    assert_eq!(proxy.forbidden(), [""; 0]);
}
