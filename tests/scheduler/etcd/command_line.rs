//! The official command line, which reads and writes jobs by the etcd API.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use blackbox::{DaprCli, Scratch, Tool, TriggerApp, build_binary, http, process, soon, until};
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::{
    Job, JobTargetMetadata, KnownMetadata, ScheduleJobRequest, TargetActorReminder, TargetJob,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

use crate::processes::{Scheduler, Sidecar};
use crate::{schedule, wait_for};

/// The port that the command line dials.
pub(crate) const PORT: u16 = 2379;
/// When the jobs of [`fill`] are due: an instant, so that two schedulers store the same.
const DUE: &str = "2099-01-02T03:04:05Z";

/// A loopback address of this process.
pub(crate) fn own_address(second: u8) -> String {
    let [.., third, fourth] = std::process::id().to_be_bytes();
    format!("127.{second}.{third}.{}", fourth | 1)
}

/// The command line dials `localhost:2379`: for it, that name is an address of this test alone.
pub(crate) struct Cli {
    cli: DaprCli,
    hosts: PathBuf,
}

impl Cli {
    pub(crate) fn new(address: &str, folder: &Path) -> Self {
        let hosts = folder.join("hosts");
        std::fs::write(&hosts, format!("{address} localhost\n")).unwrap();
        Self { cli: DaprCli::self_hosted().unwrap(), hosts }
    }

    /// `dapr <group> <args>`.
    fn command(&self, group: &str, args: &[&str]) -> Command {
        let dapr = self.cli.command().unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\""])
            .arg("sh")
            .arg(&self.hosts)
            .arg(dapr.get_program())
            .arg(group)
            .args(args);
        for (name, value) in dapr.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    fn run(&self, args: &[&str]) -> String {
        process::output(&mut self.command("scheduler", args)).unwrap()
    }

    /// All that `dapr scheduler` says, and whether it succeeds.
    fn says(&self, args: &[&str]) -> (bool, String) {
        self.group_says("scheduler", args)
    }

    /// All that `dapr <group>` says, and whether it succeeds.
    pub(crate) fn group_says(&self, group: &str, args: &[&str]) -> (bool, String) {
        let done = self.command(group, args).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8(said).unwrap())
    }

    fn jobs(&self) -> usize {
        match serde_json::from_str(&self.run(&["list", "-o", "json"])) {
            Ok(Value::Array(jobs)) => jobs.len(),
            _ => 0,
        }
    }
}

