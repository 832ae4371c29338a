//! `operator self-test`: whether an installation works, asked from inside as `helm test` does. It
//! stores nothing: what is offered to the API server is offered as a dry run.
use std::{future::Future, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{ArgAction, Args};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use runtime::{
    Scope,
    flags::go_bool,
    kubernetes::{self, Precedence, api_text},
};
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use transport::svid;

use crate::{
    cluster::Cluster,
    config::{self, Config},
    watchdog::cluster::Hands,
    wiring::security,
};

/// Limit of each question but the one for an identity.
const PATIENCE: Duration = Duration::from_secs(15);
/// Sentry may be about to make its CA.
const IDENTITY_PATIENCE: Duration = Duration::from_mins(1);

/// What is asked.
#[derive(Clone, Debug, Args)]
pub struct SelfTestFlags {
    /// Who we are and where the control plane is: the operator's own flags.
    #[command(flatten)]
    pub operator: config::Flags,
    /// `HOST:PORT` that must take connections; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub service: Vec<String>,
    /// Whether pods that ask for a sidecar get one
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = ArgAction::Set)]
    pub injection: bool,
}

/// Asks everything, whatever comes of the single questions, and logs each answer.
///
/// # Errors
/// How many questions had the wrong answer, or there are no credentials.
pub async fn run(
    config: &Config,
    services: &[String],
    injection: bool,
    scope: &Scope,
) -> anyhow::Result<()> {
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let mut failed = 0_u32;
    let mut asked = 0_u32;
    let mut note = |what: &str, answer: anyhow::Result<()>| {
        asked += 1;
        match answer {
            Ok(()) => tracing::info!(target: "dapr.operator.selftest", "ok: {what}"),
            Err(error) => {
                failed += 1;
                tracing::error!(target: "dapr.operator.selftest", "failed: {what}: {error:#}");
            }
        }
    };
    for address in services {
        note(&format!("{address} takes connections"), reach(address).await);
    }
    note("sentry gives an identity", identity(&client, config, scope).await);
    if injection {
        let answer = Hands::new(client.clone(), config.namespace.clone()).prove().await;
        note("a pod that asks for a sidecar gets one", answer.map(drop).map_err(Into::into));
    }
    let answer = conversion(client, &config.namespace).await;
    note("Subscriptions of both versions are read", answer);
    ensure!(failed == 0, "{failed} of {asked} questions had the wrong answer");
    Ok(())
}

async fn reach(address: &str) -> anyhow::Result<()> {
    within(PATIENCE, async { TcpStream::connect(address).await.context("connect") }).await.map(drop)
}

async fn identity(client: &Client, config: &Config, scope: &Scope) -> anyhow::Result<()> {
    let instance = runtime::environment::hostname();
    let cluster = Cluster::new(client.clone(), None, instance);
    within(IDENTITY_PATIENCE, async {
        let options = security(&cluster, config).await?;
        svid::start(options, scope).await.map(drop)
    })
    .await
}

/// The API server converts a Subscription of the older version to the stored one and back.
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
    let answer = within(PATIENCE, async {
        let answer = api.create(&params, &old).await;
        answer.map_err(|error| anyhow::anyhow!(api_text(&error)))
    });
    let answer = answer.await.context("offer a Subscription v1alpha1")?;
    let route = answer.data.pointer("/spec/route");
    ensure!(route == Some(&json!("/self-test")), "it came back with route {route:?}");
    Ok(())
}

async fn within<T>(
    limit: Duration,
    question: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let answer = timeout(limit, question).await;
    answer.with_context(|| format!("no answer within {} s", limit.as_secs()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_at_an_address_is_a_wrong_answer() {
        let free = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        reach(&address).await.unwrap();
        drop(free);
        assert!(reach(&address).await.is_err());
    }
}
