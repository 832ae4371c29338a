//! The machine and the versions that figures belong to.

use std::{fs, path::Path, thread};

use blackbox::tools;
use serde::{Deserialize, Serialize};

/// Machine and versions of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The day of the run, UTC.
    pub date: String,
    /// The processor's name.
    pub processor: String,
    /// Number of usable cores.
    pub cores: usize,
    /// Memory in gigabytes of 1,000,000,000 bytes.
    pub memory_gigabytes: u64,
    /// The kernel.
    pub kernel: String,
    /// Our version.
    pub trilby: String,
    /// The reference's version, or the folder of the baseline.
    pub reference: String,
    /// The API server's version.
    pub kubernetes: String,
}

impl Machine {
    /// The machine of a run and the day, as both pages begin with them.
    pub fn words(&self) -> String {
        let Self { date, processor, cores, memory_gigabytes, kernel, .. } = self;
        format!("{date}: {processor} ({cores} cores), {memory_gigabytes} GB, Linux {kernel}.")
    }

    /// This machine, now.
    pub fn of_this_run(baseline: Option<&Path>) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        Self {
            date: runtime::clock::now().strftime("%Y-%m-%d").to_string(),
            processor: value(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gigabytes: memory_gigabytes(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            trilby: env!("CARGO_PKG_VERSION").to_owned(),
            reference: baseline.map_or_else(
                || tools::DAPR.trim_start_matches('v').to_owned(),
                |folder| folder.display().to_string(),
            ),
            kubernetes: tools::KUBERNETES.trim_start_matches('v').to_owned(),
        }
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn memory_gigabytes(meminfo: &str) -> u64 {
    let kibibytes = value(meminfo, "MemTotal").and_then(|v| v.split_whitespace().next());
    let kibibytes: u64 = kibibytes.and_then(|number| number.parse().ok()).unwrap_or(0);
    (kibibytes * 1024).div_euclid(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_files_of_the_kernel() {
        assert_eq!(value("a: 1\nmodel name\t: Fast CPU\n", "model name"), Some("Fast CPU"));
        assert_eq!(memory_gigabytes("MemTotal:       24000000 kB\n"), 24);
        assert_eq!(memory_gigabytes(""), 0);
    }
}
