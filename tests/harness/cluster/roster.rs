//! Records the programs of a test cluster that outlives its command, so that a later command finds
//! exactly these and nothing else, even after a crash.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Deadline, Process, until};

/// Seconds until a program must have ended after SIGTERM.
const END_SECONDS: u64 = 10;

/// One line per program: its process id and start time.
#[derive(Debug)]
pub(crate) struct Roster {
    folder: PathBuf,
}

/// A recorded program.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) pid: Pid,
    started: u64,
}

impl Entry {
    /// Whether the same process still runs: ids are reused, start times are not.
    pub(crate) fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

impl Roster {
    pub(crate) fn new(state: &Path) -> Self {
        Self { folder: state.join("pids") }
    }

    /// Records a program that was just started.
    pub(crate) fn add(&self, process: &Process) -> Result<()> {
        let pid = process.pid();
        let started = start_time(pid).with_context(|| format!("{} is gone", process.name()))?;
        fs::create_dir_all(&self.folder)?;
        let line = format!("{} {started}\n", pid.as_raw_nonzero());
        fs::write(self.folder.join(process.name()), line)?;
        Ok(())
    }

    /// All recorded programs.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let Ok(files) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut entries: Vec<Entry> =
            files.flatten().filter_map(|file| parse(&file.path())).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Stops those with the names, or all: SIGTERM, then SIGKILL.
    pub(crate) fn stop(&self, names: Option<&[&str]>) -> Result<()> {
        let chosen = |entry: &Entry| names.is_none_or(|list| list.contains(&entry.name.as_str()));
        let entries: Vec<Entry> = self.entries().into_iter().filter(chosen).collect();
        for entry in entries.iter().filter(|entry| entry.is_running()) {
            let _ = kill_process(entry.pid, Signal::TERM);
        }
        let ended = || Ok((!entries.iter().any(Entry::is_running)).then_some(()));
        if until(Deadline::seconds(END_SECONDS), "the cluster's programs to end", ended).is_err() {
            for entry in entries.iter().filter(|entry| entry.is_running()) {
                let _ = kill_process(entry.pid, Signal::KILL);
            }
            until(Deadline::seconds(END_SECONDS), "killed programs to end", ended)?;
        }
        for entry in &entries {
            let _ = fs::remove_file(self.folder.join(&entry.name));
        }
        Ok(())
    }
}

/// The process that a temporary test cluster belongs to.
#[derive(Debug)]
pub(crate) struct Owner {
    entry: Entry,
    /// State folder of the test cluster.
    pub(crate) state: PathBuf,
}

impl Owner {
    const FILE: &str = "owner";

    pub(crate) fn this_process(state: &Path) -> Result<Self> {
        let pid = rustix::process::getpid();
        let started = start_time(pid).context("read /proc/self/stat")?;
        let entry = Entry { name: Self::FILE.to_owned(), pid, started };
        Ok(Self { entry, state: state.to_path_buf() })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.entry.is_running()
    }

    /// Writes itself to the cluster's folder below /run.
    pub(crate) fn write(&self, run: &Path) -> Result<()> {
        let Entry { pid, started, .. } = &self.entry;
        fs::write(run.join(Self::FILE), format!("{} {started}\n", pid.as_raw_nonzero()))?;
        std::os::unix::fs::symlink(&self.state, run.join("state"))?;
        Ok(())
    }

    /// Reads the owner; `None` where a test cluster has none.
    pub(crate) fn read(run: &Path) -> Option<Self> {
        let entry = parse(&run.join(Self::FILE))?;
        Some(Self { entry, state: fs::read_link(run.join("state")).ok()? })
    }
}

fn parse(file: &Path) -> Option<Entry> {
    let name = file.file_name()?.to_str()?.to_owned();
    let text = fs::read_to_string(file).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    Some(Entry { name, pid: Pid::from_raw(pid.parse().ok()?)?, started: started.parse().ok()? })
}

/// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the start of the process. `None` when
/// there is no such process or it is a zombie.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?; // the program's name may contain anything
    let mut fields = rest.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lifetime, Scratch, Spawn};

    #[test]
    fn finds_and_stops_exactly_the_recorded_programs() {
        let scratch = Scratch::new("roster").unwrap();
        let roster = Roster::new(scratch.path());
        let mut process = Spawn::new("sleep", "/bin/sleep", scratch.path())
            .arg("300")
            .lifetime(Lifetime::Detached)
            .start()
            .unwrap();
        roster.add(&process).unwrap();
        let [entry] = &roster.entries()[..] else { panic!("one entry") };
        assert!(entry.is_running());
        roster.stop(None).unwrap();
        assert!(process.exit_status().is_some());
        assert!(roster.entries().is_empty());
    }

    #[test]
    fn another_program_with_the_same_id_is_not_stopped() {
        let me = rustix::process::getpid();
        let entry = Entry { name: "gone".to_owned(), pid: me, started: 1 };
        assert!(!entry.is_running());
    }
}
