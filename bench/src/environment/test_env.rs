//! The environment of a row: a real API server with the custom resources, an authority that gives
//! both sides their certificates, and either side's services as processes with the same flags.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use blackbox::injector_fixture::registration_without_rules;
use blackbox::{
    ApiCluster, Deadline, Ports, Process, Scratch, Service, Spawn, environment, http, process,
    procfs,
};
use runtime::clock::monotonic;

use crate::environment::authority::Authority;
use crate::environment::programs::Programs;
use crate::environment::usage::{self, Memory};
use crate::side::Side;

/// The control plane's namespace.
pub const NAMESPACE: &str = "dapr-system";
/// The control plane's trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Where a cluster would mount the bundle into sentry's pod; both sentries watch it.
const MOUNT: &str = "mount";
/// How long a service may take to be ready.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Interval between readiness polls: the error of a start time.
const POLL: Duration = Duration::from_millis(1);

/// A cluster without nodes, prepared as the chart prepares one.
#[derive(Debug)]
pub struct TestEnv {
    // Dropped in this order: services before the folder with their files, the test cluster last.
    authority: Running,
    folder: Scratch,
    api: ApiCluster,
}

impl TestEnv {
    /// Starts the test cluster and the authority: our sentry, self-hosted, whose certificates both
    /// sides use, so that no difference between two sentries shows in a row about something else.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(programs: &Programs) -> Result<Self> {
        let api = ApiCluster::start()?;
        let crds = environment::workspace().join("crds");
        api.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()])?;
        api.kubectl(&["create", "namespace", NAMESPACE])?;
        api.kubectl(&["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"])?;
        let folder = Scratch::new("bench")?;
        fs::create_dir_all(folder.path().join(MOUNT))?;
        let authority = start_authority(programs, &folder)?;
        api.apply(&control_plane_objects(authority.port))?;
        Ok(Self { authority, folder, api })
    }

    /// The cluster.
    pub fn api(&self) -> &ApiCluster {
        &self.api
    }

    /// A folder that is removed with the environment.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority as clients of both sides know it.
    ///
    /// # Errors
    /// When its trust anchors cannot be read.
    pub fn authority(&self) -> Result<Authority> {
        Ok(Authority {
            sentry: self.authority.address(),
            anchors: fs::read_to_string(self.anchors())?,
            trust_domain: TRUST_DOMAIN.to_owned(),
            namespace: NAMESPACE.to_owned(),
        })
    }

    /// The trust anchors of both sides, a PEM file.
    pub fn anchors(&self) -> PathBuf {
        self.folder.path().join("credentials/ca.crt")
    }

    /// A service of one side with the flags that its chart gives it, not started yet; `more`
    /// follows them.
    ///
    /// # Errors
    /// When the machine has no free port or the row did not name the service.
    pub fn service(
        &self,
        programs: &Programs,
        side: Side,
        service: Service,
        more: &[&str],
    ) -> Result<Start> {
        let name = format!("{}-{}", side.name(), service.binary());
        let start = Start::new(&name, service, programs.path(side, service)?, self.folder.path())?;
        let anchors = self.anchors();
        let data = self.folder.path().join(format!("{name}-data"));
        let start = match service {
            Service::Sentry => start
                .flag("--kubeconfig", self.api.kubeconfig())
                .flag("--issuer-credentials", &self.folder.path().join(MOUNT))
                .args(&["--mode=kubernetes", &format!("--trust-domain={TRUST_DOMAIN}")]),
            Service::Operator => start
                .flag("--kubeconfig", self.api.kubeconfig())
                .flag("--trust-anchors-file", &anchors)
                .args(&[
                    // The reference cannot elect outside a cluster, so neither side does.
                    "--disable-leader-election",
                    "--webhook-server-listen-address=127.0.0.1",
                    &format!("--webhook-server-port={}", environment::free_port()?),
                ])
                .args(match side {
                    Side::Trilby | Side::Baseline => &["--watch-secrets"], // the default of our chart
                    Side::Reference => &[],
                }),
            Service::Injector => start
                .flag("--kubeconfig", self.api.kubeconfig())
                .env("DAPR_TRUST_ANCHORS_FILE", &anchors.to_string_lossy())
                .env("DAPR_SENTRY_ADDRESS", &format!("127.0.0.1:{}", self.authority.port))
                .env("SIDECAR_IMAGE", "ghcr.io/dapr/daprd:1.18.3")
                .env("KUBE_CLUSTER_DOMAIN", TRUST_DOMAIN),
            Service::Placement => start.flag("--trust-anchors-file", &anchors).args(&[
                "--tls-enabled",
                &format!("--sentry-address=127.0.0.1:{}", self.authority.port),
                &format!("--trust-domain={TRUST_DOMAIN}"),
                &format!(
                    "--initial-cluster=dapr-placement-0=127.0.0.1:{}",
                    environment::free_port()?
                ),
            ]),
            Service::Scheduler => {
                // Each start is a first start: nothing is left of an earlier round.
                if data.exists() {
                    fs::remove_dir_all(&data)?;
                }
                start.flag("--trust-anchors-file", &anchors).flag("--etcd-data-dir", &data).args(&[
                    "--tls-enabled",
                    "--id=dapr-scheduler-server-0",
                    &format!("--sentry-address=127.0.0.1:{}", self.authority.port),
                    &format!("--trust-domain={TRUST_DOMAIN}"),
                    &format!(
                        "--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{}",
                        environment::free_port()?
                    ),
                    &format!("--etcd-client-port={}", environment::free_port()?),
                ])
            }
        };
        Ok(start.args(more))
    }

    /// A sentry outside of Kubernetes with the CA of the authority and this Configuration, started.
    ///
    /// # Errors
    /// When it does not start.
    pub fn standalone_sentry(
        &self,
        programs: &Programs,
        side: Side,
        what: &str,
        settings: &str,
    ) -> Result<Running> {
        let program = programs.path(side, Service::Sentry)?;
        standalone(program, &self.folder, &format!("{}-{what}", side.name()), settings)
    }
}

