//! The official `dapr` CLI with its own home folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{Cluster, Scratch, Spawn, Tool, chart_repo, environment, process, web};

/// Prefixes of the user's variables that could change the CLI's behaviour.
const INHERITED: [&str; 10] = [
    "DAPR_DEFAULT_IMAGE_REGISTRY",
    "DAPR_HELM_REPO_URL",
    "DAPR_HELM_REPO_USERNAME",
    "DAPR_HELM_REPO_PASSWORD",
    "DAPR_IMAGE_REGISTRY",
    "DAPR_NETWORK",
    "DAPR_PLACEMENT_HOST_ADDRESS",
    "DAPR_RUNTIME_PATH",
    "DAPR_RUNTIME_VERSION",
    "DAPR_TRUST_ANCHORS",
];

/// The CLI.
#[derive(Debug)]
pub struct DaprCli {
    cluster: Cluster,
    home: Scratch,
    env: Vec<(String, String)>,
}

impl DaprCli {
    /// The CLI for that cluster, in its network namespace.
    ///
    /// # Errors
    /// When the CLI or kubectl is missing and cannot be built.
    pub fn new(cluster: Cluster) -> Result<Self> {
        let home = Scratch::new("dapr-cli")?;
        // What the CLI runs, from `PATH`: kubectl, and containers of the user's, whose names are
        // those it would remove.
        let programs = home.path().join("programs");
        fs::create_dir(&programs)?;
        std::os::unix::fs::symlink(Tool::KUBECTL.path()?, programs.join("kubectl"))?;
        for runtime in ["docker", "podman"] {
            std::os::unix::fs::symlink("/bin/false", programs.join(runtime))?;
        }
        let path = environment::var("PATH").unwrap_or_default();
        let cli = Self { cluster, home, env: Vec::new() };
        Ok(cli
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("DOCKER_HOST", "unix:///nowhere"))
    }

    /// One for that cluster whose chart repository is ours: what `cargo xtask chart-repo` writes,
    /// served on this machine, inside the network namespace with that handle if one is given.
    /// `registry` is the chart's default place of images.
    ///
    /// # Errors
    /// As [`DaprCli::new`], or when helm refuses the chart.
    pub fn with_repository(
        cluster: Cluster,
        network: Option<&Path>,
        registry: Option<&str>,
    ) -> Result<Self> {
        let cli = Self::new(cluster)?;
        let folder = cli.home().join("charts");
        chart_repo::add_chart(&folder, registry)?;
        chart_repo::add_dashboard(&folder, registry)?;
        let address = web::serve(&folder, network)?;
        Ok(cli.env("DAPR_HELM_REPO_URL", address))
    }

    /// One without a cluster, for self-hosted mode.
    ///
    /// # Errors
    /// As [`DaprCli::new`].
    pub fn self_hosted() -> Result<Self> {
        Self::new(Cluster::default())
    }

    /// Sets an environment variable for every call.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Its home folder, below which it keeps `.dapr`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The CLI without arguments.
    ///
    /// # Errors
    /// When it is missing and cannot be built.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.cluster.command(Tool::DAPR_CLI.path()?);
        for name in INHERITED {
            command.env_remove(name);
        }
        let own = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        command.envs(own).env("HOME", self.home.path()).current_dir(self.home.path());
        Ok(command)
    }

    /// The CLI without arguments, to run in the background with its log in the folder `logs`.
    ///
    /// # Errors
    /// As [`DaprCli::command`].
    pub fn background(&self, name: &str, logs: &Path) -> Result<Spawn> {
        let command = self.command()?;
        let mut spawn = Spawn::new(name, command.get_program(), logs);
        for (name, value) in command.get_envs() {
            spawn = match value {
                Some(value) => spawn.env(name, value),
                None => spawn.env_remove(name),
            };
        }
        Ok(spawn.folder(self.home()))
    }

    /// Runs it and returns its output. It exits with 0 after many failures, so a line that it
    /// marks as a failure counts too.
    ///
    /// # Errors
    /// When it fails; the error holds its output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let said = self.output(args)?;
        if said.contains('❌') {
            bail!("dapr {}:\n{said}", args.join(" "));
        }
        Ok(said)
    }

    /// Runs it and returns its standard output and error, failures marked in the
    /// text included.
    ///
    /// # Errors
    /// When it does not exit with 0; the error holds its output.
    pub fn output(&self, args: &[&str]) -> Result<String> {
        let result = self.command()?.args(args).output().context("run dapr")?;
        let said = String::from_utf8_lossy(&result.stdout).into_owned()
            + &String::from_utf8_lossy(&result.stderr);
        if !result.status.success() {
            let words = args.join(" ");
            bail!("dapr {words}: {}\n{said}", process::describe(result.status));
        }
        Ok(said)
    }
}
