//! The checks of Components and Configurations for files, without a cluster. Pure.
//!
//! The files may be only a part of a namespace, so Secrets, secret stores and app ids that they do
//! not contain are not reported.

use resources::{Component, Configuration};

use crate::advice::checks::{self, CheckContext, Reason};
use crate::advice::references;
use crate::secrets::resolution::Fetched;

/// A problem of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Reason, as in Events of the operator, for example `UnknownType`.
    pub reason: &'static str,
    /// Names the member, the problem and the remedy.
    pub note: String,
}

/// The problems of each Component of one namespace, in the order of `components`. `now` has an
/// effect only for Components with a creation time, which files do not have.
pub fn components(components: &[Component], now: jiff::Timestamp) -> Vec<Vec<Finding>> {
    let secrets = Fetched::new();
    let context = CheckContext {
        components: components.iter().collect(),
        apps: None,
        secrets: &secrets,
        now,
    };
    let of = |component| {
        let all = checks::check(component, &context).into_iter();
        let certain = all.filter(|finding| {
            !matches!(finding.reason, Reason::SecretStoreNotFound | Reason::UnknownScope)
        });
        certain.map(Finding::from).collect()
    };
    components.iter().map(of).collect()
}

/// The problems of a Configuration by itself.
pub fn configuration(configuration: &Configuration) -> Vec<Finding> {
    references::check_alone(configuration).into_iter().map(Finding::from).collect()
}

impl From<checks::Finding> for Finding {
    fn from(finding: checks::Finding) -> Self {
        Self { reason: finding.reason.text(), note: finding.note }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn component(type_: &str, metadata: &serde_json::Value) -> Component {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "shop"},
            "spec": {"type": type_, "version": "v1", "metadata": metadata},
            "scopes": ["no-such-app"], "auth": {"secretStore": "elsewhere"}}))
        .unwrap()
    }

    #[test]
    fn a_misspelt_type_is_found_and_what_may_be_elsewhere_is_not() {
        let secret =
            json!([{"name": "redisHost", "secretKeyRef": {"name": "redis", "key": "host"}}]);
        let all = [component("state.redsi", &secret), component("state.redis", &secret)];
        let found = components(&all, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(found[0].len(), 1);
        assert_eq!(found[0][0].reason, "UnknownType");
        assert!(found[0][0].note.contains("state.redis"), "{}", found[0][0].note);
        assert_eq!(found[1], []);
    }
}
