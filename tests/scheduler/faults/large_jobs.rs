//! Jobs of megabytes, from many callers: one list has them all, and neither costs much memory.

use anyhow::{Context as _, Result, ensure};
use blackbox::procfs::peak_memory;

use crate::processes::Scheduler;
use crate::processes::member::{Crowd, names, once};

const JOBS: usize = 100;
const BYTES: usize = 2 << 20;
const CALLERS: usize = 10;
/// What the process may add to its memory for lists: half of what one has. The store still rewrites
/// its files meanwhile.
const MEMORY: u64 = (JOBS * BYTES / 2) as u64;

#[test]
fn a_list_of_many_large_jobs_is_complete_and_takes_little_memory() -> Result<()> {
    let scheduler = Scheduler::start();
    let crowd = Crowd::start(&[scheduler.port])?;
    let large = |number: usize| {
        let mut job = once("24h");
        job.data.get_or_insert_default().value = vec![u8::try_from(number).unwrap_or(0); BYTES];
        job
    };
    let jobs = names("large", JOBS);
    let load = jobs.iter().cloned().enumerate().map(|(number, name)| (name, large(number)));
    crowd.schedule_all(scheduler.port, CALLERS, load)?;
    let before = peak_memory(scheduler.process.pid())?;
    let listed = crowd.list(scheduler.port)?;
    ensure!(listed.len() == JOBS, "{} of {JOBS} jobs", listed.len());
    for (number, (found, name)) in listed.iter().zip(&jobs).enumerate() {
        let data = found.job.as_ref().and_then(|job| job.data.as_ref()).context("data")?;
        ensure!(found.name == *name, "{} in the place of {name}", found.name);
        let whole = data.value.len() == BYTES;
        ensure!(whole && usize::from(data.value[0]) == number, "{name} has other data");
    }
    let grown = peak_memory(scheduler.process.pid())?.saturating_sub(before);
    ensure!(grown < MEMORY, "lists took {grown} bytes");
    Ok(())
}
