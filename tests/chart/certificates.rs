//! The official CLI reads, exports and renews certificates in every stage of a rotation.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::{
    ApiCluster, DaprCli, Deadline, Ports, Process, Scratch, Spawn, build_binary, until,
};
use identity::{CertChain, PrivateKey, TrustAnchors};
use serde_json::{Value, json};

use crate::cluster::{alone, api, clean};
use crate::helm::NAMESPACE;

const FILES: [&str; 3] = ["ca.crt", "issuer.crt", "issuer.key"];
const SECRET: [&str; 4] = ["secret", "dapr-trust-bundle", "-n", NAMESPACE];

/// Our sentry as a process: the chart's pods do not run on this test cluster.
fn sentry(api: &ApiCluster, logs: &Scratch) -> Result<Process> {
    let ports = Ports::free()?;
    let mut process = Spawn::new("sentry", build_binary("sentry")?, logs.path())
        .args(["--mode=kubernetes", "--trust-domain=cluster.local"])
        .arg("--kubeconfig")
        .arg(api.kubeconfig())
        .service_at(ports)
        .env("NAMESPACE", NAMESPACE)
        .start()?;
    process.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(60))?;
    Ok(process)
}

fn stored(api: &ApiCluster, key: &str) -> Result<String> {
    let secret = api.get(&SECRET)?;
    let text = secret.pointer(&format!("/data/{key}")).and_then(Value::as_str);
    Ok(String::from_utf8(STANDARD.decode(text.with_context(|| format!("no {key}"))?)?)?)
}

fn stage(api: &ApiCluster) -> Result<Option<String>> {
    let secret = api.get(&SECRET)?;
    let stage = secret.pointer("/metadata/annotations/dapr.io~1ca-rotation-stage");
    Ok(stage.and_then(Value::as_str).map(str::to_owned))
}

fn wait_for_stage(api: &ApiCluster, want: Option<&str>) -> Result<()> {
    until(Deadline::seconds(120), &format!("stage {want:?}"), || {
        Ok((stage(api)?.as_deref() == want).then_some(()))
    })
}

fn rotate(api: &ApiCluster) -> Result<()> {
    api.kubectl(&[&["annotate"], &SECRET[..], &["dapr.io/rotate-ca=now"]].concat()).map(drop)
}

/// `dapr mtls export` and `dapr mtls expiry`, with the answers checked against the Secret.
fn check_reads(api: &ApiCluster, cli: &DaprCli) -> Result<()> {
    let folder = Scratch::new("export")?;
    let out = folder.path().join("certificates");
    cli.run(&["mtls", "export", "-o", &out.to_string_lossy()])?;
    let mut texts = Vec::new();
    for name in FILES {
        let text = std::fs::read_to_string(out.join(name))?;
        ensure!(text == stored(api, name)?, "{name} is exported as it is in the Secret");
        texts.push(text);
    }
    let [anchors, chain, key] = texts.as_slice() else { anyhow::bail!("three files") };
    let bundle = identity::Bundle::parse(
        anchors.as_bytes(),
        chain.as_bytes(),
        key.as_bytes(),
        runtime::clock::now(),
    )?;
    // The CLI reads only the first root: it must be the one that signs.
    let (_, ends) = bundle.root(runtime::clock::now()).context("no root")?;
    let said = cli.run(&["mtls", "expiry"])?;
    let day = ends.strftime("%Y-%m-%d").to_string();
    ensure!(said.contains(&day), "{said} does not name {day}");
    Ok(())
}

#[test]
fn the_official_cli_reads_and_renews_certificates_in_every_stage() -> Result<()> {
    let _alone = alone();
    let api = api()?;
    clean(api)?;
    let cli = DaprCli::with_repository(api.cluster().clone(), None, None)?;
    crate::cluster::install(
        api,
        &["global.mtls.workloadCertTTL=6s", "global.mtls.allowedClockSkew=2s"],
    )?;
    let logs = Scratch::new("certificates")?;
    let mut process = sentry(api, &logs)?;
    check_reads(api, &cli).context("at rest")?;
    rotate(api)?;
    wait_for_stage(api, Some("distribute"))?;
    check_reads(api, &cli).context("while both roots are distributed")?;
    wait_for_stage(api, Some("sign"))?;
    check_reads(api, &cli).context("while the new issuer signs")?;
    wait_for_stage(api, None)?;
    check_reads(api, &cli).context("at rest again")?;

    // A renewal by the CLI replaces a rotation in progress.
    rotate(api)?;
    wait_for_stage(api, Some("distribute"))?;
    let before = stored(api, "ca.crt")?;
    let renew = ["mtls", "renew-certificate", "-k", "--valid-until", "90", "--timeout", "20"];
    if let Err(error) = cli.run(&renew) {
        // By then everything is written; the CLI waits for pods, which do not run on this test
        // cluster.
        ensure!(format!("{error:#}").contains("context deadline exceeded"), "{error:#}");
    }
    let renewed = stored(api, "ca.crt")?;
    ensure!(renewed != before && TrustAnchors::parse_pem(renewed.as_bytes())?.certs().len() == 1);
    wait_for_stage(api, None)?;
    process.wait_for_log("CA rotation: aborted", Deadline::seconds(30))?;
    until(Deadline::seconds(30), "the renewed root to be published", || {
        let published = api.get(&["configmap", "dapr-trust-bundle", "-n", NAMESPACE])?;
        Ok((published.pointer("/data/ca.crt") == Some(&json!(renewed))).then_some(()))
    })?;
    ensure!(stored(api, "ca.crt")? == renewed, "what the CLI wrote stays");
    let chain = CertChain::parse_pem(stored(api, "issuer.crt")?.as_bytes())?;
    ensure!(PrivateKey::from_pem(stored(api, "issuer.key")?.as_bytes()).is_ok());
    ensure!(chain.not_after() < runtime::clock::now() + Duration::from_hours(24 * 91));
    check_reads(api, &cli).context("after the renewal")?;
    drop(process);
    clean(api)
}
