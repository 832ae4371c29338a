//! Kubernetes mode: real tokens, real pods, the CA in Secret and ConfigMap.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::{Deadline, Ports, Spawn, build_binary, environment, until};
use identity::TrustAnchors;
use proto::sentry::SignCertificateRequest;
use serde_json::{Value, json};
use testkit::ca::Ca;
use tonic::Code;

use crate::bed::{Sentry, System, openssl_text, request, runtime, verified};

const TILL: &str = "till";

/// A system with a ready sentry and one application pod.
struct World {
    system: System,
    sentry: Sentry,
    shop: String,
    token: String,
    anchors: TrustAnchors,
}

impl World {
    fn new() -> Result<Self> {
        let system = System::new()?;
        let sentry = system.start_ready()?;
        let shop = system.bed.namespace("shop")?;
        system.pod(&shop, "till-0", &json!({"dapr.io/app-id": TILL}))?;
        let token = system.pod_token(&shop, "till-0")?;
        let anchors = system.anchors()?;
        Ok(Self { system, sentry, shop, token, anchors })
    }

    fn request(&self) -> SignCertificateRequest {
        request(&self.shop, TILL, &self.token)
    }

    fn assert_works(&self) {
        let answer = self.sentry.sign(&self.anchors, self.request()).expect("a certificate");
        let (_, id) = verified(&answer, &self.anchors);
        assert_eq!(id.to_string(), format!("spiffe://public/ns/{}/{TILL}", self.shop));
    }

    fn assert_refused(&self, request: SignCertificateRequest, code: Code, message: &str) {
        let status = self.sentry.sign(&self.anchors, request).expect_err("a refusal");
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(message), "{status:?} does not say {message:?}");
    }
}

#[test]
fn a_pod_gets_the_certificate_of_its_annotation_and_no_other() -> Result<()> {
    let world = World::new()?;
    world.assert_works();

    let World { system, shop, token, .. } = &world;
    let denied = Code::PermissionDenied;
    let other_id = "app-id mismatch. expected: till, received: safe";
    world.assert_refused(request(shop, "safe", token), denied, other_id);
    let legacy = format!("{shop}:default");
    world.assert_refused(request(shop, &legacy, token), denied, "app-id mismatch. expected: till");
    let namespace = "namespace mismatch; received namespace: default";
    world.assert_refused(request("default", TILL, token), denied, namespace);
    world.assert_refused(request(shop, TILL, ""), denied, "token review failed: ");
    world.assert_refused(request(shop, TILL, "no-token"), denied, "invalid token: ");
    let for_others = system.bed.cluster().token(shop, "default", "https://elsewhere")?;
    world.assert_refused(request(shop, TILL, &for_others), denied, "invalid token: ");
    let unbound = system.bed.cluster().token(shop, "default", &system.audience())?;
    let no_pod = "kubernetes.io/pod/name claim is missing from Kubernetes token";
    world.assert_refused(request(shop, TILL, &unbound), denied, no_pod);

    let mut no_csr = world.request();
    no_csr.certificate_signing_request = b"certify me".to_vec();
    world.assert_refused(no_csr, Code::InvalidArgument, "invalid certificate signing request");
    let mut insecure = world.request();
    insecure.token_validator = 1;
    let not_enabled = "the requested validator is not enabled";
    world.assert_refused(insecure, Code::InvalidArgument, not_enabled);
    let mut unnamed = world.request();
    unnamed.token_validator = 0;
    assert!(world.sentry.sign(&world.anchors, unnamed).is_ok(), "kubernetes is the default");

    world.assert_works();
    let log = world.sentry.process.log();
    assert!(log.contains("certificate issued") && log.contains("certificate refused"), "{log}");
    assert!(!log.contains(token.as_str()), "a token reached the log");
    Ok(())
}

#[test]
fn a_token_of_a_former_pod_does_not_serve_its_successor() -> Result<()> {
    let world = World::new()?;
    let delete = ["delete", "pod", "till-0", "-n", &world.shop, "--force", "--grace-period=0"];
    world.system.bed.kubectl(&delete)?;
    world.system.pod(&world.shop, "till-0", &json!({"dapr.io/app-id": TILL}))?;
    // The API server refuses the token of a pod that is gone.
    world.assert_refused(world.request(), Code::PermissionDenied, "invalid token: ");
    Ok(())
}

