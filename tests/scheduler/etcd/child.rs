//! The scheduler with an etcd as its child: one member and three, beside Dapr's own scheduler, and on
//! its directories.

use anyhow::{Context as _, Result, ensure};
use blackbox::procfs::child_of;
use blackbox::{Tool, http, soon, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::processes::cluster::Cluster;
use crate::processes::load::{DAPR_EARLY, under_load};
use crate::processes::member::{Kind, Member, every, names, once};
use crate::processes::wait_for_health;

#[test]
fn one_member_keeps_its_jobs_in_an_etcd_of_its_own() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd", "--log-as-json"])?;
    let now = names("now", 20);
    cluster.schedule(&now, &once("0s"))?;
    cluster.crowd.wait_for(&now, 1)?;
    let tick = names("tick", 1);
    cluster.schedule(&tick, &every("500ms"))?;
    cluster.crowd.wait_for_more(&tick, 3)?;
    until(soon(), "finished jobs to be deleted", || {
        Ok((cluster.keys(0, "dapr/jobs/")? == ["dapr/jobs/app||default||app||tick-000"])
            .then_some(()))
    })?;
    ensure!(http::metric(cluster.members[0].metrics, "etcd_server_has_leader")? == Some(1.0));
    let metrics = http::get(cluster.members[0].metrics, "/metrics")?.body;
    ensure!(metrics.matches("# TYPE etcd_server_has_leader gauge").count() == 1, "{metrics}");
    ensure!(!metrics.contains("go_goroutines"), "{metrics}");
    ensure!(metrics.contains("dapr_scheduler_store{engine=\"etcd\"} 1"), "{metrics}");
    let log = cluster.members[0].process.log();
    let lines = log.lines().filter(|line| line.contains("dapr.scheduler.etcd"));
    let lines: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.iter().any(|line| line["level"] == "info" && line["msg"] != ""), "{log}");

    let etcd = child_of(cluster.members[0].process.pid(), "etcd")?.context("a child")?;
    let environment = std::fs::read(format!("/proc/{}/environ", etcd.as_raw_nonzero()))?;
    ensure!(environment.is_empty(), "etcd takes flags from ETCD_* variables");
    ensure!(rustix::process::getpgid(Some(etcd))? == etcd, "Ctrl-C reaches the scheduler alone");
    cluster.members[0].stop()?;
    ensure!(rustix::process::test_kill_process(etcd).is_err(), "etcd ends before its parent");
    let left = cluster.crowd.counts();
    cluster.members[0].restart(Kind::Ours)?;
    cluster.crowd.wait_for_more(&tick, 2)?;
    ensure!(now.iter().all(|name| cluster.crowd.counts()[name] == left[name]));
    Ok(())
}

#[test]
fn an_etcd_that_ends_is_started_again_and_streams_stay() -> Result<()> {
    let cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd"])?;
    let tick = names("tick", 1);
    cluster.schedule(&tick, &every("500ms"))?;
    cluster.crowd.wait_for_more(&tick, 2)?;
    let member = &cluster.members[0];
    let first = child_of(member.process.pid(), "etcd")?.context("a child")?;
    rustix::process::kill_process(first, Signal::KILL)?;
    until(soon(), "another etcd", || {
        Ok(child_of(member.process.pid(), "etcd")?.filter(|pid| *pid != first))
    })?;
    cluster.crowd.wait_for_more(&tick, 2)?;
    until(soon(), "health", || {
        Ok((http::get(member.health, "/healthz")?.status == 200).then_some(()))
    })?;
    let log = member.process.log();
    ensure!(log.contains("etcd ended"), "{log}");
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    Ok(())
}

#[test]
fn a_killed_scheduler_takes_its_etcd_with_it() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd"])?;
    let tick = names("tick", 1);
    cluster.schedule(&tick, &every("500ms"))?;
    cluster.crowd.wait_for_more(&tick, 2)?;
    cluster.members[0].process.kill();
    cluster.wait_for_closed_port(0)?;
    cluster.members[0].restart(Kind::Ours)?;
    cluster.crowd.wait_for_more(&tick, 2)
}

#[test]
fn three_members_go_on_when_one_is_killed_and_it_takes_part_again() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let jobs = names("job", 60);
    cluster.schedule(&jobs, &once("1s"))?;
    cluster.crowd.wait_for(&jobs, 1)?;
    for member in &cluster.members {
        let own = cluster.crowd.seen().iter().filter(|seen| seen.from == member.port).count();
        ensure!(own > 5, "one member fired {own} of 60");
    }
    let ticks = names("tick", 12);
    cluster.schedule(&ticks, &every("1s"))?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    cluster.members[0].process.kill();
    cluster.wait_for_closed_port(0)?;
    cluster.crowd.wait_for_hosts(&cluster.members[1..], 2)?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    cluster.members[0].restart(Kind::Ours)?;
    cluster.crowd.wait_for_hosts(&cluster.members, 3)?;
    for number in 0..3 {
        ensure!(cluster.keys(number, "dapr/leadership/")?.len() == 3);
    }
    cluster.crowd.wait_for_more(&ticks, 2)
}

