//! A service of the control plane, ours or the reference's, as a process of this machine: its
//! ports, and its settings outside of a cluster.

use anyhow::Result;

use crate::{Spawn, environment};

/// The ports that every service has, all on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// gRPC, or the webhook.
    pub main: u16,
    /// `/healthz`.
    pub healthz: u16,
    /// `/metrics`.
    pub metrics: u16,
}

impl Ports {
    /// Three free ports.
    ///
    /// # Errors
    /// When the machine has none left.
    pub fn free() -> Result<Self> {
        Self::with_main(environment::free_port()?)
    }

    /// A given main port and two free ports.
    ///
    /// # Errors
    /// When the machine has none left.
    pub fn with_main(main: u16) -> Result<Self> {
        let [healthz, metrics] = [environment::free_port()?, environment::free_port()?];
        Ok(Self { main, healthz, metrics })
    }
}

impl Spawn {
    /// The flags and variables of a control plane service outside of a cluster: it listens at these
    /// ports, whatever its user, and does not take the cluster around this machine for its own.
    #[must_use]
    pub fn service_at(self, ports: Ports) -> Self {
        let Ports { main, healthz, metrics } = ports;
        self.args([format!("--port={main}"), "--listen-address=127.0.0.1".to_owned()])
            .args([format!("--healthz-port={healthz}"), format!("--metrics-port={metrics}")])
            .args(["--healthz-listen-address=127.0.0.1", "--metrics-listen-address=127.0.0.1"])
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
            .env_remove("KUBERNETES_SERVICE_HOST")
    }
}
