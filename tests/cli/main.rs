//! The official `dapr` CLI installs the control plane, reads what it installed, and removes it: on
//! an API server without nodes, with our chart repository, and with a simulated Internet. Tests
//! that need running pods are in `upgrade.rs`. Source of commands and texts: Dapr CLI 1.16.5.

mod annotate;
mod internet;
mod self_hosted;

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::{ApiCluster, DaprCli, Scratch, reference};
use serde_json::{Value, json};

use crate::internet::Internet;

const NAMESPACE: &str = "dapr-system";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Files of the definitions that this CLI installs; newer ones install two more.
const DEFINITIONS: [&str; 5] = [
    "components.yaml",
    "configuration.yaml",
    "httpendpoints.yaml",
    "resiliency.yaml",
    "subscription.yaml",
];
const SUCCESS: &str = "Success! Dapr has been installed to namespace dapr-system";

/// The cluster without a control plane, for one test at a time, and the CLI.
struct Fixture {
    api: &'static ApiCluster,
    cli: DaprCli,
    _internet: Internet,
    _alone: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new(internet: Internet) -> Result<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let api = ApiCluster::shared()?;
        let cli = DaprCli::with_repository(api.cluster().clone(), None, None)?;
        let fixture = Self { api, cli: internet.seen_by(cli), _internet: internet, _alone: alone };
        fixture.clean()?;
        Ok(fixture)
    }

    /// `dapr init -k` of our version with images from a mirror, and these flags.
    fn init(&self, flags: &[&str]) -> Result<String> {
        let mut args = vec!["init", "-k", "--runtime-version", VERSION];
        args.extend(["--image-registry", "mirror.example/dapr"]);
        args.extend(flags);
        let output = self.cli.run(&args)?;
        ensure!(output.contains(SUCCESS), "{output}");
        Ok(output)
    }

    /// Removes what an earlier test left.
    fn clean(&self) -> Result<()> {
        let namespace = ["--namespace", NAMESPACE];
        let uninstall = ["uninstall", "dapr", "dapr-dashboard", "--ignore-not-found", "--wait"];
        self.api.cluster().helm(&[&uninstall[..], &namespace].concat())?;
        let dev = ["uninstall", "dapr-dev-redis", "dapr-dev-zipkin", "--ignore-not-found"];
        self.api.cluster().helm(&[&dev[..], &["--namespace", "default"]].concat())?;
        let trust = ["delete", "secret,configmap", "dapr-trust-bundle", "--ignore-not-found"];
        self.api.kubectl(&[&trust[..], &namespace].concat())?;
        let definitions = self.api.kubectl(&["get", "crd", "-o", "name"])?;
        let definitions = definitions.lines().filter(|name| name.ends_with(".dapr.io"));
        let delete: Vec<_> =
            ["delete", "--ignore-not-found"].into_iter().chain(definitions).collect();
        if delete.len() > 2 {
            self.api.kubectl(&delete)?;
        }
        Ok(())
    }

    fn values(&self) -> Result<Value> {
        let args = ["get", "values", "dapr", "--namespace", NAMESPACE, "--output", "json"];
        serde_json::from_str(&self.api.cluster().helm(&args)?).context("helm printed no JSON")
    }

    fn secret(&self, key: &str) -> Result<String> {
        let secret = self.api.get(&["secret", "dapr-trust-bundle", "-n", NAMESPACE])?;
        let text = secret.pointer(&format!("/data/{key}")).and_then(Value::as_str);
        Ok(String::from_utf8(STANDARD.decode(text.with_context(|| format!("no {key}"))?)?)?)
    }
}

#[test]
fn init_status_and_uninstall() -> Result<()> {
    let fixture = Fixture::new(Internet::start(None)?)?;
    fixture.init(&[])?;
    let status = fixture.cli.run(&["status", "-k"])?;
    for name in [
        "dapr-operator",
        "dapr-sentry",
        "dapr-sidecar-injector",
        "dapr-placement-server",
        "dapr-scheduler-server",
    ] {
        let row = status.lines().find(|line| line.trim_start().starts_with(name));
        let row = row.with_context(|| format!("no row {name} in:\n{status}"))?;
        ensure!(row.contains(&format!(" {VERSION} ")), "{row}");
    }
    let mtls = fixture.cli.run(&["mtls", "-k"])?;
    ensure!(mtls.contains("Mutual TLS is enabled"), "{mtls}");
    let injector = fixture.api.get(&["deployment", "dapr-sidecar-injector", "-n", NAMESPACE])?;
    let daprd = format!("mirror.example/dapr/daprd:{VERSION}");
    ensure!(injector.to_string().contains(&daprd), "the mirror holds daprd too");

    // The CLI would not install twice.
    let again = fixture.cli.output(&["init", "-k", "--runtime-version", VERSION]);
    ensure!(
        format!("{again:?}").contains("cannot re-use a name that is still in use"),
        "{again:?}"
    );

    let output = fixture.cli.run(&["uninstall", "-k"])?;
    ensure!(output.contains("Dapr has been removed successfully"), "{output}");
    let left = fixture.api.kubectl(&["get", "crd", "-o", "name"])?;
    ensure!(left.contains("components.dapr.io"), "only --all takes the definitions with it");
    fixture.init(&[])?; // over the CA and the definitions that stayed
    let output = fixture.cli.run(&["uninstall", "-k", "--all"])?;
    ensure!(output.contains("Dapr has been removed successfully"), "{output}");
    let left = fixture.api.kubectl(&["get", "crd", "-o", "name"])?;
    for kind in ["components", "configurations", "httpendpoints", "resiliencies", "subscriptions"] {
        ensure!(!left.contains(kind), "--all left {left}");
    }
    Ok(())
}

