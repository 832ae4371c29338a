//! Conversions between messages of the API, records of the store and jobs of the engine. [`names`]
//! has the names of stored jobs, [`timing`] what the engine reads of a record.

pub(crate) mod names;
mod timing;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message as _;
use prost_types::Any;
use proto::{common, cron, scheduler};
use scheduler::job_target_metadata::Type;
use scheduler::{JobMetadata, NamedJob, WatchJobsResponse};

use crate::engine::job::{Counter, FailurePolicy, Job, Target};
use crate::schedule::{Begin, ScheduleError, Timetable};

use self::names::target;
use self::timing::StoredJob;
pub(crate) use self::timing::partition_id;

/// The type of a record's metadata. Source: Dapr 1.18.
const METADATA_TYPE: &str = "type.googleapis.com/dapr.proto.scheduler.v1.JobMetadata";

/// Why a record is not armed. It stays in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Corrupt {
    #[error("the record cannot be decoded")]
    Record(#[from] prost::DecodeError),
    #[error("a text of the record is no UTF-8")]
    Text(#[from] std::str::Utf8Error),
    #[error("the record has no {0}")]
    Missing(&'static str),
    #[error("a point in time is out of range")]
    Time(#[from] jiff::Error),
    #[error("the schedule is not valid")]
    Schedule(#[from] ScheduleError),
}

/// The record of a new job.
pub(crate) fn record(
    job: scheduler::Job,
    metadata: &JobMetadata,
    timetable: &Timetable,
    partition_id: u64,
) -> Bytes {
    let begin = match timetable.begin() {
        Begin::Start(at) => cron::job::Begin::Start(seconds(at)),
        Begin::DueTime(at) => cron::job::Begin::DueTime(seconds(at)),
    };
    let value = metadata.encode_to_vec();
    let spec = cron::Spec {
        schedule: job.schedule,
        due_time: job.due_time,
        ttl: job.ttl,
        repeats: job.repeats,
        metadata: Some(Any { type_url: METADATA_TYPE.to_owned(), value }),
        payload: job.data,
        failure_policy: Some(stored_policy(job.failure_policy)),
    };
    let record = cron::Job {
        partition_id,
        begin: Some(begin),
        expiration: timetable.expiration().map(seconds),
        job: Some(spec),
    };
    record.encode_to_vec().into()
}

/// The record of a counter.
pub(crate) fn counter_record(counter: &Counter) -> Bytes {
    let record = cron::Counter {
        job_partition_id: counter.job_partition_id,
        count: counter.count,
        last_trigger: counter.last_trigger.map(seconds),
        attempts: counter.attempts,
    };
    record.encode_to_vec().into()
}

/// A stored job for the engine.
pub(crate) fn engine_job(record: Bytes) -> Result<Job, Corrupt> {
    let record = StoredJob::decode(record)?;
    let begin = match record.begin.ok_or(Corrupt::Missing("begin"))? {
        cron::job::Begin::Start(at) => Begin::Start(instant(at)?),
        cron::job::Begin::DueTime(at) => Begin::DueTime(instant(at)?),
    };
    let spec = record.job.ok_or(Corrupt::Missing("job"))?;
    let schedule = spec.checked_schedule()?;
    let metadata = spec.metadata()?;
    let known = metadata.known();
    let target = match target(known).ok_or(Corrupt::Missing("target"))? {
        Type::Job(_) => Target::App(known.app_id.as_str().into()),
        Type::Actor(actor) => Target::ActorType(actor.r#type.as_str().into()),
    };
    let expiration = record.expiration.map(instant).transpose()?;
    Ok(Job {
        partition_id: record.partition_id,
        timetable: Timetable::restore(begin, expiration, schedule, spec.repeats)?,
        policy: spec.failure_policy.map_or_else(FailurePolicy::default, engine_policy),
        namespace: known.namespace.as_str().into(),
        target,
        concurrency_key: known.concurrency_key.as_deref().map(Into::into),
    })
}

/// A stored counter. One that cannot be decoded counts nothing.
pub(crate) fn engine_counter(record: &[u8]) -> Option<Counter> {
    let record = cron::Counter::decode(record).ok()?;
    Some(Counter {
        job_partition_id: record.job_partition_id,
        count: record.count,
        last_trigger: record.last_trigger.map(instant).transpose().ok()?,
        attempts: record.attempts,
    })
}

/// A stored job for callers: texts as they were sent, the failure policy always set.
pub(crate) fn named_job(name: &str, record: &[u8]) -> Result<NamedJob, Corrupt> {
    let spec = cron::Job::decode(record)?.job.ok_or(Corrupt::Missing("job"))?;
    let metadata = stored_metadata(&spec)?;
    let name = names::short(metadata.known(), name).to_owned();
    let policy = spec.failure_policy.map_or_else(FailurePolicy::default, engine_policy);
    let job = scheduler::Job {
        schedule: spec.schedule,
        repeats: spec.repeats,
        due_time: spec.due_time,
        ttl: spec.ttl,
        data: spec.payload,
        failure_policy: Some(sent_policy(policy, spec.failure_policy)),
    };
    Ok(NamedJob { name, metadata: Some(metadata), job: Some(job) })
}

/// A stored job as the trigger for a sidecar.
pub(crate) fn trigger(name: &str, id: u64, record: &[u8]) -> Result<WatchJobsResponse, Corrupt> {
    let NamedJob { name, metadata, job } = named_job(name, record)?;
    Ok(WatchJobsResponse { name, id, data: job.and_then(|job| job.data), metadata })
}

/// The actor id of a stored job, `None` for other jobs.
pub(crate) fn actor_id(record: &[u8]) -> Option<String> {
    let spec = cron::Job::decode(record).ok()?.job?;
    match target(stored_metadata(&spec).ok()?.known()) {
        Some(Type::Actor(actor)) => Some(actor.id.clone()),
        Some(Type::Job(_)) | None => None,
    }
}

fn stored_metadata(spec: &cron::Spec) -> Result<JobMetadata, Corrupt> {
    let any = spec.metadata.as_ref().ok_or(Corrupt::Missing("metadata"))?;
    Ok(JobMetadata::decode(any.value.as_slice())?)
}

fn stored_policy(sent: Option<common::JobFailurePolicy>) -> cron::FailurePolicy {
    use common::job_failure_policy::Policy as Sent;
    use cron::failure_policy::Policy;
    let policy = match sent.and_then(|sent| sent.policy) {
        Some(Sent::Drop(_)) => Policy::Drop(cron::FailurePolicyDrop {}),
        Some(Sent::Constant(constant)) => Policy::Constant(cron::FailurePolicyConstant {
            interval: constant.interval,
            max_retries: constant.max_retries,
        }),
        None => Policy::Constant(cron::FailurePolicyConstant {
            interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            max_retries: Some(3),
        }),
    };
    cron::FailurePolicy { policy: Some(policy) }
}

fn engine_policy(stored: cron::FailurePolicy) -> FailurePolicy {
    use cron::failure_policy::Policy;
    match stored.policy {
        None => FailurePolicy::default(),
        Some(Policy::Drop(_)) => FailurePolicy::Drop,
        Some(Policy::Constant(constant)) => FailurePolicy::Constant {
            // A negative interval is none.
            interval: constant
                .interval
                .map_or(Duration::ZERO, |sent| Duration::try_from(sent).unwrap_or_default()),
            max_retries: constant.max_retries,
        },
    }
}

/// The policy as it was sent where there is one, so that an absent interval stays absent.
fn sent_policy(
    policy: FailurePolicy,
    stored: Option<cron::FailurePolicy>,
) -> common::JobFailurePolicy {
    use common::job_failure_policy::Policy;
    use cron::failure_policy::Policy as Stored;
    let policy = match (stored.and_then(|stored| stored.policy), policy) {
        (Some(Stored::Constant(constant)), _) => {
            Policy::Constant(common::JobFailurePolicyConstant {
                interval: constant.interval,
                max_retries: constant.max_retries,
            })
        }
        (_, FailurePolicy::Drop) => Policy::Drop(common::JobFailurePolicyDrop {}),
        (_, FailurePolicy::Constant { interval, max_retries }) => {
            Policy::Constant(common::JobFailurePolicyConstant {
                interval: prost_types::Duration::try_from(interval).ok(),
                max_retries,
            })
        }
    };
    common::JobFailurePolicy { policy: Some(policy) }
}

fn seconds(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// The last two days of the year 9999 are the last instant, as in requests.
fn instant(at: prost_types::Timestamp) -> Result<Timestamp, jiff::Error> {
    if at.seconds > Timestamp::MAX.as_second() {
        return Ok(Timestamp::MAX);
    }
    Timestamp::new(at.seconds, at.nanos)
}

/// The stored job of the app `app` in the namespace `ns`, due so long after the epoch.
#[cfg(test)]
pub(crate) fn job_due(due_time: &str) -> crate::store::Record {
    let target =
        Some(scheduler::JobTargetMetadata { r#type: Some(Type::Job(scheduler::TargetJob {})) });
    let metadata = scheduler::KnownMetadata {
        app_id: "app".into(),
        namespace: "ns".into(),
        target,
        concurrency_key: None,
    };
    let spec = crate::schedule::Spec {
        schedule: None,
        due_time: Some(due_time),
        ttl: None,
        repeats: None,
    };
    let timetable = crate::schedule::validate(&spec, Timestamp::UNIX_EPOCH).unwrap();
    let value = record(scheduler::Job::default(), &metadata.into(), &timetable, 1);
    crate::store::Record { create_revision: 2, mod_revision: 2, version: 1, lease: 0, value }
}

#[cfg(test)]
mod tests {
    use scheduler::{JobTargetMetadata, KnownMetadata, TargetActorReminder};

    use super::*;
    use crate::schedule::{self, Spec};

    fn metadata() -> JobMetadata {
        let actor = TargetActorReminder { id: "a||b".into(), r#type: "cat".into() };
        KnownMetadata {
            app_id: "app".into(),
            namespace: "ns".into(),
            target: Some(JobTargetMetadata { r#type: Some(Type::Actor(actor)) }),
            concurrency_key: Some("key".into()),
        }
        .into()
    }

    fn job() -> scheduler::Job {
        scheduler::Job {
            schedule: Some("@every 1s".into()),
            repeats: Some(2),
            due_time: Some("10s".into()),
            ttl: Some("20s".into()),
            data: Some(Any { type_url: "any".into(), value: vec![0, 255] }),
            failure_policy: None,
        }
    }

    fn stored() -> Bytes {
        let job = job();
        let spec = Spec {
            schedule: job.schedule.as_deref(),
            due_time: job.due_time.as_deref(),
            ttl: job.ttl.as_deref(),
            repeats: job.repeats,
        };
        let timetable = schedule::validate(&spec, Timestamp::UNIX_EPOCH).unwrap();
        record(job, &metadata(), &timetable, 7)
    }

    const NAME: &str = "actorreminder||ns||cat||a||b||short||name";

    #[test]
    fn callers_get_back_what_they_sent_and_the_default_policy() {
        let named = named_job(NAME, &stored()).unwrap();
        assert_eq!((named.name.as_str(), named.metadata), ("short||name", Some(metadata())));
        let got = named.job.unwrap();
        let policy = got.failure_policy;
        assert_eq!(scheduler::Job { failure_policy: None, ..got }, job());
        let constant = common::JobFailurePolicyConstant {
            interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            max_retries: Some(3),
        };
        let want = common::job_failure_policy::Policy::Constant(constant);
        assert_eq!(policy.unwrap().policy, Some(want));
    }

    #[test]
    fn a_sidecar_gets_the_payload_byte_for_byte() {
        let sent = trigger(NAME, 3, &stored()).unwrap();
        assert_eq!((sent.id, sent.data), (3, job().data));
        assert_eq!((sent.name.as_str(), sent.metadata), ("short||name", Some(metadata())));
        assert_eq!(actor_id(&stored()).as_deref(), Some("a||b"));
    }

    #[test]
    fn the_engine_gets_absolute_times() {
        let job = engine_job(stored()).unwrap();
        assert_eq!(job.partition_id, 7);
        assert_eq!(job.target, Target::ActorType("cat".into()));
        assert_eq!(job.policy, FailurePolicy::default());
        let at = |second| Timestamp::new(second, 0).unwrap();
        assert_eq!(job.timetable.begin(), Begin::DueTime(at(10)));
        assert_eq!(job.timetable.expiration(), Some(at(30)));
    }

    #[test]
    fn the_partition_id_is_read_alone() {
        assert_eq!(partition_id(&stored()), Some(7));
        // Fields may come in any order, and the last one counts.
        let job = cron::Job { partition_id: 9, ..cron::Job::decode(stored()).unwrap() };
        let twice = [stored().as_ref(), &job.encode_to_vec()].concat();
        assert_eq!(partition_id(&twice), Some(9));
        assert_eq!((partition_id(b""), partition_id(b"\xff")), (Some(0), None));
    }

    #[test]
    fn policies_keep_what_was_not_set() {
        let constant = common::JobFailurePolicyConstant { interval: None, max_retries: None };
        let policy = common::job_failure_policy::Policy::Constant(constant);
        let sent = common::JobFailurePolicy { policy: Some(policy) };
        let stored = stored_policy(Some(sent));
        let want = FailurePolicy::Constant { interval: Duration::ZERO, max_retries: None };
        assert_eq!(engine_policy(stored), want);
        assert_eq!(sent_policy(engine_policy(stored), Some(stored)), sent);
        let empty = stored_policy(Some(common::JobFailurePolicy { policy: None }));
        assert_eq!(engine_policy(empty), FailurePolicy::default());
    }

    #[test]
    fn records_that_are_none_are_named() {
        assert!(matches!(engine_job(Bytes::from_static(b"\xff")), Err(Corrupt::Record(_))));
        assert!(matches!(engine_job(Bytes::new()), Err(Corrupt::Missing("begin"))));
    }

    /// What the engine takes for a job must be one for sidecars, too.
    #[test]
    fn a_text_that_is_none_makes_a_record_corrupt_for_all() {
        let whole = stored();
        for text in ["@every 1s", "10s", "20s", "any", METADATA_TYPE, "app", "cat"] {
            let at = whole.windows(text.len()).position(|part| part == text.as_bytes()).unwrap();
            let mut damaged = whole.to_vec();
            damaged[at] = 0xff;
            assert!(engine_job(damaged.clone().into()).is_err(), "{text}");
            assert!(named_job(NAME, &damaged).is_err(), "{text}");
        }
    }

    #[test]
    fn counters_read_back() {
        let counter = Counter {
            job_partition_id: 1,
            count: 2,
            last_trigger: Some(Timestamp::new(3, 4).unwrap()),
            attempts: 5,
        };
        assert_eq!(engine_counter(&counter_record(&counter)), Some(counter));
        assert_eq!(engine_counter(b"\xff"), None);
    }
}
