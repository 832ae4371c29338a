//! Flags, ports, readiness and trust anchors.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::admission::AdmissionClient;
use blackbox::{ApiCluster, Scratch, environment, http, until};
use proto::operator::ResourceEventType::{self, Created, Updated};
use proto::operator::{
    ConfigurationUpdateEvent, McpServerUpdateEvent, McpServerUpdateRequest,
    SubscriptionUpdateEvent, SubscriptionUpdateRequest,
};
use testkit::ca::Ca;
use tonic::{Code, Streaming};

use crate::fixture::proxy::{Fault, Proxy};
use crate::fixture::{Fixture, Operator, SYSTEM, Sidecar};
use crate::{component, name, pod_of, timeout};

/// `rsaEncryption` in DER (RFC 8017).
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

#[test]
fn every_port_is_configurable_and_readiness_means_listed() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("start").unwrap();
    fixture.apply(&namespace, &component("store", ""));
    let proxy = Proxy::start(fixture.api.kubeconfig()).unwrap();
    proxy.rule(|info| if info.path.ends_with("/components") { Fault::Lost } else { Fault::Pass });
    let ports = [(); 4].map(|()| environment::free_port().unwrap());
    let [api, healthz, webhook, metrics] = ports.map(|port| port.to_string());
    // One dash or two, a blank or `=`, as Go programs accept them; the last of several wins.
    let mut spawn = fixture
        .spawn("ports")
        .args(["-kubeconfig", proxy.kubeconfig().to_str().unwrap()])
        .args(["-port", &api])
        .arg(&format!("-healthz-port={healthz}"))
        .args(["--webhook-server-port", &webhook])
        .args(["-enable-metrics=true", &format!("--metrics-port={metrics}")])
        .args(["--disable-service-reconciler", "-cache-sync-period=1s"]);
    spawn.spawn = spawn
        .spawn
        .env("ENABLE_WEBHOOKS", "True")
        // A documentation address, which does not respond: the kubeconfig takes precedence.
        .env("KUBERNETES_SERVICE_HOST", "192.0.2.1")
        .env("KUBERNETES_SERVICE_PORT", "443");
    let mut operator = spawn.start_operator().unwrap();
    for port in ports {
        operator.process.wait_for_port(port, timeout()).unwrap();
    }
    let health = |path: &str| http::get(ports[1], path).map(|answer| answer.status);
    until(timeout(), "the list to be tried", || Ok((proxy.spoiled() >= 1).then_some(()))).unwrap();
    assert_eq!(health("/healthz").unwrap(), 503, "Components are not known");
    assert_eq!(health("/elsewhere").unwrap(), 404);
    proxy.rule(|_| Fault::Pass);
    until(timeout(), "readiness", || Ok((health("/healthz")? == 200).then_some(()))).unwrap();
    for path in ["/", "/metrics"] {
        assert!(http::get(ports[3], path).unwrap().is_success(), "{path}: any will do");
    }

    // The sync period is accepted and ignored: only a change sends an event.
    let mut app = fixture.sidecar(&namespace, "orders", ports[0]);
    let mut stream = app.open_components();
    assert_eq!(app.component_names(), ["store"]);
    fixture.apply(&namespace, &component("last", ""));
    assert_eq!(name(&app.next(&mut stream).1), "last");
}

#[test]
fn undecodable_objects_of_each_kind_do_not_affect_others() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("kinds").unwrap();
    // Objects that the API server accepts and the types cannot decode.
    let subscription = |name: &str, count: &str| {
        format!(
            "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {{name: {name}}}\n\
             spec: {{pubsubname: p, topic: t, routes: {{}}, \
             bulkSubscribe: {{enabled: true, maxMessagesCount: {count}}}}}\n---\n"
        )
    };
    let server = |name: &str, timeout: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {{name: {name}}}\n\
             spec: {{endpoint: {{sse: {{url: 'http://a', timeout: '{timeout}'}}}}}}\n---\n"
        )
    };
    let configuration = |name: &str, timeout: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: {name}}}\n\
             spec: {{tracing: {{samplingRate: '1', otel: {{protocol: grpc, endpointAddress: 'c:1', \
             isSecure: false, timeout: {timeout}}}}}}}\n---\n"
        )
    };
    let all = |name: &str, [count, timeout]: [&str; 2]| {
        subscription(name, count) + &server(name, timeout) + &configuration(name, timeout)
    };
    let (broken, right) = (["3000000000", "1 minute"], ["10", "1m"]);
    fixture.apply(&namespace, &(pod_of("orders", "good") + &all("bad", broken)));
    fixture.apply(&namespace, &all("good", right));
    // For an operator that lists them at its start, and for one that watched their creation.
    let late = fixture.another_operator();
    let mut listeners: Vec<_> = [late.port, fixture.operator.port]
        .map(|port| {
            let mut app = fixture.sidecar(&namespace, "orders", port);
            until(timeout(), "the good ones", || {
                let all = app.everything();
                let names = |kind: &str| {
                    let (_, objects) = all.iter().find(|(plural, _)| *plural == kind).unwrap();
                    objects.iter().map(|object| name(object).to_owned()).collect::<Vec<_>>()
                };
                let good = ["good".to_owned()];
                let listed = names("subscriptions") == good && names("mcpservers") == good;
                Ok((listed && app.configuration("good").is_ok()).then_some(()))
            })
            .unwrap();
            assert_eq!(app.configuration("bad").unwrap_err().code(), Code::NotFound);
            Listener::new(app)
        })
        .into();
    // One more is created, one is changed, and then the invalid ones are corrected.
    fixture.apply(&namespace, &(subscription("more", "10") + &server("more", "1m")));
    fixture.apply(&namespace, &configuration("good", "2m"));
    let want = [(Created, "more"), (Created, "more"), (Updated, "good")];
    for listener in &mut listeners {
        assert_eq!(listener.next(), want.map(|(event, name)| (event, name.to_owned())));
    }
    fixture.apply(&namespace, &all("bad", right));
    for listener in &mut listeners {
        assert_eq!(listener.subscription(), (Created, "bad".to_owned()));
        assert_eq!(listener.server(), (Created, "bad".to_owned()));
    }
}

