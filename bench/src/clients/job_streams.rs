//! `WatchJobs` streams of one app, each on a connection of its own, which acknowledge every trigger
//! at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::scheduler::watch_jobs_request::WatchJobRequestType;
use proto::scheduler::{WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResult};
use runtime::clock::monotonic;
use tokio::task::JoinSet;

use crate::clients::delivery_log::DeliveryLog;
use crate::clients::gap_log::GapLog;
use crate::clients::grpc::{Connection, Stream, put_frame};
use crate::clients::jobs::{NAMESPACE, number};
use crate::clients::tick_log::TickLog;
use crate::environment::test_env::Running;

/// Streams of a sidecar. Source: Dapr 1.18, daprd's default.
const STREAMS: u8 = 3;
/// Dapr 1.18, `dapr.proto.scheduler.v1.Scheduler`.
const WATCH: &str = "/dapr.proto.scheduler.v1.Scheduler/WatchJobs";
/// The scheduler's gauge of open streams.
const CONNECTED: &str = "dapr_scheduler_sidecars_connected";
/// How long streams may take to be registered.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between polls.
const POLL: Duration = Duration::from_millis(5);

/// A trigger; only the needed fields are decoded.
#[derive(Clone, PartialEq, Message)]
struct Trigger {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    id: u64,
}

/// Where deliveries are recorded.
#[derive(Clone, Debug)]
pub enum Log {
    /// For jobs that are due once.
    Deliveries(Arc<DeliveryLog>),
    /// For jobs that are due every second.
    Ticks(Arc<TickLog>),
    /// For such jobs of several schedulers; these streams are of the one with this number.
    Gaps(Arc<GapLog>, usize),
}

impl Log {
    fn delivered(&self, jobs: impl Iterator<Item = usize>) {
        match self {
            Self::Deliveries(log) => {
                let now = monotonic();
                jobs.for_each(|job| log.delivered(job, now));
            }
            Self::Ticks(log) => log.delivered(jobs, runtime::clock::now()),
            Self::Gaps(log, scheduler) => log.delivered(jobs, *scheduler, monotonic()),
        }
    }
}

/// The streams; closed on drop.
#[derive(Debug)]
pub struct JobStreams {
    _tasks: JoinSet<()>,
}

impl JobStreams {
    /// Opens them and waits until the scheduler counts them: it sends nothing before the
    /// first trigger.
    ///
    /// # Errors
    /// When the scheduler does not listen, or does not count them in time.
    pub async fn open(scheduler: &Running, app: &str, log: Log) -> Result<Self> {
        let streams = Self::begin(&scheduler.address(), app, &log);
        let begin = monotonic();
        while scheduler.metric(CONNECTED)? < f64::from(STREAMS) {
            if begin.elapsed() > TIMEOUT {
                bail!("the scheduler does not count {STREAMS} streams");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(streams)
    }

    /// Opens them as soon as the scheduler listens, and again whenever they end.
    pub fn begin(address: &str, app: &str, log: &Log) -> Self {
        let mut tasks = JoinSet::new();
        for _ in 0..STREAMS {
            let (address, app, log) = (address.to_owned(), app.to_owned(), log.clone());
            tasks.spawn(async move {
                loop {
                    if let Ok(connection) = Connection::open(&address).await {
                        acknowledge(connection.stream(WATCH, &initial(&app)), &log).await;
                    }
                    tokio::time::sleep(POLL).await;
                }
            });
        }
        Self { _tasks: tasks }
    }
}

/// Reads and acknowledges to the end of the stream.
async fn acknowledge(mut stream: Stream, log: &Log) {
    let mut messages = Vec::new();
    while stream.next(&mut messages).await {
        let (jobs, results) = answer(messages.drain(..));
        log.delivered(jobs.into_iter());
        if !stream.send(results) {
            return;
        }
    }
}

/// The numbers of the jobs that were triggered, and the results of all triggers.
fn answer(triggers: impl Iterator<Item = Bytes>) -> (Vec<usize>, Bytes) {
    let (mut jobs, mut results) = (Vec::new(), BytesMut::new());
    for trigger in triggers.filter_map(|message| Trigger::decode(message).ok()) {
        let result = WatchJobsRequestResult { id: trigger.id, status: 0 };
        put_frame(&request(WatchJobRequestType::Result(result)), &mut results);
        jobs.extend(number(&trigger.name));
    }
    (jobs, results.freeze())
}

fn initial(app: &str) -> WatchJobsRequest {
    request(WatchJobRequestType::Initial(WatchJobsRequestInitial {
        app_id: app.to_owned(),
        namespace: NAMESPACE.to_owned(),
        ..WatchJobsRequestInitial::default()
    }))
}

fn request(kind: WatchJobRequestType) -> WatchJobsRequest {
    WatchJobsRequest { watch_job_request_type: Some(kind) }
}

#[cfg(test)]
mod tests {
    use proto::scheduler::WatchJobsResponse;

    use super::*;

    #[test]
    fn every_trigger_is_acknowledged_by_its_id_and_jobs_by_number() {
        let trigger = |name: &str, id| {
            let message =
                WatchJobsResponse { name: name.into(), id, ..WatchJobsResponse::default() };
            Bytes::from(message.encode_to_vec())
        };
        let triggers = [trigger("job-4", 1), trigger("other", 2)];
        let (jobs, results) = answer(triggers.into_iter());
        assert_eq!(jobs, [4]);
        let result = |id| {
            let result = WatchJobsRequestResult { id, status: 0 };
            request(WatchJobRequestType::Result(result))
        };
        let mut want = BytesMut::new();
        put_frame(&result(1), &mut want);
        put_frame(&result(2), &mut want);
        assert_eq!(results, want);
    }
}
