//! A scheduler of either side as a process: one member, its own store, in plain text. It can be
//! killed and started again on its data.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf};

use anyhow::{Context as _, Result};
use blackbox::{Scratch, Service, environment};

use crate::{
    environment::programs::Programs,
    environment::test_env::{Running, Start},
    scenario::Side,
};

/// Its member id, the default of the flag.
const ID: &str = "dapr-scheduler-server-0";

/// A scheduler with its own directory; both are removed on drop.
#[derive(Debug)]
pub struct Scheduler {
    running: Option<Running>,
    side: Side,
    program: PathBuf,
    peer_port: u16,
    client_port: u16,
    // Dropped last.
    folder: Scratch,
}

impl Scheduler {
    /// Starts one on an empty directory and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(programs: &Programs, side: Side) -> Result<Self> {
        let mut scheduler = Self {
            running: None,
            side,
            program: programs.path(side, Service::Scheduler)?.to_owned(),
            peer_port: environment::free_port()?,
            client_port: environment::free_port()?,
            folder: Scratch::new("bench")?,
        };
        scheduler.running = Some(scheduler.command()?.ready()?.0);
        Ok(scheduler)
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
        let start =
            Start::new(self.side.name(), Service::Scheduler, &self.program, self.folder.path())?;
        let peer = self.peer_port;
        Ok(start.flag("--etcd-data-dir", &self.data()).args(&[
            &format!("--id={ID}"),
            &format!("--etcd-initial-cluster={ID}=http://127.0.0.1:{peer}"),
            &format!("--etcd-client-port={}", self.client_port),
        ]))
    }
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
    use super::*;

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
