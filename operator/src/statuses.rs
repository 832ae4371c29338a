//! Writes what was found about Components into their status, where it is switched on.
use std::time::{Duration, Instant};

use resources::Component;
use runtime::{clock, kubernetes::api_text};

use crate::{
    cache::Entry,
    checks::Finding,
    cluster::Cluster,
    component_status,
    metrics::{CrdCheck, Metrics},
};

/// The CRD is looked at once in this time: whoever applies Dapr's file takes the status out of it.
const LOOK: Duration = Duration::from_mins(1);

/// The writer of one term of leadership.
pub(crate) struct Statuses {
    cluster: Cluster,
    metrics: Metrics,
    /// When the CRD was looked at last.
    looked: Option<Instant>,
    /// Whether the CRD has a status, as far as is known.
    usable: bool,
}

impl Statuses {
    pub(crate) fn new(cluster: Cluster, metrics: Metrics) -> Self {
        Self { cluster, metrics, looked: None, usable: false }
    }

    /// Gives the CRD a status, if it has none.
    pub(crate) async fn prepare(&mut self) {
        let now = clock::monotonic();
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let outcome = self.ensure_crd().await;
        let result = *outcome.as_ref().unwrap_or(&CrdCheck::Failed);
        self.metrics.crd_checked(component_status::CRD, result);
        self.usable = match outcome {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(target: "dapr.operator", "CRD {} gets no status: {}",
                    component_status::CRD, api_text(&error));
                false
            }
        };
    }

    async fn ensure_crd(&self) -> kube::Result<CrdCheck> {
        let crd = self.cluster.crd(component_status::CRD).await?;
        let operations = component_status::crd_patch(&crd);
        if operations.is_empty() {
            return Ok(CrdCheck::Right);
        }
        self.cluster.patch_crd(component_status::CRD, operations).await?;
        tracing::info!(target: "dapr.operator", "CRD {} has a status now", component_status::CRD);
        Ok(CrdCheck::Patched)
    }

    /// Writes what was found about a Component, if its status does not say so already.
    pub(crate) async fn write(&mut self, entry: &Entry<Component>, findings: &[Finding]) {
        let generation = entry.object.metadata.generation;
        let status = component_status::status(&entry.status, generation, findings, clock::now());
        let Some(status) = status.filter(|_| self.usable) else { return };
        match self.cluster.apply_status(&entry.object, &status).await {
            Ok(()) => {}
            // The Component is gone, or the CRD lost its status.
            Err(kube::Error::Api(answer)) if answer.code == 404 => self.looked = None,
            Err(error) => {
                let name = entry.name();
                tracing::warn!(target: "dapr.operator", name, "status was not written: {}", api_text(&error));
            }
        }
    }
}
