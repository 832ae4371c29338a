//! Verification of a peer's certificate chain against the trust anchors.
//!
//! The rules are those of the Go peers, so that both sides of a connection decide alike: anchors must
//! be valid now, any extended key usage is accepted, issuers are found by the bytes of their name,
//! and every candidate of that name is tried, because the roots of one installation share it. Host
//! names are not verified. Source: Dapr 1.18, security module; Go 1.26, `crypto/x509`.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::spiffe_id::{SpiffeError, SpiffeId};
use crate::trust::{CertChain, ChainError, TrustAnchors};
use crate::x509;
use crate::x509::constraints;

/// Maximum number of signature checks per chain. A peer chooses the chain before it has proven
/// anything, and a slow check takes a millisecond. The longest chain of a rotation needs ten.
const MAX_SIGNATURE_CHECKS: usize = 16;

/// Maximum number of certificates between leaf and anchor.
const MAX_INTERMEDIATES: usize = 10;

/// Why a certificate chain is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The chain is empty, too long or invalid, or its leaf does not have exactly one SPIFFE id.
    #[error("parse the peer's certificate")]
    Chain(#[from] ChainError),
    /// The SPIFFE id has no path.
    #[error("certificate's SPIFFE ID has no path")]
    NoPath,
    /// The SPIFFE id is invalid.
    #[error("parse the SPIFFE ID of the certificate")]
    Id(#[source] SpiffeError),
    /// The leaf is a CA, which an SVID must not be.
    #[error("leaf certificate is a certificate authority")]
    LeafIsCa,
    /// The leaf has an unknown critical extension.
    #[error("leaf certificate has an unknown critical extension")]
    LeafExtension,
    /// The leaf is not valid yet or has expired.
    #[error("certificate is valid from {from} to {to}, the current time is {now}")]
    LeafTime {
        /// Start of its validity.
        from: Timestamp,
        /// End of its validity.
        to: Timestamp,
        /// Time of the check.
        now: Timestamp,
    },
    /// No path of valid signatures leads to a trust anchor.
    #[error("certificate signed by unknown authority")]
    UnknownAuthority,
    /// A path of valid signatures exists, but one of its certificates is not valid now.
    #[error("an issuer of the certificate has expired or is not yet valid")]
    IssuerTime,
    /// A path of valid signatures exists, but one of its certificates must not sign the next one.
    #[error("an issuer of the certificate is not allowed to sign it")]
    IssuerRefused,
    /// The search needs more signature checks than allowed.
    #[error("too many possible paths to a trust anchor")]
    TooComplex,
}

/// Verifies a chain as a TLS peer presents it, leaf first, and returns the SPIFFE id of the leaf. The
/// caller checks the id: trust anchors are not bound to a trust domain.
///
/// # Errors
/// [`VerifyError`] with the first rule that fails.
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    now: Timestamp,
) -> Result<SpiffeId, VerifyError> {
    let owned = chain.iter().map(|der| der.clone().into_owned()).collect();
    let chain = CertChain::from_der(owned)?;
    let id = chain.leaf_id()?;
    if id.path().is_empty() {
        return Err(VerifyError::NoPath);
    }
    let parsed = Parsed::new(&chain, anchors);
    let (leaf, intermediates) = parsed.chain.split_first().ok_or(ChainError::Empty)?;
    check_leaf(leaf, now)?;
    Search::new(intermediates, &parsed.anchors, 0, now).run(leaf)?;
    Ok(id)
}

/// Verifies that an issuer leads to a trust anchor, also with a leaf below it, and returns the earliest expiry on the path.
///
/// # Errors
/// [`VerifyError`] if no path leads to an anchor, or one of its certificates is not valid now.
pub fn verify_issuer(
    chain: &CertChain,
    anchors: &TrustAnchors,
    now: Timestamp,
) -> Result<Timestamp, VerifyError> {
    let parsed = Parsed::new(chain, anchors);
    let (issuer, rest) = parsed.chain.split_first().ok_or(ChainError::Empty)?;
    if !x509::is_current(issuer, now) {
        return Err(VerifyError::IssuerTime);
    }
    if !x509::is_understood(issuer) {
        return Err(VerifyError::IssuerRefused);
    }
    // The leaves that it will issue stand below it.
    Search::new(rest, &parsed.anchors, 1, now).run(issuer)
}

/// Both inputs, parsed once. Their types guarantee that every certificate parses.
struct Parsed<'a> {
    chain: Vec<X509Certificate<'a>>,
    anchors: Vec<X509Certificate<'a>>,
}

impl<'a> Parsed<'a> {
    fn new(chain: &'a CertChain, anchors: &'a TrustAnchors) -> Self {
        let parse = |certs: &'a [CertificateDer<'static>]| {
            certs.iter().filter_map(|der| x509::parse(der)).collect()
        };
        Self { chain: parse(chain.certs()), anchors: parse(anchors.certs()) }
    }
}

fn check_leaf(leaf: &X509Certificate<'_>, now: Timestamp) -> Result<(), VerifyError> {
    let signs = match leaf.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign() || usage.value.crl_sign(),
        Ok(None) => false,
        Err(_) => true,
    };
    if leaf.is_ca() || signs {
        return Err(VerifyError::LeafIsCa);
    }
    if !x509::is_understood(leaf) {
        return Err(VerifyError::LeafExtension);
    }
    if !x509::is_current(leaf, now) {
        let damaged = ChainError::Damaged(1);
        let from = x509::not_before(leaf).ok_or(damaged.clone())?;
        let to = x509::not_after(leaf).ok_or(damaged)?;
        return Err(VerifyError::LeafTime { from, to, now });
    }
    Ok(())
}

