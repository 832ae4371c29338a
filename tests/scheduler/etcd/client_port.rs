//! The etcd API with the clients that people have: `etcdctl`, and the official command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use blackbox::{DaprCli, Scratch, Tool, TriggerApp, http, process, soon, until};
use serde_json::{Value, json};

use crate::processes::etcd_server::EtcdServer;
use crate::processes::{Scheduler, Sidecar};
use crate::{schedule, wait_for};

/// The scheduler's own pair, which an etcd gets by hand.
const LEADERSHIP: &str = "dapr/leadership/dapr-scheduler-server-0";

/// One line for each call. What two stores cannot have in common is masked.
const SCRIPT: &[&[&str]] = &[
    &["put", "t/a", "1"],
    &["put", "t/a", "2", "--prev-kv"],
    &["put", "t/b", "1"],
    &["get", "t/a"],
    &["get", "t/", "--prefix"],
    &["get", "t/", "--prefix", "--limit=1"],
    &["get", "t/", "--prefix", "--keys-only"],
    &["get", "t/", "--prefix", "--count-only", "--write-out=fields"],
    &["get", "t/", "--prefix", "--sort-by=MODIFY", "--order=DESCEND"],
    &["get", "t/", "--prefix", "--sort-by=VALUE"],
    &["get", "t/b", "--from-key"],
    &["get", "t/a", "t/b"],
    &["get", "t/none"],
    &["get", "t/a", "--rev=99"],
    &["put", "t/a", "--ignore-value"],
    &["put", "t/none", "--ignore-value"],
    &["put", "t/none", "v", "--ignore-lease"],
    &["put", "t/none", "v", "--lease=77"],
    &["del", "t/none"],
    &["del", "t/b", "--prev-kv"],
    &["compaction", "4"],
    &["compaction", "4"],
    &["compaction", "99"],
    &["get", "t/a", "--rev=3"],
    &["lease", "revoke", "77"],
    &["lease", "timetolive", "77"],
    &["alarm", "list"],
    &["alarm", "disarm"],
    &["defrag"],
    &["put", "t/z", "end"],
    &["get", "t/z"],
];

/// Runs it and returns what it said, with what no two stores have in common masked.
pub(crate) fn etcdctl(port: u16, args: &[&str]) -> String {
    let mut command = Command::new(Tool::ETCDCTL.path().unwrap());
    command.arg(format!("--endpoints=127.0.0.1:{port}")).args(["--write-out=json"]).args(args);
    let done = command.output().unwrap();
    // Of the lines that the client logs only the error is part of the answer.
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    let error = errors.lines().filter(|line| line.starts_with("Error")).collect::<String>();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let own = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""];
    let shared = said.lines().filter(|line| !own.iter().any(|name| line.starts_with(name)));
    let lines = shared.map(|line| match serde_json::from_str::<Value>(line) {
        Ok(mut answer) => {
            mask(&mut answer);
            answer.to_string()
        }
        Err(_) => line.replace(&port.to_string(), "PORT").split(" took ").take(1).collect(),
    });
    lines.chain([error]).collect::<Vec<_>>().join("\n")
}

fn mask(answer: &mut Value) {
    match answer {
        Value::Object(members) => {
            members.retain(|name, _| {
                !["cluster_id", "member_id", "raft_term"].contains(&name.as_str())
            });
            members.values_mut().for_each(mask);
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

#[test]
fn etcdctl_gets_the_answers_of_an_etcd() {
    let (scheduler, etcd) = (Scheduler::start(), EtcdServer::start().unwrap());
    etcdctl(etcd.port, &["put", LEADERSHIP, "as the scheduler does"]);
    for args in SCRIPT {
        let [ours, theirs] = [scheduler.client, etcd.port].map(|port| etcdctl(port, args));
        assert_eq!(ours, theirs, "{args:?}");
    }
    let folder = Scratch::new("snapshot").unwrap();
    let file = folder.path().join("file").to_string_lossy().into_owned();
    etcdctl(scheduler.client, &["snapshot", "save", &file]);
    assert_eq!(std::fs::metadata(&file).unwrap().len() % 512, 32, "etcdctl checked it");
}

/// The command line dials `localhost:2379`: for it, that name is an address of this test alone.
struct Cli {
    cli: DaprCli,
    hosts: PathBuf,
}

impl Cli {
    fn new(address: &str, folder: &Path) -> Self {
        let hosts = folder.join("hosts");
        std::fs::write(&hosts, format!("{address} localhost\n")).unwrap();
        Self { cli: DaprCli::self_hosted().unwrap(), hosts }
    }

    fn run(&self, args: &[&str]) -> String {
        let dapr = self.cli.command().unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\""])
            .arg("sh")
            .arg(&self.hosts)
            .arg(dapr.get_program())
            .arg("scheduler")
            .args(args);
        for (name, value) in dapr.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        process::output(&mut command).unwrap()
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
    // A loopback address of this process.
    let [.., third, fourth] = std::process::id().to_be_bytes();
    let address = format!("127.77.{third}.{}", fourth | 1);
    let scheduler =
        Scheduler::start_with(2379, &[&format!("--etcd-client-listen-address={address}")]);
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
