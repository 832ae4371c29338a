//! Objects of `dapr.io`, redacted.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::kind::Kind;
use super::{redaction, string};

/// Largest number of kept scopes of one object; more are a mistake.
const MAX_SCOPES: usize = 1_000;

/// An object, reduced to what pages show.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resource {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) created: Option<Timestamp>,
    /// App ids; empty for every app of the namespace.
    pub(crate) scopes: Vec<String>,
    /// App ids of the sidecars that read its file; `None` in a cluster.
    pub(crate) readers: Option<BTreeSet<String>>,
    /// Summary in one line, for tables: the type of a Component, the topic of a Subscription.
    pub(crate) summary: String,
    /// The redacted object.
    pub(crate) object: Value,
}

impl Resource {
    /// Reads and redacts an object of the API.
    pub(crate) fn read(kind: Kind, object: &Value) -> Self {
        let at = |path: &str| string(object.pointer(path));
        let scopes = object.pointer("/scopes").and_then(Value::as_array).into_iter().flatten();
        let scopes = scopes.filter_map(Value::as_str).take(MAX_SCOPES).map(str::to_owned);
        let redacted = redaction::object(kind, object);
        Self {
            kind,
            namespace: at("/metadata/namespace"),
            name: at("/metadata/name"),
            created: at("/metadata/creationTimestamp").parse().ok(),
            scopes: scopes.collect(),
            readers: None,
            summary: summary(kind, &redacted),
            object: redacted,
        }
    }

    /// Whether it applies to an app of its namespace.
    pub(crate) fn applies_to(&self, app_id: &str) -> bool {
        let is_read = self.readers.as_ref().is_none_or(|readers| readers.contains(app_id));
        is_read && (self.scopes.is_empty() || self.scopes.iter().any(|scope| scope == app_id))
    }
}

fn summary(kind: Kind, redacted: &Value) -> String {
    let at = |path: &str| string(redacted.pointer(path));
    let names = |path: &str| {
        let members = redacted.pointer(path).and_then(Value::as_object);
        members.into_iter().flatten().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    match kind {
        Kind::Component => format!("{} {}", at("/spec/type"), at("/spec/version")),
        Kind::Subscription => format!("{} from {}", at("/spec/topic"), at("/spec/pubsubname")),
        Kind::HttpEndpoint => at("/spec/baseUrl"),
        Kind::Resiliency => names("/spec/policies"),
        Kind::Configuration | Kind::WorkflowAccessPolicy | Kind::McpServer => names("/spec"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plurals_are_paths() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.plural()), Some(kind));
        }
        assert_eq!(Kind::parse("secrets"), None);
    }

    #[test]
    fn scopes_decide_and_are_limited() {
        let scoped = |scopes: Vec<String>| {
            Resource::read(Kind::Component, &json!({"metadata": {"name": "a"}, "scopes": scopes}))
        };
        assert!(scoped(vec![]).applies_to("cart"));
        assert!(!scoped(vec!["other".to_owned()]).applies_to("cart"));
        let many: Vec<_> = (0..=MAX_SCOPES).map(|n| n.to_string()).collect();
        assert_eq!(scoped(many).scopes.len(), MAX_SCOPES);
    }

    #[test]
    fn the_summary_names_type_or_topic() {
        let subscription = json!({"spec": {"topic": "orders", "pubsubname": "bus"}});
        assert_eq!(Resource::read(Kind::Subscription, &subscription).summary, "orders from bus");
    }
}
