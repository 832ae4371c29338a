//! Every certificate of every rotation stage, verified by our verifier and by openssl, with the old
//! root, the new root or both.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail where they are"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use identity::{
    Bundle, BundlePem, CertChain, CrossSignError, CrossSignedCa, GenerateOptions, KeyKind,
    LeafRequest, PrivateKey, SpiffeId, TrustAnchors, TrustDomain, verify_svid,
};
use jiff::Timestamp;
use rstest::rstest;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

const HOUR: Duration = Duration::from_hours(1);
const KINDS: [KeyKind; 3] = [KeyKind::EcdsaP256, KeyKind::Ed25519, KeyKind::Rsa2048];

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "openssl verifies against the wall clock")]
    Timestamp::now()
}

fn options(domain: &TrustDomain, key_kind: KeyKind) -> GenerateOptions<'_> {
    GenerateOptions {
        trust_domain: domain,
        issuer_name: format!("spiffe://{domain}/ns/dapr-system/dapr-sentry"),
        clock_skew: Duration::from_mins(15),
        key_kind,
        lifetime: identity::SELF_SIGNED_LIFETIME,
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn parse(pem: &BundlePem) -> Bundle {
    let BundlePem { anchors, issuer_chain, issuer_key } = pem;
    Bundle::parse(anchors.as_bytes(), issuer_chain.as_bytes(), issuer_key.as_bytes(), now())
        .unwrap()
}

fn cross_sign(old: &Bundle, kind: KeyKind) -> Result<CrossSignedCa, CrossSignError> {
    old.cross_sign(&options(&domain(), kind), now())
}

fn leaf(bundle: &Bundle) -> CertChain {
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    let id = SpiffeId::new(&TrustDomain::public(), "shop", "till").unwrap();
    let request = LeafRequest {
        id: &id,
        dns_names: &[],
        container_images: None,
        public_key: key.public_key_der(),
        ttl: HOUR,
        clock_skew: Duration::ZERO,
    };
    bundle.issue(&request, now()).unwrap().chain
}

/// The single roots of a bundle, in order.
fn roots(pem: &BundlePem) -> Vec<String> {
    let end = "-----END CERTIFICATE-----\n";
    pem.anchors.split_inclusive(end).map(str::to_owned).collect()
}

/// Verifies with both implementations; `openssl` takes the issuers as untrusted certificates, as a
/// TLS peer does.
fn accepted(chain: &CertChain, anchors: &str) -> bool {
    let known = TrustAnchors::parse_pem(anchors.as_bytes()).unwrap();
    let ours = verify_svid(chain.certs(), &known, now());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), anchors).unwrap();
    std::fs::write(folder.path().join("chain.pem"), chain.to_pem()).unwrap();
    let args = ["verify", "-purpose", "sslclient", "-CAfile", "ca.pem", "-untrusted", "chain.pem"];
    let mut openssl = Command::new("openssl");
    let done = openssl.args(args).arg("chain.pem").current_dir(folder.path()).output().unwrap();
    let printed = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(ours.is_ok(), done.status.success(), "we: {ours:?}, openssl: {printed}");
    ours.is_ok()
}

/// Verifies each leaf of each stage with the anchors of each stage.
fn check_all_stages(old: &Bundle, next: &CrossSignedCa) {
    let [old_root, new_root] = [roots(&next.distribute)[0].clone(), roots(&next.sign)[0].clone()];
    assert_eq!(roots(&next.sign)[1], old_root);
    let settled = parse(&next.sign).retire_old_root(now()).unwrap();
    assert_eq!(settled.anchors, new_root);
    let both = format!("{old_root}{new_root}");

    let before = leaf(old);
    let distribute = leaf(&parse(&next.distribute));
    let sign = leaf(&parse(&next.sign));
    let after = leaf(&parse(&settled));
    for (name, chain, known) in [
        ("before", &before, vec![&old_root, &both]),
        ("distribute", &distribute, vec![&old_root, &both, &new_root]),
        ("sign", &sign, vec![&old_root, &both, &new_root]),
        ("after", &after, vec![&both, &new_root]),
    ] {
        for anchors in known {
            assert!(accepted(chain, anchors), "{name}");
        }
    }
    assert!(!accepted(&before, &new_root), "a peer that trusts only the new root rejects it");
    assert!(!accepted(&after, &old_root), "a peer that trusts only the old root rejects it");
    assert_eq!(after.certs().len(), 2, "without a rotation a response has two certificates");
}

#[rstest]
fn every_peer_accepts_every_certificate_of_each_stage(
    #[values(0, 1, 2)] old: usize,
    #[values(0, 1, 2)] new: usize,
) {
    let domain = domain();
    let (old, _) = Bundle::generate(&options(&domain, KINDS[old]), now()).unwrap();
    let next = cross_sign(&old, KINDS[new]).unwrap();
    assert_eq!(leaf(&parse(&next.distribute)).certs().len(), 3);
    assert_eq!(leaf(&parse(&next.sign)).certs().len(), 4);
    check_all_stages(&old, &next);
}

