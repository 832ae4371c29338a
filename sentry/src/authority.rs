//! The CA in memory: one owner puts it in place, everybody else reads a snapshot.

use std::sync::Arc;
use std::time::Duration;

use identity::{Bundle, Csr, IssueError, IssuedLeaf, LeafRequest, SpiffeId};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::error::SignError;
use crate::settings::Settings;

/// Certificates of at least this lifetime end a little earlier, by chance, because clients renew
/// without jitter: those that started together would renew together for ever.
const SPREAD_FROM: Duration = Duration::from_hours(1);
/// At most this share of the lifetime is cut.
const SPREAD: f64 = 0.05;

/// The CA of the moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authority {
    current: Arc<watch::Sender<Option<Arc<Bundle>>>>,
    settings: Arc<watch::Sender<Settings>>,
}

impl Authority {
    /// An authority without a CA yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            current: Arc::new(watch::channel(None).0),
            settings: Arc::new(watch::channel(settings).0),
        }
    }

    /// Makes certificates with other settings from now on; `false` if they are the same.
    pub fn configure(&self, settings: Settings) -> bool {
        self.settings.send_if_modified(|current| {
            let changed = *current != settings;
            *current = settings;
            changed
        })
    }

    /// Puts a CA in place; certificates are signed with it from now on.
    pub fn replace(&self, bundle: Arc<Bundle>) {
        self.current.send_replace(Some(bundle));
    }

    /// The CA of the moment.
    pub fn current(&self) -> Option<Arc<Bundle>> {
        self.current.borrow().clone()
    }

    /// The CA and its changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.current.subscribe()
    }

    /// Issues a certificate for the key of `csr`. `draw` is a random number in `[0, 1)`.
    ///
    /// # Errors
    /// [`SignError::NoCa`] without a usable CA, [`SignError::Issue`] if signing fails.
    pub fn issue(
        &self,
        csr: &Csr,
        id: &SpiffeId,
        dns_names: &[String],
        now: Timestamp,
        draw: f64,
    ) -> Result<(Arc<Bundle>, IssuedLeaf), SignError> {
        let bundle = self.current().ok_or_else(|| SignError::NoCa("none is loaded".to_owned()))?;
        let settings = self.settings();
        let request = LeafRequest {
            id,
            dns_names,
            public_key: csr.public_key_der(),
            ttl: spread(settings.ttl, draw),
            clock_skew: settings.clock_skew,
        };
        match bundle.issue(&request, now) {
            Ok(leaf) => Ok((bundle, leaf)),
            Err(e @ IssueError::Issuer(_)) => Err(SignError::NoCa(runtime::chain(&e))),
            Err(e) => Err(SignError::Issue(e)),
        }
    }

    /// Whether a signature of the present issuer takes milliseconds.
    pub fn signs_slowly(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|bundle| bundle.signs_slowly())
    }

    /// The settings that certificates are made with.
    pub fn settings(&self) -> Settings {
        *self.settings.borrow()
    }
}

fn spread(ttl: Duration, draw: f64) -> Duration {
    if ttl < SPREAD_FROM { ttl } else { ttl.mul_f64(1.0 - SPREAD * draw.clamp(0.0, 1.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{KeyKind, PrivateKey, TrustDomain};
    use testkit::ca::Ca;

    fn csr() -> Csr {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        Csr::parse_pem(identity::csr_pem(&key).unwrap().as_bytes()).unwrap()
    }

    fn id() -> SpiffeId {
        SpiffeId::new(&TrustDomain::public(), "shop", "cart").unwrap()
    }

    #[test]
    fn without_a_ca_clients_are_told_to_come_back() {
        let authority = Authority::new(Settings::default());
        let refused = authority.issue(&csr(), &id(), &[], runtime::clock::now(), 0.5).unwrap_err();
        let status = tonic::Status::from(refused);
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), "sentry has no usable CA: none is loaded");
    }

    #[test]
    fn an_expired_ca_does_not_sign_and_says_so() {
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
        let (_, leaf) = authority.issue(&csr(), &id(), &[], now, 0.0).unwrap();
        assert!(leaf.shortened, "no leaf outlives its issuer");
        assert!(leaf.chain.not_after() <= now + Duration::from_secs(61));

        let later = now + Duration::from_mins(2);
        let status =
            tonic::Status::from(authority.issue(&csr(), &id(), &[], later, 0.0).unwrap_err());
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("expired"), "{}", status.message());
    }

    proptest::proptest! {
        #[test]
        fn at_most_a_twentieth_is_cut(seconds in 1_u64..10_000_000, draw in 0.0..1.0_f64) {
            let ttl = Duration::from_secs(seconds);
            let cut = spread(ttl, draw);
            proptest::prop_assert!(cut <= ttl && cut >= ttl.mul_f64(0.949));
        }
    }
}
