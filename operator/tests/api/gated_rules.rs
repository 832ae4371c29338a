//! Workflow access rules that a sidecar cannot enforce are withheld from it.
use bytes::Bytes;
use proto::operator::{
    ListWorkflowAccessPolicyRequest, ResourceEventType, WorkflowAccessPolicyUpdateEvent,
    WorkflowAccessPolicyUpdateRequest,
};
use serde_json::{Value, json};
use tonic::{Code, Status, Streaming};

use crate::fixture::{Fixture, object};

const NAMESPACE: &str = "shop";

/// A policy with one gated and one open rule; each version has other callers.
fn policy(version: u32, scopes: &[&str]) -> Value {
    let gate = json!([{"eventType": "activity.completed", "name": "pay", "appID": "bills"}]);
    let rules = json!([{"callers": [{"appID": format!("caller-{version}")}],
        "workflows": [{"name": "gated", "operations": ["schedule"], "requires": gate},
            {"name": "open", "operations": ["schedule"]}],
        "activities": [{"name": "gated-activity", "requires": gate}]}]);
    let members = json!({"spec": {"rules": rules}, "scopes": scopes});
    object("WorkflowAccessPolicy", "p", &version.to_string(), &members)
}

/// Names of the workflows and activities of a policy.
fn granted(body: &Bytes) -> Vec<String> {
    let policy: Value = serde_json::from_slice(body).unwrap();
    let rule = &policy["spec"]["rules"][0];
    let of = |kind: &str| rule[kind].as_array().cloned().unwrap_or_default();
    let rules = of("workflows").into_iter().chain(of("activities"));
    rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
}

const ALL: [&str; 3] = ["gated", "open", "gated-activity"];

async fn list(fixture: &Fixture, app: &str) -> Result<Bytes, Status> {
    let request = ListWorkflowAccessPolicyRequest { namespace: NAMESPACE.to_owned() };
    let answer = fixture.client(NAMESPACE, app).list_workflow_access_policy(request).await?;
    Ok(answer.into_inner().policies[0].clone())
}

async fn open(fixture: &Fixture, app: &str) -> Streaming<WorkflowAccessPolicyUpdateEvent> {
    let request = WorkflowAccessPolicyUpdateRequest { namespace: NAMESPACE.to_owned() };
    let mut client = fixture.client(NAMESPACE, app);
    client.workflow_access_policy_update(request).await.unwrap().into_inner()
}

async fn event(stream: &mut Streaming<WorkflowAccessPolicyUpdateEvent>) -> (i32, Bytes) {
    let timeout = std::time::Duration::from_secs(20);
    let event = tokio::time::timeout(timeout, stream.message()).await.expect("no event came");
    let event = event.unwrap().expect("stream ended");
    (event.r#type, event.policy)
}

#[tokio::test]
async fn gated_rules_are_withheld_from_sidecars_that_ignore_gates() {
    let fixture = Fixture::start().await;
    fixture.sidecars(&[
        ("old", "ghcr.io/dapr/daprd:1.18.5"),
        ("new", "ghcr.io/dapr/daprd:1.19.0"),
        ("custom", "registry:5000/daprd:edge"),
    ]);
    fixture.synced();
    for (app, want) in
        [("old", &["open"][..]), ("new", &ALL), ("custom", &ALL), ("without-a-pod", &ALL)]
    {
        let mut stream = open(&fixture, app).await;
        for (version, type_) in [(1, ResourceEventType::Created), (2, ResourceEventType::Updated)] {
            fixture.put(&policy(version, &[]));
            let (kind, body) = event(&mut stream).await;
            assert_eq!(kind, i32::from(type_), "{app}");
            assert_eq!(granted(&body), want, "{app}");
            assert!(!body.starts_with(b"{\"kind\""), "{app}");
        }
        let body = list(&fixture, app).await.unwrap();
        assert_eq!(granted(&body), want, "{app}");
        assert!(body.starts_with(b"{\"kind\""), "{app}");
        fixture.delete(&policy(2, &[]));
        let (kind, body) = event(&mut stream).await;
        assert_eq!(kind, i32::from(ResourceEventType::Deleted), "{app}");
        let deleted: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(deleted["metadata"]["name"], "p");
    }
}

#[tokio::test]
async fn policy_of_other_apps_is_unchanged() {
    let fixture = Fixture::start().await;
    fixture.sidecars(&[("old", "daprd:1.18.5")]);
    fixture.put(&policy(1, &["new"]));
    fixture.synced();
    assert_eq!(granted(&list(&fixture, "old").await.unwrap()), ALL);
}

#[tokio::test]
async fn policy_that_becomes_empty_still_denies() {
    let fixture = Fixture::start().await;
    fixture.sidecars(&[("old", "daprd:1.18.5")]);
    let mut only_gated = policy(1, &[]);
    let rule = &mut only_gated["spec"]["rules"][0];
    rule["workflows"].as_array_mut().unwrap().pop();
    fixture.put(&only_gated);
    fixture.synced();
    let body: Value = serde_json::from_slice(&list(&fixture, "old").await.unwrap()).unwrap();
    assert_eq!(body["metadata"]["name"], "p");
    assert_eq!(body["spec"], json!({}));
}

/// Without an answer the version is unknown: an older sidecar must not receive a gated rule, and a
/// newer one must not lose it.
#[tokio::test]
async fn unreadable_pods_delay_the_policy() {
    let fixture = Fixture::start().await;
    fixture.no_pods();
    fixture.synced();
    let mut stream = open(&fixture, "new").await;
    fixture.put(&policy(1, &[]));
    let status = list(&fixture, "new").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "which sidecars retry");
    assert!(
        status.message().starts_with("read the version of the sidecar of app new: "),
        "{status}"
    );

    fixture.put(&object("WorkflowAccessPolicy", "q", "2", &json!({"spec": {}})));
    let (_, body) = event(&mut stream).await;
    let other: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(other["metadata"]["name"], "q", "p waits and holds up no other policy");

    fixture.sidecars(&[("new", "daprd:1.19.0")]);
    assert_eq!(granted(&list(&fixture, "new").await.unwrap()), ALL);
    fixture.put(&policy(3, &[]));
    assert_eq!(granted(&event(&mut stream).await.1), ALL);
}
