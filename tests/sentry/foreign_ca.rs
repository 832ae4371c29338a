//! CAs in the shapes that cert-manager stores (`tests/fixtures/cases/27-cert-manager-shapes`).
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::{Deadline, Scratch, environment, process, soon, until};
use identity::TrustAnchors;
use serde_json::{Map, Value, json};

use crate::fixture::{System, request, verified};

/// The folder with the CAs of the case, each with the three values of a Secret.
fn shapes() -> Result<Scratch> {
    let scratch = Scratch::new("cert-manager")?;
    let script =
        environment::workspace().join("tests/fixtures/cases/27-cert-manager-shapes/make.sh");
    process::output(Command::new("sh").arg(script).current_dir(scratch.path()))?;
    Ok(scratch)
}

/// The values of a shape as cert-manager writes them.
fn values(scratch: &Scratch, shape: &str) -> Result<Value> {
    let mut values = Map::new();
    for key in ["ca.crt", "tls.crt", "tls.key"] {
        let file = scratch.path().join("out").join(shape).join(key);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        values.insert(key.to_owned(), text.into());
    }
    Ok(values.into())
}

/// The Events on the Secret.
fn events(system: &System) -> Result<Vec<String>> {
    let list = system.api.get(&["events", "-n", &system.namespace])?;
    let all = list["items"].as_array().into_iter().flatten();
    let of_secret = all.filter(|event| event["involvedObject"]["kind"] == "Secret");
    Ok(of_secret.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect())
}

fn signs(system: &System, sentry: &crate::fixture::Sentry, anchors: &TrustAnchors) -> Result<()> {
    let shop = system.api.namespace("shop")?;
    system.pod(&shop, "till-0", &json!({"dapr.io/app-id": "till"}))?;
    let token = system.pod_token(&shop, "till-0")?;
    let answer = sentry.sign(anchors, request(&shop, "till", &token)).expect("a certificate");
    verified(&answer, anchors);
    Ok(())
}

#[test]
fn the_shapes_of_cert_manager_are_used_or_explained() -> Result<()> {
    let shapes = shapes()?;
    let refused = [
        (
            "selfsigned",
            "tls.crt",
            "issuer chain is empty",
            "a second Certificate, of a `ca` Issuer",
        ),
        (
            "ca-is-intermediate",
            "ca.crt",
            "certificate in trust anchor is not self-signed (certificate 1)",
            "store the root there: cert-manager and Vault",
        ),
    ];
    for ((shape, key, rule, remedy), then) in refused.into_iter().zip(["good", "ecparam"]) {
        let system = System::new()?;
        system.patch("secret", &values(&shapes, shape)?)?;
        let mut sentry = system.start("sentry")?;
        let object = format!("{key} of Secret {}/dapr-trust-bundle", system.namespace);
        let says = format!("the stored CA is invalid: {object}: {rule}");
        sentry.process.wait_for_log(&says, Deadline::seconds(60))?;
        assert_eq!(sentry.health()?, 503, "{shape}");
        until(soon(), "the Event on the Secret", || {
            let found = events(&system)?;
            Ok(found.iter().any(|text| text.contains(&says) && text.contains(remedy)).then_some(()))
        })?;
        assert_eq!(system.data("configmap")?, Value::Null, "{shape}: nothing is published");

        let good = values(&shapes, then)?;
        system.patch("secret", &good)?;
        sentry.wait_ready()?;
        let root = good["ca.crt"].as_str().unwrap_or_default();
        let anchors = TrustAnchors::parse_pem(root.as_bytes())?;
        assert_eq!(system.anchors()?, anchors, "{then}");
        signs(&system, &sentry, &anchors)?;
    }
    Ok(())
}
