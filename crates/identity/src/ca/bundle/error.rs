//! Why a CA is invalid: which of its parts is at fault, and what to do about it.

use jiff::Timestamp;

use crate::keys::key::KeyError;
use crate::trust::{AnchorsError, ChainError};
use crate::verify::VerifyError;

/// One of the three parts of a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The roots that peers trust.
    Anchors,
    /// The certificate that signs, and those between it and the root.
    IssuerChain,
    /// The key of the first certificate of the chain.
    IssuerKey,
}

/// Why a CA is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The trust anchors do not parse.
    #[error("parse the trust anchors")]
    Anchors(#[from] AnchorsError),
    /// A trust anchor is not signed by its own key; counted from 1.
    #[error("certificate in trust anchor is not self-signed (certificate {0})")]
    NotSelfSigned(usize),
    /// A trust anchor is not a CA; counted from 1.
    #[error("certificate {0} of the trust anchors may not sign certificates")]
    NotRoot(usize),
    /// The issuer chain does not parse.
    #[error("parse the issuer certificate chain")]
    Chain(#[from] ChainError),
    /// A certificate of the chain is not signed by the next one; counted from 1.
    #[error("certificate chain is not valid: certificate {0} is not signed by the one after it")]
    Order(usize),
    /// The chain is only a root. Signing with a root is not supported.
    #[error("issuer chain is empty after re-encoding: its only certificate is a root")]
    OnlyRoot,
    /// The issuer certificate must not sign certificates.
    #[error("intermediate certificate is not valid for signing")]
    NotIssuer,
    /// The issuer key does not parse.
    #[error("parse the issuer key")]
    Key(#[from] KeyError),
    /// The key belongs to another certificate.
    #[error("issuer key does not match issuer certificate")]
    KeyMismatch,
    /// A certificate without which no path is valid has expired or is not valid yet.
    #[error(
        "certificate {number} has expired or is not yet valid: it is valid from {from} to {to}, the current time is {now}"
    )]
    Time {
        /// Where the certificate is.
        part: Part,
        /// Its place there, counted from 1.
        number: usize,
        /// Start of its validity.
        from: Timestamp,
        /// End of its validity.
        to: Timestamp,
        /// Time of the check.
        now: Timestamp,
    },
    /// A block of the part that no certificate was read from.
    #[error("a certificate is not read: its block is damaged or follows one of another kind")]
    Unread(Part),
    /// The issuer leads to no trust anchor now.
    #[error("issuer chain does not belong to trust anchors")]
    Untrusted(#[source] VerifyError),
    /// The validity of generated certificates is out of range.
    #[error("the validity of the generated certificates is out of range")]
    Validity,
}

const AS_PEM: &str = "store certificates as PEM text there, each from a line -----BEGIN CERTIFICATE----- on, not DER, PKCS#12 or a key";

impl BundleError {
    /// The part that must be replaced.
    pub fn part(&self) -> Part {
        match self {
            // Most often the root is the one that is wrong: peers know it, and chains are renewed.
            Self::Untrusted(VerifyError::UnknownAuthority)
            | Self::Anchors(_)
            | Self::NotSelfSigned(_)
            | Self::NotRoot(_) => Part::Anchors,
            Self::Time { part, .. } | Self::Unread(part) => *part,
            Self::Key(_) | Self::KeyMismatch => Part::IssuerKey,
            Self::Chain(_)
            | Self::Order(_)
            | Self::OnlyRoot
            | Self::NotIssuer
            | Self::Untrusted(_)
            | Self::Validity => Part::IssuerChain,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Anchors(AnchorsError::Empty) | Self::Chain(ChainError::Empty) => AS_PEM,
            Self::Anchors(AnchorsError::Damaged(_)) | Self::Chain(ChainError::Damaged(_)) => {
                "replace that certificate"
            }
            Self::Anchors(AnchorsError::TooMany) | Self::Chain(_) => {
                "keep the certificates of this CA only"
            }
            Self::NotSelfSigned(_) => {
                "store the root there: cert-manager and Vault may write the issuing CA instead; append certificates between root and issuer to the issuer certificate"
            }
            Self::NotRoot(_) => {
                "store a root with basicConstraints CA:TRUE and, if it has a key usage, keyCertSign"
            }
            Self::Order(_) => {
                "store the issuer first, then the certificate that signed it, and so on, and no others"
            }
            Self::OnlyRoot => {
                "store an issuer that this root signed, and its key: with cert-manager a second Certificate, of a `ca` Issuer whose Secret holds the root"
            }
            Self::NotIssuer => {
                "issue it with basicConstraints CA:TRUE and key usage keyCertSign: with cert-manager isCA: true and usages `cert sign` and `digital signature`"
            }
            Self::Key(KeyError::NoPem | KeyError::Label) => {
                "store the private key of the issuer as PEM text there, PKCS#8, SEC1 or PKCS#1"
            }
            Self::Key(KeyError::Encrypted) => {
                "store it without a passphrase: openssl pkey -in KEY -out PLAIN"
            }
            Self::Key(_) => "use ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 bits or more",
            Self::KeyMismatch => {
                "store the key of the first certificate of the issuer certificate, written together with it"
            }
            Self::Time { .. } => "renew it, or correct the clock",
            Self::Unread(_) => "store every certificate there completely, and nothing in between",
            Self::Untrusted(VerifyError::UnknownAuthority) => {
                "store the root that signed the last certificate of the issuer certificate there, or the certificates between them in the issuer certificate"
            }
            Self::Untrusted(_) => {
                "let each certificate above the issuer be a CA with keyCertSign whose path length and name constraints allow those below it: a root of path length 0 allows no issuer"
            }
            Self::Validity => "choose a shorter lifetime",
        }
    }
}
