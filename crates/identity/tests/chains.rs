//! The chains that `verify_svid` accepts and rejects, from independent issuers (rcgen, openssl).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they are")]

use std::process::Command;

use identity::{CertificateDer, TrustAnchors, VerifyError, verify_svid};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rstest::rstest;
use time::OffsetDateTime;

const ID: &str = "spiffe://td/ns/shop/till";
const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// A name and a key that can sign.
struct Party {
    params: CertificateParams,
    key: KeyPair,
}

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(second).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.not_before = at(NOW - HOUR);
    params.not_after = at(NOW + HOUR);
    params
}

fn ca(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Party {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    Party { params, key: KeyPair::generate().unwrap() }
}

fn plain(name: &str) -> Party {
    ca(name, |_| {})
}

impl Party {
    fn own(&self) -> CertificateDer<'static> {
        self.params.self_signed(&self.key).unwrap().der().clone()
    }

    /// This party's certificate, signed by another party.
    fn by(&self, signer: &Party) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&signer.params, &signer.key);
        self.params.signed_by(&self.key, &issuer).unwrap().der().clone()
    }

    fn leaf(&self) -> CertificateDer<'static> {
        self.leaf_with(|_| {})
    }

    fn leaf_with(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params("");
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&key, &issuer).unwrap().der().clone()
    }
}

fn anchors(roots: &[CertificateDer<'static>]) -> TrustAnchors {
    let pem = |root: &CertificateDer<'static>| {
        identity::CertChain::from_der(vec![root.clone()]).unwrap().to_pem()
    };
    let pem: String = roots.iter().map(pem).collect();
    TrustAnchors::parse_pem(pem.as_bytes()).unwrap()
}

fn verify(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<String, VerifyError> {
    verify_svid(chain, &anchors(roots), now()).map(|id| id.to_string())
}

#[expect(clippy::unnecessary_wraps, reason = "compared with the result of verification")]
fn accepted() -> Result<String, VerifyError> {
    Ok(ID.to_owned())
}

#[test]
fn accepts_a_chain_with_and_without_intermediate() {
    let (root, issuer) = (plain("root"), plain("issuer"));
    assert_eq!(verify(&[root.leaf()], &[root.own()]), accepted());
    assert_eq!(verify(&[issuer.leaf(), issuer.by(&root)], &[root.own()]), accepted());
    // A peer may present the root and use any order.
    let chain = [issuer.leaf(), root.own(), issuer.by(&root)];
    assert_eq!(verify(&chain, &[root.own()]), accepted());
}

#[test]
fn tries_every_anchor_of_the_same_name() {
    let (old, new) = (plain("O"), plain("O"));
    for roots in [[old.own(), new.own()], [new.own(), old.own()]] {
        assert_eq!(verify(&[old.leaf()], &roots), accepted());
        assert_eq!(verify(&[new.leaf()], &roots), accepted());
    }
    assert_eq!(verify(&[new.leaf()], &[old.own()]), Err(VerifyError::UnknownAuthority));
}

#[test]
fn follows_cross_signed_certificates_from_either_root() {
    // The first issuer cross-signs the second root, as in a rotation without the first root's key.
    let (r1, r2) = (plain("O"), plain("O"));
    let (i1, i2) = (plain("I"), plain("I"));
    let chain = [i2.leaf(), i2.by(&r2), r2.by(&i1), i1.by(&r1)];
    for roots in [vec![r1.own()], vec![r2.own()], vec![r1.own(), r2.own()]] {
        assert_eq!(verify(&chain, &roots), accepted(), "{} roots", roots.len());
    }
}

#[test]
fn a_root_that_only_the_peer_presents_is_not_trusted() {
    let (mine, theirs) = (plain("O"), plain("O"));
    let chain = [theirs.leaf(), theirs.own()];
    assert_eq!(verify(&chain, &[mine.own()]), Err(VerifyError::UnknownAuthority));
}

#[rstest]
#[case::expired(NOW - 2 * HOUR, NOW - HOUR)]
#[case::not_yet(NOW + HOUR, NOW + 2 * HOUR)]
fn leaf_issuer_and_anchor_must_be_valid_now(#[case] from: i64, #[case] to: i64) {
    let untimely = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (at(from), at(to));
    };
    let (root, late_root) = (plain("root"), ca("late", untimely));
    let late_issuer = ca("issuer", untimely);
    assert!(matches!(
        verify(&[root.leaf_with(untimely)], &[root.own()]),
        Err(VerifyError::LeafTime { .. })
    ));
    let chain = [late_issuer.leaf(), late_issuer.by(&root)];
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::IssuerTime));
    assert_eq!(verify(&[late_root.leaf()], &[late_root.own()]), Err(VerifyError::IssuerTime));
}

