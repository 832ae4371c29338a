//! Three of ours that share the jobs by shards, without one of Dapr's own among them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::{http, soon, until};
use proto::scheduler::Job;
use rustix::process::Signal;

use crate::etcd::external::raise_alarm;
use crate::members::Three;
use crate::processes::etcd_server::EtcdServer;
use crate::processes::member::{Kind, Member, every, names, once};
use crate::processes::wait_for_health;

const CLAIMS: &str = "dapr/rs/shard-epoch/";
pub(crate) const SHARDS: usize = 1_024;

fn wait_for_claims(etcd: &EtcdServer, count: usize) -> Result<BTreeMap<String, u64>> {
    until(soon(), &format!("{count} claims of shards"), || {
        Ok(Some(etcd.versions(CLAIMS)?).filter(|claims| claims.len() == count))
    })
}

/// The member that last delivered each job, by port.
fn owners(three: &Three) -> BTreeMap<String, u16> {
    three.crowd.seen().into_iter().map(|delivery| (delivery.name, delivery.from)).collect()
}

/// How often the jobs of each member have changed; 0 for one that does not run.
fn rebalances(three: &Three) -> Result<Vec<f64>> {
    let name = "dapr_scheduler_rebalance_total";
    let running = |member: &Member| http::metric(member.metrics, name).ok().flatten();
    let counts: Vec<f64> =
        three.members.iter().map(|member| running(member).unwrap_or_default()).collect();
    ensure!(counts[1..].iter().all(|count| *count > 0.0), "{name}: {counts:?}");
    Ok(counts)
}

#[test]
fn only_the_jobs_of_a_killed_member_move() -> Result<()> {
    let mut three = Three::start()?;
    let before = wait_for_claims(&three.etcd, SHARDS)?;
    let ticks = names("tick", 60);
    three.schedule(&ticks, &every("1s"))?;
    three.crowd.wait_for(&ticks, 2)?;
    let owned = owners(&three);
    let dead = three.members[0].port;
    let (moving, staying): (Vec<_>, Vec<_>) =
        ticks.iter().cloned().partition(|name| owned.get(name) == Some(&dead));
    ensure!(moving.len() >= 10 && staying.len() >= 20, "{} of 60 were its own", moving.len());
    let changes = rebalances(&three)?;
    three.members[0].process.kill();
    let killed = three.crowd.seen().len();
    until(soon(), "the others to have its jobs", || {
        let owned = owners(&three);
        Ok(moving.iter().all(|name| owned.get(name) != Some(&dead)).then_some(()))
    })?;
    let seen = three.crowd.seen();
    let first = seen[killed..].iter().position(|delivery| moving.contains(&delivery.name));
    let meanwhile = &seen[killed..killed + first.context("a job that moved")?];
    for name in &staying {
        let fired = meanwhile.iter().filter(|delivery| delivery.name == *name).count();
        ensure!(fired >= 2, "{name} fired {fired} times while the lease of the dead one lasted");
        let from: BTreeSet<u16> = seen
            .iter()
            .filter(|delivery| delivery.name == *name)
            .map(|delivery| delivery.from)
            .collect();
        ensure!(from.len() == 1, "{name} moved: {from:?}");
    }
    for (before, after) in changes.iter().zip(rebalances(&three)?).skip(1) {
        ensure!(after > *before, "{after} changes of its jobs, {before} before");
    }
    // No other shard was stopped: its claim is the one from before.
    let after = wait_for_claims(&three.etcd, SHARDS)?;
    let moved = before.iter().filter(|(key, revision)| after[*key] != **revision).count();
    ensure!((SHARDS / 4..SHARDS / 2).contains(&moved), "{moved} of {SHARDS} shards moved");
    three.members[0].restart(Kind::Ours)?;
    three.wait_for_all()?;
    until(soon(), "it to have its jobs again", || {
        let owned = owners(&three);
        Ok(moving.iter().all(|name| owned.get(name) == Some(&dead)).then_some(()))
    })?;
    Ok(())
}

