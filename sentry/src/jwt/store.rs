//! Where the JWT key and the key set are stored: in files, or in the Secret of the CA with a copy of
//! the key set in its `ConfigMap`. Every write carries the resource version that was read.
//! Source of names: Dapr 1.18, chart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use transport::file_watch::FileWatch;
use zeroize::Zeroizing;

use super::plan::{GeneratedJwt, StoredJwt};
use super::svid::JwtConfig;
use crate::ca::files;
use crate::ca::objects::api;
use crate::ca::record::{BundleNames, NAME};
use crate::ca::store::StoreError;

const SECRET: &str = "Secret";
const CONFIG_MAP: &str = "ConfigMap";

/// A store for the key and the key set.
pub(crate) enum JwtStore {
    /// In files.
    Files {
        /// Path of the key.
        key: PathBuf,
        /// Path of the key set.
        jwks: PathBuf,
    },
    /// In the Secret and the `ConfigMap` of the CA.
    Objects(Box<JwtObjects>),
}

/// Access to the Secret and the `ConfigMap` of the CA.
pub(crate) struct JwtObjects {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    /// Key of the Secret that holds the signing key.
    key: String,
    /// Key of both objects that holds the key set.
    jwks: String,
}

/// The stored keys with the resource version that was read.
pub(crate) struct Snapshot {
    /// The key and the key set.
    pub(crate) stored: StoredJwt,
    secret: Option<Secret>,
}

impl JwtStore {
    /// A store in files.
    pub(crate) fn files(config: &JwtConfig) -> Self {
        Self::Files { key: config.key.clone(), jwks: config.jwks.clone() }
    }

    /// A store in the objects of the CA.
    pub(crate) fn objects(
        secrets: Api<Secret>,
        config_maps: Api<ConfigMap>,
        config: &JwtConfig,
    ) -> Self {
        let (key, jwks) = (BundleNames::key(&config.key), BundleNames::key(&config.jwks));
        Self::Objects(Box::new(JwtObjects { secrets, config_maps, key, jwks }))
    }

    /// Whether the store is files. Invalid files at start end the process, as in Dapr.
    pub(crate) fn is_files(&self) -> bool {
        matches!(self, Self::Files { .. })
    }

    /// Watches the files; `None` for objects, which are polled.
    ///
    /// # Errors
    /// [`StoreError::Watch`] if a directory does not exist or cannot be watched.
    pub(crate) fn watch(&self) -> Result<Option<FileWatch>, StoreError> {
        match self {
            Self::Files { key, jwks } => {
                let watch = FileWatch::new([key.as_path(), jwks]);
                watch.map(Some).map_err(|e| StoreError::Watch(format!("{e:#}")))
            }
            Self::Objects(_) => Ok(None),
        }
    }

    /// Reads key and key set. An empty value in a Secret counts as missing, an empty file does not.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub(crate) async fn read(&self) -> Result<Snapshot, StoreError> {
        match self {
            Self::Files { key, jwks } => {
                let key = files::read(key)?.map(Zeroizing::new);
                Ok(Snapshot { stored: StoredJwt { key, jwks: files::read(jwks)? }, secret: None })
            }
            Self::Objects(objects) => objects.read().await,
        }
    }

    /// Writes a generated key and key set, the key first.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the Secret changed since the snapshot; others if it cannot be
    /// written.
    pub(crate) async fn write(
        &self,
        snapshot: Snapshot,
        made: &GeneratedJwt,
    ) -> Result<(), StoreError> {
        match (self, snapshot.secret) {
            (Self::Files { key, jwks }, _) => {
                for (path, text) in [(key, made.key.as_str()), (jwks, &made.jwks)] {
                    files::write(path, text)?;
                }
                Ok(())
            }
            (Self::Objects(objects), Some(secret)) => objects.write(secret, made).await,
            (Self::Objects(_), None) => Err(StoreError::Conflict(SECRET)),
        }
    }

    /// Copies the stored key set into the `ConfigMap`, unless it is there already.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the `ConfigMap` changed meanwhile; others if it cannot be read or
    /// written.
    pub(crate) async fn publish(&self, text: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Files { .. } => Ok(()),
            Self::Objects(objects) => objects.publish(text).await,
        }
    }
}

impl JwtObjects {
    async fn read(&self) -> Result<Snapshot, StoreError> {
        let secret = self.secrets.get_opt(NAME).await.map_err(|e| api("get", SECRET, &e))?;
        let secret = secret.ok_or(StoreError::Missing(SECRET))?;
        let value = |name: &str| {
            let value = &secret.data.as_ref()?.get(name)?.0;
            (!value.trim_ascii().is_empty()).then(|| value.clone())
        };
        let key = value(&self.key).map(Zeroizing::new);
        let stored = StoredJwt { key, jwks: value(&self.jwks) };
        Ok(Snapshot { stored, secret: Some(secret) })
    }

    async fn write(&self, mut secret: Secret, made: &GeneratedJwt) -> Result<(), StoreError> {
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        data.insert(self.key.clone(), ByteString(made.key.as_bytes().to_vec()));
        data.insert(self.jwks.clone(), ByteString(made.jwks.clone().into_bytes()));
        let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
        written.map(drop).map_err(|e| api("update", SECRET, &e))
    }

    async fn publish(&self, text: &[u8]) -> Result<(), StoreError> {
        let text = str::from_utf8(text).map_err(|_| StoreError::NotText("the JWKS"))?;
        let found = self.config_maps.get_opt(NAME).await.map_err(|e| api("get", CONFIG_MAP, &e))?;
        let mut config_map = found.ok_or(StoreError::Missing(CONFIG_MAP))?;
        let data = config_map.data.get_or_insert_with(BTreeMap::new);
        if data.get(&self.jwks).is_some_and(|published| published == text) {
            return Ok(());
        }
        data.insert(self.jwks.clone(), text.to_owned());
        let written = self.config_maps.replace(NAME, &PostParams::default(), &config_map).await;
        written.map(drop).map_err(|e| api("update", CONFIG_MAP, &e))
    }
}
