//! Official sidecars of several versions as clients of the operator.
use std::thread;

use anyhow::Context as _;
use blackbox::{Daprd, DaprdBuilder, Redis, SubscriberApp, Tool, http, soon, until};
use serde_json::json;

use crate::fixture::{self, Fixture, Operator};
use crate::{component, component_with_secret, pod_of, secret, timeout};

/// The official sidecar in Kubernetes mode, with the arguments of the injector.
fn daprd(fixture: &Fixture, namespace: &str, operator_port: u16) -> DaprdBuilder {
    Daprd::builder("orders")
        .args(["--mode", "kubernetes", "--enable-mtls", "--config", "appconfig"])
        .args(["--placement-host-address", "", "--disable-builtin-k8s-secret-store"])
        .args(["--control-plane-address", &format!("127.0.0.1:{operator_port}")])
        .args(["--sentry-address", &format!("127.0.0.1:{}", fixture.sentry_port)])
        .env("DAPR_TRUST_ANCHORS", &fixture.anchors)
        .env("NAMESPACE", namespace)
        .env("POD_NAME", "orders-0")
        .env("DAPR_CONTROLPLANE_NAMESPACE", fixture::SYSTEM)
        .env("DAPR_CONTROLPLANE_TRUST_DOMAIN", "cluster.local")
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
}

/// Whether the sidecar has loaded a Component.
fn has(sidecar: &Daprd, component: &str) -> bool {
    let metadata = sidecar.metadata().unwrap_or_default();
    let components = metadata["components"].as_array().cloned().unwrap_or_default();
    components.iter().any(|c| c["name"] == component)
}

/// Number of times that the sidecar loaded a Component.
fn loads(sidecar: &Daprd, component: &str) -> usize {
    sidecar.log().matches(&format!("Component loaded: {component} (")).count()
}

/// Number of times that the sidecar started its runtime in this process.
fn starts(sidecar: &Daprd) -> usize {
    sidecar.log().matches("dapr initialized. Status: Running").count()
}

fn wait_for(sidecar: &Daprd, what: &str, mut probe: impl FnMut() -> bool) {
    let result = until(timeout(), what, || Ok(probe().then_some(())));
    result.with_context(|| sidecar.log()).unwrap();
}

/// A sidecar, its app, and the operator.
struct AppFixture<'a> {
    fixture: &'a Fixture,
    namespace: String,
    operator: Operator,
    app: SubscriberApp,
    sidecar: Daprd,
}

impl<'a> AppFixture<'a> {
    fn start(version: Tool, prefix: &str, manifests: &str) -> Self {
        let fixture: &'a Fixture = Fixture::shared();
        let namespace = fixture.api.namespace(prefix).unwrap();
        fixture.apply(&namespace, manifests);
        let spawn =
            fixture.spawn(&namespace).args(["--disable-service-reconciler", "--watch-secrets"]);
        let mut operator = spawn.start_operator().unwrap();
        operator.wait_ready().unwrap();
        let app = SubscriberApp::start().unwrap();
        let mut sidecar = daprd(fixture, &namespace, operator.port)
            .version(version)
            .args(["--app-port", &app.port().to_string()])
            .start()
            .unwrap();
        sidecar.wait_outbound_ready(timeout()).unwrap();
        Self { fixture, namespace, operator, app, sidecar }
    }

    fn apply(&self, manifests: &str) {
        self.fixture.apply(&self.namespace, manifests);
    }

    fn kubectl(&self, args: &[&str]) {
        self.fixture.api.kubectl(&[args, &["-n", &self.namespace]].concat()).unwrap();
    }

    fn wait_for(&self, what: &str, probe: impl FnMut() -> bool) {
        wait_for(&self.sidecar, what, probe);
    }

    fn wait_until_loaded(&self, component: &str, times: usize) {
        let what = format!("{component} to be loaded {times} times");
        self.wait_for(&what, || {
            loads(&self.sidecar, component) == times && has(&self.sidecar, component)
        });
    }

    fn wait_until_unloaded(&self, component: &str) {
        self.wait_for(&format!("{component} to be unloaded"), || !has(&self.sidecar, component));
    }

    /// Publishes until a message to `topic` arrives on `path`.
    fn wait_for_message(&self, topic: &str, path: &str) {
        let before = self.app.received().len();
        self.wait_for(&format!("a message of {topic} on {path}"), || {
            self.publish(topic);
            self.app.received().iter().skip(before).any(|on| on == path)
        });
    }

    fn publish(&self, topic: &str) {
        let path = format!("/v1.0/publish/bus/{topic}");
        let answer = http::post(self.sidecar.http_port, &path, &json!({"a": 1})).unwrap();
        assert!(answer.is_success(), "{}", answer.body);
    }

