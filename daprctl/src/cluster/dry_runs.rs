//! The two objects that the command creates as dry runs. The API server stores neither.

use http::{HeaderMap, HeaderName, HeaderValue};
use resources::GROUP;
use resources::injection::{NAMESPACE_NAME, Selection, probe};
use serde_json::{Value, json};

use super::reader::DryRun;
use super::{ADMISSION, Cluster, WEBHOOK};
use crate::facts::{Fact, Probe, ReadError};
use crate::pods::Pod;

/// Name of both objects.
const NAME: &str = "daprctl-check";
/// A user that is allowed to inject in every installation and to create pods in every cluster: the
/// controller of `ReplicaSets` (Dapr 1.18.3, injector; Kubernetes, bootstrap roles).
const CONTROLLER: &str = "replicaset-controller";
const CONTROLLERS: &str = "kube-system";

impl Cluster {
    /// Creates a pod that requests a sidecar, impersonating a workload controller, or as the caller
    /// without the right to impersonate.
    pub(super) async fn probe(&self) -> Fact<Probe> {
        let namespace = self.probed_namespace().await;
        let doing = format!("create a pod as a dry run in {namespace}");
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        let pod = probe(NAME);
        let account = format!("/api/v1/namespaces/{CONTROLLERS}/serviceaccounts/{CONTROLLER}");
        let account: Option<Value> =
            self.reader.get("get a ServiceAccount", &account).await.unwrap_or_default();
        let uid = account.as_ref().and_then(|account| account.pointer("/metadata/uid")?.as_str());
        for (headers, as_controller) in [(impersonation(uid), true), (HeaderMap::new(), false)] {
            match self.reader.create(&doing, &path, &pod, &headers).await? {
                DryRun::Forbidden => {}
                DryRun::Rejected(words) => return Ok(Probe::Denied(words)),
                DryRun::Accepted(pod) => {
                    let injected = Pod::read(&pod).sidecar().map(|sidecar| sidecar.image.clone());
                    return Ok(
                        injected.map_or(Probe::WithoutSidecar { as_controller }, Probe::Injected)
                    );
                }
            }
        }
        Err(ReadError::Forbidden(doing))
    }

    /// The control plane's namespace, or `default` if the webhook excludes it.
    async fn probed_namespace(&self) -> String {
        let hook = format!("{ADMISSION}/mutatingwebhookconfigurations/{WEBHOOK}");
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        let (hook, own): (Fact<Option<Value>>, Fact<Option<Value>>) =
            tokio::join!(self.reader.get("", &hook), self.reader.get("", &path));
        let (Ok(Some(hook)), Ok(Some(own))) = (hook, own) else { return self.namespace.clone() };
        let mut labels = crate::pods::strings(own.pointer("/metadata/labels"));
        labels.insert(NAMESPACE_NAME.to_owned(), self.namespace.clone());
        let covered = Selection::read(&hook).is_ok_and(|all| all.covers(&labels, None));
        if covered { self.namespace.clone() } else { "default".to_owned() }
    }

    /// Creates a Subscription of the old version. The API server calls the operator to convert it to
    /// the stored version and back.
    pub(super) async fn convert(&self) -> Fact<Result<(), String>> {
        let doing = format!("create a Subscription as a dry run in {}", self.namespace);
        let path = format!(
            "/apis/{GROUP}/v1alpha1/namespaces/{}/subscriptions?dryRun=All",
            self.namespace
        );
        let subscription = json!({
            "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Subscription",
            "metadata": {"name": NAME},
            "spec": {"topic": NAME, "pubsubname": NAME, "route": "/check"},
        });
        match self.reader.create(&doing, &path, &subscription, &HeaderMap::new()).await? {
            DryRun::Forbidden => Err(ReadError::Forbidden(doing)),
            DryRun::Rejected(words) => Ok(Err(words)),
            DryRun::Accepted(_) => Ok(Ok(())),
        }
    }
}

/// Headers that impersonate the controller (Kubernetes, user impersonation). Older injectors identify
/// it by its UID.
fn impersonation(uid: Option<&str>) -> HeaderMap {
    let name = |name: &'static str| HeaderName::from_static(name);
    let mut headers = HeaderMap::new();
    let user = format!("system:serviceaccount:{CONTROLLERS}:{CONTROLLER}");
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{CONTROLLERS}"),
        "system:authenticated".to_owned(),
    ];
    let value = |text: &str| HeaderValue::from_str(text).ok(); // ASCII by construction
    headers.extend(value(&user).map(|user| (name("impersonate-user"), user)));
    for group in groups {
        if let Some(group) = value(&group) {
            headers.append(name("impersonate-group"), group);
        }
    }
    headers.extend(uid.and_then(value).map(|uid| (name("impersonate-uid"), uid)));
    headers
}
