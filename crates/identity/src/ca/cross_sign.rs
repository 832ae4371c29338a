//! Rotation to a new root and issuer, such that peers that trust the old root, the new root or both
//! accept every certificate of every stage.
//!
//! ```text
//!  stage        anchors      issuer chain (as stored, returned and presented in TLS)
//!  before       old          issuer
//!  distribute   old, new     issuer, old root by new root
//!  sign         new, old     new issuer, new root by issuer, issuer
//!  after        new          new issuer
//! ```
//! A root's key is dropped when its issuer exists, so the old *issuer* cross-signs the new root for
//! peers that trust only the old one. Daprd and Dapr's services present and use all certificates as
//! they were received. Source: experiments with Dapr 1.18.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::ca::bundle::{self, Bundle, BundleError, BundlePem, GenerateOptions};
use crate::ca::issue;
use crate::ca::issue::{IssueError, LeafRequest};
use crate::keys::key::PrivateKey;
use crate::spiffe_id::{SpiffeError, SpiffeId};
use crate::trust::{CertChain, TrustAnchors, to_pem};
use crate::verify::VerifyError;
use crate::x509::certificate::{self, KeyUsage, Template};
use crate::{verify, x509};

/// Bytes of a key id that distinguish the roots of one installation.
const LABEL_BYTES: usize = 8;

/// The stored CA of both rotation stages.
#[derive(Debug, Clone)]
pub struct CrossSignedCa {
    /// Both roots are trusted, the old issuer signs.
    pub distribute: BundlePem,
    /// Both roots are trusted, the new one first, and the new issuer signs.
    pub sign: BundlePem,
}

