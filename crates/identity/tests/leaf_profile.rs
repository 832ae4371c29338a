//! The profile of issued certificates, read by an independent parser and by openssl.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they are")]

use std::process::Command;
use std::time::Duration;

use identity::{
    Bundle, BundlePem, GenerateOptions, IssuedLeaf, KeyKind, LeafRequest, PrivateKey, SpiffeId,
    TrustAnchors, TrustDomain, verify_svid,
};
use jiff::Timestamp;
use rstest::rstest;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

const TTL: Duration = Duration::from_hours(24);
const SKEW: Duration = Duration::from_mins(15);

#[expect(clippy::disallowed_methods, reason = "openssl verifies against the wall clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn generate(kind: KeyKind) -> (Bundle, BundlePem) {
    let options = GenerateOptions {
        trust_domain: &TrustDomain::parse("cluster.local").unwrap(),
        issuer_name: "spiffe://cluster.local/ns/dapr-system/dapr-sentry".to_owned(),
        clock_skew: SKEW,
        key_kind: kind,
        lifetime: identity::SELF_SIGNED_LIFETIME,
    };
    Bundle::generate(&options, now()).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::new(&TrustDomain::public(), "default", "cart").unwrap()
}

fn leaf(bundle: &Bundle, dns_names: &[String], key: KeyKind) -> IssuedLeaf {
    let key = PrivateKey::generate(key).unwrap();
    let request = LeafRequest {
        id: &id(),
        dns_names,
        container_images: None,
        public_key: key.public_key_der(),
        ttl: TTL,
        clock_skew: SKEW,
    };
    bundle.issue(&request, now()).unwrap()
}

/// The example of Dapr 1.19; the digest is that of the inner DER in its release.
#[test]
fn container_images_are_the_last_extension() {
    let json = r#"[{"role":"daprd","containerName":"daprd","image":"registry.example/dapr/daprd:1.19.0","digest":"sha256:aaa111"},{"role":"app","containerName":"myapp","image":"registry.example/myapp:v2"}]"#;
    let (bundle, pem) = generate(KeyKind::EcdsaP256);
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    let request = LeafRequest {
        id: &id(),
        dns_names: &[],
        container_images: Some(json),
        public_key: key.public_key_der(),
        ttl: TTL,
        clock_skew: SKEW,
    };
    let issued = bundle.issue(&request, now()).unwrap();
    let (_, cert) = X509Certificate::from_der(&issued.chain.certs()[0]).unwrap();
    let last = cert.extensions().last().unwrap();
    assert_eq!(
        (last.oid.to_id_string().as_str(), last.critical),
        ("1.3.6.1.4.1.57683.100.1", false)
    );
    assert_eq!(last.oid.as_bytes(), [0x2b, 6, 1, 4, 1, 0x83, 0xc2, 0x53, 0x64, 1]);
    assert_eq!(last.value, [&[0x04, 0x81, 0xbb][..], json.as_bytes()].concat());
    assert_eq!(last.value.len(), 190);
    let want = "9978bc8496ec4a0dd72fc24f179825b47cd8a73178eb075991121e11ddeb14b7";
    let byte = |at: usize| u8::from_str_radix(want.get(at..at + 2).unwrap(), 16).unwrap();
    let want: Vec<u8> = (0..want.len()).step_by(2).map(byte).collect();
    assert_eq!(Sha256::digest(last.value).to_vec(), want);
    // Peers ignore an unknown extension that is not critical.
    let anchors = TrustAnchors::parse_pem(pem.anchors.as_bytes()).unwrap();
    assert_eq!(verify_svid(issued.chain.certs(), &anchors, now()), Ok(id()));
    let without = leaf(&bundle, &[], KeyKind::Ed25519);
    let (_, cert) = X509Certificate::from_der(&without.chain.certs()[0]).unwrap();
    assert_eq!(cert.extensions().len(), 4);
}

fn extensions(cert: &X509Certificate<'_>) -> Vec<(String, bool)> {
    cert.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical)).collect()
}

