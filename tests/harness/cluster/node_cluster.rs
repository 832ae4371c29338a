//! The node cluster: a complete Kubernetes with one node, as root, in an isolated network
//! namespace.
//!
//! It outlives the command that started it. What it created is found again by the path of its state
//! folder, so `up` after a crash cleans up first and `down` leaves no process, mount, namespace,
//! cgroup or file behind.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::containerd::Containerd;
use super::host::{self, Cgroups, Network};
use super::roster::{Entry, Owner, Roster};
use super::{node_image, node_parts, node_storage};
use crate::control_plane::{
    self, Layout, User, start_api_server, start_controller_manager, start_etcd, start_scheduler,
    wait_for_api_server, wait_for_etcd, wait_for_service_account,
};
use crate::process::Lifetime;
use crate::progress::{say, step};
use crate::{Cluster, Deadline, Image, Process, Tool, environment, packages, tools, until};

/// How the names of cgroups and folders start.
const NAME_PREFIX: &str = "trilby-";
/// The node's own address, where the API server and DNS listen.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
/// Port of the cluster's etcd. Not 2379: a command line that forwards the scheduler's port of that
/// number would read it instead.
const ETCD_PORT: u16 = 12379;
/// The name of the only node.
pub const NODE_NAME: &str = "node1";
/// Addresses of Pods.
pub(crate) const POD_CIDR: &str = "10.88.0.0/16";
/// Where a kubelet links container logs; not configurable.
const LOG_LINKS: &str = "/var/log/containers";
/// Where a kubelet listens for device plugins; not configurable.
const KUBELET_SOCKET: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";
/// Seconds for a part to start on a busy machine.
const START_SECONDS: u64 = 120;

pub(crate) const KUBELET: User = User { name: "system:node:node1", group: "system:nodes" };
pub(crate) const KUBE_PROXY: User =
    User { name: "system:kube-proxy", group: "system:node-proxier" };
pub(crate) const DNS: User = User { name: "system:coredns", group: "system:dns" };

/// The programs of a node cluster that have to be found or built.
pub const TOOLS: [Tool; 10] = [
    Tool::ETCD,
    Tool::KUBE_APISERVER,
    Tool::KUBE_CONTROLLER_MANAGER,
    Tool::KUBECTL,
    Tool::KUBELET,
    Tool::KUBE_SCHEDULER,
    Tool::KUBE_PROXY,
    Tool::COREDNS,
    Tool::HELM,
    Tool::DAPRD,
];

/// A Kubernetes with one node on this machine.
#[derive(Clone, Debug)]
pub struct NodeCluster {
    state: PathBuf,
    run: PathBuf,
    network: Network,
    cgroups: Cgroups,
    containerd: Containerd,
    lifetime: Lifetime,
}

impl NodeCluster {
    /// The one whose state is in the folder of [`environment::state`].
    ///
    /// # Errors
    /// As [`NodeCluster::at`].
    pub fn here() -> Result<Self> {
        Self::at(&environment::state().join("node"))
    }

    /// The one with that state folder.
    ///
    /// # Errors
    /// When the folder's absolute path cannot be determined.
    pub fn at(state: &Path) -> Result<Self> {
        let state = std::path::absolute(state)?;
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let id: String = environment::hex(&digest).chars().take(8).collect();
        let name = format!("{NAME_PREFIX}{id}");
        let run = Path::new("/run").join(&name);
        Ok(Self {
            network: Network::new(run.join("net")),
            cgroups: Cgroups::new(&name),
            containerd: Containerd::new(&name, &state, &run),
            state,
            run,
            lifetime: Lifetime::Detached,
        })
    }

    /// One for a test: removed on drop. If the test's process is killed, its programs are killed
    /// too, and the next test cluster that starts removes the rest.
    ///
    /// # Errors
    /// When there is no temporary folder.
    pub fn temporary() -> Result<TemporaryNode> {
        let name = format!("trilby-node-{}", environment::secret()?);
        let node = Self::at(&std::env::temp_dir().join(name))?;
        Ok(TemporaryNode(Self { lifetime: Lifetime::Runner, ..node }))
    }

