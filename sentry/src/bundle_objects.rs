//! The Secret and the `ConfigMap` that hold the CA in a cluster. The chart makes them, sentry fills
//! them; every write carries the version that was read. Source of names: Dapr 1.18, chart.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _, stream};
use identity::BundlePem;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};

use crate::bundle_plan::{Published, Stored};
use crate::cluster::brief;
use crate::config::BundleNames;

const NAME: &str = "dapr-trust-bundle";

/// Marks a Secret whose CA sentry wrote: the fingerprint of anchors and issuer chain. Whatever does
/// not match was put there by somebody else.
const ANNOTATION_GENERATED: &str = "dapr.io/generated-ca";

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
    anchors: String,
    issuer_chain: String,
    issuer_key: String,
}

/// Both objects as they were read.
pub struct Snapshot {
    secret: Secret,
    config_map: ConfigMap,
}

impl BundleObjects {
    pub(crate) fn new(
        secrets: Api<Secret>,
        config_maps: Api<ConfigMap>,
        names: &BundleNames,
    ) -> Self {
        Self {
            secrets,
            config_maps,
            anchors: BundleNames::key(&names.anchors),
            issuer_chain: BundleNames::key(&names.issuer_chain),
            issuer_key: BundleNames::key(&names.issuer_key),
        }
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

    /// The CA in a snapshot.
    pub fn stored(&self, snapshot: &Snapshot) -> Stored {
        let value = |key: &str| Some(snapshot.secret.data.as_ref()?.get(key)?.0.clone());
        Stored::new(value(&self.anchors), value(&self.issuer_chain), value(&self.issuer_key))
    }

    /// The published anchors in a snapshot.
    pub fn published(&self, snapshot: &Snapshot) -> Published {
        let text = snapshot.config_map.data.as_ref().and_then(|data| data.get(&self.anchors));
        Published::ConfigMap(text.cloned())
    }

    /// Writes a CA that was just made into the Secret; its other keys stay.
    ///
    /// # Errors
    /// [`ObjectsError::Conflict`] if somebody else wrote since the snapshot.
    pub async fn save(&self, snapshot: Snapshot, pem: &BundlePem) -> Result<(), ObjectsError> {
        let mut secret = snapshot.secret;
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        let parts = [
            (&self.anchors, pem.anchors.as_bytes()),
            (&self.issuer_chain, pem.issuer_chain.as_bytes()),
            (&self.issuer_key, pem.issuer_key.as_bytes()),
        ];
        data.extend(parts.map(|(key, value)| (key.clone(), ByteString(value.to_vec()))));
        let annotations = secret.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(ANNOTATION_GENERATED.to_owned(), pem.fingerprint());
        let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
        written.map(drop).map_err(|e| api("update", "Secret", &e))
    }

    /// Copies the anchors into the `ConfigMap`; its other keys stay.
    ///
    /// # Errors
    /// [`ObjectsError::Conflict`] if somebody else wrote since the snapshot.
    pub async fn publish(&self, snapshot: Snapshot, anchors: &str) -> Result<(), ObjectsError> {
        let mut config_map = snapshot.config_map;
        let data = config_map.data.get_or_insert_with(BTreeMap::new);
        data.insert(self.anchors.clone(), anchors.to_owned());
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

fn api(verb: &'static str, kind: &'static str, e: &kube::Error) -> ObjectsError {
    const CONFLICT: u16 = 409;
    match e {
        kube::Error::Api(status) if status.code == CONFLICT => ObjectsError::Conflict(kind),
        other => ObjectsError::Api { verb, kind, cause: brief(other) },
    }
}
