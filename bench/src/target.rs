//! A service that runs already, for the load of one row.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::environment::authority::Authority;
use crate::size::Size;

/// A running service and how to reach it.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The row whose load to use
    pub scenario: String,
    /// `host:port` of the service
    #[arg(long)]
    pub address: String,
    /// The trust anchors of its control plane (PEM)
    #[arg(long, value_name = "FILE")]
    pub anchors: Option<PathBuf>,
    /// `host:port` of the sentry that signs the certificates of the load
    #[arg(long)]
    pub sentry: Option<String>,
    /// The control plane's trust domain
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: String,
    /// The control plane's namespace
    #[arg(long, default_value = "dapr-system")]
    pub namespace: String,
    /// The namespace of the apps
    #[arg(long, default_value = "default")]
    pub apps: String,
    /// Kubeconfig, for loads that create or change objects
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A cut load
    #[arg(long)]
    pub quick: bool,
}

impl Target {
    /// The trust anchors (PEM).
    ///
    /// # Errors
    /// When no file is named, or it cannot be read.
    pub fn anchors(&self) -> Result<String> {
        let file = self.anchors.as_ref().context("--anchors FILE is needed")?;
        fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
    }

    /// Path of the kubeconfig.
    ///
    /// # Errors
    /// When no file is named.
    pub fn kubeconfig(&self) -> Result<&Path> {
        self.kubeconfig.as_deref().context("--kubeconfig FILE is needed")
    }

    /// The authority that signs the certificates of the load; without `--sentry` the service
    /// itself.
    ///
    /// # Errors
    /// As [`Target::anchors`].
    pub fn authority(&self) -> Result<Authority> {
        Ok(Authority {
            sentry: self.sentry.clone().unwrap_or_else(|| self.address.clone()),
            anchors: self.anchors()?,
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
        })
    }

    /// Size of the load.
    pub fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }
}
