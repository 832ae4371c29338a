//! Rights of a user with `--auth=token`. Start at [`Visible`]; `cluster::reviews` asks the API
//! server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use resources::{GROUP, names};
use serde_json::{Value, json};

use crate::model::kind::Kind;
use crate::model::{Snapshot, Watched};

/// Longest token in bytes; those of large identity providers have 4 to 8 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Namespaces that are reviewed for each right that a user does not have in all; pages do not show
/// objects of others, and say so.
pub(crate) const MAX_NAMESPACES: usize = 500;
/// Questions for one page.
pub(crate) const MAX_QUESTIONS: usize = RIGHTS * (1 + MAX_NAMESPACES);
/// Number of rights: Pods, Events, trust anchors, and each kind.
const RIGHTS: usize = 3 + Kind::ALL.len();

/// A right of a user in a namespace, or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    Pods,
    Events,
    /// The `ConfigMap` with the trust anchors.
    Anchors,
    Objects(Kind),
}

impl Right {
    /// All rights.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let kinds = Kind::ALL.into_iter().map(Self::Objects);
        [Self::Pods, Self::Events, Self::Anchors].into_iter().chain(kinds)
    }

    /// `resourceAttributes` of a `SelfSubjectAccessReview`; an empty namespace means all.
    pub(crate) fn attributes(self, namespace: &str) -> Value {
        let (verb, group, resource, name) = match self {
            Self::Pods => ("list", "", "pods", ""),
            Self::Events => ("list", "", "events", ""),
            Self::Anchors => ("get", "", "configmaps", names::TRUST_BUNDLE),
            Self::Objects(kind) => ("list", GROUP, kind.plural(), ""),
        };
        json!({"verb": verb, "group": group, "resource": resource, "name": name,
            "namespace": namespace})
    }
}

/// The rights that a user has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Visible {
    /// In all namespaces.
    everywhere: BTreeSet<Right>,
    /// In single namespaces.
    within: BTreeMap<Right, BTreeSet<String>>,
    /// Whether there are more than [`MAX_NAMESPACES`], so that some were not reviewed.
    pub(crate) is_cut: bool,
}

impl Visible {
    /// Adds a right; an empty namespace means all.
    pub(crate) fn grant(&mut self, right: Right, namespace: String) {
        if namespace.is_empty() {
            self.everywhere.insert(right);
        } else {
            self.within.entry(right).or_default().insert(namespace);
        }
    }

    pub(crate) fn admits(&self, right: Right, namespace: &str) -> bool {
        self.everywhere.contains(&right)
            || self.within.get(&right).is_some_and(|own| own.contains(namespace))
    }

    /// Rights and namespaces to review once the rights of the user in all namespaces are known.
    pub(crate) fn open_questions(&mut self, all: &Snapshot) -> Vec<(Right, String)> {
        let mut questions = Vec::new();
        for right in Right::all().filter(|right| !self.everywhere.contains(right)) {
            let mut namespaces = namespaces(all, right).into_iter();
            let asked = namespaces.by_ref().take(MAX_NAMESPACES);
            questions.extend(asked.map(|namespace| (right, namespace.to_owned())));
            self.is_cut |= namespaces.next().is_some();
        }
        questions
    }

    /// The part of the snapshot that the user may see. Counts, findings and questions to sidecars
    /// are derived from it, so they follow.
    pub(crate) fn restrict(self, all: &Snapshot) -> Snapshot {
        let kept = Snapshot {
            mode: all.mode,
            namespace: all.namespace.clone(),
            pods: self.keep(Right::Pods, &all.pods),
            resources: all
                .resources
                .iter()
                .map(|(kind, watched)| (*kind, self.keep(Right::Objects(*kind), watched)))
                .collect(),
            events: self.keep(Right::Events, &all.events),
            anchors: self.keep(Right::Anchors, &all.anchors),
            visible: None,
        };
        Snapshot { visible: Some(Arc::new(self)), ..kept }
    }

