//! CPU time and memory of a process, from `/proc`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Ticks of `/proc/<pid>/stat` in a second. Linux has used 100 for user space on every
/// architecture we ship for.
const TICKS_PER_SECOND: f64 = 100.0;
/// Interval between samples of memory.
const POLL: Duration = Duration::from_millis(50);

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident memory: text, data, stacks (`VmRSS`).
    pub rss: u64,
    /// Anonymous resident memory: heap and stacks (`RssAnon`).
    pub anonymous: u64,
}

/// CPU time of a process: all threads, user and system.
///
/// # Errors
/// When it is gone.
pub fn cpu(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    parse_cpu(&stat).context("/proc/<pid>/stat is not as proc(5) says")
}

/// Current memory of a process.
///
/// # Errors
/// When it is gone.
pub fn memory(pid: i32) -> Result<Memory> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let field =
        |name| status_field(&status, name).with_context(|| format!("no {name} in its status"));
    Ok(Memory { rss: field("VmRSS:")?, anonymous: field("RssAnon:")? })
}

fn parse_cpu(stat: &str) -> Option<Duration> {
    // The name, field 2, may contain anything, even brackets; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND))
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

/// Samples the memory of a process to find its peak.
#[derive(Debug)]
pub struct Peak {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Memory>,
}

impl Peak {
    /// Starts sampling.
    pub fn watch(pid: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let watcher = thread::spawn(move || {
            let mut peak = Memory::default();
            while !seen.load(Ordering::Relaxed) {
                let Ok(now) = memory(pid) else { break };
                peak.rss = peak.rss.max(now.rss);
                peak.anonymous = peak.anonymous.max(now.anonymous);
                thread::sleep(POLL);
            }
            peak
        });
        Self { stop, watcher }
    }

    /// Stops sampling; the largest value of each kind.
    pub fn finish(self) -> Memory {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap_or_default()
    }
}

/// Bytes as megabytes of 1,000,000.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes as kilobytes of 1,000.
pub fn kilobytes(bytes: u64) -> f64 {
    megabytes(bytes) * 1e3
}

/// A duration in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_user_and_system_whatever_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 4 0 100 1 1";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_cpu("7 (short) S 1"), None);
    }

    #[test]
    fn memory_is_in_kibibytes() {
        let status = "Name:\tx\nVmRSS:\t   12 kB\nRssAnon:\t    3 kB\n";
        assert_eq!(status_field(status, "VmRSS:"), Some(12 * 1024));
        assert_eq!(status_field(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_a_peak() {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let peak = Peak::watch(pid);
        thread::sleep(POLL);
        assert!(peak.finish().rss > 0);
    }
}
