//! A temporary CA that issues what sentry issues.

use std::time::Duration;

use identity::{
    Bundle, BundlePem, CertChain, CrossSignedCa, GenerateOptions, KeyKind, LeafRequest, PrivateKey,
    SpiffeId, TrustAnchors, TrustDomain,
};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// The trust domain of everything that [`Ca`] issues by default.
pub const TRUST_DOMAIN: &str = "cluster.local";

const DAY: Duration = Duration::from_hours(24);
const SKEW: Duration = Duration::from_mins(15);

/// A root and an issuer for one test.
#[derive(Debug)]
pub struct Ca {
    bundle: Bundle,
    pem: BundlePem,
}

/// A chain, leaf first, and the key of the leaf.
#[derive(Debug)]
pub struct TestSvid {
    /// Leaf and issuer.
    pub chain: CertChain,
    /// Key of the leaf, Ed25519 by default.
    pub key: PrivateKey,
}

/// Options of an SVID.
#[derive(Debug, Clone)]
pub struct SvidOptions {
    /// Trust domain of the id.
    pub trust_domain: String,
    /// Kind of the leaf's key.
    pub key_kind: KeyKind,
    /// DNS names beside the id.
    pub dns_names: Vec<String>,
    /// Lifetime of the leaf from now on.
    pub ttl: Duration,
}

impl Default for SvidOptions {
    fn default() -> Self {
        Self {
            trust_domain: TRUST_DOMAIN.to_owned(),
            key_kind: KeyKind::Ed25519,
            dns_names: Vec::new(),
            ttl: DAY,
        }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

impl Ca {
    /// A new CA, ECDSA P-256.
    pub fn new() -> Self {
        Self::with_lifetime(identity::SELF_SIGNED_LIFETIME)
    }

    /// A new CA that expires after `lifetime`.
    ///
    /// # Panics
    /// The crypto library fails.
    #[expect(clippy::unwrap_used, reason = "a test without a CA cannot go on")]
    pub fn with_lifetime(lifetime: Duration) -> Self {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
        let (bundle, pem) = Bundle::generate(&options(&trust_domain, lifetime), now()).unwrap();
        Self { bundle, pem }
    }

    /// The CA of both rotation stages after this one.
    ///
    /// # Panics
    /// The crypto library fails, or this CA has expired.
    #[expect(clippy::unwrap_used, reason = "a test without a CA cannot go on")]
    pub fn cross_signed(&self) -> CrossSignedCa {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
        let options = options(&trust_domain, identity::SELF_SIGNED_LIFETIME);
        self.bundle.cross_sign(&options, now()).unwrap()
    }

    /// A new SVID `spiffe://cluster.local/ns/<namespace>/<app>` with an Ed25519 key.
    pub fn svid(&self, namespace: &str, app: &str) -> TestSvid {
        self.svid_with(namespace, app, &SvidOptions::default())
    }

    /// A new SVID with these options.
    ///
    /// # Panics
    /// The names do not form a SPIFFE id.
    #[expect(clippy::unwrap_used, reason = "a test with bad names is wrong")]
    pub fn svid_with(&self, namespace: &str, app: &str, options: &SvidOptions) -> TestSvid {
        let trust_domain = TrustDomain::parse(&options.trust_domain).unwrap();
        let id = SpiffeId::new(&trust_domain, namespace, app).unwrap();
        let key = PrivateKey::generate(options.key_kind).unwrap();
        let request = LeafRequest {
            id: &id,
            dns_names: &options.dns_names,
            container_images: None,
            public_key: key.public_key_der(),
            ttl: options.ttl,
            clock_skew: SKEW,
        };
        TestSvid { chain: self.bundle.issue(&request, now()).unwrap().chain, key }
    }

    /// A leaf with these URI names, SPIFFE ids or not, which sentry would never issue.
    ///
    /// # Panics
    /// A name is not ASCII.
    #[expect(clippy::unwrap_used, reason = "a test with bad names is wrong")]
    pub fn leaf_named(&self, uris: &[&str]) -> TestSvid {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        let pair = KeyPair::try_from(key.pkcs8_der()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let signer = KeyPair::from_pem(&self.pem.issuer_key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.pem.issuer_chain, signer).unwrap();
        let leaf = params.signed_by(&pair, &issuer).unwrap().der().clone();
        let issuers = CertChain::parse_pem(self.pem.issuer_chain.as_bytes()).unwrap();
        let chain = std::iter::once(leaf).chain(issuers.certs().iter().cloned()).collect();
        TestSvid { chain: CertChain::from_der(chain).unwrap(), key }
    }

    /// The trust anchors: the root alone.
    pub fn anchors(&self) -> TrustAnchors {
        self.bundle.anchors().clone()
    }

    /// Root, issuer and issuer key as sentry stores them.
    pub fn pem(&self) -> &BundlePem {
        &self.pem
    }

    /// The CA as sentry uses it.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

fn options(trust_domain: &TrustDomain, lifetime: Duration) -> GenerateOptions<'_> {
    GenerateOptions {
        trust_domain,
        issuer_name: "throw-away".to_owned(),
        clock_skew: SKEW,
        key_kind: KeyKind::EcdsaP256,
        lifetime,
    }
}

#[expect(clippy::disallowed_methods, reason = "tests run on the wall clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_what_its_own_anchors_accept() {
        let ca = Ca::new();
        let svid = ca.svid("shop", "cart");
        let id = identity::verify_svid(svid.chain.certs(), &ca.anchors(), now()).unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/cart");
        assert!(
            identity::verify_svid(svid.chain.certs(), &Ca::new().anchors(), now()).is_err(),
            "another CA's anchors must not accept it"
        );
    }
}
