//! Whole admission reviews: allowed users, answers, order of the decisions.

use base64::Engine as _;
use rstest::rstest;
use serde_json::{Value, json};
use sidecar_injector::{AdmissionDecision, AllowList, AllowedUsers, Outcome, Review, SkipReason};

use crate::setting::{context, pod, settings};

fn review(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "default", "operation": "CREATE", "object": object,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "x", "groups": ["system:serviceaccounts"]},
        },
    })
}

fn decide(review: &Value) -> (AdmissionDecision, Value) {
    decide_with(review, false)
}

fn decide_with(review: &Value, mark_skipped: bool) -> (AdmissionDecision, Value) {
    let allowed = AllowList::parse([]).unwrap();
    let users = AllowedUsers { allowed: &allowed, uids: &[], mark_skipped };
    let review = Review::parse(review.to_string().as_bytes()).unwrap();
    let settings = settings();
    let decision = review.decide(&context(&settings), &users);
    let answer = serde_json::to_value(review.answer(&decision)).unwrap();
    (decision, answer)
}

fn stranger(mut review: Value) -> Value {
    review["request"]["userInfo"] = json!({"username": "jane", "groups": ["dev"]});
    review
}

#[test]
fn an_enabled_pod_is_patched() {
    let pod = pod(&json!({}));
    let (decision, answer) = decide(&review(&pod));
    assert_eq!(
        (decision.app.as_str(), &decision.outcome),
        ("app", &Outcome::Injected { defaults: None })
    );
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"], &response["patchType"]),
        (&json!("u-1"), &json!(true), &json!("JSONPatch"))
    );
    let patch = base64::engine::general_purpose::STANDARD
        .decode(response["patch"].as_str().unwrap())
        .unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut pod = pod;
    json_patch::patch(&mut pod, &patch).unwrap();
    assert_eq!(pod["spec"]["containers"][1]["name"], "daprd");
    assert!(answer.get("request").is_none());
    assert!(response.get("status").is_none() && response.get("warnings").is_none());
}

#[test]
fn v1beta1_is_answered_in_kind() {
    let mut review = review(&pod(&json!({})));
    review["apiVersion"] = json!("admission.k8s.io/v1beta1");
    assert_eq!(decide(&review).1["apiVersion"], "admission.k8s.io/v1beta1");
}

#[test]
fn an_administrator_may_inject_a_bare_pod_whose_name_is_its_id() {
    let pod = json!({"metadata": {"name": "solo", "annotations": {"dapr.io/enabled": "YES"}}, "spec": {"containers": [{"name": "c"}]}});
    let mut review = review(&pod);
    review["request"]["userInfo"] = json!({"username": "root", "groups": ["system:masters"]});
    let (decision, answer) = decide(&review);
    assert_eq!(
        (decision.app.as_str(), decision.outcome),
        ("solo", Outcome::Injected { defaults: None })
    );
    assert!(answer["response"]["patch"].is_string());
}

#[rstest]
#[case::not_enabled(json!({"dapr.io/enabled": "false"}), SkipReason::NotEnabled)]
#[case::odd(json!({"dapr.io/enabled": "ture"}), SkipReason::NotEnabled)]
fn a_pod_without_the_annotation_is_unchanged_for_every_user(
    #[case] annotations: Value,
    #[case] skip: SkipReason,
) {
    let (decision, answer) = decide(&stranger(review(&pod(&annotations))));
    assert_eq!(decision.outcome, Outcome::Skipped(skip));
    let response = &answer["response"];
    assert_eq!(response["allowed"], true);
    assert!(response.get("patch").is_none() && response.get("patchType").is_none());
}

#[rstest]
#[case("containers")]
#[case("initContainers")]
fn a_pod_with_a_sidecar_of_its_own_is_left_alone(#[case] list: &str) {
    let mut pod = pod(&json!({}));
    pod["spec"][list] = json!([{"name": "daprd"}]);
    let (decision, answer) = decide(&review(&pod));
    assert_eq!(decision.outcome, Outcome::Skipped(SkipReason::AlreadyPresent));
    assert!(answer["response"].get("patch").is_none());
}

#[test]
fn a_user_without_permission_gets_no_sidecar_and_the_reason() {
    let (decision, answer) = decide(&stranger(review(&pod(&json!({})))));
    assert_eq!(decision.outcome, Outcome::NotAllowed { username: "jane".to_owned() });
    let response = &answer["response"];
    assert_eq!(response["allowed"], true);
    assert!(response.get("patch").is_none());
    assert_eq!(
        response["warnings"],
        json!([
            "dapr: sidecar not injected: user \"jane\" is neither in group system:masters nor in ALLOWED_SERVICE_ACCOUNTS of the sidecar injector"
        ])
    );
}

