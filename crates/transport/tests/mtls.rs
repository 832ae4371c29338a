//! Both ends of the identity layer against each other, with a sentry that issues to any client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use identity::{Csr, KeyKind, LeafRequest, SpiffeId, TrustAnchors, TrustDomain, verify_svid};
use proto::sentry::ca_client::CaClient;
use proto::sentry::ca_server::{Ca as CaService, CaServer};
use proto::sentry::{SignCertificateRequest, SignCertificateResponse};
use runtime::Scope;
use rustls::ClientConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use testkit::ca::{Ca, TestSvid};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tonic::{Code, Request, Response, Status};
use transport::anchors::{AnchorSource, watch_anchors};
use transport::svid::{self, CertifiedSvid, Mode, Options};
use transport::tls::{self, Alpn, ClientAuth};
use transport::{Peer, Server, Svid};

const LIMIT: Duration = Duration::from_secs(20);

/// Issues to any client; for an empty request it returns the peer's id in the chain field.
struct Sentry {
    ca: Arc<Ca>,
    ttl: Duration,
    /// Number of first requests, which another CA signs.
    foreign: usize,
    /// The number of requests after which all are refused.
    refuses_after: usize,
    requests: Arc<AtomicUsize>,
    /// A request of the id `slow` notifies it, and is answered after a notification.
    slow: Arc<Slow>,
}

#[derive(Default)]
struct Slow {
    arrived: Notify,
    released: Notify,
}

#[tonic::async_trait]
impl CaService for Sentry {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let message = request.into_inner();
        if message.id == "slow" {
            self.slow.arrived.notify_one();
            self.slow.released.notified().await;
        }
        if message.certificate_signing_request.is_empty() {
            let id = peer.and_then(|p| p.id).map(|id| id.to_string()).unwrap_or_default();
            let workload_certificate = id.into_bytes();
            return Ok(Response::new(SignCertificateResponse {
                workload_certificate,
                ..Default::default()
            }));
        }
        let csr = Csr::parse_pem(&message.certificate_signing_request)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let id = SpiffeId::new(&domain, &message.namespace, &message.id).unwrap();
        let leaf = LeafRequest {
            id: &id,
            dns_names: &[],
            container_images: None,
            public_key: csr.public_key_der(),
            ttl: self.ttl,
            clock_skew: Duration::ZERO,
        };
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        if number >= self.refuses_after {
            return Err(Status::permission_denied("refused"));
        }
        let ca = if number < self.foreign { Arc::new(Ca::new()) } else { self.ca.clone() };
        let issued = ca.bundle().issue(&leaf, runtime::clock::now()).unwrap();
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: issued.chain.to_pem().into_bytes(),
            ..Default::default()
        }))
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn id(app: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "dapr-system", app).unwrap()
}

fn fixed(svid: &TestSvid, anchors: TrustAnchors) -> Svid {
    let certified = CertifiedSvid::new(svid.chain.clone(), &svid.key).unwrap();
    Svid::fixed(certified, watch::channel(Arc::new(anchors)).1)
}

/// A server with that identity on a free port; returns its address.
async fn serve(svid: &Svid, clients: ClientAuth, sentry: Sentry, scope: &Scope) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = tonic::service::Routes::new(CaServer::new(sentry)).into_axum_router();
    let config = tls::server(svid, clients, Alpn::Grpc).unwrap();
    scope.spawn("server", Server::new("test", listener, router).tls(config).run(scope.clone()));
    address
}

fn sentry(ca: &Arc<Ca>) -> Sentry {
    Sentry {
        ca: ca.clone(),
        ttl: Duration::from_hours(1),
        foreign: 0,
        refuses_after: usize::MAX,
        requests: Arc::default(),
        slow: Arc::default(),
    }
}

