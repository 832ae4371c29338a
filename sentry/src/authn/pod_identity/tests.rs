use k8s_openapi::api::authentication::v1::UserInfo;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn token(claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part("{}"), part(claims), part("signature"))
}

fn status(username: &str, extra: &[(&str, &str)]) -> TokenReviewStatus {
    let extra = extra.iter().map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()])).collect();
    let user =
        UserInfo { username: Some(username.to_owned()), extra: Some(extra), ..UserInfo::default() };
    TokenReviewStatus {
        authenticated: Some(true),
        user: Some(user),
        ..TokenReviewStatus::default()
    }
}

fn audiences() -> [String; 2] {
    ["dapr.io/sentry", "spiffe://td/ns/dapr-system/dapr-sentry"].map(str::to_owned)
}

#[rstest]
#[case::ours(&["x", "dapr.io/sentry"], true)]
#[case::none_stated(&[], true)]
#[case::others(&["https://elsewhere"], false)]
fn checks_the_accepted_audiences(#[case] accepted: &[&str], #[case] want: bool) {
    let mut answer = status(SHOP, &[]);
    answer.audiences = Some(accepted.iter().map(|&audience| audience.to_owned()).collect());
    let owner = TokenOwner::from_review(&answer, &token(POD_CLAIM), &audiences());
    assert_eq!(owner.is_ok(), want, "{owner:?}");
}

const SHOP: &str = "system:serviceaccount:shop:default";
const POD_CLAIM: &str = r#"{"kubernetes.io":{"pod":{"name":"cart-0"}},"exp":1}"#;

#[test]
fn reads_the_pod_from_the_claims() {
    for text in [token(POD_CLAIM), POD_CLAIM.to_owned()] {
        let owner = TokenOwner::from_review(&status(SHOP, &[]), &text, &audiences()).unwrap();
        let want = TokenOwner {
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            pod: "cart-0".to_owned(),
            pod_uid: None,
        };
        assert_eq!(owner, want, "{text}");
    }
}

#[test]
fn prefers_the_pod_that_the_api_server_states() {
    let extra = [(EXTRA_POD_NAME, "cart-1"), (EXTRA_POD_UID, "u1")];
    let owner =
        TokenOwner::from_review(&status(SHOP, &extra), &token(POD_CLAIM), &audiences()).unwrap();
    assert_eq!((owner.pod.as_str(), owner.pod_uid.as_deref()), ("cart-1", Some("u1")));
    assert!(owner.is_bound_to(&PodView { uid: "u1".to_owned(), ..PodView::default() }));
    assert!(!owner.is_bound_to(&PodView { uid: "u2".to_owned(), ..PodView::default() }));
}

#[rstest]
#[case::user("alice", &token(POD_CLAIM), Refusal::NotServiceAccount)]
#[case::node("system:node:n1", &token(POD_CLAIM), Refusal::NotServiceAccount)]
#[case::group("system:serviceaccounts:shop:default", &token(POD_CLAIM), Refusal::NotServiceAccount)]
#[case::no_jws(SHOP, "abc", Refusal::Claims("not a compact JWS"))]
#[case::bad_base64(SHOP, "a.b!.c", Refusal::Claims("not a compact JWS"))]
#[case::no_json(SHOP, &token("x"), Refusal::Claims("claims are not JSON"))]
#[case::legacy_token(SHOP, &token("{}"), Refusal::NoPodClaim)]
#[case::empty_name(SHOP, &token(r#"{"kubernetes.io":{"pod":{"name":""}}}"#), Refusal::NoPodClaim)]
fn refuses_tokens(#[case] username: &str, #[case] token: &str, #[case] want: Refusal) {
    assert_eq!(TokenOwner::from_review(&status(username, &[]), token, &audiences()), Err(want));
}

#[test]
fn refuses_tokens_that_the_api_server_rejects() {
    let mut answer = status(SHOP, &[]);
    answer.authenticated = Some(false);
    assert_eq!(TokenOwner::from_review(&answer, "", &audiences()), Err(Refusal::NotAuthenticated));
    answer.error = Some("expired".to_owned());
    let error = TokenOwner::from_review(&answer, "", &audiences()).unwrap_err();
    assert_eq!(error.to_string(), "invalid token: expired");
}

fn owner(namespace: &str) -> TokenOwner {
    TokenOwner {
        namespace: namespace.to_owned(),
        service_account: "default".to_owned(),
        pod: "pod-0".to_owned(),
        pod_uid: None,
    }
}

fn pod(annotations: &[(&str, &str)]) -> PodView {
    let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    PodView::new("u", "default", &annotations.collect())
}

const SYSTEM: ControlPlane<'_> = ControlPlane { namespace: "dapr-system" };

