//! Status conditions of Components, which must be enabled.
use std::fs;

use blackbox::{environment, until};
use proto::operator::ResourceEventType;
use serde_json::{Value, json};

use crate::{component, fixture::Fixture, name, timeout};

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

    // Sidecars received of the changes of the type alone, and get no status.
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
        waited += 1; // something to write, so that the leader need not wait for its next look
        let patch = json!({"spec": {"initTimeout": format!("{waited}s")}}).to_string();
        let args = ["patch", "component", "good", "-n", &namespace, "--type=merge", "-p", &patch];
        fixture.api.kubectl(&args)?;
        let version: &Value = &crd()["spec"]["versions"][0];
        Ok(version["subresources"]["status"].is_object().then_some(()))
    });
    back.unwrap();
    drop(second);
}
