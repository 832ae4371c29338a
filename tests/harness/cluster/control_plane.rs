//! Kubernetes' own control plane as processes: etcd, kube-apiserver, kube-controller-manager,
//! kube-scheduler. Both clusters start theirs here.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;

use crate::{Cluster, Deadline, Lifetime, Process, Spawn, Tool, admission, environment, http};

/// Service addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Seconds for a part to serve. Much less on an idle machine; others may be compiling.
const START_SECONDS: u64 = 120;

/// A user of the API server, authenticated by a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name in RBAC.
    pub name: &'static str,
    /// Its only group.
    pub group: &'static str,
}

/// The administrator, the user of the test cluster's kubeconfig.
pub const ADMIN: User = User { name: "admin", group: "system:masters" };
const CONTROLLER_MANAGER: User =
    User { name: "system:kube-controller-manager", group: "system:masters" };
const SCHEDULER: User = User { name: "system:kube-scheduler", group: "system:authenticated" };

/// Records requests of the service accounts of our control plane, metadata only.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ['system:serviceaccounts:dapr-system']}
- {level: None}
";

/// Where and how a control plane runs.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Folder of its data, certificates, kubeconfigs, logs.
    pub state: PathBuf,
    /// Whether its processes outlive this one.
    pub lifetime: Lifetime,
    /// Network namespace to run in.
    pub network: Option<PathBuf>,
    /// Address the API server listens on.
    pub address: Ipv4Addr,
    /// Port of the API server.
    pub api_port: u16,
    /// Port of etcd, on 127.0.0.1.
    pub etcd_port: u16,
    /// Users in addition to those of the control plane.
    pub users: Vec<User>,
}

impl Layout {
    /// Folder of the log files.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// Folder of the data of etcd.
    pub fn etcd_folder(&self) -> PathBuf {
        self.state.join("etcd")
    }

    fn certs(&self) -> PathBuf {
        self.state.join("certs")
    }

    /// The serving certificate that the API server generated, followed by its issuer.
    pub fn ca_file(&self) -> PathBuf {
        self.certs().join("apiserver.crt")
    }

    /// The key of that certificate. It signs service account tokens too, so that nothing but the
    /// API server has to generate keys.
    fn key_file(&self) -> PathBuf {
        self.certs().join("apiserver.key")
    }

