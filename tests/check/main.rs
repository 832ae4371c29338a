//! `daprctl check` against real API servers: a cluster before an installation, a healthy
//! installation, and one with one fault after the other.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

mod fixture;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::injector_fixture::NAMESPACE;
use blackbox::progress::step;
use blackbox::{
    ApiCluster, ApiClusterOptions, Cluster, Deadline, Scratch, build_daprctl, environment, process,
    until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::ca::Ca;

use fixture::{Installed, Run, START, beat, node, run};

/// Time limit that the command itself uses where a test cluster needs a moment.
const WAIT: [&str; 2] = ["--wait", "10s"];

#[test]
fn a_cluster_is_judged_before_the_installation() -> Result<()> {
    let api = ApiCluster::start_with(ApiClusterOptions {
        controllers: false,
        ..ApiClusterOptions::default()
    })?;
    let first = run(api.cluster(), &["--pre"])?;
    ensure!(first.code == Some(1), "{}", first.text);
    let expected = ["nodes-usable error", "storage-class warning"];
    ensure!(first.troubles() == expected, "{:?}", first.troubles());

    node(&api)?;
    beat(&api)?;
    let second = run(api.cluster(), &["--pre"])?;
    ensure!(second.code == Some(0), "{}", second.text);
    ensure!(second.troubles() == ["storage-class warning"], "{:?}", second.troubles());

    let unprivileged = run(&person(&api, "nobody")?, &["--pre"])?;
    ensure!(unprivileged.code == Some(1), "{}", unprivileged.text);
    unprivileged.expect("clusterroles", "error", "you cannot create clusterroles")?;
    unprivileged.expect("nodes-usable", "unknown", "cannot list nodes: you lack the right")
}

#[test]
fn an_api_server_that_does_not_answer_is_one_finding() -> Result<()> {
    let scratch = Scratch::new("check")?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", environment::free_port()?)}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let cluster = Cluster::new(scratch.write("kubeconfig", config.to_string())?);
    let found = run(&cluster, &[])?;
    ensure!(found.code == Some(1), "{}", found.text);
    ensure!(found.troubles() == ["api-answers error"], "{:?}", found.troubles());
    Ok(())
}

/// One installation serves all steps, so this is one test with named steps.
#[test]
fn an_installation_is_judged_by_what_is_wrong_with_it() -> Result<()> {
    let mut all = step("install", Installed::start)?;
    step("nothing is wrong", || nothing_is_wrong(&all))?;
    step("a support bundle has no secret", || bundle_without_secrets(&all))?;
    step("the webhook is not reached", || webhook_unreachable(&all))?;
    step("the caBundle is another's", || foreign_ca_bundle(&all))?;
    step("a definition is gone", || definition_gone(&all))?;
    step("the rights of sentry are gone", || rights_gone(&all))?;
    step("the caller may do nothing", || caller_without_rights(&all))?;
    step("the CA has expired", || expired_ca(&mut all))
}

/// Exit code 0, nothing left behind, no key in the output.
fn nothing_is_wrong(all: &Installed) -> Result<()> {
    let found = is_well(all)?;
    ensure!(found.code == Some(0), "{}", found.text);
    ensure!(found.report["installation"] == "trilby", "{}", found.text);
    let secret = all.api().get(&["secret", "dapr-trust-bundle", "-n", NAMESPACE])?;
    let key = STANDARD.decode(secret["data"]["issuer.key"].as_str().unwrap_or_default())?;
    let key = String::from_utf8(key)?;
    let line = key.lines().nth(1).unwrap_or_default();
    ensure!(line.len() > 40 && !found.text.contains(line), "a key is printed");
    let left = all.api().kubectl(&["get", "pods,subscriptions", "-A", "-o", "name"])?;
    ensure!(!left.contains("daprctl"), "something was stored: {left}");
    Ok(())
}

/// A secret in every place where people put one, and a bundle with none of them.
fn bundle_without_secrets(all: &Installed) -> Result<()> {
    const PLANTED: &str = "pl4nted-s3cret-0815";
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted", "namespace": NAMESPACE},
            "stringData": {"password": PLANTED}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planted", "namespace": NAMESPACE},
            "data": {"password": PLANTED}}),
        json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "planted", "namespace": "default", "annotations": {"note": PLANTED}},
            "spec": {"type": "state.redis", "version": "v1", "metadata": [
                {"name": "redisHost", "value": "redis:6379"},
                {"name": "redisPassword", "value": PLANTED}]}}),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "planted.1", "namespace": NAMESPACE},
            "type": "Warning", "reason": "Planted", "message": format!("password={PLANTED}"),
            "action": "Plant", "reportingComponent": "test", "reportingInstance": "test",
            "eventTime": "2026-11-01T10:00:00.000000Z",
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": NAMESPACE, "name": "x"}}),
    ];
    for object in &objects {
        all.api().apply(&object.to_string())?;
    }
    let folder = Scratch::new("bundle")?;
    let file = folder.path().join("bundle.tar.gz");
    let mut command = all.api().cluster().command(build_daprctl()?);
    command.args(["support-bundle", "--namespace", NAMESPACE, "--file"]).arg(&file);
    let said = process::output(&mut command)?;
    ensure!(said.contains("check.json") && said.contains("Never in a bundle: Secrets"), "{said}");
    let mut unpack = Command::new("tar");
    unpack.args(["-xzOf"]).arg(&file);
    let text = process::output(&mut unpack)?;
    for part in ["\"checks\"", "redis:6379", "\"planted\"", "dapr-operator", "(hidden)"] {
        ensure!(text.contains(part), "{part} is not in the bundle: {said}");
    }
    ensure!(!text.contains(PLANTED), "the bundle holds the secret");
    ensure!(!text.contains("PRIVATE KEY"), "the bundle holds a key");
    for name in ["secret/planted", "configmap/planted", "event/planted.1"] {
        all.api().kubectl(&["delete", name, "-n", NAMESPACE])?;
    }
    all.api().kubectl(&["delete", "component", "planted", "-n", "default"]).map(drop)
}

