//! Where the JWT key and the key set are stored: in files, or in the Secret of the CA with a copy of
//! the key set in its `ConfigMap`. Every write carries the resource version that was read.
//! Source of names: Dapr 1.18, chart.

use std::path::PathBuf;

use transport::file_watch::FileWatch;
use zeroize::Zeroizing;

use super::cluster::{self, JwtObjects, Snapshot};
use super::plan::{GeneratedJwt, StoredJwt};
use super::svid::JwtConfig;
use crate::ca::files;
use crate::ca::store_error::StoreError;

/// A store for the key and the key set.
pub(crate) enum JwtStore {
    /// In files.
    Files { key: PathBuf, jwks: PathBuf },
    /// In the Secret and the `ConfigMap` of the CA.
    Objects(Box<JwtObjects>),
}

impl JwtStore {
    /// A store in files.
    pub(crate) fn files(config: &JwtConfig) -> Self {
        Self::Files { key: config.key.clone(), jwks: config.jwks.clone() }
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
                watch.map(Some).map_err(|e| StoreError::Watch(runtime::chain(&e)))
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
            (Self::Objects(_), None) => Err(StoreError::Conflict(cluster::SECRET)),
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
