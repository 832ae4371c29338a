//! Kubernetes mode: real tokens, real pods, the CA in Secret and ConfigMap.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::{Deadline, Ports, Spawn, build_binary, soon, until};
use identity::TrustAnchors;
use proto::sentry::SignCertificateRequest;
use serde_json::{Value, json};
use testkit::ca::Ca;
use tonic::Code;

use crate::fixture::{Sentry, System, openssl_text, request, runtime, verified};

const TILL: &str = "till";

/// A control plane with a ready sentry and one application pod.
struct Fixture {
    system: System,
    sentry: Sentry,
    shop: String,
    token: String,
    anchors: TrustAnchors,
}

impl Fixture {
    fn new() -> Result<Self> {
        let system = System::new()?;
        let sentry = system.start_ready()?;
        let shop = system.api.namespace("shop")?;
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
        assert!(status.message().contains(message), "{status:?} does not contain {message:?}");
    }
}

#[test]
fn a_pod_gets_the_certificate_of_its_annotation_and_no_other() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.assert_works();

    let Fixture { system, shop, token, .. } = &fixture;
    let denied = Code::PermissionDenied;
    let other_id = "app-id mismatch. expected: till, received: safe";
    fixture.assert_refused(request(shop, "safe", token), denied, other_id);
    let legacy = format!("{shop}:default");
    fixture.assert_refused(
        request(shop, &legacy, token),
        denied,
        "app-id mismatch. expected: till",
    );
    let namespace = "namespace mismatch; received namespace: default";
    fixture.assert_refused(request("default", TILL, token), denied, namespace);
    fixture.assert_refused(request(shop, TILL, ""), denied, "token review failed: ");
    fixture.assert_refused(request(shop, TILL, "no-token"), denied, "invalid token: ");
    let for_others = system.api.cluster().token(shop, "default", "https://elsewhere")?;
    fixture.assert_refused(request(shop, TILL, &for_others), denied, "invalid token: ");
    let unbound = system.api.cluster().token(shop, "default", &system.audience())?;
    let no_pod = "kubernetes.io/pod/name claim is missing from Kubernetes token";
    fixture.assert_refused(request(shop, TILL, &unbound), denied, no_pod);

    let mut no_csr = fixture.request();
    no_csr.certificate_signing_request = b"certify me".to_vec();
    fixture.assert_refused(no_csr, Code::InvalidArgument, "invalid certificate signing request");
    let mut insecure = fixture.request();
    insecure.token_validator = 1;
    let not_enabled = "the requested validator is not enabled";
    fixture.assert_refused(insecure, Code::InvalidArgument, not_enabled);
    let mut unnamed = fixture.request();
    unnamed.token_validator = 0;
    assert!(fixture.sentry.sign(&fixture.anchors, unnamed).is_ok(), "kubernetes is the default");

    fixture.assert_works();
    let log = fixture.sentry.process.log();
    assert!(log.contains("certificate issued") && log.contains("certificate refused"), "{log}");
    assert!(!log.contains(token.as_str()), "a token reached the log");
    Ok(())
}

#[test]
fn a_token_of_a_deleted_pod_is_refused() -> Result<()> {
    let fixture = Fixture::new()?;
    let delete = ["delete", "pod", "till-0", "-n", &fixture.shop, "--force", "--grace-period=0"];
    fixture.system.api.kubectl(&delete)?;
    fixture.system.pod(&fixture.shop, "till-0", &json!({"dapr.io/app-id": TILL}))?;
    // The API server rejects the token of a deleted pod.
    fixture.assert_refused(fixture.request(), Code::PermissionDenied, "invalid token: ");
    Ok(())
}

#[test]
fn a_new_pod_and_its_configuration_are_found() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { system, shop, .. } = &fixture;
    // Requested immediately after creation: the watch may not have delivered them yet.
    for n in 0..5 {
        let (pod, config) = (format!("fresh-{n}"), format!("config-{n}"));
        let configuration = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": config, "namespace": shop},
            "spec": {"accessControl": {"trustDomain": format!("td-{n}.example")}},
        });
        system.api.apply(&configuration.to_string())?;
        system.pod(shop, &pod, &json!({"dapr.io/config": config}))?;
        let token = system.pod_token(shop, &pod)?;
        let answer = fixture.sentry.sign(&fixture.anchors, request(shop, &pod, &token)).unwrap();
        let (_, id) = verified(&answer, &fixture.anchors);
        assert_eq!(id.to_string(), format!("spiffe://td-{n}.example/ns/{shop}/{pod}"));
    }
    system.pod(shop, "lost", &json!({"dapr.io/config": "nowhere"}))?;
    let token = system.pod_token(shop, "lost")?;
    let refused =
        format!("failed to get configuration: Configuration {shop}/nowhere of annotation");
    fixture.assert_refused(request(shop, "lost", &token), Code::PermissionDenied, &refused);
    system.pod(shop, "empty", &json!({"dapr.io/config": ""}))?;
    let token = system.pod_token(shop, "empty")?;
    assert!(fixture.sentry.sign(&fixture.anchors, request(shop, "empty", &token)).is_ok());
    Ok(())
}

