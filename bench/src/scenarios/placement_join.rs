//! Scenario `placement-join`: hosts join a namespace, one is replaced, the leader of three replicas
//! is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::progress::say;
use blackbox::{Scratch, Service, environment};
use runtime::clock::monotonic;
use rustix::process::Signal;

use crate::clients::load;
use crate::clients::placement_hosts::Hosts;
use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, Start};
use crate::environment::usage::{kilobytes, megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::target::Target;

/// Time limit of each step, timeouts of rounds included.
const LIMIT: Duration = Duration::from_mins(1);
/// Number of replicas when the leader is lost.
const REPLICAS: usize = 3;
/// Number of hosts then.
const BEREFT: usize = 100;

/// Time until joining hosts have a table, and until a lost leader is replaced.
#[derive(Debug)]
pub struct PlacementJoin;

struct Joining {
    programs: Programs,
    folder: Scratch,
    /// How many hosts join, and in what time.
    shapes: Vec<(usize, Duration)>,
    runtime: tokio::runtime::Runtime,
}

impl Scenario for PlacementJoin {
    fn description(&self) -> Description {
        Description {
            name: "placement-join",
            about: "N hosts of one app with 3 actor types join one namespace, evenly within 2 or 5 \
                 seconds, and acknowledge at once, in plain text; then one leaves, and one is \
                 replaced. A side that has no common table within a minute has no figures. With 3 \
                 replicas and 100 hosts the leader is killed, and in another round stopped: time \
                 until the next leader locks, and until every host uses one table with all",
            services: &[Service::Placement],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Joining {
            programs: programs.clone(),
            folder: Scratch::new("bench")?,
            shapes: shapes(size),
            runtime: load::runtime()?,
        }))
    }

    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        let size = if target.quick { Size::Quick } else { Size::Full };
        let runtime = load::runtime()?;
        let mut readings = Vec::new();
        for (count, time) in shapes(size) {
            let mut hosts = Hosts::new(vec![target.address.clone()]);
            let measured = runtime.block_on(join(&mut hosts, count, time));
            readings.extend(or_none(measured, &target.address, count));
        }
        Ok(readings)
    }
}

/// How many hosts join, and in what time.
fn shapes(size: Size) -> Vec<(usize, Duration)> {
    let seconds = Duration::from_secs;
    let full = vec![(100, seconds(2)), (500, seconds(2)), (1_000, seconds(5)), (5_000, seconds(5))];
    size.pick(full, vec![(100, seconds(2))])
}

impl Prepared for Joining {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for (count, time) in self.shapes.clone() {
            readings.extend(or_none(self.join(side, count, time), side.name(), count));
        }
        for (what, signal) in [("killed", Signal::KILL), ("stopped", Signal::TERM)] {
            readings.extend(self.lose_leader(side, what, signal)?);
        }
        Ok(readings)
    }
}

impl Joining {
    fn start(&self, side: Side, name: &str, args: &[&str]) -> Result<Running> {
        let program = self.programs.path(side, Service::Placement)?;
        let name = format!("{}-{name}", side.name());
        Ok(Start::new(&name, Service::Placement, program, self.folder.path())?
            .args(args)
            .ready()?
            .0)
    }

    fn join(&self, side: Side, count: usize, time: Duration) -> Result<Vec<Reading>> {
        let port = environment::free_port()?;
        let alone = format!("--initial-cluster=dapr-placement-0=127.0.0.1:{port}");
        let server = self.start(side, "placement", &[&alone])?;
        let (before, cpu) = (server.memory()?.rss, server.cpu()?);
        let mut hosts = Hosts::new(vec![server.address()]);
        let mut readings = self.runtime.block_on(join(&mut hosts, count, time))?;
        let mut add = |what: &str, unit, value| {
            readings.push(Reading::new(format!("{count} hosts: {what}"), unit, value));
        };
        add("CPU", Unit::CpuMilliseconds, milliseconds(server.cpu()?.saturating_sub(cpu)));
        let rss = server.memory()?.rss;
        add("RSS", Unit::Megabytes, megabytes(rss));
        let each = rss.saturating_sub(before) / u64::try_from(count)?;
        add("RSS for each", Unit::Kilobytes, kilobytes(each));
        drop(hosts);
        server.stop()?;
        Ok(readings)
    }

