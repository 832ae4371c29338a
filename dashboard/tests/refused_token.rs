//! A user with a token that the API server refuses disturbs no other user.
#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    reason = "the API server of a test owns its tasks, and stops with the test"
)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dashboard::{Auth, Config, Source};
use http::{HeaderMap, Response, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::Scope;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use testkit::ca::{Ca, SvidOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Kinds that pages show; the user may list each in all namespaces.
const REVIEWS: usize = 10;
const HTTP2: &[u8] = b"h2";

/// Reviews of the token `right`, and whether another token was refused.
struct Api {
    reviews: watch::Sender<usize>,
    refused: watch::Sender<bool>,
}

impl Api {
    /// Answers the reviews of one token when it has refused another one.
    async fn answer(&self, headers: &HeaderMap, path: &str) -> (u16, &'static str) {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if !path.ends_with("/selfsubjectaccessreviews") {
            return (403, "{}");
        }
        if token != Some("Bearer right") {
            return (401, "{}");
        }
        self.reviews.send_modify(|number| *number += 1);
        self.refused.subscribe().wait_for(|done| *done).await.unwrap();
        (201, r#"{"status":{"allowed":true}}"#)
    }

    /// As kube-apiserver: a refused token ends the HTTP/2 connection, with what else is on it.
    async fn serve_http2(self: Arc<Self>, stream: TlsStream<TcpStream>) {
        // Clients leave.
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let (head, _) = request.into_parts();
            let response = |status| Response::builder().status(status).body(()).unwrap();
            let api = self.clone();
            if head.headers.get(header::AUTHORIZATION).is_some_and(|value| value == "Bearer wrong")
            {
                respond.send_response(response(401), true).unwrap();
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                self.refused.send_replace(true);
                continue;
            }
            tokio::spawn(async move {
                let (status, body) = api.answer(&head.headers, head.uri.path()).await;
                // The connection may have ended.
                if let Ok(mut stream) = respond.send_response(response(status), false) {
                    let _ = stream.send_data(Bytes::from_static(body.as_bytes()), true);
                }
            });
        }
    }

    async fn serve_http1(self: Arc<Self>, stream: TlsStream<TcpStream>) {
        let service = service_fn(async |request: http::Request<hyper::body::Incoming>| {
            let (status, body) = self.answer(request.headers(), request.uri().path()).await;
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status.try_into().unwrap();
            if status == 401 {
                response.headers_mut().insert(header::CONNECTION, "close".try_into().unwrap());
                self.refused.send_replace(true);
            }
            Ok::<_, std::convert::Infallible>(response)
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await; // clients leave
    }

    /// Serves HTTP/2 and HTTP/1.1 over TLS; writes the kubeconfig of an account.
    async fn start(folder: &Path) -> Arc<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (ca, dns_names) = (Ca::new(), vec!["localhost".to_owned()]);
        let options = SvidOptions { dns_names, ..SvidOptions::default() };
        let own = ca.svid_with("default", "kubernetes", &options);
        let key = PrivatePkcs8KeyDer::from(own.key.pkcs8_der().to_vec());
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(own.chain.certs().to_vec(), PrivateKeyDer::from(key))
            .unwrap();
        tls.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        std::fs::write(folder.join("ca.crt"), &ca.pem().anchors).unwrap();
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("https://localhost:{port}"),
                "certificate-authority": folder.join("ca.crt")}}],
            "users": [{"name": "it", "user": {"token": "own"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let api =
            Arc::new(Self { reviews: watch::Sender::new(0), refused: watch::Sender::new(false) });
        let (acceptor, served) = (TlsAcceptor::from(Arc::new(tls)), api.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
                    tokio::spawn(served.clone().serve_http2(stream));
                } else {
                    tokio::spawn(served.clone().serve_http1(stream));
                }
            }
        });
        api
    }
}

/// Status of the first page for the owner of a token.
async fn first_page(port: u16, token: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_refused_token_loses_no_review_of_another_user() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(folder.path()).await;
    let config = Config {
        port: 0,
        address: [127, 0, 0, 1].into(),
        namespace: "dapr-system".to_owned(),
        base_path: String::new(),
        allowed_hosts: Vec::new(),
        auth: Auth::Token,
        logs: false,
        source: Source::Kubernetes { kubeconfig: Some(folder.path().join("kubeconfig")) },
    };
    let port = dashboard::serve(config, Scope::for_test()).await.unwrap().port();
    let (right, wrong) = tokio::join!(first_page(port, "right"), async {
        api.reviews.subscribe().wait_for(|number| *number > 0).await.unwrap();
        first_page(port, "wrong").await
    });
    assert_eq!((right.as_str(), wrong.as_str()), ("200", "401"));
    assert_eq!(*api.reviews.borrow(), REVIEWS, "a review was lost and repeated");
}