/// A depth-first search from a certificate to a trust anchor.
struct Search<'a> {
    intermediates: &'a [X509Certificate<'a>],
    anchors: &'a [X509Certificate<'a>],
    /// Certificates below the first one of each path.
    below: usize,
    now: Timestamp,
    /// Completed signature checks; none is repeated for an equal key.
    checks: Vec<Check<'a>>,
    /// The most specific reason so far: that of a path that failed late.
    reason: VerifyError,
}

/// A completed signature check.
struct Check<'a> {
    /// The certificate, DER.
    cert: &'a [u8],
    /// The issuer's `SubjectPublicKeyInfo`.
    key: &'a [u8],
    valid: bool,
}

impl<'a> Search<'a> {
    fn new(
        intermediates: &'a [X509Certificate<'a>],
        anchors: &'a [X509Certificate<'a>],
        below: usize,
        now: Timestamp,
    ) -> Self {
        Self {
            intermediates,
            anchors,
            below,
            now,
            checks: Vec::new(),
            reason: VerifyError::UnknownAuthority,
        }
    }

    fn run(mut self, leaf: &'a X509Certificate<'a>) -> Result<Timestamp, VerifyError> {
        let ends = self.extend(&[leaf])?;
        ends.ok_or(self.reason)
    }

    /// Tries every issuer of the last certificate of `path`: those whose key id matches first, and
    /// anchors before intermediates. Returns the earliest expiry on the path that was found.
    fn extend(
        &mut self,
        path: &[&'a X509Certificate<'a>],
    ) -> Result<Option<Timestamp>, VerifyError> {
        let Some(last) = path.last() else { return Ok(None) };
        for rank in [KeyIdMatch::Equal, KeyIdMatch::Unknown, KeyIdMatch::Different] {
            for anchor in self.anchors.iter().filter(|cert| key_id_match(last, cert) == rank) {
                if self.may_follow(path, anchor)? {
                    let certs = path.iter().chain([&anchor]);
                    return Ok(certs.filter_map(|cert| x509::not_after(cert)).min());
                }
            }
            if path.len() > MAX_INTERMEDIATES {
                continue;
            }
            for next in self.intermediates.iter().filter(|cert| key_id_match(last, cert) == rank) {
                if !is_repeated(path, next) && self.may_follow(path, next)? {
                    let longer: Vec<_> = path.iter().copied().chain([next]).collect();
                    if let Some(ends) = self.extend(&longer)? {
                        return Ok(Some(ends));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether the key of `issuer` signed `cert`; an equal check is not repeated.
    fn is_signed_by(
        &mut self,
        cert: &'a X509Certificate<'a>,
        issuer: &'a X509Certificate<'a>,
    ) -> Result<bool, VerifyError> {
        let (der, key) = (cert.as_raw(), issuer.public_key().raw);
        if let Some(check) = self.checks.iter().find(|check| check.cert == der && check.key == key)
        {
            return Ok(check.valid);
        }
        if self.checks.len() >= MAX_SIGNATURE_CHECKS {
            return Err(VerifyError::TooComplex);
        }
        let valid = x509::is_signed_by(cert, issuer);
        self.checks.push(Check { cert: der, key, valid });
        Ok(valid)
    }

    fn may_follow(
        &mut self,
        path: &[&'a X509Certificate<'a>],
        issuer: &'a X509Certificate<'a>,
    ) -> Result<bool, VerifyError> {
        let (Some(leaf), Some(last)) = (path.first(), path.last()) else { return Ok(false) };
        if last.issuer().as_raw() != issuer.subject().as_raw() {
            return Ok(false);
        }
        if !self.is_signed_by(last, issuer)? {
            return Ok(false);
        }
        if !x509::is_current(issuer, self.now) {
            self.reason = VerifyError::IssuerTime;
            return Ok(false);
        }
        // Every certificate between the leaf and this one counts, as in Go.
        let below = (path.len() + self.below).saturating_sub(1);
        let short_enough = x509::path_length(issuer)
            .is_none_or(|limit| usize::try_from(limit).is_ok_and(|limit| below <= limit));
        let allowed = short_enough
            && x509::may_sign(issuer)
            && x509::is_understood(issuer)
            && constraints::permit(issuer, leaf);
        if !allowed {
            self.reason = VerifyError::IssuerRefused;
        }
        Ok(allowed)
    }
}

/// How the key id of a certificate's issuer compares with that of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyIdMatch {
    Equal,
    /// One of the two has none.
    Unknown,
    Different,
}

fn key_id_match(cert: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> KeyIdMatch {
    match (x509::authority_key_id(cert), x509::subject_key_id(issuer)) {
        (Some(wanted), Some(found)) if wanted == found => KeyIdMatch::Equal,
        (Some(_), Some(_)) => KeyIdMatch::Different,
        _ => KeyIdMatch::Unknown,
    }
}

/// Whether a certificate with this name and key is in the path already: it leads nowhere new.
fn is_repeated(path: &[&X509Certificate<'_>], next: &X509Certificate<'_>) -> bool {
    path.iter().any(|seen| {
        seen.subject().as_raw() == next.subject().as_raw()
            && seen.public_key().raw == next.public_key().raw
    })
}
