//! `cargo xtask soak`: all services with churn, and whether anything grows.
//!
//! [`churn`] changes Components, rollouts, sidecars, certificates and jobs, round by round. After
//! each round every service is measured; [`growth`] judges the measurements.

mod churn;
mod growth;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use blackbox::Deadline;
use blackbox::progress::say;
use clap::Args;

use churn::Fixture;
use growth::{MIN_ROUNDS, Sample, grown};

/// Rounds between two lines of progress.
const REPORT_EVERY: u64 = 20;

/// Runs all services with churn; fails when memory, descriptors, threads or the lag of watches grow.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Minutes of churn, without the start
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let fixture = Fixture::start()?;
    let end = Deadline::seconds(flags.minutes * 60);
    let mut samples: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
    let mut rounds = 0_u64;
    while !end.passed() {
        let lag = fixture.round(rounds)?;
        rounds += 1;
        for (service, pid) in fixture.services() {
            samples.entry(service).or_default().push(Sample::of(pid, lag)?);
        }
        if rounds % REPORT_EVERY == 1 {
            report(rounds, &samples);
        }
    }
    report(rounds, &samples);
    let mut complaints = Vec::new();
    for (service, samples) in &samples {
        let fewest = samples.len() >= MIN_ROUNDS;
        ensure!(
            fewest,
            "{rounds} rounds are too few to judge, {MIN_ROUNDS} are needed: raise --minutes"
        );
        complaints.extend(grown(samples).into_iter().map(|what| format!("{service}: {what}")));
    }
    ensure!(complaints.is_empty(), "what grows:\n  {}", complaints.join("\n  "));
    Ok(())
}

/// The first, the steady and the last sample of each service.
fn report(rounds: u64, samples: &BTreeMap<&'static str, Vec<Sample>>) {
    say(format!("{rounds} rounds"));
    for (service, samples) in samples {
        let at = |index: usize| samples.get(index).map(ToString::to_string).unwrap_or_default();
        say(format!("{service}: first {}", at(0)));
        say(format!("{service}: after a quarter {}", at(samples.len() / 4)));
        say(format!("{service}: last {}", at(samples.len().saturating_sub(1))));
    }
}