#[test]
fn a_ca_can_be_rotated_repeatedly() {
    let domain = domain();
    let (mut bundle, _) = Bundle::generate(&options(&domain, KeyKind::EcdsaP256), now()).unwrap();
    let mut names = Vec::new();
    for _ in 0..3 {
        let next = cross_sign(&bundle, KeyKind::EcdsaP256).unwrap();
        check_all_stages(&bundle, &next);
        bundle = parse(&parse(&next.sign).retire_old_root(now()).unwrap());
        let root = &bundle.anchors().certs()[0];
        let (_, root) = X509Certificate::from_der(root).unwrap();
        names.push((root.subject().to_string(), root.subject().as_raw().to_vec()));
        assert!(root.subject().to_string().starts_with("O=cluster.local, CN="));
    }
    names.dedup();
    assert_eq!(names.len(), 3, "successive roots have unique names");
}

#[test]
fn retiring_the_old_root_keeps_other_roots() {
    let domain = domain();
    let generate = || Bundle::generate(&options(&domain, KeyKind::EcdsaP256), now()).unwrap();
    let ((_, mine), (_, other)) = (generate(), generate());
    let mut pem = mine.clone();
    pem.anchors.push_str(&other.anchors);
    let next = cross_sign(&parse(&pem), KeyKind::EcdsaP256).unwrap();
    assert_eq!(roots(&next.distribute)[..2], [mine.anchors, other.anchors.clone()]);
    let settled = parse(&next.sign).retire_old_root(now()).unwrap();
    assert_eq!(roots(&settled), [roots(&next.sign)[0].clone(), other.anchors]);
    let again = parse(&settled).retire_old_root(now()).unwrap();
    assert_eq!(again, settled, "nothing is left to retire");
}

#[test]
fn cross_signed_certificates_expire_with_the_old_ca() {
    let domain = domain();
    let mut short = options(&domain, KeyKind::EcdsaP256);
    short.lifetime = HOUR;
    let (old, _) = Bundle::generate(&short, now()).unwrap();
    assert_eq!(old.cross_signed_until(), None);
    let next = cross_sign(&old, KeyKind::EcdsaP256).unwrap();
    let ends = Some(old.issuer().not_after());
    assert_eq!(parse(&next.distribute).cross_signed_until(), ends);
    let sign = parse(&next.sign);
    assert_eq!(sign.cross_signed_until(), ends);
    assert!(sign.issuer().not_after() > now() + HOUR * 24);
    assert!(sign.root(now()).unwrap().1 > now() + HOUR * 24, "the root is the issuer's own");
    // After the old CA has expired, the old root can still be retired.
    let late = now() + HOUR * 2;
    assert!(sign.retire_old_root(late).is_ok());
    let expired = old.cross_sign(&options(&domain, KeyKind::EcdsaP256), late);
    assert!(matches!(expired, Err(CrossSignError::NoRoot)), "{expired:?}");
}

/// A user's CA: a root and an issuer, generated by `openssl`.
fn user_ca(key: &[&str], issuer_constraints: &str) -> BundlePem {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl").args(args).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    for (name, common_name) in [("root", "Corporate Root"), ("issuer", "Dapr Issuer")] {
        openssl(&[&["genpkey"], key, &["-out", &format!("{name}.key")]].concat());
        let subject = format!("/C=DE/O=Example AG/CN={common_name}");
        let file = format!("{name}.key");
        let request = format!("{name}.csr");
        openssl(&["req", "-new", "-key", &file, "-subj", &subject, "-out", &request]);
    }
    let extensions = |file: &str, constraints: &str| {
        let text = format!(
            "basicConstraints=critical,CA:TRUE{constraints}\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
        );
        std::fs::write(folder.path().join(file), text).unwrap();
    };
    extensions("root.ext", "");
    extensions("issuer.ext", issuer_constraints);
    let common = ["x509", "-req", "-days", "30", "-in"];
    let own = ["root.csr", "-signkey", "root.key", "-extfile", "root.ext", "-out", "root.crt"];
    openssl(&[&common[..], &own].concat());
    let below = ["issuer.csr", "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial"];
    let files = ["-extfile", "issuer.ext", "-out", "issuer.crt"];
    openssl(&[&common[..], &below, &files].concat());
    let read = |name: &str| std::fs::read_to_string(Path::new(folder.path()).join(name)).unwrap();
    BundlePem {
        anchors: read("root.crt"),
        issuer_chain: read("issuer.crt"),
        issuer_key: read("issuer.key").into(),
    }
}

#[rstest]
#[case::rsa(&["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:3072"])]
#[case::p256(&["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])]
#[case::p384(&["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"])]
#[case::p521(&["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"])]
#[case::ed25519(&["-algorithm", "ed25519"])]
fn a_users_ca_of_any_kind_signs_and_is_rotated(#[case] key: &[&str]) {
    let old = parse(&user_ca(key, ""));
    check_all_stages(&old, &cross_sign(&old, KeyKind::EcdsaP256).unwrap());
}

#[test]
fn an_issuer_that_may_not_certify_another_ca_is_not_replaced() {
    let old = parse(&user_ca(&["-algorithm", "ed25519"], ",pathlen:0"));
    let refused = cross_sign(&old, KeyKind::EcdsaP256).unwrap_err();
    let CrossSignError::Refused { stage, anchors, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((stage, anchors), ("sign", "the old root"));
}
