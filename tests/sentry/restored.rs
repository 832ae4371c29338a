//! An API server whose etcd was restored from a backup: sentry lists pods and Configurations again.
//! A watch that is resumed would stay silent, because its resource version is in the future.

use anyhow::{Context as _, Result};
use blackbox::process::tail;
use blackbox::{Deadline, until};
use serde_json::json;

use crate::fixture::{Sentry, System, request, verified};

/// Time limit of each wait, in seconds.
const TIMEOUT: u64 = 300;
/// More writes than the programs of the cluster make while they start.
const WRITES: usize = 600;

/// A pod whose annotations give it an app id and a Configuration.
struct App<'a> {
    system: &'a System,
    namespace: String,
    token: String,
}

const POD: &str = "till-0";

impl<'a> App<'a> {
    fn new(system: &'a System) -> Result<Self> {
        let namespace = system.api.namespace("shop")?;
        let app = Self { system, namespace, token: String::new() };
        app.set_app_id("before")?;
        app.set_trust_domain("before.example")?;
        let token = system.pod_token(&app.namespace, POD)?;
        Ok(Self { token, ..app })
    }

    fn set_app_id(&self, app_id: &str) -> Result<()> {
        let annotations = json!({"dapr.io/app-id": app_id, "dapr.io/config": "mesh"});
        self.system.pod(&self.namespace, POD, &annotations)
    }

    fn set_trust_domain(&self, trust_domain: &str) -> Result<()> {
        let configuration = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": "mesh", "namespace": self.namespace},
            "spec": {"accessControl": {"trustDomain": trust_domain}},
        });
        self.system.api.apply(&configuration.to_string()).map(drop)
    }

    /// Waits until sentry issues a certificate for this app id in this trust domain.
    fn wait_for(&self, sentry: &Sentry, app_id: &str, trust_domain: &str) -> Result<()> {
        let anchors = self.system.anchors()?;
        let want = format!("spiffe://{trust_domain}/ns/{}/{app_id}", self.namespace);
        let mut last = String::new();
        let waited = until(Deadline::seconds(TIMEOUT), &want, || {
            let answer = sentry.sign(&anchors, request(&self.namespace, app_id, &self.token));
            last = match answer {
                Ok(answer) => verified(&answer, &anchors).1.to_string(),
                Err(error) => format!("{error:?}"),
            };
            Ok((last == want).then_some(()))
        });
        waited.with_context(|| {
            format!("the last answer: {last}\nlog of sentry:\n{}", tail(&sentry.process.log()))
        })
    }
}

#[test]
fn a_restored_api_server_is_listed_again() -> Result<()> {
    let system = System::alone()?;
    let app = App::new(&system)?;
    // The CA is part of the backup.
    let mut first = system.start_ready()?;
    first.process.kill();
    let backup = system.api.backup()?;
    let sentry = system.start_ready()?;
    app.wait_for(&sentry, "before", "before.example")?;
    app.set_app_id("after")?;
    app.set_trust_domain("after.example")?;
    app.wait_for(&sentry, "after", "after.example")?;
    system.api.write_config_maps(&app.namespace, WRITES)?;
    let newest = system.api.resource_version()?;

    system.api.restore(&backup)?;
    app.wait_for(&sentry, "before", "before.example")?;
    // The watches work in the restored history too.
    app.set_app_id("later")?;
    app.set_trust_domain("later.example")?;
    app.wait_for(&sentry, "later", "later.example")?;
    assert!(system.api.resource_version()? < newest, "a resumed watch would have stayed silent");
    Ok(())
}
