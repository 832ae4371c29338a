//! The store's interface for the care of the own etcd.

use super::Etcd;
use crate::store::StoreError;

/// The room that an etcd uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes of the file.
    pub(crate) file_bytes: i64,
    /// Bytes of it with data.
    pub(crate) live_bytes: i64,
    /// Whether any alarm is raised.
    pub(crate) alarmed: bool,
}

impl Etcd {
    /// One attempt.
    pub(crate) async fn usage(&self) -> Result<Usage, StoreError> {
        let status = self.client.status().await?;
        let alarmed = !self.client.alarms().await?.alarms.is_empty();
        Ok(Usage { file_bytes: status.db_size, live_bytes: status.db_size_in_use, alarmed })
    }

    /// Rewrites the file without free pages; etcd answers nothing else meanwhile. One attempt.
    pub(crate) async fn defragment(&self) -> Result<(), StoreError> {
        self.client.defragment().await.map(drop)
    }
}
