//! The pod after admission, and whether two injectors produced the same one.

use blackbox::admission::Decision;
use serde_json::{Value, json};

use crate::corpus::Question;
use crate::differences::daprd;

/// Placeholder for a pod that the API server would reject because of the patch.
const NOT_APPLICABLE: &str = "the patch does not apply";

/// The pod after admission; null if it was rejected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome(Value);

impl Outcome {
    /// Applies a decision to the pod of a request.
    pub(crate) fn of(request: &Value, decision: &Decision) -> Self {
        if !decision.allowed {
            return Self(Value::Null);
        }
        let mut pod = request.get("object").cloned().unwrap_or_default();
        let patch: json_patch::Patch = serde_json::from_value(decision.patch.clone()).unwrap();
        match json_patch::patch(&mut pod, &patch) {
            Ok(()) => Self(pod),
            Err(error) => Self(json!(format!("{NOT_APPLICABLE}: {error}"))),
        }
    }

    /// Whether it was rejected or its patch applied.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.as_str().is_some_and(|text| text.starts_with(NOT_APPLICABLE))
    }

    pub(crate) fn into_pod(self) -> Value {
        self.0
    }

    pub(crate) fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        if self.0.is_object() {
            edit(&mut self.0);
        }
    }

    /// Without the token that proves the sidecar's identity. Each injector adds one if it has one
    /// itself; on this test cluster only ours finds its own, because Dapr's reads a fixed folder of
    /// the machine.
    pub(crate) fn without_token(mut self) -> Self {
        let named = |item: &Value| item["name"] == "dapr-identity-token";
        if let Some(mounts) = daprd(&mut self.0).and_then(|c| c["volumeMounts"].as_array_mut()) {
            mounts.retain(|mount| !named(mount) || mount.get("readOnly").is_none());
        }
        if let Some(volumes) = self.0.pointer_mut("/spec/volumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !named(volume) || volume.get("projected").is_none());
        }
        self
    }

    /// One form for equivalent values in Kubernetes: in the sidecar an absent member, an empty
    /// text, list or object, and in its probes a zero, are equal; so are no volumes and an empty
    /// list, and no resources and empty ones.
    pub(crate) fn normal(mut self) -> Self {
        if let Some(sidecar) = daprd(&mut self.0) {
            drop_empty(sidecar);
            for probe in ["livenessProbe", "readinessProbe"] {
                sidecar[probe].as_object_mut().unwrap().retain(|_, value| *value != json!(0));
            }
        }
        let containers = self.0.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            container.retain(|key, value| key != "resources" || *value != json!({}));
        }
        if let Some(spec) = self.0.pointer_mut("/spec").and_then(Value::as_object_mut) {
            spec.retain(|key, value| key != "volumes" || *value != json!([]));
        }
        self
    }
}

fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(drop_empty);
            let empty = [Value::Null, json!(""), json!([]), json!({})];
            map.retain(|_, value| !empty.contains(value));
        }
        Value::Array(list) => list.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

/// The difference between the pods, if there is one.
pub(crate) fn compare(
    name: &str,
    question: &Question,
    reference: &Decision,
    ours: Outcome,
) -> Option<String> {
    let (want, got) = (question.restored(reference).normal(), ours.normal());
    (want != got).then(|| {
        let mut places = Vec::new();
        differing(&want.0, &got.0, "", &mut places);
        format!(
            "{name} (listed: {:?}, dapr: {}): {}",
            question.differences,
            reference.message,
            places.join("; ")
        )
    })
}

/// The places where two values differ.
fn differing(want: &Value, got: &Value, place: &str, found: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let (a, b) = (a.get(key), b.get(key));
                let null = Value::Null;
                differing(a.unwrap_or(&null), b.unwrap_or(&null), &format!("{place}/{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differing(a, b, &format!("{place}/{index}"), found);
            }
        }
        _ if want != got => found.push(format!("{place}: dapr {want}, ours {got}")),
        _ => {}
    }
}
