//! The job store on a file system that is filled to the last byte.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use blackbox::{Scratch, environment, http, process, until};

use super::client_port::etcdctl;
use super::processes::{Scheduler, soon};

/// A file system of its own, until the end of the test.
struct Mount(PathBuf);

impl Mount {
    fn new(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"]).arg(folder);
        process::output(&mut command).unwrap();
        Self(folder.to_owned())
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("fill")).unwrap();
        let zeros = vec![0; 1 << 16];
        while file.write_all(&zeros).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = process::output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn wait_for_health(scheduler: &Scheduler, status: u16) {
    until(soon(), &format!("/healthz to answer {status}"), || {
        Ok((http::get(scheduler.health, "/healthz")?.status == status).then_some(()))
    })
    .unwrap();
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
    wait_for_health(&scheduler, 503);
    let refused = said(&scheduler, &["put", "c", "1"]);
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    let refused = said(&scheduler, &["defrag"]);
    assert!(!refused.contains("Finished"), "{refused}");
    assert!(said(&scheduler, &["del", "b"]).contains(r#""deleted":1"#));
    mount.empty();
    wait_for_health(&scheduler, 200);
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
