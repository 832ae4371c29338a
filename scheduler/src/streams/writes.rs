//! The engine's writes and reads: retried until the store answers.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::event::{Event, LoadOutcome, WriteOutcome};
use crate::engine::job::{Counter, JobId};
use crate::metrics::Metrics;
use crate::store::{Condition, Op, Source, Store, StoreError, Txn, keys};
use crate::stored;

use super::scan;

/// Waits between attempts double between these two.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// The counter is put if the job is still of this revision.
pub(super) fn persist(key: &str, revision: u64, counter: &Counter) -> Txn {
    let put =
        Op::Put { key: keys::counter(key.as_bytes()), value: stored::counter_record(counter) };
    conditional(key, revision, vec![put])
}

/// Job and counter are deleted if the job is still of this revision.
pub(super) fn finish(key: &str, revision: u64) -> Txn {
    let delete = |key| Op::Delete { key };
    let ops = [keys::job(key.as_bytes()), keys::counter(key.as_bytes())].map(delete);
    conditional(key, revision, ops.into())
}

fn conditional(key: &str, mod_revision: u64, then: Vec<Op>) -> Txn {
    let key = keys::job(key.as_bytes());
    let conditions = vec![Condition::Unchanged { key, mod_revision }];
    Txn { source: Source::Engine, conditions, then, otherwise: Vec::new() }
}

/// Runs a write of the engine until it is known what became of it.
pub(super) async fn write(store: Arc<dyn Store>, job: JobId, txn: Txn) -> Event {
    let [mut wait, longest] = RETRY;
    loop {
        let outcome = match store.commit(txn.clone()).await {
            Ok(done) if done.succeeded => WriteOutcome::Stored,
            Ok(_) => WriteOutcome::Superseded,
            Err(StoreError::NoSpace) => WriteOutcome::Full,
            Err(StoreError::Unavailable(_)) => {
                tokio::time::sleep(wait).await;
                wait = longest.min(wait * 2);
                continue;
            }
        };
        return Event::Persisted { job, outcome };
    }
}

/// A job that the engine wants to see again shortly before it is due.
pub(super) struct Wanted {
    pub(super) job: JobId,
    pub(super) key: Arc<str>,
    pub(super) revision: u64,
}

/// Reads a job and its counter.
pub(super) async fn load(store: &dyn Store, wanted: &Wanted, metrics: &Metrics) -> Event {
    let [mut wait, longest] = RETRY;
    loop {
        if let Ok(outcome) = try_load(store, wanted, metrics).await {
            return Event::Loaded { job: wanted.job, outcome };
        }
        tokio::time::sleep(wait).await;
        wait = longest.min(wait * 2);
    }
}

async fn try_load(
    store: &dyn Store,
    wanted: &Wanted,
    metrics: &Metrics,
) -> Result<LoadOutcome, StoreError> {
    let name = wanted.key.as_bytes();
    let record = store.get(keys::job(name)).await?;
    let Some(record) = record.filter(|record| record.mod_revision == wanted.revision) else {
        return Ok(LoadOutcome::Superseded);
    };
    let counter = store.get(keys::counter(name)).await?;
    let counter = counter.and_then(|record| stored::engine_counter(&record.value));
    let name = name.to_vec().into();
    Ok(match scan::decode(&name, &record.value, metrics) {
        Some((_, job)) => LoadOutcome::Found { job: Box::new(job), counter },
        None => LoadOutcome::Corrupt,
    })
}