#[test]
fn the_last_second_is_valid() {
    let root = plain("root");
    let ends = root.leaf_with(|params| params.not_after = at(NOW));
    assert_eq!(verify(&[ends], &[root.own()]), accepted());
}

#[rstest]
#[case::none(0, false)]
#[case::one(1, true)]
fn path_lengths_count_intermediates(#[case] limit: u8, #[case] ok: bool) {
    let root = ca("root", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
    });
    let issuer = plain("issuer");
    let want = if ok { accepted() } else { Err(VerifyError::IssuerRefused) };
    assert_eq!(verify(&[issuer.leaf(), issuer.by(&root)], &[root.own()]), want);
    assert_eq!(verify(&[root.leaf()], &[root.own()]), accepted());
}

#[test]
fn only_authorities_sign() {
    let root = plain("root");
    let not_ca = ca("x", |params| params.is_ca = IsCa::ExplicitNoCa);
    let chain = [not_ca.leaf(), not_ca.by(&root)];
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::IssuerRefused));
    let no_usage = ca("x", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let chain = [no_usage.leaf(), no_usage.by(&root)];
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::IssuerRefused));
    let silent = ca("x", |p| p.key_usages = Vec::new());
    assert_eq!(verify(&[silent.leaf(), silent.by(&root)], &[root.own()]), accepted());
}

#[test]
fn a_leaf_that_may_sign_is_rejected() {
    let root = plain("root");
    let is_ca = root.leaf_with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(verify(&[is_ca], &[root.own()]), Err(VerifyError::LeafIsCa));
    let signs = root.leaf_with(|params| params.key_usages.push(KeyUsagePurpose::CrlSign));
    assert_eq!(verify(&[signs], &[root.own()]), Err(VerifyError::LeafIsCa));
}

#[rstest]
#[case::none(&[], "certificate contains 0 URI names instead of one")]
#[case::two(&[ID, "spiffe://td/other"], "certificate contains 2 URI names instead of one")]
#[case::http(&["http://td/ns/a/b"], "parse the SPIFFE ID of the certificate")]
fn a_leaf_has_exactly_one_spiffe_id(#[case] uris: &[&str], #[case] want: &str) {
    let root = plain("root");
    let leaf = root.leaf_with(|params| {
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    });
    let Err(VerifyError::Chain(cause)) = verify(&[leaf], &[root.own()]) else {
        panic!("not rejected as a chain");
    };
    assert_eq!(cause.to_string(), want);
}

#[test]
fn a_spiffe_id_without_path_is_rejected() {
    let root = plain("root");
    let leaf = root.leaf_with(|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://td".try_into().unwrap())];
    });
    assert_eq!(verify(&[leaf], &[root.own()]), Err(VerifyError::NoPath));
}

#[test]
fn rejects_unknown_critical_extensions_only() {
    let extension = |critical: bool| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    let root = plain("root");
    let leaf = |critical| root.leaf_with(|p| p.custom_extensions = vec![extension(critical)]);
    assert_eq!(verify(&[leaf(true)], &[root.own()]), Err(VerifyError::LeafExtension));
    assert_eq!(verify(&[leaf(false)], &[root.own()]), accepted());
    let odd = ca("odd", |params| params.custom_extensions = vec![extension(true)]);
    let chain = [odd.leaf(), odd.by(&root)];
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::IssuerRefused));
}

