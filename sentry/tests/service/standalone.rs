//! Standalone mode.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use identity::{CertChain, Csr, KeyKind, PrivateKey, SpiffeId};
use proto::sentry::SignCertificateRequest;
use proto::sentry::ca_client::CaClient;
use rstest::rstest;
use runtime::{Scope, clock};
use testkit::ca::Ca;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Code;

use crate::fixture::{Fixture, config, request, spawn, write_ca};

/// A valid request with a change.
fn with(change: impl FnOnce(&mut SignCertificateRequest)) -> SignCertificateRequest {
    let mut request = request(KeyKind::Ed25519);
    change(&mut request);
    request
}

#[rstest]
#[tokio::test]
async fn issues_a_certificate_that_peers_accept(
    #[values(KeyKind::Ed25519, KeyKind::EcdsaP256, KeyKind::Rsa2048)] kind: KeyKind,
) {
    let fixture = Fixture::start("", None).await;
    let request = request(kind);
    let csr = Csr::parse_pem(&request.certificate_signing_request).unwrap();
    let answer = fixture.sign(request).await.unwrap();

    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    assert_eq!(chain.certs().len(), 2, "leaf and issuer, no root");
    let id = identity::verify_svid(chain.certs(), &fixture.anchors(), clock::now()).unwrap();
    assert_eq!(id.to_string(), "spiffe://public/ns/shop/cart");
    assert_eq!(answer.trust_chain_certificates, [fixture.read("ca.crt").into_bytes()]);
    assert_eq!(answer.valid_until.unwrap().seconds, chain.not_after().as_second());
    assert!(answer.jwt.is_none() && answer.per_audience_jwts.is_empty());
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain.certs()[0]).unwrap();
    assert_eq!(leaf.public_key().raw, csr.public_key_der());

    assert_eq!(fixture.metric("dapr_sentry_cert_sign_request_received_total"), Some(1.0));
    assert_eq!(fixture.metric("dapr_sentry_cert_sign_success_total"), Some(1.0));
    assert!(fixture.scope.shutdown().await.is_ok());
}

