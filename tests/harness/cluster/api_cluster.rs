//! The API-only cluster: etcd, kube-apiserver and kube-controller-manager on 127.0.0.1. Needs no
//! root, is ready in seconds, and is gone when the process that started it is.
//!
//! Pods stay Pending, there is no node; but they are admitted, mutated and defaulted for real,
//! Deployments become Pods, and service account tokens can be asked for and reviewed.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::common::Common;
use crate::control_plane::{
    ADMIN, ApiServerKind, Layout, start_api_server, start_controller_manager, start_etcd,
    wait_for_api_server, wait_for_etcd, wait_for_service_account, wait_until_created,
};
use crate::progress::say;
use crate::{Cluster, Deadline, Lifetime, Process, Scratch, environment};

/// Another process may take a port between our check and the server's start.
const ATTEMPTS: u32 = 3;
/// Time for etcd to end, in seconds.
const END_SECONDS: u64 = 60;

/// Options of an [`ApiCluster`].
#[derive(Clone, Copy, Debug)]
pub struct ApiClusterOptions {
    /// Whether kube-controller-manager runs. Without it the test cluster is ready a second earlier,
    /// Pods need no service account, and namespaces are never removed.
    pub controllers: bool,
    /// Whether kube-apiserver can stream a list in a watch, as since Kubernetes 1.34.
    pub streamed_lists: bool,
}

impl Default for ApiClusterOptions {
    fn default() -> Self {
        Self { controllers: true, streamed_lists: true }
    }
}

/// A running API-only cluster.
#[derive(Debug)]
pub struct ApiCluster {
    cluster: Cluster,
    kubeconfig: PathBuf,
    options: ApiClusterOptions,
    // Drop order: clients before servers, the folder last.
    processes: Mutex<Vec<Process>>,
    layout: Layout,
    scratch: Option<Scratch>,
}

/// The data of etcd at the time of [`ApiCluster::backup`]. Removed with its cluster.
#[derive(Debug)]
pub struct Backup {
    folder: PathBuf,
}

impl ApiCluster {
    /// Starts a test cluster of its own with controllers.
    ///
    /// # Errors
    /// When a program is missing and cannot be built, or does not start; the error holds the end
    /// of its log.
    pub fn start() -> Result<Self> {
        Self::start_with(ApiClusterOptions::default())
    }

    /// Starts a test cluster of its own.
    ///
    /// # Errors
    /// As [`ApiCluster::start`].
    pub fn start_with(options: ApiClusterOptions) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let scratch = Scratch::new("cluster")?;
            match Self::boot(scratch.path(), Lifetime::Bound, options, &|_| Ok(())) {
                Ok(api) => return Ok(Self { scratch: Some(scratch), ..api }),
                Err(error) if attempt < ATTEMPTS && is_port_taken(&error) => {
                    say(format_args!(
                        "a port was taken by another process, starting the cluster again"
                    ));
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The test cluster shared by all tests of this process; started by the first call.
    ///
    /// # Errors
    /// As [`ApiCluster::start`]; later callers get the error of the first.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<ApiCluster>> = OnceLock::new();
        let api = SHARED.get_or_init(Self::start);
        api.as_ref().map_err(|error| anyhow!("shared cluster: {error:#}"))
    }

    /// The test cluster of a whole run, with the definitions of `crds/`, for tests that write only into
    /// namespaces of their own and read nothing of others, see [`crate::common`].
    ///
    /// # Errors
    /// As [`ApiCluster::start`].
    pub fn common() -> Result<&'static Self> {
        static COMMON: OnceLock<Result<ApiCluster>> = OnceLock::new();
        let api = COMMON.get_or_init(|| match Common::Api.of_run()? {
            Some(state) => Self::attach(&state),
            None => Self::start_with_definitions(),
        });
        api.as_ref().map_err(|error| anyhow!("common cluster: {error:#}"))
    }

    /// Starts a test cluster of its own with the definitions of `crds/`.
    ///
    /// # Errors
    /// As [`ApiCluster::start`].
    pub fn start_with_definitions() -> Result<Self> {
        let api = Self::start()?;
        let definitions = environment::workspace().join("crds");
        let definitions = definitions.to_str().context("the path is no UTF-8")?;
        api.kubectl(&["apply", "--server-side", "-f", definitions])?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f", definitions];
        api.kubectl(&wait)?;
        Ok(api)
    }

    /// The folder that another process needs to use this cluster.
    pub fn state(&self) -> &Path {
        &self.layout.state
    }

    /// A cluster that another process has started and stops.
    pub(crate) fn attach(state: &Path) -> Result<Self> {
        let layout = Layout::read(state)?;
        Ok(Self {
            cluster: layout.cluster(),
            kubeconfig: layout.kubeconfig(ADMIN),
            options: ApiClusterOptions::default(),
            processes: Mutex::new(Vec::new()),
            layout,
            scratch: None,
        })
    }

    /// Starts the cluster's programs with their state below `state`; calls `started` for each at
    /// once.
    pub(crate) fn boot(
        state: &Path,
        lifetime: Lifetime,
        options: ApiClusterOptions,
        started: &dyn Fn(&Process) -> Result<()>,
    ) -> Result<Self> {
        let layout = Layout {
            state: state.to_path_buf(),
            lifetime,
            network: None,
            address: Ipv4Addr::LOCALHOST,
            api_port: environment::free_port()?,
            etcd_port: environment::free_port()?,
            users: Vec::new(),
        };
        layout.write_credentials()?;
        let processes = start_programs(&layout, options, started)?;
        Ok(Self {
            cluster: layout.cluster(),
            kubeconfig: layout.kubeconfig(ADMIN),
            options,
            processes: Mutex::new(processes),
            layout,
            scratch: None,
        })
    }

