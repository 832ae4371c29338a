//! Trust anchors and certificate chains.

use std::fmt;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::spiffe_id::{SpiffeError, SpiffeId};
use crate::{pem, x509};

const CERTIFICATE: &str = "CERTIFICATE";

/// Maximum number of trust anchors; bounds the work per handshake.
const MAX_ANCHORS: usize = 64;

/// Maximum length of a chain; a rotation needs six. Bounds the work per handshake.
const MAX_CHAIN: usize = 16;

/// Why trust anchors do not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorsError {
    /// The first block is not a certificate.
    #[error("no certificates found")]
    Empty,
    /// A certificate does not parse; counted from 1.
    #[error("certificate {0} is not valid X.509")]
    Damaged(usize),
    /// Too many certificates.
    #[error("more than {MAX_ANCHORS} certificates")]
    TooMany,
}

/// The roots that the peers of an installation trust; at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustAnchors {
    certs: Vec<CertificateDer<'static>>,
    pem: String,
}

impl TrustAnchors {
    /// Parses `CERTIFICATE` blocks up to the first block with another label. Comments are dropped.
    /// Source: Dapr 1.18, security module.
    ///
    /// # Errors
    /// [`AnchorsError`] if there are no or too many certificates, or one does not parse.
    pub fn parse_pem(text: &[u8]) -> Result<Self, AnchorsError> {
        let certs = certificates(text);
        match certs.len() {
            0 => return Err(AnchorsError::Empty),
            count if count > MAX_ANCHORS => return Err(AnchorsError::TooMany),
            _ => {}
        }
        if let Some(at) = certs.iter().position(|der| x509::parse(der).is_none()) {
            return Err(AnchorsError::Damaged(at + 1));
        }
        let pem = to_pem(&certs);
        Ok(Self { certs, pem })
    }

    /// The certificates as PEM, in their original order, without comments.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificates in their original order.
    pub fn certs(&self) -> &[CertificateDer<'static>] {
        &self.certs
    }

    /// Validity of the certificate that expires first.
    pub fn first_to_end(&self) -> Option<(Timestamp, Timestamp)> {
        let validity = |der| {
            let cert = x509::parse(der)?;
            Some((x509::not_before(&cert)?, x509::not_after(&cert)?))
        };
        self.certs.iter().filter_map(|der| validity(der)).min_by_key(|(_, end)| *end)
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustAnchors({} certificates)", self.certs.len())
    }
}

/// Why a certificate chain does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The first block is not a certificate.
    #[error("no certificates found")]
    Empty,
    /// A certificate does not parse; counted from 1.
    #[error("certificate {0} of the chain is not valid X.509")]
    Damaged(usize),
    /// Too many certificates.
    #[error("certificate chain has more than {MAX_CHAIN} certificates")]
    TooLong,
    /// The leaf does not have exactly one URI name.
    #[error("certificate contains {0} URI names instead of one")]
    UriNames(usize),
    /// The URI name of the leaf is not a SPIFFE id.
    #[error("parse the SPIFFE ID of the certificate")]
    Id(#[source] SpiffeError),
}

/// A certificate and its issuers, leaf first; at least one certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct CertChain {
    certs: Vec<CertificateDer<'static>>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl CertChain {
    /// Parses `CERTIFICATE` blocks up to the first block with another label.
    ///
    /// # Errors
    /// [`ChainError`] if there are no or too many certificates, or one does not parse.
    pub fn parse_pem(text: &[u8]) -> Result<Self, ChainError> {
        Self::from_der(certificates(text))
    }

    /// Takes certificates as a TLS peer presents them.
    ///
    /// # Errors
    /// As [`Self::parse_pem`].
    pub fn from_der(certs: Vec<CertificateDer<'static>>) -> Result<Self, ChainError> {
        if certs.len() > MAX_CHAIN {
            return Err(ChainError::TooLong);
        }
        if let Some(at) = certs.iter().position(|der| x509::parse(der).is_none()) {
            return Err(ChainError::Damaged(at + 1));
        }
        let leaf = certs.first().and_then(|der| x509::parse(der)).ok_or(ChainError::Empty)?;
        let damaged = ChainError::Damaged(1);
        let not_before = x509::not_before(&leaf).ok_or(damaged.clone())?;
        let not_after = x509::not_after(&leaf).ok_or(damaged)?;
        Ok(Self { certs, not_before, not_after })
    }

    /// The certificates, leaf first.
    pub fn certs(&self) -> &[CertificateDer<'static>] {
        &self.certs
    }

    /// The certificates as PEM, leaf first, with one final newline.
    pub fn to_pem(&self) -> String {
        to_pem(&self.certs)
    }

    /// The SPIFFE id of the leaf. Does not verify the chain.
    ///
    /// # Errors
    /// [`ChainError::UriNames`] or [`ChainError::Id`].
    pub fn leaf_id(&self) -> Result<SpiffeId, ChainError> {
        let leaf = self.certs.first().and_then(|der| x509::parse(der)).ok_or(ChainError::Empty)?;
        let uris: Vec<&str> = x509::alternative_names(&leaf)
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [one] => SpiffeId::parse(one).map_err(ChainError::Id),
            other => Err(ChainError::UriNames(other.len())),
        }
    }

    /// The DNS names of the leaf.
    pub fn leaf_dns_names(&self) -> Vec<String> {
        let leaf = self.certs.first().and_then(|der| x509::parse(der));
        leaf.iter()
            .flat_map(x509::alternative_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect()
    }

    /// Start of the leaf's validity, in whole seconds.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Expiry of the leaf, in whole seconds.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl fmt::Debug for CertChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertChain({} certificates, until {})", self.certs.len(), self.not_after)
    }
}

/// The leading `CERTIFICATE` blocks.
fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    pem::blocks(text)
        .into_iter()
        .take_while(|block| block.label == CERTIFICATE)
        .map(|block| CertificateDer::from(block.der.to_vec()))
        .collect()
}

/// Whether a text begins more certificates than were read from it.
pub(crate) fn has_unread(text: &[u8], read: usize) -> bool {
    pem::begun(text, CERTIFICATE) > read
}

pub(crate) fn to_pem<'a>(certs: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    certs.into_iter().map(|der| pem::encode(CERTIFICATE, der).to_string()).collect()
}
