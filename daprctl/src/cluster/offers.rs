//! The two objects that are offered to the API server as dry runs: nothing is stored.

use http::{HeaderMap, HeaderName, HeaderValue};
use resources::GROUP;
use resources::injection::{NAMESPACE_NAME, Selection, probe};
use serde_json::{Value, json};

use super::reader::Offered;
use super::{ADMISSION, Cluster, WEBHOOK};
use crate::facts::{Fact, Probe, Unread};
use crate::pods::Pod;

/// Name of both.
const NAME: &str = "daprctl-check";
/// A creator whose pods get sidecars in every installation, and who may create pods in every
/// cluster: the controller of `ReplicaSets` (Dapr 1.18.3, injector; Kubernetes, bootstrap roles).
const CONTROLLER: &str = "replicaset-controller";
const CONTROLLERS: &str = "kube-system";

impl Cluster {
    /// Offers a pod that asks for a sidecar, as a controller of workloads would; as the caller
    /// where it may not act for others.
    pub(super) async fn probe(&self) -> Fact<Probe> {
        let namespace = self.probed_namespace().await;
        let doing = format!("create a pod as a dry run in {namespace}");
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        let pod = probe(NAME);
        let account = format!("/api/v1/namespaces/{CONTROLLERS}/serviceaccounts/{CONTROLLER}");
        let account: Option<Value> =
            self.reader.get("get a ServiceAccount", &account).await.unwrap_or_default();
        let uid = account.as_ref().and_then(|account| account.pointer("/metadata/uid")?.as_str());
        for (headers, as_controller) in [(acting(uid), true), (HeaderMap::new(), false)] {
            match self.reader.create(&doing, &path, &pod, &headers).await? {
                Offered::Forbidden => {}
                Offered::Refused(words) => return Ok(Probe::Denied(words)),
                Offered::Taken(pod) => {
                    let injected = Pod::read(&pod).sidecar().map(|sidecar| sidecar.image.clone());
                    return Ok(injected.map_or(Probe::Naked { as_controller }, Probe::Injected));
                }
            }
        }
        Err(Unread::Forbidden(doing))
    }

    /// The control plane's namespace, unless the webhook is not called for it.
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

    /// Offers a Subscription of the old version, which the API server has the operator convert to
    /// the stored one and back.
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
            Offered::Forbidden => Err(Unread::Forbidden(doing)),
            Offered::Refused(words) => Ok(Err(words)),
            Offered::Taken(_) => Ok(Ok(())),
        }
    }
}

/// Acts for the controller (Kubernetes, user impersonation). Older injectors know it by its uid.
fn acting(uid: Option<&str>) -> HeaderMap {
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
