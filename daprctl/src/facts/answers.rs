//! The answers of sidecars: their metadata, and the certificates that they present to others.

use std::collections::BTreeMap;

use dashboard::{Arguments, Metadata};
use identity::expiry_step;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::Fact;
use crate::pods::Pod;

/// Sidecars that `check` asks; one that does not answer takes seconds. `daprctl sidecars` asks all.
pub(crate) const MAX_ASKED: usize = 200;

/// State of a connection to placement in the metadata (Dapr 1.18).
const CONNECTED: &str = "connected";

/// Whether sidecars are asked in addition to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Sidecars that are ready, for their metadata and their certificates.
    Sidecars,
    /// No sidecar.
    Nobody,
}

/// Answers by namespace and name of the pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// Absent for sidecars that were not asked.
    pub(crate) metadata: BTreeMap<String, Fact<Metadata>>,
    /// Absent for sidecars without mTLS too.
    pub(crate) certificates: BTreeMap<String, Fact<Presented>>,
}

/// Services that a sidecar with these arguments has an address of, and no connection to.
pub(crate) fn disconnected(said: &Metadata, arguments: Arguments) -> Vec<&'static str> {
    let placement = arguments.has_placement && said.placement() != CONNECTED;
    let scheduler = arguments.has_scheduler && said.schedulers().is_empty();
    let services = [(placement, "placement"), (scheduler, "the scheduler")];
    services.into_iter().filter_map(|(is_lost, name)| is_lost.then_some(name)).collect()
}

/// The certificate that a sidecar presents to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Presented {
    /// SPIFFE id; `None` if it has none.
    pub(crate) id: Option<String>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// It and its issuers, leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Presented {
    /// Whether so little of its lifetime is left that the sidecar should have renewed it.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        expiry_step(self.not_before, self.not_after, now).is_some()
    }

    /// The time left; zero if it has expired.
    pub(crate) fn seconds_left(&self, now: Timestamp) -> i64 {
        now.duration_until(self.not_after).as_secs().max(0)
    }
}

/// Whether the sidecar of a pod is ready, and can be asked.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod.is_alive() && pod.sidecar().is_some_and(|sidecar| sidecar.ready)
}

/// The first `max` pods whose sidecars are ready, one of each application before the second of any.
pub(crate) fn sample(pods: &[Pod], max: usize) -> Vec<&Pod> {
    let mut number = BTreeMap::<_, usize>::new();
    let mut sample: Vec<_> = pods
        .iter()
        .filter(|pod| is_ready(pod))
        .map(|pod| {
            let before = number.entry((&pod.namespace, pod.app_id())).or_default();
            *before += 1;
            (*before, pod)
        })
        .collect();
    sample.sort_by_key(|(number, _)| *number); // stable: keeps the order of the API server
    sample.into_iter().map(|(_, pod)| pod).take(max).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(apps: &[&str]) -> Vec<Pod> {
        let pod = |(number, app): (usize, &&str)| {
            Pod::read(&json!({
                "metadata": {"namespace": "shop", "name": format!("{app}-{number}"),
                    "annotations": {"dapr.io/app-id": app}},
                "spec": {"containers": [{"name": "daprd"}]},
                "status": {"containerStatuses": [{"name": "daprd", "ready": true}]}}))
        };
        apps.iter().enumerate().map(pod).collect()
    }

    #[test]
    fn each_application_is_asked_before_the_second_pod_of_any() {
        let pods = pods(&["cart", "cart", "web", "cart"]);
        let names: Vec<_> = sample(&pods, 3).iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["cart-0", "web-2", "cart-1"]);
    }

    #[test]
    fn the_number_of_sidecars_that_are_asked_is_limited() {
        let all = pods(&["cart"; MAX_ASKED + 1]);
        assert_eq!(sample(&all[1..], MAX_ASKED).len(), MAX_ASKED);
        assert_eq!(sample(&all, MAX_ASKED).len(), MAX_ASKED);
    }

    #[test]
    fn a_sidecar_that_is_not_ready_is_not_asked() {
        let mut pods = pods(&["cart", "web"]);
        pods[0].containers[0].ready = false;
        pods[1].deleting = true;
        assert!(sample(&pods, MAX_ASKED).is_empty());
    }
}
