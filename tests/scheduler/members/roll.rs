//! Members are stopped and started in order under load: each job is delivered once, although some
//! are on their way through an app whenever a member stops and whenever shards move.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::{soon, until};

use super::Three;
use crate::processes::member::{Crowd, Kind, once};

/// Jobs that are scheduled together.
const BATCH: u32 = 20;
/// The pause between the due times of two jobs.
const APART: Duration = Duration::from_millis(15);
/// From the call to the due time of the first of a batch.
const AHEAD: Duration = Duration::from_secs(1);
/// How long the app takes for a job.
const WORK: Duration = Duration::from_millis(100);

/// Schedules jobs until it is over; their names.
fn schedule(crowd: &Crowd, port: u16, round: usize, over: &AtomicBool) -> Result<Vec<String>> {
    let mut all = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let first = runtime::clock::now() + AHEAD;
        let batch = (0..BATCH).map(|number| {
            let name = format!("job-{round}-{:05}", all.len() + number as usize);
            (name, once(&(first + APART * number).to_string()))
        });
        let batch: Vec<_> = batch.collect();
        all.extend(batch.iter().map(|(name, _)| name.clone()));
        crowd.schedule_all(port, 4, batch)?;
        thread::sleep(APART * BATCH);
    }
    Ok(all)
}

#[test]
fn no_job_is_repeated_while_members_are_restarted_in_order_under_load() -> Result<()> {
    let mut three = Three::start()?;
    three.crowd.work_for(WORK);
    let Three { etcd, members, crowd } = &mut three;
    let mut jobs = Vec::new();
    for round in 0..3 {
        let (safe, over) = (members[(round + 1) % 3].port, AtomicBool::new(false));
        let scheduled = thread::scope(|scope| {
            let load = scope.spawn(|| schedule(crowd, safe, round, &over));
            let mut restart = || {
                let before = crowd.seen().len();
                until(soon(), "jobs to be due", || {
                    Ok((crowd.seen().len() > before + 10).then_some(()))
                })?;
                members[round].stop()?;
                members[round].restart(Kind::Ours)?;
                crowd.wait_for_hosts(&*members, 3)
            };
            let outcome = restart();
            over.store(true, Ordering::Relaxed);
            let scheduled = load.join().unwrap();
            outcome.and(scheduled)
        });
        jobs.extend(scheduled?);
    }
    ensure!(jobs.len() > 100, "{} jobs are too few", jobs.len());
    crowd.wait_for(&jobs, 1)?;
    until(soon(), "finished jobs to be deleted", || {
        Ok(etcd.keys("dapr/jobs/")?.is_empty().then_some(()))
    })?;
    crowd.ensure_once(&jobs)
}
