//! Properties of requests and certificates: arbitrary input causes no panic and no certificate
//! outside the profile.

use std::sync::Arc;

use identity::{Bundle, Csr, KeyKind, PrivateKey};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use proptest::prelude::*;
use proto::sentry::SignCertificateRequest;
use runtime::clock;
use testkit::ca::Ca;
use x509_parser::extensions::GeneralName;

use crate::authn::dns_names::dns_names;
use crate::authn::pod_identity::TokenOwner;
use crate::authn::{Identity, SignRequest, Validator};
use crate::ca::settings::Settings;
use crate::ca::{Authority, LeafSpec};

/// Names that an attacker could choose: legal ones, and ones that could escape a SPIFFE id path.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{1,70}",
        "[a-zA-Z0-9./:%#?@ \u{e4}\\x00-]{0,12}",
        Just("dapr-injector".to_owned()),
        Just("dapr-system".to_owned()),
        Just("..".to_owned()),
        "[a-z]{250,260}",
    ]
}

fn authority() -> (Ca, Authority) {
    let ca = Ca::new();
    let authority = Authority::new(Settings::default());
    let pem = ca.pem();
    let bundle = Bundle::parse(
        pem.anchors.as_bytes(),
        pem.issuer_chain.as_bytes(),
        pem.issuer_key.as_bytes(),
        clock::now(),
    );
    authority.replace(Arc::new(bundle.unwrap()));
    (ca, authority)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_certificate_has_the_profile_and_the_requested_id(
        id in name(), namespace in name(), trust_domain in name(), control_plane: bool,
    ) {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        let raw = SignCertificateRequest {
            id: id.clone(),
            namespace: namespace.clone(),
            trust_domain,
            certificate_signing_request: identity::csr_pem(&key).unwrap().into_bytes(),
            ..SignCertificateRequest::default()
        };
        let Ok(request) = SignRequest::parse(raw, Validator::Insecure) else { return Ok(()) };
        let identity = Identity {
            app_id: request.app_id,
            namespace: request.namespace,
            trust_domain: request.trust_domain.clone(),
            may_have_dns_names: control_plane,
            pod: None,
            container_images: None,
        };
        let Ok(spiffe_id) = identity.spiffe_id() else { return Ok(()) };
        let (ca, authority) = authority();
        let names = dns_names(&identity, "dapr-system", &["cluster.local".to_owned()]);
        let csr = Csr::parse_pem(&request.csr).unwrap();
        let spec = LeafSpec { id: &spiffe_id, dns_names: &names, container_images: None };
        let (_, issued) = authority.issue(&csr, spec, clock::now(), 0.5).unwrap();

        let certs = issued.chain.certs();
        let verified = identity::verify_svid(certs, &ca.anchors(), clock::now()).unwrap();
        let want = format!("spiffe://{}/ns/{namespace}/{id}", request.trust_domain);
        prop_assert_eq!(verified.to_string(), want);
        let (_, leaf) = x509_parser::parse_x509_certificate(certs.first().unwrap()).unwrap();
        prop_assert!(!leaf.is_ca() && leaf.subject().iter().next().is_none());
        prop_assert_eq!(leaf.public_key().raw, key.public_key_der());
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        prop_assert!(san.critical);
        let (uris, others): (Vec<_>, Vec<_>) = san
            .value
            .general_names
            .iter()
            .partition(|name| matches!(name, GeneralName::URI(_)));
        prop_assert_eq!(uris.len(), 1);
        let for_webhooks = control_plane && namespace == "dapr-system" && id == "dapr-injector";
        prop_assert_eq!(others.len(), usize::from(for_webhooks), "{:?}", others);
    }

    #[test]
    fn no_token_panics_or_has_an_owner_it_does_not_name(
        token in prop_oneof![
            "[A-Za-z0-9_.=-]{0,80}",
            r#"\{"kubernetes.io":\{"pod":\{"name":"[a-z]{0,3}"\}\}\}"#,
            ".{0,60}",
        ],
        username in "(system:)?(serviceaccount:)?[a-z:]{0,12}",
    ) {
        let status = TokenReviewStatus {
            authenticated: Some(true),
            user: Some(UserInfo { username: Some(username.clone()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        };
        if let Ok(owner) = TokenOwner::from_review(&status, &token, &[]) {
            let named = format!("system:serviceaccount:{}:{}", owner.namespace, owner.service_account);
            prop_assert_eq!(named, username);
            prop_assert!(!owner.pod.is_empty());
        }
    }
}