#[rstest]
#[case::annotation("shop", &[(ANNOTATION_APP_ID, "cart")], "cart", TrustDomainSource::Public)]
#[case::pod_name("shop", &[], "pod-0", TrustDomainSource::Public)]
#[case::empty_config("shop", &[(ANNOTATION_CONFIG, "")], "pod-0", TrustDomainSource::Public)]
#[case::blank_config("shop", &[(ANNOTATION_CONFIG, " ")], "pod-0", TrustDomainSource::Public)]
#[case::config(
    "shop", &[(ANNOTATION_CONFIG, "c")], "pod-0", TrustDomainSource::Configuration("c".to_owned())
)]
fn accepts_pods(
    #[case] namespace: &str,
    #[case] annotations: &[(&str, &str)],
    #[case] id: &str,
    #[case] want: TrustDomainSource,
) {
    assert_eq!(check(&owner(namespace), &pod(annotations), namespace, id, SYSTEM), Ok(want));
}

/// Checks a pod of the control plane's namespace with this account.
fn check_part(account: &str, part: &str, id: &str) -> Result<TrustDomainSource, Refusal> {
    let owner = TokenOwner { service_account: account.to_owned(), ..owner("dapr-system") };
    let service_account = account.to_owned();
    let pod = PodView { service_account, ..pod(&[(ANNOTATION_CONTROL_PLANE, part)]) };
    check(&owner, &pod, "dapr-system", id, SYSTEM)
}

#[rstest]
fn accepts_a_service_with_its_own_account(
    #[values("operator", "placement", "injector", "sentry", "scheduler")] part: &str,
) {
    let id = format!("dapr-{part}");
    assert_eq!(check_part(&id, part, &id), Ok(TrustDomainSource::ControlPlane));
}

#[rstest]
#[case::default("default", "operator")]
#[case::of_another_service("dapr-placement", "operator")]
#[case::longer("dapr-operator-2", "operator")]
fn refuses_a_service_with_another_account(#[case] account: &str, #[case] part: &str) {
    let refused = check_part(account, part, &format!("dapr-{part}")).unwrap_err();
    let want = format!(
        "control plane service '{part}' must run as ServiceAccount 'dapr-{part}', not '{account}'"
    );
    assert_eq!((refused.to_string(), refused.label()), (want, "control_plane"));
}

#[rstest]
#[case::namespace("other", &[], "pod-0", "namespace mismatch; received namespace: other")]
#[case::wrong_id(
    "shop", &[(ANNOTATION_APP_ID, "cart")], "till",
    "app-id mismatch. expected: cart, received: till"
)]
#[case::legacy_id("shop", &[], "shop:default", "app-id mismatch. expected: pod-0, received: shop:default")]
#[case::outside(
    "shop", &[(ANNOTATION_CONTROL_PLANE, "operator")], "dapr-operator",
    "control plane service in namespace 'shop' is not allowed"
)]
fn refuses_pods(
    #[case] requested_namespace: &str,
    #[case] annotations: &[(&str, &str)],
    #[case] id: &str,
    #[case] want: &str,
) {
    let refused = check(&owner("shop"), &pod(annotations), requested_namespace, id, SYSTEM);
    assert_eq!(refused.unwrap_err().to_string(), want);
}

#[rstest]
#[case::unknown(&[(ANNOTATION_CONTROL_PLANE, "dashboard")], "unknown control plane service 'pod-0'")]
#[case::app_id(
    &[(ANNOTATION_CONTROL_PLANE, "operator"), (ANNOTATION_APP_ID, "x")],
    "control plane service 'pod-0' cannot have annotation 'dapr.io/app-id'"
)]
fn refuses_invalid_control_plane_services(
    #[case] annotations: &[(&str, &str)],
    #[case] want: &str,
) {
    let pod = pod(annotations);
    let refused = check(&owner("dapr-system"), &pod, "dapr-system", "dapr-operator", SYSTEM);
    assert_eq!(refused.unwrap_err().to_string(), want);
}

#[test]
fn refuses_a_pod_of_another_service_account() {
    let pod = PodView { service_account: "admin".to_owned(), ..PodView::default() };
    let refused = check(&owner("shop"), &pod, "shop", "pod-0", SYSTEM);
    assert_eq!(refused.unwrap_err().to_string(), "pod service account mismatch");
}

#[test]
fn reads_the_trust_domain_of_a_configuration() {
    assert_eq!(configured_trust_domain(None), Ok(TrustDomain::public()));
    assert_eq!(configured_trust_domain(Some("")), Ok(TrustDomain::public()));
    assert_eq!(configured_trust_domain(Some("td")).unwrap().as_str(), "td");
    let error = configured_trust_domain(Some("T D")).unwrap_err().to_string();
    assert!(
        error.starts_with("failed to parse trust domain \"T D\": trust domain char"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_token_panics(token in ".*") {
        let _ = TokenOwner::from_review(&status(SHOP, &[]), &token, &audiences());
    }
}
