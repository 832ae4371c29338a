//! Whatever is sent: no panic, and no certificate outside of the profile.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they are")]

use std::sync::Arc;

use clap::Parser as _;
use identity::{Bundle, Csr, KeyKind, PrivateKey, TrustDomain};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use proptest::prelude::*;
use proto::sentry::SignCertificateRequest;
use runtime::clock;
use sentry::authority::Authority;
use sentry::dns_names::dns_names;
use sentry::identify::Proven;
use sentry::pod_identity::TokenOwner;
use sentry::request::{Request, Validator};
use sentry::settings::Settings;
use testkit::ca::Ca;
use x509_parser::extensions::GeneralName;

/// Texts as an attacker would choose them: legal names, and what could break out of a SPIFFE id.
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
    fn every_certificate_has_the_profile_and_the_id_asked_for(
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
        let Ok(request) = Request::read(raw, Validator::Insecure) else { return Ok(()) };
        let proven = Proven {
            app_id: request.app_id,
            namespace: request.namespace,
            trust_domain: request.trust_domain.clone(),
            may_have_dns_names: control_plane,
            pod: None,
        };
        let Ok(spiffe_id) = proven.spiffe_id() else { return Ok(()) };
        let (ca, authority) = authority();
        let names = dns_names(&proven, "dapr-system", &["cluster.local".to_owned()]);
        let csr = Csr::parse_pem(&request.csr).unwrap();
        let (_, issued) =
            authority.issue(&csr, &spiffe_id, &names, clock::now(), 0.5).unwrap();

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
    fn no_token_panics_or_belongs_to_somebody_it_does_not_name(
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
        if let Ok(owner) = TokenOwner::from_review(&status, &token) {
            let named = format!("system:serviceaccount:{}:{}", owner.namespace, owner.service_account);
            prop_assert_eq!(named, username);
            prop_assert!(!owner.pod.is_empty());
        }
    }

    #[test]
    fn no_command_line_panics(args in prop::collection::vec(prop_oneof![
        "--(mode|config|port|trust-domain|jwt-ttl|jwt-signing-algorithm|oidc-path-prefix)=.{0,8}",
        "--(jwt-enabled|oidc-enabled|oidc-server-tls-enabled)(=(true|false|x))?",
        "-{0,2}[a-z-]{0,12}",
    ], 0..6)) {
        let line = std::iter::once("sentry".to_owned()).chain(args);
        if let Ok(flags) = sentry::Flags::try_parse_from(line)
            && let Ok(config) = flags.into_config()
        {
            prop_assert!(TrustDomain::parse(config.trust_domain.as_str()).is_ok());
            prop_assert!(config.oidc.is_none() || config.jwt.is_some());
        }
    }
}
