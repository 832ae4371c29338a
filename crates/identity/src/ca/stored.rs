//! A stored CA, and the decision about it: use it, create one, or reject it.
//!
//! Sentry acts on the decision; `daprctl check` reports it.
//!
//! The Secret (or the three files) is authoritative, and the `ConfigMap` is a copy of its trust
//! anchors. A CA is created only if no part of one exists: an incomplete CA belongs to a user.

use jiff::Timestamp;

use crate::ca::bundle::{Bundle, BundleError, BundlePem, Part, fingerprint};
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

/// What the three parts and the object that holds them are called in errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartNames {
    /// The object, such as `Secret dapr-system/dapr-trust-bundle`; `None` where each part is a file.
    pub object: Option<String>,
    /// The key or path of the trust anchors.
    pub anchors: String,
    /// The key or path of the issuer chain.
    pub issuer_chain: String,
    /// The key or path of the issuer's key.
    pub issuer_key: String,
}

impl Default for PartNames {
    fn default() -> Self {
        Self {
            object: None,
            anchors: "trust anchors".to_owned(),
            issuer_chain: "issuer certificate".to_owned(),
            issuer_key: "issuer key".to_owned(),
        }
    }
}

impl PartNames {
    fn key(&self, part: Part) -> &str {
        match part {
            Part::Anchors => &self.anchors,
            Part::IssuerChain => &self.issuer_chain,
            Part::IssuerKey => &self.issuer_key,
        }
    }

    /// A part in words, such as `ca.crt of Secret dapr-system/dapr-trust-bundle`.
    pub fn part(&self, part: Part) -> String {
        let object = self.object.as_ref().map(|object| format!(" of {object}"));
        format!("{}{}", self.key(part), object.unwrap_or_default())
    }
}

/// The three stored parts; an empty one counts as missing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Stored {
    anchors: Option<Vec<u8>>,
    issuer_chain: Option<Vec<u8>>,
    issuer_key: Option<Vec<u8>>,
    source: Source,
    /// A complete pair of cert-manager is there too, and a part of the native pair hides it.
    hides_cert_manager: bool,
    names: PartNames,
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
            ..Self::default()
        }
    }

    /// Names the parts in errors: with the `native` names, or with chain and key of `cert_manager`
    /// if those are used.
    #[must_use]
    pub fn named(self, native: PartNames, cert_manager: [String; 2]) -> Self {
        let names = match self.source {
            Source::Native => native,
            Source::CertManager => {
                let [issuer_chain, issuer_key] = cert_manager;
                PartNames { issuer_chain, issuer_key, ..native }
            }
        };
        Self { names, ..self }
    }

    /// What the parts are called in errors.
    pub fn names(&self) -> &PartNames {
        &self.names
    }

    /// Uses chain and key of cert-manager if neither has its native name. A native pair of which one
    /// part is missing stays incomplete.
    #[must_use]
    pub fn or_cert_manager(self, chain: Option<Vec<u8>>, key: Option<Vec<u8>>) -> Self {
        let native = self.issuer_chain.is_some() || self.issuer_key.is_some();
        let other = Self::new(self.anchors.clone(), chain, key);
        if native {
            let half = self.issuer_chain.is_none() || self.issuer_key.is_none();
            let complete = other.issuer_chain.is_some() && other.issuer_key.is_some();
            return Self { hides_cert_manager: half && complete, ..self };
        }
        if other.issuer_chain.is_none() && other.issuer_key.is_none() {
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
            return Err(self.incomplete());
        };
        Bundle::parse(anchors, chain, key, now)
            .map_err(|error| StoredCaError::Invalid { part: self.names.part(error.part()), error })
    }

    fn incomplete(&self) -> StoredCaError {
        let missing: Vec<_> = self.missing().iter().map(|part| self.names.key(*part)).collect();
        let object = self.names.object.as_ref().map(|object| format!(" in {object}"));
        let hidden = "; remove the other one of the two to use the pair of cert-manager";
        StoredCaError::Incomplete {
            missing: missing.join(", ") + &object.unwrap_or_default(),
            hidden: if self.hides_cert_manager { hidden } else { "" },
        }
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

    fn missing(&self) -> Vec<Part> {
        let parts = [
            (&self.anchors, Part::Anchors),
            (&self.issuer_chain, Part::IssuerChain),
            (&self.issuer_key, Part::IssuerKey),
        ];
        parts.into_iter().filter(|(part, _)| part.is_none()).map(|(_, name)| name).collect()
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored(missing {:?})", self.missing())
    }
}

/// The published trust anchors, as sentry finds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// They are not published; the CA is in files.
    Nowhere,
    /// The text in the `ConfigMap`; `None` if it has none.
    ConfigMap(Option<String>),
}

/// The decision about a stored CA.
#[derive(Debug)]
pub enum Plan {
    /// Sign with this CA.
    Use {
        /// The parsed CA.
        bundle: Box<Bundle>,
        /// Whether its trust anchors must be written to the `ConfigMap`.
        publish: bool,
    },
    /// Create a CA: none is stored.
    Generate,
}

/// Why a stored CA is rejected. It is never replaced; the texts name the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoredCaError {
    /// Some parts are missing.
    #[error(
        "the stored CA is incomplete: {missing} missing; restore it, or remove all three parts and the published trust anchors to let sentry create a new CA{hidden}"
    )]
    Incomplete {
        /// The names of the parts, and the object.
        missing: String,
        /// What to do about a pair of cert-manager that is not used.
        hidden: &'static str,
    },
    /// Trust anchors are published, and no CA is stored.
    #[error(
        "the ConfigMap holds trust anchors but {object} holds no CA; restore it, or remove {anchors} from the ConfigMap of this name to let sentry create a new CA"
    )]
    SecretLost {
        /// The object that should hold the CA.
        object: String,
        /// The key of the trust anchors.
        anchors: String,
    },
    /// The stored CA was removed while it is in use.
    #[error("the stored CA vanished; restore it, or restart sentry to let it create a new CA")]
    Vanished,
    /// The parts do not belong together or cannot sign.
    #[error("the stored CA is invalid: {part}: {}; {}", chain(error), error.remedy())]
    Invalid {
        /// The part that must be replaced, with its object.
        part: String,
        /// The rule that failed.
        error: BundleError,
    },
}

/// An error and its sources: the remedy is written after them.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", source.unwrap_or_default())
}

/// Decides whether a stored CA is used, created or rejected.
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
        (3, Some(_)) => {
            let names = &stored.names;
            let object = names.object.clone().unwrap_or_else(|| "the Secret".to_owned());
            return Err(StoredCaError::SecretLost { object, anchors: names.anchors.clone() });
        }
        _ => {}
    }
    let bundle = stored.parse(now)?;
    let publish = *published != Published::Nowhere && published_text != stored.anchors();
    Ok(Plan::Use { bundle: Box::new(bundle), publish })
}
