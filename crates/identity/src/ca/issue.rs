//! Issues leaf certificates. Source of the profile: Dapr 1.18, sentry's workload certificates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::keys::key::{KeyError, PrivateKey};
use crate::spiffe_id::SpiffeId;
use crate::trust::{CertChain, ChainError, TrustAnchors};
use crate::verify::VerifyError;
use crate::x509::certificate::{self, KeyUsage, Template};
use crate::{verify, x509};

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer does not lead to a trust anchor now, for example because it has expired.
    #[error("the issuer certificate cannot sign now")]
    Issuer(#[source] VerifyError),
    /// The crypto library failed.
    #[error("sign the certificate")]
    Sign(#[source] KeyError),
    /// The validity is outside the range of dates.
    #[error("the validity of the certificate is out of range")]
    Validity,
    /// The issued certificate does not parse.
    #[error("parse the issued certificate")]
    ReadBack(#[source] ChainError),
}

/// The contents of a leaf certificate.
#[derive(Debug, Clone)]
pub struct LeafRequest<'a> {
    /// Identity of the holder: the only URI name.
    pub id: &'a SpiffeId,
    /// DNS names, for services that the API server or etcd connects to.
    pub dns_names: &'a [String],
    /// JSON of the container images of the holder's pod, for the extension of Dapr 1.19; `None` leaves
    /// it out.
    pub container_images: Option<&'a str>,
    /// Public key of the holder, `SubjectPublicKeyInfo`.
    pub public_key: &'a [u8],
    /// Lifetime from now on.
    pub ttl: Duration,
    /// How far the certificate is back-dated, for peers whose clocks are behind. Limited to half of
    /// `ttl`: clients renew in the middle of the validity, which must be in the future.
    pub clock_skew: Duration,
}

/// An issued certificate with its issuers.
#[derive(Debug, Clone)]
pub struct IssuedLeaf {
    /// Leaf first, then the issuer chain, without a root.
    pub chain: CertChain,
    /// Whether the lifetime is shorter than requested because an issuer expires earlier.
    pub shortened: bool,
}

impl IssuedLeaf {
    /// Serial number of the leaf, lower-case hex.
    pub fn serial(&self) -> String {
        let leaf = self.chain.certs().first().and_then(|der| x509::parse(der));
        hex(leaf.as_ref().map_or(&[], |leaf| leaf.raw_serial()))
    }

    /// SHA-256 of the leaf, lower-case hex.
    pub fn sha256(&self) -> String {
        let leaf = self.chain.certs().first().map(AsRef::as_ref).unwrap_or_default();
        hex(&Sha256::digest(leaf))
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// Signs a leaf with the first certificate of `issuer`.
///
/// The leaf expires no later than any certificate on the issuer's path to a trust anchor.
pub(crate) fn issue(
    request: &LeafRequest<'_>,
    issuer: &CertChain,
    key: &PrivateKey,
    anchors: &TrustAnchors,
    now: Timestamp,
) -> Result<IssuedLeaf, IssueError> {
    let path_ends = verify::verify_issuer(issuer, anchors, now).map_err(IssueError::Issuer)?;
    let (not_before, wanted) = validity(request.ttl, request.clock_skew, now)?;
    let not_after = wanted.min(path_ends);
    let first = issuer.certs().first().ok_or(IssueError::ReadBack(ChainError::Empty))?;
    let issuer_cert = x509::parse(first).ok_or(IssueError::ReadBack(ChainError::Damaged(1)))?;
    let mut extensions =
        vec![certificate::key_usage(KeyUsage::Leaf), certificate::server_and_client()];
    extensions.extend(x509::subject_key_id(&issuer_cert).map(certificate::authority_key_id));
    extensions.push(certificate::alternative_names(request.dns_names, &request.id.to_string()));
    extensions.extend(request.container_images.map(certificate::container_images));
    let template = Template {
        issuer: issuer_cert.subject().as_raw(),
        subject: &certificate::empty_name(),
        not_before,
        not_after,
        public_key: request.public_key,
        extensions,
    };
    let leaf = certificate::sign(&template, key).map_err(IssueError::Sign)?;
    let certs: Vec<CertificateDer<'static>> =
        std::iter::once(leaf).chain(issuer.certs().iter().cloned()).collect();
    let chain = CertChain::from_der(certs).map_err(IssueError::ReadBack)?;
    Ok(IssuedLeaf { chain, shortened: not_after < wanted })
}

/// Start and expiry of a leaf, in whole seconds.
fn validity(
    ttl: Duration,
    skew: Duration,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), IssueError> {
    let signed = |d: Duration| SignedDuration::try_from(d).map_err(|_| IssueError::Validity);
    let whole =
        |t: Timestamp| Timestamp::from_second(t.as_second()).map_err(|_| IssueError::Validity);
    let back = signed(skew.min(ttl / 2))?;
    let start = now.checked_sub(back).map_err(|_| IssueError::Validity)?;
    let end = now.checked_add(signed(ttl)?).map_err(|_| IssueError::Validity)?;
    Ok((whole(start)?, whole(end)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_renewal_time_is_in_the_future(ttl in 2_u64..1_000_000, skew in 0_u64..1_000_000) {
            let now = Timestamp::from_second(1_700_000_000).unwrap();
            let (start, end) =
                validity(Duration::from_secs(ttl), Duration::from_secs(skew), now).unwrap();
            let middle = i64::midpoint(start.as_second(), end.as_second());
            prop_assert!(middle > now.as_second() || ttl < 4);
            prop_assert!(start <= now && now < end);
        }
    }

    #[test]
    fn is_back_dated_by_the_clock_skew() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let (start, end) =
            validity(Duration::from_hours(24), Duration::from_mins(15), now).unwrap();
        assert_eq!(now.as_second() - start.as_second(), 15 * 60);
        assert_eq!(end.as_second() - now.as_second(), 24 * 3600);
    }
}
