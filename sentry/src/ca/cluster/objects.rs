//! The Secret and the `ConfigMap` that hold the CA in a cluster. The chart creates them, sentry fills
//! them; every write carries the resource version that was read.

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{PartialObjectMeta, PostParams};
use kube::{Api, Client};
use kubernetes::{WatchOptions, Watcher, api_text};

use super::events::Events;
use super::sidecar_counter::SidecarCounter;
use crate::ca::record::{Keys, NAME, Snapshot};
use crate::ca::store_error::StoreError;
use crate::rotation::SecretUpdate;

/// Access to the two objects.
pub(crate) struct BundleObjects {
    watcher: Watcher,
    namespace: String,
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    keys: Keys,
    events: Events,
    sidecar_counter: SidecarCounter,
}

impl BundleObjects {
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        keys: Keys,
        events: Events,
        sidecar_counter: SidecarCounter,
    ) -> Self {
        Self {
            watcher: Watcher::paged(client.clone()),
            namespace: namespace.to_owned(),
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            keys,
            events,
            sidecar_counter,
        }
    }

    /// Where Events about the CA go.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Counts sidecars during a rotation.
    pub(crate) fn sidecar_counter(&self) -> &SidecarCounter {
        &self.sidecar_counter
    }

    /// The keys that hold the CA.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads both objects.
    ///
    /// # Errors
    /// [`StoreError`] if one does not exist or the API server does not answer.
    pub(crate) async fn read(&self) -> Result<Snapshot, StoreError> {
        let secret = self.secrets.get_opt(NAME).await.map_err(|e| api("get", "Secret", &e))?;
        let config_map =
            self.config_maps.get_opt(NAME).await.map_err(|e| api("get", "ConfigMap", &e))?;
        Ok(Snapshot {
            secret: secret.ok_or(StoreError::Missing("Secret"))?,
            config_map: config_map.ok_or(StoreError::Missing("ConfigMap"))?,
        })
    }

    /// Applies an update to the Secret; its other keys are preserved.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the Secret changed since the snapshot.
    pub(crate) async fn write(
        &self,
        snapshot: Snapshot,
        update: &SecretUpdate,
    ) -> Result<(), StoreError> {
        let mut secret = snapshot.secret;
        self.keys.apply(&mut secret, update);
        let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
        written.map(drop).map_err(|e| api("update", "Secret", &e))
    }

    /// Writes the trust anchors into the `ConfigMap`; its other keys are preserved.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the `ConfigMap` changed since the snapshot.
    pub(crate) async fn publish(
        &self,
        snapshot: Snapshot,
        anchors: &str,
    ) -> Result<(), StoreError> {
        let mut config_map = snapshot.config_map;
        self.keys.publish(&mut config_map, anchors);
        let written = self.config_maps.replace(NAME, &PostParams::default(), &config_map).await;
        written.map(drop).map_err(|e| api("update", "ConfigMap", &e))
    }

    /// Yields when one of the objects changes. A watch that is forbidden is not an error: the
    /// controller also polls.
    pub(crate) fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        let namespace = self.namespace.clone();
        let secrets = self.watcher.watch(WatchOptions::new("Secret").name(NAME), move |client| {
            Api::<PartialObjectMeta<Secret>>::namespaced(client, &namespace)
        });
        let namespace = self.namespace.clone();
        let config_maps =
            self.watcher.watch(WatchOptions::new("ConfigMap").name(NAME), move |client| {
                Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, &namespace)
            });
        stream::select(secrets.map(drop), config_maps.map(drop))
    }
}

/// Classifies a failed call.
pub(crate) fn api(verb: &'static str, kind: &'static str, e: &kube::Error) -> StoreError {
    const CONFLICT: u16 = 409;
    match e {
        kube::Error::Api(status) if status.code == CONFLICT => StoreError::Conflict(kind),
        other => StoreError::Api { verb, kind, cause: api_text(other) },
    }
}