/// Dapr's scheduler delivers 2 of 200 jobs that its own command line has imported.
#[test]
#[ignore = "needs root: a hosts file of its own"]
fn the_official_command_line_exports_and_imports_every_job() {
    const JOBS: usize = 200;
    let address = own_address(77);
    let scheduler =
        Scheduler::start_with(PORT, &[&format!("--etcd-client-listen-address={address}")]);
    let app = TriggerApp::start(&[]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    for number in 0..JOBS {
        schedule(&sidecar, &format!("job-{number:03}"), &json!({"dueTime": "60s"}));
    }
    let folder = Scratch::new("dapr-scheduler").unwrap();
    let cli = Cli::new(&address, folder.path());
    let file = folder.path().join("export.bin").to_string_lossy().into_owned();
    assert_eq!(cli.jobs(), JOBS);
    assert!(cli.run(&["get", "app/app/job-007"]).contains("job-007"));
    cli.run(&["export", "-o", &file]);
    cli.run(&["delete", "app/app/job-007"]);
    assert_eq!(cli.jobs(), JOBS - 1);
    cli.run(&["delete-all", "all"]);
    assert_eq!(cli.jobs(), 0);
    assert!(app.received().is_empty(), "nothing is due yet");
    cli.run(&["import", "-f", &file]);
    assert_eq!(cli.jobs(), JOBS);
    until(blackbox::Deadline::seconds(180), "every job", || {
        Ok((app.received().len() >= JOBS).then_some(()))
    })
    .unwrap();
    let names: std::collections::BTreeSet<_> =
        app.received().into_iter().map(|trigger| trigger.path).collect();
    assert_eq!(names.len(), JOBS, "each under its own name");
    let series = r#"dapr_scheduler_jobs_triggered_total{type="job"}"#;
    until(soon(), "the last answer", || {
        Ok(http::metric(scheduler.metrics, series)?.filter(|count| *count >= 200.0))
    })
    .unwrap();
    wait_for(&app, JOBS);
}

pub(crate) fn actor(kind: &str, id: &str) -> Type {
    let (r#type, id) = (kind.to_owned(), id.to_owned());
    Type::Actor(TargetActorReminder { r#type, id })
}

/// Jobs, reminders, and those of a workflow, in two namespaces.
fn fill(runtime: &Runtime, scheduler: &Scheduler) {
    let job = || Type::Job(TargetJob {});
    let all = [
        ("default", "app", job(), "once", None),
        ("default", "app", job(), "ticks", Some("@every 24h")),
        ("default", "other", job(), "once", None),
        ("shop", "app", job(), "elsewhere", None),
        ("default", "app", actor("cat", "tom"), "feed", Some("@every 1h")),
        ("default", "app", actor("cat", "kitty"), "feed", None),
        ("default", "app", actor("dog", "rex"), "walk", None),
        (
            "default",
            "orders",
            actor("dapr.internal.default.orders.workflow", "w1"),
            "timer-0",
            None,
        ),
        (
            "default",
            "orders",
            actor("dapr.internal.default.orders.workflow", "w2"),
            "timer-0",
            None,
        ),
        (
            "default",
            "orders",
            actor("dapr.internal.default.orders.activity", "w1::0::1"),
            "run",
            None,
        ),
    ];
    for (namespace, app, target, name, period) in all {
        put_far(runtime, scheduler, namespace, app, target, name, period);
    }
}

/// Schedules a job that is due in 2099.
pub(crate) fn put_far(
    runtime: &Runtime,
    scheduler: &Scheduler,
    namespace: &str,
    app: &str,
    target: Type,
    name: &str,
    period: Option<&str>,
) {
    let target = Some(JobTargetMetadata { r#type: Some(target) });
    let (namespace, app_id) = (namespace.to_owned(), app.to_owned());
    let metadata = KnownMetadata { app_id, namespace, target, concurrency_key: None };
    let schedule = period.map(str::to_owned);
    let job = Job { due_time: Some(DUE.to_owned()), schedule, ..Job::default() };
    let (name, metadata) = (name.to_owned(), Some(metadata.into()));
    let request = ScheduleJobRequest { name, job: Some(job), metadata, overwrite: true };
    runtime.block_on(async {
        let address = format!("http://127.0.0.1:{}", scheduler.port);
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        SchedulerClient::new(channel).schedule_job(request).await.unwrap();
    });
}

/// Every form of every command: what it prints of our scheduler is what it prints of Dapr's.
#[test]
#[ignore = "needs root: a hosts file of its own"]
fn the_official_command_line_says_of_ours_what_it_says_of_daprs() {
    let (runtime, folder) = (Runtime::new().unwrap(), Scratch::new("dapr-scheduler").unwrap());
    let side = |second: u8, program: PathBuf| {
        let (address, folder) = (own_address(second), Scratch::new("side").unwrap());
        let flags = [
            format!("--etcd-client-listen-address={address}"),
            format!("--etcd-client-port={PORT}"),
        ];
        let flags = flags.each_ref().map(String::as_str);
        (Scheduler::start_on(program, &Arc::new(folder), &flags), address)
    };
    let [ours, theirs] = [
        side(78, build_binary("scheduler").unwrap()),
        side(79, Tool::REFERENCE_SCHEDULER.path().unwrap()),
    ];
    let sides = [(&ours, "ours"), (&theirs, "theirs")].map(|((scheduler, address), name)| {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        (scheduler, Cli::new(address, &own))
    });
    let refill = || {
        for (scheduler, _) in &sides {
            fill(&runtime, scheduler);
        }
    };
    let same = |args: &[&str]| {
        let [ours, theirs] = sides.each_ref().map(|(_, cli)| cli.says(args));
        assert_eq!(ours, theirs, "{args:?}");
        ours
    };
    refill();
    for format in ["short", "wide", "json", "yaml"] {
        for filter in ["all", "app", "actor", "workflow", "activity"] {
            same(&["list", "--output", format, "--filter", filter]);
        }
        same(&["list", "--output", format, "--namespace", "shop"]);
        for key in [
            "app/app/once",
            "app/app/ticks",
            "actor/cat/tom/feed",
            "workflow/orders/w1/timer-0",
            "activity/orders/w1::0::1",
            "app/app/none",
        ] {
            same(&["get", key, "--output", format]);
        }
    }
    assert!(same(&["list", "--output", "json"]).1.contains("w1::0::1"));
    assert!(!same(&["list", "--filter", "unknown"]).0);
    for key in ["app/app/once", "actor/cat/tom/feed", "workflow/orders/w1/timer-0", "app/app/none"]
    {
        same(&["delete", key]);
        same(&["list"]);
    }
    for filter in [
        "app",
        "app/app",
        "actor/cat",
        "actor/cat/tom",
        "workflow",
        "workflow/orders",
        "workflow/orders/w1",
        "all",
    ] {
        refill();
        same(&["delete-all", filter]);
        same(&["list", "--output", "json"]);
        same(&["list", "--output", "json", "--namespace", "shop"]);
    }
}
