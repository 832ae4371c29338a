//! Credentials of the control plane's accounts for processes outside of the cluster.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::injector_fixture::NAMESPACE;
use crate::{ApiCluster, Scratch};

/// Audience of the tokens that sentry accepts.
const AUDIENCE: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";

/// Writes a token of an account, bound to its pod, that sentry accepts.
///
/// # Errors
/// When there is no such account or pod.
pub fn bound_token(
    api: &ApiCluster,
    scratch: &Scratch,
    file: &str,
    account: &str,
    pod: &str,
) -> Result<PathBuf> {
    let args = ["create", "token", account, "-n", NAMESPACE, "--audience", AUDIENCE];
    let bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod];
    scratch.write(file, api.kubectl(&[&args[..], &bound].concat())?.trim())
}

/// Writes a kubeconfig of an account.
///
/// # Errors
/// When there is no such account.
pub fn kubeconfig(
    api: &ApiCluster,
    scratch: &Scratch,
    file: &str,
    account: &str,
) -> Result<PathBuf> {
    let token = api.kubectl(&["create", "token", account, "-n", NAMESPACE])?;
    scratch.write("api-ca.crt", api.ca_pem()?)?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": api.server(), "certificate-authority": scratch.path().join("api-ca.crt"),
        }}],
        "users": [{"name": "it", "user": {"token": token.trim()}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    scratch.write(file, config.to_string())
}
