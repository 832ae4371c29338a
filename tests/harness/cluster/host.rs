//! State of a node on its host, and its removal: the network namespace, cgroups, mounts, and
//! the processes inside them. All of it is found by reading the kernel's state, so that
//! it works after a crash too.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Deadline, process, until};

/// Seconds until killed processes and busy cgroups must be gone.
const END_SECONDS: u64 = 20;

/// A network namespace, kept by a bind mount on a file.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    handle: PathBuf,
}

impl Network {
    pub(crate) fn new(handle: PathBuf) -> Self {
        Self { handle }
    }

    /// The file for `nsenter --net=FILE`. Not for `ip netns exec`: that remounts /sys and hides the
    /// cgroup mounts from kubelet.
    pub(crate) fn handle(&self) -> &Path {
        &self.handle
    }

    /// Creates it, with one interface that has `address` and takes all traffic; nothing is at its
    /// other end, so nothing leaves the machine. A veth pair, because not every kernel has `dummy`.
    pub(crate) fn create(&self, address: &str) -> Result<()> {
        if let Some(parent) = self.handle.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(&self.handle)?;
        let unshare = format!("--net={}", self.handle.display());
        process::output(Command::new("unshare").args([&unshare, "true"]))?;
        let set_up = format!(
            "set -e
            ip link set lo up
            ip link add node0 type veth peer name node0-peer
            ip address add {address} dev node0
            ip link set node0 up
            ip link set node0-peer up
            ip route add default dev node0
            echo 1 > /proc/sys/net/ipv4/ip_forward"
        );
        process::output(self.command("sh").args(["-c", &set_up])).map(drop)
    }

    /// A program inside it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.handle.display())).arg(program);
        command
    }

    /// The processes inside it.
    fn members(&self) -> HashSet<Pid> {
        let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        let own = inode(Path::new("/proc/self/ns/net"));
        let Some(wanted) = inode(&self.handle).filter(|wanted| Some(*wanted) != own) else {
            return HashSet::new();
        };
        let is_member =
            |pid: &Pid| inode(&PathBuf::from(format!("/proc/{pid}/ns/net"))) == Some(wanted);
        all_processes().into_iter().filter(is_member).collect()
    }
}

fn all_processes() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |name: &str| name.parse().ok().and_then(Pid::from_raw);
    entries.flatten().filter_map(|entry| pid(entry.file_name().to_str()?)).collect()
}

/// The cgroup `/<name>` in every hierarchy of the host, version 1 or 2.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    name: String,
}

impl Cgroups {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its path inside a hierarchy.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    fn folders(&self) -> Vec<PathBuf> {
        hierarchies().into_iter().map(|root| root.join(&self.name)).collect()
    }

    /// Creates it: kubelet requires its root.
    pub(crate) fn create(&self) -> Result<()> {
        for folder in self.folders() {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            // A new cpuset (version 1) is empty, and nothing can run in it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = folder.parent().map(|parent| parent.join(file));
                if let Some(value) = parent.and_then(|file| fs::read_to_string(file).ok()) {
                    fs::write(folder.join(file), value.trim())?;
                }
            }
        }
        Ok(())
    }

    /// The processes in it and below.
    fn members(&self) -> HashSet<Pid> {
        let mut pids = HashSet::new();
        for folder in self.folders() {
            visit(&folder, &mut |group| {
                let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                pids.extend(
                    list.lines().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)),
                );
            });
        }
        pids
    }

    /// Removes it; its processes must have ended.
    pub(crate) fn remove(&self) -> Result<()> {
        let what = format!("cgroups {} to be empty", self.path());
        until(Deadline::seconds(END_SECONDS), &what, || {
            for folder in self.folders() {
                visit(&folder, &mut |group| drop(fs::remove_dir(group)));
            }
            Ok((!self.folders().iter().any(|folder| folder.exists())).then_some(()))
        })
    }
}

/// The mount points of the cgroup file systems.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let hierarchy = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        matches!(fields.next()?, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// Calls `each` for every folder below `folder`, then for itself.
fn visit(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), each);
        }
    }
    if folder.is_dir() {
        each(folder);
    }
}

/// Kills every process in the cgroups and in the network namespace except this one.
pub(crate) fn kill_members(cgroups: &Cgroups, network: &Network) -> Result<()> {
    until(Deadline::seconds(END_SECONDS), "the node's processes to end", || {
        let mut members = cgroups.members();
        members.extend(network.members());
        members.remove(&rustix::process::getpid());
        for pid in &members {
            let _ = kill_process(*pid, Signal::KILL); // gone already is fine
        }
        Ok(members.is_empty().then_some(()))
    })
}

/// Unmounts everything below the folders, the last mounted first.
pub(crate) fn unmount_below(folders: &[&Path]) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut points: Vec<PathBuf> = table.lines().filter_map(mount_point).collect();
    points.reverse();
    for point in points.iter().filter(|point| folders.iter().any(|f| point.starts_with(f))) {
        unmount(point, UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// The fifth field of a line of `/proc/self/mountinfo`, which writes a blank as `\040`.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    Some(field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into())
}

/// Whether this process holds `CAP_SYS_RESOURCE` (bit 24), without which no process may lower its
/// own `oom_score_adj`.
pub(crate) fn may_protect_from_oom() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 24) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mount_points_with_blanks() {
        let line = "36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some("/mnt/a b".into()));
    }
}