    /// Copies the data of etcd. Restarts all programs of the cluster.
    ///
    /// # Errors
    /// When the data cannot be copied, or a program does not start again.
    pub fn backup(&self) -> Result<Backup> {
        let folder = self.layout.state.join(format!("backup-{}", environment::secret()?));
        self.restart_around(|data| copy_folder(data, &folder))?;
        Ok(Backup { folder })
    }

    /// Replaces the data of etcd by a backup: resource versions go back, and what was written since
    /// is lost. Ports and credentials stay.
    ///
    /// # Errors
    /// As [`ApiCluster::backup`].
    pub fn restore(&self, backup: &Backup) -> Result<()> {
        self.restart_around(|data| {
            fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))?;
            copy_folder(&backup.folder, data)
        })
    }

    /// Stops all programs, runs `work` on the folder of etcd, and starts them again.
    fn restart_around(&self, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!processes.is_empty(), "the cluster belongs to another process");
        for process in processes.iter_mut() {
            if process.name() == "etcd" {
                process.terminate(Deadline::seconds(END_SECONDS))?;
            } else {
                process.kill();
            }
        }
        processes.clear();
        work(&self.layout.etcd_folder())?;
        *processes = start_programs(&self.layout, self.options, &|_| Ok(()))?;
        Ok(())
    }

    /// The resource version of the last write.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn resource_version(&self) -> Result<u64> {
        let list = self.kubectl(&["get", "--raw", "/api/v1/namespaces?limit=1"])?;
        let list: Value = serde_json::from_str(&list)?;
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        Ok(version.context("no resource version")?.parse()?)
    }

    /// Writes `count` objects of kind ConfigMap, each of which takes a resource version.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn write_config_maps(&self, namespace: &str, count: usize) -> Result<()> {
        let items: Vec<Value> = (0..count)
            .map(|number| {
                let metadata = json!({"name": format!("filler-{number}"), "namespace": namespace});
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.cluster.kubectl_with_input(&["create", "-f", "-"], &list.to_string()).map(drop)
    }

    /// The kubeconfig file of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// kubectl and helm against this test cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Runs `kubectl` and returns its standard output.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(args)
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// As [`Cluster::apply`].
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.cluster.apply(manifests)
    }

    /// `kubectl get <args> -o json`.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        self.cluster.get(args)
    }

    /// `https://127.0.0.1:<port>` of the API server.
    pub fn server(&self) -> String {
        format!("https://{}:{}", self.layout.address, self.layout.api_port)
    }

    /// The certificate authority of the API server in PEM.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn ca_pem(&self) -> Result<String> {
        let file = self.layout.ca_file();
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// Requests of the service accounts of namespace `dapr-system` so far: the
    /// objects of its audit log, at level `Metadata`.
    ///
    /// # Errors
    /// When the log is missing or not JSON.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let file = self.layout.audit_file();
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]); // it is being written
        whole.lines().map(|line| serde_json::from_str(line).context("read the audit log")).collect()
    }

    /// A new namespace whose name starts with `prefix`, which isolates tests on a shared cluster.
    ///
    /// # Errors
    /// When the API server rejects it, or its service account does not appear.
    pub fn namespace(&self, prefix: &str) -> Result<String> {
        let unique: String = environment::secret()?.chars().take(8).collect();
        let name = format!("{prefix}-{unique}");
        self.kubectl(&["create", "namespace", &name])?;
        if self.options.controllers {
            let account = ["serviceaccount/default", "-n", &name];
            crate::until(Deadline::seconds(60), "the namespace's service account", || {
                Ok(wait_until_created(&self.cluster, &account).ok())
            })?;
        }
        Ok(name)
    }

    /// The folder that is removed with the test cluster; `None` for a persistent one.
    pub fn scratch(&self) -> Option<&Scratch> {
        self.scratch.as_ref()
    }
}

/// Starts the programs, clients before servers in the result; calls `started` for each at once.
fn start_programs(
    layout: &Layout,
    options: ApiClusterOptions,
    started: &dyn Fn(&Process) -> Result<()>,
) -> Result<Vec<Process>> {
    let kind = if options.controllers { ApiServerKind::Controllers } else { ApiServerKind::Bare };
    let cluster = layout.cluster();
    let mut etcd = start_etcd(layout)?;
    started(&etcd)?;
    wait_for_etcd(layout, &mut etcd)?;
    let mut server = start_api_server(layout, kind, options.streamed_lists)?;
    started(&server)?;
    wait_for_api_server(layout, &mut server)?;
    let mut processes = vec![server, etcd];
    if options.controllers {
        let mut controllers = start_controller_manager(layout, None)?;
        started(&controllers)?;
        wait_for_service_account(&cluster, &mut controllers)?;
        processes.insert(0, controllers);
    }
    Ok(processes)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
        }
    }
    // etcd rejects a folder that others may read.
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    Ok(())
}

fn is_port_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("address already in use")
}