    /// Starts it, or finds it running. The first start on a machine builds programs for minutes.
    ///
    /// # Errors
    /// When not root, when a package or program is missing and cannot be installed, or when a part
    /// does not start; nothing is left behind then.
    pub fn up(&self) -> Result<Cluster> {
        if !environment::is_root() {
            bail!(
                "a cluster with a node needs root; without it: cargo xtask cluster up --api-only"
            );
        }
        packages::require(&packages::NODE)?;
        tools::provide(&TOOLS)?;
        let _lock = self.lock()?;
        if self.is_up() {
            return Ok(self.cluster());
        }
        remove_orphans()?;
        self.clean()?;
        if let Err(error) = step("start the cluster", || self.boot()) {
            self.clean().context("clean up after a failed start")?;
            return Err(error);
        }
        Ok(self.cluster())
    }

    /// Stops it and removes everything it created.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn down(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.clean()?;
        fs::remove_file(self.lock_file())?;
        environment::remove_empty_state();
        Ok(())
    }

    /// Whether all programs run and the node is ready.
    pub fn is_up(&self) -> bool {
        let entries = self.roster().entries();
        !entries.is_empty() && entries.iter().all(Entry::is_running) && self.node_is_ready()
    }

    /// Its programs and whether each runs; empty when it is down.
    pub fn programs(&self) -> Vec<(String, bool)> {
        let entries = self.roster().entries();
        entries.into_iter().map(|entry| (entry.name.clone(), entry.is_running())).collect()
    }

    /// kubectl and helm against it.
    pub fn cluster(&self) -> Cluster {
        self.layout().cluster()
    }

    /// The handle of its network namespace for `nsenter --net=FILE`.
    pub fn network_handle(&self) -> &Path {
        self.network.handle()
    }

    /// The folder with the log of each program.
    pub fn logs(&self) -> PathBuf {
        self.layout().logs()
    }

    /// Imports the images of a docker-archive file.
    ///
    /// # Errors
    /// When containerd does not run or rejects the archive.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        self.containerd
            .import(archive)
            .with_context(|| format!("import image {}", archive.display()))
    }

    /// Imports an image that is not in an archive yet.
    ///
    /// # Errors
    /// When a file of the image cannot be read, or as [`NodeCluster::import_image`].
    pub fn import(&self, image: &Image) -> Result<()> {
        let archive = self.state.join("image.tar");
        image.write(&archive)?;
        let imported = self.import_image(&archive);
        fs::remove_file(&archive)?;
        imported
    }

    fn roster(&self) -> Roster {
        Roster::new(&self.state)
    }

    /// One command at a time. The process that takes the test cluster down removes the file while
    /// it holds the lock; a waiter then has the lock of a removed file, and takes that of a new
    /// one.
    fn lock(&self) -> Result<File> {
        let path = self.lock_file();
        loop {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("create {}", parent.display()))?;
            }
            let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            file.lock()?;
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.state.with_extension("lock")
    }

    fn layout(&self) -> Layout {
        Layout {
            state: self.state.clone(),
            lifetime: self.lifetime,
            network: Some(self.network.handle().to_path_buf()),
            address: NODE_ADDRESS,
            api_port: 6443,
            etcd_port: ETCD_PORT,
            users: vec![KUBELET, KUBE_PROXY, DNS],
        }
    }

    fn boot(&self) -> Result<()> {
        let layout = self.layout();
        let cluster = layout.cluster();
        fs::create_dir_all(&self.run)?;
        if self.lifetime == Lifetime::Runner {
            Owner::this_process(&self.state)?.write(&self.run)?;
        }
        self.network.create(&format!("{NODE_ADDRESS}/24")).context("create the network")?;
        self.cgroups.create()?;
        layout.write_credentials()?;

        let mut etcd = self.started(start_etcd(&layout)?)?;
        let mut containerd = self.started(self.containerd.start(&layout)?)?;
        wait_for_etcd(&layout, &mut etcd)?;
        let mut server =
            self.started(start_api_server(&layout, control_plane::ApiServerKind::Nodes, true)?)?;
        let pause = node_image::write_pause(&self.state.join("pause"))?;
        containerd.wait(Deadline::seconds(START_SECONDS), "socket", |_| {
            Ok(self.containerd.ctr(&["version"]).is_ok())
        })?;
        self.import_image(&pause)?;
        wait_for_api_server(&layout, &mut server)?;

        let mut controllers = self.started(start_controller_manager(&layout, Some(POD_CIDR))?)?;
        self.started(start_scheduler(&layout)?)?;
        let parts = node_parts::Parts {
            layout: &layout,
            cgroup: &self.cgroups.path(),
            runtime_socket: &self.containerd.socket(),
        };
        let mut kubelet = self.started(parts.start_kubelet()?)?;
        self.started(parts.start_proxy()?)?;
        let mut dns = self.started(parts.start_dns(&cluster)?)?;
        node_storage::provide(&cluster, &self.state.join("volumes"))?;
        dns.wait_for_port(53, Deadline::seconds(START_SECONDS))?;
        wait_for_service_account(&cluster, &mut controllers)?;
        kubelet.wait(
            Deadline::seconds(START_SECONDS),
            "node is ready",
            |_| Ok(self.node_is_ready()),
        )
    }

    /// Records a started process at once, for the process that cleans up.
    fn started(&self, process: Process) -> Result<Process> {
        self.roster().add(&process).with_context(|| {
            format!("log of {}:\n{}", process.name(), crate::process::tail(&process.log()))
        })?;
        Ok(process)
    }

    fn node_is_ready(&self) -> bool {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        self.cluster()
            .kubectl(&["get", "node", NODE_NAME, "-o", path])
            .is_ok_and(|ready| ready == "True")
    }

    /// Stops and removes everything that is there, complete or not.
    fn clean(&self) -> Result<()> {
        self.roster().stop(Some(&["kubelet"]))?; // otherwise it restarts what is killed next
        host::kill_members(&self.cgroups, &self.network)?;
        self.roster().stop(None)?;
        self.containerd.remove_shim_sockets();
        self.containerd.remove_network_records();
        host::unmount_below(&[&self.run, &self.state])?;
        self.cgroups.remove()?;
        self.remove_log_links();
        if UnixStream::connect(KUBELET_SOCKET).is_err() {
            let _ = fs::remove_file(KUBELET_SOCKET); // of a stopped kubelet
        }
        for folder in [&self.run, &self.state] {
            until(Deadline::seconds(START_SECONDS), "the cluster's folders to go", || {
                match fs::remove_dir_all(folder) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Ok(None),
                    _ => Ok(Some(())),
                }
            })
            .with_context(|| format!("remove {}", folder.display()))?;
        }
        remove_empty_folders();
        Ok(())
    }

    /// Removes the kubelet's links to container logs in a fixed folder of the host.
    fn remove_log_links(&self) {
        for link in fs::read_dir(LOG_LINKS).into_iter().flatten().flatten() {
            if fs::read_link(link.path()).is_ok_and(|target| target.starts_with(&self.state)) {
                let _ = fs::remove_file(link.path());
            }
        }
    }
}

