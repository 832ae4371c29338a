//! Simulates a CA over months, with replicas that crash between any two writes, with clocks that are
//! an hour off, and with clients that edit the Secret.

use identity::{CertChain, Csr, PrivateKey, verify_svid};
use k8s_openapi::ByteString;
use prometheus::Registry;
use proptest::prelude::*;
use testkit::ca::Ca;

use super::memory_store::{CRASH, Fault, MemoryStore};
use super::*;
use crate::ca::authority::LeafSpec;
use crate::ca::record::{BundleNames, Keys, annotations};
use crate::ca::settings::Settings;

const STEP: SignedDuration = SignedDuration::from_hours(12);
const STEPS_PER_DAY: usize = 2;
const DAY: Duration = Duration::from_hours(24);
/// Lifetime of a CA, which is rotated in its last four days.
const LIFETIME: Duration = Duration::from_hours(24 * 12);
/// Lifetime of a pod, in steps; shorter than the time for which the old root stays valid.
const POD_LIFETIME: usize = 2 * STEPS_PER_DAY;
/// Attempts until nothing is left to do; more would be a loop.
const MAX_ATTEMPTS: usize = MAX_CONFLICTS as usize;

/// A running sidecar.
struct Pod {
    born: usize,
    known: TrustAnchors,
    svid: Option<CertChain>,
}

struct Simulation {
    store: MemoryStore,
    replicas: Vec<CaController<MemoryStore>>,
    /// Offsets of the replicas' clocks, in seconds.
    clocks: Vec<i64>,
    pods: Vec<Pod>,
    now: Timestamp,
    step: usize,
}

fn names() -> BundleNames {
    let file = |name: &str| std::path::PathBuf::from(name);
    BundleNames {
        anchors: file("ca.crt"),
        issuer_chain: file("issuer.crt"),
        issuer_key: file("issuer.key"),
    }
}

fn controller(store: &MemoryStore) -> CaController<MemoryStore> {
    let policy = CaPolicy {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        namespace: "dapr-system".to_owned(),
        key_kind: KeyKind::EcdsaP256,
        lifetime: LIFETIME,
        rotate_at: 33,
        keep_retired: Duration::ZERO,
    };
    let authority = Authority::new(Settings { ttl: DAY, ..Settings::default() });
    let metrics = Metrics::register(&Registry::new()).unwrap();
    CaController::new(store.clone(), authority, metrics, policy)
}

impl Simulation {
    fn new(clocks: &[i64], faults: Vec<(usize, Fault)>) -> Self {
        let store = MemoryStore::new(Keys::new(&names()));
        store.inject(faults);
        Self {
            replicas: clocks.iter().map(|_| controller(&store)).collect(),
            store,
            clocks: clocks.to_vec(),
            pods: Vec::new(),
            now: clock::now(),
            step: 0,
        }
    }

    /// A replica reconciles until nothing is left to do, and restarts when it crashes.
    async fn reconcile(&mut self, at: usize) {
        for _ in 0..MAX_ATTEMPTS {
            let now = self.now + SignedDuration::from_secs(self.clocks[at]);
            match self.replicas[at].attempt(now).await {
                Ok(Attempt::Done) => return,
                Ok(Attempt::Again) => {}
                Err(e) if e.to_string().ends_with(CRASH) => {
                    self.replicas[at] = controller(&self.store);
                }
                // A replica whose clock is behind rejects a CA that is not valid yet.
                Err(e) if self.clocks[at] < 0 => {
                    let text = runtime::chain(&e);
                    assert!(text.contains("not yet valid"), "{text}");
                    return;
                }
                Err(e) => panic!("step {}: {}", self.step, runtime::chain(&e)),
            }
        }
        panic!("step {}: replica {at} never finishes", self.step);
    }

    /// Twelve hours of a cluster.
    async fn advance(&mut self) {
        let sidecars = self.pods.iter().map(|pod| pod.known.clone()).collect();
        self.store.set_sidecars(sidecars);
        for at in 0..self.replicas.len() {
            self.reconcile(at).await;
        }
        let born = self.step;
        self.pods.retain(|pod| born - pod.born < POD_LIFETIME);
        if let Some(known) = self.store.anchors() {
            self.pods.push(Pod { born, known, svid: None });
        }
        self.check();
        // A step is half the lifetime of a leaf: every pod renews.
        for at in 0..self.pods.len() {
            let renewed = self.issue((self.step + at) % self.replicas.len());
            self.pods[at].svid = renewed.or(self.pods[at].svid.take());
        }
        self.check();
        self.now += STEP;
        self.step += 1;
    }

