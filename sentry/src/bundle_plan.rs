//! What to do about the stored CA: use it, make one, or refuse to touch it.
//!
//! The Secret (or the three files) is the truth and the `ConfigMap` a copy of its anchors. A CA is
//! made only where no certificate exists at all; whatever is half there belongs to somebody.

use identity::{Bundle, BundleError, BundlePem};
use jiff::Timestamp;

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

    /// [`identity::fingerprint`] of what is stored; `None` if something is missing.
    pub fn fingerprint(&self) -> Option<String> {
        Some(identity::fingerprint(self.anchors.as_deref()?, self.issuer_chain.as_deref()?))
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

    /// When the issuer becomes valid.
    pub fn starts(&self) -> Option<Timestamp> {
        let chain = identity::CertChain::parse_pem(self.issuer_chain.as_deref()?).ok()?;
        Some(chain.not_before())
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

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use testkit::ca::Ca;

    fn now() -> Timestamp {
        runtime::clock::now()
    }

    fn outcome(stored: &Stored, published: &Published) -> String {
        match plan(stored, published, now()) {
            Ok(Plan::Use { publish: true, .. }) => "use, publish".to_owned(),
            Ok(Plan::Use { publish: false, .. }) => "use".to_owned(),
            Ok(Plan::Generate) => "generate".to_owned(),
            Err(e) => runtime::chain(&e),
        }
    }

    fn config_map(text: &str) -> Published {
        Published::ConfigMap(Some(text.to_owned()))
    }

    #[test]
    fn generates_only_where_nothing_exists() {
        for published in [Published::Nowhere, Published::ConfigMap(None), config_map(" \n")] {
            assert_eq!(outcome(&Stored::default(), &published), "generate", "{published:?}");
        }
        let empty = Stored::new(Some(Vec::new()), Some(b"\n".to_vec()), None);
        assert_eq!(outcome(&empty, &Published::Nowhere), "generate");
    }

    #[test]
    fn a_lost_secret_is_not_replaced() {
        let published = config_map(&Ca::new().pem().anchors);
        let text = outcome(&Stored::default(), &published);
        assert!(text.starts_with("the ConfigMap holds trust anchors but the Secret"), "{text}");
    }

    #[rstest]
    fn every_incomplete_secret_is_refused(
        #[values(1, 2, 3, 4, 5, 6)] present: u8,
        #[values(Published::Nowhere, Published::ConfigMap(None))] published: Published,
    ) {
        let ca = Ca::new();
        let part = |bit: u8, text: &str| (present & bit != 0).then(|| text.as_bytes().to_vec());
        let stored = Stored::new(
            part(1, &ca.pem().anchors),
            part(2, &ca.pem().issuer_chain),
            part(4, &ca.pem().issuer_key),
        );
        let text = outcome(&stored, &published);
        assert!(text.starts_with("the stored CA is incomplete: "), "{text}");
    }

    #[test]
    fn the_config_map_follows_the_secret() {
        let ca = Ca::new();
        let stored = Stored::from_pem(ca.pem());
        let extra_newline = format!("{}\n", ca.pem().anchors);
        assert_eq!(outcome(&stored, &Published::Nowhere), "use");
        assert_eq!(outcome(&stored, &config_map(&ca.pem().anchors)), "use");
        assert_eq!(outcome(&stored, &config_map(&extra_newline)), "use, publish");
        assert_eq!(outcome(&stored, &config_map(&Ca::new().pem().anchors)), "use, publish");
        assert_eq!(outcome(&stored, &Published::ConfigMap(None)), "use, publish");
    }

    #[test]
    fn a_secret_of_cert_manager_is_used_where_the_native_names_are_not() {
        let (ca, other) = (Ca::new(), Ca::new());
        let part = |text: &str| Some(text.as_bytes().to_vec());
        let root = || Stored::new(part(&ca.pem().anchors), None, None);
        let tls = || (part(&ca.pem().issuer_chain), part(&ca.pem().issuer_key));
        let stored = root().or_cert_manager(tls().0, tls().1);
        assert_eq!(outcome(&stored, &Published::Nowhere), "use");
        assert_eq!(stored.source(), Source::CertManager);
        // The native names win, and half of them is an accident that nobody else repairs.
        let native = Stored::from_pem(other.pem()).or_cert_manager(tls().0, tls().1);
        assert_eq!(native, Stored::from_pem(other.pem()));
        let half = Stored::new(part(&ca.pem().anchors), tls().0, None);
        let text = outcome(&half.or_cert_manager(tls().0, tls().1), &Published::Nowhere);
        assert!(text.starts_with("the stored CA is incomplete: issuer key missing"), "{text}");
        let text = outcome(&root().or_cert_manager(tls().0, None), &Published::Nowhere);
        assert!(text.starts_with("the stored CA is incomplete: issuer key missing"), "{text}");
        assert_eq!(root().or_cert_manager(None, part(" ")).source(), Source::Native);
    }

    #[test]
    fn an_invalid_ca_is_refused_and_never_replaced() {
        let (ca, other) = (Ca::new(), Ca::new());
        let part = |text: &str| Some(text.as_bytes().to_vec());
        let wrong_key = Stored::new(
            part(&ca.pem().anchors),
            part(&ca.pem().issuer_chain),
            part(&other.pem().issuer_key),
        );
        assert_eq!(
            outcome(&wrong_key, &Published::Nowhere),
            "the stored CA cannot be used: issuer key does not match issuer certificate"
        );
        let wrong_root = Stored::new(
            part(&other.pem().anchors),
            part(&ca.pem().issuer_chain),
            part(&ca.pem().issuer_key),
        );
        let text = outcome(&wrong_root, &Published::Nowhere);
        assert!(text.contains("issuer chain does not belong to trust anchors"), "{text}");
    }
}
