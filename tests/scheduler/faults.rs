//! Members and their etcd fail under load: no job is lost, none is early, and streams stay.

pub(crate) mod full_disk;
mod large_jobs;
mod lost_answer;
mod lost_member;
mod wrong_clock;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::procfs::child_of;
use blackbox::{http, soon, until};
use proto::etcd::etcdserverpb::kv_client::KvClient;
use proto::etcd::etcdserverpb::{PutRequest, RangeRequest};
use proto::scheduler::{KnownMetadata, ScheduleJobRequest};
use rustix::process::{Signal, kill_process};
use tonic::transport::Endpoint;

use crate::processes::cluster::Cluster;
use crate::processes::etcd_server::EtcdServer;
use crate::processes::load::under_load;
use crate::processes::member::{Crowd, Kind, Member, every, metadata, names, once};
use crate::processes::wait_for_health;

#[test]
fn members_that_are_killed_or_cut_from_the_store_lose_no_job() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let Cluster { members, crowd, .. } = &mut cluster;
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    under_load(crowd, &ports, Duration::ZERO, || {
        members[0].process.kill();
        crowd.wait_for_hosts(&members[1..], 2)?;
        members[0].restart(Kind::Ours)?;
        crowd.wait_for_hosts(&*members, 3)?;

        let etcd = child_of(members[1].process.pid(), "etcd")?.context("a child")?;
        kill_process(etcd, Signal::STOP)?;
        wait_for_health(members[1].health, 503)?;
        crowd.wait_for_hosts([&members[0], &members[2]], 2)?;
        kill_process(etcd, Signal::CONT)?;
        wait_for_health(members[1].health, 200)?;
        crowd.wait_for_hosts(&*members, 3)
    })?;
    let log = members[1].process.log();
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    Ok(())
}

#[test]
fn a_leader_that_is_killed_and_started_at_once_loses_no_job() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let Cluster { members, crowd, .. } = &mut cluster;
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    under_load(crowd, &ports, Duration::ZERO, || {
        for _ in 0..2 {
            let leader = leader(members)?;
            members[leader].process.kill();
            members[leader].restart(Kind::Ours)?;
            crowd.wait_for_hosts(&*members, 3)?;
        }
        Ok(())
    })?;
    ensure!(cluster.keys(0, "dapr/leadership/")?.len() == 3);
    Ok(())
}

#[test]
fn two_of_three_form_and_the_third_joins_under_load() -> Result<()> {
    let mut cluster = Cluster::start_first(Kind::Ours, 2, 3, &[])?;
    let Cluster { members, crowd, clients } = &mut cluster;
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    for port in &ports {
        crowd.watch_hosts(*port, 250);
    }
    crowd.wait_for_known_hosts(2)?;
    let absent = KnownMetadata { app_id: "absent".to_owned(), ..metadata() };
    let overdue = names("overdue", 400).into_iter().map(|name| ScheduleJobRequest {
        name,
        job: Some(once("0s")),
        metadata: Some(absent.clone().into()),
        overwrite: false,
    });
    crowd.send_all(ports[0], 16, overdue)?;
    under_load(crowd, &ports, Duration::ZERO, || {
        members.push(Cluster::next(Kind::Ours, members, clients)?);
        crowd.watch(members[2].port);
        crowd.wait_for_hosts(&*members, 3)?;
        crowd.wait_for_known_hosts(3)
    })?;
    ensure!(cluster.keys(2, "dapr/jobs/app||default||absent||")?.len() == 400, "they wait");
    let later = names("later", 3);
    cluster.schedule(&later, &once("24h"))?;
    for number in 0..3 {
        let jobs = cluster.keys(number, "dapr/jobs/app||default||app||later")?;
        ensure!(jobs.len() == later.len(), "member {number}: {jobs:?}");
    }
    Ok(())
}

