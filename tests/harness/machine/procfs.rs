//! Facts about other processes, from `/proc`. Source: proc(5).

use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::Pid;

/// The child of a process that runs a program of this name; `None` when there is none.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn child_of(parent: Pid, name: &str) -> Result<Option<Pid>> {
    for entry in fs::read_dir("/proc")? {
        // A process may end meanwhile.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else { continue };
        if is_child(&status, parent, name) {
            let pid = field(&status, "Pid").and_then(|pid| pid.parse().ok());
            return Ok(pid.and_then(Pid::from_raw));
        }
    }
    Ok(None)
}

/// The most resident memory that a process ever had, in bytes.
///
/// # Errors
/// When it is gone.
pub fn peak_memory(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    peak_of(&status).context("no VmHWM in its status")
}

fn is_child(status: &str, parent: Pid, name: &str) -> bool {
    let parent = parent.as_raw_nonzero().to_string();
    field(status, "PPid") == Some(parent.as_str()) && field(status, "Name") == Some(name)
}

fn peak_of(status: &str) -> Option<u64> {
    let kibibytes: u64 = field(status, "VmHWM")?.strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(own, value)| (own == name).then_some(value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tetcd\nPid:\t12\nPPid:\t7\nVmHWM:\t    2048 kB\n";

    #[test]
    fn a_child_is_known_by_its_parent_and_its_name() {
        let is = |parent, name| is_child(STATUS, Pid::from_raw(parent).unwrap(), name);
        assert!(is(7, "etcd"));
        assert!(!is(12, "etcd") && !is(7, "etc"));
    }

    #[test]
    fn a_peak_is_in_bytes() {
        assert_eq!(peak_of(STATUS), Some(2 << 20));
        assert_eq!(peak_of("Name:\tkthreadd\n"), None);
    }
}
