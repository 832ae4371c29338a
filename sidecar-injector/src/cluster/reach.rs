//! Finds out that the API server does not reach the webhook, which nobody else would notice: with
//! the failure policy `Ignore` pods then come up without a word and without a sidecar.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PartialObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};
use resources::annotations::{
    ANNOTATION_CONTROL_PLANE, ANNOTATION_ENABLED, ANNOTATION_INJECTION_SKIPPED, is_truthy,
};
use resources::labels::LABEL_SIDECAR_INJECTED;
use tokio::sync::watch;

use super::{Cluster, ClusterError, LOG, call};
use crate::events::unreached;
use crate::metrics::Metrics;

/// How often to look, until the first call.
const POLL: Duration = Duration::from_mins(1);
/// Looks between two events that tell the same.
const LOOKS_PER_EVENT: u32 = 10;
/// Pods of one answer.
const PAGE: u32 = 500;
/// Answers of one look: the first naked pods say all that there is to say.
const MAX_PAGES: u32 = 20;

impl Cluster {
    /// Until the first call of the webhook, looks for pods that should have led to one. `called`
    /// turns true with that call. Never ends; does nothing where pods may not be listed.
    pub async fn watch_for_silence(
        self,
        mut called: watch::Receiver<bool>,
        metrics: Metrics,
        events: bool,
    ) {
        let since = runtime::clock::now();
        let mut told = LOOKS_PER_EVENT;
        while !*called.borrow_and_update() {
            tokio::select! {
                _ = called.changed() => continue,
                () = tokio::time::sleep(POLL) => {}
            }
            match self.naked_pods(since).await {
                Ok(0) => metrics.pods_not_seen(0),
                Ok(count) => {
                    metrics.pods_not_seen(count);
                    if told >= LOOKS_PER_EVENT {
                        told = 0;
                        self.tell_unreached(count, events).await;
                    }
                    told += 1;
                }
                Err(error) => {
                    tracing::debug!(target: LOG, "pods cannot be listed: {}", runtime::chain(&error));
                }
            }
        }
        metrics.pods_not_seen(0);
        std::future::pending::<()>().await;
    }

    async fn tell_unreached(&self, count: u64, events: bool) {
        tracing::error!(target: LOG, pods = count, "the API server has not called this webhook since its start, but there are pods since then that asked for a sidecar; check that the API server can reach the webhook's port");
        if !events {
            return;
        }
        let event = unreached(
            count,
            &self.namespace,
            &runtime::environment::hostname(),
            runtime::clock::now(),
        );
        let api = Api::namespaced(self.client.clone(), &self.namespace);
        if let Err(error) = call(api.create(&PostParams::default(), &event)).await {
            tracing::debug!(target: LOG, "no event: {}", runtime::chain(&error));
        }
    }

    /// Pods since then that ask for a sidecar and have none, in all namespaces or, where these may
    /// not be listed, in the control plane's own.
    async fn naked_pods(&self, since: Timestamp) -> Result<u64, ClusterError> {
        match self.naked_pods_in(&Api::all(self.client.clone()), since).await {
            Err(_) => {
                let own = Api::namespaced(self.client.clone(), &self.namespace);
                self.naked_pods_in(&own, since).await
            }
            found => found,
        }
    }

    async fn naked_pods_in(&self, api: &Api<Pod>, since: Timestamp) -> Result<u64, ClusterError> {
        let without = format!("{LABEL_SIDECAR_INJECTED}!=true");
        let mut page = ListParams::default().labels(&without).limit(PAGE);
        let mut count = 0;
        for _ in 0..MAX_PAGES {
            let pods = call(api.list_metadata(&page)).await?;
            count += pods.items.iter().filter(|pod| is_naked(pod, since)).map(|_| 1).sum::<u64>();
            match pods.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        Ok(count)
    }
}

/// Whether a pod without the injector's label should have it.
fn is_naked(pod: &PartialObjectMeta<Pod>, since: Timestamp) -> bool {
    let annotations = pod.annotations();
    let spared = [ANNOTATION_INJECTION_SKIPPED, ANNOTATION_CONTROL_PLANE];
    annotations.get(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text))
        && !spared.iter().any(|key| annotations.contains_key(*key))
        && pod.creation_timestamp().is_some_and(|created| created.0 > since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_younger_pods_that_asked_count() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let naked = |created: &str, annotations: serde_json::Value| {
            let metadata =
                json!({"name": "p", "creationTimestamp": created, "annotations": annotations});
            is_naked(&serde_json::from_value(json!({ "metadata": metadata })).unwrap(), since)
        };
        let young = "2026-01-01T00:00:01Z";
        assert!(naked(young, json!({"dapr.io/enabled": "yes"})));
        assert!(!naked("2025-12-31T23:59:59Z", json!({"dapr.io/enabled": "yes"})));
        assert!(!naked(young, json!({"dapr.io/enabled": "no"})));
        assert!(!naked(young, json!({"dapr.io/enabled": "yes", "dapr.io/injection-skipped": "x"})));
        assert!(!naked(young, json!({})));
    }
}
