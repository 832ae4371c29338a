//! The addresses of etcd, tried in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};
use transport::file_client::{FileClient, Io};

/// One connection attempt, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(3);
/// A dead connection is detected after both. etcd refuses pings more frequent than
/// every 5 seconds.
const PING: Duration = Duration::from_secs(6);
const PING_ANSWER: Duration = Duration::from_secs(4);
/// The port of etcd's clients, where an address has none.
const DEFAULT_PORT: u16 = 2379;

/// Why an endpoint is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EndpointError {
    #[error("--etcd-client-endpoints: {0:?} is not of the form [http[s]://]<host>[:<port>]")]
    Form(String),
    #[error("--etcd-client-endpoints: some begin with https:// and some do not")]
    Mixed,
}

/// The endpoints of etcd.
pub(crate) struct Endpoints {
    addresses: Vec<Address>,
    tls: Option<FileClient>,
    /// The one that is tried next.
    next: AtomicUsize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
}

/// Whether the endpoints are those of a TLS port.
pub(crate) fn with_tls(endpoints: &[String]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.starts_with("https://"))
}

impl Endpoints {
    /// Checks addresses with or without a scheme.
    ///
    /// # Errors
    /// [`EndpointError`]: one is not an address, or only some have TLS.
    pub(crate) fn parse(texts: &[String], tls: Option<FileClient>) -> Result<Self, EndpointError> {
        let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let mut addresses = Vec::new();
        for text in texts {
            let (secure, address) = parse(text).ok_or_else(|| EndpointError::Form(text.into()))?;
            if secure != tls.is_some() {
                return Err(EndpointError::Mixed);
            }
            addresses.push(address);
        }
        // Members start at different endpoints.
        let next = usize::try_from(runtime::random::bits() >> 32).unwrap_or_default();
        Ok(Self { addresses, tls, next: AtomicUsize::new(next) })
    }

    /// A channel that connects when it is used, to the next endpoint at each attempt.
    pub(super) fn channel(this: &Arc<Self>) -> Channel {
        let this = this.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let this = this.clone();
            async move { this.connect().await.map(TokioIo::new) }
        });
        // Ignored: the connector knows the addresses.
        Endpoint::from_static("http://etcd")
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .http2_adaptive_window(true)
            .connect_with_connector_lazy(connector)
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Io>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len().max(1);
        let none = || std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        let address = self.addresses.get(at).ok_or_else(none)?;
        let connect = async {
            let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
            tcp.set_nodelay(true)?;
            match &self.tls {
                None => Ok(Box::new(tcp) as Box<dyn Io>),
                Some(tls) => tls.connect(&address.host, tcp).await,
            }
        };
        let connected = tokio::time::timeout(CONNECT, connect).await;
        connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

fn parse(text: &str) -> Option<(bool, Address)> {
    let (secure, rest) = match text.split_once("://") {
        None => (false, text),
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(_) => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let authority: axum::http::uri::Authority = rest.parse().ok()?;
    if rest.contains('@') || authority.host().is_empty() {
        return None;
    }
    // A colon without a number is not a port.
    let port = match authority.port_u16() {
        Some(port) => port,
        None if rest.ends_with(authority.host()) => DEFAULT_PORT,
        None => return None,
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((secure, Address { host, port }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("etcd:2379", Some((false, "etcd", 2379)))]
    #[case("etcd", Some((false, "etcd", 2379)))]
    #[case("http://10.0.0.1:1", Some((false, "10.0.0.1", 1)))]
    #[case("https://[::1]:2", Some((true, "::1", 2)))]
    #[case("https://etcd.example/", Some((true, "etcd.example", 2379)))]
    #[case("unix://x", None)]
    #[case("a b", None)]
    #[case("etcd:port", None)]
    #[case("user@etcd:1", None)]
    fn addresses(#[case] text: &str, #[case] want: Option<(bool, &str, u16)>) {
        let got = parse(text);
        let got = got.as_ref().map(|(tls, address)| (*tls, address.host.as_str(), address.port));
        assert_eq!(got, want);
    }

    #[test]
    fn all_have_tls_or_none() {
        let texts = ["a:1".to_owned(), "https://b:1".to_owned()];
        assert!(with_tls(&texts));
        assert_eq!(Endpoints::parse(&texts, None).err(), Some(EndpointError::Mixed));
    }
}