/// The peer id that the server reports, or the status of the failed call.
async fn call(client: &Svid, address: &str, expected: SpiffeId) -> Result<String, Status> {
    let channel = transport::channel(client, address, expected).unwrap();
    let answer = CaClient::new(channel).sign_certificate(SignCertificateRequest::default()).await?;
    Ok(String::from_utf8(answer.into_inner().workload_certificate).unwrap())
}

/// Starts as `dapr-placement`: requests an SVID from that sentry and renews it.
async fn placement(
    sentry_address: String,
    anchors: AnchorSource,
    key_kind: KeyKind,
    scope: &Scope,
) -> Svid {
    let options = Options {
        app_id: "dapr-placement".into(),
        namespace: "dapr-system".into(),
        trust_domain: domain(),
        control_plane_namespace: "dapr-system".into(),
        sentry_address,
        anchors,
        key_kind,
        mode: Mode::Standalone,
    };
    tokio::time::timeout(LIMIT, svid::start(options, scope)).await.unwrap().unwrap()
}

#[tokio::test]
async fn each_end_sees_the_other_by_its_spiffe_id() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let server = fixed(&ca.svid("dapr-system", "dapr-operator"), ca.anchors());
    let client = fixed(&ca.svid("shop", "cart"), ca.anchors());
    let address = serve(&server, ClientAuth::Spiffe, sentry(&ca), &scope).await;

    let seen = call(&client, &address, id("dapr-operator")).await.unwrap();
    assert_eq!(seen, "spiffe://cluster.local/ns/shop/cart");

    let refused = call(&client, &address, id("dapr-placement")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    scope.shutdown().await.unwrap();
}

/// The TLS alert with which the server at `address` ends the handshake of such a client.
async fn refusal(client: Arc<ClientConfig>, address: &str) -> String {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(client);
    // With TLS 1.3 the client learns of the refusal with its first read.
    let outcome = async {
        let mut stream = connector.connect(name, tcp).await?;
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await
    };
    tokio::time::timeout(LIMIT, outcome).await.unwrap().unwrap_err().to_string()
}

/// A client without certificate.
fn anonymous(ca: &Ca) -> Arc<ClientConfig> {
    let anchors = watch::channel(Arc::new(ca.anchors())).1;
    tls::anonymous_client(anchors, id("dapr-operator")).unwrap()
}

