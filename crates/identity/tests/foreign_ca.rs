//! CAs of users: the shapes that work, and every way in which one is wrong. An error names the part
//! with its object, the rule and the remedy.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they are")]

use std::process::Command;

use identity::stored::{PartNames, Plan, Published, Stored, plan};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
};
use rstest::rstest;
use time::OffsetDateTime;

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

struct Party {
    params: CertificateParams,
    key: KeyPair,
}

fn party(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Party {
    party_with(name, &rcgen::PKCS_ECDSA_P256_SHA256, change)
}

fn party_with(
    name: &str,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Party {
    let at = |second| OffsetDateTime::from_unix_timestamp(second).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    (params.not_before, params.not_after) = (at(NOW - HOUR), at(NOW + HOUR));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    Party { params, key: KeyPair::generate_for(algorithm).unwrap() }
}

fn plain(name: &str) -> Party {
    party(name, |_| {})
}

fn expired(params: &mut CertificateParams) {
    params.not_after = OffsetDateTime::from_unix_timestamp(NOW - 1).unwrap();
}

impl Party {
    fn own(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn by(&self, signer: &Party) -> String {
        let issuer = Issuer::from_params(&signer.params, &signer.key);
        self.params.signed_by(&self.key, &issuer).unwrap().pem()
    }

    fn key(&self) -> String {
        self.key.serialize_pem()
    }
}

/// The outcome for a Secret of cert-manager with these three values.
fn outcome(anchors: &str, chain: &str, key: &str) -> String {
    let part = |text: &str| Some(text.as_bytes().to_vec());
    let stored = Stored::new(part(anchors), None, None).or_cert_manager(part(chain), part(key));
    let native = PartNames {
        object: Some("Secret dapr-system/dapr-trust-bundle".to_owned()),
        anchors: "ca.crt".to_owned(),
        issuer_chain: "issuer.crt".to_owned(),
        issuer_key: "issuer.key".to_owned(),
    };
    let stored = stored.named(native, ["tls.crt", "tls.key"].map(str::to_owned));
    match plan(&stored, &Published::Nowhere, Timestamp::from_second(NOW).unwrap()) {
        Ok(Plan::Use { .. }) => "used".to_owned(),
        Ok(Plan::Generate) => "generated".to_owned(),
        Err(e) => e.to_string(),
    }
}

fn openssl(args: &[&str], file: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.pem");
    std::fs::write(&path, file).unwrap();
    let output = Command::new("openssl").args(args).arg("-in").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_shape_that_tools_write_is_used() {
    let (root, middle, issuer) = (plain("root"), plain("middle"), plain("issuer"));
    let (anchors, chain, key) = (root.own(), issuer.by(&root), issuer.key());
    let crlf = |text: &str| text.replace('\n', "\r\n");
    assert_eq!(outcome(&anchors, &chain, &key), "used", "root and issuer");
    let three = issuer.by(&middle) + &middle.by(&root);
    assert_eq!(outcome(&anchors, &three, &key), "used", "an intermediate");
    assert_eq!(outcome(&anchors, &(chain.clone() + &root.own()), &key), "used", "root at the end");
    let other = plain("other").own();
    assert_eq!(outcome(&(other.clone() + &anchors), &chain, &key), "used", "two anchors");
    let old = party("old", expired).own();
    assert_eq!(outcome(&(old + &anchors), &chain, &key), "used", "an expired anchor beside it");
    assert_eq!(outcome(&crlf(&anchors), &crlf(&chain), &crlf(&key)), "used", "CRLF");
    let garbage = |text: &str| format!("# comment: ü\n{text}\n\n--- trailing garbage\0\n");
    assert_eq!(outcome(&garbage(&anchors), &garbage(&chain), &garbage(&key)), "used", "garbage");
    let text = openssl(&["x509", "-text"], &chain);
    assert_eq!(outcome(&anchors, &text, &key), "used", "text of openssl");
    let sec1 = openssl(&["ec"], &key);
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    assert_eq!(outcome(&anchors, &chain, &(parameters.to_owned() + &sec1)), "used", "SEC1");
    let combined = format!("{chain}{}", issuer.key());
    assert_eq!(outcome(&anchors, &combined, &key), "used", "the key behind the certificate");
}

#[rstest]
#[case::p384(&PKCS_ECDSA_P384_SHA384)]
#[case::ed25519(&PKCS_ED25519)]
fn issuers_of_every_kind_of_key_are_used(#[case] algorithm: &'static SignatureAlgorithm) {
    let (root, issuer) = (plain("root"), party_with("issuer", algorithm, |_| {}));
    assert_eq!(outcome(&root.own(), &issuer.by(&root), &issuer.key()), "used");
}

#[test]
fn rsa_issuers_are_used_and_short_ones_are_named() {
    let root = plain("root");
    let certificate = |bits: &str| {
        let key = {
            let bits = format!("rsa_keygen_bits:{bits}");
            let args = ["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits];
            let output = Command::new("openssl").args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let issuer =
            Party { params: plain("issuer").params, key: KeyPair::from_pem(&key).unwrap() };
        (issuer.by(&root), key)
    };
    let (chain, key) = certificate("2048");
    assert_eq!(outcome(&root.own(), &chain, &key), "used");
    let traditional = openssl(&["rsa", "-traditional"], &key);
    assert_eq!(outcome(&root.own(), &chain, &traditional), "used", "PKCS#1");
}

/// What every error says: the part of the Secret, the rule, the remedy.
#[track_caller]
fn refused(parts: (&str, &str, &str), key: &str, rule: &str, remedy: &str) {
    let text = outcome(parts.0, parts.1, parts.2);
    let start =
        format!("the stored CA is invalid: {key} of Secret dapr-system/dapr-trust-bundle: {rule}");
    assert!(text.starts_with(&start), "{text}\nis not\n{start}");
    let (_, said) = text.split_once("; ").unwrap();
    assert!(said.contains(remedy), "{text}\ndoes not say\n{remedy}");
    assert!(!text.contains("-----END"), "nothing of the parts: {text}");
}

#[test]
fn a_selfsigned_issuer_of_cert_manager_is_explained() {
    let root = plain("root");
    let parts = (&*root.own(), &*root.own(), &*root.key());
    refused(parts, "tls.crt", "issuer chain is empty", "with cert-manager a second Certificate");
}

#[test]
fn the_issuing_ca_in_place_of_the_root_is_explained() {
    let (root, middle, issuer) = (plain("root"), plain("middle"), plain("issuer"));
    let chain = issuer.by(&middle) + &middle.by(&root);
    let parts = (&*middle.by(&root), &*chain, &*issuer.key());
    let rule = "certificate in trust anchor is not self-signed (certificate 1)";
    refused(parts, "ca.crt", rule, "store the root there: cert-manager and Vault");
    // Both together: the number says which one.
    let both = root.own() + &middle.by(&root);
    let parts = (&*both, &*chain, &*issuer.key());
    refused(
        parts,
        "ca.crt",
        &rule.replace('1', "2"),
        "append certificates between root and issuer",
    );
}

#[test]
fn every_wrong_certificate_is_named_with_its_remedy() {
    let (root, middle, issuer) = (plain("root"), plain("middle"), plain("issuer"));
    let (anchors, chain, key) = (root.own(), issuer.by(&root), issuer.key());
    let (anchors, chain, key) = (anchors.as_str(), chain.as_str(), key.as_str());

    let leaf = party("leaf", |p| p.is_ca = IsCa::NoCa);
    refused(
        (&leaf.own(), chain, key),
        "ca.crt",
        "certificate 1 of the trust anchors may not",
        "CA:TRUE",
    );
    refused(
        (anchors, &leaf.by(&root), &leaf.key()),
        "tls.crt",
        "intermediate certificate is not valid for signing",
        "isCA: true",
    );
    let no_usage = party("x", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    refused(
        (anchors, &no_usage.by(&root), &no_usage.key()),
        "tls.crt",
        "intermediate certificate is not valid for signing",
        "`cert sign`",
    );

    let reversed = middle.by(&root) + &issuer.by(&middle);
    refused(
        (anchors, &reversed, key),
        "tls.crt",
        "certificate chain is not valid: certificate 1 is not signed",
        "store the issuer first",
    );
    let stranger = issuer.by(&middle) + &middle.by(&root) + &plain("other").own();
    refused(
        (anchors, &stranger, key),
        "tls.crt",
        "certificate chain is not valid: certificate 2",
        "no others",
    );

    refused(
        (anchors, &issuer.by(&middle), key),
        "ca.crt",
        "issuer chain does not belong to trust anchors: certificate signed by unknown authority",
        "the certificates between them in the issuer certificate",
    );
    refused(
        (&plain("root").own(), chain, key),
        "ca.crt",
        "issuer chain does not belong",
        "store the root that signed",
    );
    let torn = issuer.by(&middle) + &middle.by(&root).replacen("MII", "M!!", 1);
    refused((anchors, &torn, key), "tls.crt", "a certificate is not read", "completely");
    let apart = plain("other").own() + &root.key() + anchors;
    refused((&apart, chain, key), "ca.crt", "a certificate is not read", "nothing in between");

    let short = party("root", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    refused(
        (&short.own(), &issuer.by(&short), key),
        "tls.crt",
        "issuer chain does not belong to trust anchors: an issuer of the certificate is not allowed",
        "a root of path length 0 allows no issuer",
    );

    let old = party("issuer", expired);
    refused(
        (anchors, &old.by(&root), &old.key()),
        "tls.crt",
        "certificate 1 has expired or is not yet valid: it is valid from 2027-01-15T07:00:00Z to 2027-01-15T07:59:59Z",
        "renew it, or correct the clock",
    );
    let old = party("middle", expired);
    refused(
        (anchors, &(issuer.by(&old) + &old.by(&root)), key),
        "tls.crt",
        "certificate 2 has expired",
        "renew it",
    );
    let old = party("root", expired);
    refused((&old.own(), &issuer.by(&old), key), "ca.crt", "certificate 1 has expired", "renew it");
    let unrelated = party("other", expired).own();
    let both = unrelated.clone() + &old.own();
    refused((&both, &issuer.by(&old), key), "ca.crt", "certificate 2 has expired", "renew it");
    let below = issuer.by(&middle) + &middle.by(&old);
    refused((&both, &below, key), "ca.crt", "certificate 2 has expired", "renew it");
}

#[test]
fn every_wrong_text_is_named_with_its_remedy() {
    let (root, issuer) = (plain("root"), plain("issuer"));
    let (anchors, chain, key) = (root.own(), issuer.by(&root), issuer.key());
    let (anchors, chain, key) = (anchors.as_str(), chain.as_str(), key.as_str());
    let indented = |text: &str| text.replace("-----BEGIN", "  -----BEGIN");
    for wrong in ["MIIB", key, &indented(anchors), "\u{feff}"] {
        refused(
            (wrong, chain, key),
            "ca.crt",
            "parse the trust anchors: no certificates found",
            "as PEM text",
        );
        refused(
            (anchors, wrong, key),
            "tls.crt",
            "parse the issuer certificate chain: no certificates found",
            "as PEM text",
        );
    }
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused(
        (&(anchors.to_owned() + damaged), chain, key),
        "ca.crt",
        "parse the trust anchors: certificate 2 is not valid X.509",
        "replace that certificate",
    );
    refused(
        (anchors, damaged, key),
        "tls.crt",
        "parse the issuer certificate chain: certificate 1 of the chain",
        "replace that certificate",
    );
    refused(
        (&anchors.repeat(65), chain, key),
        "ca.crt",
        "parse the trust anchors: more than 64 certificates",
        "of this CA only",
    );
    assert_eq!(outcome(&anchors.repeat(64), chain, key), "used");

    refused(
        (anchors, chain, "garbage"),
        "tls.key",
        "parse the issuer key: no PEM block",
        "PKCS#8, SEC1 or PKCS#1",
    );
    refused(
        (anchors, chain, chain),
        "tls.key",
        "parse the issuer key: the PEM block is not",
        "the private key of the issuer",
    );
    refused(
        (anchors, chain, &root.key()),
        "tls.key",
        "issuer key does not match issuer certificate",
        "of the first certificate",
    );
    let encrypted = openssl(&["pkcs8", "-topk8", "-passout", "pass:x"], key);
    refused(
        (anchors, chain, &encrypted),
        "tls.key",
        "parse the issuer key: the private key is encrypted",
        "openssl pkey",
    );
    let older = openssl(&["ec", "-aes256", "-passout", "pass:x"], key);
    assert!(older.contains("Proc-Type"), "{older}");
    refused(
        (anchors, chain, &older),
        "tls.key",
        "parse the issuer key: the private key is encrypted",
        "openssl pkey",
    );
    let curve = Command::new("openssl")
        .args(["ecparam", "-name", "secp256k1", "-genkey", "-noout"])
        .output();
    let curve = String::from_utf8(curve.unwrap().stdout).unwrap();
    refused(
        (anchors, chain, &curve),
        "tls.key",
        "parse the issuer key: unsupported",
        "ECDSA P-256",
    );
}

#[test]
fn missing_parts_are_named_with_their_object() {
    let (root, issuer) = (plain("root"), plain("issuer"));
    let text = outcome(&root.own(), &issuer.by(&root), " ");
    let start = "the stored CA is incomplete: tls.key missing";
    let want =
        "the stored CA is incomplete: tls.key in Secret dapr-system/dapr-trust-bundle missing";
    assert!(text.starts_with(want), "{text}: {start}");
    let text = outcome("", &issuer.by(&root), &issuer.key());
    assert!(text.contains("ca.crt in Secret dapr-system/dapr-trust-bundle missing"), "{text}");
}

/// A leftover of the native pair hides the pair of cert-manager.
#[test]
fn a_hidden_pair_of_cert_manager_is_explained() {
    let (root, issuer) = (plain("root"), plain("issuer"));
    let part = |text: String| Some(text.into_bytes());
    let stored = Stored::new(part(root.own()), part(issuer.by(&root)), None)
        .or_cert_manager(part(issuer.by(&root)), part(issuer.key()));
    let now = Timestamp::from_second(NOW).unwrap();
    let text = plan(&stored, &Published::Nowhere, now).unwrap_err().to_string();
    assert!(text.contains("issuer key missing"), "{text}");
    assert!(text.contains("to use the pair of cert-manager"), "{text}");
}
