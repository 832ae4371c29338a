//! Jobs that are scheduled while members fail, and the oracle that knows which must be delivered.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use super::member::{Crowd, Delivery, once};

/// From the call to the due time of a job.
const AHEAD: Duration = Duration::from_secs(2);
/// How much earlier Dapr's own scheduler may deliver a job: seen of 1.18.3, 80 µs under load.
pub(crate) const DAPR_EARLY: Duration = Duration::from_micros(500);
/// The pause between two calls to one member.
const PAUSE: Duration = Duration::from_millis(250);

/// A job that a member has accepted.
struct Accepted {
    name: String,
    due: SystemTime,
}

/// Schedules jobs at each of these ports while `faults` runs, then waits until each accepted one was
/// delivered; fails when one was delivered more than `early` before its due time.
pub(crate) fn under_load(
    crowd: &Crowd,
    ports: &[u16],
    early: Duration,
    faults: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (stop, accepted) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let outcome = thread::scope(|scope| {
        for port in ports {
            scope.spawn(|| schedule(crowd, *port, &stop, &accepted));
        }
        let outcome = faults();
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    outcome?;
    check(crowd, &accepted.into_inner().unwrap(), early)
}

fn schedule(crowd: &Crowd, port: u16, stop: &AtomicBool, accepted: &Mutex<Vec<Accepted>>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (name, due) = (format!("load-{port}-{number:04}"), runtime::clock::now() + AHEAD);
        // A member that fails refuses calls; what it did not accept may be lost.
        if crowd.schedule(port, &name, once(&due.to_string())).is_ok() {
            accepted.lock().unwrap().push(Accepted { name, due: due.into() });
        }
        thread::sleep(PAUSE);
    }
}

fn check(crowd: &Crowd, accepted: &[Accepted], early: Duration) -> Result<()> {
    ensure!(accepted.len() > 10, "only {} jobs were accepted", accepted.len());
    let names: Vec<String> = accepted.iter().map(|job| job.name.clone()).collect();
    crowd.wait_for(&names, 1).context("lost jobs")?;
    let seen = crowd.seen();
    for job in accepted {
        let too_early = |seen: &&Delivery| seen.name == job.name && seen.at + early < job.due;
        let found = seen.iter().find(too_early);
        ensure!(found.is_none(), "{found:?} was due at {:?}", job.due);
    }
    Ok(())
}