#[test]
fn only_the_control_plane_gets_dns_names() -> Result<()> {
    let fixture = Fixture::new()?;
    let Fixture { system, sentry, anchors, .. } = &fixture;
    let own = &system.namespace;
    let (account, part) = ("dapr-operator", json!({"dapr.io/control-plane": "operator"}));
    system.api.kubectl(&["create", "serviceaccount", account, "-n", own])?;
    system.pod_as(own, "operator-0", account, &part)?;
    let token = system.pod_token_as(own, "operator-0", account)?;
    let answer = sentry.sign(anchors, request(own, "dapr-operator", &token)).unwrap();
    let (chain, id) = verified(&answer, anchors);
    assert_eq!(id.to_string(), format!("spiffe://cluster.local/ns/{own}/dapr-operator"));
    let text = openssl_text(&chain);
    let names =
        format!("DNS:dapr-webhook.{own}.svc, URI:spiffe://cluster.local/ns/{own}/dapr-operator\n");
    assert!(text.contains("Subject: \n") && text.contains(&names), "{text}");

    system.pod(own, "annotated", &part)?;
    let token = system.pod_token(own, "annotated")?;
    fixture.assert_refused(
        request(own, "dapr-operator", &token),
        Code::PermissionDenied,
        "control plane service 'operator' must run as ServiceAccount 'dapr-operator', not 'default'",
    );

    system.pod(own, "impostor", &json!({"dapr.io/app-id": "dapr-injector"}))?;
    let token = system.pod_token(own, "impostor")?;
    let answer = sentry.sign(anchors, request(own, "dapr-injector", &token)).unwrap();
    let (chain, id) = verified(&answer, anchors);
    assert_eq!(id.to_string(), format!("spiffe://public/ns/{own}/dapr-injector"));
    assert!(!openssl_text(&chain).contains("DNS:"));
    Ok(())
}

const IMAGES_OID: &str = "1.3.6.1.4.1.57683.100.1";

/// Requests a certificate and returns whether its leaf contains `text`.
fn leaf_contains(fixture: &Fixture, text: &str) -> bool {
    let answer = fixture.sentry.sign(&fixture.anchors, fixture.request()).expect("a certificate");
    let (chain, _) = verified(&answer, &fixture.anchors);
    let leaf = chain.certs().first().map(AsRef::as_ref).unwrap_or_default();
    leaf.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_certificate_lists_the_container_images_of_its_pod() -> Result<()> {
    let fixture = Fixture::new()?;
    let without_digest = r#"[{"role":"app","containerName":"app","image":"none"}]"#;
    assert!(leaf_contains(&fixture, without_digest), "the kubelet has reported no status");
    let answer = fixture.sentry.sign(&fixture.anchors, fixture.request()).expect("a certificate");
    let text = openssl_text(&verified(&answer, &fixture.anchors).0);
    assert!(text.contains(&format!("{IMAGES_OID}: \n")), "not critical: {text}");

    let status = json!({"status": {"containerStatuses": [{
        "name": "app", "image": "none", "imageID": "registry.example/app@sha256:aaa111",
        "ready": true, "restartCount": 0,
    }]}});
    let pod = ["patch", "pod", "till-0", "-n", &fixture.shop, "--subresource=status"];
    let merge = ["--type=merge", "-p", &status.to_string()];
    fixture.system.api.kubectl(&[&pod[..], &merge].concat())?;
    let with_digest =
        r#"[{"role":"app","containerName":"app","image":"none","digest":"sha256:aaa111"}]"#;
    until(soon(), "the digest in a certificate", || {
        Ok(leaf_contains(&fixture, with_digest).then_some(()))
    })
}

#[test]
fn the_image_extension_can_be_disabled() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let mut sentry =
        fixture.system.start_with("no-images", &["--container-images-extension=false"])?;
    sentry.wait_ready()?;
    fixture.sentry = sentry;
    let answer = fixture.sentry.sign(&fixture.anchors, fixture.request()).expect("a certificate");
    let text = openssl_text(&verified(&answer, &fixture.anchors).0);
    assert!(!text.contains(IMAGES_OID), "{text}");
    Ok(())
}

