//! The services as processes in a shell of their own. Operator and injector have an API server and a
//! sentry beside them, which no fault meets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use blackbox::injector_fixture::registration_without_rules;
use blackbox::{
    ApiCluster, Ports, Process, Scratch, Spawn, build_binary, environment, http, movable_clock,
    soon, until,
};

/// Time in which a process that is not stopped answers.
const MOMENT: Duration = Duration::from_secs(1);

/// The namespace of the control plane.
const NAMESPACE: &str = "mesh";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Sentry,
    Placement,
    Scheduler,
    Operator,
    Injector,
}

/// The peers of operator and injector.
struct ControlPlane {
    api: ApiCluster,
    sentry: Running,
}

impl ControlPlane {
    fn start() -> Self {
        let (api, sentry) = (ApiCluster::start().unwrap(), Running::start(What::Sentry));
        let crds = environment::workspace().join("crds");
        api.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()]).unwrap();
        api.kubectl(&["wait", "crd", "--all", "--for=condition=Established"]).unwrap();
        api.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
        let port = sentry.ports.main;
        api.apply(&format!(
            "
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {NAMESPACE}}}
spec: {{mtls: {{enabled: true, controlPlaneTrustDomain: cluster.local, sentryAddress: '127.0.0.1:{port}'}}}}
---{}",
            registration_without_rules(NAMESPACE)
        ))
        .unwrap();
        Self { api, sentry }
    }

    fn of(what: What) -> Option<Box<Self>> {
        matches!(what, What::Operator | What::Injector).then(|| Box::new(Self::start()))
    }

    /// The flags and variables by which operator and injector find their peers. The operator reads the
    /// address of sentry from the Configuration.
    fn known_to(&self, what: What, spawn: Spawn) -> Spawn {
        let anchors = self.sentry.folder.path().join("ca.crt");
        let spawn =
            spawn.arg("--kubeconfig").arg(self.api.kubeconfig()).env("NAMESPACE", NAMESPACE);
        if what == What::Operator {
            return spawn.arg("--trust-anchors-file").arg(anchors);
        }
        spawn
            .env("DAPR_TRUST_ANCHORS_FILE", anchors)
            .env("DAPR_SENTRY_ADDRESS", format!("127.0.0.1:{}", self.sentry.ports.main))
    }
}

/// A running service.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) ports: Ports,
    what: What,
    script: String,
    peers: u16,
    folder: Scratch,
    control_plane: Option<Box<ControlPlane>>,
}

impl Running {
    pub(crate) fn start(what: What) -> Self {
        Self::start_with(what, "exec \"$@\"")
    }

    /// Starts it by a script of the shell, which ends in `exec "$@"`.
    pub(crate) fn start_with(what: What, script: &str) -> Self {
        Self::start_in(what, script, Scratch::new("faults").unwrap())
    }

    /// Starts it with a wall clock that [`Running::jump`] moves.
    pub(crate) fn with_clock(what: What) -> Self {
        let folder = Scratch::new("faults").unwrap();
        let clock = movable_clock(&folder).unwrap();
        let clock = clock.map(|(name, path)| format!("{name}={}", path.display())).join(" ");
        let script = format!("export {clock}; exec \"$@\"");
        Self::start_in(what, &script, folder)
    }

    fn start_in(what: What, script: &str, folder: Scratch) -> Self {
        folder.write("config.yaml", "").unwrap();
        let (ports, peers) = (Ports::free().unwrap(), environment::free_port().unwrap());
        let control_plane = ControlPlane::of(what);
        let process = spawn(what, script, ports, peers, folder.path(), control_plane.as_deref());
        let script = script.to_owned();
        let mut running = Self { process, ports, what, script, peers, folder, control_plane };
        running.wait_healthy();
        running
    }

    /// Starts it again after its end.
    pub(crate) fn restart(&mut self) {
        self.spawn();
        self.wait_healthy();
    }

    /// As [`Running::restart`], without waiting for it.
    pub(crate) fn spawn(&mut self) {
        let (folder, control_plane) = (self.folder.path(), self.control_plane.as_deref());
        self.process =
            spawn(self.what, &self.script, self.ports, self.peers, folder, control_plane);
    }

