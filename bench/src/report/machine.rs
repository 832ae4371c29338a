//! The machine and the versions that figures belong to.

use std::path::Path;
use std::process::Command;
use std::{fs, thread};

use blackbox::{environment, tools};
use serde::{Deserialize, Serialize};

/// Machine and versions of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The day of the run, UTC.
    pub date: String,
    /// The commit of our programs, short; empty if git does not know it.
    #[serde(default)] // absent in older reports
    pub commit: String,
    /// The processor's name.
    pub processor: String,
    /// Number of usable cores.
    pub cores: usize,
    /// Memory in gigabytes of 1,000,000,000 bytes.
    pub memory_gigabytes: u64,
    /// Release of Linux, as `uname -r` says it.
    pub kernel: String,
    /// Our version.
    pub trilby: String,
    /// The reference's version, or the folder of the baseline.
    pub reference: String,
    /// The API server's version.
    pub kubernetes: String,
}

impl Machine {
    /// The day, the commit and the machine of a run, as both pages begin with them.
    pub fn words(&self) -> String {
        let Self { date, commit, .. } = self;
        let commit = if commit.is_empty() { String::new() } else { format!(", commit {commit}") };
        format!("{date}{commit}: {}.", self.hardware())
    }

    /// What runs of one machine have in common.
    pub fn hardware(&self) -> String {
        let Self { processor, cores, memory_gigabytes, kernel, .. } = self;
        format!("{processor} ({cores} cores), {memory_gigabytes} GB, Linux {kernel}")
    }

    /// This machine, now.
    pub fn of_this_run(baseline: Option<&Path>) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        Self {
            date: runtime::clock::now().strftime("%Y-%m-%d").to_string(),
            commit: commit().unwrap_or_default(),
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

/// The run that figures are from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its machine, day and versions.
    pub machine: Machine,
    /// Rounds of each side.
    pub rounds: u32,
    /// Cargo's profile of our programs.
    pub profile: String,
}

impl Origin {
    /// How this run differs from the one that a page describes at its beginning: its day always, for a
    /// day means a run, and what else is not the same.
    pub fn beside(&self, other: &Self) -> String {
        let (machine, others) = (&self.machine, &other.machine);
        let mut words = vec![machine.date.clone()];
        if machine.commit != others.commit && !machine.commit.is_empty() {
            words.push(format!("commit {}", machine.commit));
        }
        if machine.hardware() != others.hardware() {
            words.push(machine.hardware());
        }
        for (what, here, there) in [
            ("Trilby", &machine.trilby, &others.trilby),
            ("reference", &machine.reference, &others.reference),
            ("Kubernetes", &machine.kubernetes, &others.kubernetes),
            ("profile", &self.profile, &other.profile),
        ] {
            if here != there && !here.is_empty() {
                words.push(format!("{what} {here}"));
            }
        }
        if self.rounds != other.rounds {
            words.push(format!("rounds: {}", self.rounds));
        }
        words.join(", ")
    }
}

fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(environment::workspace()).args([
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
    ]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
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
