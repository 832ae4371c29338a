//! The watchdog's calls to the API server. Decides nothing.
use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
    },
};
use resources::{
    injection::{BadRegistration, Selection, has_sidecar, probe},
    labels::LABEL_WATCHDOG_PATCHED,
    names,
};
use runtime::kubernetes::api_text;
use serde_json::json;

use crate::cache::Key;

/// App id of the probe pod.
const PROBE: &str = "dapr-watchdog-probe";
/// Limit of one call; a webhook alone may take 30 s, but ours has 5 s in the chart.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Why it is not proven that new pods get their sidecar.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// The API server did not answer, or refused.
    #[error("{doing}: {said}")]
    Call {
        /// What was tried.
        doing: &'static str,
        /// What the API server said.
        said: String,
    },
    /// The injector is not registered as it should be.
    #[error("read MutatingWebhookConfiguration {}", names::WEBHOOK_CONFIGURATION)]
    Registration(#[from] BadRegistration),
    /// The pod came back as it was sent.
    #[error(
        "a probe pod gets no sidecar in namespace {0}: the injector is not reached, or does not accept this operator"
    )]
    NotInjected(String),
}

/// The API server, as the watchdog uses it.
pub struct Hands {
    client: Client,
    /// Where the probe pod is offered: the control plane's namespace.
    namespace: String,
}

impl Hands {
    /// Calls through `client`.
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// Offers a pod to the API server without storing it, and sees whether the injector adds the
    /// sidecar; the answer says which pods the injector is called for.
    ///
    /// # Errors
    /// [`Unproven`]
    pub async fn prove(&self) -> Result<Selection, Unproven> {
        let kind = "MutatingWebhookConfiguration";
        let resource = untyped("admissionregistration.k8s.io", "v1", kind);
        let hooks: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let registration = within(hooks.get(names::WEBHOOK_CONFIGURATION)).await;
        let registration = registration.map_err(failed("read the webhook's registration"))?;
        let selection = Selection::read(&registration.data)?;

        let pods = self.pods(&self.namespace);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let pod = serde_json::from_value(probe(PROBE)).map_err(|error| Unproven::Call {
            doing: "make the probe pod",
            said: error.to_string(),
        })?;
        let answer =
            within(pods.create(&params, &pod)).await.map_err(failed("offer a probe pod"))?;
        if has_sidecar(&answer.data) {
            Ok(selection)
        } else {
            Err(Unproven::NotInjected(self.namespace.clone()))
        }
    }

    /// A pod as it is now.
    ///
    /// # Errors
    /// What the API server says; so for all calls here.
    pub async fn pod(&self, key: &Key) -> Result<Option<DynamicObject>, String> {
        within(self.pods(&key.namespace).get_opt(&key.name)).await
    }

    /// The labels of a namespace.
    #[expect(clippy::missing_errors_doc, reason = "as `pod`")]
    pub async fn namespace_labels(&self, name: &str) -> Result<BTreeMap<String, String>, String> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        Ok(within(api.get_metadata(name)).await?.metadata.labels.unwrap_or_default())
    }

    /// Deletes this very state of a pod, with its own grace period.
    #[expect(clippy::missing_errors_doc, reason = "as `pod`")]
    pub async fn delete(&self, pod: &DynamicObject) -> Result<(), String> {
        let preconditions = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let key = Key::of(&pod.metadata);
        within(self.pods(&key.namespace).delete(&key.name, &params)).await.map(drop)
    }

    /// Marks a pod that has its sidecar, so that it need not be looked at again.
    #[expect(clippy::missing_errors_doc, reason = "as `pod`")]
    pub async fn label(&self, key: &Key) -> Result<(), String> {
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

fn failed(doing: &'static str) -> impl Fn(String) -> Unproven {
    move |said| Unproven::Call { doing, said }
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(|error| api_text(&error)),
        Err(_) => Err(format!("no answer within {} s", CALL_LIMIT.as_secs())),
    }
}