#[tokio::test]
async fn refuses_clients_of_another_authority_and_clients_without_certificate() {
    let (scope, ca, stranger) = (Scope::for_test(), Arc::new(Ca::new()), Ca::new());
    let server = fixed(&ca.svid("dapr-system", "dapr-operator"), ca.anchors());
    let address = serve(&server, ClientAuth::Spiffe, sentry(&ca), &scope).await;

    let foreign = fixed(&stranger.svid("shop", "cart"), ca.anchors());
    assert!(call(&foreign, &address, id("dapr-operator")).await.is_err());

    let refusal = refusal(anonymous(&ca), &address).await;
    assert!(refusal.contains("CertificateRequired"), "{refusal}");
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn refuses_certificates_of_its_own_authority_without_an_identity() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let server = fixed(&ca.svid("dapr-system", "dapr-operator"), ca.anchors());
    let address = serve(&server, ClientAuth::Spiffe, sentry(&ca), &scope).await;
    let names: [&[&str]; 5] = [
        &[],
        &["spiffe://public"],
        &["https://cluster.local/ns/shop/cart"],
        &["spiffe://cluster.local/ns/shop/cart", "spiffe://cluster.local/ns/shop/other"],
        &["spiffe://"],
    ];
    for uris in names {
        let TestSvid { chain, key } = ca.leaf_named(uris);
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key.into()).unwrap();
        let certified = CertifiedKey::new(chain.certs().to_vec(), key);
        let mut client = (*anonymous(&ca)).clone();
        client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        let refusal = refusal(Arc::new(client), &address).await;
        assert!(refusal.contains("received fatal alert"), "{uris:?}: {refusal}");
    }
    let cart = fixed(&ca.leaf_named(&["spiffe://cluster.local/ns/shop/cart"]), ca.anchors());
    let known = call(&cart, &address, id("dapr-operator")).await.unwrap();
    assert_eq!(known, "spiffe://cluster.local/ns/shop/cart", "and goes on serving others");
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn new_connections_use_a_replaced_certificate() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let server = fixed(&ca.svid("dapr-system", "dapr-operator"), ca.anchors());
    let client = fixed(&ca.svid("shop", "cart"), ca.anchors());
    let address = serve(&server, ClientAuth::Spiffe, sentry(&ca), &scope).await;
    call(&client, &address, id("dapr-operator")).await.unwrap();

    let renewed = ca.svid("dapr-system", "dapr-placement");
    server.replace(CertifiedSvid::new(renewed.chain.clone(), &renewed.key).unwrap());
    call(&client, &address, id("dapr-placement")).await.unwrap();
    assert!(call(&client, &address, id("dapr-operator")).await.is_err());
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_service_gets_its_identity_from_sentry_and_renews_it() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let own = fixed(&ca.svid("dapr-system", "dapr-sentry"), ca.anchors());
    let short = Sentry { ttl: Duration::from_secs(4), ..sentry(&ca) };
    let address = serve(&own, ClientAuth::None, short, &scope).await;
    let svid = placement(
        address,
        AnchorSource::Pem(ca.anchors().pem().to_owned()),
        KeyKind::Rsa2048,
        &scope,
    )
    .await;
    let first = svid.current();
    assert_eq!(first.id(), &id("dapr-placement"));
    assert!(scope.is_ready());
    testkit::until("the certificate is renewed", async || {
        svid.current().chain().certs() != first.chain().certs()
    })
    .await;
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_used() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let own = fixed(&ca.svid("dapr-system", "dapr-sentry"), ca.anchors());
    let switching = Sentry { foreign: 1, ..sentry(&ca) };
    let requests = switching.requests.clone();
    let address = serve(&own, ClientAuth::None, switching, &scope).await;
    let anchors = AnchorSource::Pem(ca.anchors().pem().to_owned());
    let svid = placement(address, anchors, KeyKind::Ed25519, &scope).await;
    assert_eq!(requests.load(Ordering::SeqCst), 2, "the first certificate is rejected");
    let chain = svid.current().chain().clone();
    assert!(verify_svid(chain.certs(), &ca.anchors(), runtime::clock::now()).is_ok());
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_service_whose_certificate_expires_is_not_ready() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let own = fixed(&ca.svid("dapr-system", "dapr-sentry"), ca.anchors());
    let once = Sentry { ttl: Duration::from_secs(2), refuses_after: 1, ..sentry(&ca) };
    let address = serve(&own, ClientAuth::None, once, &scope).await;
    let anchors = AnchorSource::Pem(ca.anchors().pem().to_owned());
    let _svid = placement(address, anchors, KeyKind::Ed25519, &scope).await;
    assert!(scope.is_ready());
    testkit::until("the service is not ready", async || !scope.is_ready()).await;
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn new_trust_anchors_make_a_service_renew_at_once() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let volume = tempfile::tempdir().unwrap();
    let file = volume.path().join("ca.crt");
    std::fs::write(&file, ca.anchors().pem()).unwrap();
    let own = fixed(&ca.svid("dapr-system", "dapr-sentry"), ca.anchors());
    let address = serve(&own, ClientAuth::None, sentry(&ca), &scope).await;
    let svid = placement(
        address,
        AnchorSource::File { path: file.clone(), fallback: None },
        KeyKind::Ed25519,
        &scope,
    )
    .await;
    let first = svid.current();
    let both = format!("{}{}", ca.anchors().pem(), Ca::new().anchors().pem());
    std::fs::write(&file, both).unwrap();
    testkit::until("the certificate is renewed", async || {
        svid.current().chain().certs() != first.chain().certs()
    })
    .await;
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_open_calls_finish() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let server = fixed(&ca.svid("dapr-system", "dapr-operator"), ca.anchors());
    let client = fixed(&ca.svid("shop", "cart"), ca.anchors());
    let service = sentry(&ca);
    let call_state = service.slow.clone();
    let address = serve(&server, ClientAuth::Spiffe, service, &scope).await;
    let channel = transport::channel(&client, &address, id("dapr-operator")).unwrap();
    let mut caller = CaClient::new(channel);
    caller.sign_certificate(SignCertificateRequest::default()).await.unwrap();

    let slow = SignCertificateRequest { id: "slow".into(), ..Default::default() };
    let call = async { caller.sign_certificate(slow).await };
    let stop = async {
        call_state.arrived.notified().await;
        scope.shutdown().await
    };
    // The port no longer accepts connections when the call is answered.
    let release = async {
        scope.token().cancelled().await;
        testkit::until("the port to be closed", async || {
            TcpStream::connect(&address).await.is_err()
        })
        .await;
        call_state.released.notify_one();
    };
    let (answer, stopped, ()) = tokio::join!(call, stop, release);
    answer.unwrap();
    stopped.unwrap();
}