    /// Kills the operator.
    fn lose_operator(&mut self) {
        self.operator.process.kill();
    }

    /// Starts the operator again at its port.
    fn restart_operator(&mut self) {
        let name = format!("{}-again", self.namespace);
        let spawn =
            self.fixture.spawn(&name).args(["--disable-service-reconciler", "--watch-secrets"]);
        let port = self.operator.port;
        // Of several ports the last one wins.
        let again = spawn.arg(&format!("--port={port}")).start_operator().unwrap();
        self.operator = Operator { port, ..again };
        self.operator.wait_ready().unwrap();
    }
}

fn bus() -> String {
    "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: bus}\n\
     spec: {type: pubsub.in-memory, version: v1, metadata: []}\n---\n"
        .to_owned()
}

/// Hot reload is disabled by default in versions before 1.18.
fn configuration(sampling: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: appconfig}}\n\
         spec: {{features: [{{name: HotReload, enabled: true}}], \
         tracing: {{samplingRate: '{sampling}'}}}}\n---\n"
    )
}

fn old_subscription(topic: &str, route: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {{name: old}}\n\
         spec: {{pubsubname: bus, topic: {topic}, route: {route}}}\n---\n"
    )
}

fn new_subscription(topic: &str, route: &str, more: &str) -> String {
    format!(
        "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {{name: new}}\n\
         spec: {{pubsubname: bus, topic: {topic}, routes: {{default: {route}}}}}\n{more}\n---\n"
    )
}

/// Runs a test with each version of the sidecar, concurrently.
fn with_each_version(play: impl Fn(Tool) + Sync) {
    // Their programs may have to be built first, one at a time.
    let versions = Tool::sidecars();
    for version in &versions {
        version.path().unwrap();
    }
    thread::scope(|scope| {
        for version in versions {
            let play = &play;
            scope.spawn(move || play(version));
        }
    });
}

#[test]
fn official_sidecars_reload_components() {
    with_each_version(reload_components);
}

