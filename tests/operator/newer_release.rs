//! An installation of Dapr 1.19 and later whose control plane is replaced by ours and back.
use std::fs;

use blackbox::{ApiCluster, ApiClusterOptions, Scratch, apply_crds, environment, reference, until};
use proto::operator::{ResourceEventType, WorkflowAccessPolicyUpdateRequest};
use serde_json::{Map, Value, json};

use crate::fixture::{Fixture, SYSTEM};
use crate::gated_rules::rules;
use crate::{Sidecar, timeout};

const NAMESPACE: &str = "shop";
/// A member of a future release, in the definition of every kind.
const LATER: &str = "later";

fn later() -> Value {
    json!({"list": [1, "x"], "number": 1.5})
}

/// The definitions of 1.19 and one more member, written as the official CLI does.
fn apply_definitions(api: &ApiCluster) {
    for entry in fs::read_dir(environment::workspace().join("crds")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut definition: Value = serde_saphyr::from_str(&text).unwrap();
        definition["metadata"] = json!({"name": definition["metadata"]["name"]});
        for version in definition["spec"]["versions"].as_array_mut().unwrap() {
            let schema = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            schema["properties"][LATER] =
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--field-manager=cli", "-f", "-"];
        api.cluster().kubectl_with_input(&apply, &definition.to_string()).unwrap();
    }
}

/// An object of each kind, with every member that 1.19 added.
fn objects() -> Vec<Value> {
    let workflow = json!({"latencyDistributionBuckets": [1, 5, 25],
        "latencyDistributionUnits": "10ms"});
    let specs = [
        ("Component", json!({"type": "state.in-memory", "version": "v1", "metadata": []})),
        (
            "Configuration",
            json!({"metric": {"enabled": true, "workflow": workflow},
            "metrics": {"enabled": true, "workflow": {"latencyDistributionBuckets": []}}}),
        ),
        ("HTTPEndpoint", json!({"baseUrl": "http://a.example"})),
        ("MCPServer", json!({"endpoint": {"streamableHTTP": {"url": "http://a.example"}}})),
        (
            "Resiliency",
            json!({"policies": {"retries": {"r": {"policy": "constant"}}},
            "targets": {}}),
        ),
        ("Subscription", json!({"pubsubname": "p", "topic": "t", "routes": {"default": "/a"}})),
        ("WorkflowAccessPolicy", json!({"rules": rules("till")})),
    ];
    specs.into_iter().map(|(kind, spec)| object(kind, "kept", spec)).collect()
}

fn object(kind: &str, name: &str, mut spec: Value) -> Value {
    let version = if kind == "Subscription" { "v2alpha1" } else { "v1alpha1" };
    spec[LATER] = later();
    json!({"apiVersion": format!("dapr.io/{version}"), "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

/// Everything that must not change: the definitions and the objects of users.
fn picture(api: &ApiCluster) -> Value {
    let kinds = "components.dapr.io,configurations.dapr.io,httpendpoints.dapr.io,\
                 mcpservers.dapr.io,resiliencies.dapr.io,subscriptions.v2alpha1.dapr.io,\
                 workflowaccesspolicies.dapr.io";
    let of = |args: &[&str]| -> Map<String, Value> {
        let list = api.get(&[args, &["--show-managed-fields"]].concat()).unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let key = |o: &Value| format!("{} {}", o["kind"], o["metadata"]["name"]);
        items
            .filter(|object| object["metadata"]["name"] != "daprsystem")
            .map(|object| (key(object), object.clone()))
            .collect()
    };
    json!({"definitions": of(&["crd"]), "objects": of(&[kinds, "-n", NAMESPACE])})
}

struct Release<'a> {
    api: &'a ApiCluster,
    values: String,
}

impl Release<'_> {
    fn helm(&self, verb: &[&str], rest: &[&str]) {
        let args = [verb, &["dapr"], rest, &["--namespace", SYSTEM]].concat();
        self.api.cluster().helm(&args).unwrap();
    }

    fn install_the_reference(&self) {
        let chart = reference::chart().unwrap();
        let tag = format!("global.tag={}", reference::tag());
        let chart = chart.to_string_lossy();
        self.helm(
            &["install", "--create-namespace"],
            &[&chart, "-f", &self.values, "--set", "global.registry=ghcr.io/dapr", "--set", &tag],
        );
    }

    /// Upgrades to our chart; its hook is run by hand, because this cluster runs no pods.
    fn upgrade(&self, values: &str) {
        let chart = environment::workspace().join("charts/dapr");
        let chart = chart.to_string_lossy();
        let sets = [
            "global.registry=",
            "global.tag=",
            "global.controlPlane.registry=registry.example/trilby",
            "global.scheduler.enabled=false",
            "crds.upgradeJob.enabled=false",
            "dapr_scheduler.upgradeCheck.enabled=false",
        ];
        let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let (log, success) = apply_crds(self.api.kubeconfig(), SYSTEM).unwrap();
        assert!(success, "{log}");
        assert_eq!(log.matches("newer than this release").count(), 7, "{log}");
        self.helm(&["upgrade", values], &[&[&*chart], &sets[..]].concat());
    }
}

/// The sidecar receives every member by list and on its stream.
fn is_served(fixture: &Fixture, api: &ApiCluster, shop: &mut Sidecar, step: &str) {
    let request = WorkflowAccessPolicyUpdateRequest { namespace: NAMESPACE.to_owned() };
    let stream = shop.client.workflow_access_policy_update(request);
    let mut stream = shop.runtime.block_on(stream).unwrap().into_inner();
    let policy = object("WorkflowAccessPolicy", "passing", json!({"rules": rules(step)}));
    fixture.apply_on(api, NAMESPACE, &policy.to_string());
    let event = shop.event(&mut stream);
    assert_eq!(event.r#type(), ResourceEventType::Created, "{step}");
    let sent: Value = serde_json::from_slice(&event.policy).unwrap();
    assert_eq!(sent["spec"], policy["spec"], "{step}");
    let delete = ["delete", "workflowaccesspolicies.dapr.io", "passing", "-n", NAMESPACE];
    api.kubectl(&delete).unwrap();
    assert_eq!(shop.event(&mut stream).r#type(), ResourceEventType::Deleted, "{step}");

    let everything = until(timeout(), "the objects", || {
        let everything = shop.everything();
        Ok(everything.iter().all(|(_, objects)| objects.len() == 1).then_some(everything))
    })
    .unwrap();
    for (plural, listed) in everything {
        assert_eq!(listed[0]["spec"][LATER], later(), "{step}: {plural}");
        if plural == "workflowaccesspolicies" {
            assert_eq!(listed[0]["spec"]["rules"], rules("till"), "{step}");
        }
    }
    let configuration = shop.configuration("kept").unwrap();
    assert_eq!(configuration["spec"][LATER], later(), "{step}");
    let workflow = json!({"latencyDistributionBuckets": [1, 5, 25],
        "latencyDistributionUnits": "10ms"});
    assert_eq!(configuration["spec"]["metric"]["workflow"], workflow, "{step}");
    let empty = json!({"latencyDistributionBuckets": []});
    assert_eq!(configuration["spec"]["metrics"]["workflow"], empty, "{step}");
}

#[test]
fn definitions_and_objects_of_a_newer_installation_are_kept() {
    let fixture = Fixture::shared();
    let options = ApiClusterOptions { controllers: false, ..ApiClusterOptions::default() };
    let api = ApiCluster::start_with(options).unwrap();
    let scratch = Scratch::new("newer").unwrap();
    let values = json!({
        "global": {"mtls": {"sentryAddress": format!("127.0.0.1:{}", fixture.sentry_port)},
            "scheduler": {"placement": {"enabled": false}}},
        "dapr_sentry": {"extraArgs": []},
        "dapr_scheduler": {"securityContext": {"fsGroup": null}},
    });
    let values = scratch.write("values.json", values.to_string()).unwrap();
    let release = Release { api: &api, values: values.to_string_lossy().into_owned() };

    release.install_the_reference();
    apply_definitions(&api);
    api.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects()}).to_string();
    until(timeout(), "the new members to be served", || {
        let create = ["apply", "--server-side", "--validate=false", "-f", "-"];
        api.cluster().kubectl_with_input(&create, &list)?;
        let objects = picture(&api)["objects"].clone();
        let has = |object: &Value| object["spec"][LATER] == later();
        Ok(objects
            .as_object()
            .is_some_and(|all| all.len() == 7 && all.values().all(has))
            .then_some(()))
    })
    .unwrap();
    let before = picture(&api);

    let mut operator = fixture
        .spawn("newer")
        .args(["--kubeconfig", api.kubeconfig().to_str().unwrap()])
        .arg("--disable-service-reconciler")
        .start_operator()
        .unwrap();
    operator.wait_ready().unwrap();
    let mut shop = fixture.sidecar(NAMESPACE, "shop", operator.port);
    let mut unchanged = |step: &str| {
        is_served(fixture, &api, &mut shop, step);
        assert_same(&picture(&api), &before, step);
    };
    release.upgrade("--reuse-values");
    unchanged("reuse-values");
    release.upgrade("--reset-then-reuse-values");
    unchanged("reset-then-reuse-values");
    release.helm(&["rollback"], &["1"]);
    unchanged("rollback-to-the-reference");
    release.helm(&["rollback"], &["3"]);
    unchanged("rollback-to-ours");
}

/// Compares object by object, so that a failure names the one that differs.
fn assert_same(now: &Value, before: &Value, step: &str) {
    for part in ["definitions", "objects"] {
        let (now, before) = (&now[part], &before[part]);
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(now), names(before), "{step}");
        for name in names(now) {
            assert_eq!(now[&name], before[&name], "{step}: {name}");
        }
    }
}
