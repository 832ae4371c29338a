//! The injector as users see it: through a real kube-apiserver and kubectl.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::sync::OnceLock;

use base64::Engine as _;
use blackbox::injector_fixture::{CalledWebhook, Guard, Rights, names_of, pod};
use blackbox::{Deadline, InjectorFixture, until};
use serde_json::{Value, json};

mod cases;
mod manifests;
mod namespaces;
mod restored;
mod watchdog;

/// The fixture of the tests that can share one.
fn shared() -> &'static CalledWebhook {
    static SHARED: OnceLock<CalledWebhook> = OnceLock::new();
    SHARED.get_or_init(|| CalledWebhook::common(Guard::Absent).unwrap())
}

/// Enough for a process to start on a busy machine.
const START: u64 = 60;
/// Long enough for a reconcile by timer on a busy machine.
const RECONCILE: u64 = 60;

fn enabled(more: &Value) -> Value {
    let mut all = json!({"dapr.io/enabled": "true"});
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let containers = pod["spec"]["containers"].as_array().unwrap();
    containers.iter().find(|c| c["name"] == name).unwrap()
}

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn deployment(annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": annotations},
                "spec": {"containers": [{"name": "app", "image": "app", "env": [{"name": "A", "value": "1"}]}]},
            },
        },
    })
}

#[test]
fn pods_of_a_deployment_get_their_sidecar() {
    let it = shared();
    let namespace = it.api.namespace("web").unwrap();
    let annotations = enabled(&json!({"dapr.io/app-id": "web", "dapr.io/app-port": "3000"}));
    let (ok, errors) = it.create(&namespace, &deployment(&annotations), &[]).unwrap();
    assert!(ok, "{errors}");
    let pod = until(Deadline::seconds(START), "the deployment's pod", || {
        Ok(it.api.get(&["pods", "-n", &namespace])?.pointer("/items/0").cloned())
    });
    let pod = pod.unwrap();
    assert_eq!(names_of(&pod), ["app", "daprd"]);
    assert_eq!(pod["metadata"]["labels"]["dapr.io/sidecar-injected"], "true");
    assert_eq!(pod["metadata"]["labels"]["dapr.io/app-id"], "web");
    let args: Vec<&str> = container(&pod, "daprd")["args"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for pair in [["--app-id", "web"], ["--app-port", "3000"], ["--dapr-grpc-port", "50001"]] {
        assert!(args.windows(2).any(|two| two == pair), "{pair:?} is not in {args:?}");
    }
    let env = container(&pod, "app")["env"].as_array().unwrap().clone();
    let names: Vec<&str> = env.iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(names, ["A", "DAPR_HTTP_PORT", "DAPR_GRPC_PORT", "APP_PROTOCOL"]);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|v| v["name"] == "dapr-identity-token"), "{volumes:?}");
    let trusted = container(&pod, "daprd")["env"].as_array().unwrap();
    let trusted = trusted.iter().find(|v| v["name"] == "DAPR_TRUST_ANCHORS").unwrap();
    assert_eq!(trusted["value"], json!(it.anchors().unwrap()));
}

#[test]
fn kubectl_shows_a_warning_for_an_unknown_annotation_and_a_bad_value() {
    let it = shared();
    let namespace = it.api.namespace("warn").unwrap();
    let annotations = enabled(&json!({"dapr.io/app-prot": "3000", "dapr.io/metrics-port": "many"}));
    let (ok, errors) = it.create(&namespace, &pod("warned", &annotations), &[]).unwrap();
    assert!(ok, "{errors}");
    let shown = [
        r#"Warning: dapr: unknown annotation "dapr.io/app-prot" is ignored; did you mean dapr.io/app-port?"#,
        r#"Warning: dapr: dapr.io/metrics-port: "many" is not an integer; the default 9090 applies"#,
    ];
    for warning in shown {
        assert!(errors.contains(warning), "{errors}");
    }
    let stored = it.api.get(&["pod", "warned", "-n", &namespace]).unwrap();
    assert_eq!(names_of(&stored), ["app", "daprd"]);
}

#[test]
fn an_invalid_app_id_is_refused_and_kubectl_says_why() {
    let it = shared();
    let namespace = it.api.namespace("bad").unwrap();
    let annotations = enabled(&json!({"dapr.io/app-id": "Bad_Id"}));
    let (ok, errors) = it.create(&namespace, &pod("bad", &annotations), &[]).unwrap();
    assert!(!ok);
    let want = "admission webhook \"sidecar-injector.dapr.io\" denied the request: invalid app id (input: 'Bad_Id', service: 'Bad_Id-dapr')";
    assert!(errors.contains(want), "{errors}");
    assert!(errors.contains(&format!("pod {namespace}/bad")), "{errors}");
    // Other pods are not affected.
    let (ok, errors) = it.create(&namespace, &pod("good", &enabled(&json!({}))), &[]).unwrap();
    assert!(ok, "{errors}");
}

