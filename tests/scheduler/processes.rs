//! Processes around the scheduler: itself, a placement, official sidecars with an app.

use std::path::PathBuf;

use blackbox::{
    Daprd, Deadline, Process, Scratch, Spawn, Tool, TriggerApp, build_binary, environment,
};

const STATE_STORE: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.in-memory
  version: v1
  metadata: [{name: actorStateStore, value: 'true'}]
";

pub(crate) fn soon() -> Deadline {
    Deadline::seconds(60)
}

/// A scheduler process that can be started again on its ports and its directory.
pub(crate) struct Scheduler {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
    /// Of the etcd API.
    pub(crate) client: u16,
    flags: Vec<String>,
    folder: Scratch,
    program: PathBuf,
}

impl Scheduler {
    pub(crate) fn start() -> Self {
        Self::start_with(environment::free_port().unwrap(), &[])
    }

    /// One whose etcd API is on that port, with more flags.
    pub(crate) fn start_with(client: u16, flags: &[&str]) -> Self {
        let [port, health, metrics] = [(); 3].map(|()| environment::free_port().unwrap());
        let ports = [port, health, metrics, client];
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let folder = Scratch::new("scheduler").unwrap();
        let program = build_binary("scheduler").unwrap();
        let process = spawn(&program, &folder, ports, &flags);
        let mut scheduler = Self { process, port, health, metrics, client, flags, folder, program };
        scheduler.wait_healthy();
        scheduler
    }

    /// Starts it again after its end.
    pub(crate) fn restart(&mut self) {
        let ports = [self.port, self.health, self.metrics, self.client];
        self.process = spawn(&self.program, &self.folder, ports, &self.flags);
        self.wait_healthy();
    }

    /// Ends it as a crash would, and starts it again.
    pub(crate) fn crash(&mut self) {
        self.process.kill();
        self.restart();
    }

    fn wait_healthy(&mut self) {
        self.process.wait_for_http(self.health, "/healthz", soon()).unwrap();
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn spawn(program: &PathBuf, folder: &Scratch, ports: [u16; 4], flags: &[String]) -> Process {
    let [port, health, metrics, client] = ports;
    Spawn::new("scheduler", program, folder.path())
        .arg(format!("--port={port}"))
        .arg(format!("--healthz-port={health}"))
        .arg(format!("--metrics-port={metrics}"))
        .arg(format!("--etcd-client-port={client}"))
        .arg(format!("--etcd-data-dir={}", folder.path().join("data").display()))
        .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
        .args(flags)
        .env_remove("NAMESPACE")
        .start()
        .unwrap()
}

/// A placement process, without which sidecars host no actors.
pub(crate) struct Placement {
    _process: Process,
    port: u16,
    _folder: Scratch,
}

impl Placement {
    pub(crate) fn start() -> Self {
        let [port, health, metrics, peers] = [(); 4].map(|()| environment::free_port().unwrap());
        let folder = Scratch::new("placement").unwrap();
        let program = build_binary("placement").unwrap();
        let mut process = Spawn::new("placement", program, folder.path())
            .arg(format!("--port={port}"))
            .arg(format!("--healthz-port={health}"))
            .arg(format!("--metrics-port={metrics}"))
            .arg(format!("--initial-cluster=dapr-placement-0=127.0.0.1:{peers}"))
            .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
            .env_remove("NAMESPACE")
            .start()
            .unwrap();
        process.wait_for_http(health, "/healthz", soon()).unwrap();
        Self { _process: process, port, _folder: folder }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// An official sidecar beside an app.
pub(crate) struct Sidecar {
    pub(crate) daprd: Daprd,
    _resources: Scratch,
}

impl Sidecar {
    pub(crate) fn start(
        version: Tool,
        name: &str,
        app: &TriggerApp,
        scheduler: &Scheduler,
        placement: Option<&Placement>,
    ) -> Self {
        Self::start_at(version, name, app, scheduler.port, placement)
    }

    /// The same, with a scheduler on that port of 127.0.0.1.
    pub(crate) fn start_at(
        version: Tool,
        name: &str,
        app: &TriggerApp,
        scheduler: u16,
        placement: Option<&Placement>,
    ) -> Self {
        let resources = Scratch::new("resources").unwrap();
        let mut builder = Daprd::builder(name)
            .version(version)
            .arg(format!("--resources-path={}", resources.path().display()))
            .arg(format!("--scheduler-host-address=127.0.0.1:{scheduler}"))
            .arg(format!("--app-port={}", app.port()))
            .arg("--dapr-internal-grpc-listen-address=127.0.0.1")
            .env("DAPR_HOST_IP", "127.0.0.1");
        if let Some(placement) = placement {
            resources.write("store.yaml", STATE_STORE).unwrap();
            builder = builder.arg(format!("--placement-host-address={}", placement.address()));
        }
        let mut daprd = builder.start().unwrap();
        daprd.wait_ready(soon()).unwrap();
        Self { daprd, _resources: resources }
    }
}
