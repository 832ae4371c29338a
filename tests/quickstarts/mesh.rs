//! Our control plane on a machine without a cluster, with mTLS, and official sidecars in it.

use std::fs;

use anyhow::Result;
use blackbox::{Daprd, Ports, Process, Redis, Scratch, Service, Spawn, environment, soon};
use serde_json::{Value, json};

/// The namespace that the control plane's identities name.
const NAMESPACE: &str = "mesh";

/// Sentry, placement, scheduler, and a Redis.
pub(crate) struct Mesh {
    pub(crate) sentry: Process,
    sentry_port: u16,
    placement: (Process, u16),
    scheduler: (Process, u16),
    _redis: Redis,
    folder: Scratch,
    token: String,
}

impl Mesh {
    pub(crate) fn start() -> Result<Self> {
        let folder = Scratch::new("mesh")?;
        let token = environment::secret()?;
        let redis = Redis::start(None)?;
        let host = redis.host();
        folder.write("resources/state.yaml", component("statestore", "state.redis", &host))?;
        folder.write("resources/pubsub.yaml", component("pubsub", "pubsub.redis", &host))?;
        folder.write("config.yaml", "")?;
        let own = ["--config=config.yaml", "--issuer-credentials=."].map(str::to_owned);
        let (sentry, sentry_port) = service(&folder, Service::Sentry, &own)?;
        let mtls = [
            "--tls-enabled".to_owned(),
            "--trust-anchors-file=ca.crt".to_owned(),
            format!("--sentry-address=127.0.0.1:{sentry_port}"),
        ];
        let [election, client, peer] = [(); 3].map(|()| environment::free_port());
        let (election, client, peer) = (election?, client?, peer?);
        let own = [format!("--initial-cluster=dapr-placement-0=127.0.0.1:{election}")];
        let placement = service(&folder, Service::Placement, &[&mtls[..], &own].concat())?;
        let store = [
            format!("--etcd-client-port={client}"),
            format!("--etcd-initial-cluster=dapr-scheduler-server-0=https://127.0.0.1:{peer}"),
            "--etcd-data-dir=jobs".to_owned(),
        ];
        let scheduler = service(&folder, Service::Scheduler, &[&mtls[..], &store].concat())?;
        Ok(Self { sentry, sentry_port, placement, scheduler, _redis: redis, folder, token })
    }

    /// A sidecar that lets only one other application call its own.
    pub(crate) fn sidecar(&self, app_id: &str, app_port: u16, caller: &str) -> Result<Daprd> {
        let configuration = format!("{app_id}.yaml");
        let configuration = self.folder.write(&configuration, access_control(caller))?;
        let resources = self.folder.path().join("resources");
        Daprd::builder(app_id)
            .arg(format!("--app-port={app_port}"))
            .arg(format!("--config={}", configuration.display()))
            .resources(&resources)
            .arg("--enable-mtls")
            .arg(format!("--sentry-address=127.0.0.1:{}", self.sentry_port))
            .placement(&format!("127.0.0.1:{}", self.placement.1))
            .scheduler(&format!("127.0.0.1:{}", self.scheduler.1))
            .arg("--control-plane-trust-domain=cluster.local")
            .arg(format!("--control-plane-namespace={NAMESPACE}"))
            .on_loopback()
            .env("DAPR_TRUST_ANCHORS", fs::read_to_string(self.folder.path().join("ca.crt"))?)
            .start()
    }

    /// The app id of an application. Sidecars find each other by multicast, those of other tests too.
    pub(crate) fn app_id(&self, name: &str) -> String {
        format!("{name}-{}", self.token)
    }
}

fn access_control(caller: &str) -> String {
    let may = json!({
        "appId": caller, "trustDomain": "public", "namespace": "default", "defaultAction": "allow",
    });
    let list = json!({"trustDomain": "public", "defaultAction": "deny", "policies": [may]});
    resource("Configuration", "settings", &json!({"accessControl": list}))
}

fn resource(kind: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}

fn component(name: &str, kind: &str, redis_host: &str) -> String {
    let metadata = json!([{"name": "redisHost", "value": redis_host}]);
    resource("Component", name, &json!({"type": kind, "version": "v1", "metadata": metadata}))
}

/// Starts a service of ours and waits until it is ready; returns its port too.
fn service(folder: &Scratch, service: Service, args: &[String]) -> Result<(Process, u16)> {
    let ports = Ports::free()?;
    let mut process = Spawn::new(service.binary(), service.build()?, folder.path())
        .args(["--mode=standalone", "--trust-domain=cluster.local"])
        .args(args)
        .service_at(ports)
        .env("NAMESPACE", NAMESPACE)
        .folder(folder.path())
        .start()?;
    process.wait_for_http(ports.healthz, "/healthz", soon())?;
    Ok((process, ports.main))
}
