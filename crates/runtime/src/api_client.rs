//! How the API server is spoken to: HTTP/2, so that all watches and calls of a process share one
//! connection and its buffers, or HTTP/1.1 where the server has no HTTP/2 or speed counts.

use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _, retry::RetryPolicy};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

/// From a request to the head of its answer. The API server gives up after a minute by itself; the
/// body of a watch may take as long as it likes.
const ANSWER: Duration = Duration::from_secs(90);
/// Idle time before a ping, and how long its answer may take: as `client-go` has it.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(15);
/// Bytes that the server may send ahead of their reader, for one answer and for all together.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Buffer of a connection without HTTP/2, of which each watch has its own. Holds an answer's head.
const HTTP1_BUFFER: usize = 32 * 1024;

/// What is sent over the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Watches, and now and then a call: one connection for all.
    Watches,
    /// Many short calls at once, which go through faster on connections of their own.
    ShortCalls,
}

/// A client of the API server of `config`.
///
/// # Errors
/// The credentials cannot be used, or the API server is to be reached through a proxy.
pub(crate) fn client(config: &Config, traffic: Traffic) -> anyhow::Result<Client> {
    if let Some(proxy) = &config.proxy_url {
        let host = proxy.host().unwrap_or_default(); // what stands before it may be a password
        bail!("the proxy {host:?} of the kubeconfig or the environment cannot be used: remove it");
    }
    let mut http = legacy::Client::builder(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http1_max_buf_size(HTTP1_BUFFER)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG);
    let retry = config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(config.auth_layer().context("use the credentials")?)
        .layer(config.extra_headers_layer().context("use the extra headers")?)
        .map_err(BoxError::from)
        .timeout(ANSWER)
        .service(http.build::<_, Body>(connector(config, traffic)?));
    Ok(Client::new(service, config.default_namespace.clone()))
}

fn connector(config: &Config, traffic: Traffic) -> anyhow::Result<HttpsConnector<HttpConnector>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    // Finds the end of a connection without HTTP/2, which has no pings.
    tcp.set_keepalive(Some(PING));
    let tls = config.rustls_client_config().context("use the cluster's certificate authority")?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().context("use the cluster's TLS server name")?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(match traffic {
        Traffic::Watches => builder.enable_all_versions().wrap_connector(tcp),
        Traffic::ShortCalls => builder.enable_http1().wrap_connector(tcp),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_is_refused_and_its_password_not_told() {
        let mut config = Config::new("https://127.0.0.1:6443".parse().unwrap());
        assert!(client(&config, Traffic::Watches).is_ok());
        config.proxy_url = Some("http://me:secret@proxy.example:3128".parse().unwrap());
        let error = client(&config, Traffic::Watches).err().unwrap().to_string();
        assert!(error.contains("proxy.example") && !error.contains("secret"), "{error}");
    }
}
