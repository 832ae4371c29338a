//! The custom resource definitions of this version, compared with installed ones.

use serde_json::Value;

/// Name and text of each definition.
const SHIPPED: [(&str, &str); 7] = [
    ("components.dapr.io", include_str!("../../crds/components.yaml")),
    ("configurations.dapr.io", include_str!("../../crds/configuration.yaml")),
    ("subscriptions.dapr.io", include_str!("../../crds/subscription.yaml")),
    ("resiliencies.dapr.io", include_str!("../../crds/resiliency.yaml")),
    ("httpendpoints.dapr.io", include_str!("../../crds/httpendpoints.yaml")),
    ("mcpservers.dapr.io", include_str!("../../crds/mcpservers.yaml")),
    ("workflowaccesspolicies.dapr.io", include_str!("../../crds/workflowaccesspolicy.yaml")),
];

/// The definition with a conversion webhook.
pub(crate) const CONVERTED: &str = "subscriptions.dapr.io";

/// Names of the definitions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SHIPPED.into_iter().map(|(name, _)| name)
}

/// Versions of the shipped definition that the installed one does not serve.
pub(crate) fn unserved(name: &str, installed: &Value) -> Vec<String> {
    let Some(shipped) = shipped(name) else { return Vec::new() };
    let served = |definition: &Value| -> Vec<String> {
        let served = versions(definition)
            .filter(|version| version.get("served").and_then(Value::as_bool) == Some(true));
        served.filter_map(|v| Some(v.get("name")?.as_str()?.to_owned())).collect()
    };
    let installed = served(installed);
    served(&shipped).into_iter().filter(|version| !installed.contains(version)).collect()
}

/// Members that the installed schema lacks. The API server removes them from objects without a
/// message.
pub(crate) fn missing_members(name: &str, installed: &Value) -> Vec<String> {
    let Some(shipped) = shipped(name) else { return Vec::new() };
    let mut missing = Vec::new();
    for version in versions(&shipped) {
        let name = version.get("name");
        let other = versions(installed).find(|other| other.get("name") == name);
        let schema = |v: &'_ Value| v.pointer("/schema/openAPIV3Schema").cloned();
        if let (Some(wanted), Some(there)) = (schema(version), other.and_then(schema)) {
            let at = name.and_then(Value::as_str).unwrap_or_default();
            compare(at, &wanted, &there, &mut missing);
        }
    }
    missing
}

pub(crate) fn shipped(name: &str) -> Option<Value> {
    let (_, text) = SHIPPED.into_iter().find(|(shipped, _)| *shipped == name)?;
    serde_saphyr::from_str(text).ok() // a test reads all of them
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten()
}

fn compare(at: &str, wanted: &Value, there: &Value, missing: &mut Vec<String>) {
    if there.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true) {
        return;
    }
    for (name, schema) in wanted.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let place = format!("{at}.{name}");
        match there.get("properties").and_then(|p| p.get(name)) {
            Some(other) => compare(&place, schema, other, missing),
            None => missing.push(place),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let (Some(schema), Some(other)) = (wanted.get(inner), there.get(inner)) {
            compare(&format!("{at}[]"), schema, other, missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipped_definition_is_complete() {
        for name in names() {
            let shipped = shipped(name).expect("a definition that can be read");
            assert_eq!(shipped.pointer("/metadata/name").and_then(Value::as_str), Some(name));
            assert!(missing_members(name, &shipped).is_empty(), "{name}");
            assert!(unserved(name, &shipped).is_empty(), "{name}");
            assert!(!unserved(name, &Value::Null).is_empty(), "{name} serves no version");
        }
    }

    #[test]
    fn names_a_missing_member() {
        let mut old = shipped("components.dapr.io").unwrap();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let members = old.pointer_mut(spec).and_then(Value::as_object_mut).unwrap();
        assert!(members.remove("initTimeout").is_some());
        assert_eq!(missing_members("components.dapr.io", &old), ["v1alpha1.spec.initTimeout"]);
        let members = old.pointer_mut(spec).unwrap();
        *members = serde_json::json!({});
        let spec = old.pointer_mut(spec.trim_end_matches("/properties")).unwrap();
        spec["x-kubernetes-preserve-unknown-fields"] = true.into();
        assert!(missing_members("components.dapr.io", &old).is_empty(), "everything is kept");
    }
}
