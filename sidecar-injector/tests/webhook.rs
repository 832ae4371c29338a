//! `/mutate` over HTTPS, as the API server calls it: the real server, a real certificate.
#![cfg(test)]

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use identity::{KeyKind, SpiffeId, TrustAnchors};
use prometheus::Encoder as _;
use rstest::rstest;
use runtime::Scope;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use sidecar_injector::{
    AdmissionMetrics, ClusterSnapshot, Flags, HostEnvironment, Webhook, router,
};
use testkit::ca::{Ca, SvidOptions};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use transport::svid::CertifiedSvid;
use transport::tls::{self, Alpn, ClientAuth};
use transport::{Limits, Server, Svid};

const HOST: &str = "dapr-sidecar-injector.dapr-system.svc";

struct TestServer {
    address: SocketAddr,
    root: CertificateDer<'static>,
    anchors: watch::Receiver<Arc<TrustAnchors>>,
    id: SpiffeId,
    scope: Scope,
}

async fn serve() -> TestServer {
    serve_to(None).await
}

/// Serves clients with a certificate of this CA only, if one is given.
async fn serve_to(clients: Option<&Ca>) -> TestServer {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = Ca::new();
    let options = SvidOptions {
        key_kind: KeyKind::Rsa2048,
        dns_names: vec![HOST.to_owned()],
        ..SvidOptions::default()
    };
    let leaf = ca.svid_with("dapr-system", "dapr-injector", &options);
    let (_keep, anchors) = watch::channel(Arc::new(ca.anchors()));
    let certified = CertifiedSvid::new(leaf.chain, &leaf.key).unwrap();
    let id = certified.id().clone();
    let svid = Svid::fixed(certified, anchors.clone());
    let scope = Scope::for_test();
    let var = |name: &str| match name {
        "NAMESPACE" => Some("dapr-system".to_owned()),
        "SIDECAR_IMAGE" => Some("daprd:1.18.3".to_owned()),
        _ => None,
    };
    let config =
        Flags::parse_from(["injector"]).into_config(var, &HostEnvironment::default()).unwrap();
    let metrics = AdmissionMetrics::register(scope.metrics()).unwrap();
    let called = watch::channel(false).0;
    let snapshot = ClusterSnapshot::default();
    let policy = config.admission_policy();
    let webhook = Webhook::new(policy, snapshot, anchors.clone(), metrics, called, None);
    let listener = runtime::listen("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = match clients {
        None => tls::server(&svid, ClientAuth::None, Alpn::Https).unwrap(),
        Some(ca) => tls::server_for_clients_of(&svid, ca.anchors().pem().as_bytes()).unwrap(),
    };
    let limits = Limits { body_bytes: 8 * 1024 * 1024, ..Limits::default() };
    let server = Server::new("webhook", listener, router(webhook)).tls(tls).limits(limits);
    scope.spawn("webhook", server.run(scope.clone()));
    TestServer { address, root: ca.anchors().certs()[0].clone(), anchors, id, scope }
}

impl TestServer {
    /// One request over a connection that verifies the host name, as the API server does.
    async fn send(&self, request: http::Request<Full<Bytes>>) -> (u16, Bytes) {
        self.send_as(self.without_certificate(), request).await.unwrap()
    }

    /// A client without a certificate.
    fn without_certificate(&self) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    }

    /// The same as another client; `None` if the server closes the connection.
    async fn send_as(
        &self,
        config: rustls::ClientConfig,
        request: http::Request<Full<Bytes>>,
    ) -> Option<(u16, Bytes)> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.scope.spawn_detached("client", async move {
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.into_body().collect().await.unwrap().to_bytes()))
    }

    async fn post(&self, content_type: &str, body: impl Into<Bytes>) -> (u16, Bytes) {
        let request = http::Request::post("/mutate?timeout=10s")
            .header("host", HOST)
            .header("content-type", content_type)
            .body(Full::new(body.into()))
            .unwrap();
        self.send(request).await
    }

    async fn review(&self, review: &Value) -> Value {
        let (status, body) = self.post("application/json", review.to_string()).await;
        assert_eq!(status, 200, "{body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    fn metrics(&self) -> String {
        let mut text = Vec::new();
        prometheus::TextEncoder::new().encode(&self.scope.metrics().gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// The sum of all series of a counter.
    fn total(&self, metric: &str) -> f64 {
        let text = self.metrics();
        let series = text.lines().filter(|line| line.starts_with(metric));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

fn review(annotations: &Value, group: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "7f0b", "kind": {"kind": "Pod"}, "namespace": "default",
            "userInfo": {"username": "someone", "groups": [group]},
            "object": {
                "metadata": {"name": "pod", "annotations": annotations},
                "spec": {"containers": [{"name": "app", "unknownField": {"kept": [1, 2]}}]},
            },
        },
    })
}

#[tokio::test]
async fn injects_over_https_with_an_rsa_certificate_for_its_service_name() {
    let served = serve().await;
    let answer =
        served.review(&review(&json!({"dapr.io/enabled": "true"}), "system:masters")).await;
    assert_eq!(answer["response"]["uid"], "7f0b");
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].as_str().unwrap().len() > 100);
    served.scope.shutdown().await.unwrap();
}

