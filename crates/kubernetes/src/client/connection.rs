//! Connections to the API server: HTTP/2, so that all watches and calls of a process share one
//! connection and its buffers, or HTTP/1.1 for services that make many short calls.

use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::ClientError;

/// Limit from a request to the head of its response. The API server itself times out after a
/// minute; the body of a watch has no limit.
const RESPONSE: Duration = Duration::from_secs(90);
/// Idle time before a ping, and time limit of its answer: the values of `client-go`.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(15);
/// Bytes that the server may send ahead of their reader, per response and per connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Buffer of an HTTP/1.1 connection, of which each watch needs one. Holds the head of a response.
const HTTP1_BUFFER: usize = 32 * 1024;

/// The use of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Watches and occasional calls: one HTTP/2 connection.
    Watches,
    /// Many short concurrent calls: HTTP/1.1, which has the higher throughput.
    ShortCalls,
}

/// A client of the API server of `config`.
///
/// # Errors
/// [`ClientError::Unusable`], [`ClientError::Proxy`] or [`ClientError::ServerName`].
pub(crate) fn client(config: &Config, traffic: Traffic) -> Result<Client, ClientError> {
    if let Some(proxy) = &config.proxy_url {
        // The user info of the URL may be a password.
        return Err(ClientError::Proxy(proxy.host().unwrap_or_default().to_owned()));
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
        .option_layer(config.auth_layer().map_err(unusable("credentials"))?)
        .layer(config.extra_headers_layer().map_err(unusable("extra headers"))?)
        .map_err(BoxError::from)
        .timeout(RESPONSE)
        .service(http.build::<_, Body>(connector(config, traffic)?));
    Ok(Client::new(service, config.default_namespace.clone()))
}

fn connector(
    config: &Config,
    traffic: Traffic,
) -> Result<HttpsConnector<HttpConnector>, ClientError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    // Detects dead HTTP/1.1 connections, which have no pings.
    tcp.set_keepalive(Some(PING));
    let tls = config.rustls_client_config();
    let tls = tls.map_err(unusable("cluster's certificate authority"))?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let parsed = name.clone().try_into().map_err(|_| ClientError::ServerName(name.clone()))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(parsed));
    }
    Ok(match traffic {
        Traffic::Watches => builder.enable_all_versions().wrap_connector(tcp),
        Traffic::ShortCalls => builder.enable_http1().wrap_connector(tcp),
    })
}

pub(super) fn unusable(part: &'static str) -> impl Fn(kube::Error) -> ClientError {
    move |source| ClientError::Unusable { part, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_is_rejected_and_its_password_is_not_printed() {
        let mut config = Config::new("https://127.0.0.1:6443".parse().unwrap());
        assert!(client(&config, Traffic::Watches).is_ok());
        config.proxy_url = Some("http://me:secret@proxy.example:3128".parse().unwrap());
        let error = client(&config, Traffic::Watches).err().unwrap();
        let text = format!("{error} {error:?}");
        assert!(text.contains("proxy.example") && !text.contains("secret"), "{text}");
    }
}