fn start_authority(programs: &Programs, folder: &Scratch) -> Result<Running> {
    let settings = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\n\
        metadata: {name: daprsystem}\nspec: {mtls: {enabled: true}}\n";
    standalone(programs.path(Side::Trilby, Service::Sentry)?, folder, "authority", settings)
}

fn standalone(program: &Path, folder: &Scratch, name: &str, settings: &str) -> Result<Running> {
    let credentials = folder.path().join("credentials");
    fs::create_dir_all(&credentials)?;
    let config = folder.write(&format!("{name}.yaml"), settings)?;
    let start = Start::new(name, Service::Sentry, program, folder.path())?
        .flag("--config", &config)
        .flag("--issuer-credentials", &credentials)
        .args(&["--mode=standalone", &format!("--trust-domain={TRUST_DOMAIN}")]);
    start.ready().map(|(running, _)| running)
}

/// A scenario that wants the injector called replaces its registration.
fn control_plane_objects(authority_port: u16) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {NAMESPACE}}}
spec:
  mtls:
    enabled: true
    controlPlaneTrustDomain: {TRUST_DOMAIN}
    sentryAddress: 127.0.0.1:{authority_port}
    workloadCertTTL: 24h
    allowedClockSkew: 15m
---
apiVersion: v1
kind: Secret
metadata: {{name: dapr-trust-bundle, namespace: {NAMESPACE}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: dapr-trust-bundle, namespace: {NAMESPACE}}}
---{}",
        registration_without_rules(NAMESPACE)
    )
}

/// A service to be started on 127.0.0.1, with its own ports.
#[derive(Debug)]
pub struct Start {
    spawn: Spawn,
    ports: Ports,
}

impl Start {
    /// The program of a service of either side, with the environment of our images.
    ///
    /// # Errors
    /// When the machine has no free port.
    pub fn new(name: &str, service: Service, program: &Path, logs: &Path) -> Result<Self> {
        Ok(Self::at(Ports::free()?, name, service, program, logs))
    }

