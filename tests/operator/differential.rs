//! Compares the streams of this operator and of the reference, event by event, for the same changes to
//! objects of all kinds and for two apps.
//!
//! In each step and for each object both must send the same event types in the same order with the
//! same JSON. Intended differences:
//!
//! * [`essence`]: members that no sidecar reads, and `kind`/`apiVersion`, which the reference prints for
//!   objects of its first list; ours never prints them in events, as the reference since 1.19.
//! * [`without_secrets`]: a deleted object comes without the values of its Secrets, which may be
//!   deleted already; the reference then stops the stream. Ours is the last served state, the
//!   reference's has the resource version of the deletion; sidecars read name and type.
//! * [`UPDATED_IS_CREATED`]: the reference keeps the type of an event in a structure that its
//!   streams share, so an app may receive CREATED because the object is new to another one.
//! * [`ROTATED`]: a changed Secret causes an update; the reference sends none.
//!
//! Two cases are tested against this operator only, because the reference fails: a missing Secret (its
//! stream stops) and an undecodable object (its whole kind stops).
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use blackbox::{KINDS, environment, until};
use proto::operator::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, HttpEndpointUpdateRequest,
    McpServerUpdateRequest, ResiliencyUpdateRequest, ResourceEventType, SubscriptionUpdateRequest,
    WorkflowAccessPolicyUpdateRequest,
};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::fixture::{Fixture, Sidecar, TIMEOUT};
use crate::{comparable, name, pod_of, timeout};
use ResourceEventType::{Created, Deleted, Updated};

/// Plural and name of an object.
type Key = (&'static str, String);
/// The type of an event and its object.
type Event = (ResourceEventType, Value);
/// The events that one app received in one step.
type Received = BTreeMap<Key, Vec<Event>>;

/// The kinds that have scopes.
const SCOPED: [&str; 6] = [
    "components",
    "subscriptions",
    "resiliencies",
    "httpendpoints",
    "mcpservers",
    "workflowaccesspolicies",
];
const APPS: [&str; 2] = ["orders", "bills"];
/// The Configuration of both apps; no other one is streamed to them. It changes in every step and is
/// therefore a fence too.
const ASSIGNED: &str = "full";
/// An object of each other kind that is changed last in each step: its event shows that the events of
/// all others have arrived.
const FENCE: &str = "fence";
const FENCES: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: fence, labels: {role: fence}}
spec: {type: a.b, version: v1, metadata: []}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: fence, labels: {role: fence}}
spec: {pubsubname: p, topic: t, routes: {default: /a}}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: fence, labels: {role: fence}}
spec: {policies: {}, targets: {}}
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: fence, labels: {role: fence}}
spec: {baseUrl: 'http://a'}
---
apiVersion: dapr.io/v1alpha1
kind: MCPServer
metadata: {name: fence, labels: {role: fence}}
spec: {endpoint: {sse: {url: 'http://a'}}}
---
apiVersion: dapr.io/v1alpha1
kind: WorkflowAccessPolicy
metadata: {name: fence, labels: {role: fence}}
spec: {rules: []}
";
/// The step in which an object enters the scope of `bills` and is already in that of `orders`.
const UPDATED_IS_CREATED: &str = "shared with bills";
/// The step in which only a Secret is changed.
const ROTATED: &str = "rotated";

/// The events that one app receives from one operator.
struct Ear<'a> {
    sidecar: &'a Sidecar,
    events: UnboundedReceiver<(&'static str, ResourceEventType, Value)>,
}

