//! The pods in manifests: in any object of any kind that holds a pod template.

use serde_json::Value;

/// Deepest nesting that is searched.
const MAX_DEPTH: usize = 16;
/// Kinds whose text only looks like a pod's.
const NO_WORKLOADS: [&str; 3] = ["CustomResourceDefinition", "ConfigMap", "Secret"];

/// One pod, or the template of pods, in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it is in the document: an RFC 6901 pointer.
    pub(crate) pointer: String,
    /// Where its object is.
    pub(crate) object: String,
}

/// The pods of a document, in order: of one object, or of the items of a List.
pub(crate) fn find(document: &Value) -> Vec<Found> {
    let mut found = Vec::new();
    for pointer in objects(document) {
        let Some(object) = document.pointer(&pointer) else { continue };
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if kind == "Pod" {
            found.push(Found { pointer: pointer.clone(), object: pointer });
        } else if !NO_WORKLOADS.contains(&kind) {
            search(object, &pointer, &pointer, 0, &mut found);
        }
    }
    found
}

/// Where the objects of a document are.
pub(crate) fn objects(document: &Value) -> Vec<String> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    match document.get("items").and_then(Value::as_array) {
        Some(items) if kind.ends_with("List") => {
            (0..items.len()).map(|index| format!("/items/{index}")).collect()
        }
        _ => vec![String::new()],
    }
}

fn search(value: &Value, pointer: &str, object: &str, depth: usize, found: &mut Vec<Found>) {
    if depth > MAX_DEPTH {
        return;
    }
    let members: Vec<(String, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value))
            .collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => return,
    };
    for (key, value) in members {
        let pointer = format!("{pointer}/{key}");
        if is_template(value) {
            found.push(Found { pointer, object: object.to_owned() });
        } else {
            search(value, &pointer, object, depth + 1, found);
        }
    }
}

/// Whether a value has the shape of a pod template: containers with names, and metadata.
fn is_template(value: &Value) -> bool {
    let containers = value.pointer("/spec/containers").and_then(Value::as_array);
    value.get("metadata").is_some_and(Value::is_object)
        && containers
            .is_some_and(|list| !list.is_empty() && list.iter().all(|c| c.get("name").is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn template() -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}})
    }

    #[rstest]
    #[case::pod(json!({"kind": "Pod", "spec": {}}), &[""])]
    #[case::deployment(json!({"kind": "Deployment", "spec": {"template": template()}}), &["/spec/template"])]
    #[case::cron(json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template()}}}}), &["/spec/jobTemplate/spec/template"])]
    #[case::unknown(json!({"kind": "Fleet", "spec": {"a/b": [{"template": template()}, {"template": template()}]}}), &["/spec/a~1b/0/template", "/spec/a~1b/1/template"])]
    #[case::list(json!({"kind": "List", "items": [{"kind": "Pod"}, {"kind": "Job", "spec": {"template": template()}}]}), &["/items/0", "/items/1/spec/template"])]
    #[case::no_pod(json!({"kind": "Service", "spec": {"ports": []}}), &[])]
    #[case::crd(json!({"kind": "CustomResourceDefinition", "spec": {"template": template()}}), &[])]
    #[case::own_shape(json!({"kind": "Collector", "metadata": {}, "spec": {"containers": [{"name": "a"}]}}), &[])]
    #[case::null(Value::Null, &[])]
    fn finds_pods_wherever_they_are(#[case] document: Value, #[case] want: &[&str]) {
        let found: Vec<String> = find(&document).into_iter().map(|f| f.pointer).collect();
        assert_eq!(found, want);
    }
}
