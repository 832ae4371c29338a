//! What a process holds, and whether it holds more and more.

use std::num::NonZeroI32;
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context as _, Result};

/// Rounds that a judgement needs.
pub(super) const MIN_ROUNDS: usize = 12;
/// Growth of resident memory that the allocator explains.
const MEMORY_KIB: f64 = 8.0 * 1024.0;
/// The same as a part of what is held.
const MEMORY_SHARE: f64 = 0.1;
/// Connections that happen to be open.
const DESCRIPTORS: f64 = 16.0;
/// Threads that the runtime starts and ends on demand.
const THREADS: f64 = 4.0;
/// Milliseconds by which a busy machine delays a change.
const LAG_MS: f64 = 2_000.0;

/// One process after one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Resident memory.
    memory_kib: u32,
    descriptors: u32,
    threads: u32,
    /// From a change to its effect in this round, in milliseconds.
    lag_ms: u32,
}

impl Sample {
    /// Measures a process.
    pub(super) fn of(pid: NonZeroI32, lag: Duration) -> Result<Self> {
        let folder = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let field = |name: &str| -> Result<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            Ok(value.with_context(|| format!("no {name} in {folder}/status"))?.parse()?)
        };
        let descriptors = u32::try_from(fs::read_dir(format!("{folder}/fd"))?.count())?;
        let lag_ms = u32::try_from(lag.as_millis())?;
        Ok(Self { memory_kib: field("VmRSS:")?, descriptors, threads: field("Threads:")?, lag_ms })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_kib, descriptors, threads, lag_ms } = self;
        write!(f, "{memory_kib} KiB, {descriptors} descriptors, {threads} threads, lag {lag_ms} ms")
    }
}

/// What grows over the samples, in words. The first quarter warms up and is left out.
pub(super) fn grown(samples: &[Sample]) -> Vec<String> {
    let steady = samples.get(samples.len() / 4..).unwrap_or_default();
    let mut complaints = Vec::new();
    let mut judge = |what: &str, of: fn(&Sample) -> u32, share: f64, slack: f64| {
        let values: Vec<f64> = steady.iter().map(|sample| of(sample).into()).collect();
        let Fit { start, growth } = Fit::of(&values);
        if growth > slack + share * start {
            complaints.push(format!("{what} grew from {start:.0} to {:.0}", start + growth));
        }
    };
    judge("memory (KiB)", |s| s.memory_kib, MEMORY_SHARE, MEMORY_KIB);
    judge("descriptors", |s| s.descriptors, 0.0, DESCRIPTORS);
    judge("threads", |s| s.threads, 0.0, THREADS);
    judge("lag (ms)", |s| s.lag_ms, 1.0, LAG_MS);
    complaints
}

/// A line through values at equal distances: the median of the slopes between all pairs (Theil and
/// Sen), on which neither single peaks nor one step weigh.
#[derive(Debug, PartialEq)]
struct Fit {
    /// The value at the first sample.
    start: f64,
    /// The difference between first and last.
    growth: f64,
}

impl Fit {
    fn of(values: &[f64]) -> Self {
        let numbered: Vec<(f64, f64)> =
            (0_u32..).map(f64::from).zip(values.iter().copied()).collect();
        let mut slopes = Vec::new();
        for (index, (x, y)) in numbered.iter().enumerate() {
            let later = numbered.iter().skip(index + 1);
            slopes.extend(later.map(|(later_x, later_y)| (later_y - y) / (later_x - x)));
        }
        let slope = median(slopes);
        let start = median(numbered.iter().map(|(x, y)| y - slope * x).collect());
        let last = numbered.last().map_or(0.0, |(x, _)| *x);
        Self { start, growth: slope * last }
    }
}

/// 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory_kib: impl Fn(u32) -> u32, descriptors: impl Fn(u32) -> u32) -> Vec<Sample> {
        let sample = |n| Sample {
            memory_kib: memory_kib(n),
            descriptors: descriptors(n),
            threads: 8,
            lag_ms: 1_000,
        };
        (0..40).map(sample).collect()
    }

    #[test]
    fn a_process_that_warms_up_and_sways_does_not_grow() {
        let flat = samples(|n| if n < 10 { n * 1_000 } else { 20_000 + n % 3 * 2_000 }, |n| n % 7);
        assert_eq!(grown(&flat), Vec::<String>::new());
    }

    #[test]
    fn one_step_and_single_peaks_are_no_growth() {
        let step =
            samples(|n| if n < 12 { 20_000 } else { 40_000 }, |n| if n % 9 == 0 { 90 } else { 9 });
        assert_eq!(grown(&step), Vec::<String>::new());
    }

    #[test]
    fn a_leak_is_named() {
        let leaks = samples(|n| 20_000 + n * 1_000, |_| 10);
        assert_eq!(grown(&leaks), ["memory (KiB) grew from 30000 to 59000"]);
        let noisy = samples(|_| 20_000, |n| 10 + n + n % 5);
        assert_eq!(grown(&noisy).len(), 1, "{:?}", grown(&noisy));
        let threads = |n: u32| Sample { threads: 8 + n / 4, ..Sample::default() };
        assert_eq!(grown(&(0..40).map(threads).collect::<Vec<_>>()).len(), 1);
        let lag = |n: u32| Sample { lag_ms: 500 + n * 200, ..Sample::default() };
        assert_eq!(grown(&(0..40).map(lag).collect::<Vec<_>>()).len(), 1);
    }

    #[test]
    fn growth_within_the_slack_is_accepted_and_one_more_is_not() {
        // 29 steps between the samples that count.
        let allowed = samples(|_| 20_000, |n| 10 + n * 16 / 29);
        assert_eq!(grown(&allowed), Vec::<String>::new());
        let exact = |last: u32| Fit::of(&[0.0, f64::from(last) / 2.0, last.into()]).growth;
        assert!(exact(16) <= DESCRIPTORS && exact(17) > DESCRIPTORS);
    }

    #[test]
    fn nothing_is_measured_of_no_samples() {
        assert_eq!(grown(&[]), Vec::<String>::new());
        assert_eq!(Fit::of(&[]), Fit { start: 0.0, growth: 0.0 });
    }

    #[test]
    fn a_process_is_measured() {
        let pid = NonZeroI32::try_from(i32::try_from(std::process::id()).unwrap()).unwrap();
        let sample = Sample::of(pid, Duration::from_millis(7)).unwrap();
        assert!(sample.memory_kib > 100 && sample.descriptors > 0 && sample.threads > 0);
        assert_eq!(sample.lag_ms, 7);
    }
}