/// A sidecar with open streams of the kinds that can be undecodable.
struct Listener {
    app: Sidecar,
    subscriptions: Streaming<SubscriptionUpdateEvent>,
    servers: Streaming<McpServerUpdateEvent>,
    configurations: Streaming<ConfigurationUpdateEvent>,
}

type Received = (ResourceEventType, String);

impl Listener {
    fn new(mut app: Sidecar) -> Self {
        let configurations = app.open_configurations();
        let request = SubscriptionUpdateRequest { namespace: app.namespace.clone() };
        let subscriptions = app.runtime.block_on(app.client.subscription_update(request));
        let request = McpServerUpdateRequest { namespace: app.namespace.clone() };
        let servers = app.runtime.block_on(app.client.mcp_server_update(request));
        let (subscriptions, servers) = (subscriptions.unwrap(), servers.unwrap());
        let (subscriptions, servers) = (subscriptions.into_inner(), servers.into_inner());
        Self { app, subscriptions, servers, configurations }
    }

    fn subscription(&mut self) -> Received {
        let event = self.app.event(&mut self.subscriptions);
        (event.r#type(), named(&event.subscription))
    }

    fn server(&mut self) -> Received {
        let event = self.app.event(&mut self.servers);
        (event.r#type(), named(&event.mcp_server))
    }

    fn next(&mut self) -> [Received; 3] {
        let event = self.app.event(&mut self.configurations);
        let configuration = (event.r#type(), named(&event.configuration));
        [self.subscription(), self.server(), configuration]
    }
}

fn named(body: &[u8]) -> String {
    name(&serde_json::from_slice(body).unwrap()).to_owned()
}

/// Replaces a file as `mv` does.
fn rename_over(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, file).unwrap();
}

/// Replaces a file as the kubelet does with the files of a volume.
fn swap_link(file: &Path, version: &str, content: &str) {
    let folder = file.with_extension(version);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("ca.crt"), content).unwrap();
    let link = file.with_extension("link");
    symlink(folder.join("ca.crt"), &link).unwrap();
    fs::rename(link, file).unwrap();
}

fn operator_trusting(
    fixture: &Fixture,
    api: &ApiCluster,
    webhook: u16,
    anchors: &Path,
) -> Operator {
    let mut spawn = fixture
        .spawn("anchors")
        .args(["--kubeconfig", api.kubeconfig().to_str().unwrap()])
        .args(["--webhook-server-port", &webhook.to_string()])
        .args(["--trust-anchors-file", anchors.to_str().unwrap()])
        .arg("--disable-service-reconciler");
    spawn.spawn = spawn.spawn.env("ENABLE_WEBHOOKS", "true");
    let mut operator = spawn.start_operator().unwrap();
    operator.wait_ready().unwrap();
    operator
}

#[test]
fn every_change_of_the_trust_anchors_is_applied() {
    let fixture = Fixture::shared();
    let (_turn, api) = fixture.second();
    let webhook = fixture.install_on(api).unwrap();
    let folder = Scratch::new("anchors").unwrap();
    let own = fixture.anchors.clone();
    let file = folder.write("ca.crt", &own).unwrap();
    let mut operator = operator_trusting(fixture, api, webhook, &file);
    let wait_for_bundle = |anchors: &str| {
        let want = STANDARD.encode(anchors);
        until(timeout(), "the bundle in the CRD", || {
            let crd = api.get(&["crd", "subscriptions.dapr.io"])?;
            let bundle = &crd["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"];
            Ok((*bundle == *want).then_some(()))
        })
        .unwrap();
    };
    wait_for_bundle(&own);

    // Its certificate has a key type that every API server supports, and the name of the Service.
    let client = AdmissionClient::new(webhook, &format!("dapr-webhook.{SYSTEM}.svc"), &own);
    let certificate = client.unwrap().certificate().unwrap();
    assert!(certificate.windows(RSA.len()).any(|bytes| bytes == RSA));

    let other = Ca::new();
    let both = format!("{own}{}", other.anchors().pem());
    let served = |accepted: bool| {
        until(timeout(), "the sidecar to be treated accordingly", || {
            let mut app = Sidecar::of_authority(fixture, &other, "shop", operator.port)?;
            Ok((app.components().is_ok() == accepted).then_some(()))
        })
        .unwrap();
    };
    served(false);
    rename_over(&file, &both);
    wait_for_bundle(&both);
    served(true);
    rename_over(&file, &own);
    wait_for_bundle(&own);
    served(false);
    swap_link(&file, "first", &both);
    wait_for_bundle(&both);
    served(true);
    swap_link(&file, "second", &own);
    wait_for_bundle(&own);
    served(false);
    assert!(operator.process.is_running());
    let mut app = fixture.sidecar(SYSTEM, "orders", operator.port);
    assert!(app.components().is_ok());
}