#[test]
fn a_deployment_without_an_app_id_gets_an_event() {
    let it = shared();
    let namespace = it.api.namespace("owner").unwrap();
    let (ok, errors) = it.create(&namespace, &deployment(&enabled(&json!({}))), &[]).unwrap();
    assert!(ok, "{errors}");
    let message = until(Deadline::seconds(START), "the event of the replica set", || {
        let events = it.api.get(&["events", "-n", &namespace])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let failed = events.iter().find(|event| event["reason"] == "FailedCreate");
        Ok(failed.and_then(|event| event["message"].as_str().map(str::to_owned)))
    });
    let message = message.unwrap();
    assert!(message.contains("value for the dapr.io/app-id annotation is empty"), "{message}");
    assert!(message.contains("of ReplicaSet web-"), "{message}");
}

#[test]
fn the_owner_of_a_pod_gets_an_event_about_an_invalid_value() {
    let it = shared();
    let namespace = it.api.namespace("event").unwrap();
    let annotations = enabled(&json!({"dapr.io/app-id": "web", "dapr.io/app-port": "x"}));
    let (ok, errors) = it.create(&namespace, &deployment(&annotations), &[]).unwrap();
    assert!(ok, "{errors}");
    let event = until(Deadline::seconds(START), "the injector's event", || {
        let events = it.api.get(&["events", "-n", &namespace])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        Ok(events.into_iter().find(|event| event["reason"] == "DaprInjected"))
    });
    let event = event.unwrap();
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["involvedObject"]["kind"], "ReplicaSet");
    let want = "sidecar of app web injected with warnings: dapr.io/app-port: \"x\" is not an integer; the default 0 applies";
    assert_eq!(event["message"], want);
}

#[test]
fn a_user_without_permission_gets_a_warning_and_the_pod_is_marked() {
    let it = shared();
    let namespace = it.api.namespace("jane").unwrap();
    it.api
        .kubectl(&[
            "create",
            "rolebinding",
            "jane",
            "-n",
            &namespace,
            "--clusterrole=edit",
            "--user=jane",
        ])
        .unwrap();
    let (ok, errors) =
        it.create(&namespace, &pod("hers", &enabled(&json!({}))), &["--as", "jane"]).unwrap();
    assert!(ok, "{errors}");
    let want = "Warning: dapr: sidecar not injected: user \"jane\" is neither in group system:masters nor in ALLOWED_SERVICE_ACCOUNTS";
    assert!(errors.contains(want), "{errors}");
    let stored = it.api.get(&["pod", "hers", "-n", &namespace]).unwrap();
    assert_eq!(names_of(&stored), ["app"]);
    assert_eq!(
        stored["metadata"]["annotations"]["dapr.io/injection-skipped"],
        "creator-not-allowed"
    );
}

#[test]
fn pods_without_the_annotation_and_dry_runs() {
    let it = shared();
    let namespace = it.api.namespace("plain").unwrap();
    let (ok, errors) = it.create(&namespace, &pod("plain", &json!({})), &[]).unwrap();
    assert!(ok && errors.is_empty(), "{errors}");
    let stored = it.api.get(&["pod", "plain", "-n", &namespace]).unwrap();
    assert_eq!(names_of(&stored), ["app"]);
    let dry = it
        .kubectl(
            &["create", "-n", &namespace, "--dry-run=server", "-o", "json", "-f", "-"],
            &pod("dry", &enabled(&json!({}))),
        )
        .unwrap();
    let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!(names_of(&dry), ["app", "daprd"]);
}

#[test]
fn the_container_of_a_component_comes_along() {
    let it = shared();
    let namespace = it.api.namespace("plug").unwrap();
    let component = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "store", "namespace": namespace, "annotations": {
            "dapr.io/component-container": json!({"image": "store:1"}).to_string(),
        }},
        "spec": {"type": "state.store", "version": "v1", "metadata": []},
    });
    it.api.apply(&component.to_string()).unwrap();
    let annotations = enabled(&json!({"dapr.io/inject-pluggable-components": "true"}));
    let mut attempt = 0;
    let stored = until(Deadline::seconds(START), "the watch to see the Component", || {
        attempt += 1;
        let name = format!("app-{attempt}");
        it.create(&namespace, &pod(&name, &annotations), &[]).unwrap();
        let stored = it.api.get(&["pod", &name, "-n", &namespace])?;
        Ok((names_of(&stored).len() == 3).then_some(stored))
    });
    let stored = stored.unwrap();
    assert_eq!(names_of(&stored), ["app", "daprd", "store"]);
    assert_eq!(container(&stored, "store")["env"][0]["name"], "DAPR_COMPONENT_SOCKETS_FOLDER");
}

