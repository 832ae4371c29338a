//! Cgroups with the memory limit of a container, version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use blackbox::{Service, environment};

/// The roots of the memory controller in both versions of cgroups.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];

/// The files of a version of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    /// The limit of memory.
    limit: &'static str,
    /// The limit of swap, which is set to none: a container would be killed instead.
    swap: Option<&'static str>,
    /// Counts the kills.
    events: &'static str,
}

impl Version {
    const ONE: Self =
        Self { limit: "memory.limit_in_bytes", swap: None, events: "memory.oom_control" };
    const TWO: Self =
        Self { limit: "memory.max", swap: Some("memory.swap.max"), events: "memory.events" };

    /// The version whose groups below `root` can have a limit of memory. With version 2 the root has to
    /// pass the controller on, which is asked for; the kernel refuses where the root has processes
    /// of its own, as in a container.
    fn of(root: &Path) -> Option<Self> {
        if root.join(Self::ONE.limit).exists() {
            return Some(Self::ONE);
        }
        let has = |file: &str| {
            let controllers = fs::read_to_string(root.join(file)).unwrap_or_default();
            controllers.split_whitespace().any(|controller| controller == "memory")
        };
        let passed_on = "cgroup.subtree_control";
        let usable = has(passed_on)
            || (has("cgroup.controllers") && fs::write(root.join(passed_on), "+memory").is_ok());
        usable.then_some(Self::TWO)
    }
}

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
        if !environment::is_root() {
            return Ok(None);
        }
        let found =
            ROOTS.map(Path::new).into_iter().find_map(|root| Some((root, Version::of(root)?)));
        found.map(|(root, version)| Self::below(root, version, service)).transpose()
    }

    fn below(root: &Path, version: Version, service: Service) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let group = Self { folder: root.join(name), events: version.events };
        fs::create_dir(&group.folder).context("create a cgroup")?;
        let bytes = limit_mib(service) * 1024 * 1024;
        fs::write(group.folder.join(version.limit), bytes.to_string())
            .context("limit the memory")?;
        if let Some(swap) = version.swap {
            let _ = fs::write(group.folder.join(swap), "0"); // absent in a kernel without swap
        }
        Ok(group)
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

#[cfg(test)]
mod tests {
    use blackbox::Scratch;

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
    fn both_versions_of_cgroups_are_found_and_the_second_is_asked_to_pass_memory_on() {
        let folder = |files: &[(&str, &str)]| {
            let folder = Scratch::new("cgroup").unwrap();
            for (file, text) in files {
                folder.write(file, text).unwrap();
            }
            folder
        };
        let version = |folder: &Scratch| Version::of(folder.path());
        let passed_on = "cgroup.subtree_control";
        assert_eq!(version(&folder(&[("memory.limit_in_bytes", "1")])), Some(Version::ONE));
        assert_eq!(version(&folder(&[(passed_on, "cpu memory\n")])), Some(Version::TWO));
        let asked = folder(&[("cgroup.controllers", "cpu memory pids\n"), (passed_on, "cpu\n")]);
        assert_eq!(version(&asked), Some(Version::TWO));
        assert_eq!(fs::read_to_string(asked.path().join(passed_on)).unwrap(), "+memory");
        // As `/sys/fs/cgroup/unified`, where version 1 has the controllers.
        for without in [&[][..], &[("cgroup.controllers", ""), (passed_on, "")]] {
            assert_eq!(version(&folder(without)), None);
        }
    }

    #[test]
    fn a_group_of_version_two_has_its_limits_and_counts_kills() {
        let root = Scratch::new("cgroup").unwrap();
        let group = MemoryGroup::below(root.path(), Version::TWO, Service::Sentry).unwrap();
        let read = |file: &str| fs::read_to_string(group.folder.join(file)).unwrap();
        assert_eq!([read("memory.max"), read("memory.swap.max")], ["536870912", "0"]);
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        fs::write(group.folder.join("memory.events"), events).unwrap();
        assert_eq!(group.kills().unwrap(), 2);
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