    /// The kubeconfig file of a user.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.state.join(format!("{}.kubeconfig", user.name.replace(':', "-")))
    }

    /// The cluster, as the administrator.
    pub fn cluster(&self) -> Cluster {
        let cluster = Cluster::new(self.kubeconfig(ADMIN));
        match &self.network {
            Some(network) => cluster.inside(network),
            None => cluster,
        }
    }

    /// A program of this layout, not yet started.
    pub fn spawn(&self, name: &str, program: PathBuf) -> Spawn {
        Spawn::new(name, program, &self.logs())
            .lifetime(self.lifetime)
            .network(self.network.clone())
    }

    /// Writes the token file and a kubeconfig for each user.
    ///
    /// # Errors
    /// When the state folder cannot be written to.
    pub fn write_credentials(&self) -> Result<()> {
        fs::create_dir_all(self.logs())
            .with_context(|| format!("create {}", self.state.display()))?;
        let mut tokens = String::new();
        let own = [ADMIN, CONTROLLER_MANAGER, SCHEDULER];
        for user in own.into_iter().chain(self.users.iter().copied()) {
            let token = environment::secret()?;
            let _ = writeln!(tokens, "{token},{0},{0},{1}", user.name, user.group);
            let server = format!("https://{}:{}", self.address, self.api_port);
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
                "clusters": [{"name": "cluster", "cluster":
                    {"server": server, "certificate-authority": self.ca_file()}}],
                "users": [{"name": user.name, "user": {"token": token}}],
                "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": user.name}}],
            });
            write_private(&self.kubeconfig(user), &format!("{config:#}\n"))?;
        }
        let ports = json!([self.api_port, self.etcd_port]);
        write_private(&self.ports_file(), &ports.to_string())?;
        write_private(&self.audit_policy_file(), AUDIT_POLICY)?;
        write_private(&self.tokens_file(), &tokens)
    }

    /// The layout of an API-only cluster whose credentials are in this folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(state: &Path) -> Result<Self> {
        let layout = Self {
            state: state.to_path_buf(),
            lifetime: Lifetime::Bound,
            network: None,
            address: Ipv4Addr::LOCALHOST,
            api_port: 0,
            etcd_port: 0,
            users: Vec::new(),
        };
        let file = layout.ports_file();
        let ports = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let [api_port, etcd_port] = serde_json::from_slice(&ports)?;
        Ok(Self { api_port, etcd_port, ..layout })
    }

    /// The audit log of the services' requests, one JSON object a line.
    pub fn audit_file(&self) -> PathBuf {
        self.logs().join("audit.jsonl")
    }

    fn ports_file(&self) -> PathBuf {
        self.state.join("ports.json")
    }

    fn audit_policy_file(&self) -> PathBuf {
        self.state.join("audit-policy.yaml")
    }

    fn tokens_file(&self) -> PathBuf {
        self.state.join("tokens.csv")
    }
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// Starts etcd.
///
/// # Errors
/// When the program is missing.
pub fn start_etcd(layout: &Layout) -> Result<Process> {
    let url = format!("http://127.0.0.1:{}", layout.etcd_port);
    layout
        .spawn("etcd", Tool::ETCD.path()?)
        .arg("--unsafe-no-fsync") // the data need not survive a crash
        .arg("--data-dir")
        .arg(layout.etcd_folder())
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", "http://localhost:0"])
        .args(["--log-level", "warn", "--quota-backend-bytes", "2147483648"])
        .start()
}

/// Waits until etcd serves.
///
/// # Errors
/// When it does not in time.
pub fn wait_for_etcd(layout: &Layout, etcd: &mut Process) -> Result<()> {
    etcd.wait_for_port(layout.etcd_port, Deadline::seconds(START_SECONDS))
}

/// The kind of API server of a test cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiServerKind {
    /// No controllers: a Pod needs no service account.
    Bare,
    /// With a controller manager beside it.
    Controllers,
    /// With nodes.
    Nodes,
}

/// Starts kube-apiserver; without `streamed_lists` it cannot stream lists, as before Kubernetes
/// 1.34.
///
/// # Errors
/// When the program is missing.
pub fn start_api_server(
    layout: &Layout,
    kind: ApiServerKind,
    streamed_lists: bool,
) -> Result<Process> {
    let key = layout.key_file();
    let mut spawn = layout
        .spawn("kube-apiserver", Tool::KUBE_APISERVER.path()?)
        // Memory for processor time: a tenth less of it per start.
        .env("GOGC", "300")
        .arg(format!("--etcd-servers=http://127.0.0.1:{}", layout.etcd_port))
        .arg(format!("--cert-dir={}", layout.certs().display()))
        .arg(format!("--bind-address={}", layout.address))
        .arg(format!("--secure-port={}", layout.api_port))
        .arg(format!("--token-auth-file={}", layout.tokens_file().display()))
        .arg(format!("--audit-policy-file={}", layout.audit_policy_file().display()))
        .arg(format!("--audit-log-path={}", layout.audit_file().display()))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(format!("--service-account-key-file={}", key.display()))
        .arg(format!("--service-account-signing-key-file={}", key.display()))
        .arg(format!("--service-cluster-ip-range={SERVICE_CIDR}"))
        .arg("--allow-privileged");
    spawn = match kind {
        ApiServerKind::Nodes => spawn
            .arg(format!("--advertise-address={}", layout.address))
            .args(["--authorization-mode=Node,RBAC", "--endpoint-reconciler-type=master-count"])
            .arg("--kubelet-preferred-address-types=InternalIP"),
        ApiServerKind::Controllers | ApiServerKind::Bare => {
            // endpoints may not be loopback addresses
            spawn.args(["--authorization-mode=RBAC", "--endpoint-reconciler-type=none"])
        }
    };
    if !streamed_lists {
        spawn = spawn.arg("--feature-gates=WatchList=false");
    }
    if kind == ApiServerKind::Bare {
        spawn = spawn.arg("--disable-admission-plugins=ServiceAccount");
    }
    spawn.start()
}