/// Replaces `text` as the kubelet does: a new directory behind a swapped symlink.
fn project(volume: &Path, version: &str, text: &str) {
    let fresh = volume.join(version);
    std::fs::create_dir(&fresh).unwrap();
    std::fs::write(fresh.join("ca.crt"), text).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

#[tokio::test]
async fn follows_every_swap_of_a_projected_trust_bundle_and_survives_a_broken_one() {
    let (scope, volume) = (Scope::for_test(), tempfile::tempdir().unwrap());
    let file = volume.path().join("ca.crt");
    symlink("..data/ca.crt", &file).unwrap();
    let bundles: Vec<TrustAnchors> = (0..3).map(|_| Ca::new().anchors()).collect();

    let source = AnchorSource::File { path: file, fallback: None };
    let waiting = watch_anchors(source, &scope);
    project(volume.path(), "v0", bundles[0].pem());
    let mut anchors = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(anchors.borrow_and_update().pem(), bundles[0].pem());

    project(volume.path(), "broken", "no certificate");
    for (version, bundle) in [("v1", &bundles[1]), ("v2", &bundles[2])] {
        project(volume.path(), version, bundle.pem());
        tokio::time::timeout(LIMIT, anchors.changed()).await.unwrap().unwrap();
        assert_eq!(anchors.borrow_and_update().pem(), bundle.pem(), "{version}");
    }
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn reads_the_fallback_while_the_file_is_missing() {
    let (scope, volume) = (Scope::for_test(), tempfile::tempdir().unwrap());
    let text = Ca::new().anchors().pem().to_owned();
    let answer = text.clone();
    let source = AnchorSource::File {
        path: volume.path().join("ca.crt"),
        fallback: Some(Arc::new(move || {
            let answer = answer.clone();
            Box::pin(async move { Some(answer) })
        })),
    };
    let anchors =
        tokio::time::timeout(LIMIT, watch_anchors(source, &scope)).await.unwrap().unwrap();
    assert_eq!(anchors.borrow().pem(), text);
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_certificate_of_a_server_is_read_without_one_of_the_caller() {
    let (scope, ca) = (Scope::for_test(), Arc::new(Ca::new()));
    let own = fixed(&ca.svid("shop", "cart"), ca.anchors());
    let address = serve(&own, ClientAuth::Spiffe, sentry(&ca), &scope).await;
    let chain = transport::presented(TcpStream::connect(&address).await.unwrap()).await.unwrap();
    let id = verify_svid(&chain, &ca.anchors(), runtime::clock::now()).unwrap();
    assert_eq!((id.namespace(), id.app_id()), (Some("shop"), Some("cart")));
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_presents_no_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    drop(listener.accept().await.unwrap());
    assert!(transport::presented(stream).await.is_err());
}
