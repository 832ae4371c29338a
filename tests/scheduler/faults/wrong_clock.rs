//! A member whose wall clock differs from that of the others. Leases and owners do not depend on it;
//! due times are compared with the owner's.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

use crate::members::Three;
use crate::processes::member::{Delivery, every, names, once};

/// Later than the calls by the clock that is ahead.
const LATER: Duration = Duration::from_secs(15);

#[rstest]
#[case::ahead(5)]
#[case::behind(-5)]
fn a_member_whose_clock_is_wrong_fires_its_own_jobs_by_it(#[case] ahead: i64) -> Result<()> {
    let mut three = Three::start_ahead(ahead)?;
    let jobs = names("job", 90);
    let due = runtime::clock::now() + LATER;
    three.schedule(&jobs, &once(&due.to_string()))?;
    let ticks = names("tick", 12);
    three.schedule(&ticks, &every("1s"))?;
    three.crowd.wait_for(&jobs, 1)?;
    three.crowd.wait_for(&ticks, 2)?;
    three.crowd.ensure_once(&jobs)?;
    let wrong = three.members[2].port;
    let seen: Vec<Delivery> = three.crowd.seen();
    let fired: Vec<&Delivery> = seen.iter().filter(|seen| jobs.contains(&seen.name)).collect();
    for delivery in &fired {
        let of_owner =
            if delivery.from == wrong { moved(delivery.at, ahead)? } else { delivery.at };
        ensure!(of_owner >= SystemTime::from(due), "{delivery:?} was due at {due}");
    }
    let own = fired.iter().filter(|delivery| delivery.from == wrong).count();
    ensure!((10..80).contains(&own), "it fired {own} of {}", jobs.len());

    // Its ticks go on by the clocks of the others, from where they were by its own.
    three.members[2].process.kill();
    three.crowd.wait_for_hosts(&three.members[..2], 2)?;
    three.crowd.wait_for_more(&ticks, 2)
}

/// A time by a clock that is so many seconds ahead.
fn moved(at: SystemTime, ahead: i64) -> Result<SystemTime> {
    let by = Duration::from_secs(ahead.unsigned_abs());
    let moved = if ahead < 0 { at.checked_sub(by) } else { at.checked_add(by) };
    moved.context("a time")
}