impl<'a> Ear<'a> {
    /// Opens the seven streams of a sidecar.
    fn open(sidecar: &'a Sidecar) -> Self {
        let (say, events) = unbounded_channel(); // as many as the test makes changes
        let (runtime, client) = (&sidecar.runtime, &sidecar.client);
        macro_rules! open {
            ($plural:literal, $method:ident, $request:ident, $body:ident) => {
                let request = $request { namespace: sidecar.namespace.clone() };
                let (mut client, say) = (client.clone(), say.clone());
                runtime.spawn(async move {
                    // The reference responds to the call with its first event only.
                    let mut stream = client.$method(request).await.unwrap().into_inner();
                    while let Ok(Some(event)) = stream.message().await {
                        let body = serde_json::from_slice(&event.$body).unwrap();
                        if say.send(($plural, event.r#type(), body)).is_err() {
                            return;
                        }
                    }
                });
            };
        }
        open!("components", component_update, ComponentUpdateRequest, component);
        open!("configurations", configuration_update, ConfigurationUpdateRequest, configuration);
        open!("subscriptions", subscription_update, SubscriptionUpdateRequest, subscription);
        open!("resiliencies", resiliency_update, ResiliencyUpdateRequest, resiliency);
        open!("httpendpoints", http_endpoint_update, HttpEndpointUpdateRequest, http_endpoints);
        open!("mcpservers", mcp_server_update, McpServerUpdateRequest, mcp_server);
        open!(
            "workflowaccesspolicies",
            workflow_access_policy_update,
            WorkflowAccessPolicyUpdateRequest,
            policy
        );
        Self { sidecar, events }
    }

    /// All events up to that of each kind's fence for which `passed` holds. `None` when they do not all
    /// arrive within `limit`.
    fn until_fence(
        &mut self,
        limit: Duration,
        passed: impl Fn(ResourceEventType, &Value) -> bool,
    ) -> Option<Received> {
        let (mut received, mut open) = (Received::new(), BTreeSet::from(KINDS));
        let all = async {
            while !open.is_empty() {
                let (plural, event, body) =
                    self.events.recv().await.expect("the streams have ended");
                let key = (plural, name(&body).to_owned());
                if is_fence(&key) && passed(event, &body) {
                    open.remove(plural);
                }
                received.entry(key).or_default().push((event, body));
            }
        };
        self.sidecar.runtime.block_on(async { tokio::time::timeout(limit, all).await }).ok()?;
        Some(received)
    }
}

fn is_fence((plural, name): &Key) -> bool {
    name == FENCE || (*plural == "configurations" && name == ASSIGNED)
}

/// Without members that no sidecar reads.
fn essence(body: Value) -> Value {
    let mut body = comparable(body);
    let members = body.as_object_mut().unwrap();
    members.retain(|member, _| member != "kind" && member != "apiVersion");
    body
}

/// Without values of references to Secrets.
fn without_secrets(mut body: Value) -> Value {
    match &mut body {
        Value::Object(members) => {
            let refers =
                |reference: &Value| reference["name"].as_str().is_some_and(|n| !n.is_empty());
            if members.get("secretKeyRef").is_some_and(refers) {
                members.remove("value");
            }
            for member in members.values_mut() {
                *member = without_secrets(member.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_secrets(item.take());
            }
        }
        _ => {}
    }
    body
}

/// The events of an object that both must send.
fn agreed(step: &str, key: &Key, events: &[Event]) -> Vec<Event> {
    let events = events.iter().map(|(event, body)| {
        let body = essence(body.clone());
        match event {
            Deleted => {
                let mut body = without_secrets(body);
                body["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                (Deleted, body)
            }
            Created if step == UPDATED_IS_CREATED => (Updated, body),
            other => (*other, body),
        }
    });
    // A fence is changed twice in some steps, and ours coalesces both for a slow reader.
    let skipped = if is_fence(key) { events.len() - 1 } else { 0 };
    events.skip(skipped).collect()
}

/// Fails where an app received other events from ours than from the reference.
fn compare(step: &str, app: &str, ours: &Received, theirs: &Received) {
    for event in ours.values().flatten() {
        assert!(
            event.1.get("kind").is_none() && event.1.get("apiVersion").is_none(),
            "{step}: {event:?}"
        );
    }
    let mut ours = ours.clone();
    if step == ROTATED {
        let changed: Vec<Key> = ours.keys().filter(|key| !is_fence(key)).cloned().collect();
        // Objects in the app's scope that reference a changed key.
        let mut want = vec![("mcpservers", "process".to_owned())];
        if app == "orders" {
            want = [("components", "full"), ("mcpservers", "full"), ("mcpservers", "process")]
                .map(|(plural, name)| (plural, name.to_owned()))
                .to_vec();
        }
        assert_eq!(changed, want, "{step}, {app}");
        ours.retain(|key, _| is_fence(key));
    }
    if step == UPDATED_IS_CREATED {
        let want = if app == "orders" { Updated } else { Created };
        for (key, events) in ours.iter().filter(|(key, _)| !is_fence(key)) {
            assert!(events.iter().all(|(event, _)| *event == want), "{step}, {app}, {key:?}");
        }
    }
    let keys = |received: &Received| received.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&ours), keys(theirs), "{step}, {app}: objects of ours and of the reference");
    for (key, events) in &ours {
        let (ours, theirs) = (agreed(step, key, events), agreed(step, key, &theirs[key]));
        assert_eq!(ours, theirs, "{step}, {app}, {key:?}: ours and the reference's");
    }
}

/// Both operators, both apps.
struct Audience<'a> {
    fixture: &'a Fixture,
    namespace: String,
    ours: Vec<Ear<'a>>,
    theirs: Vec<Ear<'a>>,
}