/// Without puts nobody can claim a shard. Each keeps its own until the alarm is cleared.
#[test]
fn members_go_on_with_their_jobs_while_etcd_is_full_and_take_over_others_after_it() -> Result<()> {
    let mut three = Three::start()?;
    let ticks = names("tick", 30);
    three.schedule(&ticks, &every("1s"))?;
    three.crowd.wait_for(&ticks, 2)?;
    let owned = owners(&three);
    let dead = three.members[0].port;
    let (moving, staying): (Vec<_>, Vec<_>) =
        ticks.into_iter().partition(|name| owned.get(name) == Some(&dead));
    raise_alarm(&three.crowd, &three.etcd)?;
    for member in &three.members {
        wait_for_health(member.health, 503)?;
    }
    three.members[0].process.kill();
    for member in &mut three.members[1..] {
        member.process.wait_for_log("takes over none of a scheduler that is gone", soon())?;
    }
    let gone = three.crowd.seen().len();
    three.crowd.wait_for_more(&staying, 3)?;
    let taken = three.crowd.seen().into_iter().skip(gone).find(|seen| moving.contains(&seen.name));
    ensure!(taken.is_none(), "{taken:?} has no owner");
    for member in &three.members[1..] {
        let log = member.process.log();
        let said = log.matches("takes over none of a scheduler that is gone").count();
        ensure!(said == 1, "it said {said} times what lasts: {log}");
    }

    three.etcd.ctl(&["alarm", "disarm"])?;
    three.crowd.wait_for_more(&moving, 2)?;
    three.crowd.wait_for_more(&staying, 2)?;
    for member in &three.members[1..] {
        wait_for_health(member.health, 200)?;
    }
    Ok(())
}

/// A member that was stopped with a trigger under way writes nothing about it when it wakes up.
#[test]
fn a_member_that_wakes_up_late_writes_nothing() -> Result<()> {
    let three = Three::start()?;
    wait_for_claims(&three.etcd, SHARDS)?;
    let sleeper = &three.members[1];
    three.crowd.hold(sleeper.port, true);
    // A member has the jobs that it was asked to schedule.
    let job = Job { due_time: Some("0s".to_owned()), ..every("1h") };
    let held = names("held", 1);
    three.crowd.schedule(sleeper.port, &held[0], job)?;
    three.crowd.wait_for(&held, 1)?;
    ensure!(owners(&three)[&held[0]] == sleeper.port, "another member has it");
    sleeper.process.signal(Signal::STOP)?;
    three.crowd.wait_for(&held, 2)?;
    let counter = until(soon(), "the tick to be counted", || {
        Ok(Some(three.etcd.versions("dapr/counters/")?).filter(|counters| !counters.is_empty()))
    })?;
    sleeper.process.signal(Signal::CONT)?;
    three.crowd.hold(sleeper.port, false);
    three.wait_for_all()?;
    wait_for_claims(&three.etcd, SHARDS)?;
    // Answered on the same stream after the late answer.
    let after = names("after", 5);
    for name in &after {
        three.crowd.schedule(sleeper.port, name, once("0s"))?;
    }
    three.crowd.wait_for(&after, 1)?;
    until(soon(), "finished jobs to be deleted", || {
        Ok((three.etcd.keys("dapr/jobs/")?.len() == 1).then_some(()))
    })?;
    ensure!(three.etcd.versions("dapr/counters/")? == counter, "the counter was written again");
    ensure!(three.crowd.counts()[&held[0]] == 2, "the tick was repeated");
    three.crowd.ensure_once(&after)
}

/// With one of Dapr's own all share the jobs by number; without it by shards again.
#[test]
fn a_member_of_dapr_is_joined_in_its_mode_and_left_behind() -> Result<()> {
    let three = Three::start()?;
    wait_for_claims(&three.etcd, SHARDS)?;
    let ticks = names("tick", 20);
    three.schedule(&ticks, &every("1s"))?;
    three.crowd.wait_for(&ticks, 1)?;
    let jobs = names("job", 200);
    for (at, name) in jobs.iter().enumerate() {
        let due = Duration::from_millis(2_000 + 100 * u64::try_from(at)?);
        let due = runtime::clock::now() + due;
        three.schedule(std::slice::from_ref(name), &once(&due.to_string()))?;
    }
    let mut other = Member::start(Kind::Reference, 3, &three.etcd)?;
    three.crowd.watch(other.port);
    three.crowd.wait_for_hosts(three.members.iter().chain([&other]), 4)?;
    ensure!(three.etcd.keys(CLAIMS)?.is_empty(), "shards are claimed beside its part");
    until(soon(), "it to fire some", || {
        let fired = three.crowd.seen().iter().filter(|seen| seen.from == other.port).count();
        Ok((fired > 5).then_some(()))
    })?;
    three.crowd.wait_for_more(&ticks, 2)?;
    other.stop()?;
    three.wait_for_all()?;
    wait_for_claims(&three.etcd, SHARDS)?;
    three.crowd.wait_for(&jobs, 1)?;
    three.crowd.wait_for_more(&ticks, 2)?;
    until(soon(), "finished jobs to be deleted", || {
        Ok((three.etcd.keys("dapr/jobs/")?.len() == ticks.len()).then_some(()))
    })
}
