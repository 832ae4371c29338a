//! The job store on a file system that is filled to the last byte.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use blackbox::{Scratch, environment, http, process, soon, until};

use crate::etcd::client_port::etcdctl;
use crate::processes::cluster::Cluster;
use crate::processes::member::{Kind, every, names};
use crate::processes::{Scheduler, wait_for_health};

/// A file system of its own, until the end of the test.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"]).arg(folder);
        process::output(&mut command).unwrap();
        Self(folder.to_owned())
    }

    /// Takes all room that is left, to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.join("fill")).unwrap();
        let zeros = vec![0; 1 << 16];
        while file.write_all(&zeros).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    /// Gives it back.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = process::output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
#[ignore = "needs root: a file system of its own"]
fn a_full_disk_refuses_jobs_and_loses_none() {
    let folder = Scratch::new("full-disk").unwrap();
    let mount = Mount::new(&folder.path().join("data"));
    let flag = format!("--etcd-data-dir={}", mount.0.display());
    let mut scheduler = Scheduler::start_with(environment::free_port().unwrap(), &[&flag]);
    let said = |scheduler: &Scheduler, args: &[&str]| etcdctl(scheduler.client, args);
    for key in ["a", "b"] {
        said(&scheduler, &["put", key, "kept"]);
    }
    mount.fill();
    wait_for_health(scheduler.health, 503).unwrap();
    let refused = said(&scheduler, &["put", "c", "1"]);
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    let refused = said(&scheduler, &["defrag"]);
    assert!(!refused.contains("Finished"), "{refused}");
    assert!(said(&scheduler, &["del", "b"]).contains(r#""deleted":1"#));
    mount.empty();
    wait_for_health(scheduler.health, 200).unwrap();
    assert!(said(&scheduler, &["put", "c", "1"]).contains("header"));
    mount.fill();
    scheduler.process.kill();
    mount.empty();
    scheduler.restart();
    for (key, count) in [("a", 1), ("b", 0), ("c", 1)] {
        let found = said(&scheduler, &["get", key]);
        assert_eq!(found.contains(r#""count":1"#), count == 1, "{key}: {found}");
    }
}

/// etcd ends when it cannot write.
#[test]
#[ignore = "needs root: a file system of its own"]
fn an_etcd_on_a_full_disk_goes_on_when_there_is_room() -> Result<()> {
    let folder = Scratch::new("full-disk")?;
    let mount = Mount::new(&folder.path().join("data"));
    let flag = format!("--etcd-data-dir={}", mount.0.display());
    let cluster = Cluster::start(Kind::Ours, 1, &["--store-engine=etcd", &flag])?;
    let ticks = names("tick", 1);
    cluster.schedule(&ticks, &every("500ms"))?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    mount.fill();
    let (value, health) = ("x".repeat(100_000), cluster.members[0].health);
    until(soon(), "a failed write", || {
        let _ = cluster.ctl(0, &["put", "other", &value]);
        Ok((http::get(health, "/healthz")?.status == 503).then_some(()))
    })?;
    ensure!(http::get(health, "/livez")?.status == 200);
    mount.empty();
    wait_for_health(health, 200)?;
    cluster.crowd.wait_for_more(&ticks, 2)?;
    let log = cluster.members[0].process.log();
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    Ok(())
}