/// Waits until all of the API server is ready.
///
/// # Errors
/// When it is not in time.
pub fn wait_for_api_server(layout: &Layout, server: &mut Process) -> Result<()> {
    let cluster = layout.cluster();
    server.wait(Deadline::seconds(START_SECONDS), "/readyz", |_| match layout.network {
        None => is_ready(layout),
        Some(_) => Ok(cluster.kubectl(&["get", "--raw=/readyz"])? == "ok"),
    })
}

/// Asks an API server of this machine's network whether it is ready. It is asked many times while it
/// starts, and each kubectl would take CPU time from it.
fn is_ready(layout: &Layout) -> Result<bool> {
    let tls = admission::tls(&fs::read_to_string(layout.ca_file())?)?;
    let tls = ClientConnection::new(tls, ServerName::from(IpAddr::V4(layout.address)))?;
    let address = SocketAddr::from((layout.address, layout.api_port));
    let mut stream = StreamOwned::new(tls, http::connect(address)?);
    Ok(http::over(&mut stream, "localhost", "GET", "/readyz", &[], None)?.is_success())
}

/// Starts kube-controller-manager; `pod_cidr` where it gives nodes their share of Pod addresses.
///
/// # Errors
/// When the program is missing.
pub fn start_controller_manager(layout: &Layout, pod_cidr: Option<&str>) -> Result<Process> {
    let spawn = layout
        .spawn("kube-controller-manager", Tool::KUBE_CONTROLLER_MANAGER.path()?)
        .arg(format!("--kubeconfig={}", layout.kubeconfig(CONTROLLER_MANAGER).display()))
        .arg(format!("--service-account-private-key-file={}", layout.key_file().display()))
        .arg(format!("--root-ca-file={}", layout.ca_file().display()))
        .args(["--use-service-account-credentials", "--leader-elect=false"])
        // its default folder is below /usr
        .arg(format!("--flex-volume-plugin-dir={}", layout.state.join("flexvolumes").display()))
        .args(["--bind-address=127.0.0.1", "--secure-port=0"]);
    match pod_cidr {
        Some(cidr) => spawn.arg("--allocate-node-cidrs").arg(format!("--cluster-cidr={cidr}")),
        None => spawn,
    }
    .start()
}

/// Starts kube-scheduler.
///
/// # Errors
/// When the program is missing.
pub fn start_scheduler(layout: &Layout) -> Result<Process> {
    layout
        .spawn("kube-scheduler", Tool::KUBE_SCHEDULER.path()?)
        .arg(format!("--kubeconfig={}", layout.kubeconfig(SCHEDULER).display()))
        .args(["--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"])
        .start()
}

/// Waits until Pods of the default service account are admitted.
///
/// # Errors
/// When the controllers have not created the account in time.
pub fn wait_for_service_account(cluster: &Cluster, controllers: &mut Process) -> Result<()> {
    let what = "service account default";
    controllers.wait(Deadline::seconds(START_SECONDS), what, |_| {
        Ok(wait_until_created(cluster, &["serviceaccount/default"]).is_ok())
    })
}

/// Lets kubectl watch for a few seconds until an object exists: one program instead of one for each
/// look.
///
/// # Errors
/// When there is no such object by then.
pub(super) fn wait_until_created(cluster: &Cluster, object: &[&str]) -> Result<()> {
    let wait = ["wait", "--for=create", "--timeout=5s"];
    cluster.kubectl(&[&wait[..], object].concat()).map(drop)
}
