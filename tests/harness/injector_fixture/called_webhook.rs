//! A cluster that calls an injector of this process or of another.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    CLUSTER, Injector, InjectorFixture, NAMESPACE, Rights, START_SECONDS, UNCALLED, WEBHOOK,
    names_of, pod,
};
use crate::admission::AdmissionClient;
use crate::common::Common;
use crate::{ApiCluster, Deadline, Tool, environment, process, until};

/// A cluster whose pods get their sidecars from an injector.
#[derive(Debug)]
pub struct CalledWebhook {
    /// The cluster.
    pub api: ApiCluster,
    /// The folder with the injector's trust anchors.
    pub(super) folder: PathBuf,
}

/// Whether the admission guard of the chart is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// It is not installed.
    Absent,
    /// It denies annotated pods without a sidecar.
    Enforced,
}

impl CalledWebhook {
    /// That of a whole run, for tests that write only into namespaces of their own and stop nothing,
    /// see [`crate::common`].
    ///
    /// # Errors
    /// As [`InjectorFixture::start`].
    pub fn common(guard: Guard) -> Result<Self> {
        let common = match guard {
            Guard::Absent => Common::Injector,
            Guard::Enforced => Common::GuardedInjector,
        };
        if let Some(folder) = common.of_run()? {
            let state = fs::read_to_string(folder.join(CLUSTER)).context("find the cluster")?;
            return Ok(Self { api: ApiCluster::attach(Path::new(&state))?, folder });
        }
        let fixture = Box::leak(Box::new(InjectorFixture::start(Rights::Ours)?));
        if guard == Guard::Enforced {
            fixture.guard()?;
        }
        let api = ApiCluster::attach(fixture.api.state())?;
        Ok(Self { api, folder: fixture.folder.clone() })
    }

    /// Makes kube-apiserver call another port of this machine.
    ///
    /// # Errors
    /// When the registration is gone.
    pub fn call_port(&self, port: u16) -> Result<()> {
        let place = "/webhooks/0/clientConfig/service/port";
        let patch = json!([{"op": "replace", "path": place, "value": port}]).to_string();
        let object = ["mutatingwebhookconfiguration", WEBHOOK];
        let args = [&["patch"], &object[..], &["--type=json", "-p", &patch]].concat();
        self.api.kubectl(&args).map(drop)
    }

    /// Installs the chart's admission guard and waits until it is enforced.
    ///
    /// # Errors
    /// When the chart does not render or the API server refuses the policy.
    pub fn guard(&self) -> Result<()> {
        let mut helm = Command::new(Tool::HELM.path()?);
        helm.arg("template").arg("dapr").arg(environment::workspace().join("charts/dapr"));
        helm.args(["--namespace", NAMESPACE, "--set", "global.controlPlane.registry=none"]);
        helm.args(["--show-only", "templates/sidecar-injector/guard.yaml"]);
        self.api.apply(&process::output(&mut helm)?)?;
        // It is enforced when it denies this pod, which the webhook does not match.
        let mut probe = pod("probe", &json!({"dapr.io/enabled": "true"}));
        probe["metadata"]["namespace"] = json!("default");
        probe["metadata"]["labels"] = json!({UNCALLED: "true"});
        until(Deadline::seconds(START_SECONDS), "the guard to be enforced", || {
            let answer = self.kubectl(&["create", "--dry-run=server", "-f", "-"], &probe)?;
            let words = String::from_utf8_lossy(&answer.stderr);
            Ok(words.contains("dapr-sidecar-guard").then_some(()))
        })
    }

    /// Sends reviews to an injector of this test cluster as kube-apiserver does.
    ///
    /// # Errors
    /// When the trust anchors cannot be read.
    pub fn admission_client(&self, injector: &Injector) -> Result<AdmissionClient> {
        AdmissionClient::new(injector.port, &format!("{WEBHOOK}.{NAMESPACE}.svc"), &self.anchors()?)
    }

    /// Waits until kube-apiserver calls the webhook, some time after its registration.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_called(&self) -> Result<()> {
        let mut probe = pod("probe", &json!({"dapr.io/enabled": "true"}));
        probe["metadata"]["namespace"] = json!("default");
        until(Deadline::seconds(START_SECONDS), "the first call of the webhook", || {
            let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
            let answer = self.kubectl(&args, &probe)?;
            let pod: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
            Ok(names_of(&pod).contains(&"daprd".to_owned()).then_some(()))
        })
    }

    /// Runs kubectl with this input and returns its output.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn kubectl(&self, args: &[&str], input: &Value) -> Result<Output> {
        self.api.cluster().kubectl_output(args, &input.to_string())
    }

    /// Creates an object; returns whether it was accepted, and kubectl's standard error.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn create(&self, namespace: &str, object: &Value, more: &[&str]) -> Result<(bool, String)> {
        let args = [&["create", "-n", namespace, "-f", "-"], more].concat();
        let output = self.kubectl(&args, object)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// The caBundle in the webhook's registration, as base64; empty when there is none.
    ///
    /// # Errors
    /// When the registration is gone.
    pub fn ca_bundle(&self) -> Result<String> {
        let found = self.api.get(&["mutatingwebhookconfigurations", WEBHOOK])?;
        let bundle = found["webhooks"][0]["clientConfig"]["caBundle"].as_str();
        Ok(bundle.unwrap_or_default().to_owned())
    }

    /// Replaces the injector's trust anchors, as the kubelet does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_anchors(&self, pem: &str) -> Result<()> {
        fs::write(self.folder.join("ca.crt"), pem).context("write the trust anchors")
    }

    /// The injector's trust anchors in PEM.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn anchors(&self) -> Result<String> {
        let file = self.folder.join("ca.crt");
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }
}