#[test]
fn a_leaf_has_the_profile_of_dapr() {
    let (bundle, _) = generate(KeyKind::EcdsaP256);
    let issued = leaf(&bundle, &["dapr-webhook.dapr-system.svc".to_owned()], KeyKind::Rsa2048);
    let [leaf_der, issuer_der] = issued.chain.certs() else { panic!("not two certificates") };
    let (_, leaf) = X509Certificate::from_der(leaf_der).unwrap();
    let (_, above) = X509Certificate::from_der(issuer_der).unwrap();

    assert_eq!(leaf.issuer().as_raw(), above.subject().as_raw());
    assert_eq!(leaf.subject().as_raw(), [0x30, 0x00], "the subject is an empty sequence");
    let want =
        [("2.5.29.15", true), ("2.5.29.37", false), ("2.5.29.35", false), ("2.5.29.17", true)];
    assert_eq!(extensions(&leaf), want.map(|(oid, critical)| (oid.to_owned(), critical)));

    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature only");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && extended.other.is_empty());
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["DNSName(dapr-webhook.dapr-system.svc)", "URI(spiffe://public/ns/default/cart)"]
    );

    let key_ids: Vec<&[u8]> = [&leaf, &above]
        .iter()
        .flat_map(|cert| cert.extensions())
        .filter_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0),
            _ => None,
        })
        .collect();
    assert_eq!(key_ids[0], key_ids[1], "the leaf points at the issuer's key identifier");
    assert!(leaf.raw_serial().len() <= 17 && leaf.raw_serial()[0] < 0x80, "positive, 128 bits");
    let seconds = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(seconds, 24 * 3600 + 15 * 60);
    assert_eq!(issued.chain.leaf_id().unwrap(), id());
}

#[test]
fn a_generated_root_and_issuer_have_the_profile_of_dapr() {
    let (bundle, _) = generate(KeyKind::EcdsaP256);
    let (_, root) = X509Certificate::from_der(&bundle.anchors().certs()[0]).unwrap();
    let (_, issuer) = X509Certificate::from_der(&bundle.issuer().certs()[0]).unwrap();
    assert_eq!(root.subject().to_string(), "O=cluster.local");
    assert_eq!(root.issuer().as_raw(), root.subject().as_raw());
    assert_eq!(issuer.issuer().as_raw(), root.subject().as_raw());
    let name = "O=spiffe://cluster.local/ns/dapr-system/dapr-sentry";
    assert_eq!(issuer.subject().to_string(), name);
    let root_usage = root.key_usage().unwrap().unwrap().value.flags;
    assert_eq!(root_usage, 1 | 1 << 5, "digitalSignature, keyCertSign");
    let issuer_usage = issuer.key_usage().unwrap().unwrap().value.flags;
    assert_eq!(issuer_usage, 1 | 1 << 5 | 1 << 6, "digitalSignature, keyCertSign, cRLSign");
    for cert in [&root, &issuer] {
        let constraints = cert.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, None);
        assert!(cert.subject_alternative_name().unwrap().is_none(), "no CA is itself an SVID");
    }
}

