//! The interface of a storage engine.

use std::ops::Bound;

use bytes::Bytes;

use super::range::KeyRange;

/// A page ends after the record with which it has this many bytes, regardless of its limit of keys:
/// payloads may have megabytes.
pub(crate) const PAGE_BYTES: usize = 4 << 20;
/// A storage engine.
pub(crate) trait Backend: Sized + Send + Sync + 'static {
    type View: View;

    /// The value of a key.
    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, BackendError>;
    /// The backend at this moment.
    fn view(&self) -> Result<Self::View, BackendError>;
    /// All values that are stored beside the records.
    fn meta(&self) -> Result<Vec<(Bytes, Bytes)>, BackendError>;
    /// Writes a batch as a whole; returns when it is durable. After an error the batch may or may
    /// not be stored, and the backend is not used again.
    fn write(&self, batch: Writes) -> Result<(), BackendError>;
    /// The last batch that an earlier process is known to have acknowledged.
    fn acknowledged(&self) -> u64;
    /// Bytes of the files.
    fn disk_bytes(&self) -> Result<u64, BackendError>;
    /// Rewrites the files without deleted data.
    fn compact(&self) -> Result<(), BackendError>;
}

/// The writes of one batch; `None` deletes.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) records: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) meta: Vec<(Bytes, Option<Bytes>)>,
    /// Number of the batch: each one is 1 more than the last.
    pub(crate) sequence: u64,
}

/// A backend at one moment.
pub(crate) trait View: Send + Sync + 'static {
    /// Keys with their values, in order, at most [`PAGE_BYTES`] and one record. Empty at the end.
    fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError>;
    /// The value of this key beside the records.
    fn meta(&self, key: &str) -> Result<Option<Bytes>, BackendError>;
}

/// A range of keys to read.
pub(crate) struct Page<'a> {
    pub(crate) range: &'a KeyRange,
    /// Only keys after this one.
    pub(crate) after: Option<&'a Bytes>,
    pub(crate) limit: usize,
}

impl Page<'_> {
    /// As bounds of an ordered map. Never out of order.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let (start, end) = self.range.bounds();
        match self.after {
            Some(after) if matches!(end, Bound::Included(last) if last == after.as_ref()) => {
                (Bound::Included(after), Bound::Excluded(after))
            }
            Some(after) => (Bound::Excluded(after), end),
            None => (start, end),
        }
    }
}

/// A failed read or write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BackendError {
    /// The file system has no room.
    #[error("no space left on the file system of the job store")]
    NoRoom,
    /// Acknowledged data is missing.
    #[error("{0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
