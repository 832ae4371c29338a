//! Clients of the API server: where the credentials come from, and how connections are made.

mod connection;
mod proxy;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{AuthInfo, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use runtime::{chain, environment};

use connection::Traffic;

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// The flags of every service that uses the API server.
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

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The process has no credentials at all.
    #[error(
        "no Kubernetes credentials: not in a pod, and neither --kubeconfig, KUBECONFIG nor HOME is set"
    )]
    NoCredentials,
    /// The files of the pod's service account cannot be used.
    #[error("read the pod's service account")]
    ServiceAccount(#[source] InClusterError),
    /// This kubeconfig cannot be read, or has no such context.
    #[error("read kubeconfig {}", path.display())]
    Kubeconfig {
        /// Path of the file.
        path: PathBuf,
        /// Why kube cannot read it.
        source: KubeconfigError,
    },
    /// The kubeconfig that `KUBECONFIG` or `HOME` names cannot be read, or has no such context.
    #[error("read the kubeconfig")]
    DefaultKubeconfig(#[source] KubeconfigError),
    /// A proxy is configured, which the client does not support: services support none, commands none
    /// but HTTP and HTTPS proxies. Contains its host.
    #[error(
        "the proxy {0:?} of the kubeconfig or the environment is not supported: use a kubeconfig without proxy-url that reaches the API server directly, or unset HTTPS_PROXY and HTTP_PROXY or add the API server to NO_PROXY"
    )]
    Proxy(String),
    /// The server name for TLS is not a name. Contains it.
    #[error("the TLS server name {0:?} of the kubeconfig is not a DNS name or IP address")]
    ServerName(String),
    /// Credentials or certificates cannot be used; the text names the part.
    #[error("create the Kubernetes client: use the {part}")]
    Unusable {
        /// The affected part of the configuration, such as a certificate.
        part: &'static str,
        /// The error of the client library.
        source: Box<kube::Error>,
    },
}

/// A client for watches and occasional calls: all share one HTTP/2 connection where the API server
/// offers HTTP/2. It has no client-side rate limit.
///
/// In-cluster credentials count as present only if `KUBERNETES_SERVICE_HOST` and
/// `KUBERNETES_SERVICE_PORT` are both non-empty and the service account files are readable.
///
/// # Errors
/// There are no credentials, or the kubeconfig is unreadable; the text names the file.
pub async fn client(
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> Result<Client, ClientError> {
    connect(Traffic::Watches, kubeconfig, precedence).await
}

/// As [`client`], for a service that makes hundreds of short calls a second: HTTP/1.1, a connection
/// per concurrent call.
///
/// # Errors
/// As [`client`].
pub async fn client_for_short_calls(
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> Result<Client, ClientError> {
    connect(Traffic::ShortCalls, kubeconfig, precedence).await
}

/// As [`client_for_short_calls`], for calls that bring credentials of their own in the header
/// `Authorization`: the credentials of the process are not sent. Callers share no connection, because
/// kube-apiserver closes an HTTP/2 connection after a request whose credentials it refuses, and the
/// other requests on it are lost.
///
/// # Errors
/// As [`client`].
pub async fn client_without_credentials(
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> Result<Client, ClientError> {
    let mut config = configuration(kubeconfig, precedence).await?;
    config.auth_info = AuthInfo::default();
    connection::client(&config, Traffic::ShortCalls)
}

async fn connect(
    traffic: Traffic,
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> Result<Client, ClientError> {
    connection::client(&configuration(kubeconfig, precedence).await?, traffic)
}

async fn configuration(
    kubeconfig: Option<&Path>,
    precedence: Precedence,
) -> Result<Config, ClientError> {
    Ok(match (kubeconfig, set("KUBECONFIG")) {
        _ if precedence == Precedence::InCluster && in_cluster() => incluster()?,
        (Some(path), _) => from_file(path).await?,
        (None, Some(path)) => from_file(Path::new(&path)).await?,
        (None, None) if in_cluster() => incluster()?,
        (None, None) => from_file(&home_config()?).await?,
    })
}

/// A client for an interactive command: the cluster of a context of `--kubeconfig`, of the files in
/// `KUBECONFIG`, or of `$HOME/.kube/config`, as kubectl resolves them; without any of them the
/// pod's own. `timeout` bounds each call. A `proxy-url` of the kubeconfig, `HTTPS_PROXY`, `HTTP_PROXY`
/// and `NO_PROXY` mean what they mean for kubectl, but for SOCKS proxies, which are rejected.
/// Credential plugins that a kubeconfig names are run.
///
/// # Errors
/// There are no credentials, no such context, or the kubeconfig is unreadable.
pub async fn user_client(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    timeout: Duration,
) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        None if set("KUBECONFIG").is_none() && context.is_none() && in_cluster() => incluster()?,
        path => {
            let named = |source| match path {
                Some(path) => ClientError::Kubeconfig { path: path.to_owned(), source },
                None => ClientError::DefaultKubeconfig(source),
            };
            let file = path.map_or_else(Kubeconfig::read, Kubeconfig::read_from).map_err(named)?;
            of_context(file, context, named).await?
        }
    };
    config.connect_timeout = Some(timeout);
    config.read_timeout = Some(timeout);
    Client::try_from(config).map_err(connection::unusable("configuration"))
}

/// The message of the API server or the transport error, with all causes on one line.
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

fn incluster() -> Result<Config, ClientError> {
    Config::incluster_env().map_err(ClientError::ServiceAccount)
}

fn home_config() -> Result<PathBuf, ClientError> {
    let home = set("HOME").ok_or(ClientError::NoCredentials)?;
    Ok(Path::new(&home).join(".kube/config"))
}

async fn from_file(path: &Path) -> Result<Config, ClientError> {
    let named = |source| ClientError::Kubeconfig { path: path.to_owned(), source };
    let file = Kubeconfig::read_from(path).map_err(named)?;
    of_context(file, None, named).await
}

/// The configuration of a context, or of the current context, with the proxy that kubectl would use.
async fn of_context(
    file: Kubeconfig,
    context: Option<&str>,
    failed: impl FnOnce(KubeconfigError) -> ClientError,
) -> Result<Config, ClientError> {
    let explicit = proxy::proxy_of(&file, context);
    let own = proxy::without_proxy(&file, context);
    let context = context.map(str::to_owned);
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let mut config = match (Config::from_custom_kubeconfig(file, &options).await, own) {
        (Ok(config), _) => config,
        // The last part that kube reads; ours is set below.
        (Err(KubeconfigError::ParseNoProxy(_) | KubeconfigError::ParseProxyUrl(_)), Some(own)) => {
            own
        }
        (Err(error), _) => return Err(failed(error)),
    };
    let environment = proxy::Environment {
        https: set("HTTPS_PROXY").or_else(|| set("https_proxy")),
        http: set("HTTP_PROXY").or_else(|| set("http_proxy")),
        exempt: set("NO_PROXY").or_else(|| set("no_proxy")).unwrap_or_default(),
    };
    proxy::apply(&mut config, explicit.as_deref(), &environment)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreadable_kubeconfig_is_named() {
        let path = Path::new("/nonexistent/kubeconfig");
        let error = client(Some(path), Precedence::Kubeconfig).await.err().unwrap();
        assert_eq!(error.to_string(), "read kubeconfig /nonexistent/kubeconfig");
        let error = user_client(Some(path), None, Duration::from_secs(1)).await.err().unwrap();
        assert_eq!(error.to_string(), "read kubeconfig /nonexistent/kubeconfig");
    }
}
