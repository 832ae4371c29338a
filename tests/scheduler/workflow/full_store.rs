//! The store of the scheduler is full in the middle of a workflow.

use anyhow::{Result, ensure};
use blackbox::{Scratch, Tool, environment, http};
use proto::etcd::etcdserverpb::PutRequest;
use proto::etcd::etcdserverpb::kv_client::KvClient;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

use super::Fixture;
use crate::etcd::client_port::etcdctl;
use crate::faults::full_disk::Mount;
use crate::processes::{Scheduler, wait_for_health};

/// Puts values of 1 MiB until one is refused, the 64th at the latest.
fn fill(scheduler: &Scheduler) -> Result<()> {
    Runtime::new()?.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", scheduler.client))?;
        let mut client = KvClient::new(endpoint.connect().await?);
        for number in 0..64 {
            let (key, value) = (format!("filler/{number}").into(), vec![0; 1 << 20].into());
            match client.put(PutRequest { key, value, ..PutRequest::default() }).await {
                Ok(_) => {}
                Err(status) if status.message().contains("database space exceeded") => {
                    return Ok(());
                }
                Err(status) => return Err(status.into()),
            }
        }
        anyhow::bail!("64 values of 1 MiB fit in 16 MiB")
    })
}

/// The steps that the documentation of etcd gives.
fn recover(scheduler: &Scheduler) -> Result<()> {
    let said = |args: &[&str]| etcdctl(scheduler.client, args);
    said(&["del", "--prefix", "filler/"]);
    let status: Value = serde_json::from_str(&said(&["endpoint", "status"]))?;
    let revision = &status[0]["Status"]["header"]["revision"];
    said(&["compact", "--physical", &revision.to_string()]);
    said(&["defrag"]);
    ensure!(said(&["alarm", "list"]).contains(r#""alarm":1"#), "{}", said(&["alarm", "list"]));
    said(&["alarm", "disarm"]);
    wait_for_health(scheduler.health, 200)
}

#[test]
fn a_workflow_completes_after_the_quota_was_reached_in_the_middle() -> Result<()> {
    let flags = ["--etcd-space-quota=16Mi"];
    let scheduler = Scheduler::start_with(environment::free_port()?, &flags);
    let fixture = Fixture::start(scheduler, Tool::DAPRD, "quota")?;
    let instance = fixture.instance("order-1");
    instance.start()?;
    instance.reaches("timer")?;
    fill(&fixture.scheduler)?;
    wait_for_health(fixture.scheduler.health, 503)?;
    ensure!(http::get(fixture.scheduler.health, "/livez")?.status == 200);
    let refused = fixture.instance("order-2").try_start().unwrap_err().to_string();
    ensure!(refused.contains("database space exceeded"), "{refused}");
    recover(&fixture.scheduler)?;
    instance.approve()?;
    fixture.completes(&instance)
}

#[test]
#[ignore = "needs root: a file system of its own"]
fn a_workflow_completes_after_the_disk_was_full_in_the_middle() -> Result<()> {
    for is_killed in [false, true] {
        let folder = Scratch::new("full-disk")?;
        let mount = Mount::new(&folder.path().join("data"));
        let flag = format!("--etcd-data-dir={}", folder.path().join("data").display());
        let scheduler = Scheduler::start_with(environment::free_port()?, &[&flag]);
        let mut fixture = Fixture::start(scheduler, Tool::DAPRD, "disk")?;
        let instance = fixture.instance("order-1");
        instance.start()?;
        instance.reaches("timer")?;
        mount.fill();
        wait_for_health(fixture.scheduler.health, 503)?;
        if is_killed {
            fixture.scheduler.process.kill();
        }
        mount.empty();
        if is_killed {
            fixture.scheduler.restart();
        }
        wait_for_health(fixture.scheduler.health, 200)?;
        instance.reaches("event")?;
        instance.approve()?;
        fixture.completes(&instance)?;
    }
    Ok(())
}