/// The first run in which everything is ok.
fn is_well(all: &Installed) -> Result<Run> {
    let mut last = Vec::new();
    let well = until(Deadline::seconds(2 * START), "everything to be well", || {
        let found = all.check(&WAIT)?;
        last = found.troubles();
        Ok(last.is_empty().then_some(found))
    });
    well.with_context(|| format!("at last: {last:?}"))
}

fn is_well_again(all: &Installed) -> Result<()> {
    is_well(all).map(drop)
}

fn webhook_unreachable(all: &Installed) -> Result<()> {
    all.it.call_port(environment::free_port()?)?;
    until(Deadline::seconds(START), "the API server to call the other port", || {
        let found = all.check(&[])?;
        Ok((found.finding("injection-works")?["status"] == "error").then_some(found))
    })
    .and_then(|found| {
        ensure!(found.code == Some(1), "{}", found.text);
        found.expect("injection-works", "error", "the admission guard rejects it")?;
        found.expect("webhook-ca", "ok", "verifies")
    })?;
    all.it.call_port(all.it.injector.port)?;
    is_well_again(all)
}

/// The injector would repair it at once, so it is prevented from doing so.
fn foreign_ca_bundle(all: &Installed) -> Result<()> {
    all.it.injector.process.signal(Signal::STOP)?;
    let bundle = STANDARD.encode(&Ca::new().pem().anchors);
    let place = "/webhooks/0/clientConfig/caBundle";
    let patch = json!([{"op": "replace", "path": place, "value": bundle}]).to_string();
    let object = ["mutatingwebhookconfiguration", "dapr-sidecar-injector"];
    all.api().kubectl(&[&["patch"], &object[..], &["--type=json", "-p", &patch]].concat())?;
    let found = all.check(&[])?;
    all.it.injector.process.signal(Signal::CONT)?;
    found.expect("webhook-ca", "error", "does not verify the CA")?;
    ensure!(found.code == Some(1), "{}", found.text);
    is_well_again(all)
}

