//! Status conditions of a Component, and the status subresource of its CRD.
//!
//! Pure. The upstream CRD has no status. The subresource is added only when the feature is enabled;
//! applying the upstream file removes it until the next check by the leader.
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use resources::{Component, CustomResource as _};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::advice::checks::{Finding, Reason};

pub(crate) const CRD: &str = "components.dapr.io";

/// The desired status of a Component with these findings; `None` when `current` equals it.
pub(crate) fn status(
    current: &Value,
    generation: Option<i64>,
    findings: &[Finding],
    now: Timestamp,
) -> Option<Value> {
    let old = current.get("conditions").and_then(|list| Vec::<Condition>::deserialize(list).ok());
    let old = old.unwrap_or_default();
    // Names of the Gateway API.
    let new = [
        condition("Accepted", findings.iter().filter(|f| !is_reference(f.reason))),
        condition("ResolvedRefs", findings.iter().filter(|f| is_reference(f.reason))),
        condition("Ready", findings.iter()),
    ];
    let new = new.map(|mut condition| {
        condition.observed_generation = generation;
        let before = old.iter().find(|old| old.type_ == condition.type_);
        let unturned = before.filter(|before| before.status == condition.status);
        let begun = Timestamp::from_second(now.as_second()).unwrap_or(now);
        condition.last_transition_time =
            unturned.map_or(Time(begun), |before| before.last_transition_time.clone());
        condition
    });
    (old != new).then(|| json!({"observedGeneration": generation, "conditions": new}))
}

/// Whether the finding concerns a reference of the Component.
fn is_reference(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SecretNotFound
            | Reason::SecretKeyNotFound
            | Reason::SecretStoreNotFound
            | Reason::UnknownScope
    )
}

/// `True` without findings; else `False` with the reason of the first and the notes of all.
fn condition<'a>(type_: &str, findings: impl Iterator<Item = &'a Finding>) -> Condition {
    let mut condition = Condition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: type_.to_owned(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    for finding in findings {
        if condition.status == "True" {
            "False".clone_into(&mut condition.status);
            finding.reason.text().clone_into(&mut condition.reason);
        } else {
            condition.message.push_str("; ");
        }
        condition.message.push_str(&finding.note);
    }
    condition
}

/// The JSON Patch (RFC 6902) that adds the status subresource to the CRD; empty when the CRD has it.
pub(crate) fn crd_patch(crd: &Value) -> Vec<Value> {
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    let named = |version: &Value| version["name"] == Component::VERSION;
    let Some(index) = versions.and_then(|versions| versions.iter().position(named)) else {
        return Vec::new();
    };
    let version = format!("/spec/versions/{index}");
    let mut operations = Vec::new();
    let mut want = |path: &str, value: Value| {
        let path = format!("{version}{path}");
        if crd.pointer(&path) != Some(&value) {
            operations.push(json!({"op": "add", "path": path, "value": value}));
        }
    };
    want("/schema/openAPIV3Schema/properties/status", schema());
    want("/subresources", json!({"status": {}}));
    if !operations.is_empty() {
        // The order of the versions may change before the patch is applied.
        let path = format!("{version}/name");
        operations.insert(0, json!({"op": "test", "path": path, "value": Component::VERSION}));
    }
    operations
}

fn schema() -> Value {
    let text = || json!({"type": "string"});
    json!({
        "description": "Status of this object as observed by the operator.",
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
                    "properties": {
                        "type": text(),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": text(),
                        "message": text(),
                        "observedGeneration": {"type": "integer", "format": "int64"},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(reason: Reason, note: &str) -> Finding {
        Finding { reason, note: note.to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Type, status, reason and message of each condition.
    fn conditions(status: &Value) -> Vec<[&str; 4]> {
        let members = ["type", "status", "reason", "message"];
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().map(|c| members.map(|member| c[member].as_str().unwrap())).collect()
    }

    #[test]
    fn findings_set_their_condition_and_ready_to_false() {
        let findings = [
            finding(Reason::UnknownScope, "no app"),
            finding(Reason::UnknownType, "no type"),
            finding(Reason::SecretNotFound, "no secret"),
        ];
        let status = status(&Value::Null, Some(2), &findings, at(5)).unwrap();
        let want = [
            ["Accepted", "False", "UnknownType", "no type"],
            ["ResolvedRefs", "False", "UnknownScope", "no app; no secret"],
            ["Ready", "False", "UnknownScope", "no app; no type; no secret"],
        ];
        assert_eq!(conditions(&status), want);
        assert_eq!(status["observedGeneration"], 2);
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:05Z");
    }

    #[test]
    fn unchanged_status_is_not_written() {
        let good = status(&Value::Null, Some(1), &[], at(5)).unwrap();
        let want = ["Accepted", "ResolvedRefs", "Ready"].map(|name| [name, "True", name, ""]);
        assert_eq!(conditions(&good), want);
        assert_eq!(status(&good, Some(1), &[], at(9)), None);
        let seen = status(&good, Some(2), &[], at(9)).unwrap();
        assert_eq!(seen["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:05Z");
        let bad = status(&good, Some(1), &[finding(Reason::UnknownType, "x")], at(9)).unwrap();
        let times = |status: &Value| {
            let times = status["conditions"].as_array().unwrap().iter();
            times.map(|c| c["lastTransitionTime"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            times(&bad),
            ["1970-01-01T00:00:09Z", "1970-01-01T00:00:05Z", "1970-01-01T00:00:09Z"]
        );
    }

    #[test]
    fn crd_is_patched_once() {
        let file = include_str!("../../../crds/components.yaml");
        let mut crd: Value = serde_saphyr::from_str(file).unwrap();
        let before = crd.clone();
        let operations: json_patch::Patch = serde_json::from_value(json!(crd_patch(&crd))).unwrap();
        json_patch::patch(&mut crd, &operations).unwrap();
        assert!(crd_patch(&crd).is_empty());
        let version = &crd["spec"]["versions"][0];
        assert_eq!(version["subresources"], json!({"status": {}}));
        let properties = |crd: &Value| {
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone()
        };
        let mut after = properties(&crd);
        assert!(after.as_object_mut().unwrap().remove("status").is_some());
        assert_eq!(after, properties(&before), "the upstream schema is unchanged");
        assert!(crd_patch(&json!({})).is_empty());
    }
}
