//! `operator self-test`: tests an installation from inside the cluster, as `helm test` does. It
//! creates objects as dry runs only.
use std::{future::Future, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{ArgAction, Args};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use kubernetes::{Precedence, api_text};
use runtime::{Scope, flags::go_bool};
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use transport::svid;

use crate::{
    cluster::Cluster,
    config::{Config, Flags},
    watchdog::pod_client::PodClient,
    wiring::{control_plane_configuration, security},
};

/// Timeout of each check except the one for an identity.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of the check for an identity: sentry may still be creating its CA.
const IDENTITY_TIMEOUT: Duration = Duration::from_mins(1);

/// The flags of `self-test`.
#[derive(Clone, Debug, Args)]
pub struct SelfTestFlags {
    /// The flags of the operator under test.
    #[command(flatten)]
    pub operator: Flags,
    /// `HOST:PORT` that must accept connections; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub service: Vec<String>,
    /// Test whether a pod that requests a sidecar receives one
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = ArgAction::Set)]
    pub injection: bool,
}

/// Runs every check and logs each result.
///
/// # Errors
/// At least one check failed, or there are no credentials for the API server.
pub async fn run(
    config: &Config,
    services: &[String],
    injection: bool,
    scope: &Scope,
) -> anyhow::Result<()> {
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let mut failed = 0_u32;
    let mut total = 0_u32;
    let mut note = |what: &str, result: anyhow::Result<()>| {
        total += 1;
        match result {
            Ok(()) => tracing::info!(target: "dapr.operator.selftest", "ok: {what}"),
            Err(error) => {
                failed += 1;
                tracing::error!(target: "dapr.operator.selftest", "failed: {what}: {error:#}");
            }
        }
    };
    for address in services {
        note(&format!("{address} accepts connections"), reach(address).await);
    }
    note("sentry issues an identity", identity(&client, config, scope).await);
    if injection {
        let result =
            PodClient::new(client.clone(), config.namespace.clone()).verify_injection().await;
        note("a pod that requests a sidecar receives one", result.map(drop).map_err(Into::into));
    }
    let result = conversion(client, &config.namespace).await;
    note("the API server converts Subscriptions", result);
    ensure!(failed == 0, "{failed} of {total} checks failed");
    Ok(())
}

async fn reach(address: &str) -> anyhow::Result<()> {
    within(TIMEOUT, async { TcpStream::connect(address).await.context("connect") }).await.map(drop)
}

async fn identity(client: &Client, config: &Config, scope: &Scope) -> anyhow::Result<()> {
    let cluster = Cluster::new(client.clone(), None, config.namespace.clone());
    within(IDENTITY_TIMEOUT, async {
        let configuration = control_plane_configuration(&cluster, config).await?;
        let options = security(&cluster, config, &configuration)?;
        svid::start(options, scope).await.map(drop)
    })
    .await
}

/// Creates a Subscription of the older version as a dry run; the API server converts it to the stored
/// version and back.
async fn conversion(client: Client, namespace: &str) -> anyhow::Result<()> {
    let kind = kube::core::GroupVersionKind::gvk(resources::GROUP, "v1alpha1", "Subscription");
    let api: Api<DynamicObject> =
        Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&kind));
    let old = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Subscription",
        "metadata": {"generateName": "dapr-self-test-"},
        "spec": {"pubsubname": "none", "topic": "none", "route": "/self-test"},
    });
    let old = serde_json::from_value(old)?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let created = within(TIMEOUT, async {
        let created = api.create(&params, &old).await;
        created.map_err(|error| anyhow::anyhow!(api_text(&error)))
    });
    let created = created.await.context("create a Subscription v1alpha1 as a dry run")?;
    let route = created.data.pointer("/spec/route");
    ensure!(route == Some(&json!("/self-test")), "the API server returned route {route:?}");
    Ok(())
}

async fn within<T>(
    limit: Duration,
    check: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let result = timeout(limit, check).await;
    result.with_context(|| format!("no response within {} s", limit.as_secs()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closed_port_fails_the_check() {
        let free = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        reach(&address).await.unwrap();
        drop(free);
        assert!(reach(&address).await.is_err());
    }
}
