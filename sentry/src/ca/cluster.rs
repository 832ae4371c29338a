//! The calls to the Kubernetes API that the CA makes: its two objects and its settings.

pub(crate) mod events;
pub(crate) mod objects;
pub(crate) mod sidecar_counter;

use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use kubernetes::{WatchEvent, WatchOptions, Watcher, api_text};
use resources::Mtls;
use runtime::Scope;

use super::authority::Authority;
use super::record::{BundleNames, Keys};
use super::settings::{Settings, SettingsError};

use events::Events;
use objects::BundleObjects;
use sidecar_counter::SidecarCounter;

/// Why the control plane's Configuration was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigurationError {
    /// The API server failed.
    #[error("get the Configuration: {0}")]
    Api(String),
    /// It does not exist. Source of the text: Dapr 1.18, sentry.
    #[error("config CRD not found")]
    NotFound,
    /// It is invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// The Kubernetes API as the CA uses it.
pub(crate) struct CaCluster {
    client: Client,
    namespace: String,
}

impl CaCluster {
    /// Uses `client`; `namespace` is that of the control plane.
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The objects that hold the CA.
    pub(crate) fn bundle_objects(&self, names: &BundleNames) -> BundleObjects {
        BundleObjects::new(
            &self.client,
            &self.namespace,
            Keys::new(names),
            Events::new(self.client.clone(), &self.namespace),
            SidecarCounter::new(&self.client, &self.namespace),
        )
    }

    /// The Secrets of the control plane's namespace.
    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The `ConfigMap`s of the control plane's namespace.
    pub(crate) fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads `spec.mtls` of the control plane's Configuration.
    ///
    /// # Errors
    /// [`ConfigurationError`] if it does not exist, cannot be read or is invalid.
    pub(crate) async fn mtls(&self, name: &str) -> Result<Mtls, ConfigurationError> {
        let api = self.configurations();
        let object = kubernetes::wait_until_found(|| api.get_opt(name)).await;
        let object = object.map_err(|e| ConfigurationError::Api(api_text(&e)))?;
        Ok(mtls_of(&object.ok_or(ConfigurationError::NotFound)?)?)
    }

    /// Watches the control plane's Configuration: other settings apply from the next certificate on.
    /// An invalid or deleted Configuration changes nothing.
    pub(crate) fn watch_settings(&self, name: &str, authority: &Authority, scope: &Scope) {
        let (namespace, authority) = (self.namespace.clone(), authority.clone());
        let options = WatchOptions::new("Configuration").name(name);
        let events = Watcher::paged(self.client.clone()).watch(options, move |client| {
            let resource = ApiResource::erase::<resources::Configuration>(&());
            Api::<DynamicObject>::namespaced_with(client, &namespace, &resource)
        });
        scope.spawn_until_cancelled("settings", async move {
            let mut events = pin!(events);
            while let Some(event) = events.next().await {
                if let WatchEvent::Apply(object) | WatchEvent::InitApply(object) = event {
                    authority.configure(settings_of(&object));
                }
            }
        });
    }

    fn configurations(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<resources::Configuration>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }
}

fn settings_of(configuration: &DynamicObject) -> Result<Settings, SettingsError> {
    Settings::from_mtls(&mtls_of(configuration)?)
}

fn mtls_of(configuration: &DynamicObject) -> Result<Mtls, SettingsError> {
    let mtls = configuration.data.pointer("/spec/mtls").cloned().unwrap_or_default();
    let mtls: Option<Mtls> = serde_json::from_value(mtls).map_err(SettingsError::Mtls)?;
    Ok(mtls.unwrap_or_default())
}
