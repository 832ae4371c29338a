//! A scheduler in this process, and minimal sidecars over the wire.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::{Metric, MetricFamily};
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::watch_jobs_request::WatchJobRequestType;
use proto::scheduler::{
    GetJobRequest, Job, JobMetadata, JobTargetMetadata, KnownMetadata, ListJobsRequest,
    ScheduleJobRequest, TargetActorReminder, TargetJob, WatchJobsRequest, WatchJobsRequestInitial,
    WatchJobsRequestResult, WatchJobsResponse,
};
use runtime::Scope;
use scheduler::{Config, Flags};
use testkit::ca::{Ca, TestSvid};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use transport::Svid;
use transport::svid::CertifiedSvid;

/// Time limit, longer than any step takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const SUCCESS: i32 = 0;
pub(crate) const FAILED: i32 = 1;

/// A scheduler in this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client_port: SocketAddr,
    pub(crate) scope: Scope,
}

impl Server {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[], None).await
    }

    pub(crate) async fn start_with(dir: &Path, flags: &[&str], svid: Option<&Svid>) -> Self {
        let scope = Scope::for_test();
        let bound = scheduler::serve(&config(dir, flags), svid, &scope).await.unwrap();
        Self { address: bound.api, client_port: bound.client.unwrap_or(bound.api), scope }
    }

    pub(crate) fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect_lazy()
    }

    pub(crate) fn client(&self) -> SchedulerClient<Channel> {
        client(self.channel())
    }

    /// The sum of a gauge's or counter's series, 0 if it is missing.
    pub(crate) fn metric(&self, name: &str) -> i64 {
        self.sum(name, |_| true)
    }

    /// The same of the series that have this value of a label.
    pub(crate) fn metric_of(&self, name: &str, label: &str) -> i64 {
        self.sum(name, |metric| metric.get_label().iter().any(|pair| pair.value() == label))
    }

    #[expect(clippy::cast_possible_truncation, reason = "counts are small")]
    fn sum(&self, name: &str, counts: impl Fn(&Metric) -> bool) -> i64 {
        let families = self.scope.metrics().gather();
        let family = families.iter().find(|family| family.name() == name);
        let series = family.into_iter().flat_map(MetricFamily::get_metric);
        let value =
            |metric: &Metric| metric.get_gauge().get_value() + metric.get_counter().get_value();
        series.filter(|metric| counts(metric)).map(value).sum::<f64>() as i64
    }

    /// Stops it as a signal does, and waits for its end.
    pub(crate) async fn stop(self) {
        self.scope.shutdown().await.unwrap();
    }
}

pub(crate) fn client(channel: Channel) -> SchedulerClient<Channel> {
    SchedulerClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// The SVID of a process with this certificate, whose peers have the same CA.
pub(crate) fn svid(ca: &Ca, own: &TestSvid) -> Svid {
    let certified = CertifiedSvid::new(own.chain.clone(), &own.key).unwrap();
    Svid::fixed(certified, watch::channel(Arc::new(ca.anchors())).1)
}

pub(crate) fn config(dir: &Path, flags: &[&str]) -> Config {
    let dir = format!("--etcd-data-dir={}", dir.display());
    let fixed =
        ["scheduler", "--listen-address=127.0.0.1", "--port=0", "--etcd-client-port=0", &dir];
    let args = fixed.iter().chain(flags);
    <Flags as clap::Parser>::try_parse_from(args).unwrap().into_config().unwrap()
}

pub(crate) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The names of the listed jobs.
pub(crate) async fn names(server: &Server, of: KnownMetadata) -> Vec<String> {
    let request = ListJobsRequest { metadata: Some(of.into()) };
    let jobs = server.client().list_jobs(request).await.unwrap().into_inner().jobs;
    jobs.into_iter().map(|job| job.name).collect()
}

pub(crate) async fn schedule(server: &Server, of: KnownMetadata, name: &str, job: Job) {
    server.client().schedule_job(request(of, name, job)).await.unwrap();
}

/// The metadata of a job of `app` in `ns`.
pub(crate) fn of_app(app: &str) -> KnownMetadata {
    metadata("ns", app, Type::Job(TargetJob {}))
}

/// The metadata of a reminder of app `app` in `ns`.
pub(crate) fn of_actor(actor_type: &str, id: &str) -> KnownMetadata {
    let actor = TargetActorReminder { id: id.into(), r#type: actor_type.into() };
    metadata("ns", "app", Type::Actor(actor))
}

pub(crate) fn metadata(namespace: &str, app: &str, target: Type) -> KnownMetadata {
    KnownMetadata {
        app_id: app.into(),
        namespace: namespace.into(),
        target: Some(JobTargetMetadata { r#type: Some(target) }),
        concurrency_key: None,
    }
}

/// Due after this long, once.
pub(crate) fn once(due: &str) -> Job {
    Job { due_time: Some(due.into()), ..Job::default() }
}

pub(crate) fn request(of: KnownMetadata, name: &str, job: Job) -> ScheduleJobRequest {
    let metadata = Some(JobMetadata::from(of));
    ScheduleJobRequest { name: name.into(), job: Some(job), metadata, overwrite: false }
}

pub(crate) fn get(of: KnownMetadata, name: &str) -> GetJobRequest {
    GetJobRequest { name: name.into(), metadata: Some(of.into()) }
}

pub(crate) fn initial(app: &str, types: &[&str]) -> WatchJobsRequestInitial {
    WatchJobsRequestInitial {
        app_id: app.into(),
        namespace: "ns".into(),
        actor_types: types.iter().map(ToString::to_string).collect(),
        ..WatchJobsRequestInitial::default()
    }
}

/// One `WatchJobs` stream on a separate connection.
pub(crate) struct Sidecar {
    pub(crate) send: mpsc::Sender<WatchJobsRequest>,
    pub(crate) receive: Streaming<WatchJobsResponse>,
}

impl Sidecar {
    pub(crate) async fn open(channel: Channel, initial: WatchJobsRequestInitial) -> Self {
        let first = WatchJobRequestType::Initial(initial);
        Self::open_with(channel, Some(first)).await
    }

    pub(crate) async fn open_with(channel: Channel, first: Option<WatchJobRequestType>) -> Self {
        let (send, requests) = mpsc::channel(1_024);
        if let Some(first) = first {
            let first = WatchJobsRequest { watch_job_request_type: Some(first) };
            send.send(first).await.unwrap();
        }
        let requests = ReceiverStream::new(requests);
        let receive = client(channel).watch_jobs(requests).await.unwrap().into_inner();
        Self { send, receive }
    }

    /// The next trigger.
    pub(crate) async fn next(&mut self) -> Result<WatchJobsResponse, Status> {
        let next = tokio::time::timeout(LIMIT, self.receive.message()).await;
        next.expect("a trigger in time").map(|message| message.expect("an open stream"))
    }

    pub(crate) async fn answer(&self, id: u64, status: i32) {
        let result = WatchJobRequestType::Result(WatchJobsRequestResult { id, status });
        let message = WatchJobsRequest { watch_job_request_type: Some(result) };
        self.send.send(message).await.unwrap();
    }
}