    fn lose_leader(&self, side: Side, what: &str, signal: Signal) -> Result<Vec<Reading>> {
        let ports: Vec<u16> =
            (0..REPLICAS).map(|_| environment::free_port()).collect::<std::io::Result<_>>()?;
        let members: Vec<String> =
            ports.iter().enumerate().map(|(i, port)| format!("p{i}=127.0.0.1:{port}")).collect();
        let cluster = format!("--initial-cluster={}", members.join(","));
        let replicas: Vec<Running> = (0..REPLICAS)
            .map(|i| self.start(side, &format!("p{i}"), &[&format!("--id=p{i}"), &cluster]))
            .collect::<Result<_>>()?;
        let took = self.runtime.block_on(async {
            let mut hosts = Hosts::new(replicas.iter().map(Running::address).collect());
            let begin = monotonic();
            hosts.join(BEREFT, Duration::from_secs(1)).await;
            hosts.agreed(begin, LIMIT).await?;
            let leader = leader(&replicas)?;
            hosts.await_lock();
            let lost = monotonic();
            leader.process.signal(signal)?;
            let table = hosts.agreed(lost, LIMIT).await?;
            let lock = hosts.first_lock().context("a table without a lock")?;
            anyhow::Ok([lock, table.at].map(|at| at.saturating_duration_since(lost)))
        })?;
        for replica in replicas {
            // The lost one has ended already.
            replica.stop().ok();
        }
        let reading = |until: &str, took| {
            Reading::new(format!("leader {what}: {until}"), Unit::Milliseconds, milliseconds(took))
        };
        let [lock, table] = took;
        Ok(vec![
            reading("first lock of the next", lock),
            reading("every host uses the new table", table),
        ])
    }
}

/// The readings, or none when the server cannot serve so many hosts in time.
fn or_none(measured: Result<Vec<Reading>>, server: &str, count: usize) -> Vec<Reading> {
    measured.unwrap_or_else(|error| {
        say(format_args!("{server}: {count} hosts: {error:#}"));
        Vec::new()
    })
}

/// Hosts join, one of them leaves, and another is replaced.
async fn join(hosts: &mut Hosts, count: usize, time: Duration) -> Result<Vec<Reading>> {
    let begin = monotonic();
    hosts.join(count, time).await;
    let joined = monotonic();
    let table = hosts.agreed(begin, LIMIT).await?;
    let late = table.at.saturating_duration_since(joined);
    let (rounds, sent, longest) = (hosts.rounds(), hosts.bytes(), hosts.longest_lock());

    let left = monotonic();
    hosts.leave();
    let without = hosts.agreed(left, LIMIT).await?;
    let leave = without.at.saturating_duration_since(left);

    let replaced = monotonic();
    hosts.leave();
    hosts.join(1, Duration::ZERO).await;
    let next = hosts.agreed(replaced, LIMIT).await?;
    let took = next.at.saturating_duration_since(replaced);
    let reading =
        |what: &str, unit, value| Reading::new(format!("{count} hosts: {what}"), unit, value);
    Ok(vec![
        reading("rounds", Unit::Count, number(rounds)),
        reading("table after the last join", Unit::Milliseconds, milliseconds(late)),
        reading("sent", Unit::Megabytes, megabytes(sent)),
        reading("longest lock", Unit::Milliseconds, milliseconds(longest)),
        reading("one leaves", Unit::Milliseconds, milliseconds(leave)),
        reading("one replaced", Unit::Milliseconds, milliseconds(took)),
        reading("streams lost", Unit::Count, number(hosts.lost())),
    ])
}

/// The replica that reports to be the leader.
fn leader(replicas: &[Running]) -> Result<&Running> {
    let leads = |r: &&Running| r.metric("dapr_placement_leader_status").is_ok_and(|v| v > 0.5);
    let found = replicas.iter().find(leads);
    ensure!(replicas.iter().filter(leads).count() == 1, "not exactly one leader");
    found.context("no leader")
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn number(count: u64) -> f64 {
    count as f64
}
