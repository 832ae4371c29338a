//! Findings by table: a healthy installation with one change.

mod facts;
mod sidecars;

use std::collections::BTreeMap;
use std::time::Duration;

use identity::stored::Stored;
use jiff::SignedDuration;
use rstest::rstest;
use serde_json::{Value, json};
use testkit::ca::Ca;

use super::findings;
use crate::checks::finding::Status;
use crate::checks::report::Report;
use crate::facts::{Account, Facts, Probe, Queries, ReadError};
use crate::pods::Pod;
use facts::{
    asking, deployment, empty, healthy, own, pod, scheduler, scheduler_claim, webhook,
    with_sidecar, without_scheduler,
};

/// What differs from all being well: ids, how they ended, and their texts.
fn differing(facts: &Facts) -> Vec<(&'static str, Status, String)> {
    let all = findings(facts).into_iter().filter(|finding| finding.status != Status::Ok);
    all.map(|finding| (finding.id, finding.status, finding.text)).collect()
}

#[test]
fn nothing_is_said_about_what_is_well() {
    let ca = Ca::new();
    assert_eq!(differing(&healthy(&ca)), []);
    assert_eq!(differing(&empty(&ca)), []);
}

#[test]
fn every_check_has_an_id_of_its_own_and_every_trouble_a_remedy() {
    let ca = Ca::new();
    for facts in [healthy(&ca), empty(&ca)] {
        let mut ids: Vec<_> = findings(&facts).iter().map(|f| (f.group, f.id)).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
    let mut broken = healthy(&ca);
    broken.own.workloads = Ok(own().workloads.unwrap().split_off(1));
    broken.trust.stored = Ok(None);
    for finding in findings(&broken) {
        assert_eq!(finding.remedy.is_none(), finding.status == Status::Ok, "{finding:?}");
    }
}

fn forbidden<T>(doing: &str) -> Result<T, ReadError> {
    Err(ReadError::Forbidden(doing.to_owned()))
}

type Change = fn(&mut Facts);

/// One thing is changed, and exactly these findings are not well any more.
#[rstest]
#[case::old_kubernetes(|f: &mut Facts| f.version = json!({"gitVersion": "v1.29.0"}), &[("api-version", Status::Error)])]
#[case::no_group(|f: &mut Facts| f.cluster.groups = Ok(vec!["apps/v1".into()]), &[("api-groups", Status::Error)])]
#[case::clock_off(|f: &mut Facts| f.here += SignedDuration::from_secs(90), &[("api-clock", Status::Warning)])]
#[case::clock_far_off(|f: &mut Facts| f.here += SignedDuration::from_hours(1), &[("api-clock", Status::Error)])]
#[case::no_nodes(|f: &mut Facts| f.cluster.nodes = Ok(vec![]), &[("nodes-usable", Status::Error)])]
#[case::cordoned(|f: &mut Facts| f.cluster.nodes.as_mut().unwrap()[0]["spec"]["unschedulable"] = json!(true),
    &[("nodes-usable", Status::Error)])]
#[case::windows(|f: &mut Facts| f.cluster.nodes.as_mut().unwrap()[0]["status"]["nodeInfo"]["operatingSystem"] = json!("windows"),
    &[("nodes-usable", Status::Error)])]
#[case::node_clock(|f: &mut Facts| f.cluster.heartbeats.as_mut().unwrap()[0]["spec"]["renewTime"] = json!("2020-01-01T00:00:00Z"),
    &[("nodes-clock", Status::Warning)])]
#[case::nodes_forbidden(|f: &mut Facts| f.cluster.nodes = forbidden("list nodes"),
    &[("nodes-usable", Status::Unknown), ("nodes-clock", Status::Unknown)])]
#[case::operator_down(|f: &mut Facts| f.own.workloads.as_mut().unwrap()[0]["status"] = json!({}), &[("operator-ready", Status::Error)])]
#[case::sentry_gone(|f: &mut Facts| { f.own.workloads.as_mut().unwrap().remove(1); }, &[("sentry-ready", Status::Error)])]
#[case::injector_off(|f: &mut Facts| { f.own.workloads.as_mut().unwrap().remove(2); }, &[("injector-ready", Status::Warning)])]
#[case::actors_off(|f: &mut Facts| { f.own.workloads.as_mut().unwrap().remove(3); }, &[])]
#[case::half_upgraded(|f: &mut Facts| f.own.workloads.as_mut().unwrap()[1]["spec"]["template"]["spec"]["containers"][0]["image"] = json!("r/sentry:1.17.0"),
    &[("versions", Status::Error)])]
