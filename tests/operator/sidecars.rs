//! The official sidecar, of several versions, as the consumer of what the operator serves.
use std::thread;

use anyhow::Context as _;
use blackbox::{Daprd, DaprdBuilder, Deadline, Redis, SubscriberApp, Tool, http, until};
use serde_json::json;

use crate::{
    component, component_with_secret, pod_of, secret,
    stage::{self, Operator, Stage},
    timeout,
};

/// The official sidecar in Kubernetes mode, as the injector would start it.
fn daprd(stage: &Stage, namespace: &str, operator_port: u16) -> DaprdBuilder {
    Daprd::builder("orders")
        .args(["--mode", "kubernetes", "--enable-mtls", "--config", "appconfig"])
        .args(["--placement-host-address", "", "--disable-builtin-k8s-secret-store"])
        .args(["--control-plane-address", &format!("127.0.0.1:{operator_port}")])
        .args(["--sentry-address", &format!("127.0.0.1:{}", stage.sentry_port)])
        .env("DAPR_TRUST_ANCHORS", &stage.anchors)
        .env("NAMESPACE", namespace)
        .env("POD_NAME", "orders-0")
        .env("DAPR_CONTROLPLANE_NAMESPACE", stage::SYSTEM)
        .env("DAPR_CONTROLPLANE_TRUST_DOMAIN", "cluster.local")
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
}

/// Whether the sidecar has that Component now.
fn has(sidecar: &Daprd, component: &str) -> bool {
    let metadata = sidecar.metadata().unwrap_or_default();
    let components = metadata["components"].as_array().cloned().unwrap_or_default();
    components.iter().any(|c| c["name"] == component)
}

/// How often the sidecar has loaded that Component.
fn loads(sidecar: &Daprd, component: &str) -> usize {
    sidecar.log().matches(&format!("Component loaded: {component} (")).count()
}

/// How often the sidecar has started up, in this process.
fn starts(sidecar: &Daprd) -> usize {
    sidecar.log().matches("dapr initialized. Status: Running").count()
}

fn wait_for(sidecar: &Daprd, what: &str, mut probe: impl FnMut() -> bool) {
    let result = until(timeout(), what, || Ok(probe().then_some(())));
    result.with_context(|| sidecar.log()).unwrap();
}

/// A sidecar with its app, and what happens around them.
struct Scene<'a> {
    stage: &'a Stage,
    namespace: String,
    operator: Operator,
    app: SubscriberApp,
    sidecar: Daprd,
}

impl<'a> Scene<'a> {
    fn start(version: Tool, prefix: &str, manifests: &str) -> Self {
        let stage: &'a Stage = Stage::shared();
        let namespace = stage.bed.namespace(prefix).unwrap();
        stage.apply(&namespace, manifests);
        let spawn =
            stage.spawn(&namespace).args(["--disable-service-reconciler", "--watch-secrets"]);
        let mut operator = spawn.start_operator().unwrap();
        operator.wait_ready().unwrap();
        let app = SubscriberApp::start().unwrap();
        let mut sidecar = daprd(stage, &namespace, operator.port)
            .version(version)
            .args(["--app-port", &app.port().to_string()])
            .start()
            .unwrap();
        sidecar.wait_outbound_ready(timeout()).unwrap();
        Self { stage, namespace, operator, app, sidecar }
    }

    fn apply(&self, manifests: &str) {
        self.stage.apply(&self.namespace, manifests);
    }

