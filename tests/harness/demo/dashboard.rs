//! The dashboard beside the sample: a chart of its own, and a port-forward to its pod.

use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{CONTROL_PLANE, Demo, LOCAL, path};
use crate::browser::{self, Opened};
use crate::{Architecture, Cluster, Deadline, NodeCluster, build_daprctl, peer_images, until};

/// Where a port-forward listens, on the loopback of the cluster's network.
pub const PORT: u16 = 18_080;
/// The release and its Deployment.
const NAME: &str = "dapr-dashboard";
/// The setting of the demo that the chart needs too.
const REGISTRY: &str = "global.controlPlane.registry=";
/// Words of the console for what a page may not do.
const REFUSED: [&str; 3] = ["Content Security Policy", "Uncaught", "Failed to load"];
/// Seconds for a page to have its words.
const SECONDS: u64 = 120;

/// Builds the image of the dashboard and imports it into the cluster's node. `profile` is cargo's
/// profile.
///
/// # Errors
/// When the dashboard does not compile.
pub fn import_image(node: &NodeCluster, profile: &str) -> Result<()> {
    let name = format!("{LOCAL}/dashboard:{}", env!("CARGO_PKG_VERSION"));
    node.import(&peer_images::dashboard(Architecture::here()?, &name, profile)?)
}

impl Demo {
    /// Installs the dashboard, or upgrades it, and waits until it is ready.
    ///
    /// # Errors
    /// Helm's error, with the state of the pods.
    pub fn install_dashboard(&self) -> Result<()> {
        let chart = self.root.join("charts/dapr-dashboard");
        let chart = path(&chart)?;
        let mut args = vec!["upgrade", "--install", NAME, chart, "--namespace", CONTROL_PLANE];
        args.extend(["--wait", "--timeout", "3m"]);
        for value in self.values.iter().filter(|value| value.starts_with(REGISTRY)) {
            args.extend(["--set", value]);
        }
        let again = self.cluster.helm(&["status", NAME, "--namespace", CONTROL_PLANE]).is_ok();
        let done = self.cluster.helm(&args).map(drop);
        done.or_else(|error| self.explain(&error, CONTROL_PLANE))?;
        if again {
            // The image may be newer than the pod although its tag is the same.
            let restart = ["-n", CONTROL_PLANE, "rollout", "restart", "deployment/dapr-dashboard"];
            self.cluster.kubectl(&restart)?;
            let status = ["-n", CONTROL_PLANE, "rollout", "status", "deployment/dapr-dashboard"];
            self.cluster.kubectl(&status)?;
        }
        Ok(())
    }

    /// Removes the dashboard; nothing happens if it is not installed.
    ///
    /// # Errors
    /// What Helm says.
    pub fn remove_dashboard(&self) -> Result<()> {
        let args =
            ["uninstall", NAME, "--namespace", CONTROL_PLANE, "--wait", "--ignore-not-found"];
        self.cluster.helm(&args).map(drop)
    }

    /// Starts `daprctl dashboard`.
    ///
    /// # Errors
    /// It does not compile or start.
    pub fn forward_to_dashboard(&self) -> Result<Dashboard> {
        let mut command = self.cluster.command(build_daprctl()?);
        command.args(["dashboard", "--no-browser", "--port", &PORT.to_string()]);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let forward = quiet.spawn().context("start daprctl dashboard")?;
        Ok(Dashboard { cluster: self.cluster.clone(), forward })
    }
}

/// A port-forward to the dashboard; ends when it is dropped.
#[derive(Debug)]
pub struct Dashboard {
    cluster: Cluster,
    forward: Child,
}

impl Dashboard {
    /// Opens a page in Chromium again and again until it has all of these words.
    ///
    /// # Errors
    /// It has not in time, or it does what its policy forbids.
    pub fn open(&self, path: &str, wanted: &[&str]) -> Result<Opened> {
        let url = url(path);
        let mut last = String::new();
        let page = until(Deadline::seconds(SECONDS), &format!("{wanted:?} on {path}"), || {
            let opened = browser::open_inside(&self.cluster, &url)?;
            let has_all = wanted.iter().all(|words| opened.document.contains(words));
            last.clone_from(&opened.document);
            Ok(has_all.then_some(opened))
        });
        let page = page.with_context(|| last)?;
        for refused in REFUSED {
            ensure!(!page.console.contains(refused), "{path}: {}", page.console);
        }
        Ok(page)
    }

    /// Writes a screenshot of a page to a PNG file.
    ///
    /// # Errors
    /// As [`browser::draw`].
    pub fn draw(&self, path: &str, width: u32, file: &Path) -> Result<()> {
        browser::draw_inside(&self.cluster, &url(path), width, file)
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        drop(self.forward.kill());
        drop(self.forward.wait());
    }
}

fn url(path: &str) -> String {
    format!("http://127.0.0.1:{PORT}{path}")
}