#[case::no_address(|f: &mut Facts| { f.own.endpoint_slices.as_mut().unwrap().remove(0); }, &[("services", Status::Error)])]
#[case::not_ready_address(|f: &mut Facts| f.own.endpoint_slices.as_mut().unwrap()[0]["endpoints"][0]["conditions"]["ready"] = json!(false),
    &[("services", Status::Error)])]
#[case::no_leader(|f: &mut Facts| f.own.leases = Ok(vec![]), &[("operator-lease", Status::Warning)])]
#[case::old_leader(|f: &mut Facts| f.own.leases.as_mut().unwrap()[0]["spec"]["renewTime"] = json!("2020-01-01T00:00:00Z"),
    &[("operator-lease", Status::Warning)])]
#[case::no_configuration(|f: &mut Facts| f.own.configuration = Ok(None),
    &[("configuration", Status::Error), ("trust-domain", Status::Warning)])]
#[case::mtls_off(|f: &mut Facts| f.own.configuration.as_mut().unwrap().as_mut().unwrap()["spec"]["mtls"]["enabled"] = json!(false),
    &[("configuration", Status::Warning)])]
#[case::other_trust_domain(|f: &mut Facts| f.own.configuration.as_mut().unwrap().as_mut().unwrap()["spec"]["mtls"]["controlPlaneTrustDomain"] = json!("td"),
    &[("trust-domain", Status::Error)])]
#[case::own_volume(|f: &mut Facts| f.own.claims = Ok(vec![scheduler_claim(0)]), &[])]
#[case::volume_of_a_second_scheduler(|f: &mut Facts| f.own.claims = Ok(vec![scheduler_claim(0), scheduler_claim(1)]),
    &[("leftovers", Status::Warning)])]
#[case::volumes_of_three_schedulers(|f: &mut Facts| {
    scheduler(f)["spec"]["replicas"] = json!(3);
    scheduler(f)["status"]["readyReplicas"] = json!(3);
    f.own.claims = Ok((0..3).map(scheduler_claim).collect());
}, &[])]
#[case::left_volume(|f: &mut Facts| { without_scheduler(f, "false"); f.own.claims = Ok(vec![scheduler_claim(0)]); },
    &[("leftovers", Status::Warning)])]
#[case::no_scheduler(|f: &mut Facts| without_scheduler(f, "false"), &[])]
#[case::address_of_no_scheduler(|f: &mut Facts| without_scheduler(f, "true"), &[("scheduler-ready", Status::Error)])]
#[case::scheduler_not_ready(|f: &mut Facts| scheduler(f)["status"]["readyReplicas"] = json!(0), &[("scheduler-ready", Status::Error)])]
#[case::scheduler_without_service(|f: &mut Facts| f.own.services.as_mut().unwrap().retain(|s| s["metadata"]["name"] != "dapr-scheduler-server-a"),
    &[("services", Status::Error)])]
#[case::scheduler_of_another_version(|f: &mut Facts| scheduler(f)["spec"]["template"]["spec"]["containers"][0]["image"] = json!("r/scheduler:1.18.1"),
    &[("versions", Status::Error)])]
#[case::dapr_s_dashboard(|f: &mut Facts| {
    let mut dashboard = deployment("dapr-dashboard", &json!([]), &json!([]));
    dashboard["spec"]["template"]["spec"]["containers"][0]["image"] = json!("ghcr.io/dapr/dashboard:0.15.0");
    f.own.workloads.as_mut().unwrap().push(dashboard);
}, &[("leftovers", Status::Warning)])]
#[case::our_dashboard(|f: &mut Facts| {
    let dashboard = deployment("dapr-dashboard", &json!([]), &json!([]));
    f.own.workloads.as_mut().unwrap().push(dashboard);
}, &[])]
#[case::scheduler_kept(|f: &mut Facts| {
    let container = &mut scheduler(f)["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!("ghcr.io/dapr/scheduler:1.18.1");
    container["ports"] = json!([{"containerPort": 50006}]);
    f.own.claims = Ok((0..3).map(scheduler_claim).collect());
}, &[])]
#[case::no_component_definition(|f: &mut Facts| { f.definitions.insert("components.dapr.io".into(), Ok(None)); },
    &[("definitions-present", Status::Error)])]