    fn kubectl(&self, args: &[&str]) {
        self.stage.bed.kubectl(&[args, &["-n", &self.namespace]].concat()).unwrap();
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

    /// Publishes until a message to `topic` has arrived on `path`.
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

    /// Ends the operator as a crash does.
    fn lose_operator(&mut self) {
        self.operator.process.kill();
    }

    /// Starts it again at its port.
    fn restart_operator(&mut self) {
        let name = format!("{}-again", self.namespace);
        let spawn =
            self.stage.spawn(&name).args(["--disable-service-reconciler", "--watch-secrets"]);
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

/// Hot reload is off in versions before 1.18 unless it is asked for.
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

/// Plays a scene with each version of the sidecar, all at once.
fn with_each_version(play: impl Fn(Tool) + Sync) {
    // Their programs may have to be built first, one after the other.
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
fn official_sidecars_follow_components() {
    with_each_version(follow_components);
}

fn follow_components(version: Tool) {
    let manifests = configuration("0")
        + &secret("redis")
        + &component("steady", "")
        + &component_with_secret("secretive", "redis", "");
    let mut scene = Scene::start(version, "components", &manifests);
    assert_eq!(loads(&scene.sidecar, "steady"), 1);

    scene.apply(&component("added", ""));
    scene.wait_until_loaded("added", 1);
    scene.apply(&component("added", "scopes: [bills]"));
    scene.wait_until_unloaded("added");
    scene.apply(&component("added", "scopes: [bills, orders]"));
    scene.wait_until_loaded("added", 2);
    scene.kubectl(&["delete", "component.dapr.io", "added"]);
    scene.wait_until_unloaded("added");
    let changed =
        component("changed", "").replace("metadata: []", "metadata: [{name: a, value: b}]");
    scene.apply(&component("changed", ""));
    scene.wait_until_loaded("changed", 1);
    scene.apply(&changed);
    scene.wait_until_loaded("changed", 2);
    let rotate = |to: &str| format!(r#"{{"stringData": {{"password": "{to}"}}}}"#);
    scene.kubectl(&["patch", "secret", "redis", "-p", &rotate("second")]);
    scene.wait_until_loaded("secretive", 2);

    scene.lose_operator();
    scene.apply(&component("meanwhile", ""));
    scene.apply(&component("changed", ""));
    scene.kubectl(&["patch", "secret", "redis", "-p", &rotate("third")]);
    scene.apply(&component("there-and-gone", ""));
    scene.kubectl(&["delete", "component.dapr.io", "there-and-gone"]);
    scene.restart_operator();
    scene.wait_until_loaded("meanwhile", 1);
    scene.wait_until_loaded("changed", 3);
    scene.wait_until_loaded("secretive", 3);
    // The streams are open again too.
    scene.apply(&component("afterwards", ""));
    scene.wait_until_loaded("afterwards", 1);
    // What nobody changed was not touched.
    assert_eq!(loads(&scene.sidecar, "steady"), 1);
    assert_eq!(loads(&scene.sidecar, "there-and-gone"), 0);
    assert_eq!(starts(&scene.sidecar), 1, "{}", scene.sidecar.log());
    assert!(scene.sidecar.process().is_running());
}

#[test]
fn official_sidecars_follow_subscriptions_of_both_versions() {
    let _alone = Stage::subscription_definition();
    with_each_version(follow_subscriptions);
}

fn follow_subscriptions(version: Tool) {
    let manifests = configuration("0")
        + &bus()
        + &old_subscription("one", "/events/one")
        + &new_subscription("two", "/events/two", "scopes: [orders]");
    let mut scene = Scene::start(version, "subscriptions", &manifests);
    scene.wait_for_message("one", "/events/one");
    scene.wait_for_message("two", "/events/two");

    scene.apply(&old_subscription("one", "/events/changed"));
    scene.wait_for_message("one", "/events/changed");
    scene.apply(&new_subscription("two", "/events/two", "scopes: [bills]"));
    let listed = |sidecar: &Daprd, topic: &str| {
        let metadata = sidecar.metadata().unwrap_or_default();
        let subscriptions = metadata["subscriptions"].as_array().cloned().unwrap_or_default();
        subscriptions.iter().any(|s| s["topic"] == topic)
    };
    scene.wait_for("the subscription out of scope to go", || !listed(&scene.sidecar, "two"));
    let before = scene.app.received().len();
    scene.publish("two");
    scene.wait_for_message("one", "/events/changed");
    assert!(!scene.app.received().iter().skip(before).any(|on| on == "/events/two"));

    scene.lose_operator();
    scene.apply(&new_subscription("two", "/events/again", ""));
    scene.kubectl(&["delete", "subscriptions.v2alpha1.dapr.io", "old"]);
    scene.restart_operator();
    scene.wait_for_message("two", "/events/again");
    scene.wait_for("the deleted subscription to go", || !listed(&scene.sidecar, "one"));
    assert_eq!(loads(&scene.sidecar, "bus"), 1);
    assert_eq!(starts(&scene.sidecar), 1, "{}", scene.sidecar.log());
}

#[test]
fn official_sidecar_starts_anew_for_its_own_configuration_alone() {
    let endpoint = "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: api}\n\
         spec: {baseUrl: 'http://a', headers: [{name: h, secretKeyRef: {name: redis, key: password}}]}\n---\n";
    let resiliency = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\n\
         spec: {policies: {timeouts: {fast: 1s}}, targets: {}}\n---\n";
    let manifests = configuration("0")
        + &secret("redis")
        + endpoint
        + resiliency
        + &pod_of("orders", "appconfig");
    let mut scene = Scene::start(Tool::DAPRD, "configurations", &manifests);

    // None of this is a change for it: a foreign Configuration, labels, a Secret of an endpoint
    // (which the sidecar would take for a new endpoint each time), the operator's end and return.
    let foreign = configuration("1").replace("appconfig", "foreign");
    scene.apply(&foreign);
    scene.kubectl(&["label", "configuration.dapr.io", "appconfig", "a=b"]);
    scene.kubectl(&["label", "resiliency.dapr.io", "r", "a=b"]);
    scene.kubectl(&["patch", "secret", "redis", "-p", r#"{"stringData": {"password": "new"}}"#]);
    scene.lose_operator();
    scene.restart_operator();
    scene.apply(&component("fence", ""));
    scene.wait_until_loaded("fence", 1);
    assert_eq!(starts(&scene.sidecar), 1, "{}", scene.sidecar.log());

    // This is.
    scene.apply(&configuration("1"));
    scene.wait_for("a new start with the new Configuration", || starts(&scene.sidecar) == 2);
    // And so is what comes while there is no operator: this kind the sidecar does not list anew.
    scene.lose_operator();
    scene.apply(&configuration("0.5"));
    scene.restart_operator();
    scene.wait_for("a new start after the operator's", || starts(&scene.sidecar) == 3);
    scene.lose_operator();
    scene.apply(&resiliency.replace("1s", "2s"));
    scene.restart_operator();
    scene.wait_for("a new start with the new Resiliency", || starts(&scene.sidecar) == 4);
    // It hears of it once.
    scene.apply(&component("second-fence", ""));
    scene.wait_until_loaded("second-fence", 1);
    assert_eq!(starts(&scene.sidecar), 4, "{}", scene.sidecar.log());
    assert!(scene.sidecar.process().is_running(), "in the same process");
}

#[test]
fn official_sidecar_uses_a_secret_reloads_and_survives_a_restart() {
    let stage = Stage::shared();
    let namespace = stage.bed.namespace("daprd").unwrap();
    let redis = Redis::start(Some("hunter2")).unwrap();
    stage.apply(
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
    let mut operator = stage.another_operator();
    let mut app = daprd(stage, &namespace, operator.port).start().unwrap();
    app.wait_outbound_ready(timeout()).unwrap();
    let items = json!([{"key": "k", "value": "v"}]);
    let saved = http::post(app.http_port, "/v1.0/state/store", &items);
    assert!(saved.unwrap().is_success(), "the password of the Secret opened Redis");

    stage.apply(&namespace, &component("added", ""));
    until(timeout(), "the reload", || Ok(has(&app, "added").then_some(()))).unwrap();
    stage.bed.kubectl(&["delete", "component.dapr.io", "added", "-n", &namespace]).unwrap();
    until(timeout(), "the unload", || Ok((!has(&app, "added")).then_some(()))).unwrap();

    // SIGTERM with seven open streams: an orderly end, at once.
    let stop = Deadline::seconds(10);
    let status = operator.process.terminate(stop).unwrap();
    assert!(status.success(), "{status}: {}", operator.process.log());
    stage.apply(&namespace, &component("meanwhile", ""));
    let spawn = stage.spawn("restarted").arg("--disable-service-reconciler");
    // Go's flags and ours: the last one wins.
    let mut operator = spawn.arg(&format!("--port={}", operator.port)).start_operator().unwrap();
    operator.wait_ready().unwrap();
    until(timeout(), "what changed meanwhile", || Ok(has(&app, "meanwhile").then_some(())))
        .unwrap();
    assert!(app.process().is_running());
}