#[test]
fn a_pod_and_its_configuration_count_at_once() -> Result<()> {
    let world = World::new()?;
    let World { system, shop, .. } = &world;
    // Asked for immediately after creation: the watch may not have shown them yet.
    for n in 0..5 {
        let (pod, config) = (format!("fresh-{n}"), format!("config-{n}"));
        let configuration = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": config, "namespace": shop},
            "spec": {"accessControl": {"trustDomain": format!("td-{n}.example")}},
        });
        system.bed.apply(&configuration.to_string())?;
        system.pod(shop, &pod, &json!({"dapr.io/config": config}))?;
        let token = system.pod_token(shop, &pod)?;
        let answer = world.sentry.sign(&world.anchors, request(shop, &pod, &token)).unwrap();
        let (_, id) = verified(&answer, &world.anchors);
        assert_eq!(id.to_string(), format!("spiffe://td-{n}.example/ns/{shop}/{pod}"));
    }
    system.pod(shop, "lost", &json!({"dapr.io/config": "nowhere"}))?;
    let token = system.pod_token(shop, "lost")?;
    let refused = "failed to get configuration";
    world.assert_refused(request(shop, "lost", &token), Code::PermissionDenied, refused);
    system.pod(shop, "empty", &json!({"dapr.io/config": ""}))?;
    let token = system.pod_token(shop, "empty")?;
    assert!(world.sentry.sign(&world.anchors, request(shop, "empty", &token)).is_ok());
    Ok(())
}

#[test]
fn only_the_control_plane_gets_dns_names() -> Result<()> {
    let world = World::new()?;
    let World { system, sentry, anchors, .. } = &world;
    let own = &system.namespace;
    system.pod(own, "operator-0", &json!({"dapr.io/control-plane": "operator"}))?;
    let token = system.pod_token(own, "operator-0")?;
    let answer = sentry.sign(anchors, request(own, "dapr-operator", &token)).unwrap();
    let (chain, id) = verified(&answer, anchors);
    assert_eq!(id.to_string(), format!("spiffe://cluster.local/ns/{own}/dapr-operator"));
    let text = openssl_text(&chain);
    let names =
        format!("DNS:dapr-webhook.{own}.svc, URI:spiffe://cluster.local/ns/{own}/dapr-operator\n");
    assert!(text.contains("Subject: \n") && text.contains(&names), "{text}");

    system.pod(own, "impostor", &json!({"dapr.io/app-id": "dapr-injector"}))?;
    let token = system.pod_token(own, "impostor")?;
    let answer = sentry.sign(anchors, request(own, "dapr-injector", &token)).unwrap();
    let (chain, id) = verified(&answer, anchors);
    assert_eq!(id.to_string(), format!("spiffe://public/ns/{own}/dapr-injector"));
    assert!(!openssl_text(&chain).contains("DNS:"));
    Ok(())
}

#[test]
fn two_replicas_that_start_at_once_make_one_ca() -> Result<()> {
    let system = System::new()?;
    let mut replicas = [system.start("sentry-a")?, system.start("sentry-b")?];
    for replica in &mut replicas {
        replica.wait_ready()?;
    }
    let anchors = system.anchors()?;
    assert_eq!(anchors.certs().len(), 1);
    let secret = system.data("secret")?;
    let shop = system.bed.namespace("shop")?;
    system.pod(&shop, TILL, &json!({}))?;
    let token = system.pod_token(&shop, TILL)?;
    for replica in &replicas {
        // Trusting the published root proves that both sign and serve with the CA under it.
        let answer = replica.sign(&anchors, request(&shop, TILL, &token)).unwrap();
        verified(&answer, &anchors);
    }
    assert_eq!(system.data("secret")?, secret, "the second replica must not write");
    Ok(())
}

fn secret_data(ca: &Ca) -> Value {
    json!({
        "ca.crt": ca.pem().anchors,
        "issuer.crt": ca.pem().issuer_chain,
        "issuer.key": ca.pem().issuer_key.as_str(),
    })
}

fn encoded(ca: &Ca) -> Value {
    let encode = |text: &str| Value::String(STANDARD.encode(text));
    json!({
        "ca.crt": encode(&ca.pem().anchors),
        "issuer.crt": encode(&ca.pem().issuer_chain),
        "issuer.key": encode(&ca.pem().issuer_key),
    })
}

#[test]
fn a_users_ca_is_used_and_never_replaced() -> Result<()> {
    let system = System::new()?;
    let (mine, old) = (Ca::new(), Ca::new());
    system.patch("secret", &secret_data(&mine))?;
    // What ruins a CA with the reference: the published root is another one.
    system.patch("configmap", &json!({"ca.crt": old.pem().anchors, "other": "stays"}))?;
    let _sentry = system.start_ready()?;
    until(Deadline::seconds(30), "the ConfigMap to follow the Secret", || {
        Ok((system.anchors()? == mine.anchors()).then_some(()))
    })?;
    assert_eq!(system.data("secret")?, encoded(&mine));
    assert_eq!(system.data("configmap")?.get("other"), Some(&json!("stays")));
    Ok(())
}

