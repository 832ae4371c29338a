//! `operator self-test`: tests an installation from inside the cluster, as `helm test` does. It
//! creates objects as dry runs only.
use std::future::Future;
use std::io;
use std::time::Duration;

use clap::{ArgAction, Args};
use kubernetes::{ClientError, Precedence};
use runtime::flags::go_bool;
use runtime::{Scope, chain};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use transport::svid;

use crate::cluster::Cluster;
use crate::commands::cluster::{CallError, CommandCluster};
use crate::config::{Config, Flags};
use crate::error::ConfigurationError;
use crate::watchdog::cluster::{InjectionUnverified, PodClient};
use crate::wiring::{control_plane_configuration, security};

/// Timeout of each check except the one for an identity.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of the check for an identity: sentry may still be creating its CA.
const IDENTITY_TIMEOUT: Duration = Duration::from_mins(1);

/// The flags of `self-test`, those of the tested operator included.
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

/// Why the self-test failed.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Checks failed; the log names them.
    #[error("{failed} of {total} checks failed")]
    Checks {
        /// Number of failed checks.
        failed: u32,
        /// Number of all checks.
        total: u32,
    },
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Svid(#[from] svid::StartError),
    #[error(transparent)]
    Injection(#[from] InjectionUnverified),
    #[error("create a Subscription v1alpha1 as a dry run")]
    Create(#[source] Box<CheckError>),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the API server returned route {0:?}")]
    Route(Option<Value>),
}

/// Runs every check and logs each result.
///
/// # Errors
/// [`SelfTestError`]: at least one check failed, or there are no credentials for the API server.
pub async fn run(
    config: &Config,
    services: &[String],
    injection: bool,
    scope: &Scope,
) -> Result<(), SelfTestError> {
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let cluster = Cluster::new(client.clone(), None, config.namespace.clone());
    let mut failed = 0_u32;
    let mut total = 0_u32;
    let mut note = |what: &str, result: Result<(), CheckError>| {
        total += 1;
        match result {
            Ok(()) => tracing::info!(target: "dapr.operator.selftest", "ok: {what}"),
            Err(error) => {
                failed += 1;
                let error = chain(&error);
                tracing::error!(target: "dapr.operator.selftest", "failed: {what}: {error}");
            }
        }
    };
    for address in services {
        note(&format!("{address} accepts connections"), reach(address).await);
    }
    note("sentry issues an identity", identity(&cluster, config, scope).await);
    if injection {
        let result =
            PodClient::new(client.clone(), config.namespace.clone()).verify_injection().await;
        note("a pod that requests a sidecar receives one", result.map(drop).map_err(Into::into));
    }
    let result = conversion(&CommandCluster::new(client, config.namespace.clone())).await;
    note("the API server converts Subscriptions", result);
    if failed == 0 { Ok(()) } else { Err(SelfTestError::Checks { failed, total }) }
}

async fn reach(address: &str) -> Result<(), CheckError> {
    let connect = async { TcpStream::connect(address).await.map_err(CheckError::Connect) };
    within(TIMEOUT, connect).await.map(drop)
}

async fn identity(cluster: &Cluster, config: &Config, scope: &Scope) -> Result<(), CheckError> {
    within(IDENTITY_TIMEOUT, async {
        let configuration = control_plane_configuration(cluster, config).await?;
        let options = security(cluster, config, &configuration)?;
        svid::start(options, scope).await?;
        Ok(())
    })
    .await
}

async fn conversion(cluster: &CommandCluster) -> Result<(), CheckError> {
    let route = within(TIMEOUT, async { Ok(cluster.convert_subscription().await?) });
    let route = route.await.map_err(|cause| CheckError::Create(Box::new(cause)))?;
    if route == Some(json!("/self-test")) { Ok(()) } else { Err(CheckError::Route(route)) }
}

async fn within<T>(
    limit: Duration,
    check: impl Future<Output = Result<T, CheckError>>,
) -> Result<T, CheckError> {
    timeout(limit, check).await.map_err(|_| CheckError::Timeout(limit))?
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
