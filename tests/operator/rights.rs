//! The operator with limited rights, which the API server enforces.
use std::fs;

use blackbox::{ApiCluster, Scratch, environment, until};
use proto::operator::ResourceEventType::{Created, Updated};
use serde_json::{Value, json};
use tonic::Code;

use crate::fixture::proxy::{Fault, Proxy};
use crate::fixture::{Fixture, Operator, SYSTEM};
use crate::{component, component_with_secret, deployment, name, secret, timeout};

/// The rights that the chart of Dapr 1.18.3 grants.
const DAPR: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: rights-of-dapr}
rules:
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get, patch]}
- {apiGroups: [apps], resources: [deployments, statefulsets], verbs: [get, list, watch]}
- {apiGroups: [apps], resources: [deployments/finalizers, statefulsets/finalizers], verbs: [update]}
- {apiGroups: [''], resources: [pods], verbs: [get, list, watch, delete]}
- {apiGroups: [''], resources: [services], verbs: [get, list, watch, create, update, delete]}
- {apiGroups: [''], resources: [services/finalizers], verbs: [update]}
- {apiGroups: [''], resources: [secrets], verbs: [get, list, watch]}
- {apiGroups: [dapr.io], verbs: [get, list, watch],
   resources: [components, configurations, subscriptions, resiliencies, httpendpoints, mcpservers,
     workflowaccesspolicies]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: rights-of-dapr}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: rights-of-dapr}
subjects: [{kind: ServiceAccount, name: rights-of-dapr, namespace: dapr-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: rights-of-dapr, namespace: dapr-system}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [get], resourceNames: [dapr-trust-bundle]}
- {apiGroups: [''], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: rights-of-dapr, namespace: dapr-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: rights-of-dapr}
subjects: [{kind: ServiceAccount, name: rights-of-dapr, namespace: dapr-system}]
";

/// A proxy to an API server with the rights that the chart grants the operator with these values.
pub(crate) fn as_the_charts_operator(api: &ApiCluster, values: &str) -> Proxy {
    let chart = environment::workspace().join("charts/dapr");
    let values = format!("global.controlPlane.registry=none,{values}");
    let render = ["template", "dapr", chart.to_str().unwrap(), "--namespace", SYSTEM];
    let only = ["--set", &values, "--show-only", "templates/operator/rbac.yaml"];
    api.apply(&api.cluster().helm(&[&render[..], &only].concat()).unwrap()).unwrap();
    as_account(api, "dapr-operator")
}

/// A proxy to an API server with the rights of an account in the control plane's namespace.
fn as_account(api: &ApiCluster, account: &str) -> Proxy {
    let config = fs::read_to_string(api.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"]["as"] = json!(format!("system:serviceaccount:{SYSTEM}:{account}"));
    let folder = Scratch::new("account").unwrap();
    let kubeconfig = folder.write("kubeconfig", config.to_string()).unwrap();
    Proxy::start(&kubeconfig).unwrap()
}

/// An operator with all features enabled.
pub(crate) fn whole_operator(
    fixture: &Fixture,
    name: &str,
    proxy: &Proxy,
    webhook_port: u16,
    more: &[&str],
) -> Operator {
    let mut spawn = fixture
        .spawn(name)
        .args(["--kubeconfig", proxy.kubeconfig().to_str().unwrap()])
        .args(["--webhook-server-port", &webhook_port.to_string()])
        .arg("--watch-secrets");
    spawn.spawn = spawn.spawn.args(more).env("ENABLE_WEBHOOKS", "true");
    let mut operator = spawn.start_operator().unwrap();
    operator.wait_ready().unwrap();
    operator
}

/// Services are created and repaired, Secrets are resolved and watched, changes are streamed, and
/// Subscriptions are converted.
pub(crate) fn does_its_work(
    fixture: &Fixture,
    api: &ApiCluster,
    namespace: &str,
    operator: &Operator,
) {
    let kubectl = |args: &[&str]| api.kubectl(&[args, &["-n", namespace]].concat()).unwrap();
    let get = |kind: &str, name: &str| api.get(&[kind, name, "-n", namespace]).ok();
    let subscription = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s}\n\
                        spec: {pubsubname: p, topic: t, route: /r}\n---\n";
    let manifests = secret("redis") + &component_with_secret("store", "redis", "") + subscription;
    fixture.apply_on(api, namespace, &(manifests + &deployment("orders", "orders")));
    let mut app = fixture.sidecar(namespace, "orders", operator.port);
    let served = until(timeout(), "the Component", || Ok(app.components()?.pop())).unwrap();
    assert_eq!(served["spec"]["metadata"][0]["value"], "aHVudGVyMg==");
    until(timeout(), "the Subscription", || {
        Ok(app.subscriptions().pop().filter(|s| s["spec"]["routes"]["default"] == "/r"))
    })
    .unwrap();
    let old = get("subscriptions.v1alpha1.dapr.io", "s").unwrap();
    assert_eq!(old["spec"]["route"], "/r", "converted back for its author");

    let mut stream = app.open_components();
    fixture.apply_on(api, namespace, &component("comes", ""));
    let (event, body) = app.next(&mut stream);
    assert_eq!((event, name(&body)), (Created, "comes"));
    let rotated = r#"{"stringData": {"password": "rotated"}}"#;
    kubectl(&["patch", "secret", "redis", "-p", rotated]);
    let (event, body) = app.next(&mut stream);
    assert_eq!((event, name(&body)), (Updated, "store"));
    assert_eq!(body["spec"]["metadata"][0]["value"], "cm90YXRlZA==");

    let service = || get("service", "orders-dapr");
    let made = until(timeout(), "the Service", || Ok(service())).unwrap();
    kubectl(&["delete", "service", "orders-dapr"]);
    until(timeout(), "the Service again", || {
        Ok(service().filter(|again| again["metadata"]["uid"] != made["metadata"]["uid"]))
    })
    .unwrap();
}