#[test]
fn an_incomplete_ca_is_left_alone_and_said_so() -> Result<()> {
    let system = System::new()?;
    let mine = Ca::new();
    system.patch("secret", &json!({"ca.crt": mine.pem().anchors}))?;
    let mut sentry = system.start("sentry")?;
    let sentence = "the stored CA is incomplete: issuer certificate, issuer key missing";
    sentry.process.wait_for_log(sentence, Deadline::seconds(60))?;
    sentry.wait_for_metric("dapr_sentry_bundle_refused", 1.0)?;
    assert_eq!(sentry.health()?, 503);
    assert_eq!(system.data("secret")?, json!({"ca.crt": STANDARD.encode(&mine.pem().anchors)}));
    assert_eq!(system.data("configmap")?, Value::Null);
    // Completed by its owner, it is used without a restart.
    system.patch("secret", &secret_data(&mine))?;
    sentry.wait_ready()?;
    assert_eq!(system.anchors()?, mine.anchors());
    Ok(())
}

#[test]
fn a_lost_secret_does_not_become_a_second_ca() -> Result<()> {
    let system = System::new()?;
    let published = Ca::new();
    system.patch("configmap", &json!({"ca.crt": published.pem().anchors}))?;
    let mut sentry = system.start("sentry")?;
    let sentence = "the ConfigMap holds trust anchors but the Secret holds no CA";
    sentry.process.wait_for_log(sentence, Deadline::seconds(60))?;
    assert_eq!(sentry.health()?, 503);
    assert_eq!(system.data("secret")?, Value::Null);
    assert_eq!(system.anchors()?, published.anchors());
    Ok(())
}

#[test]
fn a_changed_secret_is_followed_and_a_broken_one_is_not() -> Result<()> {
    let World { system, sentry, shop, token, anchors } = World::new()?;
    let broken = json!({"issuer.key": Ca::new().pem().issuer_key.as_str()});
    system.patch("secret", &broken)?;
    sentry.wait_for_metric("dapr_sentry_bundle_refused", 1.0)?;
    assert_eq!(sentry.health()?, 200);
    let answer = sentry.sign(&anchors, request(&shop, TILL, &token)).unwrap();
    verified(&answer, &anchors);

    let next = Ca::new();
    system.patch("secret", &secret_data(&next))?;
    sentry.wait_for_metric("dapr_sentry_bundle_refused", 0.0)?;
    until(Deadline::seconds(30), "the new root to be published", || {
        Ok((system.anchors()? == next.anchors()).then_some(()))
    })?;
    let answer = until(Deadline::seconds(30), "sentry to serve with the new CA", || {
        Ok(sentry.sign(&next.anchors(), request(&shop, TILL, &token)).ok())
    })?;
    verified(&answer, &next.anchors());
    Ok(())
}

#[test]
fn forty_sidecars_at_once_get_their_certificates() -> Result<()> {
    let world = World::new()?;
    let outcomes = runtime().block_on(async {
        let client = world.sentry.client(&world.anchors).await?;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let (mut client, request) = (client.clone(), world.request());
            calls.spawn(async move {
                let call = client.sign_certificate(request);
                tokio::time::timeout(Duration::from_secs(3), call).await
            });
        }
        anyhow::Ok(calls.join_all().await)
    })?;
    assert!(outcomes.iter().all(|call| matches!(call, Ok(Ok(_)))), "{outcomes:?}");
    Ok(())
}

#[test]
fn a_missing_configuration_or_root_ends_the_process() -> Result<()> {
    let system = System::new()?;
    let run = |name: &str, env: &[(&str, &str)], config: &str| -> Result<(Option<i32>, String)> {
        let scratch = blackbox::Scratch::new(name)?;
        let mut spawn = Spawn::new(name, build_binary("sentry")?, scratch.path())
            .args(["--mode=kubernetes", "--trust-domain=cluster.local", "--config", config])
            .arg("--kubeconfig")
            .arg(system.bed.kubeconfig())
            .service_at(Ports::free()?)
            .env("NAMESPACE", &system.namespace)
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "");
        for (name, value) in env {
            spawn = spawn.env(name, value);
        }
        let mut process = spawn.start()?;
        let status = until(Deadline::seconds(30), "the end", || Ok(process.exit_status()))?;
        Ok((status.code(), process.log()))
    };
    let skip = [("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")];
    let (code, log) = run("no-config", &skip, "nowhere")?;
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains(r#"couldn't find config name \"nowhere\": config CRD not found"#),
        "{log}"
    );
    if environment::is_root() {
        let (code, log) = run("root", &[], "daprsystem")?;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK"), "{log}");
    }
    Ok(())
}
