//! A scheduler of either side as a process, in plain text: one member with its own store, or one of
//! several on an etcd. It can be killed and started again on its data.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::tools::path_with_etcd;
use blackbox::{Ports, Scratch, Service, Tool, environment, process};
use runtime::clock::monotonic;
use serde_json::Value;

use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, Start};
use crate::side::Side;

/// A scheduler with its own directory; both are removed on drop.
#[derive(Debug)]
pub struct Scheduler {
    running: Option<Running>,
    side: Side,
    program: PathBuf,
    /// Its member id; of a single one the default of the flag.
    id: String,
    /// The flag of all members.
    cluster: String,
    client_port: u16,
    /// Of one of several: sidecars connect to it again where it was.
    ports: Option<Ports>,
    // Dropped last.
    folder: Scratch,
}

impl Scheduler {
    /// Starts one on an empty directory and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(programs: &Programs, side: Side) -> Result<Self> {
        let mut scheduler = Self::new(programs, side, 0, entries(1)?)?;
        scheduler.running = Some(scheduler.command()?.ready()?.0);
        Ok(scheduler)
    }

    /// Starts so many members, each with its part of an etcd on an empty directory, and waits until
    /// all are ready. Ours run the etcd of the image as a child; the reference contains it.
    ///
    /// # Errors
    /// When one does not start.
    pub fn members(programs: &Programs, side: Side, count: usize) -> Result<Vec<Self>> {
        let cluster = entries(count)?;
        let begin = monotonic();
        let member = |number| {
            let mut member = Self::new(programs, side, number, cluster.clone())?;
            member.ports = Some(Ports::free()?);
            member.launch()?;
            anyhow::Ok(member)
        };
        let mut members: Vec<Self> = (0..count).map(member).collect::<Result<_>>()?;
        for member in &mut members {
            member.running.as_mut().context("a member")?.wait_ready(begin)?;
        }
        Ok(members)
    }

    fn new(programs: &Programs, side: Side, number: usize, cluster: String) -> Result<Self> {
        Ok(Self {
            running: None,
            side,
            program: programs.path(side, Service::Scheduler)?.to_owned(),
            id: id(number),
            cluster,
            client_port: environment::free_port()?,
            ports: None,
            folder: Scratch::new("bench")?,
        })
    }

    /// Whether its etcd leads the others.
    ///
    /// # Errors
    /// When its client port does not answer.
    pub fn leads(&self) -> Result<bool> {
        let mut command = Command::new(Tool::ETCDCTL.path()?);
        command.arg(format!("--endpoints=127.0.0.1:{}", self.client_port));
        let said = process::output(command.args(["endpoint", "status", "--write-out=json"]))?;
        let answer: Value = serde_json::from_str(&said)?;
        let number = |path: &str| answer.pointer(path).and_then(Value::as_u64);
        let leader = number("/0/Status/leader").context("a leader")?;
        Ok(number("/0/Status/header/member_id") == Some(leader))
    }

    /// The process.
    ///
    /// # Errors
    /// When it was stopped and not started again.
    pub fn running(&self) -> Result<&Running> {
        self.running.as_ref().context("the scheduler is stopped")
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.process.kill();
        }
    }

    /// Stops it as Kubernetes does.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Running::stop)
    }

    /// Starts it again on its directory, without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn launch(&mut self) -> Result<&Running> {
        let running = self.command()?.launch()?;
        Ok(self.running.insert(running))
    }

    /// Starts it again on its directory and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn restart(&mut self) -> Result<&Running> {
        let running = self.command()?.ready()?.0;
        Ok(self.running.insert(running))
    }

    /// Bytes that its directory takes on the disk, preallocated ones included.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn disk_bytes(&self) -> Result<u64> {
        bytes_below(&self.data())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self) -> Result<Start> {
        let (name, folder) = (self.side.name(), self.folder.path());
        let start = match self.ports {
            None => Start::new(name, Service::Scheduler, &self.program, folder)?,
            Some(ports) => {
                let address = format!("127.0.0.1:{}", ports.main);
                Start::at(ports, name, Service::Scheduler, &self.program, folder)
                    .env("PATH", &path_with_etcd(folder)?.to_string_lossy())
                    .args(&[&format!("--override-broadcast-host-port={address}")])
            }
        };
        Ok(start.flag("--etcd-data-dir", &self.data()).args(&[
            &format!("--id={}", self.id),
            &format!("--etcd-initial-cluster={}", self.cluster),
            &format!("--etcd-client-port={}", self.client_port),
        ]))
    }
}

fn id(number: usize) -> String {
    format!("dapr-scheduler-server-{number}")
}

/// The flag of so many members.
fn entries(count: usize) -> Result<String> {
    let entry = |number| {
        anyhow::Ok(format!("{}=http://127.0.0.1:{}", id(number), environment::free_port()?))
    };
    Ok((0..count).map(entry).collect::<Result<Vec<_>>>()?.join(","))
}

/// Bytes of the blocks of all files below a folder.
fn bytes_below(folder: &Path) -> Result<u64> {
    /// Unit of `st_blocks`, whatever the file system's own block is. Source: stat(2).
    const BLOCK: u64 = 512;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += bytes_below(&entry.path())?;
        } else if let Ok(file) = entry.metadata() {
            bytes += file.blocks() * BLOCK; // a file that was just deleted has none
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_member_has_an_entry_with_its_own_port() {
        let entries = entries(3).unwrap();
        let ports: BTreeSet<_> =
            entries.split(',').map(|entry| entry.rsplit_once(':').unwrap().1).collect();
        assert_eq!(ports.len(), 3);
        assert!(entries.contains(",dapr-scheduler-server-2=http://127.0.0.1:"), "{entries}");
    }

    #[test]
    fn bytes_of_files_in_folders_below_count() {
        let folder = Scratch::new("disk").unwrap();
        assert_eq!(bytes_below(folder.path()).unwrap(), 0);
        folder.write("a/b/file", vec![1; 100_000]).unwrap();
        let bytes = bytes_below(folder.path()).unwrap();
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
        assert!(bytes_below(&folder.path().join("missing")).is_err());
    }
}