fn definition_gone(all: &Installed) -> Result<()> {
    all.api().kubectl(&["delete", "crd", "resiliencies.dapr.io"])?;
    let found = all.check(&[])?;
    found.expect("definitions-present", "error", "resiliencies.dapr.io")?;
    ensure!(found.code == Some(1), "{}", found.text);
    all.repair()?;
    is_well_again(all)
}

fn rights_gone(all: &Installed) -> Result<()> {
    all.api().kubectl(&["delete", "clusterrolebinding", "dapr-sentry"])?;
    let found = until(Deadline::seconds(START), "the rights to be gone", || {
        let found = all.check(&[])?;
        Ok((found.finding("rights-sentry")?["status"] == "error").then_some(found))
    })?;
    found.expect("rights-sentry", "error", "create tokenreviews.authentication.k8s.io")?;
    all.repair()?;
    is_well_again(all)
}

/// Unreadable objects are unknown, and none of them is an error.
fn caller_without_rights(all: &Installed) -> Result<()> {
    let found = run(&person(all.api(), "nobody")?, &[])?;
    ensure!(found.code == Some(0), "{}", found.text);
    let troubles = found.troubles();
    ensure!(troubles.iter().all(|trouble| trouble.ends_with(" unknown")), "{troubles:?}");
    for id in [
        "injection-works",
        "conversion-works",
        "trust-bundle",
        "rights-operator",
        "sidecars-missing",
    ] {
        found.expect(id, "unknown", "you lack the right")?;
    }
    Ok(())
}

fn expired_ca(all: &mut Installed) -> Result<()> {
    let ca = Ca::with_lifetime(Duration::from_secs(1));
    let encode = |text: &str| STANDARD.encode(text);
    let pem = ca.pem();
    let secret = json!({"data": {"ca.crt": encode(&pem.anchors),
        "issuer.crt": encode(&pem.issuer_chain), "issuer.key": encode(&pem.issuer_key)}});
    // Sentry must not continue with it while it is still valid.
    all.it.sentry.signal(Signal::STOP)?;
    patch(all, "secret", &secret)?;
    patch(all, "configmap", &json!({"data": {"ca.crt": pem.anchors}}))?;
    let found = until(Deadline::seconds(START), "the CA to expire", || {
        let found = all.check(&[])?;
        Ok((found.finding("issuer-expiry")?["status"] == "error").then_some(found))
    })?;
    ensure!(found.code == Some(1), "{}", found.text);
    found.expect("issuer-expiry", "error", "expired on")?;
    found.expect("root-expiry", "error", "expired on")?;
    found.expect("trust-bundle", "error", "the stored CA is invalid")
}

fn patch(all: &Installed, kind: &str, patch: &Value) -> Result<()> {
    let args = ["patch", kind, "dapr-trust-bundle", "-n", NAMESPACE, "--type=merge", "-p"];
    all.api().kubectl(&[&args[..], &[&patch.to_string()]].concat()).map(drop)
}

/// A user with the rights of every authenticated user.
fn person(api: &ApiCluster, name: &str) -> Result<Cluster> {
    api.apply(
        &json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": "default"}})
        .to_string(),
    )?;
    let token = api.kubectl(&["create", "token", name, "-n", "default"])?;
    let scratch = api.scratch().map_or_else(|| "".as_ref(), Scratch::path);
    let (ca, file) = (scratch.join("person-ca.crt"), scratch.join(format!("{name}.kubeconfig")));
    std::fs::write(&ca, api.ca_pem()?)?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": api.server(), "certificate-authority": ca}}],
        "users": [{"name": "c", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    std::fs::write(&file, config.to_string())?;
    Ok(Cluster::new(file))
}
