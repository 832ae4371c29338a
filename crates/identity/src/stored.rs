//! A CA as it is stored, and what to do about it: use it, make one, or refuse to touch it.
//!
//! Sentry acts on this; `daprctl check` says what sentry will do.
//!
//! The Secret (or the three files) is the truth and the `ConfigMap` a copy of its anchors. A CA is
//! made only where no certificate exists at all; whatever is half there belongs to somebody.

use jiff::Timestamp;

use crate::{Bundle, BundleError, BundlePem, CertChain, fingerprint};

/// Under which names issuer chain and key are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// Dapr's, or those that flags ask for. Sentry may write them.
    #[default]
    Native,
    /// Those of a Secret of the type `kubernetes.io/tls`, which cert-manager writes and renews.
    CertManager,
}

/// The three parts as they are stored; what is empty counts as absent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Stored {
    anchors: Option<Vec<u8>>,
    issuer_chain: Option<Vec<u8>>,
    issuer_key: Option<Vec<u8>>,
    source: Source,
}

impl Stored {
    /// Takes the parts; white space alone is nothing.
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

    /// The same, with chain and key of cert-manager where neither has its native name. Half a
    /// native pair is nobody else's: it stays incomplete.
    #[must_use]
    pub fn or_cert_manager(self, chain: Option<Vec<u8>>, key: Option<Vec<u8>>) -> Self {
        let native = self.issuer_chain.is_some() || self.issuer_key.is_some();
        let other = Self::new(self.anchors.clone(), chain, key);
        if native || (other.issuer_chain.is_none() && other.issuer_key.is_none()) {
            return self;
        }
        Self { source: Source::CertManager, ..other }
    }

    /// Under which names chain and key were found.
    pub fn source(&self) -> Source {
        self.source
    }

    /// [`fingerprint`] of what is stored; `None` if something is missing.
    pub fn fingerprint(&self) -> Option<String> {
        Some(fingerprint(self.anchors.as_deref()?, self.issuer_chain.as_deref()?))
    }

    /// Reads the three parts, with `now` as the time.
    ///
    /// # Errors
    /// [`BundleRefused`] says what is missing or does not fit.
    pub fn parse(&self, now: Timestamp) -> Result<Bundle, BundleRefused> {
        let (Some(anchors), Some(chain), Some(key)) =
            (&self.anchors, &self.issuer_chain, &self.issuer_key)
        else {
            return Err(BundleRefused::Incomplete(self.missing()));
        };
        Bundle::parse(anchors, chain, key, now).map_err(BundleRefused::Invalid)
    }

    /// The issuer's chain, if there is one that parses.
    pub fn chain(&self) -> Option<CertChain> {
        CertChain::parse_pem(self.issuer_chain.as_deref()?).ok()
    }

    /// When the issuer becomes valid, and when it ends.
    pub fn life(&self) -> Option<(Timestamp, Timestamp)> {
        let chain = self.chain()?;
        Some((chain.not_before(), chain.not_after()))
    }

    /// The texts, if all three are there.
    pub fn to_pem(&self) -> Option<BundlePem> {
        let text = |part: &Option<Vec<u8>>| String::from_utf8(part.clone()?).ok();
        Some(BundlePem {
            anchors: text(&self.anchors)?,
            issuer_chain: text(&self.issuer_chain)?,
            issuer_key: text(&self.issuer_key)?.into(),
        })
    }

    /// The parts of a bundle that was just made.
    pub fn from_pem(pem: &BundlePem) -> Self {
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        Self::new(bytes(&pem.anchors), bytes(&pem.issuer_chain), bytes(&pem.issuer_key))
    }

    /// The anchors as stored, comments and all.
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

/// Where the anchors are also published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Nowhere: the files are all there is.
    Nowhere,
    /// In a `ConfigMap`, which holds this text now.
    ConfigMap(Option<String>),
}

/// What to do.
#[derive(Debug)]
pub enum Plan {
    /// Sign with this CA; `publish` if the `ConfigMap` does not hold its anchors yet.
    Use {
        /// The CA.
        bundle: Box<Bundle>,
        /// Whether the anchors have to be written to the `ConfigMap`.
        publish: bool,
    },
    /// Make a CA and store it: there is nothing at all.
    Generate,
}

/// Why the stored CA is neither used nor replaced. The texts tell an operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum BundleRefused {
    /// Some parts exist, others do not.
    #[error(
        "the stored CA is incomplete: {} missing; restore it, or remove all three parts and the published trust anchors to let sentry make a new CA",
        .0.join(", ")
    )]
    Incomplete(Vec<&'static str>),
    /// The anchors are published but nothing can sign for them.
    #[error(
        "the ConfigMap holds trust anchors but the Secret holds no CA; restore the Secret, or remove the anchors from the ConfigMap to let sentry make a new CA"
    )]
    SecretLost,
    /// Everything is gone while a CA is in use.
    #[error("the stored CA vanished; restore it, or restart sentry to let it make a new CA")]
    Vanished,
    /// All parts exist and do not belong together, or cannot sign.
    #[error("the stored CA cannot be used")]
    Invalid(#[source] BundleError),
}

/// Decides about the stored CA.
///
/// # Errors
/// [`BundleRefused`] says why nothing may be done.
pub fn plan(stored: &Stored, published: &Published, now: Timestamp) -> Result<Plan, BundleRefused> {
    let published_text = match published {
        Published::ConfigMap(Some(text)) if !text.trim().is_empty() => Some(text.as_bytes()),
        _ => None,
    };
    match (stored.missing().len(), published_text) {
        (3, None) => return Ok(Plan::Generate),
        (3, Some(_)) => return Err(BundleRefused::SecretLost),
        _ => {}
    }
    let bundle = stored.parse(now)?;
    let publish = *published != Published::Nowhere && published_text != stored.anchors();
    Ok(Plan::Use { bundle: Box::new(bundle), publish })
}