    fn issue(&self, replica: usize) -> Option<CertChain> {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        let csr = Csr::parse_pem(identity::csr_pem(&key).unwrap().as_bytes()).unwrap();
        let id = SpiffeId::new(&TrustDomain::public(), "shop", "till").unwrap();
        let issued = self.replicas[replica].authority.issue(
            &csr,
            LeafSpec { id: &id, dns_names: &[], container_images: None },
            self.now,
            0.0,
        );
        issued.ok().map(|(_, leaf)| leaf.chain)
    }

    /// Every peer accepts every other, sentry included, and any sentry can use the stored CA.
    fn check(&self) {
        let now = self.now;
        let serving = (0..self.replicas.len()).filter_map(|replica| self.issue(replica));
        let svids = self.pods.iter().filter_map(|pod| pod.svid.clone());
        let shown: Vec<CertChain> = svids.chain(serving).collect();
        let mut known: Vec<&TrustAnchors> = self.pods.iter().map(|pod| &pod.known).collect();
        known.dedup();
        for (chain, known) in shown.iter().flat_map(|c| known.iter().map(move |k| (c, *k))) {
            let verified = verify_svid(chain.certs(), known, now);
            assert!(
                verified.is_ok(),
                "step {}: {chain:?} before {known:?}: {verified:?}",
                self.step
            );
        }
        let snapshot = self.store.snapshot();
        let stored = self.store.keys().stored(&snapshot.secret);
        let usable = stored.parse(now + SignedDuration::from_hours(1));
        assert!(usable.is_ok(), "step {}: {usable:?}", self.step);
    }

    fn stage(&self) -> Option<Stage> {
        annotations(&self.store.snapshot().secret).progress.map(|progress| progress.stage)
    }

    fn chain_length(&self) -> usize {
        self.replicas[0].authority.current().unwrap().issuer().certs().len()
    }

    fn root(&self) -> Vec<u8> {
        self.replicas[0].authority.current().unwrap().anchors().certs()[0].to_vec()
    }
}

/// Runs for a number of days and returns how often the first root changed.
async fn run(sim: &mut Simulation, days: usize) -> usize {
    let mut roots: Vec<Vec<u8>> = Vec::new();
    for _ in 0..days * STEPS_PER_DAY {
        sim.advance().await;
        let root = sim.root();
        if roots.last() != Some(&root) {
            roots.push(root);
        }
    }
    roots.len() - 1
}

/// Days in which a CA is created and rotated once.
const ONE_ROTATION: usize = 13;

