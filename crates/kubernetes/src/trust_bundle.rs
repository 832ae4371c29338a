//! Reads the trust anchors that sentry publishes.

use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use resources::names;

/// The function that [`trust_bundle`] returns. Each call reads once; `None` while the `ConfigMap`
/// does not exist, is empty or cannot be read.
pub type BundleReader =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// A reader of the trust anchors in the `ConfigMap` that sentry writes into `namespace`. Services
/// use it on a fresh installation, where the kubelet takes up to a minute to project the
/// `ConfigMap` into their pods.
pub fn trust_bundle(client: Client, namespace: &str) -> BundleReader {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    Arc::new(move || {
        let api = api.clone();
        Box::pin(async move {
            match api.get_opt(names::TRUST_BUNDLE).await {
                Ok(found) => {
                    found?.data?.remove(names::KEY_TRUST_ANCHORS).filter(|text| !text.is_empty())
                }
                Err(e) => {
                    tracing::debug!(target: "dapr.runtime.security", error = &e as &dyn std::error::Error,
                        "the trust bundle cannot be read from the API server");
                    None
                }
            }
        })
    })
}
