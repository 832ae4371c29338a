//! Watches labels and annotations of Namespaces that apply to sidecars, by metadata only.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, ResourceExt as _};
use kubernetes::{Store, WatchEvent, WatchOptions};
use tokio::sync::oneshot;

use super::snapshot::ClusterSnapshot;
use super::{Cluster, LOG, is_forbidden};
use crate::pod::NamespacePolicy;

/// Pause without the right to watch, because it can be granted later.
const RIGHTS_RETRY: Duration = Duration::from_mins(1);

impl Cluster {
    /// Watches all Namespaces, or only that of the control plane while the injector may not list all.
    /// Without that right too, Namespaces have no effect. `synced` is notified after the first list,
    /// or when it is clear that there is none.
    pub(crate) async fn watch_namespaces(
        self,
        snapshot: ClusterSnapshot,
        synced: oneshot::Sender<()>,
    ) {
        let mut synced = Some(synced);
        let mut logged = false;
        let all: Api<Namespace> = Api::all(self.client.clone());
        let one = ListParams::default().limit(1);
        loop {
            self.watch_until_denied(None, &snapshot, &mut synced).await;
            let own = Some(self.namespace.as_str());
            tokio::select! {
                () = self.watch_until_denied(own, &snapshot, &mut synced) => {}
                () = kubernetes::wait_until_allowed(|| all.list_metadata(&one)) => continue,
            }
            if !logged {
                logged = true;
                tracing::info!(target: LOG, "the injector may not watch Namespaces; their labels and annotations have no effect on sidecars");
            }
            notify(&mut synced);
            tokio::time::sleep(RIGHTS_RETRY).await;
        }
    }

    /// Watches until the API server denies a right.
    async fn watch_until_denied(
        &self,
        own: Option<&str>,
        snapshot: &ClusterSnapshot,
        synced: &mut Option<oneshot::Sender<()>>,
    ) {
        let mut options = WatchOptions::new("Namespace");
        if let Some(own) = own {
            options = options.name(own);
        }
        let events = self.watcher().watch::<PartialObjectMeta<Namespace>, _>(options, Api::all);
        pin_mut!(events);
        let mut known = NamespaceIndex::default();
        while let Some(event) = events.next().await {
            if matches!(&event, WatchEvent::Failed(failure) if is_forbidden(failure.kind)) {
                return;
            }
            if known.apply(event) {
                let policies = known.policies.objects().clone();
                snapshot.set_namespaces(policies.into_iter().collect());
                notify(synced);
            }
        }
    }
}

fn notify(synced: &mut Option<oneshot::Sender<()>>) {
    if let Some(synced) = synced.take() {
        // The receiver is gone if start-up did not wait.
        let _ = synced.send(());
    }
}

#[derive(Default)]
struct NamespaceIndex {
    policies: Store<String, NamespacePolicy>,
    /// Warnings that were logged, so that each is logged once.
    logged: BTreeMap<String, Vec<String>>,
}

impl NamespaceIndex {
    /// Applies an event. True if the set is complete and has changed.
    fn apply(&mut self, event: WatchEvent<PartialObjectMeta<Namespace>>) -> bool {
        if let WatchEvent::Delete(namespace) = &event {
            self.logged.remove(&namespace.name_any());
        }
        let is_deleted = matches!(event, WatchEvent::Delete(_));
        let event = event.map(|namespace| {
            let policy = if is_deleted { None } else { self.read(&namespace) };
            (namespace.name_any(), policy)
        });
        self.policies.apply(event)
    }

    /// The policy of a Namespace; `None` without labels and annotations for sidecars.
    fn read(&mut self, namespace: &PartialObjectMeta<Namespace>) -> Option<NamespacePolicy> {
        let (policy, ignored) = NamespacePolicy::of(namespace.labels(), namespace.annotations());
        let name = namespace.name_any();
        if ignored.is_empty() {
            self.logged.remove(&name);
        } else if self.logged.get(&name) != Some(&ignored) {
            for text in &ignored {
                tracing::warn!(target: LOG, namespace = name, "Namespace {name}: {text}");
            }
            self.logged.insert(name, ignored);
        }
        (policy != *NamespacePolicy::NONE).then_some(policy)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::Injection;

    fn namespace(name: &str, injection: Option<&str>) -> PartialObjectMeta<Namespace> {
        let labels = injection.map_or(json!({}), |value| json!({"dapr.io/injection": value}));
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    #[test]
    fn keeps_namespaces_with_a_policy() {
        let mut known = NamespaceIndex::default();
        assert!(!known.apply(WatchEvent::Init));
        assert!(!known.apply(WatchEvent::InitApply(namespace("a", Some("disabled")))));
        assert!(!known.apply(WatchEvent::InitApply(namespace("b", None))));
        assert!(known.policies.objects().is_empty(), "the list is not complete yet");
        assert!(known.apply(WatchEvent::InitDone));
        assert_eq!(known.policies.objects().len(), 1);
        assert_eq!(known.policies.objects()["a"].injection, Injection::Disabled);
    }

    #[test]
    fn an_unchanged_policy_is_no_change() {
        let mut known = NamespaceIndex::default();
        assert!(!known.apply(WatchEvent::Init));
        assert!(known.apply(WatchEvent::InitDone));
        assert!(known.apply(WatchEvent::Apply(namespace("a", Some("enabled")))));
        assert!(!known.apply(WatchEvent::Apply(namespace("a", Some("enabled")))));
        assert!(known.apply(WatchEvent::Apply(namespace("a", None))));
        assert!(!known.apply(WatchEvent::Apply(namespace("a", None))));
        assert!(known.apply(WatchEvent::Apply(namespace("a", Some("off but wrong")))).eq(&false));
        assert_eq!(known.logged["a"].len(), 1);
        assert!(known.apply(WatchEvent::Apply(namespace("a", Some("disabled")))));
        assert!(known.apply(WatchEvent::Delete(namespace("a", None))));
        assert!(known.policies.objects().is_empty() && known.logged.is_empty());
    }
}