impl Audience<'_> {
    fn kubectl(&self, args: &[&str]) {
        self.fixture.api.kubectl(&[args, &["-n", &self.namespace]].concat()).unwrap();
    }

    /// `plurals` in the syntax of kubectl.
    fn of(plurals: &[&str]) -> String {
        plurals.iter().map(|plural| format!("{plural}.dapr.io")).collect::<Vec<_>>().join(",")
    }

    fn mark_fences(&self, mark: &str) {
        let all = Self::of(&KINDS);
        self.kubectl(&["label", "--overwrite", &all, "-l", "role=fence", &format!("mark={mark}")]);
    }

    /// The scopes of the full object of each kind that has scopes.
    fn scope(&self, scopes: &Value) {
        let patch = serde_json::json!({"scopes": scopes}).to_string();
        for plural in SCOPED {
            let object = Self::of(&[plural]);
            self.kubectl(&["patch", &object, "full", "--type=merge", "-p", &patch]);
        }
    }

    /// Waits until every stream has sent an event, and discards all older events. A second round is
    /// needed: after a relist, which a change of the CRD causes, objects arrive in another order.
    fn wait_until_open(&mut self) {
        let (mut tries, mut rounds) = (0, 0);
        until(timeout(), "all streams to be open", || {
            tries += 1;
            let mark = format!("open-{tries}");
            self.mark_fences(&mark);
            let mut open = true;
            for ear in self.ours.iter_mut().chain(&mut self.theirs) {
                let marked = |_, body: &Value| body["metadata"]["labels"]["mark"] == *mark;
                open &= ear.until_fence(Duration::from_secs(5), marked).is_some();
            }
            rounds += usize::from(open);
            Ok((rounds == 2).then_some(()))
        })
        .unwrap();
    }

    /// Compares the events of all streams until the fences are `passed`.
    fn listen(&mut self, step: &str, passed: impl Fn(ResourceEventType, &Value) -> bool) {
        for (app, (ours, theirs)) in APPS.iter().zip(self.ours.iter_mut().zip(&mut self.theirs)) {
            let limit = Duration::from_secs(TIMEOUT);
            let ours = ours.until_fence(limit, &passed);
            let ours = ours.with_context(|| format!("{step}, {app}: ours is silent")).unwrap();
            let theirs = theirs.until_fence(limit, &passed);
            let theirs =
                theirs.with_context(|| format!("{step}, {app}: the reference is silent")).unwrap();
            compare(step, app, &ours, &theirs);
        }
    }

    /// Compares the events that `change` causes.
    fn step(&mut self, step: &str, change: impl FnOnce(&Self)) {
        change(self);
        let mark = step.replace(' ', "-");
        self.mark_fences(&mark);
        self.listen(step, |_, body| body["metadata"]["labels"]["mark"] == *mark);
    }
}

