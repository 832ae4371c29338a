//! The CA that sentry signs with: trust anchors, an issuer chain and its key, validated together.
//! Source of the rules and the profiles: Dapr 1.18, sentry's CA bundle.

mod error;

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use crate::ca::issue;
use crate::ca::issue::{IssueError, IssuedLeaf, LeafRequest};
use crate::keys::key::{KeyKind, PrivateKey};
use crate::spiffe_id::TrustDomain;
use crate::trust::{self, CertChain, ChainError, TrustAnchors, to_pem};
use crate::verify::VerifyError;
use crate::x509::certificate::{self, KeyUsage, Template};
use crate::{verify, x509};

pub use error::{BundleError, Part};

/// Default lifetime of a generated root and issuer. Users rely on one year without restarts.
pub const SELF_SIGNED_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// A CA that can sign; its parts belong together.
pub struct Bundle {
    pub(crate) anchors: TrustAnchors,
    pub(crate) issuer: CertChain,
    pub(crate) key: PrivateKey,
}

/// The stored form of a CA. The key is zeroized on drop and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct BundlePem {
    /// One or more roots, PEM.
    pub anchors: String,
    /// Issuer first, PEM.
    pub issuer_chain: String,
    /// PKCS#8, PEM.
    pub issuer_key: Zeroizing<String>,
}

/// Options of a generated CA.
#[derive(Debug, Clone)]
pub struct GenerateOptions<'a> {
    /// Trust domain of the control plane: the name of the root.
    pub trust_domain: &'a TrustDomain,
    /// Name of the issuer: sentry's SPIFFE id.
    pub issuer_name: String,
    /// How far the certificates are back-dated.
    pub clock_skew: Duration,
    /// Kind of both keys.
    pub key_kind: KeyKind,
    /// Lifetime of both certificates.
    pub lifetime: Duration,
}

impl Bundle {
    /// Parses the three parts and checks that they belong together and can sign now.
    ///
    /// # Errors
    /// [`BundleError`] names the rule that failed.
    pub fn parse(
        anchors: &[u8],
        issuer_chain: &[u8],
        issuer_key: &[u8],
        now: Timestamp,
    ) -> Result<Self, BundleError> {
        let (anchors_text, chain_text) = (anchors, issuer_chain);
        let anchors = TrustAnchors::parse_pem(anchors)?;
        check_anchors(&anchors)?;
        let chain = CertChain::parse_pem(issuer_chain)?;
        let complete = !trust::has_unread(chain_text, chain.certs().len());
        let issuer = without_root(chain)?;
        let key = PrivateKey::from_pem(issuer_key)?;
        check_issuer(&issuer, &key)?;
        verify::verify_issuer(&issuer, &anchors, now).map_err(|e| match e {
            VerifyError::IssuerTime => first_outside(&issuer, &anchors, now)
                .unwrap_or(BundleError::Untrusted(VerifyError::IssuerTime)),
            VerifyError::UnknownAuthority if !complete => BundleError::Unread(Part::IssuerChain),
            VerifyError::UnknownAuthority
                if trust::has_unread(anchors_text, anchors.certs().len()) =>
            {
                BundleError::Unread(Part::Anchors)
            }
            e => BundleError::Untrusted(e),
        })?;
        Ok(Self { anchors, issuer, key })
    }

