//! The life of a CA over months, with replicas that die between any two writes, with clocks that
//! are an hour off, and with people who edit the Secret.

use std::sync::Arc;
use std::time::Duration;

use identity::{
    CertChain, Csr, KeyKind, PrivateKey, SpiffeId, TrustAnchors, TrustDomain, verify_svid,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use prometheus::Registry;
use proptest::prelude::*;
use testkit::ca::Ca;

use super::*;
use crate::bundle_record::{ANNOTATION_ROTATE, Keys, marks};
use crate::config::BundleNames;
use crate::rotation::Stage;
use crate::settings::Settings;
use crate::store::Read;
use crate::store_memory::{Fault, Memory};

const STEP: SignedDuration = SignedDuration::from_hours(12);
const STEPS_PER_DAY: usize = 2;
const DAY: Duration = Duration::from_hours(24);
/// How long a CA lives: it is replaced in its last four days.
const LIFETIME: Duration = Duration::from_hours(24 * 12);
/// How long a pod lives; those that know only the old root must be gone when that ends.
const POD_LIFETIME: usize = 2 * STEPS_PER_DAY;
/// Looks at the store until nothing is left to do; more would be a loop.
const LOOKS: usize = MAX_CONFLICTS as usize;

/// A running sidecar.
struct Pod {
    born: usize,
    known: TrustAnchors,
    svid: Option<CertChain>,
}

struct World {
    memory: Arc<Memory>,
    replicas: Vec<Keeper>,
    /// How far the clocks of the replicas are ahead, seconds.
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

fn keeper(memory: &Arc<Memory>) -> Keeper {
    let policy = Policy {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        namespace: "dapr-system".to_owned(),
        key_kind: KeyKind::EcdsaP256,
        lifetime: LIFETIME,
        rotate_at: 33,
        keep_retired: Duration::ZERO,
    };
    let authority = Authority::new(Settings { ttl: DAY, ..Settings::default() });
    let metrics = Metrics::register(&Registry::new()).unwrap();
    Keeper::new(Store::Memory(memory.clone()), authority, metrics, policy)
}

impl World {
    fn new(clocks: &[i64], faults: Vec<(usize, Fault)>) -> Self {
        let memory = Arc::new(Memory::new(Keys::new(&names())));
        memory.fail(faults);
        Self {
            replicas: clocks.iter().map(|_| keeper(&memory)).collect(),
            memory,
            clocks: clocks.to_vec(),
            pods: Vec::new(),
            now: clock::now(),
            step: 0,
        }
    }

    /// A replica looks at the store until it is content, and starts anew when it dies.
    async fn look(&mut self, at: usize) {
        for _ in 0..LOOKS {
            let now = self.now + SignedDuration::from_secs(self.clocks[at]);
            match self.replicas[at].attempt(now).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(e) if format!("{e}").starts_with("died") => {
                    self.replicas[at] = keeper(&self.memory);
                }
                // A clock that is behind sees a CA that is not valid yet, and leaves it alone.
                Err(e) if self.clocks[at] < 0 => {
                    assert!(format!("{e:#}").contains("not yet valid"), "{e:#}");
                    return;
                }
                Err(e) => panic!("step {}: {e:#}", self.step),
            }
        }
        panic!("step {}: replica {at} never comes to rest", self.step);
    }

    /// Twelve hours of a cluster.
    async fn pass(&mut self) {
        let sidecars = self.pods.iter().map(|pod| pod.known.clone()).collect();
        self.memory.set_sidecars(sidecars);
        for at in 0..self.replicas.len() {
            self.look(at).await;
        }
        let born = self.step;
        self.pods.retain(|pod| born - pod.born < POD_LIFETIME);
        if let Some(known) = self.memory.anchors() {
            self.pods.push(Pod { born, known, svid: None });
        }
        self.check();
        // A step is half the life of a leaf: everybody renews.
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
        let issued = self.replicas[replica].authority.issue(&csr, &id, &[], self.now, 0.0);
        issued.ok().map(|(_, leaf)| leaf.chain)
    }

    /// Everybody accepts everybody, sentry included, and what is stored can be used by any sentry.
    fn check(&self) {
        let now = self.now;
        let serving = (0..self.replicas.len()).filter_map(|replica| self.issue(replica));
        let svids = self.pods.iter().filter_map(|pod| pod.svid.clone());
        let shown: Vec<CertChain> = svids.chain(serving).collect();
        let mut known: Vec<&TrustAnchors> = self.pods.iter().map(|pod| &pod.known).collect();
        known.dedup();
        for (chain, known) in shown.iter().flat_map(|c| known.iter().map(move |k| (c, *k))) {
            let verdict = verify_svid(chain.certs(), known, now);
            assert!(verdict.is_ok(), "step {}: {chain:?} before {known:?}: {verdict:?}", self.step);
        }
        let snapshot = self.memory.read();
        let stored = self.memory.keys().stored(&snapshot.secret);
        let usable = stored.parse(now + SignedDuration::from_hours(1));
        assert!(usable.is_ok(), "step {}: {usable:?}", self.step);
    }

    fn stage(&self) -> Option<Stage> {
        marks(&self.memory.read().secret).progress.map(|progress| progress.stage)
    }

    fn chain_length(&self) -> usize {
        self.replicas[0].authority.current().unwrap().issuer().certs().len()
    }

    fn root(&self) -> Vec<u8> {
        self.replicas[0].authority.current().unwrap().anchors().certs()[0].to_vec()
    }
}

/// Runs for so many days and returns how often the first root changed.
async fn live(world: &mut World, days: usize) -> usize {
    let mut roots: Vec<Vec<u8>> = Vec::new();
    for _ in 0..days * STEPS_PER_DAY {
        world.pass().await;
        let root = world.root();
        if roots.last() != Some(&root) {
            roots.push(root);
        }
    }
    roots.len() - 1
}

/// A CA that is made once and replaced once.
const ONE_ROTATION: usize = 13;

#[tokio::test]
async fn a_death_at_any_write_loses_nothing_and_nobody() {
    let mut undisturbed = World::new(&[0], Vec::new());
    assert_eq!(live(&mut undisturbed, ONE_ROTATION).await, 1);
    let writes = undisturbed.memory.writes();
    assert_eq!(writes, 8, "make, begin, switch, clean up, and publish after each");
    for write in 0..writes {
        for fault in [Fault::Before, Fault::After] {
            let mut world = World::new(&[0], vec![(write, fault)]);
            assert_eq!(live(&mut world, ONE_ROTATION).await, 1, "write {write}, {fault:?}");
            assert_eq!(
                (world.stage(), world.chain_length()),
                (None, 1),
                "write {write}, {fault:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_die_and_disagree_about_the_time_replace_the_ca_together(
        clocks in prop::collection::vec(prop::sample::select(vec![-3600, 0, 0, 3600]), 1..4),
        faults in prop::collection::vec((0_usize..40, prop::sample::select(vec![Fault::Before, Fault::After])), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(&clocks, faults);
            // Somebody whose clock is right makes the first CA.
            world.clocks[0] = 0;
            assert_eq!(live(&mut world, 20).await, 2);
        });
    }
}

/// A world of some days that rests.
async fn rested() -> World {
    let mut world = World::new(&[0, 0], Vec::new());
    live(&mut world, 2).await;
    world
}

fn annotate(world: &World, name: &str) {
    world.memory.edit(|secret| {
        secret.metadata.annotations.get_or_insert_default().insert(name.to_owned(), String::new());
    });
}

#[tokio::test]
async fn a_request_replaces_the_ca_at_any_age() {
    let mut world = rested().await;
    annotate(&world, ANNOTATION_ROTATE);
    world.pass().await;
    assert_eq!(world.stage(), Some(Stage::Distribute));
    assert_eq!(world.chain_length(), 2);
    assert_eq!(live(&mut world, 6).await, 1);
    assert_eq!((world.stage(), world.chain_length()), (None, 1));
}

#[tokio::test]
async fn a_sidecar_that_is_never_created_anew_keeps_the_old_root_alive() {
    let mut world = rested().await;
    annotate(&world, ANNOTATION_ROTATE);
    let old = world.pods.remove(0);
    for _ in 0..6 * STEPS_PER_DAY {
        let born = world.step;
        if world.pods.first().is_none_or(|pod| pod.known != old.known) {
            world.pods.insert(0, Pod { born, known: old.known.clone(), svid: None });
        }
        world.pods[0].born = born;
        world.pass().await;
    }
    assert_eq!(world.stage(), Some(Stage::Sign), "it waits for that sidecar");
    world.pods.remove(0);
    live(&mut world, 1).await;
    assert_eq!(world.stage(), None);
}

/// Puts the CA of a user into the Secret, as `dapr mtls renew-certificate` does.
fn renew(world: &World, ca: &Ca) {
    world.memory.edit(|secret| {
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
async fn a_renewal_by_hand_wins_in_every_stage() {
    for stage in [None, Some(Stage::Distribute), Some(Stage::Sign)] {
        let mut world = rested().await;
        if stage.is_some() {
            annotate(&world, ANNOTATION_ROTATE);
        }
        while world.stage() != stage {
            world.pass().await;
        }
        let users = Ca::new();
        renew(&world, &users);
        for at in 0..2 {
            world.look(at).await;
        }
        assert_eq!(world.stage(), None, "in stage {stage:?}");
        let snapshot = world.memory.read();
        let stored = world.memory.keys().stored(&snapshot.secret);
        assert_eq!(stored.to_pem().as_ref(), Some(users.pem()));
        assert_eq!(world.memory.anchors(), Some(users.anchors()));
        let keys: Vec<_> = snapshot.secret.data.unwrap().into_keys().collect();
        assert_eq!(keys, ["ca.crt", "issuer.crt", "issuer.key"], "nothing of the rotation is left");
        // It is the user's: sentry does not replace it, however old it gets.
        world.pods.clear();
        world.now += SignedDuration::from_hours(24 * 300);
        world.look(0).await;
        assert_eq!(world.memory.anchors(), Some(users.anchors()));
    }
}

#[tokio::test]
async fn a_ca_that_ended_unwatched_gives_way_to_its_successor() {
    let mut world = rested().await;
    annotate(&world, ANNOTATION_ROTATE);
    world.pass().await;
    assert_eq!(world.stage(), Some(Stage::Distribute));
    // Sentry is gone for longer than the old CA lives, and comes back before the new one ends.
    world.pods.clear();
    world.replicas = vec![keeper(&world.memory)];
    world.now += SignedDuration::from_hours(24 * 11);
    world.look(0).await;
    let bundle = world.replicas[0].authority.current().unwrap();
    assert!(bundle.issuer().not_after() > world.now);
    assert_ne!(world.stage(), Some(Stage::Distribute));
}

#[tokio::test]
async fn an_emptied_secret_is_filled_again_by_whoever_has_the_ca() {
    let mut world = rested().await;
    let before = world.memory.keys().stored(&world.memory.read().secret);
    world.memory.edit(|secret| {
        secret.data = None;
        secret.metadata.annotations = None;
    });
    world.look(0).await;
    let read = Read::objects(world.memory.keys(), world.memory.read());
    assert!(read.stored == before && read.is_ours());
    // A sentry that starts with an emptied Secret knows nothing that could fill it.
    world.memory.edit(|secret| secret.data = None);
    world.replicas = vec![keeper(&world.memory)];
    let refused = world.replicas[0].attempt(world.now).await.unwrap_err();
    assert!(format!("{refused:#}").contains("the Secret holds no CA"), "{refused:#}");
}

#[tokio::test]
async fn a_lost_successor_is_made_again() {
    let mut world = rested().await;
    annotate(&world, ANNOTATION_ROTATE);
    world.pass().await;
    world.memory.edit(|secret| {
        secret.data.as_mut().unwrap().remove("next-issuer.key");
    });
    world.look(0).await;
    assert_eq!(world.stage(), None, "the rotation is given up");
    annotate(&world, ANNOTATION_ROTATE);
    assert_eq!(live(&mut world, 6).await, 1, "and the next one works");
    assert_eq!(world.chain_length(), 1);
    let anchors = world.memory.anchors().unwrap();
    assert_eq!(anchors.certs().len(), 1, "no root of the first attempt is left");
}
