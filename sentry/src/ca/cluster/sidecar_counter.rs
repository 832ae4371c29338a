//! Counts the running sidecars that do not trust a root. The injector writes the trust anchors into
//! a pod's environment once and daprd reads them once: only a new pod trusts a new root.

use identity::{CertificateDer, TrustAnchors};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::object::NotUsed;
use kube::core::{ApiResource, Object};
use kube::{Api, Client};
use kubernetes::api_text;
use resources::labels::LABEL_SIDECAR_INJECTED;
use serde::{Deserialize, Serialize};

use crate::rotation::StaleSidecars;

/// The variable that daprd reads its trust anchors from. Source: Dapr 1.18, injector.
const ANCHORS: &str = "DAPR_TRUST_ANCHORS";
/// Selects pods that have not terminated.
const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Pods per page; bounds memory in large clusters.
const PAGE: u32 = 200;

const FORBIDDEN: u16 = 403;

/// The part of a pod's specification that is decoded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Container {
    env: Vec<Variable>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

type PodObject = Object<PodSpec, NotUsed>;

#[derive(Clone)]
pub(crate) struct SidecarCounter {
    everywhere: Api<PodObject>,
    own_namespace: Api<PodObject>,
}

impl SidecarCounter {
    pub(crate) fn new(client: &Client, own_namespace: &str) -> Self {
        let pods = ApiResource::erase::<Pod>(&());
        Self {
            everywhere: Api::all_with(client.clone(), &pods),
            own_namespace: Api::namespaced_with(client.clone(), own_namespace, &pods),
        }
    }

    /// Counts the running sidecars that do not trust `root`: in all namespaces, or in sentry's own
    /// one if RBAC allows no more (`global.rbac.namespaced`).
    pub(crate) async fn count_stale(&self, root: &CertificateDer<'_>) -> StaleSidecars {
        for pods in [&self.everywhere, &self.own_namespace] {
            match count(pods, root).await {
                Ok(count) => return StaleSidecars::Count(count),
                Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {}
                Err(e) => {
                    tracing::warn!(target: "dapr.sentry.ca", error = api_text(&e), "cannot count the sidecars that do not trust the new root");
                    return StaleSidecars::Unknown;
                }
            }
        }
        StaleSidecars::Unknown
    }
}

async fn count(pods: &Api<PodObject>, root: &CertificateDer<'_>) -> kube::Result<usize> {
    let injected = format!("{LABEL_SIDECAR_INJECTED}=true");
    let mut page = ListParams::default().labels(&injected).fields(RUNNING).limit(PAGE);
    let mut total = 0;
    loop {
        let listed = pods.list(&page).await?;
        total += listed.items.iter().filter(|pod| lacks(&pod.spec, root)).count();
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(total),
        }
    }
}

/// Whether the trust anchors in a pod's environment lack the root.
fn lacks(pod: &PodSpec, root: &CertificateDer<'_>) -> bool {
    let containers = pod.containers.iter().chain(&pod.init_containers);
    let mut anchors =
        containers.flat_map(|container| &container.env).filter(|variable| variable.name == ANCHORS);
    anchors.any(|variable| {
        let known = TrustAnchors::parse_pem(variable.value.as_bytes());
        known.is_ok_and(|known| !known.certs().contains(root))
    })
}

#[cfg(test)]
mod tests {
    use testkit::ca::Ca;

    use super::*;

    fn pod(anchors: Option<&str>) -> PodSpec {
        let variable = |value: &str| Variable { name: ANCHORS.to_owned(), value: value.to_owned() };
        let env = anchors.map(variable).into_iter().collect();
        PodSpec { containers: vec![Container::default(), Container { env }], ..PodSpec::default() }
    }

    #[test]
    fn counts_sidecars_whose_anchors_lack_the_root() {
        let (old, new) = (Ca::new(), Ca::new());
        let new_root = new.anchors().certs()[0].clone();
        let both = format!("{}{}", new.pem().anchors, old.pem().anchors);
        assert!(lacks(&pod(Some(&old.pem().anchors)), &new_root));
        assert!(!lacks(&pod(Some(&both)), &new_root));
        assert!(!lacks(&pod(None), &new_root), "it reads its anchors from a file");
        let native = PodSpec {
            init_containers: pod(Some(&old.pem().anchors)).containers,
            ..PodSpec::default()
        };
        assert!(lacks(&native, &new_root), "a native sidecar is an init container");
    }
}
