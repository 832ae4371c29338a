//! Workflow access rules that a sidecar cannot enforce.
//!
//! A sidecar before Dapr 1.19 ignores `requires` in a rule of a WorkflowAccessPolicy and grants the
//! access without the gate. A policy is an allow-list, so such rules are withheld from it. The version
//! is the tag of its image. A tag that is not a version, and a sidecar without a pod, count as new.
//! While the pods cannot be read, nothing is known: a list fails and an event is sent later.
use bytes::Bytes;
use kube::Resource as _;
use kubernetes::api_text;
use resources::{CustomResource as _, WorkflowAccessPolicy, images, json};
use tokio::sync::{OnceCell, Semaphore};

use crate::api::access::Caller;
use crate::api::cluster::sidecar_images;
use crate::api::error::ApiError;
use crate::cache::objects::Entry;
use crate::cluster::Cluster;
use crate::cluster::report::Reports;

/// First version of sidecars that enforce `requires`.
const ENFORCED_SINCE: (u32, u32) = (1, 19);
/// Concurrent reads of pods: the API server searches all pods of the namespace for each.
const MAX_READS: usize = 4;
/// Precedes every gate in the JSON of a policy.
const GATE: &[u8] = br#""requires":["#;
/// Begins the JSON of an object in a list; events have no type.
const TYPED: &[u8] = br#"{"kind""#;
/// Reason of the Event on the policy.
const REASON: &str = "RequiresNotEnforced";

/// Withholds gated rules from sidecars that cannot enforce them.
pub(crate) struct GatedRules {
    enabled: bool,
    cluster: Cluster,
    reports: Reports,
    reads: Semaphore,
}

/// The image of an outdated sidecar; `None` for one that enforces gates. Read once for each list and
/// stream, and only when there is a gated rule.
pub(crate) type OutdatedSidecar = OnceCell<Option<String>>;

impl GatedRules {
    pub(crate) fn new(enabled: bool, cluster: Cluster, reports: Reports) -> Self {
        Self { enabled, cluster, reports, reads: Semaphore::new(MAX_READS) }
    }

    /// The JSON of a policy for the caller: `body` unless it contains rules that must be withheld.
    /// A policy without rules remains, because it denies everything.
    ///
    /// # Errors
    /// [`ApiError::SidecarVersion`]: the caller's pod cannot be read.
    pub(crate) async fn withhold(
        &self,
        caller: &Caller,
        outdated: &OutdatedSidecar,
        body: Bytes,
    ) -> Result<Bytes, ApiError> {
        if !self.enabled || !body.windows(GATE.len()).any(|part| part == GATE) {
            return Ok(body);
        }
        let mut policy: WorkflowAccessPolicy = serde_json::from_slice(&body)?;
        if !policy.in_scope(&caller.app_id) {
            return Ok(body);
        }
        let withheld = remove_gated_rules(&mut policy);
        if withheld == 0 {
            return Ok(body);
        }
        let outdated = outdated.get_or_try_init(|| self.outdated_sidecar(caller)).await?;
        let Some(image) = outdated else { return Ok(body) };
        let note = format!(
            "withheld {withheld} rules with requires from app {}: its sidecar {image} ignores \
             requires and would grant access; upgrade the sidecar to Dapr 1.19",
            caller.app_id
        );
        tracing::warn!(target: "dapr.operator.api", namespace = caller.namespace,
            policy = policy.metadata.name, "{note}");
        self.reports.warn_each(policy.object_ref(&()), REASON, note);
        let typed = Bytes::from(json::to_vec(&policy)?);
        if body.starts_with(TYPED) {
            return Ok(typed);
        }
        Ok(Entry::<WorkflowAccessPolicy>::event_json(&typed).unwrap_or_default())
    }

    /// The image of the caller's sidecar if it is outdated. If several pods can be the caller, one
    /// outdated sidecar is sufficient.
    async fn outdated_sidecar(&self, caller: &Caller) -> Result<Option<String>, ApiError> {
        let _permit = self.reads.acquire().await; // never closed
        let images = sidecar_images(self.cluster.client(), caller).await;
        let images = images.map_err(|error| {
            let Caller { namespace, app_id, .. } = caller;
            let reason = api_text(&error);
            tracing::warn!(target: "dapr.operator.api", namespace, app_id,
                "failed to read the version of the sidecar: {reason}");
            ApiError::SidecarVersion { app_id: app_id.clone(), reason }
        })?;
        Ok(images.into_iter().find(|image| !enforces_requires(image)))
    }
}

/// Whether sidecars of this image enforce `requires`.
fn enforces_requires(image: &str) -> bool {
    images::minor(images::tag(image)).is_none_or(|version| version >= ENFORCED_SINCE)
}

/// Removes the gated rules of a policy, and the rules that become empty. Returns how many were removed.
fn remove_gated_rules(policy: &mut WorkflowAccessPolicy) -> usize {
    let mut removed = 0;
    policy.spec.rules.retain_mut(|rule| {
        let before = rule.workflows.len() + rule.activities.len();
        rule.workflows.retain(|workflow| workflow.requires.is_empty());
        rule.activities.retain(|activity| activity.requires.is_empty());
        let after = rule.workflows.len() + rule.activities.len();
        removed += before - after;
        after > 0 || before == 0
    });
    removed
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::older("ghcr.io/dapr/daprd:1.18.5", false)]
    #[case::variant("ghcr.io/dapr/daprd:1.18.3-mariner", false)]
    #[case::prefix("registry:5000/daprd:v1.17.0", false)]
    #[case::two_numbers("daprd:1.18", false)]
    #[case::digest("daprd:1.18.5@sha256:00", false)]
    #[case::exact("ghcr.io/dapr/daprd:1.19.0", true)]
    #[case::candidate("daprd:1.19.0-rc.1", true)]
    #[case::newer("daprd:2.0.0", true)]
    #[case::word("daprd:edge", true)]
    #[case::one_number("daprd:1", true)]
    #[case::no_tag("registry:5000/daprd", true)]
    #[case::digest_only("daprd@sha256:1718", true)]
    fn version_comes_from_the_tag(#[case] image: &str, #[case] want: bool) {
        assert_eq!(enforces_requires(image), want);
    }

    #[test]
    fn gated_rules_and_rules_that_become_empty_are_removed() {
        let gate = json!([{"eventType": "activity.completed", "name": "pay", "appID": "bills"}]);
        let mut policy: WorkflowAccessPolicy = serde_json::from_value(json!({"spec": {"rules": [
            {"callers": [{"appID": "a"}], "workflows": [{"name": "w", "operations": ["schedule"],
                "requires": gate}, {"name": "open", "operations": ["get"]}]},
            {"callers": [{"appID": "b"}], "activities": [{"name": "x", "requires": gate}]},
            {"callers": [{"appID": "c"}], "later": 1},
        ]}}))
        .unwrap();
        assert_eq!(remove_gated_rules(&mut policy), 2);
        let left = serde_json::to_value(&policy.spec.rules).unwrap();
        let want = json!([
            {"callers": [{"appID": "a"}], "workflows": [{"name": "open", "operations": ["get"]}]},
            {"callers": [{"appID": "c"}], "later": 1},
        ]);
        assert_eq!(left, want);
        assert_eq!(remove_gated_rules(&mut policy), 0);
    }
}