    fn keep<T: Clone>(&self, right: Right, watched: &Watched<T>) -> Watched<T> {
        if self.everywhere.contains(&right) {
            return watched.clone();
        }
        let own =
            watched.objects.iter().filter(|((namespace, _), _)| self.admits(right, namespace));
        let own = own.map(|(key, object)| (key.clone(), object.clone())).collect();
        Watched { objects: Arc::new(own), ..watched.clone() }
    }
}

/// Namespaces that have objects of a right.
fn namespaces(all: &Snapshot, right: Right) -> BTreeSet<&str> {
    fn of<T>(watched: &Watched<T>) -> BTreeSet<&str> {
        watched.objects.keys().map(|(namespace, _)| namespace.as_str()).collect()
    }
    match right {
        Right::Pods => of(&all.pods),
        Right::Events => of(&all.events),
        Right::Anchors => of(&all.anchors),
        Right::Objects(kind) => all.resources.get(&kind).map(of).unwrap_or_default(),
    }
}

/// The token of an `Authorization` header (RFC 6750, section 2.1).
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    let usable = scheme.eq_ignore_ascii_case("bearer")
        && (1..=MAX_TOKEN_BYTES).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;

    fn snapshot() -> Snapshot {
        let pod = |namespace: &str| {
            json!({"metadata": {"namespace": namespace, "name": "p",
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "a"}},
            "spec": {"containers": [{"name": "daprd", "image": "d:1"}]},
            "status": {"phase": "Running"}})
        };
        let component = |namespace: &str| {
            let object =
                json!({"metadata": {"namespace": namespace, "name": "c"}, "spec": {"type": "t"}});
            (Kind::Component, object)
        };
        let cluster = Cluster::new("dapr-system");
        cluster.fill(&[pod("shop"), pod("bank")], &[component("shop"), component("bank")], &[]);
        cluster.snapshot()
    }

    fn seen(visible: Visible) -> (Vec<String>, Vec<String>) {
        let part = visible.restrict(&snapshot());
        let pods = part.pods.iter().map(|pod| pod.namespace.clone()).collect();
        (pods, part.kind(Kind::Component).map(|object| object.namespace.clone()).collect())
    }

    #[test]
    fn rights_are_of_a_kind_and_a_namespace() {
        let mut visible = Visible::default();
        assert_eq!(seen(visible.clone()), (vec![], vec![]));
        visible.grant(Right::Pods, "shop".to_owned());
        assert_eq!(seen(visible.clone()), (vec!["shop".to_owned()], vec![]));
        visible.grant(Right::Objects(Kind::Component), String::new());
        let both = vec!["bank".to_owned(), "shop".to_owned()];
        assert_eq!(seen(visible), (vec!["shop".to_owned()], both));
    }

    #[test]
    fn no_more_namespaces_are_asked_about_than_the_limit_says() {
        let questions = |number: usize| {
            let pod = |number: usize| {
                json!({"metadata": {"namespace": format!("n{number:03}"), "name": "p",
                    "annotations": {"dapr.io/enabled": "true"}}})
            };
            let mut visible = Visible::default();
            let asked = visible.open_questions(&Snapshot::of_pods((0..number).map(pod)));
            (asked.len(), visible.is_cut)
        };
        assert_eq!(questions(MAX_NAMESPACES), (MAX_NAMESPACES, false));
        assert_eq!(questions(MAX_NAMESPACES + 1), (MAX_NAMESPACES, true));
    }

    #[test]
    fn every_right_is_counted() {
        assert_eq!(Right::all().count(), RIGHTS);
    }

    #[test]
    fn a_token_is_read_up_to_its_limit() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer abc "), Some("abc"));
        for other in ["", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer \u{e4}"] {
            assert_eq!(bearer(other), None, "{other:?}");
        }
        let of = |bytes: usize| bearer(&format!("Bearer {}", "a".repeat(bytes))).is_some();
        assert!(of(MAX_TOKEN_BYTES));
        assert!(!of(MAX_TOKEN_BYTES + 1));
    }
}
