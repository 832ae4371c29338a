//! The ring against vectors of an independent implementation: official sidecars route by the same
//! numbers. Source: Dapr 1.18. `tests/placement` compares with official sidecars themselves.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

use std::fmt::Write as _;

use actor_ring::{Ring, VIRTUAL_NODES, hash};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

const HOSTS: [&str; 3] = ["10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002"];

const HASHES: [(&str, u64); 8] = [
    ("", 241_225_442_164_632_184),
    ("a", 1_260_069_880_423_202_611),
    ("actor-1", 10_015_260_465_285_814_958),
    ("myactortype", 17_486_828_743_595_853_521),
    ("10.0.0.1:500020", 7_120_362_376_346_592_644),
    ("10.0.0.1:500021", 6_505_922_788_473_134_223),
    ("10.0.0.1:5000299", 8_251_988_567_651_704_418),
    ("[fd00::1]:500020", 1_287_830_018_379_685_195),
];

/// Actor id, its hash, and its owner (last part of the address) for 1, 3, 100 and 1000 virtual
/// nodes, then for 100 without the third host and for 100 with a fourth.
const OWNERS: [(&str, u64, [u8; 6]); 15] = [
    ("1", 11_971_653_999_726_161_180, [1, 2, 3, 2, 2, 4]),
    ("2", 6_310_439_919_022_701_253, [1, 1, 3, 2, 1, 3]),
    ("3", 17_332_574_438_168_426_095, [1, 1, 2, 3, 2, 2]),
    ("4", 3_694_043_993_765_439_464, [1, 1, 3, 2, 2, 3]),
    ("5", 4_857_364_522_537_482_099, [1, 1, 3, 1, 2, 3]),
    ("actor-1", 10_015_260_465_285_814_958, [1, 2, 1, 3, 1, 4]),
    ("actor-2", 2_764_141_328_702_138_918, [1, 1, 3, 3, 1, 3]),
    ("actor-3", 16_640_079_507_288_646_015, [1, 3, 2, 3, 2, 2]),
    ("order-42", 8_524_104_688_578_085_683, [2, 2, 1, 3, 1, 4]),
    ("alice", 12_857_628_797_765_604_516, [1, 2, 3, 3, 2, 4]),
    ("bob", 5_764_330_996_972_208_845, [1, 1, 1, 2, 1, 1]),
    ("user||device-7", 4_333_046_069_032_216_264, [1, 1, 1, 1, 1, 1]),
    ("e6f1c2d4-0000-4000-8000-000000000001", 12_427_533_044_674_449_403, [1, 2, 1, 2, 1, 4]),
    ("", 241_225_442_164_632_184, [1, 1, 1, 1, 1, 1]),
    ("ünïcode", 11_010_645_009_909_557_035, [1, 2, 2, 2, 2, 4]),
];