#[test]
fn keeps_the_api_servers_trust_whatever_happens_to_it() {
    let mut it = InjectorFixture::start(Rights::Ours).unwrap();
    let anchors = it.anchors().unwrap();
    assert_eq!(it.ca_bundle().unwrap(), base64(&anchors));

    // The chart is applied again: the bundle is removed, and restored within seconds.
    let wipe = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    let hook = "mutatingwebhookconfiguration/dapr-sidecar-injector";
    it.api.kubectl(&["patch", hook, "--type=json", "-p", wipe]).unwrap();
    let restored = Deadline::seconds(RECONCILE);
    until(restored, "the caBundle", || {
        Ok((it.ca_bundle().unwrap() == base64(&anchors)).then_some(()))
    })
    .unwrap();
    assert!(it.injector.metric("dapr_injector_cabundle_repairs_total").unwrap() >= 1.0);

    // Sentry is stopped: injection does not need it.
    it.sentry.kill();
    let namespace = it.api.namespace("alone").unwrap();
    until(Deadline::seconds(START), "the API server to use the bundle", || {
        let (ok, errors) = it
            .create(
                &namespace,
                &pod("probe", &enabled(&json!({}))),
                &["--dry-run=server", "-o", "name"],
            )
            .unwrap();
        assert!(ok, "{errors}");
        Ok((it
            .injector
            .metric("dapr_injector_sidecar_injection_succeeded_total{app_id=\"probe\"}")
            .unwrap()
            > 1.0)
            .then_some(()))
    })
    .unwrap();

    // The anchors change: new pods and the API server get the new ones.
    let rotated = format!("{anchors}{}", testkit::ca::Ca::new().anchors().pem());
    it.write_anchors(&rotated).unwrap();
    until(Deadline::seconds(RECONCILE), "the rotated caBundle", || {
        Ok((it.ca_bundle().unwrap() == base64(&rotated)).then_some(()))
    })
    .unwrap();
    let (ok, errors) = it.create(&namespace, &pod("late", &enabled(&json!({}))), &[]).unwrap();
    assert!(ok, "{errors}");
    let stored = it.api.get(&["pod", "late", "-n", &namespace]).unwrap();
    let env = container(&stored, "daprd")["env"].as_array().unwrap();
    let trusted = env.iter().find(|v| v["name"] == "DAPR_TRUST_ANCHORS").unwrap();
    assert_eq!(trusted["value"], json!(rotated));
}

#[test]
fn runs_with_the_rights_of_daprs_own_chart_and_stops_without_dropping_pods() {
    let mut it = InjectorFixture::start(Rights::Dapr).unwrap();
    let anchors = it.anchors().unwrap();

    // Without the right to read, the bundle is written repeatedly.
    let wipe = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    let hook = "mutatingwebhookconfiguration/dapr-sidecar-injector";
    it.api.kubectl(&["patch", hook, "--type=json", "-p", wipe]).unwrap();
    until(Deadline::seconds(RECONCILE), "the caBundle", || {
        Ok((it.ca_bundle().unwrap() == base64(&anchors)).then_some(()))
    })
    .unwrap();

    // A stop: not ready at once, but pods are served until the API server has removed the endpoint.
    let namespace = it.api.namespace("stop").unwrap();
    let injected = |name: &str| {
        let (ok, errors) = it.create(&namespace, &pod(name, &enabled(&json!({}))), &[]).unwrap();
        assert!(ok, "{errors}");
        names_of(&it.api.get(&["pod", name, "-n", &namespace]).unwrap()).len() == 2
    };
    let mut attempt = 0;
    until(Deadline::seconds(START), "the API server to use the bundle", || {
        attempt += 1;
        Ok(injected(&format!("before-{attempt}")).then_some(()))
    })
    .unwrap();
    it.injector.process.signal(rustix::process::Signal::TERM).unwrap();
    until(Deadline::seconds(START), "the injector to be not ready", || {
        let health = blackbox::http::get(it.injector.health_port, "/healthz");
        Ok(health.is_ok_and(|answer| !answer.is_success()).then_some(()))
    })
    .unwrap();
    assert!(injected("during"), "the stop dropped a pod");
    let status = until(Deadline::seconds(START), "the injector to end", || {
        Ok(it.injector.process.exit_status())
    });
    assert_eq!(status.unwrap().code(), Some(0), "{}", it.injector.process.log());
}
