//! Tokens of an identity provider: which ones sentry accepts. Source of the texts: Dapr 1.18, sentry.

use identity::{CertChain, JwtAlgorithm, JwtSigner, KeyKind, PrivateKey};
use jsonwebtoken::{EncodingKey, Header};
use proto::sentry::SignCertificateRequest;
use proto::sentry::sign_certificate_request::TokenValidator;
use rstest::rstest;
use runtime::clock;
use serde_json::{Value, json};
use tonic::Code;

use crate::fixture::{Fixture, request};

const SENTRY: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";

/// Signs tokens with `jsonwebtoken`, which is independent of the verifier.
struct Provider {
    key: PrivateKey,
    kid: &'static str,
}

impl Provider {
    fn new(kid: &'static str) -> Self {
        Self { key: PrivateKey::generate(KeyKind::EcdsaP256).unwrap(), kid }
    }

    fn keys(&self) -> String {
        let signer = JwtSigner::new(&self.key, JwtAlgorithm::Es256, Some(self.kid)).unwrap();
        json!({"keys": [signer.public().to_jwk(self.kid, JwtAlgorithm::Es256)]}).to_string()
    }

    fn token(&self, change: &Value) -> String {
        let mut claims = json!({
            "sub": "spiffe://public/ns/shop/cart",
            "aud": [SENTRY],
            "exp": clock::now().as_second() + 60,
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        let key = EncodingKey::from_ec_pem(self.key.to_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

fn settings(source: &str) -> String {
    let validator = json!({"name": "JWKS", "options": {"source": source}});
    json!({"spec": {"mtls": {"tokenValidators": [validator]}}}).to_string()
}

fn with_token(token: String) -> SignCertificateRequest {
    SignCertificateRequest {
        token,
        token_validator: TokenValidator::Jwks.into(),
        ..request(KeyKind::Ed25519)
    }
}

#[tokio::test]
async fn a_token_with_the_requested_subject_gets_a_certificate() {
    let provider = Provider::new("k");
    let fixture = Fixture::start(&settings(&provider.keys()), None).await;
    let answer = fixture.sign(with_token(provider.token(&json!({})))).await.unwrap();
    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    let id = identity::verify_svid(chain.certs(), &fixture.anchors(), clock::now()).unwrap();
    assert_eq!(id.to_string(), "spiffe://public/ns/shop/cart");

    let mut request = with_token(provider.token(&json!({"sub": "spiffe://td/ns/shop/cart"})));
    request.trust_domain = "td".to_owned();
    let answer = fixture.sign(request).await.unwrap();
    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    assert_eq!(chain.leaf_id().unwrap().to_string(), "spiffe://td/ns/shop/cart");
}

#[rstest]
#[case::insecure(|r: &mut SignCertificateRequest| r.token_validator = 1,
    Code::InvalidArgument, "the requested validator is not enabled")]
#[case::none(|r: &mut SignCertificateRequest| r.token_validator = 0,
    Code::InvalidArgument, "a validator name must be specified in this environment")]
#[case::no_token(|r: &mut SignCertificateRequest| { r.token.clear(); r.id.clear(); },
    Code::PermissionDenied, "the request does not contain a token")]
#[case::rules_before_the_token(|r: &mut SignCertificateRequest| { r.token = "x".into(); r.id = "a.b".into(); },
    Code::PermissionDenied, "invalid request: parameter app-id cannot contain dots")]
#[case::segment(|r: &mut SignCertificateRequest| r.id = "a/b".into(),
    Code::PermissionDenied, "failed to construct SPIFFE ID for requestor: path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
#[case::other_id(|r: &mut SignCertificateRequest| r.id = "other".into(),
    Code::PermissionDenied, "token validation failed: \"sub\" not satisfied")]
#[case::bare_json(|r: &mut SignCertificateRequest| r.token = "{\"sub\":\"x\"}".into(),
    Code::PermissionDenied, "token validation failed: failed to parse token: not a compact JWS")]
#[tokio::test]
async fn rejects_requests(
    #[case] change: impl FnOnce(&mut SignCertificateRequest),
    #[case] code: Code,
    #[case] message: &str,
) {
    let provider = Provider::new("k");
    let fixture = Fixture::start(&settings(&provider.keys()), None).await;
    let mut request = with_token(provider.token(&json!({})));
    change(&mut request);
    let status = fixture.sign(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

#[rstest]
#[case::audience(json!({"aud": ["x"]}), "\"aud\" not satisfied")]
#[case::expired(json!({"exp": 1_000}), "\"exp\" not satisfied")]
#[case::no_expiry(json!({"exp": null}), "\"exp\" not satisfied")]
#[case::not_yet(json!({"nbf": 99_999_999_999_i64}), "\"nbf\" not satisfied")]
#[case::subject(json!({"sub": "spiffe://public/ns/other/cart"}), "\"sub\" not satisfied")]
#[tokio::test]
async fn rejects_tokens(#[case] change: Value, #[case] cause: &str) {
    let provider = Provider::new("k");
    let fixture = Fixture::start(&settings(&provider.keys()), None).await;
    let status = fixture.sign(with_token(provider.token(&change))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), format!("token validation failed: {cause}"));
    let forged = Provider::new("k").token(&json!({}));
    let status = fixture.sign(with_token(forged)).await.unwrap_err();
    assert!(status.message().contains("could not verify message"), "{}", status.message());
    assert_eq!(fixture.metric("dapr_sentry_cert_sign_refused_total{reason=\"token\"}"), Some(2.0));
}

#[tokio::test]
async fn reloads_the_file_of_the_provider() {
    let (first, second) = (Provider::new("1"), Provider::new("2"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, first.keys()).unwrap();
    let fixture = Fixture::start(&settings(path.to_str().unwrap()), None).await;
    fixture.sign(with_token(first.token(&json!({})))).await.unwrap();

    std::fs::write(&path, "nonsense").unwrap();
    fixture.sign(with_token(first.token(&json!({})))).await.unwrap();
    std::fs::write(&path, second.keys()).unwrap();
    testkit::until("the second provider's tokens are accepted", async || {
        fixture.sign(with_token(second.token(&json!({})))).await.is_ok()
    })
    .await;
    assert!(fixture.sign(with_token(first.token(&json!({})))).await.is_err());
}