/// A test cluster that is removed on drop.
#[derive(Debug)]
pub struct TemporaryNode(NodeCluster);

impl std::ops::Deref for TemporaryNode {
    type Target = NodeCluster;

    fn deref(&self) -> &NodeCluster {
        &self.0
    }
}

impl Drop for TemporaryNode {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            say(format_args!("the cluster was not removed: {error:#}"));
        }
    }
}

/// Removes temporary clusters whose process is gone.
fn remove_orphans() -> Result<()> {
    for folder in fs::read_dir("/run")?.flatten() {
        if !folder.file_name().to_string_lossy().starts_with(NAME_PREFIX) {
            continue;
        }
        if let Some(owner) = Owner::read(&folder.path()).filter(|owner| !owner.is_running()) {
            say(format_args!(
                "removing a cluster whose test was killed: {}",
                owner.state.display()
            ));
            NodeCluster::at(&owner.state)?.down()?;
        }
    }
    Ok(())
}

/// Removes folders outside the cluster's own that its programs create. `remove_dir` removes
/// only empty ones.
fn remove_empty_folders() {
    for folder in [
        LOG_LINKS,
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/lib/cni/results",
        "/var/lib/cni/cache",
        "/var/lib/cni",
        "/run/containerd/s",
        "/run/containerd",
    ] {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::Scratch;

    #[test]
    fn a_waiter_for_a_removed_cluster_holds_the_lock_of_an_existing_file() {
        let scratch = Scratch::new("lock").unwrap();
        let node = NodeCluster::at(&scratch.path().join("node")).unwrap();
        let held = node.lock().unwrap();
        thread::scope(|threads| {
            let other = threads.spawn(|| {
                let lock = node.lock().unwrap();
                fs::remove_file(node.lock_file()).unwrap();
                drop(lock);
            });
            thread::sleep(Duration::from_millis(100)); // the other thread waits by now
            fs::remove_file(node.lock_file()).unwrap();
            drop(held);
            other.join().unwrap();
        });
        assert!(!node.lock_file().exists());
    }
}