#[case::definitions_of_1_17(|f: &mut Facts| { f.definitions.insert("mcpservers.dapr.io".into(), Ok(None)); },
    &[("definitions-present", Status::Warning)])]
#[case::replaceme(|f: &mut Facts| f.definitions.get_mut("subscriptions.dapr.io").unwrap().as_mut().unwrap().as_mut().unwrap()
    ["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["namespace"] = json!("replaceme"),
    &[("conversion-webhook", Status::Error)])]
#[case::definitions_forbidden(|f: &mut Facts| { f.definitions.insert("components.dapr.io".into(), forbidden("get it")); },
    &[("definitions-present", Status::Unknown), ("definitions-schema", Status::Unknown),
      ("definitions-newer", Status::Unknown)])]
#[case::definitions_of_a_newer_release(|f: &mut Facts| f.definitions.get_mut("components.dapr.io").unwrap().as_mut().unwrap().as_mut().unwrap()
    ["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["later"] = json!({}),
    &[("definitions-newer", Status::Warning)])]
#[case::no_webhook(|f: &mut Facts| f.cluster.webhook = Ok(None),
    &[("webhook-registered", Status::Error), ("webhook-ca", Status::Error)])]
#[case::webhook_elsewhere(|f: &mut Facts| f.cluster.webhook.as_mut().unwrap().as_mut().unwrap()["webhooks"][0]["clientConfig"]["service"]["namespace"] = json!("other"),
    &[("webhook-registered", Status::Error)])]
#[case::ca_bundle_empty(|f: &mut Facts| f.cluster.webhook.as_mut().unwrap().as_mut().unwrap()["webhooks"][0]["clientConfig"]["caBundle"] = json!(""),
    &[("webhook-ca", Status::Error)])]
#[case::ca_bundle_of_others(|f: &mut Facts| *f.cluster.webhook.as_mut().unwrap() = Some(webhook(&Ca::new())),
    &[("webhook-ca", Status::Error)])]
#[case::no_guard(|f: &mut Facts| { f.cluster.policies.as_mut().unwrap().remove("dapr-sidecar-guard"); }, &[("guard", Status::Warning)])]
#[case::guard_takes_notes(|f: &mut Facts| { f.cluster.policies.as_mut().unwrap().insert("dapr-sidecar-guard".into(), Some(vec!["Audit".into()])); },
    &[("guard", Status::Warning)])]
#[case::policy_without_binding(|f: &mut Facts| { f.cluster.policies.as_mut().unwrap().insert("dapr-components".into(), None); },
    &[("resource-policies", Status::Warning)])]
#[case::no_ca(|f: &mut Facts| f.trust.stored = Ok(Some(Stored::default())),
    &[("trust-bundle", Status::Error), ("issuer-expiry", Status::Error)])]
#[case::secret_gone(|f: &mut Facts| f.trust.stored = Ok(None),
    &[("trust-bundle", Status::Error), ("issuer-expiry", Status::Error)])]
#[case::secret_forbidden(|f: &mut Facts| f.trust.stored = forbidden("get Secret"),
    &[("trust-bundle", Status::Unknown), ("issuer-expiry", Status::Unknown)])]
#[case::naked(|f: &mut Facts| f.cluster.pods = Ok(vec![pod("shop", "cart-1", &asking("cart"), &json!([{"name": "app"}]))]),
    &[("sidecars-missing", Status::Error)])]
