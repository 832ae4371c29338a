//! A directory in which Dapr's own scheduler has jobs, and no etcd to read it: ours does not touch it,
//! and says what keeps the jobs.

use anyhow::{Result, ensure};
use blackbox::{Tool, TriggerApp, build_binary, http, soon, until};
use serde_json::json;

use crate::processes::etcd_server::EtcdServer;
use crate::processes::{Scheduler, Sidecar, new_folder};

/// A restart would not help, and it serves no jobs.
fn lives_and_is_not_ready(scheduler: &Scheduler) -> Result<()> {
    let live = || Ok(http::get(scheduler.health, "/livez").ok());
    ensure!(until(soon(), "health", live)?.status == 200);
    ensure!(http::get(scheduler.health, "/healthz")?.status == 503);
    Ok(())
}

#[test]
fn jobs_of_daprs_own_scheduler_are_kept_and_named() -> Result<()> {
    let folder = new_folder();
    let app = TriggerApp::start(&[])?;
    let path = "/v1.0-alpha1/jobs/theirs";

    let reference = Scheduler::start_on(Tool::REFERENCE_SCHEDULER.path()?, &folder, &[]);
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &reference, None);
    until(soon(), "the job to be taken", || {
        let answer = http::post(sidecar.daprd.http_port, path, &json!({"dueTime": "24h"}))?;
        Ok(answer.is_success().then_some(()))
    })?;
    drop(sidecar);
    reference.stop();

    let mut ours = Scheduler::launch_on(build_binary("scheduler")?, &folder, &[]);
    ours.process.wait_for_log("there is no program etcd", soon())?;
    lives_and_is_not_ready(&ours)?;
    let log = ours.process.log();
    for word in ["dapr-0.1", "beside the scheduler", "daprctl jobs export"] {
        ensure!(log.contains(word), "{word} is not in {log}");
    }
    ours.stop();

    let reference = Scheduler::start_on(Tool::REFERENCE_SCHEDULER.path()?, &folder, &[]);
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &reference, None);
    until(soon(), "its job to be there", || {
        Ok(http::get(sidecar.daprd.http_port, path)?.is_success().then_some(()))
    })?;
    reference.stop();
    Ok(())
}

/// Jobs of the scheduler's own store are not left behind when it is to use an external etcd.
#[test]
fn jobs_on_disk_are_named_before_an_external_etcd_takes_their_place() -> Result<()> {
    let folder = new_folder();
    let etcd = EtcdServer::start()?;
    let app = TriggerApp::start(&[])?;
    let path = "/v1.0-alpha1/jobs/ours";

    let embedded = Scheduler::start_on(build_binary("scheduler")?, &folder, &[]);
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &embedded, None);
    until(soon(), "the job to be taken", || {
        let answer = http::post(sidecar.daprd.http_port, path, &json!({"dueTime": "24h"}))?;
        Ok(answer.is_success().then_some(()))
    })?;
    drop(sidecar);
    embedded.stop();

    let endpoints = format!("--etcd-client-endpoints={}", etcd.endpoint());
    let flags = ["--etcd-embed=false", &endpoints];
    let mut external = Scheduler::launch_on(build_binary("scheduler")?, &folder, &flags);
    external.process.wait_for_log("holds 1 jobs", soon())?;
    lives_and_is_not_ready(&external)?;
    let log = external.process.log();
    ensure!(log.contains("dapr_scheduler.etcdEmbed=true"), "{log}");
    ensure!(etcd.keys("dapr/")?.is_empty(), "nothing was written");
    external.stop();

    etcd.ctl(&["put", "dapr/counters/x", "moved"])?;
    let mut external = Scheduler::launch_on(build_binary("scheduler")?, &folder, &flags);
    external.process.wait_for_log("has jobs of its own", soon())?;
    external.wait_healthy();
    external.stop();

    let embedded = Scheduler::start_on(build_binary("scheduler")?, &folder, &[]);
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &embedded, None);
    until(soon(), "its job to be there", || {
        Ok(http::get(sidecar.daprd.http_port, path)?.is_success().then_some(()))
    })?;
    embedded.stop();
    Ok(())
}
