//! Entry points of the fuzz targets: what sentry reads before it trusts a caller.
use identity::Csr;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use prost::Message as _;
use proto::sentry::SignCertificateRequest;

use crate::authn::EnabledValidators;
use crate::authn::pod_identity::{TokenOwner, claims_json};
use crate::authn::request::SignRequest;

/// A `SignCertificateRequest` and the signing request in it.
pub fn sign_request(data: &[u8]) {
    let Ok(raw) = SignCertificateRequest::decode(data) else { return };
    let _ = Csr::parse_pem(&raw.certificate_signing_request);
    for enabled in [EnabledValidators::KubernetesAndJwks, EnabledValidators::Insecure] {
        let Ok(validator) = enabled.choose(raw.token_validator) else { continue };
        if let Ok(request) = SignRequest::parse(raw.clone(), validator) {
            assert!(request.app_id.len() <= 64 && !request.namespace.is_empty());
        }
    }
}

/// The status of a TokenReview as JSON, a zero byte, and the token.
pub fn token_review(data: &[u8]) {
    let (status, token) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    let token = String::from_utf8_lossy(token.strip_prefix(&[0]).unwrap_or(token));
    let _ = claims_json(&token);
    let Ok(status) = serde_json::from_slice::<TokenReviewStatus>(status) else { return };
    let audiences = ["dapr.io/sentry".to_owned()];
    if let Ok(owner) = TokenOwner::from_review(&status, &token, &audiences) {
        assert_eq!(status.authenticated, Some(true));
        assert!(!owner.pod.is_empty());
    }
}
