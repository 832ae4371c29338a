//! An import that can be stopped and goes on where it was.

use std::path::{Path, PathBuf};

use proto::etcd::mvccpb::KeyValue;
use serde::{Deserialize, Serialize};

use super::client::{Client, Put};
use super::{COUNTERS, JOBS, JobsError, file};

/// Upper limit of the journal, which holds a hash and two numbers.
const MAX_PROGRESS_BYTES: u64 = 4 << 10;

/// How far an import has come: a small file beside the export, removed at the end. It is written
/// after each put, so that a job that was delivered meanwhile is not put again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Hash of the content of the export.
    content: String,
    /// Number of the store.
    store: u64,
    /// Pairs that are there, in the order of the import.
    done: usize,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Summary {
    /// Jobs of the file.
    pub(super) jobs: usize,
    /// Counters of the file.
    pub(super) counters: usize,
    /// Pairs that the store had already, with the same content.
    pub(super) present: usize,
    /// Pairs of an earlier run.
    pub(super) earlier: usize,
    /// Hash of the content of the file.
    pub(super) content: String,
}

/// Puts all pairs of a file, one for each request.
///
/// # Errors
/// A call fails, a key is there with other content, or the store returns other bytes than were put.
pub(super) async fn run(
    client: &mut Client,
    export: &Path,
    overwrite: bool,
) -> Result<Summary, JobsError> {
    let bytes = file::load(export, file::MAX_FILE_BYTES)?;
    let pairs = file::parse(&bytes, file::MAX_PAIRS)
        .map_err(|source| JobsError::File { path: export.to_owned(), source })?;
    drop(bytes);
    let content = file::content_hash(&pairs);
    let count = |prefix| pairs.iter().filter(|pair| pair.key.starts_with(prefix)).count();
    let mut summary = Summary {
        jobs: count(JOBS),
        counters: count(COUNTERS),
        content: content.clone(),
        ..Summary::default()
    };
    let pairs = in_order(pairs);
    let store = client.store_id().await?;
    let journal = journal(export);
    let mut progress = resume(read(&journal).as_deref(), content, store, pairs.len());
    summary.earlier = progress.done;
    for pair in pairs.iter().skip(progress.done) {
        match client.put(pair, overwrite).await? {
            Put::Done(found) if is_equal(&found, pair) => {}
            Put::Exists(found) if is_equal(&found, pair) => summary.present += 1,
            Put::Done(_) => return Err(JobsError::Verification(name(&pair.key))),
            Put::Exists(_) => return Err(JobsError::Conflict(name(&pair.key))),
        }
        // Not before the comparison: a pair in the journal is not looked at again.
        progress.done += 1;
        save(&journal, &progress)?;
    }
    if journal.exists() {
        let failed = |source| JobsError::Write { path: journal.clone(), source };
        std::fs::remove_file(&journal).map_err(failed)?;
    }
    Ok(summary)
}

/// Whether key and value are the same, whatever the revisions.
fn is_equal(a: &KeyValue, b: &KeyValue) -> bool {
    (&a.key, &a.value) == (&b.key, &b.value)
}

/// The counter of a job before the job, which is armed as soon as it is there.
fn in_order(pairs: Vec<KeyValue>) -> Vec<KeyValue> {
    let rank = |pair: &KeyValue| {
        let counter = pair.key.strip_prefix(COUNTERS);
        let name = counter.or_else(|| pair.key.strip_prefix(JOBS)).unwrap_or(&pair.key);
        (name.to_vec(), counter.is_none())
    };
    let mut pairs = pairs;
    pairs.sort_by_cached_key(rank);
    pairs
}

fn journal(export: &Path) -> PathBuf {
    let mut name = export.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

/// The journal, if there is one. A larger file is none.
fn read(journal: &Path) -> Option<Vec<u8>> {
    file::load(journal, MAX_PROGRESS_BYTES).ok()
}

/// Where to go on. A journal of another export or another store, or a damaged one, starts at the
/// beginning.
fn resume(journal: Option<&[u8]>, content: String, store: u64, pairs: usize) -> Progress {
    let start = Progress { content, store, done: 0 };
    let found = journal.and_then(|bytes| serde_json::from_slice::<Progress>(bytes).ok());
    let same = |found: &Progress| {
        (&found.content, found.store) == (&start.content, start.store) && found.done <= pairs
    };
    found.filter(same).unwrap_or(start)
}

fn save(journal: &Path, progress: &Progress) -> Result<(), JobsError> {
    let text = serde_json::to_vec(progress).map_err(|error| JobsError::Print(error.to_string()))?;
    let failed = |source| JobsError::Write { path: journal.to_owned(), source };
    std::fs::write(journal, text).map_err(failed)
}

fn name(key: &[u8]) -> String {
    runtime::printable(&String::from_utf8_lossy(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str) -> KeyValue {
        KeyValue { key: key.to_owned().into(), ..KeyValue::default() }
    }

    #[test]
    fn a_counter_is_put_before_its_job() {
        let keys = ["dapr/jobs/a", "dapr/jobs/b", "dapr/counters/b", "dapr/counters/c"];
        let order = in_order(keys.map(pair).to_vec());
        let order: Vec<_> = order.iter().map(|pair| name(&pair.key)).collect();
        let want = ["dapr/jobs/a", "dapr/counters/b", "dapr/jobs/b", "dapr/counters/c"];
        assert_eq!(order, want);
    }

    #[test]
    fn a_journal_may_be_as_long_as_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("export.progress");
        let done = |bytes| {
            let text = format!("{:1$}", r#"{"content":"c","store":7,"done":3}"#, bytes);
            std::fs::write(&journal, text).unwrap();
            resume(read(&journal).as_deref(), "c".to_owned(), 7, 5).done
        };
        let limit = usize::try_from(MAX_PROGRESS_BYTES).unwrap();
        assert_eq!((done(limit), done(limit + 1)), (3, 0));
    }

    #[test]
    fn only_the_journal_of_this_export_and_store_counts() {
        let done = |journal: &str, content: &str, store| {
            resume(Some(journal.as_bytes()), content.to_owned(), store, 5).done
        };
        let journal = r#"{"content":"c","store":7,"done":3}"#;
        assert_eq!(done(journal, "c", 7), 3);
        assert_eq!(done(journal, "d", 7), 0);
        assert_eq!(done(journal, "c", 8), 0);
        assert_eq!(done(r#"{"content":"c","store":7,"done":5}"#, "c", 7), 5);
        assert_eq!(done(r#"{"content":"c","store":7,"done":6}"#, "c", 7), 0);
        assert_eq!(done(r#"{"content":"c","sto"#, "c", 7), 0);
        assert_eq!(resume(None, "c".to_owned(), 7, 5).done, 0);
    }
}
