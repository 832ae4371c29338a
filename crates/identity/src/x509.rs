//! X.509: one strict parser and the properties that issuing and verifying use. Start with
//! [`parse`]; `certificate` writes certificates, `csr` reads requests, `constraints` is what a
//! verifier checks.

pub(crate) mod certificate;
pub(crate) mod constraints;
pub(crate) mod csr;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use crate::asn1::oid;
use crate::keys::signature;

/// Parses one certificate without trailing data. A repeated extension is an error, as in Go.
pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    let unique = cert.extensions_map().is_ok();
    let timely = not_before(&cert).is_some() && not_after(&cert).is_some();
    (rest.is_empty() && unique && timely).then_some(cert)
}

pub(crate) fn not_before(cert: &X509Certificate<'_>) -> Option<Timestamp> {
    Timestamp::from_second(cert.validity().not_before.timestamp()).ok()
}

pub(crate) fn not_after(cert: &X509Certificate<'_>) -> Option<Timestamp> {
    Timestamp::from_second(cert.validity().not_after.timestamp()).ok()
}

/// Whether `now` is within the certificate's validity, both ends included.
pub(crate) fn is_current(cert: &X509Certificate<'_>, now: Timestamp) -> bool {
    let starts = not_before(cert).is_some_and(|at| at <= now);
    starts && not_after(cert).is_some_and(|at| now.as_second() <= at.as_second())
}

/// Whether the key of `issuer` signed `cert`. Names are not compared.
pub(crate) fn is_signed_by(cert: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    cert.signature_algorithm == cert.tbs_certificate.signature
        && signature::verifies(
            issuer.public_key(),
            &cert.signature_algorithm,
            &cert.signature_value,
            cert.tbs_certificate.as_ref(),
        )
}

/// Whether the certificate verifies with its own key. Equal names are not sufficient: a root that an
/// older root of the same name cross-signed has them too.
pub(crate) fn is_self_signed(cert: &X509Certificate<'_>) -> bool {
    is_signed_by(cert, cert)
}

/// Whether the certificate may sign others: version 3, CA, and keyCertSign if it has a key usage.
/// Source: RFC 5280 §4.2.1.3, §4.2.1.9.
pub(crate) fn may_sign(cert: &X509Certificate<'_>) -> bool {
    let ca = matches!(cert.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let usage = match cert.key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Err(_) => false,
    };
    cert.version() == X509Version::V3 && ca && usage
}

/// The number of intermediates allowed below this certificate; `None` for any number.
pub(crate) fn path_length(cert: &X509Certificate<'_>) -> Option<u32> {
    cert.basic_constraints().ok()??.value.path_len_constraint
}

/// The key id in the authority key identifier.
pub(crate) fn authority_key_id<'a>(cert: &X509Certificate<'a>) -> Option<&'a [u8]> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

/// The subject key identifier.
pub(crate) fn subject_key_id<'a>(cert: &X509Certificate<'a>) -> Option<&'a [u8]> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// Whether every critical extension is known, and every known extension parses.
pub(crate) fn is_understood(cert: &X509Certificate<'_>) -> bool {
    const KNOWN: &[&[u8]] = &[
        oid::KEY_USAGE,
        oid::SUBJECT_ALT_NAME,
        oid::BASIC_CONSTRAINTS,
        oid::NAME_CONSTRAINTS,
        oid::AUTHORITY_KEY_ID,
        oid::SUBJECT_KEY_ID,
        oid::EXTENDED_KEY_USAGE,
    ];
    cert.extensions().iter().all(|extension| {
        let known = KNOWN.contains(&extension.oid.as_bytes());
        let parsed = extension.parsed_extension().error().is_none();
        if known { parsed } else { !extension.critical }
    })
}

/// The names of the subjectAltName extension.
pub(crate) fn alternative_names<'c, 'a>(cert: &'c X509Certificate<'a>) -> &'c [GeneralName<'a>] {
    match cert.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        _ => &[],
    }
}