fn reload_components(version: Tool) {
    let manifests = configuration("0")
        + &secret("redis")
        + &component("steady", "")
        + &component_with_secret("secretive", "redis", "");
    let mut app_fixture = AppFixture::start(version, "components", &manifests);
    assert_eq!(loads(&app_fixture.sidecar, "steady"), 1);

    app_fixture.apply(&component("added", ""));
    app_fixture.wait_until_loaded("added", 1);
    app_fixture.apply(&component("added", "scopes: [bills]"));
    app_fixture.wait_until_unloaded("added");
    app_fixture.apply(&component("added", "scopes: [bills, orders]"));
    app_fixture.wait_until_loaded("added", 2);
    app_fixture.kubectl(&["delete", "component.dapr.io", "added"]);
    app_fixture.wait_until_unloaded("added");
    let changed =
        component("changed", "").replace("metadata: []", "metadata: [{name: a, value: b}]");
    app_fixture.apply(&component("changed", ""));
    app_fixture.wait_until_loaded("changed", 1);
    app_fixture.apply(&changed);
    app_fixture.wait_until_loaded("changed", 2);
    let rotate = |to: &str| format!(r#"{{"stringData": {{"password": "{to}"}}}}"#);
    app_fixture.kubectl(&["patch", "secret", "redis", "-p", &rotate("second")]);
    app_fixture.wait_until_loaded("secretive", 2);

    app_fixture.lose_operator();
    app_fixture.apply(&component("meanwhile", ""));
    app_fixture.apply(&component("changed", ""));
    app_fixture.kubectl(&["patch", "secret", "redis", "-p", &rotate("third")]);
    app_fixture.apply(&component("there-and-gone", ""));
    app_fixture.kubectl(&["delete", "component.dapr.io", "there-and-gone"]);
    app_fixture.restart_operator();
    app_fixture.wait_until_loaded("meanwhile", 1);
    app_fixture.wait_until_loaded("changed", 3);
    app_fixture.wait_until_loaded("secretive", 3);
    // The streams are open again.
    app_fixture.apply(&component("afterwards", ""));
    app_fixture.wait_until_loaded("afterwards", 1);
    // Unchanged objects were not reloaded.
    assert_eq!(loads(&app_fixture.sidecar, "steady"), 1);
    assert_eq!(loads(&app_fixture.sidecar, "there-and-gone"), 0);
    assert_eq!(starts(&app_fixture.sidecar), 1, "{}", app_fixture.sidecar.log());
    assert!(app_fixture.sidecar.process().is_running());
}

#[test]
fn official_sidecars_reload_subscriptions_of_both_versions() {
    let _alone = Fixture::shared().subscription_definition();
    with_each_version(reload_subscriptions);
}

fn reload_subscriptions(version: Tool) {
    let manifests = configuration("0")
        + &bus()
        + &old_subscription("one", "/events/one")
        + &new_subscription("two", "/events/two", "scopes: [orders]");
    let mut app_fixture = AppFixture::start(version, "subscriptions", &manifests);
    app_fixture.wait_for_message("one", "/events/one");
    app_fixture.wait_for_message("two", "/events/two");

    app_fixture.apply(&old_subscription("one", "/events/changed"));
    app_fixture.wait_for_message("one", "/events/changed");
    app_fixture.apply(&new_subscription("two", "/events/two", "scopes: [bills]"));
    let listed = |sidecar: &Daprd, topic: &str| {
        let metadata = sidecar.metadata().unwrap_or_default();
        let subscriptions = metadata["subscriptions"].as_array().cloned().unwrap_or_default();
        subscriptions.iter().any(|s| s["topic"] == topic)
    };
    app_fixture
        .wait_for("the subscription out of scope to go", || !listed(&app_fixture.sidecar, "two"));
    let before = app_fixture.app.received().len();
    app_fixture.publish("two");
    app_fixture.wait_for_message("one", "/events/changed");
    assert!(!app_fixture.app.received().iter().skip(before).any(|on| on == "/events/two"));

    app_fixture.lose_operator();
    app_fixture.apply(&new_subscription("two", "/events/again", ""));
    app_fixture.kubectl(&["delete", "subscriptions.v2alpha1.dapr.io", "old"]);
    app_fixture.restart_operator();
    app_fixture.wait_for_message("two", "/events/again");
    app_fixture.wait_for("the deleted subscription to go", || !listed(&app_fixture.sidecar, "one"));
    assert_eq!(loads(&app_fixture.sidecar, "bus"), 1);
    assert_eq!(starts(&app_fixture.sidecar), 1, "{}", app_fixture.sidecar.log());
}

#[test]
fn official_sidecar_restarts_for_its_own_configuration_only() {
    let endpoint = "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: api}\n\
         spec: {baseUrl: 'http://a', headers: [{name: h, secretKeyRef: {name: redis, key: password}}]}\n---\n";
    let resiliency = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\n\
         spec: {policies: {timeouts: {fast: 1s}}, targets: {}}\n---\n";
    let manifests = configuration("0")
        + &secret("redis")
        + endpoint
        + resiliency
        + &pod_of("orders", "appconfig");
    let mut app_fixture = AppFixture::start(Tool::DAPRD, "configurations", &manifests);

    // No restart for a foreign Configuration, labels, a Secret of an endpoint (which would look like a
    // new endpoint each time), or a restart of the operator.
    let foreign = configuration("1").replace("appconfig", "foreign");
    app_fixture.apply(&foreign);
    app_fixture.kubectl(&["label", "configuration.dapr.io", "appconfig", "a=b"]);
    app_fixture.kubectl(&["label", "resiliency.dapr.io", "r", "a=b"]);
    app_fixture.kubectl(&[
        "patch",
        "secret",
        "redis",
        "-p",
        r#"{"stringData": {"password": "new"}}"#,
    ]);
    app_fixture.lose_operator();
    app_fixture.restart_operator();
    app_fixture.apply(&component("fence", ""));
    app_fixture.wait_until_loaded("fence", 1);
    assert_eq!(starts(&app_fixture.sidecar), 1, "{}", app_fixture.sidecar.log());

    // A restart for its own Configuration.
    app_fixture.apply(&configuration("1"));
    app_fixture
        .wait_for("a new start with the new Configuration", || starts(&app_fixture.sidecar) == 2);
    // Also for a change while no operator runs: the sidecar does not list this kind again.
    app_fixture.lose_operator();
    app_fixture.apply(&configuration("0.5"));
    app_fixture.restart_operator();
    app_fixture.wait_for("a new start after the operator's", || starts(&app_fixture.sidecar) == 3);
    app_fixture.lose_operator();
    app_fixture.apply(&resiliency.replace("1s", "2s"));
    app_fixture.restart_operator();
    app_fixture
        .wait_for("a new start with the new Resiliency", || starts(&app_fixture.sidecar) == 4);
    // It receives the change once.
    app_fixture.apply(&component("second-fence", ""));
    app_fixture.wait_until_loaded("second-fence", 1);
    assert_eq!(starts(&app_fixture.sidecar), 4, "{}", app_fixture.sidecar.log());
    assert!(app_fixture.sidecar.process().is_running(), "in the same process");
}

#[test]
fn official_sidecar_uses_a_secret_reloads_and_survives_a_restart() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("daprd").unwrap();
    let redis = Redis::start(Some("hunter2")).unwrap();
    fixture.apply(
        &namespace,
        &(secret("redis")
            + &format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: store}}\n\
         spec: {{type: state.redis, version: v1, metadata: [{{name: redisHost, value: '{}'}}, \
         {{name: redisPassword, secretKeyRef: {{name: redis, key: password}}}}]}}\n---\n\
         apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: appconfig}}\n\
         spec: {{metrics: {{enabled: true}}}}\n",
                redis.host()
            )),
    );
    let mut operator = fixture.another_operator();
    let mut app = daprd(fixture, &namespace, operator.port).start().unwrap();
    app.wait_outbound_ready(timeout()).unwrap();
    let items = json!([{"key": "k", "value": "v"}]);
    let saved = http::post(app.http_port, "/v1.0/state/store", &items);
    assert!(saved.unwrap().is_success(), "the password of the Secret opened Redis");

    fixture.apply(&namespace, &component("added", ""));
    until(timeout(), "the reload", || Ok(has(&app, "added").then_some(()))).unwrap();
    fixture.api.kubectl(&["delete", "component.dapr.io", "added", "-n", &namespace]).unwrap();
    until(timeout(), "the unload", || Ok((!has(&app, "added")).then_some(()))).unwrap();

    // SIGTERM with seven open streams: the process ends immediately and without error.
    let status = operator.process.terminate(soon()).unwrap();
    assert!(status.success(), "{status}: {}", operator.process.log());
    fixture.apply(&namespace, &component("meanwhile", ""));
    let spawn = fixture.spawn("restarted").arg("--disable-service-reconciler");
    // As with Go flags, the last one wins.
    let mut operator = spawn.arg(&format!("--port={}", operator.port)).start_operator().unwrap();
    operator.wait_ready().unwrap();
    until(timeout(), "what changed meanwhile", || Ok(has(&app, "meanwhile").then_some(())))
        .unwrap();
    assert!(app.process().is_running());
}

