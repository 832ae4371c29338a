//! The kinds of `dapr.io`, and the commands of the operator's image that the chart's hooks run before an
//! upgrade.
use std::ffi::OsStr;
use std::path::Path;

use anyhow::Result;

use crate::{Deadline, Scratch, Spawn, build_binary, environment, until};

/// Plurals of the kinds of `dapr.io`. Source: Dapr 1.18.
pub const KINDS: [&str; 7] = [
    "components",
    "configurations",
    "subscriptions",
    "resiliencies",
    "httpendpoints",
    "mcpservers",
    "workflowaccesspolicies",
];

/// Time limit in seconds, far more than it takes.
const SECONDS: u64 = 120;

/// Runs `operator apply-crds` for a control plane in `namespace`; returns the log, and whether it
/// succeeded.
///
/// # Errors
/// When the operator cannot be built or does not end.
pub fn apply_crds(kubeconfig: &Path, namespace: &str) -> Result<(String, bool)> {
    operator_command(kubeconfig, namespace, ["apply-crds"])
}

/// Runs the operator with a command and its flags; returns the log, and whether it succeeded.
///
/// # Errors
/// As [`apply_crds`].
pub fn operator_command(
    kubeconfig: &Path,
    namespace: &str,
    args: impl IntoIterator<Item: AsRef<OsStr>>,
) -> Result<(String, bool)> {
    let scratch = Scratch::new("command")?;
    let mut command = Spawn::new("command", build_binary("operator")?, scratch.path())
        .args(args)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args([
            format!("--healthz-port={}", environment::free_port()?),
            format!("--metrics-port={}", environment::free_port()?),
        ])
        .env("NAMESPACE", namespace)
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .start()?;
    let ended = until(Deadline::seconds(SECONDS), "the end", || Ok(command.exit_status()))?;
    Ok((command.log(), ended.success()))
}
