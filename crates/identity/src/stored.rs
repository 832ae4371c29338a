//! A stored CA, and what happens to it: use it, create one, or reject it.
//!
//! Sentry acts on the decision; `daprctl check` reports it.
//!
//! The Secret (or the three files) is authoritative, and the `ConfigMap` is a copy of its trust
//! anchors. A CA is created only if no part of one exists: an incomplete CA belongs to a user.

use jiff::Timestamp;

use crate::bundle::{Bundle, BundleError, BundlePem, fingerprint};
use crate::trust::CertChain;

/// The names under which issuer chain and key are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// Those of Dapr or of the flags. Sentry may write them.
    #[default]
    Native,
    /// Those of a Secret of type `kubernetes.io/tls`, which cert-manager writes and renews.
    CertManager,
}

/// The three stored parts; an empty one counts as missing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Stored {
    anchors: Option<Vec<u8>>,
    issuer_chain: Option<Vec<u8>>,
    issuer_key: Option<Vec<u8>>,
    source: Source,
}

impl Stored {
    /// Takes the parts; one that contains only white space counts as missing.
    pub fn new(
        anchors: Option<Vec<u8>>,
        issuer_chain: Option<Vec<u8>>,
        issuer_key: Option<Vec<u8>>,
    ) -> Self {
        let present = |part: Option<Vec<u8>>| part.filter(|text| !text.trim_ascii().is_empty());
        Self {
            anchors: present(anchors),
            issuer_chain: present(issuer_chain),
            issuer_key: present(issuer_key),
            source: Source::Native,
        }
    }

    /// Uses chain and key of cert-manager if neither has its native name. A native pair of which one
    /// part is missing stays incomplete.
    #[must_use]
    pub fn or_cert_manager(self, chain: Option<Vec<u8>>, key: Option<Vec<u8>>) -> Self {
        let native = self.issuer_chain.is_some() || self.issuer_key.is_some();
        let other = Self::new(self.anchors.clone(), chain, key);
        if native || (other.issuer_chain.is_none() && other.issuer_key.is_none()) {
            return self;
        }
        Self { source: Source::CertManager, ..other }
    }

    /// The names under which chain and key were found.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The [`fingerprint`] of the stored CA; `None` if a part is missing.
    pub fn fingerprint(&self) -> Option<String> {
        Some(fingerprint(self.anchors.as_deref()?, self.issuer_chain.as_deref()?))
    }

    /// Parses the three parts; `now` is the current time.
    ///
    /// # Errors
    /// [`StoredCaError`] if a part is missing or invalid.
    pub fn parse(&self, now: Timestamp) -> Result<Bundle, StoredCaError> {
        let (Some(anchors), Some(chain), Some(key)) =
            (&self.anchors, &self.issuer_chain, &self.issuer_key)
        else {
            return Err(StoredCaError::Incomplete(self.missing()));
        };
        Bundle::parse(anchors, chain, key, now).map_err(StoredCaError::Invalid)
    }

    /// The issuer chain, if it parses.
    pub fn chain(&self) -> Option<CertChain> {
        CertChain::parse_pem(self.issuer_chain.as_deref()?).ok()
    }

    /// Start and expiry of the issuer.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let chain = self.chain()?;
        Some((chain.not_before(), chain.not_after()))
    }

    /// The three parts as text; `None` if one is missing.
    pub fn to_pem(&self) -> Option<BundlePem> {
        let text = |part: &Option<Vec<u8>>| String::from_utf8(part.clone()?).ok();
        Some(BundlePem {
            anchors: text(&self.anchors)?,
            issuer_chain: text(&self.issuer_chain)?,
            issuer_key: text(&self.issuer_key)?.into(),
        })
    }

    /// The parts of a new CA.
    pub fn from_pem(pem: &BundlePem) -> Self {
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        Self::new(bytes(&pem.anchors), bytes(&pem.issuer_chain), bytes(&pem.issuer_key))
    }

    /// The trust anchors as stored, including comments.
    pub fn anchors(&self) -> Option<&[u8]> {
        self.anchors.as_deref()
    }

    fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (&self.anchors, "trust anchors"),
            (&self.issuer_chain, "issuer certificate"),
            (&self.issuer_key, "issuer key"),
        ];
        parts.into_iter().filter(|(part, _)| part.is_none()).map(|(_, name)| name).collect()
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored(missing {:?})", self.missing())
    }
}

/// The published trust anchors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// They are not published; the CA is in files.
    Nowhere,
    /// The current text in the `ConfigMap`.
    ConfigMap(Option<String>),
}

/// What happens to a stored CA.
#[derive(Debug)]
pub enum Plan {
    /// Sign with this CA.
    Use {
        /// The CA.
        bundle: Box<Bundle>,
        /// Whether its trust anchors must be written to the `ConfigMap`.
        publish: bool,
    },
    /// Create a CA: none is stored.
    Generate,
}

/// Why a stored CA is rejected. It is never replaced; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoredCaError {
    /// Some parts are missing.
    #[error(
        "the stored CA is incomplete: {} missing; restore it, or remove all three parts and the published trust anchors to let sentry create a new CA",
        .0.join(", ")
    )]
    Incomplete(Vec<&'static str>),
    /// Trust anchors are published, and no CA is stored.
    #[error(
        "the ConfigMap holds trust anchors but the Secret holds no CA; restore the Secret, or remove the anchors from the ConfigMap to let sentry create a new CA"
    )]
    SecretLost,
    /// The stored CA was removed while it is in use.
    #[error("the stored CA vanished; restore it, or restart sentry to let it create a new CA")]
    Vanished,
    /// The parts do not belong together or cannot sign.
    #[error("the stored CA is invalid")]
    Invalid(#[source] BundleError),
}

/// Decides what happens to a stored CA.
///
/// # Errors
/// [`StoredCaError`] if it is rejected.
pub fn plan(stored: &Stored, published: &Published, now: Timestamp) -> Result<Plan, StoredCaError> {
    let published_text = match published {
        Published::ConfigMap(Some(text)) if !text.trim().is_empty() => Some(text.as_bytes()),
        _ => None,
    };
    match (stored.missing().len(), published_text) {
        (3, None) => return Ok(Plan::Generate),
        (3, Some(_)) => return Err(StoredCaError::SecretLost),
        _ => {}
    }
    let bundle = stored.parse(now)?;
    let publish = *published != Published::Nowhere && published_text != stored.anchors();
    Ok(Plan::Use { bundle: Box::new(bundle), publish })
}
