//! Encodes and signs certificates. Source: RFC 5280 §4.1.

use aws_lc_rs::rand;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::asn1::{der, oid};
use crate::keys::key::{KeyError, PrivateKey};

/// The value of version 3, RFC 5280 §4.1.2.1.
const VERSION_3: u8 = 2;

/// Length of a random serial number; DER may add one byte for the sign.
const SERIAL_BYTES: usize = 16;

/// A key identifier is the leftmost 160 bits of the SHA-256 of the key, RFC 7093 §2.
const KEY_ID_BYTES: usize = 20;

/// The contents of a certificate, DER, with extensions in order.
pub(crate) struct Template<'a> {
    /// The issuer's name, byte for byte as in its certificate.
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// `SubjectPublicKeyInfo`.
    pub(crate) public_key: &'a [u8],
    pub(crate) extensions: Vec<Vec<u8>>,
}

/// Signs a certificate with a random serial number.
pub(crate) fn sign(
    template: &Template<'_>,
    key: &PrivateKey,
) -> Result<CertificateDer<'static>, KeyError> {
    let mut serial = [0; SERIAL_BYTES];
    rand::fill(&mut serial).map_err(|_| KeyError::Sign)?;
    // The signed part contains the algorithm, which depends on the key alone.
    let algorithm = key.sign(&[])?.algorithm;
    let extensions: Vec<&[u8]> = template.extensions.iter().map(Vec::as_slice).collect();
    let tbs = der::sequence(&[
        &der::explicit(0, &der::unsigned(&[VERSION_3])),
        &der::unsigned(&serial),
        &algorithm,
        template.issuer,
        &der::sequence(&[&der::time(template.not_before), &der::time(template.not_after)]),
        template.subject,
        template.public_key,
        &der::explicit(3, &der::sequence(&extensions)),
    ]);
    let signature = key.sign(&tbs)?;
    let signed = der::sequence(&[&tbs, &signature.algorithm, &der::bit_string(&signature.value)]);
    Ok(CertificateDer::from(signed))
}

/// A name with an organisation, and a common name if the organisation alone is not unique.
pub(crate) fn organization(name: &str, common_name: Option<&str>) -> Vec<u8> {
    let attribute = |oid: &[u8], value: &str| {
        der::set_of_one(&der::sequence(&[&der::oid(oid), &der::directory_string(value)]))
    };
    let mut parts = attribute(oid::ORGANIZATION, name);
    parts.extend(common_name.map(|value| attribute(oid::COMMON_NAME, value)).unwrap_or_default());
    der::sequence(&[&parts])
}

/// A name without attributes.
pub(crate) fn empty_name() -> Vec<u8> {
    der::sequence(&[])
}

/// The key usages of Dapr's certificates, as bits of RFC 5280 §4.2.1.3.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyUsage {
    /// digitalSignature.
    Leaf = 0b1000_0000,
    /// digitalSignature, keyCertSign.
    Root = 0b1000_0100,
    /// digitalSignature, keyCertSign, cRLSign.
    Issuer = 0b1000_0110,
}

/// keyUsage, critical.
pub(crate) fn key_usage(usage: KeyUsage) -> Vec<u8> {
    critical(oid::KEY_USAGE, &der::named_bits(usage as u8))
}

/// basicConstraints of a CA without path length, critical.
pub(crate) fn ca() -> Vec<u8> {
    critical(oid::BASIC_CONSTRAINTS, &der::sequence(&[&der::boolean_true()]))
}

/// extendedKeyUsage of TLS servers and clients.
pub(crate) fn server_and_client() -> Vec<u8> {
    let usages = der::sequence(&[&der::oid(oid::SERVER_AUTH), &der::oid(oid::CLIENT_AUTH)]);
    plain(oid::EXTENDED_KEY_USAGE, &usages)
}

/// subjectKeyIdentifier.
pub(crate) fn subject_key_id(id: &[u8]) -> Vec<u8> {
    plain(oid::SUBJECT_KEY_ID, &der::octet_string(id))
}

/// authorityKeyIdentifier with the subject key id of the issuer's certificate.
pub(crate) fn authority_key_id(id: &[u8]) -> Vec<u8> {
    plain(oid::AUTHORITY_KEY_ID, &der::sequence(&[&der::implicit(0, id)]))
}

/// subjectAltName, critical because the subject is empty: DNS names, then one URI.
pub(crate) fn alternative_names(dns: &[String], uri: &str) -> Vec<u8> {
    const DNS_NAME: u8 = 2;
    const URI: u8 = 6;
    let mut names: Vec<Vec<u8>> =
        dns.iter().map(|name| der::implicit(DNS_NAME, name.as_bytes())).collect();
    names.push(der::implicit(URI, uri.as_bytes()));
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    critical(oid::SUBJECT_ALT_NAME, &der::sequence(&names))
}

/// The container images of a pod: UTF-8 JSON in an OCTET STRING of its own inside the one that every
/// extension has. Source: Dapr 1.19, sentry.
pub(crate) fn container_images(json: &str) -> Vec<u8> {
    plain(oid::CONTAINER_IMAGES, &der::octet_string(json.as_bytes()))
}

/// The identifier of a public key (`SubjectPublicKeyInfo`).
pub(crate) fn key_id(public_key: &[u8]) -> Vec<u8> {
    Sha256::digest(public_key).iter().copied().take(KEY_ID_BYTES).collect()
}

fn critical(oid: &[u8], content: &[u8]) -> Vec<u8> {
    der::sequence(&[&der::oid(oid), &der::boolean_true(), &der::octet_string(content)])
}

fn plain(oid: &[u8], content: &[u8]) -> Vec<u8> {
    der::sequence(&[&der::oid(oid), &der::octet_string(content)])
}
