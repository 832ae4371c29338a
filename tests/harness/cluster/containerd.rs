//! containerd with its own root, state and socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::host;
use crate::control_plane::Layout;
use crate::{Process, environment, process};

/// Debian's folder of the CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// Where CNI keeps its records; not configurable.
const CNI_RECORDS: &str = "/var/lib/cni/results";
/// Addresses of this node's Pods.
const POD_SUBNET: &str = "10.88.0.0/24";
/// The image of every Pod's first container.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// The container runtime of a node.
#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    /// Images and their layers, configuration; on disk.
    root: PathBuf,
    /// Sockets and mounts; a short path, because a socket's may not exceed 107 bytes.
    run: PathBuf,
    /// Name of the Pods' network, which distinguishes its CNI records.
    network: String,
}

impl Containerd {
    pub(crate) fn new(name: &str, state: &Path, run: &Path) -> Self {
        Self { root: state.join("containerd"), run: run.to_path_buf(), network: name.to_owned() }
    }

    /// Where it listens for the kubelet and `ctr`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// Starts it.
    ///
    /// # Errors
    /// When its configuration cannot be written or the program is missing.
    pub(crate) fn start(&self, layout: &Layout) -> Result<Process> {
        let networks = self.root.join("net.d");
        fs::create_dir_all(&networks)?;
        fs::write(networks.join("10-api.conflist"), self.network())?;
        let file = self.root.join("config.toml");
        fs::write(&file, self.config(&networks)).context("write containerd's configuration")?;
        let program = environment::find_program("containerd").context("containerd is missing")?;
        layout.spawn("containerd", program).arg("--config").arg(file).start()
    }

    fn config(&self, networks: &Path) -> String {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let root = quoted(&self.root);
        let state = quoted(&self.run.join("containerd"));
        let socket = quoted(&self.socket());
        let runc = quoted(&self.run.join("runc"));
        let networks = quoted(networks);
        // else runc dies with "can't get final child's PID from pipe: EOF"
        let restrict = !host::may_protect_from_oom();
        format!(
            r#"version = 2
root = {root}
state = {state}
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = {socket}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = {runc}
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = {networks}
"#
        )
    }

    /// A routed pair per Pod rather than a bridge: every packet then passes kube-proxy's rules,
    /// whether or not the kernel shows bridged traffic to iptables.
    fn network(&self) -> String {
        let ipam = json!({
            "type": "host-local", "dataDir": self.root.join("addresses"),
            "ranges": [[{"subnet": POD_SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}],
        });
        let network = json!({
            "cniVersion": "0.4.0", "name": self.network, "plugins": [
                {"type": "ptp", "ipMasq": false, "ipam": ipam},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        format!("{network:#}\n")
    }

    /// `ctr` in the namespace of the kubelet's containers and images.
    pub(crate) fn ctr(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        process::output(command.args(args))
    }

    /// Imports the images of a docker-archive file.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let file = archive.to_str().context("the archive's path is no UTF-8")?;
        self.ctr(&["images", "import", file]).map(drop)
    }

    /// Removes CNI's records of Pods that were not stopped one by one.
    pub(crate) fn remove_network_records(&self) {
        let prefix = format!("{}-", self.network);
        for record in fs::read_dir(CNI_RECORDS).into_iter().flatten().flatten() {
            let name = record.file_name();
            let name = name.to_string_lossy();
            let container = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix("-eth0"));
            if let Some(container) = container {
                let loopback = format!("cni-loopback-{container}-lo");
                let _ = fs::remove_file(record.path());
                let _ = fs::remove_file(Path::new(CNI_RECORDS).join(loopback));
            }
        }
    }

    /// Removes sockets of shims that were killed; each task's folder names its socket.
    pub(crate) fn remove_shim_sockets(&self) {
        let tasks = self.run.join("containerd/io.containerd.runtime.v2.task/k8s.io");
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let address = fs::read_to_string(task.path().join("address")).unwrap_or_default();
            if let Some(socket) = address.trim().strip_prefix("unix://") {
                let _ = fs::remove_file(socket);
            }
        }
    }
}
