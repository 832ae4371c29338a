//! The decision about a stored CA, for every state of Secret and `ConfigMap`.

use identity::stored::{Plan, Published, Source, Stored, plan};
use jiff::Timestamp;
use rstest::rstest;
use testkit::ca::Ca;

#[expect(clippy::disallowed_methods, reason = "tests run on the wall clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn outcome(stored: &Stored, published: &Published) -> String {
    match plan(stored, published, now()) {
        Ok(Plan::Use { publish: true, .. }) => "use, publish".to_owned(),
        Ok(Plan::Use { publish: false, .. }) => "use".to_owned(),
        Ok(Plan::Generate) => "generate".to_owned(),
        Err(e) => chain(&e),
    }
}

/// An error and its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", source.unwrap_or_default())
}

fn config_map(text: &str) -> Published {
    Published::ConfigMap(Some(text.to_owned()))
}

#[test]
fn creates_a_ca_only_if_none_is_stored() {
    for published in [Published::Nowhere, Published::ConfigMap(None), config_map(" \n")] {
        assert_eq!(outcome(&Stored::default(), &published), "generate", "{published:?}");
    }
    let empty = Stored::new(Some(Vec::new()), Some(b"\n".to_vec()), None);
    assert_eq!(outcome(&empty, &Published::Nowhere), "generate");
}

#[test]
fn a_lost_secret_is_not_replaced() {
    let published = config_map(&Ca::new().pem().anchors);
    let text = outcome(&Stored::default(), &published);
    assert!(
        text.starts_with("the ConfigMap holds trust anchors but the Secret holds no CA"),
        "{text}"
    );
}

#[rstest]
fn rejects_every_incomplete_secret(
    #[values(1, 2, 3, 4, 5, 6)] present: u8,
    #[values(Published::Nowhere, Published::ConfigMap(None))] published: Published,
) {
    let ca = Ca::new();
    let part = |bit: u8, text: &str| (present & bit != 0).then(|| text.as_bytes().to_vec());
    let stored = Stored::new(
        part(1, &ca.pem().anchors),
        part(2, &ca.pem().issuer_chain),
        part(4, &ca.pem().issuer_key),
    );
    let text = outcome(&stored, &published);
    assert!(text.starts_with("the stored CA is incomplete: "), "{text}");
}

#[test]
fn the_config_map_is_updated_from_the_secret() {
    let ca = Ca::new();
    let stored = Stored::from_pem(ca.pem());
    let extra_newline = format!("{}\n", ca.pem().anchors);
    assert_eq!(outcome(&stored, &Published::Nowhere), "use");
    assert_eq!(outcome(&stored, &config_map(&ca.pem().anchors)), "use");
    assert_eq!(outcome(&stored, &config_map(&extra_newline)), "use, publish");
    assert_eq!(outcome(&stored, &config_map(&Ca::new().pem().anchors)), "use, publish");
    assert_eq!(outcome(&stored, &Published::ConfigMap(None)), "use, publish");
}

#[test]
fn cert_manager_names_are_used_without_native_ones() {
    let (ca, other) = (Ca::new(), Ca::new());
    let part = |text: &str| Some(text.as_bytes().to_vec());
    let root = || Stored::new(part(&ca.pem().anchors), None, None);
    let tls = || (part(&ca.pem().issuer_chain), part(&ca.pem().issuer_key));
    let stored = root().or_cert_manager(tls().0, tls().1);
    assert_eq!(outcome(&stored, &Published::Nowhere), "use");
    assert_eq!(stored.source(), Source::CertManager);
    // The native names have precedence, even if one part is missing.
    let native = Stored::from_pem(other.pem()).or_cert_manager(tls().0, tls().1);
    assert_eq!(native, Stored::from_pem(other.pem()));
    let half = Stored::new(part(&ca.pem().anchors), tls().0, None);
    let text = outcome(&half.or_cert_manager(tls().0, tls().1), &Published::Nowhere);
    assert!(text.starts_with("the stored CA is incomplete: issuer key missing"), "{text}");
    let text = outcome(&root().or_cert_manager(tls().0, None), &Published::Nowhere);
    assert!(text.starts_with("the stored CA is incomplete: issuer key missing"), "{text}");
    assert_eq!(root().or_cert_manager(None, part(" ")).source(), Source::Native);
}

#[test]
fn an_invalid_ca_is_rejected_and_never_replaced() {
    let (ca, other) = (Ca::new(), Ca::new());
    let part = |text: &str| Some(text.as_bytes().to_vec());
    let wrong_key = Stored::new(
        part(&ca.pem().anchors),
        part(&ca.pem().issuer_chain),
        part(&other.pem().issuer_key),
    );
    assert_eq!(
        outcome(&wrong_key, &Published::Nowhere),
        "the stored CA is invalid: issuer key: issuer key does not match issuer certificate; store the key of the first certificate of the issuer certificate, written together with it"
    );
    let wrong_root = Stored::new(
        part(&other.pem().anchors),
        part(&ca.pem().issuer_chain),
        part(&ca.pem().issuer_key),
    );
    let text = outcome(&wrong_root, &Published::Nowhere);
    assert!(text.contains("issuer chain does not belong to trust anchors"), "{text}");
}
