//! Rotation of the CA without restarts: a real API server, real sidecars of every stage that call each
//! other, the reference sentry as a reader, and crashes between two steps.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Daprd, Deadline, Scratch, http, process, soon, until};
use identity::TrustAnchors;
use serde_json::{Value, json};
use testkit::ca::Ca;

use crate::fixture::{Sentry, System, request, verified};
use crate::standalone::{self, Standalone, serve_hello};

/// Long enough for a slow machine, short enough for every sidecar to renew in each stage.
const TTL: &str = "20s";
const SKEW: &str = "5s";
const FILES: [&str; 3] = ["ca.crt", "issuer.crt", "issuer.key"];

/// A standalone sentry that signs with the CA of the Secret. Sidecars outside the cluster get their
/// certificates from it, with the same chains as those inside.
struct Mirror {
    sentry: Standalone,
}

impl Mirror {
    fn start(system: &System) -> Result<Self> {
        let folder = Scratch::new("mirror")?;
        let settings =
            format!("spec: {{mtls: {{workloadCertTTL: {TTL}, allowedClockSkew: {SKEW}}}}}");
        folder.write("config.yaml", settings)?;
        for name in FILES {
            folder.write(name, system.secret(name)?)?;
        }
        Ok(Self { sentry: Standalone::start_in(folder)? })
    }

    /// Copies the CA of the Secret, and waits until the mirror signs with it.
    fn update(&mut self, system: &System, anchors: usize) -> Result<()> {
        for name in FILES {
            let temporary =
                self.sentry.folder.write(&format!(".{name}.next"), system.secret(name)?)?;
            std::fs::rename(temporary, self.sentry.folder.path().join(name))?;
        }
        ensure!(
            TrustAnchors::parse_pem(system.secret("ca.crt")?.as_bytes())?.certs().len() == anchors
        );
        let chain = identity::CertChain::parse_pem(system.secret("issuer.crt")?.as_bytes())?;
        let serving = format!("127.0.0.1:{}", self.sentry.port);
        until(soon(), "the mirror to serve with the new chain", || {
            let show = format!(
                "openssl s_client -connect {serving} -alpn h2 -showcerts </dev/null 2>/dev/null"
            );
            let shown = process::output(Command::new("sh").args(["-c", &show])).unwrap_or_default();
            Ok((shown.matches("BEGIN CERTIFICATE").count() == chain.certs().len() + 1)
                .then_some(()))
        })
    }
}

/// Sidecars that call each other.
struct Mesh(Vec<Daprd>);

impl Mesh {
    fn join(&mut self, mirror: &Mirror, name: &str) -> Result<()> {
        let mut sidecar = mirror.sentry.sidecar(name, Some(serve_hello()?))?;
        sidecar.wait_outbound_ready(Deadline::seconds(60))?;
        self.0.push(sidecar);
        Ok(())
    }

    /// Each sidecar calls each other one, with retries until name resolution finds it.
    fn call_all_pairs(&self) -> Result<()> {
        for (caller, callee) in self.0.iter().flat_map(|a| self.0.iter().map(move |b| (a, b))) {
            if caller.app_id() == callee.app_id() {
                continue;
            }
            let path = format!("/v1.0/invoke/{}/method/anything", callee.app_id());
            let what = format!("{} to call {}", caller.app_id(), callee.app_id());
            let mut last = String::new();
            until(soon(), &what, || {
                let answer = http::get(caller.http_port, &path)?;
                last.clone_from(&answer.body);
                Ok((answer.is_success() && answer.body == "hello").then_some(()))
            })
            .with_context(|| format!("last response: {last}"))?;
        }
        Ok(())
    }

