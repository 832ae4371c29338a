//! Findings about the answers of sidecars.

use std::time::Duration;

use jiff::SignedDuration;
use rstest::rstest;
use serde_json::json;
use testkit::ca::{Ca, SvidOptions, TestSvid};

use super::facts::{asking, healthy, metadata, pod, presented, with_sidecar};
use super::{differing, findings, forbidden};
use crate::checks::finding::{Finding, Status};
use crate::facts::Facts;
use crate::facts::answers::Answers;

const CART: &str = "shop/cart-1";

fn answers(facts: &mut Facts) -> &mut Answers {
    facts.answers.as_mut().unwrap()
}

fn found(facts: &Facts, id: &str) -> Finding {
    findings(facts).into_iter().find(|finding| finding.id == id).unwrap()
}

/// The finding if the sidecar of `shop/cart` presents this certificate.
fn presenting(ca: &Ca, svid: &TestSvid, later: Duration) -> Finding {
    let mut facts = healthy(ca);
    answers(&mut facts).certificates.insert(CART.to_owned(), Ok(presented(svid)));
    facts.there = facts.there.map(|now| now + SignedDuration::try_from(later).unwrap());
    found(&facts, "workload-certificates")
}

#[test]
fn a_certificate_of_another_ca_is_an_error() {
    let finding = presenting(&Ca::new(), &Ca::new().svid("shop", "cart"), Duration::ZERO);
    assert_eq!(finding.status, Status::Error);
    let words = "(1 of 1 answered): shop/cart-1: certificate signed by unknown authority";
    assert!(finding.text.ends_with(words), "{}", finding.text);
}

#[rstest]
#[case("bank", "cart")]
#[case("shop", "other")]
fn the_certificate_of_another_app_is_an_error(#[case] namespace: &str, #[case] app: &str) {
    let ca = Ca::new();
    let finding = presenting(&ca, &ca.svid(namespace, app), Duration::ZERO);
    assert_eq!(finding.status, Status::Error);
    assert!(finding.text.contains("is that of another app, spiffe://"), "{}", finding.text);
}

#[rstest]
#[case::new(Duration::from_hours(1), Status::Ok, "valid and trusted (1 of 1 answered)")]
#[case::late(Duration::from_hours(9), Status::Warning, "shop/cart-1: expires in ")]
#[case::over(Duration::from_hours(11), Status::Error, "shop/cart-1: expired on ")]
fn a_certificate_that_is_not_renewed_is_said(
    #[case] later: Duration,
    #[case] status: Status,
    #[case] words: &str,
) {
    let ca = Ca::new();
    let options = SvidOptions { ttl: Duration::from_hours(10), ..SvidOptions::default() };
    let finding = presenting(&ca, &ca.svid_with("shop", "cart", &options), later);
    assert_eq!(finding.status, status, "{}", finding.text);
    assert!(finding.text.contains(words), "{}", finding.text);
}

#[test]
fn without_the_trust_anchors_it_is_unknown_whether_certificates_are_trusted() {
    let mut facts = healthy(&Ca::new());
    facts.trust.published = forbidden("get ConfigMap dapr-system/dapr-trust-bundle");
    let finding = found(&facts, "workload-certificates");
    assert_eq!(finding.status, Status::Unknown);
    assert!(finding.text.contains("dapr-trust-bundle"), "{}", finding.text);
}

#[rstest]
#[case("placement: disconnected", &["10.0.0.1:50006"], "shop/cart-1 to placement")]
#[case("placement: connected", &[], "shop/cart-1 to the scheduler")]
#[case("", &[], "shop/cart-1 to placement and the scheduler")]
fn a_lost_connection_is_a_warning(
    #[case] placement: &str,
    #[case] schedulers: &[&str],
    #[case] words: &str,
) {
    let mut facts = healthy(&Ca::new());
    let metadata = metadata(placement, schedulers);
    answers(&mut facts).metadata.insert(CART.to_owned(), Ok(metadata));
    let found = differing(&facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].0, found[0].1), ("sidecar-connections", Status::Warning));
    assert!(found[0].2.ends_with(&format!("(1 of 1 answered): {words}")), "{found:#?}");
}

#[test]
fn a_sidecar_without_addresses_needs_no_connections() {
    let mut facts = healthy(&Ca::new());
    let containers = json!([{"name": "daprd", "image": "d:1.18.3", "args": []}]);
    facts.cluster.pods = Ok(vec![pod("shop", "cart-1", &asking("cart"), &containers)]);
    answers(&mut facts).metadata.insert(CART.to_owned(), Ok(metadata("", &[])));
    answers(&mut facts).certificates.clear();
    assert_eq!(differing(&facts), []);
    let finding = found(&facts, "workload-certificates");
    assert_eq!(finding.text, "no sidecar that is ready uses mTLS");
}

#[test]
fn what_sidecars_do_not_answer_is_unknown() {
    let mut facts = healthy(&Ca::new());
    let refused = || forbidden("get metadata");
    answers(&mut facts).metadata.insert(CART.to_owned(), refused());
    answers(&mut facts).certificates.insert(CART.to_owned(), forbidden("forward a port"));
    let ids: Vec<_> = differing(&facts).into_iter().map(|(id, status, _)| (id, status)).collect();
    let unknown = ["workload-certificates", "sidecar-connections"].map(|id| (id, Status::Unknown));
    assert_eq!(ids, unknown);
}

#[test]
fn the_number_of_sidecars_that_were_not_asked_is_said() {
    let mut facts = healthy(&Ca::new());
    let second = pod("shop", "cart-2", &asking("cart"), &with_sidecar("1.18.3"));
    let mut pods = facts.cluster.pods.clone().unwrap();
    pods.push(second);
    for pod in &mut pods {
        pod.owner = "cart".to_owned();
    }
    facts.cluster.pods = Ok(pods);
    for id in ["workload-certificates", "sidecar-connections"] {
        let finding = found(&facts, id);
        assert!(finding.text.ends_with("(1 of 2 answered)"), "{}", finding.text);
    }
    assert_eq!(differing(&facts), []);
}

#[test]
fn nothing_is_said_about_sidecars_that_were_not_to_be_asked() {
    let mut facts = healthy(&Ca::new());
    facts.answers = None;
    let ids: Vec<_> = findings(&facts).iter().map(|finding| finding.id).collect();
    assert!(!ids.contains(&"workload-certificates") && !ids.contains(&"sidecar-connections"));
}