/// Why a CA cannot be rotated without restarts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrossSignError {
    /// The new certificates could not be created.
    #[error("create the next CA")]
    Create(#[from] BundleError),
    /// The issuer leads to no trust anchor now.
    #[error("the issuer leads to no trust anchor")]
    NoRoot,
    /// Some peers would reject a certificate, for example because the old CA forbids CAs below it.
    #[error("peers that trust {anchors} would reject a certificate of the stage {stage:?}")]
    Refused {
        /// `distribute` or `sign`, as in the module's table.
        stage: &'static str,
        /// Names of the roots that those peers trust.
        anchors: &'static str,
        /// Why they reject the certificate.
        source: VerifyError,
    },
    /// The test certificate could not be issued.
    #[error("issue a test certificate")]
    Test(#[source] IssueError),
    /// The name of the test certificate is invalid.
    #[error("name the test certificate")]
    Name(#[source] SpiffeError),
}

impl Bundle {
    /// Creates the next root and issuer, cross-signs both roots, and verifies a certificate of each
    /// stage against every set of roots that a peer may trust. The new root's key is dropped. Root
    /// and issuer have unique names and key ids, so that verifiers that search issuers by name find
    /// one candidate.
    ///
    /// # Errors
    /// [`CrossSignError::Refused`] if a peer would reject a certificate; others if the certificates
    /// cannot be created.
    pub fn cross_sign(
        &self,
        options: &GenerateOptions<'_>,
        now: Timestamp,
    ) -> Result<CrossSignedCa, CrossSignError> {
        let old_root = bundle::root_of(self, now).ok_or(CrossSignError::NoRoot)?;
        let path_ends = verify::verify_issuer(&self.issuer, &self.anchors, now);
        let path_ends = path_ends.map_err(|e| CrossSignError::Create(BundleError::Untrusted(e)))?;
        let made = New::generate(options, now)?;
        let (start, end) = bundle::validity(options, now)?;
        let crossed = (start, end.min(path_ends));
        let first = self.issuer.certs().first().ok_or(CrossSignError::NoRoot)?;
        let forward = cross(&made.root, first, &self.key, crossed)?;
        let backward = cross(old_root, &made.root, &made.root_key, crossed)?;

        let old_anchors = self.anchors.certs();
        let stages = CrossSignedCa {
            distribute: BundlePem {
                anchors: to_pem(old_anchors.iter().chain([&made.root])),
                issuer_chain: to_pem(self.issuer.certs().iter().chain([&backward])),
                issuer_key: self.key.to_pem(),
            },
            sign: BundlePem {
                anchors: to_pem([&made.root].into_iter().chain(old_anchors)),
                issuer_chain: to_pem(
                    [&made.issuer, &forward].into_iter().chain(self.issuer.certs()),
                ),
                issuer_key: made.issuer_key.to_pem(),
            },
        };
        verify_stages(&stages, old_root, &made.root, options, now)?;
        Ok(stages)
    }

    /// The CA without cross-signed certificates and without the trust anchors that they lead to.
    ///
    /// # Errors
    /// [`BundleError::Untrusted`] if the issuer alone leads to no trust anchor.
    pub fn retire_old_root(&self, now: Timestamp) -> Result<BundlePem, BundleError> {
        let issuer = self.issuer.certs().iter().take(1).cloned().collect();
        let issuer = CertChain::from_der(issuer)?;
        let behind: Vec<_> =
            self.issuer.certs().iter().skip(1).filter_map(|der| x509::parse(der)).collect();
        let retired = |der: &CertificateDer<'_>| {
            let anchor = x509::parse(der);
            anchor.is_some_and(|anchor| behind.iter().any(|c| x509::is_signed_by(c, &anchor)))
        };
        let anchors = to_pem(self.anchors.certs().iter().filter(|der| !retired(der)));
        let parsed = TrustAnchors::parse_pem(anchors.as_bytes())?;
        verify::verify_issuer(&issuer, &parsed, now).map_err(BundleError::Untrusted)?;
        Ok(BundlePem { anchors, issuer_chain: issuer.to_pem(), issuer_key: self.key.to_pem() })
    }

    /// Expiry of the cross-signed certificates, which peers without the issuer's root need; `None`
    /// if there are none.
    pub fn cross_signed_until(&self) -> Option<Timestamp> {
        let behind = self.issuer.certs().iter().skip(1);
        behind.filter_map(|der| x509::not_after(&x509::parse(der)?)).min()
    }
}

/// The next root and issuer.
struct New {
    root: CertificateDer<'static>,
    root_key: PrivateKey,
    issuer: CertificateDer<'static>,
    issuer_key: PrivateKey,
}

impl New {
    fn generate(options: &GenerateOptions<'_>, now: Timestamp) -> Result<Self, BundleError> {
        let validity = bundle::validity(options, now)?;
        let root_key = PrivateKey::generate(options.key_kind)?;
        let issuer_key = PrivateKey::generate(options.key_kind)?;
        let root_id = certificate::key_id(root_key.public_key_der());
        let label = issue::hex(root_id.get(..LABEL_BYTES).unwrap_or(&root_id));
        let root_name = certificate::organization(options.trust_domain.as_str(), Some(&label));
        let root = bundle::authority(&root_name, &root_name, &root_key, None, &root_key, validity)?;
        let issuer_name = certificate::organization(&options.issuer_name, Some(&label));
        let above = Some(root_id.as_slice());
        let issuer =
            bundle::authority(&root_name, &issuer_name, &issuer_key, above, &root_key, validity)?;
        Ok(Self { root, root_key, issuer, issuer_key })
    }
}

/// Cross-signs subject and key of `subject` with the key of `issuer`.
fn cross(
    subject: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    key: &PrivateKey,
    (not_before, not_after): (Timestamp, Timestamp),
) -> Result<CertificateDer<'static>, CrossSignError> {
    let (Some(subject), Some(issuer)) = (x509::parse(subject), x509::parse(issuer)) else {
        return Err(CrossSignError::NoRoot);
    };
    let mut extensions = vec![certificate::key_usage(KeyUsage::Issuer), certificate::ca()];
    extensions.extend(x509::subject_key_id(&subject).map(certificate::subject_key_id));
    extensions.extend(x509::subject_key_id(&issuer).map(certificate::authority_key_id));
    let template = Template {
        issuer: issuer.subject().as_raw(),
        subject: subject.subject().as_raw(),
        not_before,
        not_after,
        public_key: subject.public_key().raw,
        extensions,
    };
    certificate::sign(&template, key).map_err(|e| CrossSignError::Create(e.into()))
}

/// Issues a leaf in each stage and verifies it as each kind of peer does.
fn verify_stages(
    stages: &CrossSignedCa,
    old_root: &CertificateDer<'_>,
    new_root: &CertificateDer<'_>,
    options: &GenerateOptions<'_>,
    now: Timestamp,
) -> Result<(), CrossSignError> {
    let id = SpiffeId::new(options.trust_domain, "test", "test").map_err(CrossSignError::Name)?;
    let peers = [
        ("the old root", to_pem([old_root])),
        ("the new root", to_pem([new_root])),
        ("both roots", to_pem([old_root, new_root])),
    ];
    for (stage, pem) in [("distribute", &stages.distribute), ("sign", &stages.sign)] {
        let bundle = Bundle::parse(
            pem.anchors.as_bytes(),
            pem.issuer_chain.as_bytes(),
            pem.issuer_key.as_bytes(),
            now,
        )?;
        let request = LeafRequest {
            id: &id,
            dns_names: &[],
            container_images: None,
            // Any key is suitable.
            public_key: bundle.key.public_key_der(),
            ttl: options.lifetime,
            clock_skew: options.clock_skew,
        };
        let leaf = bundle.issue(&request, now).map_err(CrossSignError::Test)?;
        for (anchors, known) in &peers {
            let known = TrustAnchors::parse_pem(known.as_bytes()).map_err(BundleError::Anchors)?;
            let verified = verify::verify_svid(leaf.chain.certs(), &known, now);
            verified.map_err(|source| CrossSignError::Refused { stage, anchors, source })?;
        }
    }
    Ok(())
}
