//! The official sidecar as a process.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{Deadline, Process, Scratch, Spawn, Tool, environment, http};

/// A Component that keeps the state of actors in daprd itself, as YAML.
pub const ACTOR_STATE: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.in-memory
  version: v1
  metadata: [{name: actorStateStore, value: 'true'}]
";

/// Variables of the test runner that could change daprd's behaviour.
const INHERITED: [&str; 5] =
    ["KUBECONFIG", "NAMESPACE", "POD_NAME", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// A sidecar to be started. Ports are free ones of 127.0.0.1; the caller sets the rest.
#[derive(Clone, Debug)]
pub struct DaprdBuilder {
    tool: Tool,
    app_id: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    listed: bool,
    addresses: Vec<String>,
}

impl DaprdBuilder {
    /// Sets another version than the newest.
    #[must_use]
    pub fn version(mut self, tool: Tool) -> Self {
        self.tool = tool;
        self
    }

    /// Adds one argument, such as `--mode=kubernetes`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments, such as those of an injected container. Its own ports and app id win.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Loads the resources of a folder.
    #[must_use]
    pub fn resources(self, folder: &Path) -> Self {
        self.arg(format!("--resources-path={}", folder.display()))
    }

    /// Connects it to a scheduler, `host:port`.
    #[must_use]
    pub fn scheduler(self, address: &str) -> Self {
        self.arg(format!("--scheduler-host-address={address}"))
    }

    /// Connects it to a placement, `host:port`.
    #[must_use]
    pub fn placement(self, address: &str) -> Self {
        self.arg(format!("--placement-host-address={address}"))
    }

    /// Listens for other sidecars on 127.0.0.1 alone, and announces that address.
    #[must_use]
    pub fn on_loopback(self) -> Self {
        self.arg("--dapr-internal-grpc-listen-address=127.0.0.1").env("DAPR_HOST_IP", "127.0.0.1")
    }

    /// Runs it under the name `daprd`, by which `dapr list` and other commands of the CLI find it.
    #[must_use]
    pub fn listed(mut self) -> Self {
        self.listed = true;
        self
    }

    /// Serves its APIs at one more address.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// When daprd is missing and cannot be built.
    pub fn start(self) -> Result<Daprd> {
        let scratch = Scratch::new("daprd")?;
        let mut ports = [0_u16; 5];
        for port in &mut ports {
            *port = environment::free_port()?;
        }
        let [http_port, grpc_port, internal_port, public_port, metrics_port] = ports;
        let mut program = self.tool.path()?;
        if self.listed {
            let link = scratch.path().join("daprd");
            std::os::unix::fs::symlink(program, &link)?;
            program = link;
        }
        // Go's flag package lets the last one win.
        let mut spawn = Spawn::new("daprd", program, scratch.path())
            .args(self.args)
            .args(["--app-id", &self.app_id])
            .arg(format!("--dapr-http-port={http_port}"))
            .arg(format!("--dapr-grpc-port={grpc_port}"))
            .arg(format!("--dapr-internal-grpc-port={internal_port}"))
            .arg(format!("--dapr-public-port={public_port}"))
            .arg(format!("--metrics-port={metrics_port}"))
            .arg(format!("--dapr-listen-addresses={}", self.addresses.join(",")))
            .folder(scratch.path());
        for name in INHERITED {
            spawn = spawn.env_remove(name);
        }
        for (name, value) in self.env {
            spawn = spawn.env(name, value);
        }
        let process = spawn.start()?;
        Ok(Daprd {
            process,
            http_port,
            grpc_port,
            internal_port,
            public_port,
            metrics_port,
            app_id: self.app_id,
            _scratch: scratch,
        })
    }
}

/// A running official sidecar.
#[derive(Debug)]
pub struct Daprd {
    process: Process,
    /// Port of its HTTP API.
    pub http_port: u16,
    /// Port of its gRPC API.
    pub grpc_port: u16,
    /// Port where other sidecars call it.
    pub internal_port: u16,
    /// Port of its public health endpoint.
    pub public_port: u16,
    /// Port of its metrics.
    pub metrics_port: u16,
    app_id: String,
    _scratch: Scratch,
}

impl Daprd {
    /// The newest official sidecar for that app.
    pub fn builder(app_id: &str) -> DaprdBuilder {
        DaprdBuilder {
            tool: Tool::DAPRD,
            app_id: app_id.to_owned(),
            args: vec!["--enable-metrics=true".to_owned()],
            env: Vec::new(),
            listed: false,
            addresses: vec!["127.0.0.1".to_owned()],
        }
    }

    /// The app it was started for.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// Waits until `/v1.0/healthz` reports ready, its app included.
    ///
    /// # Errors
    /// When it ends before, or at the deadline; with the end of its log.
    pub fn wait_ready(&mut self, deadline: Deadline) -> Result<()> {
        self.process.wait_for_http(self.http_port, "/v1.0/healthz", deadline)
    }

    /// Waits until `/v1.0/healthz/outbound` reports ready, its app excepted.
    ///
    /// # Errors
    /// As [`Daprd::wait_ready`].
    pub fn wait_outbound_ready(&mut self, deadline: Deadline) -> Result<()> {
        self.process.wait_for_http(self.http_port, "/v1.0/healthz/outbound", deadline)
    }

    /// Its metadata: components, subscriptions, actors.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub fn metadata(&self) -> Result<Value> {
        let answer = http::get(self.http_port, "/v1.0/metadata")?;
        if !answer.is_success() {
            bail!("metadata of {}: HTTP {}: {}", self.app_id, answer.status, answer.body);
        }
        answer.json()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// For tests that stop or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The daprd program itself, for images.
    ///
    /// # Errors
    /// When it is missing and cannot be built.
    pub fn program() -> Result<PathBuf> {
        Tool::DAPRD.path()
    }

    /// Where its standard output and error go.
    pub fn log_file(&self) -> &Path {
        self.process.log_file()
    }
}
