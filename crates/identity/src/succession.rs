//! Another root and issuer in the place of the present ones, so that peers that know the old root,
//! the new root or both accept every certificate of the way.
//!
//! ```text
//!  stage        anchors      issuer chain (as stored, as answered, as shown in TLS)
//!  before       old          issuer
//!  distribute   old, new     issuer, old root by new root
//!  sign         new, old     new issuer, new root by issuer, issuer
//!  after        new          new issuer
//! ```
//! A root's key is thrown away when its issuer exists, so it is the old *issuer* that certifies the
//! new root for peers that only know the old one. Daprd and Dapr's services show and use all
//! blocks as they were sent. Source: experiments with Dapr 1.18.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::bundle::{self, Bundle, BundleError, BundlePem, GenerateOptions};
use crate::certificate::{self, KeyUsage, Template};
use crate::key::PrivateKey;
use crate::trust::{TrustAnchors, to_pem};
use crate::{
    CertChain, IssueError, LeafRequest, SpiffeError, SpiffeId, VerifyError, issue, verify, view,
};

/// How much of a key's identifier tells roots of one installation apart.
const LABEL_BYTES: usize = 8;

/// What takes the place of a CA, as it is stored in the two stages between.
#[derive(Debug, Clone)]
pub struct Succession {
    /// Both roots, signing with the old issuer.
    pub distribute: BundlePem,
    /// Both roots, the new one first, signing with the new issuer.
    pub sign: BundlePem,
}

