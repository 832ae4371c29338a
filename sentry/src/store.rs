//! Where the CA is stored: in files, or in a Secret whose anchors a `ConfigMap` publishes.

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use identity::CertificateDer;
use identity::stored::{Published, Stored};

use crate::bundle_files::BundleFiles;
use crate::bundle_objects::BundleObjects;
use crate::bundle_record::{self, Change, Keys, Marks, Snapshot};
use crate::events::Events;
use crate::rotation::Followers;

/// A place for the CA.
pub(crate) enum Store {
    /// Files. They carry no marks, so the CA in them is never rotated.
    Files(BundleFiles),
    /// A Secret, the anchors in a `ConfigMap` too.
    Objects(Box<BundleObjects>),
    /// Both objects in memory, for tests.
    #[cfg(test)]
    Memory(std::sync::Arc<crate::store_memory::Memory>),
}

/// What was read.
pub(crate) struct Read {
    /// The CA.
    pub(crate) stored: Stored,
    /// Its anchors as everybody else sees them.
    pub(crate) published: Published,
    /// What sentry noted.
    pub(crate) marks: Marks,
    /// The CA of the next stage.
    pub(crate) prepared: Stored,
    /// With versions, so that a write does not undo somebody else's; files have none.
    snapshot: Option<Snapshot>,
}

impl Read {
    /// Takes both objects apart.
    pub(crate) fn objects(keys: &Keys, snapshot: Snapshot) -> Self {
        Self {
            stored: keys.stored(&snapshot.secret),
            published: keys.published(&snapshot.config_map),
            marks: bundle_record::marks(&snapshot.secret),
            prepared: bundle_record::prepared(&snapshot.secret),
            snapshot: Some(snapshot),
        }
    }

    /// Whether sentry wrote the CA and nobody changed it since.
    pub(crate) fn is_ours(&self) -> bool {
        self.marks.generated.is_some() && self.marks.generated == self.stored.fingerprint()
    }
}

impl Store {
    /// Where Events about the CA go.
    pub(crate) fn events(&self) -> Events {
        match self {
            Self::Objects(objects) => objects.events().clone(),
            Self::Files(_) => Events::nowhere(),
            #[cfg(test)]
            Self::Memory(_) => Events::nowhere(),
        }
    }

    /// Counts sidecars that do not know a root.
    pub(crate) async fn without(&self, root: &CertificateDer<'_>) -> Followers {
        match self {
            Self::Objects(objects) => objects.census().without(root).await,
            Self::Files(_) => Followers::Unknown,
            #[cfg(test)]
            Self::Memory(memory) => memory.without(root),
        }
    }

    /// Reads all there is.
    ///
    /// # Errors
    /// The store cannot be reached, or an object does not exist.
    pub(crate) async fn read(&self) -> anyhow::Result<Read> {
        match self {
            Self::Files(files) => Ok(Read {
                stored: files.read()?,
                published: Published::Nowhere,
                marks: Marks::default(),
                prepared: Stored::default(),
                snapshot: None,
            }),
            Self::Objects(objects) => Ok(Read::objects(objects.keys(), objects.read().await?)),
            #[cfg(test)]
            Self::Memory(memory) => Ok(Read::objects(memory.keys(), memory.read())),
        }
    }

    /// Carries out a step. It happens as a whole or not at all, but for files, where a crash in
    /// between leaves files that are refused.
    ///
    /// # Errors
    /// The store cannot be reached, or somebody else wrote since the reading.
    pub(crate) async fn write(&self, read: Read, change: &Change) -> anyhow::Result<()> {
        match (self, read.snapshot) {
            (Self::Objects(objects), Some(snapshot)) => Ok(objects.write(snapshot, change).await?),
            (Self::Files(files), _) => change.ca.as_ref().map_or(Ok(()), |ca| files.save(ca)),
            #[cfg(test)]
            (Self::Memory(memory), Some(snapshot)) => memory.write(&snapshot, change),
            _ => bail!("the Secret was not read"),
        }
    }

    /// Publishes the anchors that were read.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) async fn publish(&self, read: Read) -> anyhow::Result<()> {
        let anchors = read.stored.anchors().unwrap_or_default();
        let text = str::from_utf8(anchors).context("read the trust anchors as text")?;
        match (self, read.snapshot) {
            (Self::Objects(objects), Some(snapshot)) => Ok(objects.publish(snapshot, text).await?),
            #[cfg(test)]
            (Self::Memory(memory), Some(snapshot)) => memory.publish(&snapshot, text),
            _ => Ok(()),
        }
    }

    /// Wakes whenever something changes.
    ///
    /// # Errors
    /// The directory of the files cannot be watched.
    pub(crate) fn changes(&self) -> anyhow::Result<BoxStream<'static, ()>> {
        Ok(match self {
            Self::Files(files) => files.changes()?.boxed(),
            Self::Objects(objects) => objects.changes().boxed(),
            #[cfg(test)]
            Self::Memory(_) => futures::stream::pending().boxed(),
        })
    }
}