#[case::naked_where_the_webhook_is_not_called(|f: &mut Facts| f.cluster.pods = Ok(vec![pod("kube-system", "x", &asking("x"), &json!([{"name": "app"}]))]), &[])]
#[case::sidecar_too_old(|f: &mut Facts| f.cluster.pods = Ok(vec![pod("shop", "cart-1", &asking("cart"), &with_sidecar("1.15.0"))]),
    &[("sidecar-versions", Status::Warning)])]
#[case::sidecar_too_new(|f: &mut Facts| f.cluster.pods = Ok(vec![pod("shop", "cart-1", &asking("cart"), &with_sidecar("1.19.0"))]),
    &[("sidecar-versions", Status::Warning)])]
#[case::sidecar_a_little_older(|f: &mut Facts| f.cluster.pods = Ok(vec![pod("shop", "cart-1", &asking("cart"), &with_sidecar("1.16.5"))]), &[])]
#[case::app_id_twice(|f: &mut Facts| f.cluster.pods = Ok(["a", "b"].map(|name| pod("shop", name, &asking("cart"), &with_sidecar("1.18.3"))).to_vec()),
    &[("app-ids", Status::Warning)])]
#[case::component_event(|f: &mut Facts| f.cluster.events = Ok(vec![json!({"reason": "SecretNotFound", "message": "no secret",
    "involvedObject": {"apiVersion": "dapr.io/v1alpha1", "namespace": "shop", "name": "store"}})]),
    &[("components", Status::Warning)])]
#[case::configuration_event(|f: &mut Facts| f.cluster.events = Ok(vec![json!({"reason": "SecretStoreNotFound", "message": "no store",
    "involvedObject": {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "namespace": "shop", "name": "tracing"}})]),
    &[("components", Status::Warning)])]
#[case::pod_without_its_configuration(|f: &mut Facts| f.cluster.events = Ok(vec![json!({"reason": "ConfigurationNotFound", "message": "no",
    "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "cart-1"}})]),
    &[("components", Status::Warning)])]
#[case::event_on_what_is_gone(|f: &mut Facts| f.cluster.events = Ok(vec![json!({"reason": "SecretNotFound",
    "involvedObject": {"apiVersion": "dapr.io/v1alpha1", "namespace": "shop", "name": "gone"}})]), &[])]
#[case::component_condition(|f: &mut Facts| f.cluster.components.as_mut().unwrap()[0]["status"]["conditions"] =
    json!([{"type": "Ready", "status": "False", "reason": "UnknownType", "message": "no such type"}]),
    &[("components", Status::Warning)])]
#[case::pods_forbidden(|f: &mut Facts| f.cluster.pods = forbidden("list pods"), &[
    ("images-pulled", Status::Unknown), ("sidecars-missing", Status::Unknown), ("sidecars-ready", Status::Unknown),
    ("sidecar-versions", Status::Unknown), ("app-ids", Status::Unknown),
    ("workload-certificates", Status::Unknown), ("sidecar-connections", Status::Unknown)])]
#[case::workloads_forbidden(|f: &mut Facts| f.own.workloads = forbidden("list deployments"), &[
    ("operator-ready", Status::Unknown), ("sentry-ready", Status::Unknown), ("versions", Status::Unknown)])]
#[case::no_control_plane(|f: &mut Facts| f.own.workloads = Ok(vec![]), &[("installed", Status::Error)])]
fn reports_one_change(#[case] change: Change, #[case] want: &[(&str, Status)]) {
    let mut facts = healthy(&Ca::new());
    change(&mut facts);
    let found = differing(&facts);
    let ids: Vec<_> = found.iter().map(|(id, status, _)| (*id, *status)).collect();
    assert_eq!(ids, want, "{found:#?}");
}

fn asked(
    facts: &mut Facts,
    change: impl FnOnce(
        &mut Vec<Account>,
        &mut Result<Result<(), String>, ReadError>,
        &mut Result<Probe, ReadError>,
    ),
) {
    if let Queries::Installed { accounts, conversion, probe } = &mut facts.queries {
        change(accounts, conversion, probe);
    }
}

