//! Scenario `scheduler-members`: three members on an etcd, of which one is restarted and one killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use blackbox::Service;
use blackbox::progress::say;
use futures::future::try_join_all;
use runtime::clock::{monotonic, now};

use super::{Fixture, accounts, delivered, each, milliseconds, number, prepared};
use crate::clients::delivery_log::DeliveryLog;
use crate::clients::gap_log::{GapLog, Pause};
use crate::clients::job_streams::{JobStreams, Log};
use crate::clients::jobs::{Calls, Due, Load, Record, hosts};
use crate::clients::load;
use crate::clients::tick_log::PERIOD;
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::test_env::Running;
use crate::environment::usage::{self, megabytes};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Numbers of jobs, and tenths of them, are divisible by it.
const MEMBERS: usize = 3;
/// Of each member.
const CALLERS: usize = 21;
/// Far jobs that are scheduled, which the store keeps.
const FAR: usize = 21_000;
/// Jobs in a second that are due at once.
const RATE: u32 = 200;
/// Recurring jobs.
const TICKS: usize = 900;
/// Jobs that are due once, while a member is restarted or gone.
const SHOTS: usize = 1_800;
/// The time over which they are due, and how far ahead the first is.
const SPREAD: Duration = Duration::from_secs(12);
const AHEAD: Duration = Duration::from_secs(3);
/// After the last recurring job has its rhythm again.
const QUIET: Duration = Duration::from_secs(3);
/// Interval between looks at members and logs.
const LOOK: Duration = Duration::from_millis(20);
/// Time limit for members to agree, and for jobs to be delivered.
const LIMIT: Duration = Duration::from_mins(2);

/// Three members: latency, memory, and what a change of the members costs.
#[derive(Debug)]
pub struct SchedulerMembers;

impl Scenario for SchedulerMembers {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-members",
            about: "Three schedulers, each with its part of an etcd: inside the reference, a child \
                 of ours. Each has 3 streams that acknowledge at once, and 21 callers: 21,000 jobs \
                 due in 24 hours, as fast as they are answered; 200 jobs a second due at once, for \
                 5 s; 900 jobs `@every 1s`. Then a member whose etcd does not lead is stopped as \
                 Kubernetes does and started again; then one is killed. Pause: the longest time \
                 between two deliveries of a recurring job, less its second, of the jobs that this \
                 member had, and of all others. Lost and twice: of 1,800 jobs that are due once, \
                 over 12 s that begin 3 s before",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        prepared(programs, size, measure)
    }
}

fn measure(fixture: &Fixture, side: Side, _: bool) -> Result<Vec<Reading>> {
    let mut team = Team {
        fixture,
        side,
        members: Scheduler::members(&fixture.programs, side, MEMBERS)?,
        ticks: Arc::new(GapLog::new(fixture.size.pick(TICKS, TICKS / 10))),
        streams: Vec::new(),
    };
    team.wait_for_hosts(MEMBERS)?;
    let mut readings = fixture.runtime.block_on(async {
        let mut readings = team.schedule().await?;
        readings.extend(team.oneshots().await?);
        readings.extend(team.begin_ticks().await?);
        anyhow::Ok(readings)
    })?;
    readings.extend(team.memory()?);
    readings.extend(team.restart_one()?);
    readings.extend(team.kill_one()?);
    Ok(readings)
}

/// The members, and the streams of the recurring jobs.
struct Team<'a> {
    fixture: &'a Fixture,
    side: Side,
    members: Vec<Scheduler>,
    ticks: Arc<GapLog>,
    streams: Vec<JobStreams>,
}

