//! The injector starts late, stops, hangs, is replaced. In every case no annotated pod is without
//! its sidecar afterwards, without intervention: the guard rejects such pods, and their controllers
//! retry.
//!
//! Pods from before the installation of Dapr are different: admission does not see them again. The
//! operator's watchdog replaces them.

use std::net::TcpListener;

use blackbox::injector_fixture::{Rights, names_of, pod};
use blackbox::{Deadline, InjectorFixture, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{TIMEOUT, template};

/// Controllers wait longer after each failure.
const RECOVERY: u64 = 180;

fn deployment(name: &str, replicas: usize) -> Value {
    let mut template = template(&json!({"dapr.io/app-id": name}));
    template["metadata"]["labels"] = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    })
}

fn pods(it: &InjectorFixture, namespace: &str, app: &str) -> Vec<Value> {
    let list = it.api.get(&["pods", "-n", namespace, "-l", &format!("app={app}")]).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn without_sidecar(it: &InjectorFixture, namespace: &str) -> Vec<String> {
    let list = it.api.get(&["pods", "-n", namespace]).unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    let without_sidecar = pods.filter(|pod| !names_of(pod).contains(&"daprd".to_owned()));
    without_sidecar.map(|pod| pod["metadata"]["name"].to_string()).collect()
}

/// A Deployment whose pods are rejected while the injector is down.
fn create_refused(it: &InjectorFixture, namespace: &str, name: &str) {
    let (ok, errors) = it.create(namespace, &deployment(name, 3), &[]).unwrap();
    assert!(ok, "{errors}");
    until(Deadline::seconds(TIMEOUT), "an Event on the ReplicaSet", || {
        let events = it.api.get(&["events", "-n", namespace])?.to_string();
        Ok((events.contains("dapr-sidecar-guard") && events.contains(name)).then_some(()))
    })
    .unwrap();
    assert_eq!(pods(it, namespace, name), [Value::Null; 0]);
}

fn recovers(it: &InjectorFixture, namespace: &str, name: &str, replicas: usize) {
    until(Deadline::seconds(RECOVERY), &format!("the pods of {name}"), || {
        Ok((pods(it, namespace, name).len() == replicas).then_some(()))
    })
    .unwrap();
    assert_eq!(without_sidecar(it, namespace), [""; 0]);
}

#[test]
fn no_pod_is_without_its_sidecar_after_any_outage() {
    let mut it = InjectorFixture::start(Rights::Ours).unwrap();
    it.guard().unwrap();
    let namespace = it.api.namespace("outage").unwrap();

    // The cluster starts with everything registered and no injector yet.
    it.injector.process.kill();
    create_refused(&it, &namespace, "early");
    let (ok, errors) =
        it.create(&namespace, &pod("bare", &json!({"dapr.io/enabled": "true"})), &[]).unwrap();
    assert!(!ok && errors.contains("asks for a Dapr sidecar"), "{errors}");
    // The guard ignores pods without the annotation.
    let (ok, errors) = it.create(&namespace, &pod("plain", &json!({})), &[]).unwrap();
    assert!(ok, "{errors}");
    it.api.kubectl(&["delete", "pod", "plain", "-n", &namespace, "--now"]).unwrap();
    it.restart_injector().unwrap();
    recovers(&it, &namespace, "early", 3);

    // It crashes repeatedly while pods are created.
    let (ok, errors) = it.create(&namespace, &deployment("crash", 1), &[]).unwrap();
    assert!(ok, "{errors}");
    for replicas in [8, 16, 24] {
        let wanted = format!("--replicas={replicas}");
        it.api.kubectl(&["scale", "deployment/crash", "-n", &namespace, &wanted]).unwrap();
        it.injector.process.kill();
        it.restart_injector().unwrap();
    }
    recovers(&it, &namespace, "crash", 24);

    // Its network is cut: connections are accepted and nothing answers.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    it.call_port(hole.local_addr().unwrap().port()).unwrap();
    create_refused(&it, &namespace, "cut");
    it.call_port(it.injector.port).unwrap();
    recovers(&it, &namespace, "cut", 3);
}

#[test]
fn a_rolling_upgrade_costs_no_sidecar() {
    let mut it = InjectorFixture::start(Rights::Ours).unwrap();
    it.guard().unwrap();
    let namespace = it.api.namespace("upgrade").unwrap();
    let (ok, errors) = it.create(&namespace, &deployment("app", 1), &[]).unwrap();
    assert!(ok, "{errors}");
    for replicas in [20, 40] {
        let next = it.next_injector().unwrap();
        let wanted = format!("--replicas={replicas}");
        it.api.kubectl(&["scale", "deployment/app", "-n", &namespace, &wanted]).unwrap();
        // The order of a rollout: the next one is ready, the old one gets SIGTERM, and only then is
        // it removed from the Service.
        it.injector.process.signal(Signal::TERM).unwrap();
        it.call_port(next.port).unwrap();
        let ended = until(Deadline::seconds(TIMEOUT), "the old injector to end", || {
            Ok(it.injector.process.exit_status())
        });
        assert_eq!(ended.unwrap().code(), Some(0));
        it.injector = next;
        recovers(&it, &namespace, "app", replicas);
    }
    let events = it.api.get(&["events", "-n", &namespace]).unwrap().to_string();
    assert!(!events.contains("dapr-sidecar-guard"), "a pod was refused meanwhile: {events}");
}