#[test]
fn rights_of_the_reference_chart_are_sufficient() {
    let fixture = Fixture::shared();
    let (_turn, api) = fixture.second();
    let webhook = fixture.install_on(api).unwrap();
    api.apply(DAPR).unwrap();
    let proxy = as_account(api, "rights-of-dapr");
    let operator = whole_operator(fixture, "rights-of-dapr", &proxy, webhook, &[]);
    does_its_work(fixture, api, "rights-of-dapr", &operator);
    // A permanent failure is logged once, not at each retry.
    let kind = "kind=\"CustomResourceDefinition\"";
    let failures = format!("dapr_operator_watch_failures_total{{{kind}}}");
    until(timeout(), "more tries", || Ok((operator.metric(&failures) >= 3.0).then_some(())))
        .unwrap();
    let log = operator.process.log();
    let logged = log.lines().filter(|line| {
        line.contains("watch failed, retrying") && line.contains("customresourcedefinitions")
    });
    assert_eq!(logged.count(), 1, "{log}");
    // It logs what is forbidden and does the rest.
    let forbidden = proxy.forbidden();
    let expected = |request: &&String| {
        request.contains("/events.k8s.io/") || request.ends_with("/customresourcedefinitions")
    };
    let other: Vec<_> = forbidden.iter().filter(|request| !expected(request)).collect();
    assert!(other.is_empty(), "{other:?}");
}

#[test]
fn one_namespace_needs_no_rights_in_others_and_recovers_from_their_loss() {
    let fixture = Fixture::shared();
    let (_turn, api) = fixture.second();
    let webhook = fixture.install_on(api).unwrap();
    let proxy = as_the_charts_operator(api, "global.rbac.namespaced=true");
    let only = ["--watch-namespace", SYSTEM];
    let operator = whole_operator(fixture, "namespaced", &proxy, webhook, &only);
    does_its_work(fixture, api, SYSTEM, &operator);
    assert_eq!(proxy.forbidden(), [""; 0]);
    let mut stranger = fixture.sidecar("elsewhere", "orders", operator.port);
    assert_eq!(stranger.components().unwrap_err().code(), Code::Unknown);
    let own = format!("/namespaces/{SYSTEM}/");
    let mut outside: Vec<_> = proxy.paths().into_iter().filter(|p| !p.contains(&own)).collect();
    outside.sort();
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = format!("{definitions}/subscriptions.dapr.io");
    assert_eq!(outside, [definitions, &definition]);

    // The Role is deleted and created again.
    let mut app = fixture.sidecar(SYSTEM, "orders", operator.port);
    let mut stream = app.open_components();
    let binding = ["rolebinding", "dapr-operator", "-n", SYSTEM];
    let saved = api.get(&binding).unwrap();
    api.kubectl(&[&["delete"], &binding[..]].concat()).unwrap();
    // Open watches continue; this ends them.
    proxy.rule(|_| Fault::Pass);
    let is_components = |request: &String| request.ends_with("/components");
    until(timeout(), "the refusal", || Ok(proxy.forbidden().into_iter().find(is_components)))
        .unwrap();
    let status = app.components().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the Secret cannot be read: {status:?}");
    fixture.apply_on(api, SYSTEM, &component("meanwhile", ""));
    let mut binding = json!({"apiVersion": saved["apiVersion"], "kind": saved["kind"]});
    binding["metadata"] = json!({"name": "dapr-operator", "namespace": SYSTEM});
    binding["roleRef"] = saved["roleRef"].clone();
    binding["subjects"] = saved["subjects"].clone();
    api.apply(&binding.to_string()).unwrap();
    let (event, body) = app.next(&mut stream);
    assert_eq!((event, name(&body)), (Created, "meanwhile"));
    assert_eq!(app.component_names(), ["comes", "meanwhile", "store"]);
}
