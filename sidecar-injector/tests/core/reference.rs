//! The same answers as Dapr's injector to the same requests, except for the differences listed
//! here.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sidecar_injector::{AllowList, AllowedUsers, InjectionContext, Outcome, Review};

use crate::setting::{context, settings};

/// Intended differences, and their reasons. Texts of refusals are not compared.
const DIFFERENCES: [(&str, &str); 13] = [
    (r#"block-shutdown-duration="""#, "an empty value has its default: daprd would not start"),
    (r#"config="""#, "an empty name is removed, or sentry would refuse the sidecar"),
    (r#"app-binding-options-timeout="30s""#, "the flag came with 1.18.3"),
    (r#"log-level="""#, "an empty value has its default: daprd would not start"),
    (r#"enable-metrics="""#, "off means off: daprd's own default is on"),
    (r#"enable-metrics="false""#, "off means off: daprd's own default is on"),
    (r#"metrics-port="99999999999""#, "a number beyond 32 bits is ignored, not cut"),
    (r#"env="A=""#, "an empty value is spelled out; it means the same"),
    (r#"env-from-secret="A=a:b:c""#, "a dropped variable is not listed in DAPR_ENV_KEYS"),
    (r#"enabled=" true""#, "truthy is truthy, as in the operator"),
    (r#"enabled="yes""#, "truthy is truthy, as in the operator"),
    (r#"enabled="1""#, "truthy is truthy, as in the operator"),
    (r#"app-id="a-""#, "the label would be refused later, with a worse text"),
];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/injector/dapr-1.18.1.json")).unwrap()
}

/// A recorded patch with its container completed.
fn expand(patch: &Value, sidecar: &Value) -> Value {
    let mut patch = patch.clone();
    for operation in patch.as_array_mut().into_iter().flatten() {
        if operation["value"]["name"] != "daprd" {
            continue;
        }
        let mut whole = sidecar.as_object().unwrap().clone();
        for (member, value) in operation["value"].as_object().unwrap() {
            whole.insert(member.clone(), value.clone());
        }
        whole.retain(|_, value| !value.is_null() && *value != json!({}));
        operation["value"] = Value::Object(whole);
    }
    patch
}

fn ours(request: &Value) -> (bool, Value) {
    let mut request = request.clone();
    request["uid"] = json!("u");
    request["namespace"] = json!("default");
    let review = Review::parse(json!({"request": request}).to_string().as_bytes()).unwrap();
    let mut settings = settings();
    settings.identity_token = false;
    let cx = InjectionContext { trust_anchors: "ANCHORS", ..context(&settings) };
    let allowed = AllowList::parse(["ci:*"]).unwrap();
    let users = AllowedUsers { allowed: &allowed, uids: &[], mark_skipped: false };
    let decision = review.decide(&cx, &users);
    let patch = json!(decision.patch());
    let patch = if patch == json!([]) { Value::Null } else { patch };
    (!matches!(decision.outcome, Outcome::Refused(_)), patch)
}

#[test]
fn answers_as_dapr_does_but_for_the_listed_differences() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    let differ = |case: &&Value| {
        let want =
            (case["allowed"].as_bool().unwrap(), expand(&case["patch"], &vectors["sidecar"]));
        ours(&case["request"]) != want
    };
    let found: BTreeSet<&str> =
        cases.iter().filter(differ).map(|case| case["name"].as_str().unwrap()).collect();
    let listed: BTreeSet<&str> = DIFFERENCES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, listed);
}
