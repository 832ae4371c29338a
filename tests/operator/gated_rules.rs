//! Workflow access rules with `requires` and sidecars of versions that ignore it.
use blackbox::until;
use proto::operator::{ResourceEventType, WorkflowAccessPolicyUpdateRequest};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::{Sidecar, timeout, warnings};

/// A pod as the injector makes it.
fn pod(app: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{app}-{version}"), "labels": {"dapr.io/app-id": app},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app}},
        "spec": {"containers": [{"name": "app", "image": "localhost/pause:1"},
            {"name": "daprd", "image": format!("ghcr.io/dapr/daprd:{version}")}]}})
}

pub(crate) fn rules(caller: &str) -> Value {
    json!([{"callers": [{"appID": caller}],
        "workflows": [
            {"name": "refund", "operations": ["schedule"], "requires":
                [{"eventType": "activity.completed", "name": "approve", "appID": "till"}]},
            {"name": "quote", "operations": ["schedule", "get"]}],
        "activities": [{"name": "pay", "requires":
            [{"eventType": "event.raised", "name": "paid", "appID": "till"}]}]}])
}

fn without_gates(caller: &str) -> Value {
    json!([{"callers": [{"appID": caller}],
        "workflows": [{"name": "quote", "operations": ["schedule", "get"]}]}])
}

fn policy(caller: &str) -> Value {
    json!({"apiVersion": "dapr.io/v1alpha1", "kind": "WorkflowAccessPolicy",
        "metadata": {"name": "refunds"}, "spec": {"rules": rules(caller)}})
}

fn listed(sidecar: &mut Sidecar) -> Value {
    let (kind, policies) = sidecar.everything().pop().unwrap();
    assert_eq!(kind, "workflowaccesspolicies");
    policies[0]["spec"]["rules"].clone()
}

/// The pod of this name has the address of the test's sidecars.
fn has_our_address(fixture: &Fixture, namespace: &str, pod: &str) {
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    let args = ["-n", namespace, "patch", "pod", pod, "--subresource=status", "-p"];
    let status = status.to_string();
    fixture.api.kubectl(&[&args[..], &[status.as_str()]].concat()).unwrap();
}

#[test]
fn gated_rules_reach_no_sidecar_that_ignores_gates() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("gated").unwrap();
    let objects = [
        pod("old", "1.18.5"),
        pod("new", "1.19.0"),
        pod("mixed", "1.18.5"),
        pod("mixed", "1.19.0"),
        policy("shop"),
    ];
    fixture.apply(
        &namespace,
        &json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string(),
    );
    let port = fixture.operator.port;
    let mut sidecars: Vec<_> = ["old", "new", "mixed"]
        .into_iter()
        .map(|app| (app, fixture.sidecar(&namespace, app, port)))
        .collect();
    until(timeout(), "the policy to be served", || {
        let (_, policies) = sidecars[0].1.everything().pop().unwrap();
        Ok((!policies.is_empty()).then_some(()))
    })
    .unwrap();

    // Neither pod of `mixed` has an address, so its sidecar may be the older one.
    for ((app, sidecar), want) in
        sidecars.iter_mut().zip([without_gates("shop"), rules("shop"), without_gates("shop")])
    {
        assert_eq!(listed(sidecar), want, "{app}");
    }
    // The address identifies the pod; those of other apps with it have no effect.
    for pod in ["mixed-1.19.0", "old-1.18.5"] {
        has_our_address(fixture, &namespace, pod);
    }
    let wanted = [without_gates as fn(&str) -> Value, rules, rules];
    for ((app, sidecar), want) in sidecars.iter_mut().zip(wanted) {
        assert_eq!(listed(sidecar), want("shop"), "{app}");
        let request = WorkflowAccessPolicyUpdateRequest { namespace: namespace.clone() };
        let stream = sidecar.client.workflow_access_policy_update(request);
        let mut stream = sidecar.runtime.block_on(stream).unwrap().into_inner();
        for caller in [format!("{app}-1"), format!("{app}-2")] {
            fixture.apply(&namespace, &policy(&caller).to_string());
            let event = sidecar.event(&mut stream);
            assert_eq!(event.r#type(), ResourceEventType::Updated, "{app}");
            let sent: Value = serde_json::from_slice(&event.policy).unwrap();
            assert_eq!(sent["spec"]["rules"], want(&caller), "{app}");
        }
        fixture.apply(&namespace, &policy("shop").to_string());
        sidecar.event(&mut stream);
        until(timeout(), "the caches to hold the policy", || {
            Ok((listed(sidecar) == want("shop")).then_some(()))
        })
        .unwrap();
    }

    let notes = until(timeout(), "the Events", || {
        let notes = warnings(fixture, &namespace, "refunds");
        let names =
            |app: &str| notes.iter().any(|text| text.contains(&format!("from app {app}: ")));
        Ok((names("old") && names("mixed")).then_some(notes))
    })
    .unwrap();
    let want = "RequiresNotEnforced: withheld 2 rules with requires from app old: its sidecar \
                ghcr.io/dapr/daprd:1.18.5 ignores requires and would grant access; upgrade the \
                sidecar to Dapr 1.19";
    assert!(notes.iter().any(|text| text == want), "{notes:?}");
    assert!(!notes.iter().any(|text| text.contains("app new")), "{notes:?}");

    let mut other = fixture
        .spawn("ungated")
        .args(["--disable-service-reconciler", "--withhold-gated-workflow-rules=false"])
        .start_operator()
        .unwrap();
    other.wait_ready().unwrap();
    let mut old = fixture.sidecar(&namespace, "old", other.port);
    assert_eq!(listed(&mut old), rules("shop"), "switched off");
}
