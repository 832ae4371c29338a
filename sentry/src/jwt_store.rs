//! Where the JWT key and the key set are stored: files, or the Secret of the CA with a copy of the
//! key set in its `ConfigMap`. Every write carries the version that was read.
//! Source of names: Dapr 1.18, chart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use transport::file_watch::FileWatch;
use zeroize::Zeroizing;

use crate::bundle_files::{self, read};
use crate::bundle_objects::{NAME, ObjectsError, api};
use crate::config::{BundleNames, JwtConfig};
use crate::jwt_plan::{GeneratedJwt, StoredJwt};

const SECRET: &str = "Secret";
const CONFIG_MAP: &str = "ConfigMap";

/// Where the key and the set are.
pub enum JwtStore {
    /// In files.
    Files {
        /// Of the key.
        key: PathBuf,
        /// Of the set.
        jwks: PathBuf,
    },
    /// In the cluster.
    Objects(Box<JwtObjects>),
}

/// The Secret and the `ConfigMap` of the CA.
pub struct JwtObjects {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    /// The Secret's key for the signing key.
    key: String,
    /// The key for the set in both.
    jwks: String,
}

/// What was read, and from which version.
pub struct Snapshot {
    /// What is stored.
    pub stored: StoredJwt,
    secret: Option<Secret>,
}

impl JwtStore {
    /// In files.
    pub fn files(config: &JwtConfig) -> Self {
        Self::Files { key: config.key.clone(), jwks: config.jwks.clone() }
    }

    /// In the cluster.
    pub fn objects(secrets: Api<Secret>, config_maps: Api<ConfigMap>, config: &JwtConfig) -> Self {
        let (key, jwks) = (BundleNames::key(&config.key), BundleNames::key(&config.jwks));
        Self::Objects(Box::new(JwtObjects { secrets, config_maps, key, jwks }))
    }

    /// Whether what is wrong at the start ends the process: nobody sees a file being repaired.
    pub fn is_files(&self) -> bool {
        matches!(self, Self::Files { .. })
    }

    /// Wakes when files change; objects are only read from time to time.
    ///
    /// # Errors
    /// A directory does not exist or cannot be watched.
    pub fn watch(&self) -> anyhow::Result<Option<FileWatch>> {
        match self {
            Self::Files { key, jwks } => FileWatch::new([key.as_path(), jwks]).map(Some),
            Self::Objects(_) => Ok(None),
        }
    }

    /// Reads both. In a Secret an empty value counts as none, an empty file does not.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn read(&self) -> anyhow::Result<Snapshot> {
        match self {
            Self::Files { key, jwks } => {
                let key = read(key)?.map(Zeroizing::new);
                Ok(Snapshot { stored: StoredJwt { key, jwks: read(jwks)? }, secret: None })
            }
            Self::Objects(objects) => objects.read().await,
        }
    }

    /// Writes what was just made, the key first.
    ///
    /// # Errors
    /// [`ObjectsError::Conflict`] if somebody else wrote since the snapshot; any other failure of
    /// writing.
    pub async fn save(&self, snapshot: Snapshot, made: &GeneratedJwt) -> anyhow::Result<()> {
        match (self, snapshot.secret) {
            (Self::Files { key, jwks }, _) => {
                for (path, text) in [(key, made.key.as_str()), (jwks, &made.jwks)] {
                    bundle_files::write(path, text)
                        .with_context(|| format!("write {}", path.display()))?;
                }
                Ok(())
            }
            (Self::Objects(objects), Some(secret)) => objects.save(secret, made).await,
            (Self::Objects(_), None) => Err(ObjectsError::Conflict(SECRET).into()),
        }
    }

    /// Copies the stored key set into the `ConfigMap`, if it holds another one.
    ///
    /// # Errors
    /// [`ObjectsError::Conflict`] if somebody else wrote meanwhile; any other failure of reading or
    /// writing.
    pub async fn publish(&self, text: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Files { .. } => Ok(()),
            Self::Objects(objects) => objects.publish(text).await,
        }
    }
}

impl JwtObjects {
    async fn read(&self) -> anyhow::Result<Snapshot> {
        let secret = self.secrets.get_opt(NAME).await.map_err(|e| api("get", SECRET, &e))?;
        let secret = secret.ok_or(ObjectsError::Missing(SECRET))?;
        let value = |name: &str| {
            let value = &secret.data.as_ref()?.get(name)?.0;
            (!value.trim_ascii().is_empty()).then(|| value.clone())
        };
        let key = value(&self.key).map(Zeroizing::new);
        let stored = StoredJwt { key, jwks: value(&self.jwks) };
        Ok(Snapshot { stored, secret: Some(secret) })
    }

    async fn save(&self, mut secret: Secret, made: &GeneratedJwt) -> anyhow::Result<()> {
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        data.insert(self.key.clone(), ByteString(made.key.as_bytes().to_vec()));
        data.insert(self.jwks.clone(), ByteString(made.jwks.clone().into_bytes()));
        let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
        Ok(written.map(drop).map_err(|e| api("update", SECRET, &e))?)
    }

    async fn publish(&self, text: &[u8]) -> anyhow::Result<()> {
        let text = str::from_utf8(text).context("read the JWKS as text")?;
        let found = self.config_maps.get_opt(NAME).await.map_err(|e| api("get", CONFIG_MAP, &e))?;
        let mut config_map = found.ok_or(ObjectsError::Missing(CONFIG_MAP))?;
        let data = config_map.data.get_or_insert_with(BTreeMap::new);
        if data.get(&self.jwks).is_some_and(|published| published == text) {
            return Ok(());
        }
        data.insert(self.jwks.clone(), text.to_owned());
        let written = self.config_maps.replace(NAME, &PostParams::default(), &config_map).await;
        Ok(written.map(drop).map_err(|e| api("update", CONFIG_MAP, &e))?)
    }
}
