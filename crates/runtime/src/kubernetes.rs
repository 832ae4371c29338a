//! The Kubernetes client of the process.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use resources::names;

use crate::{
    api_client::{self, Traffic},
    chain, environment,
};

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// The flags of every service that talks to the API server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct KubeFlags {
    /// Path of a kubeconfig, for running outside of a cluster
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
}

/// Which credentials win when a process has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// The pod's own, then the kubeconfig. Source: Dapr 1.18, sentry and injector.
    InCluster,
    /// `--kubeconfig`, then `KUBECONFIG`, then the pod's own, then `$HOME/.kube/config`.
    /// Source: Dapr 1.18, operator.
    Kubeconfig,
}

/// A client without a client-side rate limit.
///
/// In-cluster credentials count as present only if `KUBERNETES_SERVICE_HOST` and
/// `KUBERNETES_SERVICE_PORT` are both non-empty and the service account files are readable.
///
/// # Errors
/// There are no credentials, or the kubeconfig is unreadable; the text names the file.
pub async fn client(kubeconfig: Option<&Path>, precedence: Precedence) -> anyhow::Result<Client> {
    client_for(Traffic::Watches, kubeconfig, precedence).await
}

/// As [`client`], for a service that makes hundreds of short calls a second.
///
/// # Errors
/// As [`client`].
pub async fn client_of_short_calls(
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> anyhow::Result<Client> {
    client_for(Traffic::ShortCalls, kubeconfig, precedence).await
}

async fn client_for(
    traffic: Traffic,
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> anyhow::Result<Client> {
    let config = match (kubeconfig, set("KUBECONFIG")) {
        _ if precedence == Precedence::InCluster && in_cluster() => incluster()?,
        (Some(path), _) => from_file(path).await?,
        (None, Some(path)) => from_file(Path::new(&path)).await?,
        (None, None) if in_cluster() => incluster()?,
        (None, None) => from_file(&home_config()?).await?,
    };
    api_client::client(&config, traffic).context("make the Kubernetes client")
}

/// A client for a person's command: the cluster of a context of `--kubeconfig`, of the files in
/// `KUBECONFIG`, or of `$HOME/.kube/config`, as kubectl has it; without any of them the pod's own.
/// `timeout` bounds each call. Programs that a kubeconfig names for its credentials are run.
///
/// # Errors
/// There are no credentials, no such context, or the kubeconfig is unreadable.
pub async fn user_client(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        None if set("KUBECONFIG").is_none() && context.is_none() && in_cluster() => incluster()?,
        path => {
            let file = match path {
                Some(path) => Kubeconfig::read_from(path)
                    .with_context(|| format!("read kubeconfig {}", path.display()))?,
                None => Kubeconfig::read().context("read the kubeconfig")?,
            };
            let context = context.map(str::to_owned);
            let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(file, &options).await.context("use the kubeconfig")?
        }
    };
    config.connect_timeout = Some(timeout);
    config.read_timeout = Some(timeout);
    Client::try_from(config).context("make the Kubernetes client")
}

/// What the API server said, or why it could not say it, for people; with all causes.
pub fn api_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

fn set(name: &str) -> Option<String> {
    environment::var(name).filter(|value| !value.is_empty())
}

fn in_cluster() -> bool {
    let readable = |path| std::fs::File::open(path).is_ok();
    set("KUBERNETES_SERVICE_HOST").is_some()
        && set("KUBERNETES_SERVICE_PORT").is_some()
        && readable(TOKEN)
        && readable(CA)
}

fn incluster() -> anyhow::Result<Config> {
    Config::incluster_env().context("read the pod's service account")
}

fn home_config() -> anyhow::Result<PathBuf> {
    let home = set("HOME").context(
        "no Kubernetes credentials: not in a pod, and neither --kubeconfig, KUBECONFIG nor HOME is set",
    )?;
    Ok(Path::new(&home).join(".kube/config"))
}

async fn from_file(path: &Path) -> anyhow::Result<Config> {
    let named = || format!("read kubeconfig {}", path.display());
    let file = Kubeconfig::read_from(path).with_context(named)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(named)
}

/// How long an installation may take to create what a service reads first: Helm creates custom
/// resources after the workloads.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked for.
const APPEARS_POLL: Duration = Duration::from_millis(250);

/// Asks until the answer is there, at most ten seconds; then the last answer or failure stands.
///
/// # Errors
/// The failure of the last attempt.
pub async fn appearing<T, E, F>(mut ask: impl FnMut() -> F) -> Result<Option<T>, E>
where
    F: Future<Output = Result<Option<T>, E>>,
{
    let deadline = tokio::time::Instant::now() + APPEARS_WITHIN;
    loop {
        let answer = ask().await;
        if matches!(answer, Ok(Some(_))) || tokio::time::Instant::now() >= deadline {
            return answer;
        }
        tokio::time::sleep(APPEARS_POLL).await;
    }
}

/// What [`trust_bundle`] returns: asks once, `None` when there is nothing yet.
pub type BundleReader =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// Reads the trust anchors from the `ConfigMap` that sentry writes, for the minute on a fresh
/// install in which the kubelet has not projected it yet.
pub fn trust_bundle(client: Client, namespace: &str) -> BundleReader {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    Arc::new(move || {
        let api = api.clone();
        Box::pin(async move {
            match api.get_opt(names::TRUST_BUNDLE).await {
                Ok(found) => {
                    found?.data?.remove(names::KEY_TRUST_ANCHORS).filter(|text| !text.is_empty())
                }
                Err(e) => {
                    tracing::debug!(target: "dapr.runtime.security", error = &e as &dyn std::error::Error,
                        "the trust bundle cannot be read from the API server");
                    None
                }
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_appears_and_gives_up_on_what_does_not() {
        let mut asked = 0;
        let late = appearing(|| {
            asked += 1;
            let answer = if asked < 3 {
                Err("connection refused")
            } else {
                Ok((asked > 3).then_some("here"))
            };
            std::future::ready(answer)
        });
        assert_eq!(late.await, Ok(Some("here")));
        assert_eq!(appearing(|| std::future::ready(Ok::<Option<()>, &str>(None))).await, Ok(None));
        assert_eq!(
            appearing(|| std::future::ready(Err::<Option<()>, _>("forbidden"))).await,
            Err("forbidden")
        );
    }
}
