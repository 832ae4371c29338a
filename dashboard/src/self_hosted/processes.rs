//! The sidecars among the processes of this machine, from `/proc` of Linux.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use jiff::{Timestamp, ToSpan as _};

use crate::model::process::{MAX_COMMAND_BYTES, Process, Sidecar};

const PROC: &str = "/proc";
/// Ticks of `/proc/PID/stat` in a second: 100 for user space on all architectures.
const TICKS_PER_SECOND: i64 = 100;
/// Bytes that are read of the other files; the environment of a process may be larger than that, and
/// its namespace is then unknown.
const MAX_BYTES: usize = 256 * 1024;

/// The sidecars that the user of this process may see, as `dapr list` finds them.
pub(super) fn sidecars() -> Vec<Sidecar> {
    let boot = fs::read_to_string(Path::new(PROC).join("stat")).ok();
    let boot = boot.and_then(|stat| boot_time(&stat));
    let entries = fs::read_dir(PROC).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| sidecar(id, boot)).collect()
}

/// `None` also for a process that ends meanwhile.
fn sidecar(id: u32, boot: Option<Timestamp>) -> Option<Sidecar> {
    let folder = Path::new(PROC).join(id.to_string());
    let command = read(&folder.join("cmdline"), MAX_COMMAND_BYTES)?;
    let without =
        Process { id, command: &command, environment: b"", folder: &folder, started: None };
    Sidecar::read(&without)?; // other processes are not read further
    let environment = read(&folder.join("environ"), MAX_BYTES).unwrap_or_default();
    let stat = read(&folder.join("stat"), MAX_BYTES).unwrap_or_default();
    Sidecar::read(&Process {
        environment: &environment,
        folder: &fs::read_link(folder.join("cwd")).unwrap_or_default(),
        started: boot.and_then(|boot| started(&String::from_utf8_lossy(&stat), boot)),
        ..without
    })
}

fn read(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).ok()?.saturating_add(1);
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= limit).then_some(bytes)
}

/// When the machine started, from `/proc/stat`.
fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

/// When a process started, from `/proc/PID/stat`. The name, field 2, may contain anything, even
/// brackets; the start is field 22.
fn started(stat: &str, boot: Timestamp) -> Option<Timestamp> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: i64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    boot.checked_add((ticks / TICKS_PER_SECOND).seconds()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_read_whatever_its_name() {
        let boot = boot_time("cpu 1 2\nbtime 1000\nprocesses 7\n").unwrap();
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 4 0 500 1 1";
        assert_eq!(started(stat, boot).unwrap().as_second(), 1005);
        assert_eq!(started("7 (short) S 1", boot), None);
    }

    #[test]
    fn a_file_of_the_limit_is_read_and_one_byte_more_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let of = |bytes: usize| {
            fs::write(&path, vec![b'a'; bytes]).unwrap();
            read(&path, MAX_BYTES).is_some()
        };
        assert!(of(MAX_BYTES));
        assert!(!of(MAX_BYTES + 1));
    }
}