#[rstest]
#[case::naked(Ok(Probe::WithoutSidecar { as_controller: true }), Status::Error, "a new pod gets no sidecar (dry run)")]
#[case::naked_person(Ok(Probe::WithoutSidecar { as_controller: false }), Status::Warning, "a pod that you create")]
#[case::guarded(Ok(Probe::Denied("ValidatingAdmissionPolicy 'dapr-sidecar-guard' denied".into())), Status::Error, "the admission guard rejects it")]
#[case::refused(Ok(Probe::Denied("exceeded quota".into())), Status::Error, "exceeded quota")]
#[case::forbidden(
    forbidden("create pods"),
    Status::Unknown,
    "cannot create pods: you lack the right"
)]
fn reports_the_result_of_the_probe(
    #[case] outcome: Result<Probe, ReadError>,
    #[case] status: Status,
    #[case] words: &str,
) {
    let mut facts = healthy(&Ca::new());
    asked(&mut facts, |_, _, probe| *probe = outcome);
    let found = differing(&facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].0, found[0].1), ("injection-works", status));
    assert!(found[0].2.contains(words), "{found:#?}");
}

#[test]
fn names_the_port_of_the_injector() {
    let mut facts = healthy(&Ca::new());
    facts.own.workloads.as_mut().unwrap()[2]["spec"]["template"]["spec"]["containers"][0]["args"] =
        json!(["--port", "24000"]);
    asked(&mut facts, |_, _, probe| *probe = Ok(Probe::WithoutSidecar { as_controller: true }));
    let all = findings(&facts);
    let remedy = all.iter().find(|f| f.id == "injection-works").and_then(|f| f.remedy.as_deref());
    assert!(remedy.is_some_and(|remedy| remedy.contains("TCP 24000")), "{remedy:?}");
}

#[test]
fn names_a_missing_right() {
    let mut facts = healthy(&Ca::new());
    asked(&mut facts, |accounts, _, _| accounts[1].rights[0].1 = Ok(false));
    let found = differing(&facts);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1), ("rights-sentry", Status::Error));
    assert!(found[0].2.contains("create tokenreviews.authentication.k8s.io"), "{found:#?}");
}

#[rstest]
#[case::plenty(Duration::from_hours(365 * 24), Duration::from_hours(24), None)]
#[case::little(Duration::from_hours(100), Duration::from_hours(80), Some(Status::Warning))]
#[case::over(Duration::from_hours(100), Duration::from_hours(101), Some(Status::Error))]
fn warns_before_a_ca_expires(
    #[case] lifetime: Duration,
    #[case] age: Duration,
    #[case] want: Option<Status>,
) {
    let mut facts = healthy(&Ca::with_lifetime(lifetime));
    facts.here += SignedDuration::try_from(age).unwrap();
    facts.there = Some(facts.here);
    let expiry = |finding: &&crate::checks::finding::Finding| {
        matches!(finding.id, "issuer-expiry" | "root-expiry")
    };
    for finding in findings(&facts).iter().filter(expiry) {
        assert_eq!(finding.status, want.unwrap_or(Status::Ok), "{finding:?}");
    }
    let works = findings(&facts).iter().all(|f| f.id != "trust-bundle" || f.status == Status::Ok);
    assert_eq!(works, want != Some(Status::Error), "an expired CA cannot sign");
}

#[test]
fn unpublished_trust_anchors_are_an_error() {
    let mut facts = healthy(&Ca::new());
    facts.trust.published = Ok(Some(Ca::new().pem().anchors.clone()));
    let found = differing(&facts);
    let ids: Vec<_> = found.iter().map(|(id, status, _)| (*id, *status)).collect();
    let older = [
        ("conversion-webhook", Status::Warning),
        ("trust-bundle", Status::Error),
        ("webhook-ca", Status::Warning),
        ("workload-certificates", Status::Error),
    ];
    assert_eq!(ids, older, "{found:#?}");
}

#[test]
fn checks_the_reference() {
    let mut facts = healthy(&Ca::new());
    // Its operator declares no port of the webhook, and it has neither guard nor policies.
    facts.own.workloads.as_mut().unwrap()[0] = deployment("dapr-operator", &json!([]), &json!([]));
    facts.cluster.policies = Ok(BTreeMap::new());
    facts.own.claims =
        Ok(vec![json!({"metadata": {"name": "dapr-scheduler-data-dir-dapr-scheduler-server-0"}})]);
    assert_eq!(differing(&facts), []);
    let text = Report::new(&facts, findings(&facts)).to_json().unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["installation"], "dapr");
}