#[test]
fn streams_equal_those_of_the_reference() {
    let fixture = Fixture::shared();
    let _alone = fixture.subscription_definition();
    let namespace = fixture.api.namespace("streams-of-both").unwrap();
    let elsewhere = fixture.api.namespace("streams-without-apps").unwrap();
    let samples = environment::workspace().join("tests/fixtures/operator/samples.yaml");
    let samples = fs::read_to_string(samples).unwrap();
    let reference = fixture.reference_operator();
    // The Secret is part of the samples and is kept: without it the reference stops the stream.
    fixture.apply(
        &namespace,
        &(APPS.map(|app| pod_of(app, ASSIGNED)).concat() + FENCES + "---\n" + &samples),
    );
    let assigned = ["label", "configurations.dapr.io", ASSIGNED, "role=fence", "-n", &namespace];
    fixture.api.kubectl(&assigned).unwrap();

    let sidecars = |port| APPS.map(|app| fixture.sidecar(&namespace, app, port));
    let (ours, theirs) = (sidecars(fixture.operator.port), sidecars(reference.port));
    let mut all = Audience {
        fixture,
        namespace: namespace.clone(),
        ours: ours.iter().map(Ear::open).collect(),
        theirs: theirs.iter().map(Ear::open).collect(),
    };
    all.wait_until_open();
    let (everything, others) = (Audience::of(&KINDS), "role!=fence");

    all.step("relabelled", |all| {
        all.kubectl(&["label", &everything, "-l", others, "team=b", "--overwrite"]);
    });
    all.step("applied again", |_| fixture.apply(&namespace, &samples));
    all.step("of orders alone", |all| all.scope(&serde_json::json!(["orders"])));
    all.step(UPDATED_IS_CREATED, |all| all.scope(&serde_json::json!(["orders", "bills"])));
    all.step("of bills alone", |all| all.scope(&serde_json::json!(["bills"])));
    all.step("of no app", |all| all.scope(&serde_json::json!(["absent"])));
    all.step("of all", |all| all.scope(&Value::Null));
    all.step("of all as a list", |all| all.scope(&serde_json::json!([])));
    all.step("of orders again", |all| all.scope(&serde_json::json!(["orders"])));
    all.step("elsewhere", |_| fixture.apply(&elsewhere, &samples));
    all.step(ROTATED, |all| {
        all.kubectl(&["patch", "secret", "redis", "-p", r#"{"stringData": {"password": "new"}}"#]);
        // Secrets and the fence have separate watches.
        until(timeout(), "the updates to be published", || {
            let log = fixture.operator.log();
            let logged = log.lines().filter(|line| {
                line.contains("a referenced Secret changed") && line.contains(&all.namespace)
            });
            Ok((logged.count() == 3).then_some(()))
        })
        .unwrap();
    });
    all.step("relabelled with the new Secret", |all| {
        all.kubectl(&["label", &everything, "-l", others, "team=c", "--overwrite"]);
    });
    all.step("held by a finalizer", |all| {
        let hold = r#"{"metadata": {"finalizers": ["trilby.test/hold"]}}"#;
        all.kubectl(&["patch", "components.dapr.io", "full", "--type=merge", "-p", hold]);
    });
    all.step("about to go", |all| {
        all.kubectl(&["delete", "components.dapr.io", "full", "--wait=false"]);
    });
    all.step("let go", |all| {
        let free = r#"{"metadata": {"finalizers": null}}"#;
        all.kubectl(&["patch", "components.dapr.io", "full", "--type=merge", "-p", free]);
    });
    all.step("deleted", |all| all.kubectl(&["delete", &everything, "-l", others]));
    all.step("created", |_| fixture.apply(&namespace, &samples));
    all.kubectl(&["delete", &everything, "-l", others]);
    all.kubectl(&["delete", &everything, "--all"]);
    all.listen("all gone", |event, _| event == Deleted);
    fixture.apply(&namespace, &(samples + "---\n" + FENCES));
    all.listen("all back", |event, _| event == Created);
}
