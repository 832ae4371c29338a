//! Components that are made while the sidecar runs: copies of those of the sample.

use serde_json::{Value, json};

/// Components of which there are copies.
pub(super) const COPIED: [&str; 7] =
    ["statestore", "pubsub", "files", "secrets", "settings", "locks", "vault"];
/// A copy that works as the original does: it shows that the sidecar loads it without a restart.
pub(super) const LATE: &str = "late-";
/// A copy on which the sample's Resiliency has a timeout that no call meets.
pub(super) const HASTY: &str = "hasty-";

/// Manifests of both copies of each Component in a list of the API server.
pub(super) fn of(components: &Value) -> Value {
    let items = components["items"].as_array().into_iter().flatten();
    let originals = items.filter(|item| {
        item["metadata"]["name"].as_str().is_some_and(|name| COPIED.contains(&name))
    });
    let copies: Vec<Value> =
        originals.flat_map(|item| [LATE, HASTY].map(|prefix| copy(item, prefix))).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": copies})
}

/// The names of all copies.
pub(super) fn names() -> Vec<String> {
    let both = |name: &&str| [LATE, HASTY].map(|prefix| format!("{prefix}{name}"));
    COPIED.iter().flat_map(both).collect()
}

fn copy(component: &Value, prefix: &str) -> Value {
    let mut copy = component.clone();
    let name = component["metadata"]["name"].as_str().unwrap_or_default();
    copy["metadata"] = json!({
        "name": format!("{prefix}{name}"),
        "namespace": component["metadata"]["namespace"],
    });
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_differs_in_its_name_alone() {
        let original = json!({"kind": "Component", "spec": {"type": "lock.redis"}, "scopes": ["tour"],
            "metadata": {"name": "locks", "namespace": "n", "uid": "1", "resourceVersion": "7"}});
        let other = json!({"metadata": {"name": "clock", "namespace": "n"}});
        let copies = of(&json!({"items": [original, other]}));
        let names: Vec<&Value> = copies["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|copy| &copy["metadata"]["name"])
            .collect();
        assert_eq!(names, ["late-locks", "hasty-locks"]);
        let late = &copies["items"][0];
        assert_eq!(late["metadata"], json!({"name": "late-locks", "namespace": "n"}));
        assert_eq!((&late["spec"], &late["scopes"]), (&original["spec"], &original["scopes"]));
    }

    #[test]
    fn each_copied_component_has_two_names() {
        assert_eq!(names().len(), 2 * COPIED.len());
    }
}
