//! Jobs go from each engine to each other one, and to Dapr's own scheduler and back.

use anyhow::{Result, ensure};
use blackbox::{Scratch, environment, soon, until};
use proto::common::job_failure_policy::Policy;
use proto::common::{JobFailurePolicy, JobFailurePolicyConstant};
use proto::scheduler::Job;
use serde_json::Value;

use super::{daprctl, list, said};
use crate::processes::etcd_server::EtcdServer;
use crate::processes::member::{Crowd, FAILS, Kind, Member, names, once};

/// A scheduler, and where its jobs are read and written.
struct Engine {
    name: &'static str,
    member: Member,
    client: u16,
    _etcd: Option<EtcdServer>,
}

impl Engine {
    /// One that stores jobs itself, or in an etcd that it runs.
    fn own(name: &'static str, kind: Kind, flags: &[&str]) -> Result<Self> {
        let [client, peer] = [environment::free_port()?, environment::free_port()?];
        let mut all = vec![
            format!("--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{peer}"),
            format!("--etcd-client-port={client}"),
        ];
        all.extend(flags.iter().map(ToString::to_string));
        let mut member = Member::spawn(kind, 0, all)?;
        member.wait_healthy()?;
        Ok(Self { name, member, client, _etcd: None })
    }

    fn external() -> Result<Self> {
        let etcd = EtcdServer::start()?;
        let member = Member::start(Kind::Ours, 0, &etcd)?;
        Ok(Self { name: "external", member, client: etcd.port, _etcd: Some(etcd) })
    }
}

/// A walk over four engines in which each follows each other one.
const WALK: [usize; 13] = [0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0];

fn every_hour() -> Job {
    Job { schedule: Some("@every 1h".to_owned()), ..once("0s") }
}

/// A job whose first try fails, and whose second is in an hour.
fn fails() -> Job {
    let mut constant = JobFailurePolicyConstant::default();
    constant.interval.get_or_insert_default().seconds = 3_600;
    let failure_policy = Some(JobFailurePolicy { policy: Some(Policy::Constant(constant)) });
    Job { failure_policy, ..once("0s") }
}

/// The count of finished ticks of a job and the failed tries of the next, as `daprctl` says.
fn counted(jobs: &[Value], name: &str, field: &str) -> Option<u64> {
    jobs.iter().find(|job| job["name"] == name)?[field].as_u64()
}

/// Jobs with counts and attempts.
fn fill(first: &Engine) -> Result<()> {
    let crowd = Crowd::start(&[first.member.port])?;
    let jobs = names("far", 20).into_iter().map(|name| (name, once("24h")));
    crowd.schedule_all(first.member.port, 4, jobs)?;
    crowd.schedule(first.member.port, "hourly", every_hour())?;
    crowd.schedule(first.member.port, FAILS, fails())?;
    until(soon(), "a count and an attempt", || {
        let jobs = list(first.client);
        let count = counted(&jobs, "hourly", "count");
        let attempts = counted(&jobs, FAILS, "attempts");
        Ok((count == Some(1) && attempts == Some(1)).then_some(()))
    })
}

/// Moves all jobs. One that becomes due on the way is delivered by the next scheduler, once.
fn hop(number: usize, from: &Engine, to: &Engine) -> Result<()> {
    let what = format!("{} to {}", from.name, to.name);
    let due = [format!("due-{number}")];
    Crowd::start(&[])?.schedule(from.member.port, &due[0], once("0s"))?;
    let folder = Scratch::new("jobs")?;
    let file = folder.path().join("jobs.export").to_string_lossy().into_owned();
    said(&daprctl(from.client, &["export", &file]));
    let before = list(from.client);
    let keys: Vec<&str> = before.iter().filter_map(|job| job["key"].as_str()).collect();
    ensure!(keys.len() == 23, "{what}: {keys:?}");
    said(&daprctl(from.client, &[&["delete"], &keys[..]].concat()));
    said(&daprctl(to.client, &["import", &file]));
    let after = list(to.client);
    ensure!(before == after, "{what}: {before:?} became {after:?}");

    let crowd = Crowd::start(&[to.member.port])?;
    crowd.wait_for(&due, 1)?;
    until(soon(), "what has ended to be deleted, and another attempt", || {
        let jobs = list(to.client);
        let attempts = counted(&jobs, FAILS, "attempts");
        Ok((jobs.len() == 22 && attempts == u64::try_from(number + 2).ok()).then_some(()))
    })?;
    crowd.ensure_once(&due)
}

#[test]
fn jobs_with_counts_and_attempts_move_between_all_engines() -> Result<()> {
    let engines = [
        Engine::own("reference", Kind::Reference, &[])?,
        Engine::own("embedded", Kind::Ours, &[])?,
        Engine::own("etcd", Kind::Ours, &["--store-engine=etcd"])?,
        Engine::external()?,
    ];
    fill(&engines[0])?;
    for (number, pair) in WALK.windows(2).enumerate() {
        let [from, to] = [pair[0], pair[1]];
        hop(number, &engines[from], &engines[to])?;
    }
    ensure!(counted(&list(engines[0].client), "hourly", "count") == Some(1));
    Ok(())
}