impl Team<'_> {
    /// The members that run, by their numbers.
    fn running(&self) -> impl Iterator<Item = (usize, &Running)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(number, member)| Some((number, member.running().ok()?)))
    }

    async fn calls(&self) -> Result<Vec<Calls>> {
        try_join_all(
            self.running().map(|(_, running)| async { Calls::open(&running.address()).await }),
        )
        .await
    }

    /// Streams of an app to each member.
    async fn open(&self, app: &str, log: impl Fn(usize) -> Log) -> Result<Vec<JobStreams>> {
        let open = |(number, running)| JobStreams::open(running, app, log(number));
        try_join_all(self.running().map(open)).await
    }

    fn wait_for_hosts(&self, count: usize) -> Result<()> {
        let addresses: Vec<_> = self.running().map(|(_, running)| running.address()).collect();
        self.fixture.runtime.block_on(async {
            for address in addresses {
                until(&format!("{count} hosts at {address}"), async || {
                    hosts(&address).await == Some(count)
                })
                .await?;
            }
            Ok(())
        })
    }

    /// Callers of all members, each of which schedules a part of the jobs.
    fn callers(calls: &[Calls], app: &str, jobs: usize, due: &Due, record: &Record) -> Callers {
        let part = jobs / MEMBERS;
        let of_member = |(number, calls): (usize, &Calls)| {
            let numbers = number * part..(number + 1) * part;
            calls.callers(CALLERS, &Load::new(app, numbers, due.clone(), record.clone()))
        };
        calls.iter().enumerate().flat_map(of_member).collect()
    }

    async fn schedule(&self) -> Result<Vec<Reading>> {
        let count = self.fixture.size.pick(FAR, FAR / 10);
        let calls = self.calls().await?;
        let callers = Self::callers(&calls, "far", count, &Due::far(), &Record::Nothing);
        let outcome = load::closed(callers, Duration::ZERO, LIMIT).await?;
        Ok(outcome.readings("schedule"))
    }

    async fn oneshots(&self) -> Result<Vec<Reading>> {
        let measured = self.fixture.size.pick(Duration::from_secs(5), Duration::from_secs(1));
        // Any caller may serve all slots.
        let slots = usize::try_from(RATE * u32::try_from(measured.as_secs())?)?;
        let jobs = MEMBERS * CALLERS * slots;
        let log = Arc::new(DeliveryLog::new(jobs));
        let streams = self.open("oneshot", |_| Log::Deliveries(log.clone())).await?;
        let calls = self.calls().await?;
        let record = Record::Log(log.clone());
        let callers = Self::callers(&calls, "oneshot", jobs, &Due::now(), &record);
        let outcome = load::open(callers, f64::from(RATE), measured).await?;
        if let Err(error) = delivered(&log, outcome.answered(), LIMIT).await {
            say(format_args!("{}: one-shot: {error:#}", self.side.name()));
        }
        drop(streams);
        let latencies = log.latencies()?;
        let quantile = |share| milliseconds(latencies.value_at_quantile(share));
        let mut readings = vec![
            Reading::new("one-shot: p50", Unit::Milliseconds, quantile(0.5)),
            Reading::new("one-shot: p99", Unit::Milliseconds, quantile(0.99)),
            Reading::new("one-shot: errors", Unit::Count, number(outcome.failed())),
        ];
        readings.extend(accounts("one-shot", log.deliveries()));
        Ok(readings)
    }

    /// Schedules the recurring jobs; processor time for each tick.
    async fn begin_ticks(&mut self) -> Result<Vec<Reading>> {
        let count = self.fixture.size.pick(TICKS, TICKS / 10);
        let window = self.fixture.size.pick(Duration::from_secs(5), Duration::from_secs(1));
        let log = self.ticks.clone();
        self.streams = self.open("ticks", |number| Log::Gaps(log.clone(), number)).await?;
        let due = Due::EverySecond(spread(now() + AHEAD, PERIOD, count));
        let calls = self.calls().await?;
        let callers = Self::callers(&calls, "ticks", count, &due, &Record::Nothing);
        let outcome = load::closed(callers, Duration::ZERO, LIMIT).await?;
        ensure!(outcome.failed() == 0, "calls failed: {:?}", outcome.errors());
        let begun = monotonic();
        until("every job to tick", async || self.ticks.all_since(begun)).await?;
        let before = self.cpu()?;
        tokio::time::sleep(window).await;
        let cpu = self.cpu()?.saturating_sub(before);
        let ticks = u64::try_from(count)? * window.as_secs();
        Ok(vec![Reading::new("ticks: CPU per tick", Unit::CpuMilliseconds, each(cpu, ticks))])
    }

    /// The processes of a member: the scheduler, and its etcd if it is another process.
    fn processes(&self, running: &Running) -> Result<(i32, Option<i32>)> {
        let etcd = match self.side {
            Side::Reference => None,
            Side::Trilby | Side::Baseline => Some(running.child("etcd")?),
        };
        Ok((running.pid(), etcd))
    }

    fn cpu(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for (_, running) in self.running() {
            let (scheduler, etcd) = self.processes(running)?;
            sum += usage::cpu(scheduler)?;
            sum += etcd.map_or(Ok(Duration::ZERO), usage::cpu)?;
        }
        Ok(sum)
    }

    /// Memory of a member: the mean of all.
    fn memory(&self) -> Result<Vec<Reading>> {
        let (mut schedulers, mut etcds) = (0, 0);
        for (_, running) in self.running() {
            let (scheduler, etcd) = self.processes(running)?;
            schedulers += usage::memory(scheduler)?.rss;
            if let Some(etcd) = etcd {
                etcds += usage::memory(etcd)?.rss;
            }
        }
        let mean = |sum: u64| megabytes(sum / MEMBERS as u64);
        let reading = |what: &str, sum| Reading::new(what, Unit::Megabytes, mean(sum));
        let mut readings = vec![reading("scheduler and etcd: RSS", schedulers + etcds)];
        if etcds > 0 {
            readings.push(reading("scheduler: RSS", schedulers));
            readings.push(reading("etcd: RSS", etcds));
        }
        Ok(readings)
    }

    /// A member whose etcd does not lead: an election would stop the others too.
    fn follower(&self) -> Result<usize> {
        for (number, member) in self.members.iter().enumerate().rev() {
            if !member.leads()? {
                return Ok(number);
            }
        }
        bail!("every etcd leads")
    }

    fn restart_one(&mut self) -> Result<Vec<Reading>> {
        let victim = self.follower()?;
        let shots = self.shots("restarted")?;
        let parts = self.ticks.begin(victim);
        self.member(victim)?.stop()?;
        self.member(victim)?.restart()?;
        self.wait_for_hosts(MEMBERS)?;
        let ticks = self.ticks.clone();
        self.wait("it to have jobs again", || ticks.jobs_of(victim) > 0)?;
        self.settle(monotonic())?;
        let mut readings = pauses("restarted", self.ticks.pauses(&parts));
        readings.extend(self.account("restarted", shots));
        Ok(readings)
    }

    fn kill_one(&mut self) -> Result<Vec<Reading>> {
        let victim = self.follower()?;
        let shots = self.shots("killed")?;
        self.member(victim)?.kill();
        let killed = monotonic();
        let parts = self.ticks.begin(victim);
        self.settle(killed)?;
        self.wait_for_hosts(MEMBERS - 1)?;
        let mut readings = pauses("killed", self.ticks.pauses(&parts));
        readings.extend(self.account("killed", shots));
        Ok(readings)
    }

    fn member(&mut self, number: usize) -> Result<&mut Scheduler> {
        self.members.get_mut(number).context("a member")
    }

    /// Schedules jobs that are due once; their log, and their streams.
    fn shots(&self, app: &str) -> Result<Shots> {
        let count = self.fixture.size.pick(SHOTS, SHOTS / 10);
        let log = Arc::new(DeliveryLog::new(count));
        let streams = self.fixture.runtime.block_on(async {
            let streams = self.open(app, |_| Log::Deliveries(log.clone())).await?;
            let due = Due::At(spread(now() + AHEAD, SPREAD, count));
            let (calls, record) = (self.calls().await?, Record::Log(log.clone()));
            let callers = Self::callers(&calls, app, count, &due, &record);
            let outcome = load::closed(callers, Duration::ZERO, LIMIT).await?;
            ensure!(outcome.failed() == 0, "calls failed: {:?}", outcome.errors());
            anyhow::Ok(streams)
        })?;
        Ok(Shots { log, count, streams })
    }

    fn account(&self, what: &str, shots: Shots) -> [Reading; 2] {
        let Shots { log, count, streams } = shots;
        let all = delivered(&log, count as u64, LIMIT);
        if let Err(error) = self.fixture.runtime.block_on(all) {
            say(format_args!("{}: {what}: {error:#}", self.side.name()));
        }
        drop(streams);
        accounts(what, log.deliveries())
    }

    /// Waits until every recurring job has ticked after that time, and a while longer.
    fn settle(&self, since: Instant) -> Result<()> {
        let ticks = self.ticks.clone();
        self.wait("every job to tick again", || ticks.all_since(since))?;
        std::thread::sleep(QUIET);
        Ok(())
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) -> Result<()> {
        self.fixture.runtime.block_on(until(what, async || is_so()))
    }
}