fn state_store(redis: &Redis, prefix: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: store}}\n\
         spec: {{type: state.redis, version: v1, metadata: [\
         {{name: redisHost, value: '{}'}}, {{name: keyPrefix, value: {prefix}}}]}}\n---\n",
        redis.host()
    )
}

fn timeout_of_the_store(duration: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {{name: limits}}\n\
         spec: {{policies: {{timeouts: {{limit: {duration}}}}}, \
         targets: {{components: {{store: {{outbound: {{timeout: limit}}}}}}}}}}\n---\n"
    )
}

fn denied_api(name: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: appconfig}}\n\
         spec: {{api: {{denied: [{{name: {name}, version: v1, protocol: http}}]}}}}\n---\n"
    )
}

#[test]
fn changed_resources_take_effect_in_a_running_sidecar() {
    let redis = Redis::start(None).unwrap();
    let manifests = denied_api("lock")
        + &timeout_of_the_store("30s")
        + &state_store(&redis, "first")
        + &pod_of("orders", "appconfig");
    let mut app = AppFixture::start(Tool::DAPRD, "effects", &manifests);
    let port = app.sidecar.http_port;
    // No connection while the sidecar starts its runtime again.
    let status = || http::get(port, "/v1.0/state/store/k").map_or(0, |answer| answer.status);
    let wait_for_status = |app: &AppFixture<'_>, change: &str, want: u16| {
        app.apply(change);
        app.wait_for(&format!("status {want} after {change}"), || status() == want);
    };
    let saved = http::post(port, "/v1.0/state/store", &json!([{"key": "k", "value": "v"}]));
    assert!(saved.unwrap().is_success());
    assert_eq!(status(), 200);

    // A Component is replaced in the running runtime; the other two start it again.
    wait_for_status(&app, &state_store(&redis, "second"), 204);
    wait_for_status(&app, &state_store(&redis, "first"), 200);
    assert_eq!(starts(&app.sidecar), 1, "{}", app.sidecar.log());
    wait_for_status(&app, &timeout_of_the_store("1ns"), 500);
    wait_for_status(&app, &timeout_of_the_store("30s"), 200);
    wait_for_status(&app, &denied_api("state"), 404);
    wait_for_status(&app, &denied_api("lock"), 200);
    app.wait_for("four new starts", || starts(&app.sidecar) == 5);
    assert!(app.sidecar.process().is_running(), "in the same process");
}