#[test]
fn dns_constraints_apply_to_dns_names_only() {
    let root = ca("root", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("svc".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let leaf = |dns: &str| {
        root.leaf_with(|params| {
            params.subject_alt_names.push(SanType::DnsName(dns.try_into().unwrap()));
        })
    };
    assert_eq!(verify(&[root.leaf()], &[root.own()]), accepted());
    assert_eq!(verify(&[leaf("dapr-webhook.x.svc")], &[root.own()]), accepted());
    let outside = verify(&[leaf("example.com")], &[root.own()]);
    assert_eq!(outside, Err(VerifyError::IssuerRefused));
}

#[rstest]
#[case::permitted("permitted;URI:td", true)]
#[case::other("permitted;URI:elsewhere", false)]
#[case::excluded("excluded;URI:td", false)]
fn uri_constraints_apply_to_the_trust_domain(#[case] constraint: &str, #[case] ok: bool) {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let done = Command::new("openssl").current_dir(dir.path()).args(args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let constraint = format!("nameConstraints=critical,{constraint}");
    run(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/O=root",
        "-days",
        "36500",
        "-keyout",
        "root.key",
        "-out",
        "root.crt",
        "-addext",
        &constraint,
        "-addext",
        "keyUsage=critical,keyCertSign",
    ]);
    let name = format!("subjectAltName=critical,URI:{ID}");
    std::fs::write(dir.path().join("ext"), name).unwrap();
    run(&[
        "req", "-new", "-newkey", "ed25519", "-nodes", "-subj", "/", "-keyout", "leaf.key", "-out",
        "leaf.csr",
    ]);
    run(&[
        "x509", "-req", "-in", "leaf.csr", "-CA", "root.crt", "-CAkey", "root.key", "-days",
        "36500", "-extfile", "ext", "-out", "leaf.crt",
    ]);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let chain = identity::CertChain::parse_pem(&read("leaf.crt")).unwrap();
    let roots = TrustAnchors::parse_pem(&read("root.crt")).unwrap();
    let got = verify_svid(chain.certs(), &roots, now()).map(|id| id.to_string());
    assert_eq!(got, if ok { accepted() } else { Err(VerifyError::IssuerRefused) });
}

#[test]
fn authorities_that_sign_each_other_end_the_search() {
    let (a, b, root) = (plain("a"), plain("b"), plain("root"));
    let chain = [a.leaf(), a.by(&b), b.by(&a)];
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::UnknownAuthority));
}

#[test]
fn certificates_of_one_name_and_key_cost_one_check() {
    let one = plain("same");
    let mut chain = vec![one.leaf()];
    for serial in 0..15_u64 {
        let mut again = Party { params: one.params.clone(), key: copy(&one.key) };
        again.params.serial_number = Some(serial.into());
        chain.push(again.own());
    }
    let root = plain("other");
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::UnknownAuthority));
    chain.extend_from_within(1..);
    assert!(matches!(verify(&chain, &[root.own()]), Err(VerifyError::Chain(_))), "too long");
}

#[rstest]
#[case::at_the_limit(16, accepted())]
#[case::above_the_limit(17, Err(VerifyError::TooComplex))]
fn signature_checks_are_bounded(#[case] roots: usize, #[case] want: Result<String, VerifyError>) {
    let mut roots: Vec<Party> = (0..roots).map(|_| plain("same")).collect();
    let signer = roots.pop().unwrap();
    let own: Vec<_> = roots.iter().chain([&signer]).map(Party::own).collect();
    assert_eq!(verify(&[signer.leaf()], &own), want, "the signer is tried last");
    let named = signer.leaf_with(|params| params.use_authority_key_identifier_extension = true);
    assert_eq!(verify(&[named], &own), accepted(), "a matching key id is tried first");
}

#[test]
fn slow_chains_cost_no_more_checks() {
    // P-521 authorities of one name that sign each other in a circle.
    let slow = |_| {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        Party { params: plain("same").params, key }
    };
    let parties: Vec<Party> = (0..15).map(slow).collect();
    let next = parties.iter().cycle().skip(1);
    let mut chain = vec![parties[0].leaf()];
    chain.extend(parties.iter().zip(next).map(|(party, next)| party.by(next)));
    let root = plain("other");
    assert_eq!(verify(&chain, &[root.own()]), Err(VerifyError::TooComplex));
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(key.serialize_der()).unwrap()
}

#[test]
fn rejects_empty_and_invalid_chains() {
    let root = plain("root");
    assert!(matches!(verify(&[], &[root.own()]), Err(VerifyError::Chain(_))));
    let mut longer = root.leaf().to_vec();
    longer.push(0);
    let chain = [CertificateDer::from(longer)];
    assert!(matches!(verify(&chain, &[root.own()]), Err(VerifyError::Chain(_))));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_bit_makes_no_other_identity(at in 0_usize..2000, bit in 0_u8..8) {
        let root = plain("root");
        let mut leaf = root.leaf().to_vec();
        let at = at % leaf.len();
        leaf[at] ^= 1 << bit;
        if let Ok(id) = verify(&[CertificateDer::from(leaf)], &[root.own()]) {
            proptest::prop_assert_eq!(id, ID);
        }
    }
}