type Callers = Vec<crate::clients::jobs::Scheduling>;

/// Jobs that are due once.
struct Shots {
    log: Arc<DeliveryLog>,
    count: usize,
    streams: Vec<JobStreams>,
}

fn pauses(what: &str, [own, others]: [Pause; 2]) -> Vec<Reading> {
    let pause = |whose: &str, pause: Pause| {
        let longest = usage::milliseconds(pause.longest);
        Reading::new(format!("{what}: pause of {whose} jobs"), Unit::Milliseconds, longest)
    };
    vec![
        pause("its", own),
        pause("other", others),
        Reading::new(format!("{what}: its jobs"), Unit::Amount, number(own.jobs as u64)),
    ]
}

/// The instants of so many jobs, spread evenly.
fn spread(
    first: jiff::Timestamp,
    over: Duration,
    count: usize,
) -> Arc<dyn Fn(usize) -> String + Send + Sync> {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    Arc::new(move |job| {
        let job = u32::try_from(job).unwrap_or(u32::MAX);
        (first + over.saturating_mul(job) / count).to_string()
    })
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) -> Result<()> {
    let begin = monotonic();
    while !is_so().await {
        ensure!(begin.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_spread_evenly() {
        let instants = spread(jiff::Timestamp::UNIX_EPOCH, Duration::from_secs(12), 24);
        assert_eq!(instants(0), "1970-01-01T00:00:00Z");
        assert_eq!(instants(3), "1970-01-01T00:00:01.5Z");
        assert_eq!(instants(24), "1970-01-01T00:00:12Z");
    }
}