#[test]
fn two_replicas_that_start_together_create_one_ca() -> Result<()> {
    let system = System::new()?;
    let mut replicas = [system.start("sentry-a")?, system.start("sentry-b")?];
    for replica in &mut replicas {
        replica.wait_ready()?;
    }
    let anchors = system.anchors()?;
    assert_eq!(anchors.certs().len(), 1);
    let secret = system.data("secret")?;
    let shop = system.api.namespace("shop")?;
    system.pod(&shop, TILL, &json!({}))?;
    let token = system.pod_token(&shop, TILL)?;
    for replica in &replicas {
        // Both sign and serve with the published CA.
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
    // The fault that ruins a CA with the reference: the published root is another one.
    system.patch("configmap", &json!({"ca.crt": old.pem().anchors, "other": "stays"}))?;
    let _sentry = system.start_ready()?;
    until(soon(), "the ConfigMap to follow the Secret", || {
        Ok((system.anchors()? == mine.anchors()).then_some(()))
    })?;
    assert_eq!(system.data("secret")?, encoded(&mine));
    assert_eq!(system.data("configmap")?.get("other"), Some(&json!("stays")));
    Ok(())
}

#[test]
fn an_incomplete_ca_is_rejected_and_reported() -> Result<()> {
    let system = System::new()?;
    let mine = Ca::new();
    system.patch("secret", &json!({"ca.crt": mine.pem().anchors}))?;
    let mut sentry = system.start("sentry")?;
    let sentence = "the stored CA is incomplete: issuer.crt, issuer.key in Secret";
    sentry.process.wait_for_log(sentence, Deadline::seconds(60))?;
    sentry.wait_for_metric("dapr_sentry_bundle_refused", 1.0)?;
    assert_eq!(sentry.health()?, 503);
    assert_eq!(system.data("secret")?, json!({"ca.crt": STANDARD.encode(&mine.pem().anchors)}));
    assert_eq!(system.data("configmap")?, Value::Null);
    // When it is completed, it is used without a restart.
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
    let sentence = "the ConfigMap holds trust anchors but Secret";
    sentry.process.wait_for_log(sentence, Deadline::seconds(60))?;
    assert_eq!(sentry.health()?, 503);
    assert_eq!(system.data("secret")?, Value::Null);
    assert_eq!(system.anchors()?, published.anchors());
    Ok(())
}

#[test]
fn a_changed_secret_is_used_and_an_invalid_one_is_not() -> Result<()> {
    let Fixture { system, sentry, shop, token, anchors } = Fixture::new()?;
    let broken = json!({"issuer.key": Ca::new().pem().issuer_key.as_str()});
    system.patch("secret", &broken)?;
    sentry.wait_for_metric("dapr_sentry_bundle_refused", 1.0)?;
    assert_eq!(sentry.health()?, 200);
    let answer = sentry.sign(&anchors, request(&shop, TILL, &token)).unwrap();
    verified(&answer, &anchors);

    let next = Ca::new();
    system.patch("secret", &secret_data(&next))?;
    sentry.wait_for_metric("dapr_sentry_bundle_refused", 0.0)?;
    until(soon(), "the new root to be published", || {
        Ok((system.anchors()? == next.anchors()).then_some(()))
    })?;
    let answer = until(soon(), "sentry to serve with the new CA", || {
        Ok(sentry.sign(&next.anchors(), request(&shop, TILL, &token)).ok())
    })?;
    verified(&answer, &next.anchors());
    Ok(())
}

#[test]
fn forty_sidecars_at_once_get_their_certificates() -> Result<()> {
    let fixture = Fixture::new()?;
    let outcomes = runtime().block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..40 {
            // A connection each, as sidecars have.
            let mut client = fixture.sentry.client(&fixture.anchors).await?;
            let request = fixture.request();
            calls.spawn(async move {
                let call = client.sign_certificate(request);
                tokio::time::timeout(Duration::from_mins(1), call).await
            });
        }
        anyhow::Ok(calls.join_all().await)
    })?;
    assert!(outcomes.iter().all(|call| matches!(call, Ok(Ok(_)))), "{outcomes:?}");
    Ok(())
}

/// Runs a sentry that ends by itself; returns its exit code and its log.
fn run_to_the_end(
    system: &System,
    skip_user_check: &str,
    config: &str,
) -> Result<(Option<i32>, String)> {
    let scratch = blackbox::Scratch::new("sentry-end")?;
    let mut process = Spawn::new("sentry", build_binary("sentry")?, scratch.path())
        .args(["--mode=kubernetes", "--trust-domain=cluster.local", "--config", config])
        .arg("--kubeconfig")
        .arg(system.api.kubeconfig())
        .service_at(Ports::free()?)
        .env("NAMESPACE", &system.namespace)
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", skip_user_check)
        .start()?;
    let status = until(soon(), "the end", || Ok(process.exit_status()))?;
    Ok((status.code(), process.log()))
}

#[test]
fn a_missing_configuration_ends_the_process() -> Result<()> {
    let (code, log) = run_to_the_end(&System::new()?, "true", "nowhere")?;
    assert_eq!(code, Some(1), "{log}");
    let text = r#"couldn't find config name \"nowhere\": config CRD not found"#;
    assert!(log.contains(text), "{log}");
    Ok(())
}

#[test]
#[ignore = "needs root: sentry refuses to run as root"]
fn root_ends_the_process() -> Result<()> {
    let (code, log) = run_to_the_end(&System::new()?, "", "daprsystem")?;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK"), "{log}");
    Ok(())
}