    /// Generates a root and an issuer. The root's key is dropped.
    ///
    /// # Errors
    /// [`BundleError`] if the crypto library fails or the validity is out of range.
    pub fn generate(
        options: &GenerateOptions<'_>,
        now: Timestamp,
    ) -> Result<(Self, BundlePem), BundleError> {
        let validity = validity(options, now)?;
        let root_key = PrivateKey::generate(options.key_kind)?;
        let issuer_key = PrivateKey::generate(options.key_kind)?;
        let root_name = certificate::organization(options.trust_domain.as_str(), None);
        let root = authority(&root_name, &root_name, &root_key, None, &root_key, validity)?;
        let issuer_name = certificate::organization(&options.issuer_name, None);
        let root_id = certificate::key_id(root_key.public_key_der());
        let issuer =
            authority(&root_name, &issuer_name, &issuer_key, Some(&root_id), &root_key, validity)?;
        let pem = BundlePem {
            anchors: CertChain::from_der(vec![root])?.to_pem(),
            issuer_chain: CertChain::from_der(vec![issuer])?.to_pem(),
            issuer_key: issuer_key.to_pem(),
        };
        let bundle = Self::parse(
            pem.anchors.as_bytes(),
            pem.issuer_chain.as_bytes(),
            pem.issuer_key.as_bytes(),
            now,
        )?;
        Ok((bundle, pem))
    }

    /// The bundle in its stored form, without the comments that it may have had.
    pub fn to_pem(&self) -> BundlePem {
        BundlePem {
            anchors: self.anchors.pem().to_owned(),
            issuer_chain: self.issuer.to_pem(),
            issuer_key: self.key.to_pem(),
        }
    }

    /// Start and end of the root that the issuer leads to now.
    pub fn root(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let root = root_of(self, now)?;
        let root = x509::parse(root)?;
        Some((x509::not_before(&root)?, x509::not_after(&root)?))
    }

    /// Issues a leaf.
    ///
    /// # Errors
    /// [`IssueError::Issuer`] if the CA has expired, others if the crypto library fails.
    pub fn issue(
        &self,
        request: &LeafRequest<'_>,
        now: Timestamp,
    ) -> Result<IssuedLeaf, IssueError> {
        issue::issue(request, &self.issuer, &self.key, &self.anchors, now)
    }

    /// The trust anchors that sentry publishes.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// Whether a signature takes milliseconds (RSA) and not microseconds.
    pub fn signs_slowly(&self) -> bool {
        self.key.is_rsa()
    }

    /// The issuer and the certificates between it and the root.
    pub fn issuer(&self) -> &CertChain {
        &self.issuer
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("anchors", &self.anchors)
            .field("issuer", &self.issuer)
            .field("key", &self.key)
            .finish()
    }
}

impl BundlePem {
    /// SHA-256 of trust anchors and issuer chain as stored, lower-case hex. Distinguishes a CA that
    /// sentry wrote from one that replaced it. Does not include the key.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.anchors.as_bytes(), self.issuer_chain.as_bytes())
    }
}

/// [`BundlePem::fingerprint`] of texts that may not parse.
pub fn fingerprint(anchors: &[u8], issuer_chain: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(anchors);
    // PEM contains no zero byte, so the boundary is unambiguous.
    digest.update([0]);
    digest.update(issuer_chain);
    issue::hex(&digest.finalize())
}

impl fmt::Debug for BundlePem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BundlePem(redacted)")
    }
}

fn check_anchors(anchors: &TrustAnchors) -> Result<(), BundleError> {
    let certs = anchors.certs().iter().filter_map(|der| x509::parse(der));
    for (at, cert) in certs.enumerate() {
        if !x509::is_self_signed(&cert) {
            return Err(BundleError::NotSelfSigned(at + 1));
        }
        if !x509::may_sign(&cert) {
            return Err(BundleError::NotRoot(at + 1));
        }
    }
    Ok(())
}

/// The first certificate that is not valid now, issuer first. A root that signed none of the chain
/// is not needed.
fn first_outside(
    issuer: &CertChain,
    anchors: &TrustAnchors,
    now: Timestamp,
) -> Option<BundleError> {
    let chain = parsed(issuer.certs());
    let signed =
        |root: &X509Certificate<'_>| chain.iter().any(|(_, cert)| x509::is_signed_by(cert, root));
    let mut roots = parsed(anchors.certs());
    roots.retain(|(_, root)| signed(root));
    let chain = chain.iter().map(|numbered| (Part::IssuerChain, numbered));
    let roots = roots.iter().map(|numbered| (Part::Anchors, numbered));
    chain.chain(roots).find_map(|(part, (number, cert))| {
        let (from, to) = (x509::not_before(cert)?, x509::not_after(cert)?);
        let outside = !x509::is_current(cert, now);
        outside.then_some(BundleError::Time { part, number: *number, from, to, now })
    })
}

