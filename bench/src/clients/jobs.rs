//! Calls of the scheduler's API: many callers on a few connections.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use prost::Message;
use prost_types::Any;
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::{
    Job, JobMetadata, JobTargetMetadata, KnownMetadata, ListJobsRequest, ScheduleJobRequest,
    ScheduleJobResponse, TargetJob, WatchHostsRequest, WatchHostsResponse,
};

use crate::clients::delivery_log::DeliveryLog;
use crate::clients::grpc::Connection;
use crate::clients::load::{self, Caller, Outcome};

/// Namespace of all apps.
pub const NAMESPACE: &str = "bench";
/// Bytes of a job's payload.
const PAYLOAD: usize = 256;
/// Connections shared by all callers.
const CONNECTIONS: usize = 8;
/// Callers of a load whose rate is not measured.
const LOADERS: usize = 64;
/// Jobs that measure how fast a scheduler accepts them.
const PROBES: usize = 4_000;
/// Time limit for these.
const LIMIT: Duration = Duration::from_mins(1);
/// Time limit for the first list of schedulers.
const ANSWER: Duration = Duration::from_secs(1);
/// Dapr 1.18, `dapr.proto.scheduler.v1.Scheduler`.
const SCHEDULE: &str = "/dapr.proto.scheduler.v1.Scheduler/ScheduleJob";
const HOSTS: &str = "/dapr.proto.scheduler.v1.Scheduler/WatchHosts";
const LIST: &str = "/dapr.proto.scheduler.v1.Scheduler/ListJobs";

/// Connections of one scheduler.
#[derive(Debug)]
pub struct Calls {
    connections: Vec<Arc<Connection>>,
}

impl Calls {
    /// Opens them.
    ///
    /// # Errors
    /// When the scheduler does not listen.
    pub async fn open(address: &str) -> Result<Self> {
        let open = async |_| anyhow::Ok(Arc::new(Connection::open(address).await?));
        Ok(Self { connections: try_join_all((0..CONNECTIONS).map(open)).await? })
    }

    /// Callers that schedule jobs one after the other; each has a part of the numbers.
    pub fn callers(&self, count: usize, load: &Load) -> Vec<Scheduling> {
        let caller = |(i, connection): (usize, &Arc<Connection>)| Scheduling {
            connection: connection.clone(),
            metadata: metadata(&load.app),
            next: load.numbers.start + i,
            step: count,
            end: load.numbers.end,
            due: load.due.clone(),
            record: load.record.clone(),
            slot: None,
        };
        self.connections.iter().cycle().take(count).enumerate().map(caller).collect()
    }

    /// Schedules all jobs of a load as fast as they are answered; gives up after `limit`.
    ///
    /// # Errors
    /// When calls fail.
    pub async fn schedule_all(&self, load: &Load, limit: Duration) -> Result<Outcome> {
        let outcome = load::closed(self.callers(LOADERS, load), Duration::ZERO, limit).await?;
        ensure!(outcome.failed() == 0, "calls failed: {:?}", outcome.errors());
        Ok(outcome)
    }

    /// Calls per second that the scheduler answers, from a few thousand far jobs, which it keeps.
    ///
    /// # Errors
    /// When calls fail.
    pub async fn rate(&self, app: &str) -> Result<f64> {
        let load = Load::new(&format!("{app}-rate"), 0..PROBES, Due::far(), Record::Nothing);
        Ok(self.schedule_all(&load, LIMIT).await?.per_second())
    }

    /// The numbers of all jobs that the scheduler has of `app`.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn list(&self, app: &str) -> Result<Vec<usize>, String> {
        let connection = self.connections.first().ok_or("no connection")?;
        let request = ListJobsRequest { metadata: Some(metadata(app)) };
        let names: Names = connection.call(LIST, &request).await?;
        Ok(names.jobs.iter().filter_map(|job| number(&job.name)).collect())
    }
}

/// The number of schedulers that one of them announces; `None` when it does not answer.
pub async fn hosts(address: &str) -> Option<usize> {
    let connection = Connection::open(address).await.ok()?;
    let mut lists = connection.answers(HOSTS, &WatchHostsRequest {});
    let mut messages = Vec::new();
    tokio::time::timeout(ANSWER, lists.next(&mut messages)).await.ok()?;
    let list = WatchHostsResponse::decode(messages.pop()?).ok()?;
    Some(list.hosts.len())
}

/// A `ListJobsResponse`; only the names are decoded.
#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(message, repeated, tag = "1")]
    jobs: Vec<Name>,
}

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

