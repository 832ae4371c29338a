//! Cgroups with the memory limit of a container, version 1 or 2.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use blackbox::{Service, environment};

/// Memory controllers, and the names of their limit and of the file that counts kills.
const CONTROLLERS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
    ("/sys/fs/cgroup", "memory.max", "memory.events"),
];

/// The memory limit of a service in all profiles of the chart, in MiB: `dapr.resources` in
/// `charts/dapr/templates/_profile.tpl`.
fn limit_mib(service: Service) -> u64 {
    match service {
        Service::Operator | Service::Placement | Service::Scheduler => 1024,
        Service::Injector | Service::Sentry => 512,
    }
}

/// A cgroup that is removed with this value; its processes go back to the root.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    events: &'static str,
}

impl MemoryGroup {
    /// A group with the limit of a service; `None` without root, or without a memory controller.
    ///
    /// # Errors
    /// When the group cannot be made.
    pub fn of(service: Service) -> Result<Option<Self>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let usable = |(root, _, _): &&(&str, &str, &str)| is_controlled(Path::new(root));
        let controller = CONTROLLERS.iter().find(usable).filter(|_| environment::is_root());
        let Some((root, limit, events)) = controller else { return Ok(None) };
        let group = Self { folder: Path::new(root).join(name), events };
        fs::create_dir(&group.folder).context("create a cgroup")?;
        let bytes = limit_mib(service) * 1024 * 1024;
        fs::write(group.folder.join(limit), bytes.to_string()).context("limit the memory")?;
        Ok(Some(group))
    }

    /// Moves a process into it. Memory that the process has already stays outside.
    ///
    /// # Errors
    /// When it has ended.
    pub fn add(&self, pid: i32) -> Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).context("join a cgroup")
    }

    /// How many of its processes the kernel has killed for memory.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn kills(&self) -> Result<u32> {
        let text = fs::read_to_string(self.folder.join(self.events))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.context("the kernel counts no kills")?.parse().context("the number of kills")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            let _ = fs::write(self.folder.with_file_name("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Whether a folder is the root of cgroups with a limit for memory.
fn is_controlled(root: &Path) -> bool {
    let subtree = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    root.join("memory.limit_in_bytes").exists() || subtree.contains("memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_chart() {
        let chart = environment::workspace().join("charts/dapr/templates/_profile.tpl");
        let text = fs::read_to_string(chart).unwrap();
        let [gibi, half] = [Service::Operator, Service::Sentry].map(limit_mib);
        let rule = format!(
            r#"(list "dapr_operator" "dapr_placement" "dapr_scheduler") | ternary "{}Gi" "{half}Mi""#,
            gibi / 1024
        );
        assert!(text.contains(&rule), "{rule}");
    }

    #[test]
    #[ignore = "needs root: makes a cgroup"]
    fn a_group_has_no_kills_at_first_and_is_removed() {
        let group = MemoryGroup::of(Service::Sentry).unwrap().unwrap();
        let folder = group.folder.clone();
        assert_eq!(group.kills().unwrap(), 0);
        group.add(i32::try_from(std::process::id()).unwrap()).unwrap();
        drop(group);
        assert!(!folder.exists());
    }
}