/// The certificates with their places, counted from 1.
fn parsed<'a>(certs: &'a [CertificateDer<'static>]) -> Vec<(usize, X509Certificate<'a>)> {
    certs.iter().zip(1..).filter_map(|(der, number)| Some((number, x509::parse(der)?))).collect()
}

/// Checks that each certificate is signed by the next, and drops a root at the end.
fn without_root(chain: CertChain) -> Result<CertChain, BundleError> {
    let parsed: Vec<_> = chain.certs().iter().filter_map(|der| x509::parse(der)).collect();
    let unordered = parsed.windows(2).position(|pair| match pair {
        [cert, issuer] => !x509::is_signed_by(cert, issuer),
        _ => true,
    });
    if let Some(at) = unordered {
        return Err(BundleError::Order(at + 1));
    }
    let ends_in_root = parsed.last().is_some_and(x509::is_self_signed);
    match (ends_in_root, chain.certs()) {
        (false, _) => Ok(chain),
        (true, [certs @ .., _]) if !certs.is_empty() => Ok(CertChain::from_der(certs.to_vec())?),
        (true, _) => Err(BundleError::OnlyRoot),
    }
}

fn check_issuer(chain: &CertChain, key: &PrivateKey) -> Result<(), BundleError> {
    let first = chain.certs().first().and_then(|der| x509::parse(der));
    let issuer = first.ok_or(ChainError::Empty)?;
    if !x509::may_sign(&issuer) {
        return Err(BundleError::NotIssuer);
    }
    if issuer.public_key().raw != key.public_key_der() {
        return Err(BundleError::KeyMismatch);
    }
    Ok(())
}

pub(crate) fn validity(
    options: &GenerateOptions<'_>,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), BundleError> {
    let signed = |d: Duration| SignedDuration::try_from(d).map_err(|_| BundleError::Validity);
    let start = now.checked_sub(signed(options.clock_skew)?).map_err(|_| BundleError::Validity)?;
    let end = now.checked_add(signed(options.lifetime)?).map_err(|_| BundleError::Validity)?;
    Ok((start, end))
}

/// Signs a CA certificate: a root if `authority` is `None`, else an issuer below that key id.
pub(crate) fn authority(
    issuer_name: &[u8],
    subject: &[u8],
    key: &PrivateKey,
    authority: Option<&[u8]>,
    signer: &PrivateKey,
    (not_before, not_after): (Timestamp, Timestamp),
) -> Result<CertificateDer<'static>, BundleError> {
    let usage = if authority.is_some() { KeyUsage::Issuer } else { KeyUsage::Root };
    let mut extensions = vec![certificate::key_usage(usage), certificate::ca()];
    let own_id = certificate::key_id(key.public_key_der());
    extensions.push(certificate::subject_key_id(&own_id));
    extensions.extend(authority.map(certificate::authority_key_id));
    let template = Template {
        issuer: issuer_name,
        subject,
        not_before,
        not_after,
        public_key: key.public_key_der(),
        extensions,
    };
    Ok(certificate::sign(&template, signer)?)
}

/// The trust anchor that the issuer leads to now.
pub(crate) fn root_of(bundle: &Bundle, now: Timestamp) -> Option<&CertificateDer<'static>> {
    bundle.anchors.certs().iter().find(|root| {
        let alone = TrustAnchors::parse_pem(to_pem([*root]).as_bytes());
        alone.is_ok_and(|root| verify::verify_issuer(&bundle.issuer, &root, now).is_ok())
    })
}