    /// Whether SIGSTOP has taken effect.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = format!("/proc/{}/stat", self.process.pid().as_raw_nonzero());
        std::fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") T "))
    }

    pub(crate) fn wait_healthy(&mut self) {
        self.process.wait_for_http(self.ports.healthz, "/healthz", soon()).unwrap();
    }

    /// Moves the wall clock.
    pub(crate) fn jump(&self, seconds: &str) {
        self.folder.write("offset", seconds).unwrap();
    }

    /// What it keeps on disk and must not lose: sentry's CA.
    pub(crate) fn state(&self) -> Vec<Option<String>> {
        let files = ["ca.crt", "issuer.crt", "issuer.key"];
        let read = |name: &&str| std::fs::read_to_string(self.folder.path().join(name)).ok();
        let state: Vec<_> = files.iter().map(read).collect();
        assert!(self.what != What::Sentry || state.iter().all(Option::is_some), "no CA");
        state
    }

    /// Whether its health port answers within a moment.
    pub(crate) fn answers(&self) -> bool {
        let health = SocketAddr::from(([127, 0, 0, 1], self.ports.healthz));
        let Ok(mut stream) = TcpStream::connect(health) else { return false };
        let _ = stream.set_read_timeout(Some(MOMENT));
        let _ = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
        stream.read(&mut [0]).is_ok_and(|read| read > 0)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.main))
    }

    /// Whether its main port speaks TLS or HTTP/2.
    pub(crate) fn accepts(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address()) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_mins(1)));
        if matches!(self.what, What::Sentry | What::Operator | What::Injector) {
            // An alert answers what is no handshake.
            let _ = stream.write_all(&[22, 3, 1, 0, 4, 1, 0, 0, 0]);
        } else {
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        }
        stream.read(&mut [0; 9]).is_ok_and(|read| read > 0)
    }

    /// The sum of a metric over its series.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.ports.metrics, "/").unwrap().body;
        let series = text.lines().filter(|line| line.starts_with(name));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn limit_hits(&self) -> f64 {
        self.metric("trilby_server_limit_hits_total")
    }
}

fn spawn(
    what: What,
    script: &str,
    ports: Ports,
    peers: u16,
    folder: &Path,
    control_plane: Option<&ControlPlane>,
) -> Process {
    let (name, program) = match what {
        What::Sentry => ("sentry", build_binary("sentry").unwrap()),
        What::Placement => ("placement", build_binary("placement").unwrap()),
        What::Scheduler => ("scheduler", build_binary("scheduler").unwrap()),
        What::Operator => ("operator", build_binary("operator").unwrap()),
        What::Injector => ("injector", build_binary("injector").unwrap()),
    };
    let mut spawn = Spawn::new(name, "/bin/sh", folder).args(["-c", script, "sh"]).arg(program);
    spawn = match what {
        What::Sentry => spawn
            .args(["--mode=standalone", "--trust-domain=cluster.local"])
            .args(["--config=config.yaml", "--issuer-credentials=."]),
        What::Placement => {
            spawn.arg(format!("--initial-cluster=dapr-placement-0=127.0.0.1:{peers}"))
        }
        What::Scheduler => {
            let etcd = environment::free_port().unwrap();
            spawn.arg("--etcd-data-dir=data").arg(format!("--etcd-client-port={etcd}"))
        }
        What::Operator => spawn.arg("--disable-leader-election").env("ENABLE_WEBHOOKS", "false"),
        What::Injector => spawn
            .env("SIDECAR_IMAGE", "ghcr.io/dapr/daprd:1.18.3")
            .env("KUBE_CLUSTER_DOMAIN", "cluster.local"),
    };
    spawn = spawn.service_at(ports).folder(folder);
    spawn = match (what, control_plane) {
        (What::Sentry, _) => spawn.env("NAMESPACE", NAMESPACE),
        (_, Some(control_plane)) => control_plane.known_to(what, spawn),
        (_, None) => spawn.env_remove("NAMESPACE"),
    };
    let mut process = spawn.start().unwrap();
    until(soon(), "the program to run", || Ok(process.is_running().then_some(()))).unwrap();
    process
}
