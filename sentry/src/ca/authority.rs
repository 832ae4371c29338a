//! The CA in memory. The controller replaces it, all others read a snapshot.

use std::sync::Arc;
use std::time::Duration;

use identity::{Bundle, Csr, IssueError, IssuedLeaf, LeafRequest, SpiffeId};
use jiff::Timestamp;
use tokio::sync::watch;

use super::settings::{Settings, SettingsError};

/// Certificates with at least this lifetime get a random reduction of it. Clients renew without
/// jitter, so those that started together would otherwise renew together each time.
const JITTER_FROM: Duration = Duration::from_hours(1);
/// Maximum reduction, as a share of the lifetime.
const JITTER: f64 = 0.05;

/// Why no certificate was signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueFailure {
    /// There is no CA, or it cannot sign any more.
    #[error("sentry has no usable CA: {0}")]
    NoCa(String),
    /// Signing failed.
    #[error("issue the certificate")]
    Sign(#[source] IssueError),
}

/// What to sign besides the key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeafSpec<'a> {
    /// The only URI name.
    pub(crate) id: &'a SpiffeId,
    /// DNS names.
    pub(crate) dns_names: &'a [String],
    /// JSON of the container images; `None` leaves out the extension.
    pub(crate) container_images: Option<&'a str>,
}

/// The current CA and its settings. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    current: Arc<watch::Sender<Option<Arc<Bundle>>>>,
    settings: Arc<watch::Sender<Settings>>,
}

impl Authority {
    /// An authority that has no CA yet.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            current: Arc::new(watch::channel(None).0),
            settings: Arc::new(watch::channel(settings).0),
        }
    }

    /// Applies settings that were read again, from the next certificate on; invalid ones leave the
    /// current ones in use.
    pub(crate) fn configure(&self, read: Result<Settings, SettingsError>) {
        match read {
            Ok(settings) => {
                let changed = self.settings.send_if_modified(|current| {
                    let changed = *current != settings;
                    *current = settings;
                    changed
                });
                if changed {
                    tracing::info!(target: "dapr.sentry", ttl = ?settings.ttl, clock_skew = ?settings.clock_skew,
                        "the Configuration changed; new certificates use it");
                }
            }
            Err(e) => {
                tracing::error!(target: "dapr.sentry", "the changed Configuration is invalid, the previous one stays in use: {}", runtime::chain(&e));
            }
        }
    }

    /// Replaces the CA that signs.
    pub(crate) fn replace(&self, bundle: Arc<Bundle>) {
        self.current.send_replace(Some(bundle));
    }

    /// The current CA.
    pub(crate) fn current(&self) -> Option<Arc<Bundle>> {
        self.current.borrow().clone()
    }

    /// Subscribes to the current CA and its changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.current.subscribe()
    }

    /// Issues a certificate for the key of `csr`. `draw` is a random number in `[0, 1)`.
    ///
    /// # Errors
    /// [`IssueFailure::NoCa`] without a usable CA, [`IssueFailure::Sign`] if signing fails.
    pub(crate) fn issue(
        &self,
        csr: &Csr,
        leaf: LeafSpec<'_>,
        now: Timestamp,
        draw: f64,
    ) -> Result<(Arc<Bundle>, IssuedLeaf), IssueFailure> {
        let none = || IssueFailure::NoCa("none is loaded".to_owned());
        let bundle = self.current().ok_or_else(none)?;
        let settings = self.settings();
        let request = LeafRequest {
            id: leaf.id,
            dns_names: leaf.dns_names,
            container_images: leaf.container_images,
            public_key: csr.public_key_der(),
            ttl: jittered(settings.ttl, draw),
            clock_skew: settings.clock_skew,
        };
        match bundle.issue(&request, now) {
            Ok(leaf) => Ok((bundle, leaf)),
            Err(e @ IssueError::Issuer(_)) => Err(IssueFailure::NoCa(runtime::chain(&e))),
            Err(e) => Err(IssueFailure::Sign(e)),
        }
    }

    /// Whether the current issuer takes milliseconds to sign (RSA).
    pub(crate) fn signs_slowly(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|bundle| bundle.signs_slowly())
    }

    /// The current settings.
    pub(crate) fn settings(&self) -> Settings {
        *self.settings.borrow()
    }
}

fn jittered(ttl: Duration, draw: f64) -> Duration {
    if ttl < JITTER_FROM { ttl } else { ttl.mul_f64(1.0 - JITTER * draw.clamp(0.0, 1.0)) }
}

#[cfg(test)]
mod tests {
    use identity::{KeyKind, PrivateKey, TrustDomain};
    use testkit::ca::Ca;

    use super::*;

    fn csr() -> Csr {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        Csr::parse_pem(identity::csr_pem(&key).unwrap().as_bytes()).unwrap()
    }

    fn issue(authority: &Authority, now: Timestamp) -> Result<IssuedLeaf, IssueFailure> {
        let id = SpiffeId::new(&TrustDomain::public(), "shop", "cart").unwrap();
        let leaf = LeafSpec { id: &id, dns_names: &[], container_images: None };
        authority.issue(&csr(), leaf, now, 0.0).map(|(_, leaf)| leaf)
    }

    #[test]
    fn without_a_ca_no_certificate_is_signed() {
        let authority = Authority::new(Settings::default());
        let refused = issue(&authority, runtime::clock::now()).unwrap_err();
        assert_eq!(refused.to_string(), "sentry has no usable CA: none is loaded");
    }

    #[test]
    fn an_expired_ca_does_not_sign() {
        let ca = Ca::with_lifetime(Duration::from_mins(1));
        let authority = Authority::new(Settings::default());
        let parsed = Bundle::parse(
            ca.pem().anchors.as_bytes(),
            ca.pem().issuer_chain.as_bytes(),
            ca.pem().issuer_key.as_bytes(),
            runtime::clock::now(),
        );
        authority.replace(Arc::new(parsed.unwrap()));
        let now = runtime::clock::now();
        let leaf = issue(&authority, now).unwrap();
        assert!(leaf.shortened, "no leaf outlives its issuer");
        assert!(leaf.chain.not_after() <= now + Duration::from_secs(61));

        let refused = issue(&authority, now + Duration::from_mins(2)).unwrap_err();
        assert!(matches!(refused, IssueFailure::NoCa(_)), "{refused:?}");
        assert!(refused.to_string().contains("expired"), "{refused}");
    }

    proptest::proptest! {
        #[test]
        fn jitter_is_at_most_a_twentieth(seconds in 1_u64..10_000_000, draw in 0.0..1.0_f64) {
            let ttl = Duration::from_secs(seconds);
            let cut = jittered(ttl, draw);
            proptest::prop_assert!(cut <= ttl && cut >= ttl.mul_f64(0.949));
        }
    }
}
