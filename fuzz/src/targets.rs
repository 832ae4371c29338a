//! The fuzz targets.
use std::time::Duration;

use identity::stored::{Published, Stored, plan};
use identity::{
    BundlePem, CertChain, Csr, Expected, JwkSet, PrivateKey, SpiffeId, TrustAnchors, TrustDomain,
    verify_svid, verify_token,
};
use jiff::Timestamp;
use resources::go_duration;

use crate::injection;

/// A function of bytes that must not panic.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the folder with its seeds.
    pub name: &'static str,
    /// Runs the target on one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 17] = [
    Target { name: "admission-reviews", run: injection::review },
    Target { name: "chains", run: chains },
    Target { name: "conversion-reviews", run: operator::fuzzing::conversion_review },
    Target { name: "csrs", run: csrs },
    Target { name: "durations", run: durations },
    Target { name: "etcd-requests", run: scheduler::fuzzing::etcd_request },
    Target { name: "injector-texts", run: injector_texts },
    Target { name: "keys", run: keys },
    Target { name: "manifests", run: manifests },
    Target { name: "placement-reports", run: placement_reports },
    Target { name: "scheduler-records", run: scheduler::fuzzing::record },
    Target { name: "schedules", run: schedules },
    Target { name: "sign-requests", run: sentry::fuzzing::sign_request },
    Target { name: "spiffe-ids", run: spiffe_ids },
    Target { name: "stored-cas", run: stored_cas },
    Target { name: "token-reviews", run: sentry::fuzzing::token_review },
    Target { name: "tokens", run: tokens },
];

/// The target with this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// A time at which the certificates of the seeds are valid.
fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Parts of an input, separated by zero bytes.
fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Trust anchors and a chain, PEM. The verifier limits its own work.
fn chains(data: &[u8]) {
    let [anchors, chain] = parts(data);
    let (Ok(anchors), Ok(chain)) = (TrustAnchors::parse_pem(anchors), CertChain::parse_pem(chain))
    else {
        return;
    };
    let _ = verify_svid(chain.certs(), &anchors, now());
    let _ = identity::verify_issuer(&chain, &anchors, now());
    assert!(CertChain::parse_pem(chain.to_pem().as_bytes()).is_ok());
}

fn csrs(data: &[u8]) {
    if let Ok(csr) = Csr::parse_pem(data) {
        assert!(!csr.public_key_der().is_empty());
    }
}

fn durations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(duration) = go_duration::parse(&text) {
        let shown = go_duration::format(duration);
        assert_eq!(go_duration::parse(&shown).ok(), Some(duration), "{shown}");
    }
}

fn injector_texts(data: &[u8]) {
    sidecar_injector::fuzzing::texts(&String::from_utf8_lossy(data));
}

/// A private key, and trust anchors.
fn keys(data: &[u8]) {
    if let Ok(key) = PrivateKey::from_pem(data) {
        let again = PrivateKey::from_pem(key.to_pem().as_bytes());
        assert!(again.is_ok_and(|again| again.public_key_der() == key.public_key_der()));
    }
    if let Ok(anchors) = TrustAnchors::parse_pem(data) {
        assert!(TrustAnchors::parse_pem(anchors.pem().as_bytes()).is_ok());
    }
}

/// YAML documents into which sidecars are injected offline.
fn manifests(data: &[u8]) {
    injection::manifests(&String::from_utf8_lossy(data));
}

fn placement_reports(data: &[u8]) {
    placement::fuzzing::reports(data, runtime::clock::monotonic());
}

fn schedules(data: &[u8]) {
    scheduler::fuzzing::schedule(data, now());
}

fn spiffe_ids(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = TrustDomain::parse(&text);
    if let Ok(id) = SpiffeId::parse(&text) {
        assert_eq!(SpiffeId::parse(&id.to_string()).ok(), Some(id));
    }
}

/// Anchors, chain and key of a Secret, and the anchors of the ConfigMap.
fn stored_cas(data: &[u8]) {
    let [anchors, chain, key, published] = parts(data);
    let [anchors, chain, key] = [anchors, chain, key].map(|part| Some(part.to_vec()));
    let stored = Stored::new(anchors, chain, key);
    let published = Published::ConfigMap(Some(String::from_utf8_lossy(published).into_owned()));
    let _ = plan(&stored, &published, now());
    let _ = stored.validity();
    if let Ok(bundle) = stored.parse(now()) {
        let pem: BundlePem = bundle.to_pem();
        assert!(Stored::from_pem(&pem).parse(now()).is_ok());
    }
}

/// A set of keys, and a token that it may verify.
fn tokens(data: &[u8]) {
    let [keys, token] = parts(data);
    let Ok(keys) = JwkSet::parse(keys) else { return };
    let token = String::from_utf8_lossy(token);
    let expected = Expected {
        audience: "spiffe://public/ns/dapr-system/dapr-sentry",
        subject: "spiffe://public/ns/shop/cart",
        now: now(),
        leeway: Duration::from_mins(1),
    };
    let _ = verify_token(&token, &keys, &expected);
}
