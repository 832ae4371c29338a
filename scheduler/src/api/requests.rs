//! The unary calls, after authorisation.

use std::sync::Arc;

use bytes::Bytes;
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::{Job, KnownMetadata, ScheduleJobRequest};
use runtime::clock;

use crate::error::Refusal;
use crate::schedule::{self, Spec};
use crate::store::{Condition, Filter, Op, Store, Txn, keys};
use crate::stored;
use crate::stored::names::{self, target};

/// Checks and stores a job under that partition id.
///
/// # Errors
/// Its name or its schedule is not valid, a job of that name exists, or the store refuses.
pub(super) async fn schedule(
    store: &dyn Store,
    metadata: &KnownMetadata,
    request: ScheduleJobRequest,
    partition_id: u64,
) -> Result<(), Refusal> {
    let name = names::composed(metadata, &request.name)?;
    let job = request.job.ok_or(Refusal::NoJob)?;
    let spec = Spec {
        schedule: job.schedule.as_deref(),
        due_time: job.due_time.as_deref(),
        ttl: job.ttl.as_deref(),
        repeats: job.repeats,
    };
    let timetable = schedule::validate(&spec, clock::now()).map_err(Refusal::Invalid)?;
    let sent = request.metadata.unwrap_or_default();
    let value = stored::record(job, &sent, &timetable, partition_id);
    let key = keys::job(name.as_bytes());
    let conditions = if request.overwrite { vec![] } else { vec![Condition::Absent(key.clone())] };
    let then = vec![Op::Put { key, value }];
    let done = store.commit(Txn { conditions, then, ..Txn::default() }).await?;
    if done.succeeded { Ok(()) } else { Err(Refusal::Exists(name)) }
}

/// The job as it was sent.
///
/// # Errors
/// There is none of that name.
pub(super) async fn get(
    store: &dyn Store,
    metadata: &KnownMetadata,
    short: &str,
) -> Result<Job, Refusal> {
    let name = names::composed(metadata, short)?;
    let record = store.get(keys::job(name.as_bytes())).await?;
    let record = record.ok_or_else(|| Refusal::NotFound(short.to_owned()))?;
    let named = stored::named_job(&name, &record.value).ok().and_then(|named| named.job);
    named.ok_or(Refusal::Damaged(name))
}

/// Deletes a job and its counter; an absent job is not an error.
///
/// # Errors
/// The name is not valid or the store does not answer.
pub(super) async fn delete(
    store: &dyn Store,
    metadata: &KnownMetadata,
    name: &str,
) -> Result<(), Refusal> {
    let name = names::composed(metadata, name)?;
    let keys = [keys::job(name.as_bytes()), keys::counter(name.as_bytes())];
    let then = keys.map(|key| Op::Delete { key }).into();
    store.commit(Txn { then, ..Txn::default() }).await?;
    Ok(())
}

/// Deletes the jobs of an app, an actor or a type; with `id_is_prefix` of all whose id has this
/// prefix.
///
/// # Errors
/// The metadata has no target or breaks a rule of names.
pub(super) async fn delete_by_metadata(
    store: &dyn Store,
    metadata: &KnownMetadata,
    id_is_prefix: bool,
) -> Result<(), Refusal> {
    let mut prefix = names::list_prefix(metadata)?;
    names::check(&format!("{prefix}a"))?;
    let actor = match target(metadata) {
        Some(Type::Actor(actor)) => Some(actor.id.clone()).filter(|id| !id.is_empty()),
        Some(Type::Job(_)) | None => None,
    };
    let of_app = matches!(target(metadata), Some(Type::Job(_)));
    let mut filter = None;
    if id_is_prefix && (actor.is_some() || of_app) {
        prefix.truncate(prefix.len() - "||".len());
        if of_app {
            // Dapr 1.18 does so too.
            tracing::warn!(target: "dapr.scheduler.server",
                app_id = metadata.app_id, namespace = metadata.namespace,
                "Deleting the jobs of every app whose id begins like this one's");
        }
    } else if let Some(id) = actor {
        // An id may begin with another id and the delimiter.
        let exact = move |_: &[u8], record: &[u8]| {
            stored::actor_id(record).is_none_or(|stored| stored == id)
        };
        filter = Some(Arc::new(exact) as Filter);
    }
    delete_jobs(store, prefix, filter).await
}

/// Deletes the jobs of an app or an actor whose name begins with the prefix.
///
/// # Errors
/// The metadata has no target or breaks a rule of names.
pub(super) async fn delete_by_prefix(
    store: &dyn Store,
    metadata: &KnownMetadata,
    name_prefix: &str,
) -> Result<(), Refusal> {
    let prefix = names::list_prefix(metadata)? + name_prefix;
    names::check(&format!("{prefix}a"))?;
    delete_jobs(store, prefix, None).await
}

async fn delete_jobs(
    store: &dyn Store,
    prefix: String,
    filter: Option<Filter>,
) -> Result<(), Refusal> {
    let then = vec![Op::DeleteJobs { prefix: Bytes::from(prefix), filter }];
    store.commit(Txn { then, ..Txn::default() }).await?;
    Ok(())
}