#[rstest]
#[case::right_missing(|f: &mut Facts| if let Queries::PreInstall(all) = &mut f.queries { all[2].1 = Ok(false) },
    &[("clusterroles", Status::Error)])]
#[case::no_storage(|f: &mut Facts| f.cluster.storage_classes = Ok(vec![]), &[("storage-class", Status::Warning)])]
#[case::old_definition(|f: &mut Facts| { f.definitions.insert("components.dapr.io".into(), Ok(Some(json!({})))); },
    &[("definitions-left", Status::Warning)])]
#[case::webhook_left(|f: &mut Facts| f.cluster.webhook = Ok(Some(webhook(&Ca::new()))), &[("webhook-left", Status::Error)])]
#[case::half_a_ca(|f: &mut Facts| f.trust.stored = Ok(Some(Stored::new(Some(Ca::new().pem().anchors.clone().into()), None, None))),
    &[("trust-bundle-left", Status::Error)])]
#[case::whole_ca(|f: &mut Facts| f.trust.stored = Ok(Some(Stored::from_pem(Ca::new().pem()))), &[])]
#[case::installed(|f: &mut Facts| {
    let labels = json!({"app": "dapr-operator"});
    f.cluster.pods = Ok(vec![Pod::read(&json!({"metadata": {"namespace": "dapr", "name": "o", "labels": labels}}))]);
}, &[("no-installation", Status::Warning)])]
fn reports_obstacles_to_an_installation(#[case] change: Change, #[case] want: &[(&str, Status)]) {
    let mut facts = empty(&Ca::new());
    change(&mut facts);
    let found = differing(&facts);
    let ids: Vec<_> = found.iter().map(|(id, status, _)| (*id, *status)).collect();
    assert_eq!(ids, want, "{found:#?}");
}

#[test]
fn names_the_namespace_of_another_control_plane() {
    let mut facts = healthy(&Ca::new());
    facts.own.workloads = Ok(Vec::new());
    facts.cluster.pods = Ok(vec![Pod::read(&json!({
        "metadata": {"namespace": "dapr", "name": "o", "labels": {"app": "dapr-operator"}}}))]);
    let all = findings(&facts);
    let installed = all.iter().find(|finding| finding.id == "installed").unwrap();
    assert_eq!(
        installed.remedy.as_deref(),
        Some("a control plane is installed in namespace dapr: add --namespace dapr")
    );
}

/// Both formats of the report, which contain no private key.
#[test]
fn prints_the_report() {
    let ca = Ca::new();
    let mut facts = healthy(&ca);
    facts.cluster.nodes = Ok(Vec::new());
    facts.cluster.heartbeats = forbidden("list leases in kube-node-lease");
    let report = Report::new(&facts, findings(&facts));
    assert!(!report.success());
    let (table, json) = (report.to_table(), report.to_json().unwrap());
    for text in [&table, &json, &format!("{facts:?}")] {
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        let key = ca.pem().issuer_key.lines().nth(1).unwrap().to_owned();
        assert!(!text.contains(&key), "{text}");
    }
    insta::assert_snapshot!("table", table);
    insta::assert_snapshot!("json", json);
}

#[test]
fn a_message_that_may_hold_a_secret_is_hidden() {
    let message = |of: &str| format!("{of}: dial redis://u:pl4nted@redis:6379: refused");
    let mut facts = healthy(&Ca::new());
    facts.cluster.events = Ok(vec![json!({"reason": "Planted", "message": message("event"),
        "involvedObject": {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "namespace": "shop", "name": "c"}})]);
    facts.cluster.components = Ok(vec![json!({"metadata": {"namespace": "shop", "name": "s"},
        "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Planted",
            "message": message("condition")}]}})]);
    let found = findings(&facts);
    let components = found.iter().find(|finding| finding.id == "components").unwrap();
    assert!(!components.text.contains("pl4nted"), "{}", components.text);
    assert_eq!(components.text.matches("Planted: (hidden)").count(), 2, "{}", components.text);
}
