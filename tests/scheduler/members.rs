//! Schedulers over one etcd: ours and Dapr's own.

mod limits;
mod roll;

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use blackbox::{soon, until};
use proto::scheduler::Job;
use rustix::process::Signal;

use crate::native::SHARDS;
use crate::processes::etcd_server::EtcdServer;
use crate::processes::member::{Crowd, Kind, Member, every, names, once};
use crate::processes::wait_for_health;

#[test]
fn one_member_keeps_its_jobs_in_an_external_etcd() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let mut member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    ensure!(crowd.hosts(member.port)? == [member.address()]);
    let now = names("now", 50);
    for name in &now {
        crowd.schedule(member.port, name, once("0s"))?;
    }
    crowd.wait_for(&now, 1)?;
    crowd.schedule(member.port, "tick", every("500ms"))?;
    crowd.wait_for(&["tick".to_owned()], 3)?;
    until(soon(), "finished jobs to be deleted", || {
        Ok((etcd.keys("dapr/jobs/")? == ["dapr/jobs/app||default||app||tick"]).then_some(()))
    })?;
    ensure!(crowd.counts().iter().all(|(name, count)| name == "tick" || *count == 1));
    ensure!(etcd.keys("dapr/leadership/")? == ["dapr/leadership/dapr-scheduler-server-0"]);
    member.stop()?;
    ensure!(etcd.keys("dapr/leadership/")?.is_empty(), "the lease goes with an ordered stop");
    ensure!(etcd.keys("dapr/counters/")?.len() == 1);
    let before = crowd.counts()["tick"];
    member.restart(Kind::Ours)?;
    crowd.wait_for(&["tick".to_owned()], before + 2)
}

/// As Dapr's own: each address as it was given, equal ones as often as they were.
#[test]
fn addresses_that_are_given_are_announced_equal_ones_too() -> Result<()> {
    let announced = |kind: Kind, addresses: [&str; 3]| -> Result<Vec<String>> {
        let etcd = EtcdServer::start()?;
        let mut members = Vec::new();
        for (number, address) in addresses.into_iter().enumerate() {
            let flag = format!("--override-broadcast-host-port={address}");
            members.push(Member::start_with(kind, number, &etcd.endpoint(), &[flag])?);
        }
        let crowd = Crowd::start(&[members[0].port])?;
        until(soon(), "all three to be announced", || {
            let hosts = crowd.hosts(members[0].port)?;
            Ok((hosts.len() == 3).then_some(hosts))
        })
    };
    let different = ["10.0.0.1:1", "10.0.0.2:2", "scheduler.example:3"];
    for addresses in [different, ["10.0.0.1:1"; 3]] {
        for kind in [Kind::Reference, Kind::Ours] {
            let mut hosts = announced(kind, addresses)?;
            hosts.sort();
            ensure!(hosts == addresses, "{kind:?}: {hosts:?}");
        }
    }
    Ok(())
}

#[test]
fn streams_and_jobs_outlive_an_outage_of_etcd() -> Result<()> {
    let mut etcd = EtcdServer::start()?;
    let member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    crowd.schedule(member.port, "tick", every("500ms"))?;
    crowd.wait_for(&["tick".to_owned()], 2)?;
    etcd.stop()?;
    wait_for_health(member.health, 503)?;
    ensure!(blackbox::http::get(member.health, "/livez")?.status == 200);
    let before = crowd.counts()["tick"];
    etcd.restart()?;
    wait_for_health(member.health, 200)?;
    crowd.wait_for(&["tick".to_owned()], before + 2)?;
    let log = member.process.log();
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    Ok(())
}

#[test]
fn jobs_of_daprs_own_scheduler_in_an_external_etcd_are_fired_by_ours_and_back() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let mut member = Member::start(Kind::Reference, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    let ticks = names("tick", 5);
    for (round, kind) in [Kind::Ours, Kind::Reference].into_iter().enumerate() {
        let late = names(&format!("late{round}"), 20);
        for name in &late {
            crowd.schedule(member.port, name, once("2s"))?;
        }
        for name in &ticks {
            crowd.schedule(member.port, name, every("1s"))?;
        }
        crowd.wait_for(&ticks, 2 + 4 * round)?;
        member.stop()?;
        member.restart(kind)?;
        crowd.wait_for(&late, 1)?;
        crowd.wait_for_more(&ticks, 2)?;
    }
    Ok(())
}