#[rstest]
fn openssl_accepts_the_chain(
    #[values(KeyKind::EcdsaP256, KeyKind::Ed25519, KeyKind::Rsa2048)] ca: KeyKind,
    #[values(KeyKind::EcdsaP256, KeyKind::Ed25519, KeyKind::Rsa2048)] leaf_key: KeyKind,
) {
    let (bundle, pem) = generate(ca);
    let issued = leaf(&bundle, &[], leaf_key);
    assert_eq!(verify_svid(issued.chain.certs(), bundle.anchors(), now()), Ok(id()));

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let root = file("root.pem", &pem.anchors);
    let untrusted = file("issuer.pem", &pem.issuer_chain);
    let chain = file("chain.pem", &issued.chain.to_pem());
    let verify = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .arg(&root)
        .arg("-untrusted")
        .arg(&untrusted)
        .arg(&chain)
        .output()
        .expect("openssl is installed");
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));

    let text = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName,keyUsage,extendedKeyUsage", "-in"])
        .arg(&chain)
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8(text.stdout).unwrap();
    for want in [
        "X509v3 Key Usage: critical\n    Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Alternative Name: critical\n    URI:spiffe://public/ns/default/cart\n",
    ] {
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn the_issuer_name_is_copied_byte_for_byte() {
    // A user's CA with string types and a multi-valued attribute that libraries re-encode.
    let dir = tempfile::tempdir().unwrap();
    let openssl = |args: &[&str]| {
        let run = Command::new("openssl").current_dir(dir.path()).args(args).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    };
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        "root.key",
        "-out",
        "root.crt",
        "-subj",
        "/CN=Corporate Root",
    ]);
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "issuer.key",
        "-out",
        "issuer.csr",
        "-multivalue-rdn",
        "-utf8",
        "-subj",
        "/C=DE/O=Käse AG+OU=Sicherheit/CN=Issuer",
    ]);
    std::fs::write(
        dir.path().join("ca.ext"),
        "basicConstraints=critical,CA:true,pathlen:0\nsubjectKeyIdentifier=hash\n",
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "issuer.csr",
        "-CA",
        "root.crt",
        "-CAkey",
        "root.key",
        "-days",
        "1",
        "-extfile",
        "ca.ext",
        "-out",
        "issuer.crt",
    ]);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let bundle =
        Bundle::parse(&read("root.crt"), &read("issuer.crt"), &read("issuer.key"), now()).unwrap();
    let issued = leaf(&bundle, &[], KeyKind::Ed25519);
    let (_, parsed) = X509Certificate::from_der(&issued.chain.certs()[0]).unwrap();
    let (_, above) = X509Certificate::from_der(&issued.chain.certs()[1]).unwrap();
    assert_eq!(parsed.issuer().as_raw(), above.subject().as_raw());
    assert_eq!(verify_svid(issued.chain.certs(), bundle.anchors(), now()), Ok(id()));

    std::fs::write(dir.path().join("leaf.pem"), issued.chain.to_pem()).unwrap();
    openssl(&["verify", "-CAfile", "root.crt", "-untrusted", "issuer.crt", "leaf.pem"]);
}

#[rstest]
#[case(&["genpkey", "-algorithm", "ed25519"])]
#[case(&["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:3072"])]
#[case(&["genrsa", "-traditional", "2048"])]
#[case(&["ecparam", "-genkey", "-name", "prime256v1"])]
#[case(&["ecparam", "-genkey", "-noout", "-name", "secp384r1"])]
#[case(&["genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"])]
fn parses_keys_of_openssl(#[case] args: &[&str]) {
    let made = Command::new("openssl").args(args).output().unwrap();
    let key = PrivateKey::from_pem(&made.stdout).unwrap();
    let csr = identity::csr_pem(&key).unwrap();
    assert_eq!(
        identity::Csr::parse_pem(csr.as_bytes()).unwrap().public_key_der(),
        key.public_key_der()
    );
}

#[rstest]
#[case::p224("secp224r1", identity::CsrError::Curve)]
#[case::bitcoin("secp256k1", identity::CsrError::Curve)]
fn rejects_requests_for_unsupported_curves(#[case] curve: &str, #[case] want: identity::CsrError) {
    let option = format!("ec_paramgen_curve:{curve}");
    let made = Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            &option,
            "-nodes",
            "-subj",
            "/",
            "-keyout",
            "/dev/null",
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(identity::Csr::parse_pem(&made.stdout), Err(want));
}

#[rstest]
#[case::ed448(&["-newkey", "ed448"], Err(identity::CsrError::Signature))]
#[case::short_rsa(&["-newkey", "rsa:1024"], Err(identity::CsrError::ShortKey))]
#[case::sha512(&["-newkey", "rsa:2048", "-sha512"], Ok(()))]
#[case::p256_sha384(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha384"], Ok(()))]
#[case::sha1(&["-newkey", "rsa:2048", "-sha1"], Err(identity::CsrError::Signature))]
fn parses_requests_of_openssl(#[case] key: &[&str], #[case] want: Result<(), identity::CsrError>) {
    let made = Command::new("openssl")
        .args(["req", "-new", "-nodes", "-subj", "/CN=ignored", "-keyout", "/dev/null"])
        .args(key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(identity::Csr::parse_pem(&made.stdout).map(|_| ()), want);
}
