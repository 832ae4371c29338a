//! An operator with its peers: an API server whose conversion webhook it is, and sentry, all as
//! processes. Tests of a run share one, see [`crate::common`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::common::Common;
use crate::{ApiCluster, Deadline, Ports, Process, Scratch, Spawn, build_binary, environment};

/// Namespace of the control plane.
pub const SYSTEM: &str = "dapr-system";
/// Seconds for a process to start on a busy machine.
const START_SECONDS: u64 = 60;
/// The file in the folder of a fixture by which another process finds its parts.
const PARTS: &str = "parts.json";
/// Name of the operator and of its log.
const NAME: &str = "operator";

/// An operator that tests share. Each writes only into namespaces of its own, and stops nothing.
#[derive(Debug)]
pub struct OperatorFixture {
    /// The API server.
    pub api: ApiCluster,
    /// Port of sentry on 127.0.0.1.
    pub sentry_port: u16,
    /// Ports of the operator on 127.0.0.1.
    pub ports: Ports,
    folder: PathBuf,
    /// What ends with this value; nothing for a fixture of another process.
    _own: Option<(Process, Process, Scratch)>,
}

/// What a process needs to use a fixture of another.
#[derive(Serialize, Deserialize)]
struct Parts {
    /// State folder of the cluster.
    cluster: PathBuf,
    sentry: u16,
    /// Main, health and metrics port of the operator.
    operator: [u16; 3],
}

impl OperatorFixture {
    /// Starts one.
    ///
    /// # Errors
    /// When a part does not start; the error holds the end of its log.
    pub fn start() -> Result<Self> {
        let (api, scratch) = (ApiCluster::start()?, Scratch::new("operator-suite")?);
        let [sentry_port, webhook_port] = [environment::free_port()?, environment::free_port()?];
        install(&api, sentry_port, webhook_port)?;
        let sentry = start_sentry(&scratch, sentry_port)?;
        let ports = Ports::free()?;
        let credentials = credentials(scratch.path());
        let program = build_binary("operator")?;
        let mut operator =
            spawn(NAME, program, scratch.path(), ports, api.kubeconfig(), &credentials)
                .args(["--webhook-server-port", &webhook_port.to_string()])
                .args(["--watch-secrets", "--enable-daemonset-service-reconciler"])
                .start()?;
        operator.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(START_SECONDS))?;
        let Ports { main, healthz, metrics } = ports;
        let cluster = api.state().to_path_buf();
        let all = Parts { cluster, sentry: sentry_port, operator: [main, healthz, metrics] };
        scratch.write(PARTS, serde_json::to_string(&all)?)?;
        let folder = scratch.path().to_path_buf();
        Ok(Self { api, sentry_port, ports, folder, _own: Some((operator, sentry, scratch)) })
    }

    /// That of a whole run, or of this process if a test is run by itself.
    ///
    /// # Errors
    /// As [`OperatorFixture::start`].
    pub fn common() -> Result<&'static Self> {
        static COMMON: OnceLock<Result<OperatorFixture>> = OnceLock::new();
        let fixture = COMMON.get_or_init(|| match Common::Operator.of_run()? {
            Some(folder) => Self::attach(folder),
            None => Self::start(),
        });
        fixture.as_ref().map_err(|error| anyhow!("common operator: {error:#}"))
    }

    fn attach(folder: PathBuf) -> Result<Self> {
        let text = fs::read(folder.join(PARTS)).context("find the operator")?;
        let Parts { cluster, sentry, operator } = serde_json::from_slice(&text)?;
        let [main, healthz, metrics] = operator;
        let ports = Ports { main, healthz, metrics };
        Ok(Self {
            api: ApiCluster::attach(&cluster)?,
            sentry_port: sentry,
            ports,
            folder,
            _own: None,
        })
    }

    /// The file with sentry's trust anchors.
    pub fn anchors_file(&self) -> PathBuf {
        credentials(&self.folder)
    }

    /// What the operator has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join(format!("{NAME}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for the turn of a test that disturbs others with the same name of a turn; it ends when
    /// the file is dropped.
    ///
    /// # Errors
    /// When the file cannot be locked.
    pub fn turn(&self, name: &str) -> Result<File> {
        let file = File::create(self.folder.join(format!("{name}.turn")))?;
        file.lock().with_context(|| format!("wait for the turn {name}"))?;
        Ok(file)
    }

    /// The folder that another process needs to use it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

fn credentials(folder: &Path) -> PathBuf {
    folder.join("credentials/ca.crt")
}

/// An operator that is not started, with its log in that folder.
pub fn spawn(
    name: &str,
    program: PathBuf,
    logs: &Path,
    ports: Ports,
    kubeconfig: &Path,
    anchors: &Path,
) -> Spawn {
    Spawn::new(name, program, logs)
        .service_at(ports)
        // One dash, as in manifests written for Go programs.
        .arg("-kubeconfig")
        .arg(kubeconfig)
        .arg("--disable-leader-election")
        .arg("--trust-anchors-file")
        .arg(anchors)
        .env("NAMESPACE", SYSTEM)
}

/// Namespace, CRDs and the control plane's Configuration.
///
/// # Errors
/// When the API server refuses them.
pub fn install(api: &ApiCluster, sentry_port: u16, webhook_port: u16) -> Result<()> {
    let mut manifests = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n");
    for entry in fs::read_dir(environment::workspace().join("crds"))? {
        // The API server reaches the webhook through the Service below, at our port.
        let with_port = format!("          path: /convert\n          port: {webhook_port}");
        let definition = fs::read_to_string(entry?.path())?;
        manifests += "\n---\n";
        manifests += &definition.replace("          path: /convert", &with_port);
    }
    api.apply(&manifests)?;
    let names = ["crd", "--all", "--for=condition=Established", "--timeout=60s"];
    api.kubectl(&[&["wait"], names.as_slice()].concat())?;
    api.apply(&format!(
        "
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {SYSTEM}}}
spec: {{mtls: {{enabled: true, controlPlaneTrustDomain: cluster.local, sentryAddress: '127.0.0.1:{sentry_port}'}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: dapr-webhook, namespace: {SYSTEM}}}
spec: {{type: ExternalName, externalName: 127.0.0.1, ports: [{{port: {webhook_port}}}]}}
"
    ))?;
    Ok(())
}

fn start_sentry(scratch: &Scratch, port: u16) -> Result<Process> {
    let config = scratch.write(
        "sentry.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: daprsystem}\nspec: {mtls: {enabled: true}}\n",
    )?;
    let credentials = scratch.path().join("credentials");
    fs::create_dir_all(&credentials)?;
    let ports = Ports::with_main(port)?;
    let mut sentry = Spawn::new("sentry", build_binary("sentry")?, scratch.path())
        .args(["--mode", "standalone", "--trust-domain", "cluster.local", "--enable-metrics=false"])
        .arg("--config")
        .arg(config)
        .arg("--issuer-credentials")
        .arg(credentials)
        .service_at(ports)
        .env("NAMESPACE", SYSTEM)
        .start()?;
    sentry.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(START_SECONDS))?;
    Ok(sentry)
}