#[rstest]
#[case::empty("application/json", "", 400, "empty body")]
#[case::empty_first("text/plain", "", 400, "empty body")]
#[case::type_("text/plain", "{}", 415, "invalid Content-Type, expected `application/json`")]
#[case::no_json("application/json", "pod", 400, "body is not an AdmissionReview with a request")]
#[case::no_request("application/json", "{}", 400, "body is not an AdmissionReview with a request")]
#[case::parameters(
    "application/json; charset=utf-8",
    "{}",
    400,
    "body is not an AdmissionReview with a request"
)]
#[tokio::test]
async fn answers_what_is_no_review_by_status(
    #[case] content_type: &str,
    #[case] body: &'static str,
    #[case] status: u16,
    #[case] text: &str,
) {
    let served = serve().await;
    let (got, answer) = served.post(content_type, body).await;
    assert_eq!((got, std::str::from_utf8(&answer).unwrap()), (status, text));
    served.scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn refuses_a_body_beyond_the_limit() {
    let served = serve().await;
    let (status, _) = served.post("application/json", vec![b' '; 8 * 1024 * 1024 + 1]).await;
    assert_eq!(status, 413);
    let (status, _) = served.post("application/json", vec![b' '; 8 * 1024 * 1024]).await;
    assert_eq!(status, 400);
    served.scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn other_paths_do_not_exist_and_any_method_will_do() {
    let served = serve().await;
    let request = |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).header("host", HOST);
        let body = review(&json!({}), "x").to_string();
        request.header("content-type", "application/json").body(Full::new(body.into())).unwrap()
    };
    assert_eq!(served.send(request("POST", "/")).await.0, 404);
    assert_eq!(served.send(request("POST", "/mutate/x")).await.0, 404);
    assert_eq!(served.send(request("PUT", "/mutate")).await.0, 200);
    served.scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn every_request_is_counted_once() {
    let served = serve().await;
    let admin = "system:masters";
    let reviews = [
        review(&json!({"dapr.io/enabled": "true"}), admin),
        review(&json!({"dapr.io/enabled": "true", "dapr.io/app-id": "Bad"}), admin),
        review(&json!({"dapr.io/enabled": "true"}), "strangers"),
        review(&json!({"dapr.io/enabled": "no"}), admin),
        review(&json!({"dapr.io/enabled": "true", "dapr.io/apid": "x"}), admin),
    ];
    for review in &reviews {
        served.review(review).await;
    }
    served.post("application/json", "").await;
    let total = |name: &str| served.total(&format!("dapr_injector_{name}"));
    let (succeeded, failed) =
        (total("sidecar_injection_succeeded_total"), total("sidecar_injection_failed_total"));
    let skipped = total("skipped_total");
    assert_eq!((succeeded, failed, skipped), (2.0, 2.0, 2.0), "{}", served.metrics());
    let requests = total("sidecar_injection_requests_total");
    assert!((requests - (succeeded + failed + skipped)).abs() < f64::EPSILON);
    let counters: Vec<String> =
        served.metrics().lines().filter(|l| l.contains("_total")).map(str::to_owned).collect();
    insta::assert_snapshot!(counters.join("\n"));
    served.scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn with_a_client_ca_only_its_clients_are_answered() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let served = serve_to(Some(&ca)).await;
    let call = async |client: Option<&Ca>| {
        let config = client.map_or(served.without_certificate(), |ca| {
            let leaf = ca.svid("kube-system", "apiserver");
            let certified = CertifiedSvid::new(leaf.chain, &leaf.key).unwrap();
            let svid = Svid::fixed(certified, served.anchors.clone());
            let mut config = (*tls::client(&svid, served.id.clone()).unwrap()).clone();
            config.alpn_protocols.clear();
            config
        });
        let request = http::Request::post("/mutate").header("host", HOST);
        let answer = served.send_as(config, request.body(Full::default()).unwrap()).await;
        answer.map(|(status, _)| status)
    };
    assert_eq!(call(Some(&ca)).await, Some(400), "an empty body, but accepted");
    assert_eq!(call(Some(&stranger)).await, None);
    assert_eq!(call(None).await, None);
}
