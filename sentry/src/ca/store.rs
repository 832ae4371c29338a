//! Where the CA is stored: in files, or in a Secret whose trust anchors a `ConfigMap` publishes.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use identity::stored::{Published, Stored};
use identity::{CertificateDer, Part};

use super::cluster::events::Events;
use super::cluster::objects::BundleObjects;
use super::files::BundleFiles;
use super::record::{self, Annotations, Keys, Snapshot};
use super::store_error::StoreError;
use crate::rotation::{SecretUpdate, StaleSidecars};

/// A store for the CA. The second implementation is the in-memory store of the controller's tests.
pub(crate) trait CaStore: Send + Sync {
    /// Where Events about the CA go.
    fn events(&self) -> Events;

    /// Counts the running sidecars that do not trust `root`.
    fn count_stale(&self, root: &CertificateDer<'_>) -> impl Future<Output = StaleSidecars> + Send;

    /// Reads everything that is stored.
    ///
    /// # Errors
    /// The store cannot be reached, or an object does not exist.
    fn read(&self) -> impl Future<Output = Result<StoredState, StoreError>> + Send;

    /// Writes an update. The write is atomic, except for files: a crash between their renames
    /// leaves files that sentry rejects at the next start.
    ///
    /// # Errors
    /// The store cannot be reached, or the Secret changed since `read`.
    fn write(
        &self,
        read: StoredState,
        update: &SecretUpdate,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Publishes the trust anchors of `read`.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn publish(&self, read: StoredState) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Yields whenever the stored state may have changed.
    ///
    /// # Errors
    /// The directory of the files cannot be watched.
    fn changes(&self) -> Result<BoxStream<'static, ()>, StoreError>;
}

/// The stored state as it was read.
pub(crate) struct StoredState {
    /// The CA.
    pub(crate) stored: Stored,
    /// The published trust anchors.
    pub(crate) published: Published,
    /// Sentry's annotations.
    pub(crate) annotations: Annotations,
    /// The CA of the next rotation stage.
    pub(crate) next: Stored,
    /// Both objects with their resource versions; files have none.
    pub(crate) snapshot: Option<Snapshot>,
}

impl StoredState {
    /// Parses both objects.
    pub(crate) fn from_objects(keys: &Keys, snapshot: Snapshot) -> Self {
        Self {
            stored: keys.stored(&snapshot.secret),
            published: keys.published(&snapshot.config_map),
            annotations: record::annotations(&snapshot.secret),
            next: record::next(&snapshot.secret),
            snapshot: Some(snapshot),
        }
    }

    /// Whether sentry wrote the CA and it is unchanged since.
    pub(crate) fn is_ours(&self) -> bool {
        let generated = &self.annotations.generated;
        generated.is_some() && *generated == self.stored.fingerprint()
    }

    /// The stored trust anchors as text.
    ///
    /// # Errors
    /// [`StoreError::NotText`].
    pub(crate) fn anchors_text(&self) -> Result<&str, StoreError> {
        let anchors = self.stored.anchors().unwrap_or_default();
        str::from_utf8(anchors)
            .map_err(|_| StoreError::NotText(self.stored.names().part(Part::Anchors)))
    }
}

/// The stores of a running sentry.
pub(crate) enum Store {
    /// Three files. They have no annotations, so their CA is never rotated.
    Files(BundleFiles),
    /// A Secret and a `ConfigMap`.
    Objects(Box<BundleObjects>),
}

impl CaStore for Store {
    fn events(&self) -> Events {
        match self {
            Self::Objects(objects) => objects.events().clone(),
            Self::Files(_) => Events::disabled(),
        }
    }

    async fn count_stale(&self, root: &CertificateDer<'_>) -> StaleSidecars {
        match self {
            Self::Objects(objects) => objects.sidecar_counter().count_stale(root).await,
            Self::Files(_) => StaleSidecars::Unknown,
        }
    }

    async fn read(&self) -> Result<StoredState, StoreError> {
        match self {
            Self::Files(files) => Ok(StoredState {
                stored: files.read()?,
                published: Published::Nowhere,
                annotations: Annotations::default(),
                next: Stored::default(),
                snapshot: None,
            }),
            Self::Objects(objects) => {
                Ok(StoredState::from_objects(objects.keys(), objects.read().await?))
            }
        }
    }

    async fn write(&self, read: StoredState, update: &SecretUpdate) -> Result<(), StoreError> {
        match (self, read.snapshot) {
            (Self::Objects(objects), Some(snapshot)) => objects.write(snapshot, update).await,
            (Self::Files(files), _) => update.ca.as_ref().map_or(Ok(()), |ca| files.write(ca)),
            (Self::Objects(_), None) => Err(StoreError::Conflict("Secret")),
        }
    }

    async fn publish(&self, read: StoredState) -> Result<(), StoreError> {
        let anchors = read.anchors_text()?.to_owned();
        match (self, read.snapshot) {
            (Self::Objects(objects), Some(snapshot)) => objects.publish(snapshot, &anchors).await,
            _ => Ok(()),
        }
    }

    fn changes(&self) -> Result<BoxStream<'static, ()>, StoreError> {
        Ok(match self {
            Self::Files(files) => files.changes()?.boxed(),
            Self::Objects(objects) => objects.changes().boxed(),
        })
    }
}
