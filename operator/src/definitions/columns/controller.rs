//! Adds the columns while this replica is the leader, and again after they were removed.
use std::time::Duration;

use kubernetes::api_text;
use runtime::random;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::cluster::leader::while_leading;
use crate::cluster::pauses::Pauses;
use crate::definitions::columns::{CrdColumns, EnabledColumns};
use crate::metrics::{CrdCheck, Metrics};

/// Interval between checks of the CRDs: applying the upstream files removes the columns. After a
/// failure the next check is sooner.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Reconciles the columns of the CRDs.
pub(crate) struct ColumnsController {
    pub(crate) cluster: Cluster,
    pub(crate) metrics: Metrics,
    pub(crate) enabled: EnabledColumns,
}

impl ColumnsController {
    /// Runs until it is dropped. Cancel safe.
    pub(crate) async fn run(self, leading: watch::Receiver<bool>) {
        while_leading(leading, || self.reconcile_forever()).await;
    }

    async fn reconcile_forever(&self) {
        let mut pauses = Pauses::new(CHECK_INTERVAL);
        loop {
            let mut succeeded = true;
            for crd in self.enabled.crds() {
                succeeded &= self.reconcile(crd).await;
            }
            sleep(random::jittered(pauses.after(succeeded), 0.1)).await;
        }
    }

    /// Returns whether the CRD is as wanted.
    async fn reconcile(&self, crd: &CrdColumns) -> bool {
        let name = crd.name;
        let outcome = self.cluster.reconcile_crd(name, |live| crd.patch(live, self.enabled)).await;
        let result = match outcome {
            Ok(result) => result,
            // The kind is not installed.
            Err(kube::Error::Api(answer)) if answer.code == 404 => return true,
            Err(error) => {
                tracing::warn!(target: "dapr.operator", "failed to add the printer columns to CRD {name}: {}",
                    api_text(&error));
                CrdCheck::Failed
            }
        };
        if result == CrdCheck::Patched {
            tracing::info!(target: "dapr.operator", "added the printer columns to CRD {name}");
        }
        self.metrics.crd_checked(name, result);
        result != CrdCheck::Failed
    }
}