/// The number of the member whose etcd leads.
fn leader(members: &[Member]) -> Result<usize> {
    until(soon(), "a leader", || {
        for (number, member) in members.iter().enumerate() {
            if http::metric(member.metrics, "etcd_server_is_leader")? == Some(1.0) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    })
}

#[test]
fn calls_wait_and_jobs_go_on_while_the_etcd_elects_another_leader() -> Result<()> {
    let cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let ticks = names("tick", 6);
    cluster.schedule(&ticks, &every("1s"))?;
    cluster.crowd.wait_for(&ticks, 1)?;
    let old = leader(&cluster.members)?;
    let etcd = child_of(cluster.members[old].process.pid(), "etcd")?.context("a child")?;
    kill_process(etcd, Signal::KILL)?;
    // Each member is asked, that of the old leader too: no call fails.
    let calls = names("call", 12);
    cluster.schedule(&calls, &once("0s"))?;
    cluster.crowd.wait_for(&calls, 1)?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    for member in &cluster.members {
        wait_for_health(member.health, 200)?;
        let log = member.process.log();
        ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    }
    Ok(())
}

#[test]
fn a_store_that_hangs_for_longer_than_a_lease_ends_deliveries_and_no_stream() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    let first = names("first", 1);
    crowd.schedule(member.port, &first[0], once("0s"))?;
    crowd.wait_for(&first, 1)?;
    // Due after the member has to stop, two thirds of a lease after its last renewal.
    let jobs = names("job", 20);
    for name in &jobs {
        crowd.schedule(member.port, name, once("15s"))?;
    }
    etcd.process.signal(Signal::STOP)?;
    for _ in 0..2 {
        let refused = crowd.schedule(member.port, "new", once("0s")).unwrap_err();
        ensure!(is_unavailable(&refused), "{refused:#}");
        let refused = crowd.get(member.port, &jobs[0]).unwrap_err();
        ensure!(is_unavailable(&refused), "{refused:#}");
    }
    ensure!(http::get(member.health, "/healthz")?.status == 503);
    ensure!(http::get(member.health, "/livez")?.status == 200);
    ensure!(crowd.counts().len() == 1, "{:?}", crowd.counts());
    etcd.process.signal(Signal::CONT)?;
    crowd.wait_for(&jobs, 1)?;
    wait_for_health(member.health, 200)?;
    let log = member.process.log();
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    Ok(())
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<tonic::Status>();
    status.is_some_and(|status| status.code() == tonic::Code::Unavailable)
}

/// Stores the record of a job under another name, as an import does.
fn copy(crowd: &Crowd, etcd: &EtcdServer, from: &str, to: &str) -> Result<()> {
    let key = |name: &str| format!("dapr/jobs/app||default||app||{name}");
    crowd.runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", etcd.endpoint()))?;
        let mut client = KvClient::new(endpoint.connect().await?);
        let read = RangeRequest { key: key(from).into(), ..RangeRequest::default() };
        let found = client.range(read).await?.into_inner().kvs.pop().context("a job")?;
        let (key, value) = (key(to).into(), found.value);
        client.put(PutRequest { key, value, ..PutRequest::default() }).await?;
        Ok(())
    })
}

#[test]
fn changes_that_were_compacted_before_the_watch_saw_them_are_read_again() -> Result<()> {
    let mut etcd = EtcdServer::start()?;
    let member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    let jobs = names("job", 2);
    for name in &jobs {
        crowd.schedule(member.port, name, every("500ms"))?;
    }
    crowd.wait_for(&jobs, 2)?;
    member.process.signal(Signal::STOP)?;
    // Without the connection etcd sends nothing to the stopped member.
    etcd.process.kill();
    etcd.restart()?;
    copy(&crowd, &etcd, &jobs[0], "copied")?;
    etcd.ctl(&["del", &format!("dapr/jobs/app||default||app||{}", jobs[1])])?;
    let revision = etcd.revisions("dapr/jobs/")?.into_iter().max().context("a job")?;
    etcd.ctl(&["compact", &(revision + 1).to_string(), "--physical"])?;
    member.process.signal(Signal::CONT)?;

    let copied = vec!["copied".to_owned()];
    crowd.wait_for(&copied, 1)?;
    let deleted = crowd.counts()[&jobs[1]];
    crowd.wait_for_more(&copied, 3)?;
    crowd.wait_for_more(&jobs[..1], 3)?;
    ensure!(crowd.counts()[&jobs[1]] == deleted, "a deleted job goes on");
    let log = member.process.log();
    ensure!(log.contains("Changes of etcd were missed"), "{log}");
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    let resyncs = http::metric(member.metrics, "dapr_scheduler_watch_resync_total")?;
    ensure!(resyncs == Some(1.0), "the read is counted: {resyncs:?}");
    Ok(())
}