#[tokio::test]
async fn a_crash_at_any_write_loses_nothing() {
    let mut undisturbed = Simulation::new(&[0], Vec::new());
    assert_eq!(run(&mut undisturbed, ONE_ROTATION).await, 1);
    let writes = undisturbed.store.writes();
    assert_eq!(writes, 8, "create, begin, switch, finish, and publish after each");
    for write in 0..writes {
        for fault in [Fault::Before, Fault::After] {
            let mut sim = Simulation::new(&[0], vec![(write, fault)]);
            assert_eq!(run(&mut sim, ONE_ROTATION).await, 1, "write {write}, {fault:?}");
            assert_eq!((sim.stage(), sim.chain_length()), (None, 1), "write {write}, {fault:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn crashing_replicas_with_different_clocks_rotate_the_ca_together(
        clocks in prop::collection::vec(prop::sample::select(vec![-3600, 0, 0, 3600]), 1..4),
        faults in prop::collection::vec((0_usize..40, prop::sample::select(vec![Fault::Before, Fault::After])), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sim = Simulation::new(&clocks, faults);
            // A replica with a correct clock creates the first CA.
            sim.clocks[0] = 0;
            assert_eq!(run(&mut sim, 20).await, 2);
        });
    }
}

/// A simulation of two days without a rotation.
async fn idle() -> Simulation {
    let mut sim = Simulation::new(&[0, 0], Vec::new());
    run(&mut sim, 2).await;
    sim
}

fn annotate(sim: &Simulation, name: &str) {
    sim.store.edit(|secret| {
        secret.metadata.annotations.get_or_insert_default().insert(name.to_owned(), String::new());
    });
}

#[tokio::test]
async fn a_request_rotates_a_ca_of_any_age() {
    let mut sim = idle().await;
    annotate(&sim, ANNOTATION_ROTATE);
    sim.advance().await;
    assert_eq!(sim.stage(), Some(Stage::Distribute));
    assert_eq!(sim.chain_length(), 2);
    assert_eq!(run(&mut sim, 6).await, 1);
    assert_eq!((sim.stage(), sim.chain_length()), (None, 1));
}

#[tokio::test]
async fn a_sidecar_that_is_never_recreated_keeps_the_old_root() {
    let mut sim = idle().await;
    annotate(&sim, ANNOTATION_ROTATE);
    let old = sim.pods.remove(0);
    for _ in 0..6 * STEPS_PER_DAY {
        let born = sim.step;
        if sim.pods.first().is_none_or(|pod| pod.known != old.known) {
            sim.pods.insert(0, Pod { born, known: old.known.clone(), svid: None });
        }
        sim.pods[0].born = born;
        sim.advance().await;
    }
    assert_eq!(sim.stage(), Some(Stage::Sign), "the rotation waits for that sidecar");
    sim.pods.remove(0);
    run(&mut sim, 1).await;
    assert_eq!(sim.stage(), None);
}

/// Writes a user's CA into the Secret, as `dapr mtls renew-certificate` does.
fn renew(sim: &Simulation, ca: &Ca) {
    sim.store.edit(|secret| {
        let data = secret.data.get_or_insert_default();
        let parts = [
            ("ca.crt", ca.pem().anchors.as_str()),
            ("issuer.crt", &ca.pem().issuer_chain),
            ("issuer.key", &ca.pem().issuer_key),
        ];
        for (key, text) in parts {
            data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
        }
    });
}

#[tokio::test]
async fn a_ca_from_outside_wins_in_every_stage() {
    for stage in [None, Some(Stage::Distribute), Some(Stage::Sign)] {
        let mut sim = idle().await;
        if stage.is_some() {
            annotate(&sim, ANNOTATION_ROTATE);
        }
        while sim.stage() != stage {
            sim.advance().await;
        }
        let users = Ca::new();
        renew(&sim, &users);
        for at in 0..2 {
            sim.reconcile(at).await;
        }
        assert_eq!(sim.stage(), None, "in stage {stage:?}");
        let snapshot = sim.store.snapshot();
        let stored = sim.store.keys().stored(&snapshot.secret);
        assert_eq!(stored.to_pem().as_ref(), Some(users.pem()));
        assert_eq!(sim.store.anchors(), Some(users.anchors()));
        let keys: Vec<_> = snapshot.secret.data.unwrap().into_keys().collect();
        assert_eq!(keys, ["ca.crt", "issuer.crt", "issuer.key"], "no key of the rotation is left");
        // Sentry does not rotate a CA from outside, whatever its age.
        sim.pods.clear();
        sim.now += SignedDuration::from_hours(24 * 300);
        sim.reconcile(0).await;
        assert_eq!(sim.store.anchors(), Some(users.anchors()));
    }
}

#[tokio::test]
async fn an_expired_ca_is_replaced_by_the_next_one() {
    let mut sim = idle().await;
    annotate(&sim, ANNOTATION_ROTATE);
    sim.advance().await;
    assert_eq!(sim.stage(), Some(Stage::Distribute));
    // Sentry is down until the old CA has expired and starts before the new one expires.
    sim.pods.clear();
    sim.replicas = vec![controller(&sim.store)];
    sim.now += SignedDuration::from_hours(24 * 11);
    sim.reconcile(0).await;
    let bundle = sim.replicas[0].authority.current().unwrap();
    assert!(bundle.issuer().not_after() > sim.now);
    assert_ne!(sim.stage(), Some(Stage::Distribute));
}

#[tokio::test]
async fn an_emptied_secret_is_restored_from_memory() {
    let mut sim = idle().await;
    let before = sim.store.keys().stored(&sim.store.snapshot().secret);
    sim.store.edit(|secret| {
        secret.data = None;
        secret.metadata.annotations = None;
    });
    sim.reconcile(0).await;
    let read = StoredState::from_objects(sim.store.keys(), sim.store.snapshot());
    assert!(read.stored == before && read.is_ours());
    // A sentry that starts with an emptied Secret cannot restore it.
    sim.store.edit(|secret| secret.data = None);
    sim.replicas = vec![controller(&sim.store)];
    let refused = sim.replicas[0].attempt(sim.now).await.unwrap_err();
    assert!(refused.to_string().contains("Secret dapr-trust-bundle holds no CA"), "{refused}");
}

#[tokio::test]
async fn a_lost_next_ca_aborts_the_rotation() {
    let mut sim = idle().await;
    annotate(&sim, ANNOTATION_ROTATE);
    sim.advance().await;
    sim.store.edit(|secret| {
        secret.data.as_mut().unwrap().remove("next-issuer.key");
    });
    sim.reconcile(0).await;
    assert_eq!(sim.stage(), None, "the rotation is aborted");
    annotate(&sim, ANNOTATION_ROTATE);
    assert_eq!(run(&mut sim, 6).await, 1, "and the next one works");
    assert_eq!(sim.chain_length(), 1);
    let anchors = sim.store.anchors().unwrap();
    assert_eq!(anchors.certs().len(), 1, "no root of the first attempt is left");
}