#[test]
fn with_a_guard_installed_a_pod_of_another_user_is_marked() {
    let (decision, _) = decide_with(&stranger(review(&pod(&json!({})))), true);
    assert_eq!(
        json!(decision.patch()),
        json!([{"op": "add", "path": "/metadata/annotations/dapr.io~1injection-skipped", "value": "creator-not-allowed"}])
    );
}

#[test]
fn an_invalid_app_id_is_refused_with_a_text_for_the_user() {
    let (decision, answer) = decide(&review(&pod(&json!({"dapr.io/app-id": "Not_Valid"}))));
    assert!(matches!(decision.outcome, Outcome::Refused(_)));
    let response = &answer["response"];
    assert_eq!(response["allowed"], false);
    assert!(response.get("patch").is_none());
    assert_eq!(response["status"]["metadata"], json!({}));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("invalid app id (input: 'Not_Valid', service: 'Not_Valid-dapr')"),
        "{message}"
    );
}

#[test]
fn other_kinds_pass_unchanged() {
    let mut review = review(&json!({}));
    review["request"]["kind"]["kind"] = json!("Deployment");
    let (decision, answer) = decide(&review);
    assert_eq!(decision.outcome, Outcome::WrongKind { kind: "Deployment".to_owned() });
    assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
}

#[rstest]
#[case::absent(Value::Null)]
#[case::list(json!([]))]
#[case::bad_annotations(json!({"metadata": {"annotations": {"a": 1}}, "spec": {}}))]
fn an_object_that_is_no_pod_is_refused(#[case] object: Value) {
    let (decision, _) = decide(&review(&object));
    let Outcome::Refused(message) = decision.outcome else { panic!("{decision:?}") };
    assert!(message.starts_with("could not unmarshal raw object: "), "{message}");
}

#[rstest]
#[case("")]
#[case("[]")]
#[case("{}")]
#[case(r#"{"request": null}"#)]
#[case(r#"{"request": {"uid": 1}}"#)]
#[case("not json")]
fn what_is_no_review_is_not_decoded(#[case] body: &str) {
    assert!(Review::parse(body.as_bytes()).is_err());
}

#[test]
fn a_container_that_came_later_gets_its_variables() {
    let settings = settings();
    let mut pod =
        crate::setting::patched(&pod(&json!({"dapr.io/grpc-port": "7000"})), &context(&settings));
    let (decision, _) = decide(&review(&pod));
    assert_eq!(
        decision.outcome,
        Outcome::Skipped(SkipReason::AlreadyPresent),
        "nothing is missing yet"
    );
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "late"}));
    pod["metadata"]["labels"].as_object_mut().unwrap().remove("dapr.io/app-id");
    let (decision, _) = decide(&review(&pod));
    assert_eq!(decision.outcome, Outcome::Injected { defaults: None });
    insta::assert_json_snapshot!(json!(decision.patch()));
}

/// The review of a pod that a replica set owns.
fn owned(annotations: &Value) -> Value {
    let mut pod = pod(annotations);
    pod["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o-1", "controller": true}
    ]);
    review(&pod)
}

/// Reason, type and note of the Event for a review.
fn event(review: &Value) -> Option<[String; 3]> {
    let (decision, _) = decide(review);
    let review = Review::parse(review.to_string().as_bytes()).unwrap();
    let event = review.event(&decision)?;
    let (owner, event) = event.into_event();
    assert_eq!(owner.uid.as_deref(), Some("o-1"));
    Some([event.reason.to_owned(), format!("{:?}", event.type_), event.note])
}

#[test]
fn an_event_reports_the_outcome_to_the_owner() {
    let reviews = [
        owned(&json!({})),
        owned(&json!({"dapr.io/app-port": "x"})),
        owned(&json!({"dapr.io/app-id": "Bad"})),
        stranger(owned(&json!({}))),
    ];
    let events: Vec<String> = reviews.iter().map(|r| event(r).unwrap().join(" | ")).collect();
    insta::assert_snapshot!(events.join("\n"));
}

#[test]
fn no_event_for_dry_runs_and_pods_that_request_nothing() {
    let mut dry = owned(&json!({}));
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(event(&dry), None);
    assert_eq!(event(&owned(&json!({"dapr.io/enabled": "false"}))), None);
    assert_eq!(event(&review(&pod(&json!({})))), None, "no owner");
}