/// When jobs are due, by their numbers.
#[derive(Clone)]
pub enum Due {
    /// Once, at that time: an instant, or a duration from now.
    Once(Arc<str>),
    /// Once, each at an instant of its own.
    At(Arc<dyn Fn(usize) -> String + Send + Sync>),
    /// Every second, from an instant of the job's own.
    EverySecond(Arc<dyn Fn(usize) -> String + Send + Sync>),
}

impl Due {
    /// Once, tomorrow.
    pub fn far() -> Self {
        Self::Once("24h".into())
    }

    /// Once, now.
    pub fn now() -> Self {
        Self::Once("0s".into())
    }

    fn job(&self, number: usize) -> Job {
        let (schedule, due) = match self {
            Self::Once(due) => (None, due.to_string()),
            Self::At(due) => (None, due(number)),
            Self::EverySecond(first) => (Some("@every 1s".to_owned()), first(number)),
        };
        let data = Any {
            type_url: "type.googleapis.com/google.protobuf.BytesValue".to_owned(),
            value: vec![7; PAYLOAD],
        };
        Job { schedule, due_time: Some(due), data: Some(data), ..Job::default() }
    }
}

/// The numbers of acknowledged jobs, shared by callers.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged(Arc<Mutex<Vec<usize>>>);

impl Acknowledged {
    fn push(&self, number: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    }

    /// Their number.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The number of them that are not in `found`.
    pub fn missing(&self, mut found: Vec<usize>) -> usize {
        found.sort_unstable();
        let acknowledged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.iter().filter(|number| found.binary_search(number).is_err()).count()
    }
}

/// Where acknowledged jobs are recorded.
#[derive(Clone, Debug)]
pub enum Record {
    /// Nowhere.
    Nothing,
    /// In a list.
    List(Acknowledged),
    /// In a log; with an open loop also the time when the call was due.
    Log(Arc<DeliveryLog>),
}

/// Jobs to schedule.
#[derive(Clone)]
pub struct Load {
    app: String,
    numbers: Range<usize>,
    due: Due,
    record: Record,
}

impl Load {
    /// Jobs of `app` with these numbers.
    pub fn new(app: &str, numbers: Range<usize>, due: Due, record: Record) -> Self {
        Self { app: app.to_owned(), numbers, due, record }
    }
}

/// A caller that schedules one job after the other.
pub struct Scheduling {
    connection: Arc<Connection>,
    metadata: JobMetadata,
    next: usize,
    step: usize,
    end: usize,
    due: Due,
    record: Record,
    slot: Option<Instant>,
}

impl Caller for Scheduling {
    fn due(&mut self, at: Instant) {
        self.slot = Some(at);
    }

    async fn call(&mut self) -> Result<(), String> {
        let number = self.next;
        self.next += self.step;
        let request = ScheduleJobRequest {
            name: format!("job-{number}"),
            job: Some(self.due.job(number)),
            metadata: Some(self.metadata.clone()),
            overwrite: false,
        };
        if let (Record::Log(log), Some(slot)) = (&self.record, self.slot) {
            log.due(number, slot);
        }
        self.connection.call::<ScheduleJobResponse>(SCHEDULE, &request).await?;
        match &self.record {
            Record::Nothing => {}
            Record::List(acknowledged) => acknowledged.push(number),
            Record::Log(log) => log.acknowledged(number),
        }
        Ok(())
    }

    fn is_exhausted(&self) -> bool {
        self.next >= self.end
    }
}

/// The number in the name of a job.
pub fn number(name: &str) -> Option<usize> {
    name.strip_prefix("job-")?.parse().ok()
}

fn metadata(app: &str) -> JobMetadata {
    let target = JobTargetMetadata { r#type: Some(Type::Job(TargetJob {})) };
    let (app_id, namespace) = (app.to_owned(), NAMESPACE.to_owned());
    KnownMetadata { app_id, namespace, target: Some(target), concurrency_key: None }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_jobs_that_are_not_found_are_missing_and_others_do_not_matter() {
        let acknowledged = Acknowledged::default();
        for number in [5, 1, 3] {
            acknowledged.push(number);
        }
        assert_eq!(acknowledged.count(), 3);
        assert_eq!(acknowledged.missing(vec![3, 9, 1]), 1);
        assert_eq!(acknowledged.missing(vec![5, 3, 1]), 0);
        assert_eq!(acknowledged.missing(Vec::new()), 3);
    }

    #[test]
    fn a_number_is_read_from_the_name_of_its_job_only() {
        assert_eq!(number("job-12"), Some(12));
        assert_eq!((number("job-"), number("other-1")), (None, None));
    }
}
