//! Follows what Namespaces decide about their pods. Their metadata is all that is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::sync::oneshot;

use super::{Cluster, LOG, RETRY, denied};
use crate::live::{Live, Namespaces};
use crate::namespace::NamespacePolicy;

/// How long to leave it alone when Namespaces may not be read: rights may be granted later.
const REST: Duration = Duration::from_mins(1);

impl Cluster {
    /// Keeps what Namespaces decide in `live`, until dropped. `settled` is told as soon as they
    /// are known, or known to be out of reach. Without the right to see all of them, the one of
    /// the control plane is followed; without that, pods decide alone.
    pub async fn follow_namespaces(self, live: Live, settled: oneshot::Sender<()>) {
        let mut settled = Some(settled);
        let mut said = false;
        loop {
            for own in [None, Some(self.namespace.as_str())] {
                self.watch_namespaces(own, &live, &mut settled).await;
            }
            if !said {
                said = true;
                tracing::info!(target: LOG, "Namespaces may not be watched: their labels and annotations have no effect on sidecars");
            }
            settle(&mut settled);
            tokio::time::sleep(REST).await;
        }
    }

    /// Until the API server forbids it.
    async fn watch_namespaces(
        &self,
        own: Option<&str>,
        live: &Live,
        settled: &mut Option<oneshot::Sender<()>>,
    ) {
        let mut config = watcher::Config::default();
        if let Some(own) = own {
            config = config.fields(&format!("metadata.name={own}"));
        }
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let events = watcher::watcher(api, config);
        pin_mut!(events);
        let mut known = Known::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if known.apply(event) {
                        live.set_namespaces(known.policies.clone());
                        settle(settled);
                    }
                }
                Err(error) if denied(&error).is_some() => return,
                Err(error) => {
                    tracing::debug!(target: LOG, "Namespaces cannot be followed: {}", runtime::chain(&error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn settle(settled: &mut Option<oneshot::Sender<()>>) {
    if let Some(settled) = settled.take() {
        // Nobody waits any more: then it does not matter.
        let _ = settled.send(());
    }
}

#[derive(Default)]
struct Known {
    policies: Namespaces,
    listing: Namespaces,
    /// What was said about each, so that it is said once.
    remarks: BTreeMap<String, Vec<String>>,
}

impl Known {
    /// Works an event in; true when the set is complete and may have changed.
    fn apply(&mut self, event: Event<PartialObjectMeta<Namespace>>) -> bool {
        match event {
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(namespace) => {
                let policy = self.read(&namespace);
                self.listing.extend(policy.map(|policy| (namespace.name_any(), policy)));
                false
            }
            Event::InitDone => {
                self.policies = std::mem::take(&mut self.listing);
                true
            }
            Event::Apply(namespace) => {
                let name = namespace.name_any();
                match self.read(&namespace) {
                    Some(policy) => self.policies.insert(name, policy.clone()) != Some(policy),
                    None => self.policies.remove(&name).is_some(),
                }
            }
            Event::Delete(namespace) => {
                let name = namespace.name_any();
                self.remarks.remove(&name);
                self.policies.remove(&name).is_some()
            }
        }
    }

    /// What a Namespace decides; nothing for most.
    fn read(&mut self, namespace: &PartialObjectMeta<Namespace>) -> Option<NamespacePolicy> {
        let (policy, remarks) = NamespacePolicy::of(namespace.labels(), namespace.annotations());
        let name = namespace.name_any();
        if remarks.is_empty() {
            self.remarks.remove(&name);
        } else if self.remarks.get(&name) != Some(&remarks) {
            for remark in &remarks {
                tracing::warn!(target: LOG, namespace = name, "Namespace {name}: {remark}");
            }
            self.remarks.insert(name, remarks);
        }
        (policy != *NamespacePolicy::NONE).then_some(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Injection;
    use serde_json::json;

    fn namespace(name: &str, injection: Option<&str>) -> PartialObjectMeta<Namespace> {
        let labels = injection.map_or(json!({}), |value| json!({"dapr.io/injection": value}));
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    #[test]
    fn only_namespaces_that_decide_something_are_kept() {
        let mut known = Known::default();
        assert!(!known.apply(Event::Init));
        assert!(!known.apply(Event::InitApply(namespace("a", Some("disabled")))));
        assert!(!known.apply(Event::InitApply(namespace("b", None))));
        assert!(known.policies.is_empty(), "the list is not complete yet");
        assert!(known.apply(Event::InitDone));
        assert_eq!(known.policies.len(), 1);
        assert_eq!(known.policies["a"].injection, Injection::Disabled);
    }

    #[test]
    fn a_change_counts_and_its_repetition_does_not() {
        let mut known = Known::default();
        assert!(known.apply(Event::Apply(namespace("a", Some("enabled")))));
        assert!(!known.apply(Event::Apply(namespace("a", Some("enabled")))));
        assert!(known.apply(Event::Apply(namespace("a", None))));
        assert!(!known.apply(Event::Apply(namespace("a", None))));
        assert!(known.apply(Event::Apply(namespace("a", Some("off but wrong")))).eq(&false));
        assert_eq!(known.remarks["a"].len(), 1);
        assert!(known.apply(Event::Apply(namespace("a", Some("disabled")))));
        assert!(known.apply(Event::Delete(namespace("a", None))));
        assert!(known.policies.is_empty() && known.remarks.is_empty());
    }
}
