//! fjall as the backend: a log-structured engine whose journal is synced once for each group.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _,
};

use super::writer::{Backend, BackendError, PAGE_BYTES, Page, View};

/// Blocks kept in memory. The engine reads a job once, shortly before it is due.
const CACHE_BYTES: u64 = 4 << 20;
/// Writes that are kept in memory before they become a table.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The smallest that the library allows; it also reserves as much for the first journal.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Open files of tables.
const FILES: usize = 128;

const RECORDS: &str = "records";
const META: &str = "meta";
const TOTALS: &str = "totals";

/// A database directory.
pub(crate) struct Disk {
    database: Database,
    records: Keyspace,
    meta: Keyspace,
}

impl Disk {
    /// Opens or creates the database.
    pub(crate) fn open(path: &Path) -> Result<Self, BackendError> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES)
            .max_cached_files(Some(FILES))
            .journal_compression(CompressionType::None)
            .open()
            .map_err(|error| failed(&error))?;
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .data_block_compression_policy(CompressionPolicy::disabled())
        };
        let keyspace = |name| database.keyspace(name, options).map_err(|error| failed(&error));
        let (records, meta) = (keyspace(RECORDS)?, keyspace(META)?);
        Ok(Self { database, records, meta })
    }
}

impl Backend for Disk {
    type View = DiskView;

    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, BackendError> {
        let value = self.records.get(key).map_err(|error| failed(&error))?;
        Ok(value.map(Bytes::from))
    }

    fn view(&self) -> Result<DiskView, BackendError> {
        Ok(DiskView { snapshot: self.database.snapshot(), records: self.records.clone() })
    }

    fn totals(&self) -> Result<Option<Bytes>, BackendError> {
        let value = self.meta.get(TOTALS).map_err(|error| failed(&error))?;
        Ok(value.map(Bytes::from))
    }

    fn write(
        &self,
        writes: Vec<(Bytes, Option<Bytes>)>,
        totals: Bytes,
    ) -> Result<(), BackendError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&self.records, key, value),
                None => batch.remove(&self.records, key),
            }
        }
        batch.insert(&self.meta, TOTALS, totals);
        batch.commit().map_err(|error| failed(&error))
    }
}

/// A snapshot of the database.
pub(crate) struct DiskView {
    snapshot: fjall::Snapshot,
    records: Keyspace,
}

impl View for DiskView {
    fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let start = match page.after {
            Some(after) => Bound::Excluded(after.as_ref()),
            None => Bound::Included(page.prefix.as_ref()),
        };
        let range = self.snapshot.range::<&[u8], _>(&self.records, (start, Bound::Unbounded));
        let (mut found, mut bytes) = (Vec::new(), 0);
        for guard in range.take(page.limit) {
            let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
            if !key.starts_with(page.prefix) {
                break;
            }
            bytes += key.len() + value.len();
            found.push((key.into(), value.into()));
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(found)
    }
}

fn failed(error: &fjall::Error) -> BackendError {
    let no_room = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    };
    match error {
        fjall::Error::Io(io) if no_room(io) => BackendError::NoRoom,
        error => BackendError::Failed(runtime::chain(error)),
    }
}
