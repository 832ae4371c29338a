//! The API-only cluster that runs until it is taken down: `cargo xtask cluster up
//! --api-only`, to run a service against by hand.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::roster::{Entry, Roster};
use crate::control_plane::ADMIN;
use crate::{ApiCluster, ApiClusterOptions, Cluster, Lifetime, environment};

/// The API-only cluster of this state folder.
#[derive(Debug)]
pub struct LocalApi {
    state: PathBuf,
}

impl LocalApi {
    /// The one whose state is in the folder of [`environment::state`].
    pub fn here() -> Self {
        Self { state: environment::state().join("api") }
    }

    /// Starts it, or finds it running.
    ///
    /// # Errors
    /// As [`ApiCluster::start`]. Nothing is left running then.
    pub fn up(&self) -> Result<Cluster> {
        if self.is_up() {
            return Ok(self.cluster());
        }
        self.down()?;
        fs::create_dir_all(&self.state)
            .with_context(|| format!("create {}", self.state.display()))?;
        let roster = Roster::new(&self.state);
        let booted = ApiCluster::boot(
            &self.state,
            Lifetime::Detached,
            ApiClusterOptions::default(),
            &|process| roster.add(process),
        );
        match booted {
            Ok(api) => Ok(api.cluster().clone()),
            Err(error) => {
                self.down()?;
                Err(error)
            }
        }
    }

    /// Stops its programs and removes its folder.
    ///
    /// # Errors
    /// When one of them cannot be stopped.
    pub fn down(&self) -> Result<()> {
        Roster::new(&self.state).stop(None)?;
        if self.state.exists() {
            fs::remove_dir_all(&self.state)
                .with_context(|| format!("remove {}", self.state.display()))?;
        }
        environment::remove_empty_state();
        Ok(())
    }

    /// Whether it runs and answers.
    pub fn is_up(&self) -> bool {
        let entries = Roster::new(&self.state).entries();
        !entries.is_empty()
            && entries.iter().all(Entry::is_running)
            && self.cluster().kubectl(&["get", "--raw=/readyz"]).is_ok()
    }

    /// kubectl and helm against it, running or not.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.state.join(format!("{}.kubeconfig", ADMIN.name)))
    }

    /// Its programs and whether each runs.
    pub fn programs(&self) -> Vec<(String, bool)> {
        let entries = Roster::new(&self.state).entries();
        entries.into_iter().map(|entry| (entry.name.clone(), entry.is_running())).collect()
    }
}
