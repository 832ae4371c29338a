//! The command that the chart's hook runs before an upgrade.
use std::path::Path;

use anyhow::Result;

use crate::{Deadline, Scratch, Spawn, build_binary, environment, until};

/// Far more than it takes.
const SECONDS: u64 = 120;

/// Runs `operator apply-crds` for a control plane in `namespace`; the log, and whether it succeeded.
///
/// # Errors
/// When the operator cannot be built or does not end.
pub fn apply_crds(kubeconfig: &Path, namespace: &str) -> Result<(String, bool)> {
    let scratch = Scratch::new("crds")?;
    let mut hook = Spawn::new("apply-crds", build_binary("operator")?, scratch.path())
        .args(["apply-crds", "--kubeconfig"])
        .arg(kubeconfig)
        .args([
            format!("--healthz-port={}", environment::free_port()?),
            format!("--metrics-port={}", environment::free_port()?),
        ])
        .env("NAMESPACE", namespace)
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .start()?;
    let ended = until(Deadline::seconds(SECONDS), "apply-crds to end", || Ok(hook.exit_status()))?;
    Ok((hook.log(), ended.success()))
}
