//! Processes around the scheduler: itself, a placement, official sidecars with an app.

pub(crate) mod cluster;
pub(crate) mod etcd_server;
pub(crate) mod load;
pub(crate) mod member;
pub(crate) mod proxy;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use blackbox::{
    ACTOR_STATE, Daprd, Process, Scratch, Spawn, Tool, TriggerApp, build_binary, environment, http,
    soon, until,
};

/// A scheduler process that can be started again on its ports and its directory.
pub(crate) struct Scheduler {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
    /// Of the etcd API.
    pub(crate) client: u16,
    flags: Vec<String>,
    folder: Arc<Scratch>,
    program: PathBuf,
}

impl Scheduler {
    pub(crate) fn start() -> Self {
        Self::start_with(environment::free_port().unwrap(), &[])
    }

    /// One whose etcd API is on that port, with more flags.
    pub(crate) fn start_with(client: u16, flags: &[&str]) -> Self {
        let mut scheduler =
            Self::launch(build_binary("scheduler").unwrap(), new_folder(), client, flags);
        scheduler.wait_healthy();
        scheduler
    }

    /// Dapr's own.
    pub(crate) fn start_reference() -> Self {
        Self::start_on(Tool::REFERENCE_SCHEDULER.path().unwrap(), &new_folder(), &[])
    }

    /// Either program, on a directory that others may have had before.
    pub(crate) fn start_on(program: PathBuf, folder: &Arc<Scratch>, flags: &[&str]) -> Self {
        let mut scheduler = Self::launch_on(program, folder, flags);
        scheduler.wait_healthy();
        scheduler
    }

    /// The same, without waiting until it is ready.
    pub(crate) fn launch_on(program: PathBuf, folder: &Arc<Scratch>, flags: &[&str]) -> Self {
        Self::launch(program, folder.clone(), environment::free_port().unwrap(), flags)
    }

    fn launch(program: PathBuf, folder: Arc<Scratch>, client: u16, flags: &[&str]) -> Self {
        let [port, health, metrics, peer] = [(); 4].map(|()| environment::free_port().unwrap());
        let data = folder.path().join("data");
        let mut all = vec![
            format!("--port={port}"),
            format!("--healthz-port={health}"),
            format!("--metrics-port={metrics}"),
            format!("--etcd-client-port={client}"),
            format!("--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{peer}"),
            format!("--etcd-data-dir={}", data.display()),
            "--listen-address=127.0.0.1".to_owned(),
            "--healthz-listen-address=127.0.0.1".to_owned(),
        ];
        all.extend(flags.iter().map(ToString::to_string));
        let process = spawn(&program, &folder, &all);
        Self { process, port, health, metrics, client, flags: all, folder, program }
    }

    /// Starts it again after its end.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.program, &self.folder, &self.flags);
        self.wait_healthy();
    }

    /// Ends it as a crash would, and starts it again.
    pub(crate) fn crash(&mut self) {
        self.process.kill();
        self.restart();
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        self.process.terminate(soon()).unwrap();
    }

    pub(crate) fn wait_healthy(&mut self) {
        self.process.wait_for_http(self.health, "/healthz", soon()).unwrap();
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// A directory for schedulers.
pub(crate) fn new_folder() -> Arc<Scratch> {
    Arc::new(Scratch::new("scheduler").unwrap())
}

fn spawn(program: &Path, folder: &Scratch, flags: &[String]) -> Process {
    Spawn::new("scheduler", program.to_owned(), folder.path())
        .args(flags)
        .env_remove("NAMESPACE")
        .start()
        .unwrap()
}

/// Waits until the health port of a scheduler answers with a status.
pub(crate) fn wait_for_health(port: u16, status: u16) -> Result<()> {
    until(soon(), &format!("/healthz to answer {status}"), || {
        Ok((http::get(port, "/healthz")?.status == status).then_some(()))
    })
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
        let resources = Scratch::new("resources").unwrap();
        let mut builder = Daprd::builder(name)
            .version(version)
            .resources(resources.path())
            .scheduler(&scheduler.address())
            .arg(format!("--app-port={}", app.port()))
            .on_loopback();
        if let Some(placement) = placement {
            resources.write("store.yaml", ACTOR_STATE).unwrap();
            builder = builder.placement(&placement.address());
        }
        let mut daprd = builder.start().unwrap();
        daprd.wait_ready(soon()).unwrap();
        Self { daprd, _resources: resources }
    }
}