fn number(owner: Option<&str>) -> u8 {
    owner.and_then(|o| o.strip_prefix("10.0.0.")?.split(':').next()?.parse().ok()).unwrap_or(0)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn hashes_like_the_sidecars() {
    for (text, want) in HASHES {
        assert_eq!(hash(text), want, "{text:?}");
    }
}

#[test]
fn owners_are_those_that_sidecars_choose() {
    let four = [HOSTS[0], HOSTS[1], HOSTS[2], "10.0.0.4:50002"];
    let rings = [
        Ring::new(HOSTS, 1),
        Ring::new(HOSTS, 3),
        Ring::new(HOSTS, 100),
        Ring::new(HOSTS, 1_000),
        Ring::new(HOSTS[..2].iter().copied(), 100),
        Ring::new(four, 100),
    ];
    for (id, value, want) in OWNERS {
        assert_eq!(hash(id), value, "{id:?}");
        let got = rings.each_ref().map(|ring| number(ring.owner(id)));
        assert_eq!(got, want, "{id:?}");
    }
}

#[test]
fn small_and_large_rings_have_the_known_nodes() {
    let nodes = |replicas: u32| -> Vec<(u64, u8)> {
        Ring::new(HOSTS, replicas).nodes().iter().map(|(v, h)| (*v, number(Some(h)))).collect()
    };
    let want = [
        (5_797_102_724_971_694_617, 1),
        (6_155_547_249_188_943_313, 3),
        (6_505_922_788_473_134_223, 1),
        (7_120_362_376_346_592_644, 1),
        (7_388_246_905_945_336_152, 3),
        (9_203_486_376_198_907_635, 2),
        (13_641_153_136_638_408_813, 2),
        (15_002_447_652_713_300_714, 2),
        (17_246_124_860_277_091_555, 3),
    ];
    assert_eq!(nodes(3), want);
    let hundred = nodes(100);
    let smallest = [
        (124_205_688_661_879_367, 3),
        (346_669_562_463_125_968, 1),
        (407_791_529_096_608_888, 3),
        (466_052_953_631_469_081, 2),
        (512_286_001_595_608_590, 2),
    ];
    assert_eq!(hundred[..5], smallest);
    assert_eq!(hundred[298..], [(18_146_775_272_140_941_691, 1), (18_185_047_526_332_531_417, 1)]);
    let thousand = nodes(1_000);
    assert_eq!(thousand[0], (14_983_456_308_793_301, 2));
    assert_eq!(thousand[2_999], (18_439_780_204_758_336_394, 2));
}

#[test]
fn the_ring_closes_and_an_equal_node_owns() {
    let ring = Ring::new(HOSTS, 100);
    assert_eq!(hash("wrap-83"), 18_415_124_906_326_607_247);
    assert_eq!(number(ring.owner("wrap-83")), 3, "beyond the largest node");
    assert_eq!(number(ring.owner("10.0.0.2:5000257")), 2, "exactly on a node");
    let six = Ring::new(["[fd00::1]:50002", "[fd00::2]:50002"], 100);
    let owners = ["1", "2", "actor-1", "alice"]
        .map(|id| six.owner(id).and_then(|o| o.strip_suffix(":50002")));
    assert_eq!(owners, ["[fd00::2]", "[fd00::1]", "[fd00::1]", "[fd00::2]"].map(Some));
    assert_eq!(Ring::new(HOSTS, 0).owner("1"), None);
}

#[test]
fn ten_thousand_owners_have_the_known_digest() {
    let ring = Ring::new(HOSTS, 100);
    let mut counts = [0; 3];
    let mut owners = Sha256::new();
    for i in 0..10_000 {
        let owner = ring.owner(&format!("actor-{i}"));
        counts[usize::from(number(owner)) - 1] += 1;
        owners.update(format!("{}\n", owner.unwrap()));
    }
    assert_eq!(counts, [3_432, 3_318, 3_250]);
    assert_eq!(
        hex(&owners.finalize()),
        "7872aae839938b0ee543b182d76a55eb7a26658c93990d42935e739004f78023"
    );
    let (mut values, mut lines) = (Sha256::new(), Sha256::new());
    for (value, host) in ring.nodes() {
        values.update(value.to_le_bytes());
        lines.update(format!("{value}={host}\n"));
    }
    assert_eq!(
        hex(&values.finalize()),
        "6df330442e5d6d61e380dab6c64540ac6678452cd56957b3e911af797bf3c620"
    );
    assert_eq!(
        hex(&lines.finalize()),
        "5afd4a013e1af9399c3a14ffe56ff0745384826bc8bcbed8f1c9b66a2ac71eea"
    );
}

/// The shares add up to the whole ring, and are those of ten thousand actors.
#[test]
fn shares_are_the_parts_of_the_ring() {
    let shares = Ring::new(HOSTS, VIRTUAL_NODES).shares();
    let sum: f64 = shares.values().sum();
    assert!((sum - 1.0).abs() < 1e-9, "{shares:?}");
    for (host, actors) in HOSTS.iter().zip([0.3432, 0.3318, 0.3250]) {
        assert!((shares[host] - actors).abs() < 0.02, "{host}: {shares:?}");
    }
    assert!(Ring::new(HOSTS, 0).shares().is_empty());
    let one = Ring::new([HOSTS[0]], 1).shares();
    assert!((one[HOSTS[0]] - 1.0).abs() < 1e-9, "{one:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Actors move only to the host that joins; the spread stays within the bounds of 100 virtual
    /// nodes.
    #[test]
    fn a_join_moves_actors_to_the_new_host_only(hosts in 2_usize..12, salt in 0_u32..1_000) {
        let names: Vec<String> = (0..=hosts).map(|i| format!("10.{salt}.0.{i}:50002")).collect();
        let before = Ring::new(names[..hosts].iter().map(String::as_str), 100);
        let after = Ring::new(names.iter().map(String::as_str), 100);
        let mut moved = 0_usize;
        for i in 0..2_000 {
            let id = format!("{salt}-{i}");
            let (old, new) = (before.owner(&id), after.owner(&id));
            if old != new {
                prop_assert_eq!(new, names.last().map(String::as_str));
                moved += 1;
            }
        }
        let fair = 2_000 / (hosts + 1);
        prop_assert!((fair / 2..fair * 2).contains(&moved), "{} moved, fair is {}", moved, fair);
    }
}
