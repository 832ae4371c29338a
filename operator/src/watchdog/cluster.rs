//! The watchdog's calls to the API server.
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Api, Client};
use kubernetes::api_text;
use resources::injection::{BadRegistration, Selection, has_sidecar, probe};
use resources::labels::LABEL_WATCHDOG_PATCHED;
use resources::names;
use serde_json::json;

use kubernetes::ObjectKey;

/// App id of the probe pod.
const PROBE: &str = "dapr-watchdog-probe";
/// Timeout of one call. The chart gives the injector's webhook 5 s of it.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Why the injection of new pods could not be verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectionUnverified {
    #[error("{doing}: {reason}")]
    Call { doing: &'static str, reason: String },
    /// The webhook registration is not usable.
    #[error("read MutatingWebhookConfiguration {}", names::WEBHOOK_CONFIGURATION)]
    Registration(#[from] BadRegistration),
    /// The API server returned the probe pod unchanged.
    #[error(
        "the probe pod in namespace {0} received no sidecar: the injector is not reachable or does not allow this operator's service account"
    )]
    NotInjected(String),
}

/// Reads and deletes pods, and probes the injector.
pub(crate) struct PodClient {
    client: Client,
    /// Namespace of the probe pod: the control plane's.
    namespace: String,
}

impl PodClient {
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// Creates a probe pod as a dry run and verifies that the injector adds the sidecar. Returns which
    /// pods the injector's webhook selects.
    ///
    /// # Errors
    /// [`InjectionUnverified`]
    pub(crate) async fn verify_injection(&self) -> Result<Selection, InjectionUnverified> {
        let kind = "MutatingWebhookConfiguration";
        let resource = untyped("admissionregistration.k8s.io", "v1", kind);
        let hooks: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let registration = within(hooks.get(names::WEBHOOK_CONFIGURATION)).await;
        let registration = registration.map_err(failed("read the webhook registration"))?;
        let selection = Selection::read(&registration.data)?;

        let pods = self.pods(&self.namespace);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let pod = serde_json::from_value(probe(PROBE)).map_err(|error| {
            InjectionUnverified::Call { doing: "build the probe pod", reason: error.to_string() }
        })?;
        let created = within(pods.create(&params, &pod))
            .await
            .map_err(failed("create the probe pod as a dry run"))?;
        if has_sidecar(&created.data) {
            Ok(selection)
        } else {
            Err(InjectionUnverified::NotInjected(self.namespace.clone()))
        }
    }

    /// Reads a pod.
    ///
    /// # Errors
    /// The error of the API server; the same for all calls below.
    pub(crate) async fn pod(&self, key: &ObjectKey) -> Result<Option<DynamicObject>, String> {
        within(self.pods(&key.namespace).get_opt(&key.name)).await
    }

    pub(crate) async fn namespace_labels(
        &self,
        name: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        Ok(within(api.get_metadata(name)).await?.metadata.labels.unwrap_or_default())
    }

    /// Deletes exactly this version of a pod, with the pod's grace period.
    pub(crate) async fn delete(&self, pod: &DynamicObject) -> Result<(), String> {
        let preconditions = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let key = ObjectKey::of(&pod.metadata);
        within(self.pods(&key.namespace).delete(&key.name, &params)).await.map(drop)
    }

    /// Labels a pod that has its sidecar, so that it is not a candidate again.
    pub(crate) async fn label(&self, key: &ObjectKey) -> Result<(), String> {
        let patch = json!({"metadata": {"labels": {LABEL_WATCHDOG_PATCHED: "true"}}});
        let (pods, params) = (self.pods(&key.namespace), PatchParams::default());
        within(pods.patch_metadata(&key.name, &params, &Patch::Merge(patch))).await.map(drop)
    }

    fn pods(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<Pod>(&());
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }
}

fn untyped(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind))
}

fn failed(doing: &'static str) -> impl Fn(String) -> InjectionUnverified {
    move |reason| InjectionUnverified::Call { doing, reason }
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(result) => result.map_err(|error| api_text(&error)),
        Err(_) => Err(format!("no response within {} s", CALL_LIMIT.as_secs())),
    }
}
