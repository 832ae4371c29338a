//! Detects that the API server does not call the webhook. With the failure policy `Ignore`, pods then
//! start without a sidecar and without an error.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, ResourceExt as _};
use resources::annotations::{
    ANNOTATION_CONTROL_PLANE, ANNOTATION_ENABLED, ANNOTATION_INJECTION_SKIPPED, is_truthy,
};
use resources::labels::LABEL_SIDECAR_INJECTED;
use tokio::sync::watch;

use super::events::unreachable;
use super::metrics::ClusterMetrics;
use super::{Cluster, ClusterError, LOG, call};

/// Interval of checks until the first call.
const POLL: Duration = Duration::from_mins(1);
/// Checks between two Events.
const CHECKS_PER_EVENT: u32 = 10;
/// Pods per page.
const PAGE: u32 = 500;
/// Pages per check: the first pods without sidecar are sufficient.
const MAX_PAGES: u32 = 20;

impl Cluster {
    /// Until the first call of the webhook, counts the pods that should have caused one. `called`
    /// becomes true with that call. Has no effect without the right to list pods.
    pub(crate) async fn check_reachability(
        self,
        mut called: watch::Receiver<bool>,
        metrics: ClusterMetrics,
        events: bool,
    ) {
        let since = runtime::clock::now();
        let mut checks = CHECKS_PER_EVENT;
        while !*called.borrow_and_update() {
            tokio::select! {
                _ = called.changed() => continue,
                () = tokio::time::sleep(POLL) => {}
            }
            match self.pods_without_sidecar(since).await {
                Ok(0) => metrics.pods_not_seen(0),
                Ok(count) => {
                    metrics.pods_not_seen(count);
                    if checks >= CHECKS_PER_EVENT {
                        checks = 0;
                        self.report_unreachable(count, events).await;
                    }
                    checks += 1;
                }
                Err(error) => {
                    tracing::debug!(target: LOG, "cannot list pods: {}", runtime::chain(&error));
                }
            }
        }
        metrics.pods_not_seen(0);
        std::future::pending::<()>().await;
    }

    async fn report_unreachable(&self, count: u64, events: bool) {
        tracing::error!(target: LOG, pods = count, "the API server has not called the webhook since the start of the injector, but pods created since then request a sidecar; check that the API server can reach the webhook port");
        if !events {
            return;
        }
        let (deployment, event) = unreachable(count, &self.namespace).into_event();
        self.recorder.record_event(&deployment, event).await;
    }

    /// Counts pods created since then that request a sidecar and have none: in all namespaces or, if
    /// the injector may not list these, in that of the control plane.
    async fn pods_without_sidecar(&self, since: Timestamp) -> Result<u64, ClusterError> {
        match self.pods_without_sidecar_in(&Api::all(self.client.clone()), since).await {
            Err(_) => {
                let own = Api::namespaced(self.client.clone(), &self.namespace);
                self.pods_without_sidecar_in(&own, since).await
            }
            found => found,
        }
    }

    async fn pods_without_sidecar_in(
        &self,
        api: &Api<Pod>,
        since: Timestamp,
    ) -> Result<u64, ClusterError> {
        let without = format!("{LABEL_SIDECAR_INJECTED}!=true");
        let mut page = ListParams::default().labels(&without).limit(PAGE);
        let mut count = 0;
        for _ in 0..MAX_PAGES {
            let pods = call(api.list_metadata(&page)).await?;
            count +=
                pods.items.iter().filter(|pod| lacks_sidecar(pod, since)).map(|_| 1).sum::<u64>();
            match pods.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        Ok(count)
    }
}

/// Whether a pod without the label of the injector should have a sidecar.
fn lacks_sidecar(pod: &PartialObjectMeta<Pod>, since: Timestamp) -> bool {
    let annotations = pod.annotations();
    let excluded = [ANNOTATION_INJECTION_SKIPPED, ANNOTATION_CONTROL_PLANE];
    annotations.get(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text))
        && !excluded.iter().any(|key| annotations.contains_key(*key))
        && pod.creation_timestamp().is_some_and(|created| created.0 > since)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_new_pods_that_request_a_sidecar() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let lacks = |created: &str, annotations: serde_json::Value| {
            let metadata =
                json!({"name": "p", "creationTimestamp": created, "annotations": annotations});
            lacks_sidecar(&serde_json::from_value(json!({ "metadata": metadata })).unwrap(), since)
        };
        let new = "2026-01-01T00:00:01Z";
        assert!(lacks(new, json!({"dapr.io/enabled": "yes"})));
        assert!(!lacks("2025-12-31T23:59:59Z", json!({"dapr.io/enabled": "yes"})));
        assert!(!lacks(new, json!({"dapr.io/enabled": "no"})));
        assert!(!lacks(new, json!({"dapr.io/enabled": "yes", "dapr.io/injection-skipped": "x"})));
        assert!(!lacks(new, json!({})));
    }
}
