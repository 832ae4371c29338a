//! What a peer accepts: a chain from an SVID to one of the trust anchors.
//!
//! The rules are those of the Go peers, so that both sides of a connection judge alike: anchors
//! must be valid now, any extended key usage will do, issuers are found by the bytes of their name,
//! and every candidate with the right name is tried, because roots of one installation share it.
//! Host names play no part. Source: Dapr 1.18, security module; Go 1.26, `crypto/x509`.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::trust::{CertChain, ChainError, TrustAnchors};
use crate::{SpiffeError, SpiffeId, constraints, view};

/// Signatures checked per chain at most, as in Go: a peer cannot make us search for ever.
const MAX_SIGNATURE_CHECKS: u32 = 100;

/// Certificates between leaf and anchor at most.
const MAX_INTERMEDIATES: usize = 10;

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The chain is empty, too long or damaged, or its leaf carries no single SPIFFE id.
    #[error("read the peer's certificate")]
    Chain(#[from] ChainError),
    /// The SPIFFE id names a trust domain and nothing in it.
    #[error("certificate's SPIFFE ID has no path")]
    NoPath,
    /// The id itself is not legal.
    #[error("read the SPIFFE ID of the certificate")]
    Id(#[source] SpiffeError),
    /// The leaf may sign certificates, which an SVID must not.
    #[error("leaf certificate is a certificate authority")]
    LeafIsCa,
    /// The leaf has an extension that must be understood and is not.
    #[error("leaf certificate has an unknown critical extension")]
    LeafExtension,
    /// The leaf is not valid yet or not any more.
    #[error("certificate is valid from {from} to {to} only, and it is {now}")]
    LeafTime {
        /// Start of its validity.
        from: Timestamp,
        /// End of its validity.
        to: Timestamp,
        /// The time of the check.
        now: Timestamp,
    },
    /// No path of valid signatures leads to an anchor.
    #[error("certificate signed by unknown authority")]
    UnknownAuthority,
    /// A path with valid signatures leads to an anchor, but one of its certificates is not valid
    /// now.
    #[error("an issuer of the certificate has expired or is not yet valid")]
    IssuerTime,
    /// As before, but one of its certificates must not sign the next one.
    #[error("an issuer of the certificate is not allowed to sign it")]
    IssuerRefused,
    /// The search was given up.
    #[error("too many possible paths to a trust anchor")]
    TooComplex,
}

/// Verifies a chain as a TLS peer shows it, leaf first, and returns who the leaf is. Which id is
/// wanted is the caller's question: anchors are not bound to a trust domain.
///
/// # Errors
/// [`VerifyError`]; the first rule that fails.
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
    Search::new(intermediates, &parsed.anchors, now).run(leaf)?;
    Ok(id)
}

/// Verifies that an issuer leads to an anchor, and returns the first end of validity on the path.
///
/// # Errors
/// [`VerifyError`]; no path leads to an anchor, or one of its certificates is not valid now.
pub fn verify_issuer(
    chain: &CertChain,
    anchors: &TrustAnchors,
    now: Timestamp,
) -> Result<Timestamp, VerifyError> {
    let parsed = Parsed::new(chain, anchors);
    let (issuer, rest) = parsed.chain.split_first().ok_or(ChainError::Empty)?;
    if !view::is_current(issuer, now) {
        return Err(VerifyError::IssuerTime);
    }
    if !view::is_understood(issuer) {
        return Err(VerifyError::IssuerRefused);
    }
    Search::new(rest, &parsed.anchors, now).run(issuer)
}

/// Both inputs parsed once; neither holds a damaged certificate, so none is lost here.
struct Parsed<'a> {
    chain: Vec<X509Certificate<'a>>,
    anchors: Vec<X509Certificate<'a>>,
}

impl<'a> Parsed<'a> {
    fn new(chain: &'a CertChain, anchors: &'a TrustAnchors) -> Self {
        let parse = |certs: &'a [CertificateDer<'static>]| {
            certs.iter().filter_map(|der| view::parse(der)).collect()
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
    if !view::is_understood(leaf) {
        return Err(VerifyError::LeafExtension);
    }
    if !view::is_current(leaf, now) {
        let damaged = ChainError::Damaged(1);
        let from = view::not_before(leaf).ok_or(damaged.clone())?;
        let to = view::not_after(leaf).ok_or(damaged)?;
        return Err(VerifyError::LeafTime { from, to, now });
    }
    Ok(())
}

/// A depth-first search from a certificate to an anchor.
struct Search<'a> {
    intermediates: &'a [X509Certificate<'a>],
    anchors: &'a [X509Certificate<'a>],
    now: Timestamp,
    checks: u32,
    /// The best reason so far: a path that failed late says more than none.
    reason: VerifyError,
}

impl<'a> Search<'a> {
    fn new(
        intermediates: &'a [X509Certificate<'a>],
        anchors: &'a [X509Certificate<'a>],
        now: Timestamp,
    ) -> Self {
        Self { intermediates, anchors, now, checks: 0, reason: VerifyError::UnknownAuthority }
    }

    fn run(mut self, leaf: &'a X509Certificate<'a>) -> Result<Timestamp, VerifyError> {
        let ends = self.extend(&[leaf])?;
        ends.ok_or(self.reason)
    }

    /// Tries every issuer of the last certificate of `path`, anchors first. `Some` is the first
    /// end of validity on the path found.
    fn extend(
        &mut self,
        path: &[&'a X509Certificate<'a>],
    ) -> Result<Option<Timestamp>, VerifyError> {
        for anchor in self.anchors {
            if self.may_follow(path, anchor)? {
                let ends = path.iter().chain([&anchor]).filter_map(|cert| view::not_after(cert));
                return Ok(ends.min());
            }
        }
        if path.len() > MAX_INTERMEDIATES {
            return Ok(None);
        }
        for next in self.intermediates {
            let repeated = path.iter().any(|seen| seen.as_raw() == next.as_raw());
            if !repeated && self.may_follow(path, next)? {
                let longer: Vec<_> = path.iter().copied().chain([next]).collect();
                if let Some(ends) = self.extend(&longer)? {
                    return Ok(Some(ends));
                }
            }
        }
        Ok(None)
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
        self.checks += 1;
        if self.checks > MAX_SIGNATURE_CHECKS {
            return Err(VerifyError::TooComplex);
        }
        if !view::is_signed_by(last, issuer) {
            return Ok(false);
        }
        if !view::is_current(issuer, self.now) {
            self.reason = VerifyError::IssuerTime;
            return Ok(false);
        }
        // The path counts every certificate between the leaf and this one, as Go does.
        let below = path.len().saturating_sub(1);
        let short_enough = view::path_length(issuer)
            .is_none_or(|limit| usize::try_from(limit).is_ok_and(|limit| below <= limit));
        let allowed = short_enough
            && view::may_sign(issuer)
            && view::is_understood(issuer)
            && constraints::permit(issuer, leaf);
        if !allowed {
            self.reason = VerifyError::IssuerRefused;
        }
        Ok(allowed)
    }
}
