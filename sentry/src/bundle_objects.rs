//! The Secret and the `ConfigMap` that hold the CA in a cluster. The chart makes them, sentry fills
//! them; every write carries the version that was read. Source of names: Dapr 1.18, chart.

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kubernetes::api_text;
use resources::names;

use crate::bundle_record::{Change, Keys, Snapshot};
use crate::census::Census;
use crate::events::Events;

/// Name of both objects.
pub const NAME: &str = names::TRUST_BUNDLE;

/// Why the objects could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The chart has not made the object.
    #[error("{0} {NAME} does not exist; the Helm chart makes it, sentry only fills it")]
    Missing(&'static str),
    /// Somebody else wrote in between: read again.
    #[error("{0} {NAME} was changed by somebody else meanwhile")]
    Conflict(&'static str),
    /// Any other answer of the API server.
    #[error("{verb} {kind} {NAME}: {cause}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        kind: &'static str,
        /// What the API server said.
        cause: String,
    },
}

/// Access to the two objects.
pub struct BundleObjects {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    keys: Keys,
    events: Events,
    census: Census,
}

impl BundleObjects {
    pub(crate) fn new(
        secrets: Api<Secret>,
        config_maps: Api<ConfigMap>,
        keys: Keys,
        events: Events,
        census: Census,
    ) -> Self {
        Self { secrets, config_maps, keys, events, census }
    }

    /// Where Events about the CA go.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Who counts sidecars.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Under which keys the CA stands.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads both.
    ///
    /// # Errors
    /// [`ObjectsError`] if one does not exist or the API server does not answer.
    pub async fn read(&self) -> Result<Snapshot, ObjectsError> {
        let secret = self.secrets.get_opt(NAME).await.map_err(|e| api("get", "Secret", &e))?;
        let config_map =
            self.config_maps.get_opt(NAME).await.map_err(|e| api("get", "ConfigMap", &e))?;
        Ok(Snapshot {
            secret: secret.ok_or(ObjectsError::Missing("Secret"))?,
            config_map: config_map.ok_or(ObjectsError::Missing("ConfigMap"))?,
        })
    }

    /// Carries out a step on the Secret; what it does not speak of stays.
    ///
    /// # Errors
    /// [`ObjectsError::Conflict`] if somebody else wrote since the snapshot.
    pub async fn write(&self, snapshot: Snapshot, change: &Change) -> Result<(), ObjectsError> {
        let mut secret = snapshot.secret;
        self.keys.apply(&mut secret, change);
        let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
        written.map(drop).map_err(|e| api("update", "Secret", &e))
    }

    /// Copies the anchors into the `ConfigMap`; its other keys stay.
    ///
    /// # Errors
    /// [`ObjectsError::Conflict`] if somebody else wrote since the snapshot.
    pub async fn publish(&self, snapshot: Snapshot, anchors: &str) -> Result<(), ObjectsError> {
        let mut config_map = snapshot.config_map;
        self.keys.publish(&mut config_map, anchors);
        let written = self.config_maps.replace(NAME, &PostParams::default(), &config_map).await;
        written.map(drop).map_err(|e| api("update", "ConfigMap", &e))
    }

    /// Wakes whenever one of the objects changes. A watch that is not allowed is no error here:
    /// the objects are read from time to time anyway.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let secrets = watcher(self.secrets.clone(), only.clone());
        let config_maps = watcher(self.config_maps.clone(), only);
        stream::select(
            secrets.default_backoff().map(|event| noted(event.err())),
            config_maps.default_backoff().map(|event| noted(event.err())),
        )
    }
}

fn noted(failure: Option<watcher::Error>) {
    if let Some(e) = failure {
        tracing::debug!(target: "dapr.sentry.ca", error = runtime::chain(&e),
            "watch of the trust bundle failed; it is read from time to time instead");
    }
}

/// Whether somebody else wrote in between, so that everything is read again.
pub(crate) fn is_conflict(e: &anyhow::Error) -> bool {
    matches!(e.downcast_ref(), Some(ObjectsError::Conflict(_)))
}

/// Sorts a failed call.
pub(crate) fn api(verb: &'static str, kind: &'static str, e: &kube::Error) -> ObjectsError {
    const CONFLICT: u16 = 409;
    match e {
        kube::Error::Api(status) if status.code == CONFLICT => ObjectsError::Conflict(kind),
        other => ObjectsError::Api { verb, kind, cause: api_text(other) },
    }
}