    /// Waits until each sidecar has a certificate of the current stage.
    fn wait_renewed(&self, mirror: &Mirror) -> Result<()> {
        let issued = |app: &str| {
            let log = mirror.sentry.process.log();
            let id = format!("spiffe://public/ns/default/{app} ");
            let quoted = format!("spiffe://public/ns/default/{app}\"");
            log.lines()
                .filter(|l| {
                    l.contains("certificate issued")
                        && (format!("{l} ").contains(&id) || l.contains(&quoted))
                })
                .count()
        };
        let before: Vec<usize> = self.0.iter().map(|sidecar| issued(sidecar.app_id())).collect();
        for (sidecar, before) in self.0.iter().zip(before) {
            let what = format!("{} to renew its certificate", sidecar.app_id());
            until(Deadline::seconds(60), &what, || {
                Ok((issued(sidecar.app_id()) > before).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// A pod as the injector creates it, with the current trust anchors in its environment.
fn injected_pod(system: &System, name: &str) -> Result<()> {
    let anchors = system.anchors()?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": system.namespace, "labels": {"dapr.io/sidecar-injected": "true"}},
        "spec": {"containers": [{
            "name": "daprd", "image": "none",
            "env": [{"name": "DAPR_TRUST_ANCHORS", "value": anchors.pem()}],
        }]},
    });
    system.api.apply(&pod.to_string()).map(drop)
}

/// The reference sentry loads the stored CA and does not change it.
fn reference_reads(system: &System) -> Result<()> {
    let folder = Scratch::new("reference-reads")?;
    for name in FILES {
        folder.write(name, system.secret(name)?)?;
    }
    let (mut reference, _) = standalone::reference(&folder)?;
    reference.wait_for_log(standalone::FOUND, soon())?;
    for name in FILES {
        ensure!(std::fs::read_to_string(folder.path().join(name))? == system.secret(name)?);
    }
    Ok(())
}

fn events(system: &System) -> Result<String> {
    let args = ["get", "events", "-n", &system.namespace, "-o"];
    let columns = "jsonpath={range .items[*]}{.type} {.reason} {.message}{'\\n'}{end}";
    system.api.kubectl(&[&args[..], &[columns]].concat())
}

#[test]
fn sidecars_of_every_stage_verify_each_other() -> Result<()> {
    let system = System::with_lifetimes(TTL, SKEW)?;
    let sentry = system.start_ready()?;
    let old_root = system.anchors()?;
    let mut mirror = Mirror::start(&system)?;
    let mut mesh = Mesh(Vec::new());
    mesh.join(&mirror, "before")?;
    mesh.join(&mirror, "before-too")?;
    injected_pod(&system, "before")?;
    mesh.call_all_pairs()?;

    system.rotate()?;
    system.wait_for_stage(Some("distribute"))?;
    until(soon(), "both roots to be published", || {
        Ok((system.anchors()?.certs().len() == 2).then_some(()))
    })?;
    reference_reads(&system)?;
    mirror.update(&system, 2)?;
    sentry.wait_for_metric("dapr_sentry_ca_rotation_stage", 1.0)?;
    mesh.join(&mirror, "during")?;
    mesh.call_all_pairs()?;

    system.wait_for_stage(Some("sign"))?;
    reference_reads(&system)?;
    mirror.update(&system, 2)?;
    let new_root = system.anchors()?.certs().first().cloned().context("no root")?;
    assert!(!old_root.certs().contains(&new_root), "the new root is first");
    mesh.join(&mirror, "signed")?;
    mesh.call_all_pairs()?;
    mesh.wait_renewed(&mirror)?;
    // New connections with new certificates, to and from sidecars that trust the old root only.
    mesh.join(&mirror, "signed-too")?;
    mesh.call_all_pairs()?;
    sentry.wait_for_metric("dapr_sentry_ca_rotation_sidecars_without_new_root", 1.0)?;
    assert_eq!(system.stage()?.as_deref(), Some("sign"), "a running sidecar needs the old root");

    // The old pods are recreated; then no pod needs the old root.
    mesh.0.retain(|sidecar| !sidecar.app_id().starts_with("before"));
    let delete =
        ["delete", "pod", "before", "-n", &system.namespace, "--force", "--grace-period=0"];
    system.api.kubectl(&delete)?;
    system.wait_for_stage(None)?;
    until(soon(), "the new root alone to be published", || {
        let anchors = system.anchors()?;
        Ok((anchors.certs() == [new_root.clone()]).then_some(()))
    })?;
    reference_reads(&system)?;
    mirror.update(&system, 1)?;
    mesh.join(&mirror, "after")?;
    mesh.call_all_pairs()?;
    sentry.wait_for_metric("dapr_sentry_ca_rotation_stage", 0.0)?;

    let events = events(&system)?;
    for want in ["IssuerGenerated", "started", "the new issuer signs", "finished"] {
        assert!(events.contains(want), "{events}");
    }
    let log = sentry.process.log();
    assert!(!log.contains("PRIVATE KEY") && !log.contains("BEGIN"), "no key material in the log");
    Ok(())
}

#[test]
fn crashing_replicas_rotate_the_ca_before_it_expires() -> Result<()> {
    let system = System::with_lifetimes("6s", "2s")?;
    // Rotated when 80 % of three minutes are left.
    let flags = ["--ca-lifetime=3m", "--ca-rotate-at=80"];
    let start = |name: &str| -> Result<Sentry> {
        let mut sentry = system.start_with(name, &flags)?;
        sentry.wait_ready()?;
        Ok(sentry)
    };
    let mut sentries = vec![start("one")?, start("two")?];
    let first = system.anchors()?;
    for (n, stage) in [Some("distribute"), Some("sign"), None].into_iter().enumerate() {
        system.wait_for_stage(stage)?;
        // Both are killed, and new replicas continue.
        for mut sentry in sentries.drain(..) {
            sentry.process.kill();
        }
        sentries = vec![start(&format!("one-{n}"))?, start(&format!("two-{n}"))?];
    }
    let second = system.anchors()?;
    assert!(second.certs().iter().all(|root| !first.certs().contains(root)), "it was rotated");
    let shop = system.api.namespace("shop")?;
    system.pod(&shop, "till", &json!({}))?;
    let token = system.pod_token(&shop, "till")?;
    for sentry in &sentries {
        let answer = until(soon(), "a certificate", || {
            Ok(sentry.sign(&system.anchors()?, request(&shop, "till", &token)).ok())
        })?;
        verified(&answer, &system.anchors()?);
    }
    Ok(())
}

#[test]
fn a_users_ca_is_rotated_on_request_only() -> Result<()> {
    let system = System::with_lifetimes("6s", "2s")?;
    let mine = Ca::new();
    let data: Value = json!({
        "ca.crt": mine.pem().anchors,
        "issuer.crt": mine.pem().issuer_chain,
        "issuer.key": mine.pem().issuer_key.as_str(),
    });
    system.patch("secret", &data)?;
    let mut sentry = system.start_with("sentry", &["--ca-rotate-at=90"])?;
    sentry.wait_ready()?;
    sentry.wait_for_metric("dapr_sentry_ca_rotation_stage", 0.0)?;
    assert_eq!(system.stage()?, None);
    system.rotate()?;
    system.wait_for_stage(Some("distribute"))?;
    system.wait_for_stage(None)?;
    assert_ne!(system.anchors()?, mine.anchors());
    Ok(())
}

#[test]
fn the_lifetime_of_certificates_follows_the_configuration() -> Result<()> {
    let system = System::new()?;
    let mut sentry = system.start_ready()?;
    let patch = |ttl: &str| {
        let spec = json!({"spec": {"mtls": {"workloadCertTTL": ttl}}}).to_string();
        let object = ["patch", "configurations.dapr.io", "daprsystem", "-n", &system.namespace];
        system.api.kubectl(&[&object[..], &["--type=merge", "-p", &spec]].concat())
    };
    patch("10m")?;
    sentry.process.wait_for_log("the Configuration changed", soon())?;
    let shop = system.api.namespace("shop")?;
    system.pod(&shop, "till", &json!({}))?;
    let token = system.pod_token(&shop, "till")?;
    let anchors = system.anchors()?;
    let life = |sentry: &Sentry| {
        let answer = sentry.sign(&anchors, request(&shop, "till", &token)).expect("a certificate");
        let (chain, _) = verified(&answer, &anchors);
        chain.not_before().duration_until(chain.not_after()).as_secs()
    };
    assert_eq!(life(&sentry), 15 * 60, "ten minutes, back-dated by half of that");
    patch("never")?;
    sentry.process.wait_for_log("the changed Configuration is invalid", soon())?;
    assert_eq!(life(&sentry), 15 * 60);
    assert_eq!(sentry.health()?, 200);
    Ok(())
}
