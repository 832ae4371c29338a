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

/// Remedy for outdated definitions: the command that only adds, because the definitions of the
/// cluster may have members of a newer release.
pub(crate) const UPDATE: &str = "run helm upgrade, whose hook adds what is missing and removes nothing, or run the hook by \
     itself (charts/dapr/README.md, Upgrades)";
/// Where the operator adds a status to the definition of Components.
const OPERATORS_STATUS: &str = "v1alpha1.status";
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

/// Members and enum values that the installed schema lacks. The API server removes such members
/// from objects without a message.
pub(crate) fn missing_members(name: &str, installed: &Value) -> Vec<String> {
    shipped(name).map_or_else(Vec::new, |shipped| members_only_in(&shipped, installed))
}

/// Versions, members and enum values that the installed definition has and the shipped one lacks:
/// those of a newer release. A status of Components is not newer, see the operator's
/// `--component-status`.
pub(crate) fn newer_members(name: &str, installed: &Value) -> Vec<String> {
    let Some(shipped) = shipped(name) else { return Vec::new() };
    let names = |definition| -> Vec<String> {
        versions(definition).filter_map(|v| Some(v.get("name")?.as_str()?.to_owned())).collect()
    };
    let known = names(&shipped);
    let versions = names(installed).into_iter().filter(|version| !known.contains(version));
    let members = members_only_in(installed, &shipped);
    versions.chain(members.into_iter().filter(|at| at != OPERATORS_STATUS)).collect()
}

/// Members and enum values of the first definition that the same version of the second lacks.
fn members_only_in(first: &Value, second: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    for version in versions(first) {
        let name = version.get("name");
        let other = versions(second).find(|other| other.get("name") == name);
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
    let values = |schema: &Value| schema.get("enum").and_then(Value::as_array).cloned();
    if let Some(allowed) = values(there) {
        let lacking = values(wanted).into_iter().flatten().filter(|value| !allowed.contains(value));
        missing.extend(lacking.map(|value| format!("{at} (value {value})")));
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
    fn what_a_newer_release_added_is_named() {
        let mut newer = shipped("components.dapr.io").unwrap();
        let root = "/spec/versions/0/schema/openAPIV3Schema/properties";
        let add = |definition: &mut Value, at: &str, name: &str| {
            definition.pointer_mut(at).unwrap()[name] = serde_json::json!({"type": "object"});
        };
        add(&mut newer, root, "status");
        assert!(newer_members("components.dapr.io", &newer).is_empty(), "the operator's");
        add(&mut newer, &format!("{root}/spec/properties"), "later");
        assert_eq!(newer_members("components.dapr.io", &newer), ["v1alpha1.spec.later"]);
        let version = serde_json::json!({"name": "v2", "served": true});
        newer.pointer_mut("/spec/versions").unwrap().as_array_mut().unwrap().push(version);
        assert_eq!(newer_members("components.dapr.io", &newer), ["v2", "v1alpha1.spec.later"]);
    }

    #[test]
    fn names_a_value_that_one_side_does_not_allow() {
        let name = "workflowaccesspolicies.dapr.io";
        let values = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rules/items\
                      /properties/activities/items/properties/requires/items/properties/eventType\
                      /enum";
        let mut other = shipped(name).unwrap();
        let list = other.pointer_mut(values).and_then(Value::as_array_mut).unwrap();
        list.retain(|value| value != "event.raised");
        list.push("event.later".into());
        let at = "v1alpha1.spec.rules[].activities[].requires[].eventType";
        assert_eq!(missing_members(name, &other), [format!("{at} (value \"event.raised\")")]);
        assert_eq!(newer_members(name, &other), [format!("{at} (value \"event.later\")")]);
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
