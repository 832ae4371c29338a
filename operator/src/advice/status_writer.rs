//! Writes the status of Components, if enabled.
use std::time::{Duration, Instant};

use kubernetes::api_text;
use resources::Component;
use runtime::clock;

use crate::advice::checks::Finding;
use crate::advice::status;
use crate::cache::objects::Entry;
use crate::cluster::Cluster;
use crate::metrics::{CrdCheck, Metrics};

/// Interval between checks of the CRD: applying the upstream file removes the status subresource.
const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// Writes status during one term of leadership.
pub(crate) struct StatusWriter {
    cluster: Cluster,
    metrics: Metrics,
    /// Time of the last check of the CRD.
    checked: Option<Instant>,
    /// Whether the CRD has the status subresource.
    usable: bool,
    /// Whether a write of the current pass failed.
    failed: bool,
}

impl StatusWriter {
    pub(crate) fn new(cluster: Cluster, metrics: Metrics) -> Self {
        Self { cluster, metrics, checked: None, usable: false, failed: false }
    }

    /// Begins a pass: adds the status subresource to the CRD, if it is absent.
    pub(crate) async fn prepare(&mut self) {
        self.failed = false;
        let now = clock::monotonic();
        if self.checked.is_some_and(|at| now.saturating_duration_since(at) < CHECK_INTERVAL) {
            return;
        }
        self.checked = Some(now);
        let outcome = self.ensure_crd().await;
        let result = *outcome.as_ref().unwrap_or(&CrdCheck::Failed);
        self.metrics.crd_checked(status::CRD, result);
        self.usable = match outcome {
            Ok(_) => true,
            Err(error) => {
                self.checked = None;
                tracing::warn!(target: "dapr.operator", "failed to add the status subresource to CRD {}: {}",
                    status::CRD, api_text(&error));
                false
            }
        };
    }

    /// Whether everything of the current pass could be written.
    pub(crate) const fn succeeded(&self) -> bool {
        self.usable && !self.failed
    }

    async fn ensure_crd(&self) -> kube::Result<CrdCheck> {
        let result = self.cluster.reconcile_crd(status::CRD, status::crd_patch).await?;
        if result == CrdCheck::Patched {
            tracing::info!(target: "dapr.operator", "added the status subresource to CRD {}", status::CRD);
        }
        Ok(result)
    }

    /// Writes the status of a Component, if it changed.
    pub(crate) async fn write(&mut self, entry: &Entry<Component>, findings: &[Finding]) {
        let generation = entry.object.metadata.generation;
        let status = status::status(&entry.status, generation, findings, clock::now());
        let Some(status) = status.filter(|_| self.usable) else { return };
        let Err(error) = self.cluster.apply_status(&entry.object, &status).await else { return };
        self.failed = true;
        match error {
            // The Component was deleted, or the API server does not serve the status subresource: it
            // was removed, or added a moment ago.
            kube::Error::Api(answer) if answer.code == 404 => self.checked = None,
            error => {
                let name = entry.name();
                tracing::warn!(target: "dapr.operator", name, "failed to write status: {}", api_text(&error));
            }
        }
    }
}
