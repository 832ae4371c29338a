//! A member of three whose directory is lost: it does not start by itself, and says how it joins.

use anyhow::{Context as _, Result, ensure};
use blackbox::procfs::child_of;
use blackbox::{http, soon, until};

use crate::processes::cluster::Cluster;
use crate::processes::member::{Kind, every, names, once};
use crate::processes::wait_for_health;

/// The commands in backquotes of a sentence.
fn steps(sentence: &str) -> Vec<Vec<&str>> {
    let quoted = sentence.split('`').skip(1).step_by(2);
    quoted.map(|command| command.split(' ').skip(1).collect()).collect()
}

#[test]
fn a_member_without_its_directory_says_the_steps_that_bring_it_back() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Ours, 3, &[])?;
    let later = names("later", 6);
    cluster.schedule(&later, &once("24h"))?;
    let ticks = names("tick", 6);
    cluster.schedule(&ticks, &every("1s"))?;
    cluster.members[2].stop()?;
    cluster.members[2].lose_data()?;
    cluster.members[2].start_again(Kind::Ours)?;

    let lost = &mut cluster.members[2];
    lost.process.wait_for_log("holds no data of member dapr-scheduler-server-2", soon())?;
    until(soon(), "an answer", || Ok(http::get(lost.health, "/livez").ok()))?;
    ensure!(http::get(lost.health, "/livez")?.status == 200, "a restart would not help");
    ensure!(http::get(lost.health, "/healthz")?.status == 503, "it serves no jobs");
    ensure!(child_of(lost.process.pid(), "etcd")?.is_none(), "no etcd runs");
    let refused = cluster.crowd.schedule(lost.port, "new", once("0s")).unwrap_err();
    let refused = format!("{refused:#}");
    cluster.crowd.wait_for_more(&ticks, 2)?;

    let steps = steps(&refused);
    ensure!(steps.len() == 2, "{refused}");
    cluster.ctl(0, &steps[0])?;
    // Not yet: it would start as the member that was removed.
    cluster.members[2].process.wait_for_log("the other members do not know it", soon())?;
    cluster.ctl(0, &steps[1])?;
    wait_for_health(cluster.members[2].health, 200)?;
    cluster.crowd.wait_for_hosts(&cluster.members, 3)?;
    let jobs = cluster.keys(2, "dapr/jobs/")?;
    ensure!(jobs.len() == later.len() + ticks.len(), "{jobs:?}");
    cluster.crowd.wait_for_more(&ticks, 2)?;

    // It is a member as before.
    cluster.members[2].stop()?;
    cluster.members[2].restart(Kind::Ours)?;
    cluster.members[1].stop()?;
    cluster.crowd.wait_for_hosts([&cluster.members[0], &cluster.members[2]], 2)?;
    cluster.crowd.wait_for_more(&ticks, 2).context("two of three")
}