    /// The same on given ports.
    pub fn at(ports: Ports, name: &str, service: Service, program: &Path, logs: &Path) -> Self {
        let spawn = Spawn::new(name, program, logs).service_at(ports).env("NAMESPACE", NAMESPACE);
        let spawn = service.environment().iter().fold(spawn, |spawn, (k, v)| spawn.env(k, v));
        Self { spawn, ports }
    }

    /// The dashboard of a cluster, with the environment of its image.
    ///
    /// # Errors
    /// When the machine has no free port.
    pub fn dashboard(program: &Path, kubeconfig: &Path, logs: &Path) -> Result<Self> {
        let ports = Ports::free()?;
        let Ports { main, healthz, metrics } = ports;
        let spawn = Spawn::new("dashboard", program, logs)
            .args([format!("--port={main}"), format!("--namespace={NAMESPACE}")])
            .args([format!("--healthz-port={healthz}"), format!("--metrics-port={metrics}")])
            .args(["--healthz-listen-address=127.0.0.1", "--metrics-listen-address=127.0.0.1"])
            .arg("--kubeconfig")
            .arg(kubeconfig);
        let environment = Service::Operator.environment().iter(); // as its image
        let spawn = environment.fold(spawn, |spawn, (name, value)| spawn.env(name, value));
        Ok(Self { spawn, ports })
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.spawn = self.spawn.args(args);
        self
    }

    /// Adds a flag with a path.
    #[must_use]
    pub fn flag(mut self, name: &str, path: &Path) -> Self {
        self.spawn = self.spawn.arg(name).arg(path);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.spawn = self.spawn.env(name, value);
        self
    }

    /// Starts the service and waits until `/healthz` returns 200. Returns how long that
    /// took, to the millisecond.
    ///
    /// # Errors
    /// When the service exits or is not ready in time, with the end of its log.
    pub fn ready(self) -> Result<(Running, Duration)> {
        let begin = monotonic();
        let mut running = self.launch()?;
        running.wait_ready(begin)?;
        Ok((running, begin.elapsed()))
    }

    /// Starts the service without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn launch(self) -> Result<Running> {
        let process = self.spawn.start()?;
        let Ports { main: port, healthz, metrics } = self.ports;
        Ok(Running { process, port, healthz, metrics })
    }
}

/// A running service; stopped on drop.
#[derive(Debug)]
pub struct Running {
    /// Measured by its id; its log has what it said.
    pub process: Process,
    /// Its main port on 127.0.0.1.
    pub port: u16,
    /// Its health port.
    pub healthz: u16,
    /// Its metrics port.
    pub metrics: u16,
}

impl Running {
    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id, as in `/proc`.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }

    /// The process id of the program of this name that it started.
    ///
    /// # Errors
    /// When there is none.
    pub fn child(&self, name: &str) -> Result<i32> {
        let child = procfs::child_of(self.process.pid(), name)?;
        let child = child.with_context(|| format!("it runs no {name}"))?;
        Ok(child.as_raw_nonzero().get())
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> Result<Duration> {
        usage::cpu(self.pid())
    }

    /// Current memory.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<Memory> {
        usage::memory(self.pid())
    }

    /// The sum of all series of a metric whose line begins with `name`.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = http::get(self.metrics, "/")?.body;
        let of_name = text.lines().filter(|line| line.starts_with(name));
        Ok(of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Waits until it is ready, for a minute from `begin`.
    ///
    /// # Errors
    /// When it exits or is not ready in time, with the end of its log.
    pub fn wait_ready(&mut self, begin: Instant) -> Result<()> {
        while !http::get(self.healthz, "/healthz").is_ok_and(|answer| answer.is_success()) {
            if let Some(status) = self.process.exit_status() {
                bail!(
                    "{} ended ({}):\n{}",
                    self.process.name(),
                    process::describe(status),
                    self.tail()
                );
            }
            if begin.elapsed() > TIMEOUT {
                bail!("{} is not ready:\n{}", self.process.name(), self.tail());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn tail(&self) -> String {
        process::tail(&self.process.log())
    }

    /// Stops it as Kubernetes does.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> Result<()> {
        let name = self.process.name().to_owned();
        self.process.terminate(Deadline::after(TIMEOUT)).with_context(|| name)?;
        Ok(())
    }
}