#[rstest]
#[case::unknown_validator(
    with(|r| r.token_validator = -1),
    Code::InvalidArgument, "the requested validator is not enabled"
)]
#[case::other_validator(
    with(|r| r.token_validator = 2),
    Code::InvalidArgument, "the requested validator is not enabled"
)]
#[case::no_csr(
    with(|r| r.certificate_signing_request = Vec::new()),
    Code::PermissionDenied, "invalid request: CSR is required"
)]
#[case::no_namespace(
    with(|r| r.namespace = String::new()),
    Code::PermissionDenied, "invalid request: namespace is required"
)]
#[case::long_id(
    with(|r| r.id = "a".repeat(65)),
    Code::PermissionDenied, "invalid request: app ID must be 64 characters or less"
)]
#[case::no_pem(
    with(|r| r.certificate_signing_request = b"hello".to_vec()),
    Code::InvalidArgument, "invalid certificate signing request"
)]
#[case::a_key(
    with(|r| {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        r.certificate_signing_request = key.to_pem().as_bytes().to_vec();
    }),
    Code::InvalidArgument, "invalid certificate signing request"
)]
#[case::a_certificate(
    with(|r| r.certificate_signing_request = Ca::new().pem().anchors.clone().into_bytes()),
    Code::InvalidArgument, "failed to parse certificate signing request: not a PKCS#10 structure"
)]
#[case::not_a_segment(
    with(|r| r.id = "a/b".to_owned()),
    Code::Internal, "failed to sign certificate"
)]
#[tokio::test]
async fn rejects(
    #[case] request: SignCertificateRequest,
    #[case] code: Code,
    #[case] message: &str,
) {
    let fixture = Fixture::start("", None).await;
    let status = fixture.sign(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
    assert_eq!(fixture.metric("dapr_sentry_cert_sign_failure_total{reason=\"sign\"}"), Some(1.0));
    // Later requests succeed.
    assert!(fixture.sign(self::request(KeyKind::Ed25519)).await.is_ok());
}

#[tokio::test]
async fn creates_a_ca_once_and_keeps_it() {
    let fixture = Fixture::start("", None).await;
    let files = ["ca.crt", "issuer.crt", "issuer.key"].map(|name| fixture.read(name));
    let expiry = fixture.metric("dapr_sentry_issuercert_expiry_timestamp").unwrap();
    let year = Duration::from_hours(365 * 24).as_secs_f64();
    let want = clock::now().as_duration().as_secs_f64() + year;
    assert!((expiry - want).abs() < 20.0, "{expiry} is not {want}");
    assert_eq!(fixture.metric("dapr_sentry_issuercert_changed_total"), Some(1.0));
    fixture.scope.shutdown().await.unwrap();

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let scope = Scope::for_test();
    spawn(listener, config(fixture.dir.path()), &scope);
    testkit::until("sentry is ready again", async || scope.is_ready()).await;
    assert_eq!(["ca.crt", "issuer.crt", "issuer.key"].map(|name| fixture.read(name)), files);
    scope.shutdown().await.unwrap();
}

#[tokio::test]
async fn uses_a_new_ca_without_a_restart_and_rejects_an_invalid_one() {
    let (first, second) = (Ca::new(), Ca::new());
    let fixture = Fixture::start("", Some(&first)).await;
    fixture.sign(request(KeyKind::Ed25519)).await.unwrap();

    // A key of another certificate: sentry continues with the first CA.
    std::fs::write(fixture.dir.path().join("issuer.key"), second.pem().issuer_key.as_bytes())
        .unwrap();
    testkit::until("the invalid CA is rejected", async || {
        fixture.metric("dapr_sentry_bundle_refused") == Some(1.0)
    })
    .await;
    let answer = fixture.sign(request(KeyKind::Ed25519)).await.unwrap();
    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    assert!(identity::verify_svid(chain.certs(), &first.anchors(), clock::now()).is_ok());
    assert!(fixture.scope.is_ready());

    write_ca(fixture.dir.path(), &second);
    testkit::until("the second CA signs", async || {
        fixture.metric("dapr_sentry_issuercert_changed_total") == Some(1.0)
    })
    .await;
    let anchors = Arc::new(second.anchors());
    // Sentry serves with the second CA too: clients that trust only that one connect.
    let mut client = testkit::eventually("a client of the second CA connects", async || {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/dapr-system/dapr-sentry").unwrap();
        let tls = transport::tls::anonymous_client(watch::channel(anchors.clone()).1, id).unwrap();
        transport::dial(&fixture.address.to_string(), tls).await.map(CaClient::new)
    })
    .await;
    let answer = client.sign_certificate(request(KeyKind::Ed25519)).await.unwrap().into_inner();
    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    assert!(identity::verify_svid(chain.certs(), &second.anchors(), clock::now()).is_ok());
    assert_eq!(fixture.metric("dapr_sentry_bundle_refused"), Some(0.0));
}

/// Starts a sentry on files of a CA, without waiting for readiness.
async fn start_on(files: &[(&str, &str)]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.yaml"), "").unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let scope = Scope::for_test();
    spawn(listener, config(dir.path()), &scope);
    Fixture { dir, address, scope }
}

async fn is_rejected(fixture: &Fixture) {
    testkit::until("the stored CA is rejected", async || {
        fixture.metric("dapr_sentry_bundle_refused") == Some(1.0)
    })
    .await;
    assert!(!fixture.scope.is_ready());
    assert!(!fixture.scope.token().is_cancelled(), "sentry stays up");
}

#[tokio::test]
async fn an_incomplete_ca_is_never_changed_and_used_when_it_is_complete() {
    let ca = Ca::new();
    let fixture = start_on(&[("ca.crt", &ca.pem().anchors)]).await;
    is_rejected(&fixture).await;
    assert_eq!(fixture.read("ca.crt"), ca.pem().anchors);
    assert!(!fixture.dir.path().join("issuer.key").exists());
    write_ca(fixture.dir.path(), &ca);
    testkit::until("sentry is ready", async || fixture.scope.is_ready()).await;
    fixture.sign(request(KeyKind::Ed25519)).await.unwrap();
    assert!(fixture.scope.shutdown().await.is_ok());
}

#[tokio::test]
async fn an_expired_ca_keeps_sentry_up_and_not_ready() {
    let expired = Ca::with_lifetime(Duration::ZERO);
    let end = expired.bundle().issuer().not_after();
    testkit::until("the CA has expired", async || clock::now() - Duration::from_secs(1) > end)
        .await;
    let pem = expired.pem();
    let files = [
        ("ca.crt", pem.anchors.as_str()),
        ("issuer.crt", &pem.issuer_chain),
        ("issuer.key", pem.issuer_key.as_str()),
    ];
    let fixture = start_on(&files).await;
    is_rejected(&fixture).await;
    write_ca(fixture.dir.path(), &Ca::new());
    testkit::until("sentry is ready", async || fixture.scope.is_ready()).await;
    assert!(fixture.scope.shutdown().await.is_ok());
}

#[tokio::test]
async fn a_missing_configuration_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let scope = Scope::for_test();
    let error = sentry::run_on(listener, config(dir.path()), scope).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("couldn't find config name \""), "{error:#}");
}

#[tokio::test]
async fn renews_its_own_certificate_in_time() {
    let fixture = Fixture::start("spec: {mtls: {workloadCertTTL: 4s}}", None).await;
    let answer = fixture.sign(request(KeyKind::Ed25519)).await.unwrap();
    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    let life = chain.not_before().duration_until(chain.not_after());
    assert!(life.as_secs() <= 7, "back-dated by half the lifetime at most: {life}");

    let own = || fixture.metric("dapr_sentry_certificate_expiry_timestamp{kind=\"own\"}").unwrap();
    let first = own();
    testkit::until("sentry renews its own certificate", async || own() > first).await;
    // Connecting proves the renewed certificate valid.
    fixture.sign(request(KeyKind::Ed25519)).await.unwrap();
}

#[tokio::test]
async fn forty_sidecars_at_once_get_their_certificates() {
    let fixture = Fixture::start("", None).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        // A connection each, as sidecars have.
        let (mut client, request) = (fixture.client().await, request(KeyKind::Ed25519));
        calls.spawn(async move { client.sign_certificate(request).await });
    }
    let outcomes = calls.join_all().await;
    assert_eq!(outcomes.len(), 40);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}