/// Why a CA cannot be replaced without breaking running peers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// The new certificates cannot be made.
    #[error("make the next CA")]
    Make(#[from] BundleError),
    /// No trust anchor is above the issuer now.
    #[error("the issuer leads to no trust anchor")]
    NoRoot,
    /// A certificate of the way would be refused by somebody: the old CA forbids further CAs below
    /// it, for instance.
    #[error("a certificate of the stage {stage:?} would be refused by peers that know {anchors}")]
    Refused {
        /// Which stage.
        stage: &'static str,
        /// Which roots the peer knows.
        anchors: &'static str,
        /// What it would say.
        source: VerifyError,
    },
    /// A certificate for the trial cannot be issued.
    #[error("issue a certificate for a trial")]
    Trial(#[source] IssueError),
    /// The trial's name is not legal.
    #[error("name the certificate for a trial")]
    Name(#[source] SpiffeError),
}

impl Bundle {
    /// Makes the next root and issuer and certifies each root by the other side, and tries every
    /// shape against every set of roots that a peer may know. The new root's key is gone when this
    /// returns. New root and issuer have names and key identifiers of their own: verifiers that
    /// look for issuers by name then never have two to try.
    ///
    /// # Errors
    /// [`SuccessionError::Refused`] if a peer would refuse a certificate of the way; others if the
    /// certificates cannot be made.
    pub fn successor(
        &self,
        options: &GenerateOptions<'_>,
        now: Timestamp,
    ) -> Result<Succession, SuccessionError> {
        let old_root = root_of(self, now).ok_or(SuccessionError::NoRoot)?;
        let path_ends = verify::verify_issuer(&self.issuer, &self.anchors, now);
        let path_ends = path_ends.map_err(|e| SuccessionError::Make(BundleError::Untrusted(e)))?;
        let made = New::make(options, now)?;
        let (start, end) = bundle::validity(options, now)?;
        let crossed = (start, end.min(path_ends));
        let first = self.issuer.certs().first().ok_or(SuccessionError::NoRoot)?;
        let forward = cross(&made.root, first, &self.key, crossed)?;
        let backward = cross(old_root, &made.root, &made.root_key, crossed)?;

        let old_anchors = self.anchors.certs();
        let succession = Succession {
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
        try_out(&succession, old_root, &made.root, options, now)?;
        Ok(succession)
    }

    /// What is left when nobody needs the old root any more: the issuer alone, and the anchors
    /// without those that certificates behind the issuer lead to.
    ///
    /// # Errors
    /// [`BundleError::Untrusted`] if the issuer leads to no anchor by itself.
    pub fn settled(&self, now: Timestamp) -> Result<BundlePem, BundleError> {
        let issuer = self.issuer.certs().iter().take(1).cloned().collect();
        let issuer = CertChain::from_der(issuer)?;
        let behind: Vec<_> =
            self.issuer.certs().iter().skip(1).filter_map(|der| view::parse(der)).collect();
        let retired = |der: &CertificateDer<'_>| {
            let anchor = view::parse(der);
            anchor.is_some_and(|anchor| behind.iter().any(|c| view::is_signed_by(c, &anchor)))
        };
        let anchors = to_pem(self.anchors.certs().iter().filter(|der| !retired(der)));
        let parsed = TrustAnchors::parse_pem(anchors.as_bytes())?;
        verify::verify_issuer(&issuer, &parsed, now).map_err(BundleError::Untrusted)?;
        Ok(BundlePem { anchors, issuer_chain: issuer.to_pem(), issuer_key: self.key.to_pem() })
    }

    /// Until when peers that do not know the issuer's root can follow the chain to theirs; `None`
    /// if there is nothing behind the issuer.
    pub fn crossed_until(&self) -> Option<Timestamp> {
        let behind = self.issuer.certs().iter().skip(1);
        behind.filter_map(|der| view::not_after(&view::parse(der)?)).min()
    }
}

/// The anchor that the issuer leads to now.
pub(crate) fn root_of(bundle: &Bundle, now: Timestamp) -> Option<&CertificateDer<'static>> {
    bundle.anchors.certs().iter().find(|root| {
        let alone = TrustAnchors::parse_pem(to_pem([*root]).as_bytes());
        alone.is_ok_and(|root| verify::verify_issuer(&bundle.issuer, &root, now).is_ok())
    })
}

/// The next root and issuer.
struct New {
    root: CertificateDer<'static>,
    root_key: PrivateKey,
    issuer: CertificateDer<'static>,
    issuer_key: PrivateKey,
}

impl New {
    fn make(options: &GenerateOptions<'_>, now: Timestamp) -> Result<Self, BundleError> {
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

/// A certificate for subject and key of `subject`, by the holder of `issuer`'s key.
fn cross(
    subject: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    key: &PrivateKey,
    (not_before, not_after): (Timestamp, Timestamp),
) -> Result<CertificateDer<'static>, SuccessionError> {
    let (Some(subject), Some(issuer)) = (view::parse(subject), view::parse(issuer)) else {
        return Err(SuccessionError::NoRoot);
    };
    let mut extensions = vec![certificate::key_usage(KeyUsage::Issuer), certificate::ca()];
    extensions.extend(view::subject_key_id(&subject).map(certificate::subject_key_id));
    extensions.extend(view::subject_key_id(&issuer).map(certificate::authority_key_id));
    let template = Template {
        issuer: issuer.subject().as_raw(),
        subject: subject.subject().as_raw(),
        not_before,
        not_after,
        public_key: subject.public_key().raw,
        extensions,
    };
    certificate::sign(&template, key).map_err(|e| SuccessionError::Make(e.into()))
}

/// Issues a leaf in each stage and verifies it as each kind of peer would.
fn try_out(
    succession: &Succession,
    old_root: &CertificateDer<'_>,
    new_root: &CertificateDer<'_>,
    options: &GenerateOptions<'_>,
    now: Timestamp,
) -> Result<(), SuccessionError> {
    let id =
        SpiffeId::new(options.trust_domain, "trial", "trial").map_err(SuccessionError::Name)?;
    let peers = [
        ("the old root", to_pem([old_root])),
        ("the new root", to_pem([new_root])),
        ("both roots", to_pem([old_root, new_root])),
    ];
    for (stage, pem) in [("distribute", &succession.distribute), ("sign", &succession.sign)] {
        let bundle = Bundle::parse(
            pem.anchors.as_bytes(),
            pem.issuer_chain.as_bytes(),
            pem.issuer_key.as_bytes(),
            now,
        )?;
        let request = LeafRequest {
            id: &id,
            dns_names: &[],
            // Any key will do; this one is at hand.
            public_key: bundle.key.public_key_der(),
            ttl: options.lifetime,
            clock_skew: options.clock_skew,
        };
        let leaf = bundle.issue(&request, now).map_err(SuccessionError::Trial)?;
        for (anchors, known) in &peers {
            let known = TrustAnchors::parse_pem(known.as_bytes()).map_err(BundleError::Anchors)?;
            let verdict = verify::verify_svid(leaf.chain.certs(), &known, now);
            verdict.map_err(|source| SuccessionError::Refused { stage, anchors, source })?;
        }
    }
    Ok(())
}