/// Its own key from before is no other process's.
#[test]
fn a_member_that_was_killed_takes_its_jobs_back_without_waiting_for_its_lease() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let mut member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    let ticks = names("tick", 3);
    for name in &ticks {
        crowd.schedule(member.port, name, every("500ms"))?;
    }
    crowd.wait_for(&ticks, 1)?;
    member.process.kill();
    member.restart(Kind::Ours)?;
    member.process.wait_for_log("The last process of this scheduler is gone", soon())?;
    crowd.wait_for_more(&ticks, 2)
}

/// Nothing shows that the other process is gone.
#[test]
fn a_second_process_with_the_same_id_waits() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    let ticks = names("tick", 3);
    for name in &ticks {
        crowd.schedule(member.port, name, every("500ms"))?;
    }
    crowd.wait_for(&ticks, 1)?;
    let keys = etcd.versions("dapr/leadership/")?;
    let mut second = Member::start(Kind::Ours, 0, &etcd)?;
    crowd.watch(second.port);
    second.process.wait_for_log("Sidecar connected", soon())?;
    crowd.wait_for_more(&ticks, 3)?;
    ensure!(etcd.versions("dapr/leadership/")? == keys, "it took the key");
    ensure!(crowd.seen().iter().all(|seen| seen.from == member.port), "both fire");
    Ok(())
}

/// Three of ours over one etcd, with a stream to each.
pub(crate) struct Three {
    pub(crate) etcd: EtcdServer,
    pub(crate) members: Vec<Member>,
    pub(crate) crowd: Crowd,
}

impl Three {
    pub(crate) fn start() -> Result<Self> {
        Self::start_ahead(0)
    }

    /// Those where the wall clock of the last one is so many seconds ahead.
    pub(crate) fn start_ahead(ahead: i64) -> Result<Self> {
        let etcd = EtcdServer::start()?;
        let ahead = [0, 0, ahead].into_iter().enumerate();
        let members: Vec<Member> = ahead
            .map(|(number, ahead)| Member::start_ahead(number, &etcd, ahead))
            .collect::<Result<_>>()?;
        let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
        let crowd = Crowd::start(&ports)?;
        let three = Self { etcd, members, crowd };
        three.wait_for_all()?;
        // A shard that moves repeats what is unanswered.
        until(soon(), "every shard to have its owner", || {
            let owned: usize = three.members.iter().map(|member| member.shards(3)).sum();
            Ok((owned == SHARDS).then_some(()))
        })?;
        Ok(three)
    }

    pub(crate) fn wait_for_all(&self) -> Result<()> {
        self.crowd.wait_for_hosts(&self.members, 3)
    }

    /// Schedules at each member in turn.
    pub(crate) fn schedule(&self, names: &[String], job: &Job) -> Result<()> {
        for (name, member) in names.iter().zip(self.members.iter().cycle()) {
            self.crowd.schedule(member.port, name, job.clone())?;
        }
        Ok(())
    }
}

#[test]
fn three_members_share_the_jobs_and_each_fires_once() -> Result<()> {
    let three = Three::start()?;
    let jobs = names("job", 300);
    let due = runtime::clock::now() + Duration::from_secs(5);
    three.schedule(&jobs, &once(&due.to_string()))?;
    three.crowd.wait_for(&jobs, 1)?;
    let early = three.crowd.seen().into_iter().find(|delivery| delivery.at < SystemTime::from(due));
    ensure!(early.is_none(), "{early:?}");
    until(soon(), "finished jobs to be deleted", || {
        Ok(three.etcd.keys("dapr/jobs/")?.is_empty().then_some(()))
    })?;
    three.crowd.ensure_once(&jobs)?;
    for member in &three.members {
        let own = three.crowd.seen().iter().filter(|delivery| delivery.from == member.port).count();
        ensure!(own > 50, "member {} fired {own} of 300", member.id);
    }
    Ok(())
}