#[test]
fn init_flags_become_values_of_the_chart() -> Result<()> {
    let fixture = Fixture::new(Internet::start(None)?)?;
    fixture.init(&[
        "--enable-ha",
        "--enable-mtls=false",
        "--set",
        "dapr_sentry.logLevel=debug,dapr_operator.replicaCount=2",
        "--image-variant",
        "mariner",
    ])?;
    let values = fixture.values()?;
    let wanted = json!({
        "dapr_operator": {"replicaCount": 2}, "dapr_sentry": {"logLevel": "debug"},
        "global": {"ha": {"enabled": true}, "mtls": {"enabled": false},
            "registry": "mirror.example/dapr", "tag": format!("{VERSION}-mariner")},
    });
    ensure!(values == wanted, "the CLI sets {values}");
    let placement = fixture.api.get(&["statefulset", "dapr-placement-server", "-n", NAMESPACE])?;
    ensure!(placement.pointer("/spec/replicas") == Some(&json!(3)), "{placement}");
    let mtls = fixture.cli.run(&["mtls", "-k"])?;
    ensure!(mtls.contains("Mutual TLS is disabled"), "{mtls}");
    Ok(())
}

#[test]
fn certificates_of_ones_own_are_installed_and_exported_again() -> Result<()> {
    let fixture = Fixture::new(Internet::start(None)?)?;
    let files = Scratch::new("certificates")?;
    let ca = testkit::ca::Ca::new();
    let pem = ca.pem();
    let contents = [
        ("--ca-root-certificate", "ca.crt", pem.anchors.as_str()),
        ("--issuer-public-certificate", "issuer.crt", &pem.issuer_chain),
        ("--issuer-private-key", "issuer.key", &pem.issuer_key),
    ];
    let mut flags = Vec::new();
    for (flag, name, content) in contents {
        flags.extend([flag.to_owned(), files.write(name, content)?.to_string_lossy().into_owned()]);
    }
    fixture.init(&flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    let folder = files.path().join("exported");
    fixture.cli.run(&["mtls", "export", "-o", &folder.to_string_lossy()])?;
    for (_, name, content) in contents {
        ensure!(fixture.secret(name)? == content, "{name} is installed as it was given");
        ensure!(std::fs::read_to_string(folder.join(name))? == content, "{name} is exported so");
    }
    let expiry = fixture.cli.run(&["mtls", "expiry"])?;
    let (_, ends) = ca.bundle().root(runtime::clock::now()).context("no root")?;
    ensure!(expiry.contains(&ends.strftime("%Y-%m-%d").to_string()), "{expiry}");
    Ok(())
}

/// The definitions that the CLI applies are the reference's: it fetches them by version, and Helm
/// then leaves ours unchanged.
#[test]
fn development_mode_installs_redis_zipkin_and_what_uses_them() -> Result<()> {
    let internet = Internet::start(None)?.with_development_charts()?.with_definitions(VERSION)?;
    let fixture = Fixture::new(internet)?;
    let output = fixture.init(&["--dev"])?;
    ensure!(output.contains("dapr-dev-redis") || output.contains("Dapr Redis"), "{output}");
    for file in DEFINITIONS {
        let file = reference::chart()?.join("crds").join(file);
        // Exits with 1 if the API server has another one.
        let diff = ["diff", "--server-side", "--force-conflicts", "-f", &file.to_string_lossy()];
        fixture.api.kubectl(&diff).context("that definition is not the reference's")?;
    }
    let components = fixture.cli.run(&["components", "-k", "-A"])?;
    for row in [["statestore", "state.redis"], ["pubsub", "pubsub.redis"]] {
        let found = components.lines().find(|line| row.iter().all(|word| line.contains(word)));
        ensure!(found.is_some(), "no {row:?} in:\n{components}");
    }
    let one = fixture.cli.run(&[
        "components",
        "-k",
        "-n",
        "default",
        "--name",
        "pubsub",
        "-o",
        "json",
    ])?;
    ensure!(one.contains("pubsub.redis") && !one.contains("state.redis"), "{one}");
    let configurations = fixture.cli.run(&["configurations", "-k", "-A"])?;
    ensure!(configurations.contains("appconfig"), "{configurations}");
    ensure!(!configurations.contains("daprsystem"), "the CLI hides it: {configurations}");
    let component = fixture.api.get(&["component", "statestore", "-n", "default"])?;
    let host = component.pointer("/spec/metadata").map(ToString::to_string).unwrap_or_default();
    ensure!(
        host.contains("dapr-dev-redis-master:6379") && host.contains("dapr-dev-redis"),
        "{host}"
    );

    let output = fixture.cli.run(&["uninstall", "-k", "--all", "--dev"])?;
    ensure!(output.contains("Dapr has been removed successfully"), "{output}");
    let releases = fixture.api.cluster().helm(&["list", "--all-namespaces", "--short"])?;
    ensure!(!releases.contains("dapr-dev"), "left: {releases}");
    Ok(())
}