/// The directory of one becomes that of the other.
#[test]
fn either_scheduler_opens_the_directory_of_the_other() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Reference, 1, &[])?;
    let ticks = names("tick", 5);
    cluster.schedule(&ticks, &every("1s"))?;
    for kind in [Kind::Ours, Kind::Reference] {
        let late = names(&format!("late-{kind:?}"), 10);
        cluster.schedule(&late, &once("3s"))?;
        cluster.crowd.wait_for_more(&ticks, 1)?;
        cluster.members[0].stop()?;
        cluster.members[0].restart(kind)?;
        cluster.crowd.wait_for(&late, 1)?;
        cluster.crowd.wait_for_more(&ticks, 2)?;
    }
    Ok(())
}

/// Three members of Dapr's own are replaced by ours one by one under load, and back: no job is lost.
#[test]
fn members_of_both_kinds_form_one_etcd() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Reference, 3, &[])?;
    let ticks = names("tick", 6);
    cluster.schedule(&ticks, &every("1s"))?;
    let Cluster { members, crowd, .. } = &mut cluster;
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    under_load(crowd, &ports, DAPR_EARLY, || {
        for kind in [Kind::Ours, Kind::Reference] {
            for number in 0..3 {
                members[number].stop()?;
                members[number].restart(kind)?;
                crowd.wait_for_hosts(&*members, 3)?;
                crowd.wait_for_more(&ticks, 2)?;
            }
        }
        Ok(())
    })
}

/// A member of three is not run as the only one, which would leave jobs of the others behind.
#[test]
fn a_member_of_a_larger_cluster_is_not_run_alone() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let later = names("later", 3);
    cluster.schedule(&later, &once("24h"))?;
    cluster.members.iter_mut().try_for_each(Member::stop)?;
    let mut alone = cluster.members.swap_remove(0);
    let own = alone.flags[0].split(',').next().context("an entry")?.to_owned();
    alone.flags[0] = own;
    alone.start_again(Kind::Ours)?;
    alone.process.wait_for_log("an etcd with 3 members", soon())?;
    until(soon(), "an answer", || Ok(http::get(alone.health, "/livez").ok()))?;
    ensure!(http::get(alone.health, "/livez")?.status == 200, "a restart would not help");
    ensure!(http::get(alone.health, "/healthz")?.status == 503, "it serves no jobs");
    let refused = cluster.crowd.schedule(alone.port, "new", once("0s")).unwrap_err();
    ensure!(format!("{refused:#}").contains("dapr_scheduler.replicaCount=3"), "{refused:#}");
    ensure!(child_of(alone.process.pid(), "etcd")?.is_none(), "no etcd runs");
    Ok(())
}

/// Members join an etcd by hand.
#[test]
fn a_single_member_does_not_become_one_of_three() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd"])?;
    cluster.schedule(&names("later", 1), &once("24h"))?;
    let member = &mut cluster.members[0];
    member.stop()?;
    member.flags[0] += ",b=http://127.0.0.1:1,c=http://127.0.0.1:2";
    member.start_again(Kind::Ours)?;
    member.process.wait_for_log("holds the only member of an etcd", soon())?;
    wait_for_health(member.health, 503)?;
    let refused = cluster.crowd.schedule(cluster.members[0].port, "new", once("0s")).unwrap_err();
    ensure!(format!("{refused:#}").contains("dapr_scheduler.replicaCount=1"), "{refused:#}");
    Ok(())
}

/// Dapr's own scheduler could not open the data that a newer etcd has written.
#[test]
fn an_etcd_of_another_version_is_not_run() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd"])?;
    let tick = names("tick", 1);
    cluster.schedule(&tick, &every("500ms"))?;
    let member = &mut cluster.members[0];
    member.stop()?;
    member.replace_etcd(Tool::ETCD)?;
    member.start_again(Kind::Ours)?;
    member.process.wait_for_log("has version 3.6.5, but 3.5.x is needed", soon())?;
    wait_for_health(member.health, 503)?;
    member.stop()?;
    member.replace_etcd(Tool::ETCD_3_5)?;
    member.restart(Kind::Ours)?;
    cluster.crowd.wait_for_more(&tick, 2)
}
