//! fjall as the backend: a log-structured engine whose journal is synced once for each group.

mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _,
};

use self::witness::Witness;
use super::backend::{Backend, BackendError, PAGE_BYTES, Page, View, Writes};

/// Blocks kept in memory. The engine reads a job once, shortly before it is due.
const CACHE_BYTES: u64 = 4 << 20;
/// Bytes of writes in memory before they are flushed to a table.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The smallest that the library allows; it also reserves as much for the first journal.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Open files of tables.
const FILES: usize = 128;

const RECORDS: &str = "records";
const META: &str = "meta";

/// A database directory.
pub(crate) struct Disk {
    database: Database,
    records: Keyspace,
    meta: Keyspace,
    witness: Witness,
}

impl Disk {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// The files cannot be read, or are damaged.
    pub(crate) fn open(path: &Path) -> Result<Self, BackendError> {
        // fjall asserts that a journal has the form that it wrote.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::try_open(path)));
        opened.unwrap_or_else(|_| Err(BackendError::Damaged("its journal is damaged".to_owned())))
    }

    fn try_open(path: &Path) -> Result<Self, BackendError> {
        let witness = Witness::open(path).map_err(|error| failed(&error.into()))?;
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
        Ok(Self { database, records, meta, witness })
    }
}

impl Backend for Disk {
    type View = DiskView;

    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, BackendError> {
        let value = self.records.get(key).map_err(|error| failed(&error))?;
        Ok(value.map(Bytes::from))
    }

    fn view(&self) -> Result<DiskView, BackendError> {
        let (records, meta) = (self.records.clone(), self.meta.clone());
        Ok(DiskView { snapshot: self.database.snapshot(), records, meta })
    }

    fn meta(&self) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let mut found = Vec::new();
        for guard in self.database.snapshot().iter(&self.meta) {
            let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
            found.push((key.into(), value.into()));
        }
        Ok(found)
    }

    fn write(&self, writes: Writes) -> Result<(), BackendError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (keyspace, writes) in [(&self.records, writes.records), (&self.meta, writes.meta)] {
            for (key, value) in writes {
                match value {
                    Some(value) => batch.insert(keyspace, key, value),
                    None => batch.remove(keyspace, key),
                }
            }
        }
        batch.commit().map_err(|error| failed(&error))?;
        self.witness.saw(writes.sequence).map_err(|error| failed(&error.into()))
    }

    fn acknowledged(&self) -> u64 {
        self.witness.last()
    }

    fn disk_bytes(&self) -> Result<u64, BackendError> {
        self.database.disk_space().map_err(|error| failed(&error))
    }

    fn compact(&self) -> Result<(), BackendError> {
        for keyspace in [&self.records, &self.meta] {
            keyspace.rotate_memtable_and_wait().map_err(|error| failed(&error))?;
            keyspace.major_compact().map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// A snapshot of the database.
pub(crate) struct DiskView {
    snapshot: fjall::Snapshot,
    records: Keyspace,
    meta: Keyspace,
}

impl View for DiskView {
    fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let range = self.snapshot.range::<&[u8], _>(&self.records, page.bounds());
        let (mut found, mut bytes) = (Vec::new(), 0);
        for guard in range.take(page.limit) {
            let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
            bytes += key.len() + value.len();
            found.push((key.into(), value.into()));
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(found)
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>, BackendError> {
        let value = self.snapshot.get(&self.meta, key).map_err(|error| failed(&error))?;
        Ok(value.map(Bytes::from))
    }
}

fn failed(error: &fjall::Error) -> BackendError {
    let no_room = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    };
    match error {
        fjall::Error::Io(io) if no_room(io) => BackendError::NoRoom,
        fjall::Error::JournalRecovery(_) | fjall::Error::Unrecoverable => {
            BackendError::Damaged(runtime::chain(error))
        }
        error => BackendError::Failed(runtime::chain(error)),
    }
}