#[test]
fn without_a_majority_calls_are_refused_and_nothing_fires_twice() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let done = names("done", 30);
    cluster.schedule(&done, &once("0s"))?;
    cluster.crowd.wait_for(&done, 1)?;
    until(soon(), "finished jobs to be deleted", || {
        Ok(cluster.keys(0, "dapr/jobs/")?.is_empty().then_some(()))
    })?;
    let ticks = names("tick", 6);
    cluster.schedule(&ticks, &every("1s"))?;
    cluster.crowd.wait_for(&ticks, 1)?;
    cluster.members[0].process.kill();
    cluster.members[1].process.kill();
    let left = cluster.members[2].port;
    let refused = cluster.crowd.schedule(left, "new", once("0s")).unwrap_err();
    ensure!(is_unavailable(&refused), "{refused:#}");
    // A leader that is alone cannot hand over, and its lease cannot be revoked.
    cluster.members[2].stop()?;
    cluster.members.iter_mut().try_for_each(|member| member.start_again(Kind::Ours))?;
    cluster.crowd.wait_for_hosts(&cluster.members, 3)?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    cluster.crowd.ensure_once(&done)
}

#[test]
fn a_full_etcd_of_its_own_refuses_jobs_until_it_has_room_and_goes_on() -> Result<()> {
    let cluster =
        Cluster::start(Kind::Ours, 1, &["--store-engine=etcd", "--etcd-space-quota=16Mi"])?;
    let (member, crowd) = (&cluster.members[0], &cluster.crowd);
    let (ticks, last) = (names("tick", 1), names("last", 1));
    cluster.schedule(&ticks, &every("500ms"))?;
    cluster.schedule(&last, &once("20s"))?;
    let mut large = once("24h");
    large.data.get_or_insert_default().value = vec![7; 1 << 20];
    let refused = (0..64).find_map(|number| {
        crowd.schedule(member.port, &format!("large-{number}"), large.clone()).err()
    });
    let refused = format!("{:#}", refused.context("64 MiB in 16 MiB")?);
    ensure!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    wait_for_health(member.health, 503)?;
    crowd.wait_for(&last, 1)?;
    crowd.wait_for_more(&ticks, 2)?;
    until(soon(), "the end of a job to be written", || {
        Ok(cluster.keys(0, "dapr/jobs/app||default||app||last")?.is_empty().then_some(()))
    })?;

    cluster.ctl(0, &["del", "dapr/jobs/app||default||app||large", "--prefix"])?;
    cluster.ctl(0, &["compact", &cluster.revision(0)?.to_string(), "--physical"])?;
    cluster.ctl(0, &["defrag"])?;
    cluster.ctl(0, &["alarm", "disarm"])?;
    wait_for_health(member.health, 200)?;
    crowd.schedule(member.port, "after", once("0s"))?;
    crowd.wait_for(&["after".to_owned()], 1)?;
    crowd.wait_for_more(&ticks, 2)
}

#[test]
fn room_of_deleted_records_is_given_back() -> Result<()> {
    let flags = ["--store-engine=etcd", "--etcd-defragment-interval=2s"];
    let cluster = Cluster::start(Kind::Ours, 1, &flags)?;
    let ticks = names("tick", 1);
    cluster.schedule(&ticks, &every("500ms"))?;
    let value = "x".repeat(100_000);
    for number in 0..40 {
        cluster.ctl(0, &["put", &format!("other/{number}"), &value])?;
    }
    let bytes = || http::metric(cluster.members[0].metrics, "etcd_mvcc_db_total_size_in_bytes");
    until(soon(), "a large file", || Ok(bytes()?.filter(|bytes| *bytes > 4e6)))?;
    cluster.ctl(0, &["del", "other/", "--prefix"])?;
    let revision = cluster.revision(0)?;
    cluster.ctl(0, &["compact", &revision.to_string(), "--physical"])?;
    until(soon(), "a small file", || Ok(bytes()?.filter(|bytes| *bytes < 1e6)))?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    ensure!(cluster.members[0].process.log().contains("etcd was defragmented"));
    Ok(())
}

/// A member that waits for the ports of an etcd that is about to end.
#[test]
fn an_etcd_that_cannot_start_is_tried_again_until_its_port_is_free() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd"])?;
    let ticks = names("tick", 1);
    cluster.schedule(&ticks, &every("500ms"))?;
    cluster.members[0].stop()?;
    let taken = TcpListener::bind(("127.0.0.1", cluster.clients[0]))?;
    cluster.members[0].start_again(Kind::Ours)?;
    cluster.members[0].process.wait_for_log("etcd ended", soon())?;
    ensure!(http::get(cluster.members[0].health, "/livez")?.status == 200);
    ensure!(http::get(cluster.members[0].health, "/healthz")?.status == 503);
    drop(taken);
    wait_for_health(cluster.members[0].health, 200)?;
    ensure!(TcpStream::connect(("127.0.0.1", cluster.clients[0])).is_ok());
    cluster.crowd.wait_for_more(&ticks, 2)
}
