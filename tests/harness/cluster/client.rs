//! kubectl and helm against a test cluster or an existing cluster.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{Tool, process};

/// Memory from which kubectl collects garbage.
const KUBECTL_MEMORY: &str = "256MiB";

/// A Kubernetes cluster and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    network: Option<PathBuf>,
}

impl Cluster {
    /// The cluster of that kubeconfig file.
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        Self { kubeconfig: Some(kubeconfig.into()), ..Self::default() }
    }

    /// A cluster of the user's own kubeconfig.
    pub fn existing(context: &str) -> Self {
        Self { context: Some(context.to_owned()), ..Self::default() }
    }

    /// The same, reached from inside the network namespace with that handle.
    #[must_use]
    pub fn inside(mut self, network: impl Into<PathBuf>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// Its kubeconfig file, `None` for the user's own.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    /// A command with `KUBECONFIG` set, in the network namespace of the cluster. What clients of
    /// Kubernetes keep for their next run is beside that file: in the home folder it would stay, and
    /// answer for the next cluster on the same port.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let mut command = match &self.network {
            Some(network) => {
                let mut nsenter = Command::new("nsenter");
                nsenter.arg(format!("--net={}", network.display())).arg(program);
                nsenter
            }
            None => Command::new(program),
        };
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
            command.env("KUBECACHEDIR", kubeconfig.with_extension("cache"));
        }
        command
    }

    /// `kubectl` without arguments.
    ///
    /// # Errors
    /// When there is no kubectl and none can be built.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = self.command(Tool::KUBECTL.path()?);
        // It ends before its garbage collector is worth its time.
        command.env("GOGC", "off").env("GOMEMLIMIT", KUBECTL_MEMORY);
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        Ok(command)
    }

    /// Runs `kubectl` and returns its standard output.
    ///
    /// # Errors
    /// When it does not exit with 0; the error holds its standard error.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::output(self.kubectl_command()?.args(args))
    }

    /// `kubectl get <args> -o json`.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let mut words = vec!["get"];
        words.extend(args);
        words.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&words)?).context("kubectl printed no JSON")
    }

    /// Applies manifests (YAML or JSON) by server-side apply.
    ///
    /// # Errors
    /// When the API server rejects one; the error holds its message.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_with_input(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            manifests,
        )
    }

    /// Runs `kubectl` with that standard input.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let result = self.kubectl_output(args, input)?;
        if !result.status.success() {
            let reason = String::from_utf8_lossy(&result.stderr);
            bail!("kubectl {}: {}\n{reason}", args.join(" "), process::describe(result.status));
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    /// Runs `kubectl` with that standard input and returns its output, whatever the exit code.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn kubectl_output(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .kubectl_command()?
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut stdin = child.stdin.take().context("no standard input of kubectl")?;
        let _ = stdin.write_all(input.as_bytes()); // it may end early; then its status says why
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// A token of that service account for that audience.
    ///
    /// # Errors
    /// When the service account does not exist.
    pub fn token(&self, namespace: &str, account: &str, audience: &str) -> Result<String> {
        let token =
            self.kubectl(&["create", "token", account, "-n", namespace, "--audience", audience])?;
        Ok(token.trim().to_owned())
    }

    /// Runs `helm` and returns its standard output.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command(Tool::HELM.path()?);
        if let Some(context) = &self.context {
            command.args(["--kube-context", context]);
        }
        process::output(command.args(args))
    }
}
