//! Annotations that do nothing where they are: on a workload instead of its pod template, or among the
//! labels.

use resources::annotations::{ANNOTATION_ENABLED, is_truthy};
use serde_json::Value;

/// The warning about a pod or template that gets no sidecar, and whose author wanted one.
pub(super) fn warning(object: &Value, template: &Value) -> Option<String> {
    let wanted = |of: &Value, part: &str| {
        let value =
            of.get("metadata").and_then(|metadata| metadata.get(part)?.get(ANNOTATION_ENABLED));
        value.is_some_and(|value| {
            value.as_bool() == Some(true) || value.as_str().is_some_and(is_truthy)
        })
    };
    let decided = template.pointer("/metadata/annotations");
    if decided.is_some_and(|annotations| annotations.get(ANNOTATION_ENABLED).is_some()) {
        return None;
    }
    if wanted(template, "labels") {
        return Some(format!(
            "{ANNOTATION_ENABLED} is a label here and has no effect, so no sidecar is injected; make it an annotation"
        ));
    }
    // A pod is its own template.
    if object != template && (wanted(object, "annotations") || wanted(object, "labels")) {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or("object");
        return Some(format!(
            "{ANNOTATION_ENABLED} is in the metadata of the {kind} and has no effect there, so no sidecar is injected; move it to the metadata of the pod template (spec.template.metadata.annotations)"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::workload(json!({"annotations": {ANNOTATION_ENABLED: "true"}}), json!({}), "in the metadata of the Deployment")]
    #[case::label_of_workload(json!({"labels": {ANNOTATION_ENABLED: "true"}}), json!({}), "in the metadata of the Deployment")]
    #[case::label(json!({}), json!({"labels": {ANNOTATION_ENABLED: "true"}}), "is a label here")]
    #[case::not_a_string(json!({"annotations": {ANNOTATION_ENABLED: true}}), json!({}), "move it to")]
    #[case::off(json!({"annotations": {ANNOTATION_ENABLED: "false"}}), json!({}), "")]
    #[case::both(json!({"annotations": {ANNOTATION_ENABLED: "true"}}), json!({"annotations": {ANNOTATION_ENABLED: "true"}}), "")]
    #[case::decided(json!({"annotations": {ANNOTATION_ENABLED: "true"}}), json!({"annotations": {ANNOTATION_ENABLED: "false"}}), "")]
    #[case::neither(json!({}), json!({}), "")]
    fn annotations_without_effect(#[case] own: Value, #[case] pod: Value, #[case] want: &str) {
        let template = json!({"metadata": pod, "spec": {"containers": [{"name": "c"}]}});
        let object = json!({"kind": "Deployment", "metadata": own, "spec": {"template": template}});
        let text = warning(&object, &template).unwrap_or_default();
        assert_eq!(text.is_empty(), want.is_empty(), "{text}");
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn a_pod_is_its_own_template() {
        let pod = json!({"kind": "Pod", "metadata": {"annotations": {ANNOTATION_ENABLED: "true"}}});
        assert_eq!(warning(&pod, &pod), None);
    }
}