#[test]
fn jobs_of_a_killed_member_fire_elsewhere_and_it_takes_part_again() -> Result<()> {
    let mut three = Three::start()?;
    let ticks = names("tick", 30);
    three.schedule(&ticks, &every("1s"))?;
    three.crowd.wait_for(&ticks, 2)?;
    three.members[0].process.kill();
    three.crowd.wait_for_more(&ticks, 3)?;
    three.crowd.wait_for_hosts(&three.members[1..], 2)?;
    three.members[0].restart(Kind::Ours)?;
    three.wait_for_all()?;
    ensure!(three.etcd.keys("dapr/leadership/")?.len() == 3);
    three.crowd.wait_for_more(&ticks, 2)?;
    Ok(())
}

#[test]
fn members_restarted_in_order_one_by_one_repeat_nothing() -> Result<()> {
    let mut three = Three::start()?;
    let ticks = names("tick", 20);
    three.schedule(&ticks, &every("1s"))?;
    let jobs = names("job", 60);
    three.schedule(&jobs, &once("4s"))?;
    for number in 0..3 {
        three.members[number].stop()?;
        three.members[number].restart(Kind::Ours)?;
        three.wait_for_all()?;
    }
    three.crowd.wait_for(&jobs, 1)?;
    three.crowd.wait_for_more(&ticks, 2)?;
    three.crowd.ensure_once(&jobs)
}

/// A member that was stopped for longer than its lease finds others in its place.
#[test]
fn a_member_that_wakes_up_late_fires_nothing_that_is_not_its_own() -> Result<()> {
    let three = Three::start()?;
    let jobs = names("job", 120);
    three.schedule(&jobs, &once("8s"))?;
    let sleeper = &three.members[2];
    sleeper.process.signal(Signal::STOP)?;
    three.crowd.wait_for(&jobs, 1)?;
    until(soon(), "the others to be two", || {
        Ok((three.etcd.keys("dapr/leadership/")?.len() == 2).then_some(()))
    })?;
    let late = names("late", 30);
    for name in &late {
        three.crowd.schedule(three.members[0].port, name, once("0s"))?;
    }
    three.crowd.wait_for(&late, 1)?;
    three.members[2].process.signal(Signal::CONT)?;
    three.wait_for_all()?;
    // All members fire some of these, the sleeper after what it would repeat.
    let after = names("after", 60);
    three.schedule(&after, &once("0s"))?;
    three.crowd.wait_for(&after, 1)?;
    three.crowd.ensure_once(&jobs)?;
    three.crowd.ensure_once(&late)
}

/// Members of both kinds run together, and replace each other one by one under load.
#[test]
fn members_of_both_kinds_replace_each_other_without_loss() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let mut members: Vec<Member> = (0..3)
        .map(|number| Member::start(Kind::Reference, number, &etcd))
        .collect::<Result<_>>()?;
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    let crowd = Crowd::start(&ports)?;
    crowd.wait_for_hosts(&members, 3)?;
    let ticks = names("tick", 12);
    for (name, port) in ticks.iter().zip(ports.iter().cycle()) {
        crowd.schedule(*port, name, every("1s"))?;
    }
    for kind in [Kind::Ours, Kind::Reference] {
        for number in 0..3 {
            members[number].stop()?;
            let one = names(&format!("{kind:?}-{number}"), 12);
            for (at, name) in one.iter().enumerate() {
                let port = ports[(number + 1 + at % 2) % 3];
                crowd.schedule(port, name, once("1s"))?;
            }
            members[number].restart(kind)?;
            crowd.wait_for_hosts(&members, 3)?;
            crowd.wait_for(&one, 1)?;
            crowd.wait_for_more(&ticks, 2)?;
        }
    }
    let mut revisions = etcd.revisions("dapr/jobs/")?;
    let count = revisions.len();
    revisions.sort_unstable();
    revisions.dedup();
    ensure!(revisions.len() == count, "two jobs have one revision");
    Ok(())
}
