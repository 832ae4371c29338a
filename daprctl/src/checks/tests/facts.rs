//! A healthy installation as facts, and the parts of it that a test changes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dashboard::Metadata;
use identity::stored::Stored;
use jiff::Timestamp;
use serde_json::{Value, json};
use testkit::ca::{Ca, TestSvid};

use crate::checks::rights;
use crate::definitions;
use crate::facts::answers::{Answers, Presented};
use crate::facts::{Account, ClusterWide, Facts, NamespaceFacts, Probe, Queries, Trust};
use crate::pods::Pod;

pub(super) fn now() -> Timestamp {
    runtime::clock::now()
}

pub(super) fn deployment(name: &str, args: &Value, ports: &Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [
            {"image": format!("registry.example/{name}:1.18.3"), "args": args, "ports": ports},
        ]}}},
        "status": {"readyReplicas": 1},
    })
}

pub(super) fn pod(namespace: &str, name: &str, annotations: &Value, containers: &Value) -> Pod {
    let statuses: Vec<Value> = containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| json!({"name": container["name"], "ready": true}))
        .collect();
    Pod::read(&json!({
        "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
        "spec": {"containers": containers},
        "status": {"phase": "Running", "containerStatuses": statuses},
    }))
}

pub(super) fn asking(app: &str) -> Value {
    json!({"dapr.io/enabled": "true", "dapr.io/app-id": app})
}

pub(super) fn with_sidecar(version: &str) -> Value {
    let args = [
        "--enable-mtls",
        "--placement-host-address",
        "p:50005",
        "--scheduler-host-address=s:50006",
    ];
    json!([{"name": "app"},
        {"name": "daprd", "image": format!("ghcr.io/dapr/daprd:{version}"), "args": args}])
}

/// The certificate that the sidecar of `shop/cart` presents.
pub(super) fn presented(svid: &TestSvid) -> Presented {
    let chain = &svid.chain;
    Presented {
        id: chain.leaf_id().ok().map(|id| id.to_string()),
        not_before: chain.not_before(),
        not_after: chain.not_after(),
        chain: chain.certs().to_vec(),
    }
}

/// As daprd 1.18.3 answers with actors and a scheduler.
pub(super) fn metadata(placement: &str, schedulers: &[&str]) -> Metadata {
    let answer = json!({"id": "cart", "runtimeVersion": "1.18.3",
        "actorRuntime": {"runtimeStatus": "RUNNING", "placement": placement},
        "scheduler": {"connected_addresses": schedulers}});
    serde_json::from_value(answer).unwrap()
}

pub(super) fn answers(ca: &Ca) -> Answers {
    let cart = "shop/cart-1".to_owned();
    let connected = metadata("placement: connected", &["10.0.0.1:50006"]);
    Answers {
        metadata: [(cart.clone(), Ok(connected))].into(),
        certificates: [(cart, Ok(presented(&ca.svid("shop", "cart"))))].into(),
    }
}

pub(super) fn webhook(ca: &Ca) -> Value {
    json!({"webhooks": [{
        "name": "sidecar-injector.dapr.io", "failurePolicy": "Ignore",
        "namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}]},
        "clientConfig": {"caBundle": STANDARD.encode(&ca.pem().anchors),
            "service": {"namespace": "dapr-system", "name": "dapr-sidecar-injector"}},
    }]})
}

pub(super) fn definition(name: &str, ca: &Ca) -> Value {
    let mut definition = definitions::shipped(name).unwrap();
    definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    if name == definitions::CONVERTED {
        let client = &mut definition["spec"]["conversion"]["webhook"]["clientConfig"];
        client["service"]["namespace"] = json!("dapr-system");
        client["caBundle"] = json!(STANDARD.encode(&ca.pem().anchors));
    }
    definition
}

pub(super) fn trust(ca: &Ca) -> Trust {
    Trust {
        stored: Ok(Some(Stored::from_pem(ca.pem()))),
        published: Ok(Some(ca.pem().anchors.clone())),
        rotation: None,
    }
}

pub(super) fn cluster(ca: &Ca) -> ClusterWide {
    let groups = [
        "admissionregistration.k8s.io/v1",
        "apiextensions.k8s.io/v1",
        "apps/v1",
        "authentication.k8s.io/v1",
        "coordination.k8s.io/v1",
        "rbac.authorization.k8s.io/v1",
    ];
    let node = json!({"metadata": {"name": "node1"}, "status": {
        "nodeInfo": {"operatingSystem": "linux", "architecture": "arm64"},
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let heartbeat =
        json!({"metadata": {"name": "node1"}, "spec": {"renewTime": now().to_string()}});
    let class = json!({"metadata": {"name": "gp3",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let policies = [
        "dapr-sidecar-guard",
        "dapr-components",
        "dapr-configurations",
        "dapr-resiliencies",
        "dapr-subscriptions",
        "dapr-httpendpoints",
    ];
    let denying = |name: &str| (name.to_owned(), Some(vec!["Deny".to_owned()]));
    ClusterWide {
        groups: Ok(groups.map(str::to_owned).to_vec()),
        nodes: Ok(vec![node]),
        heartbeats: Ok(vec![heartbeat]),
        storage_classes: Ok(vec![class]),
        namespaces: Ok(["dapr-system", "shop"].map(|n| (n.to_owned(), BTreeMap::new())).into()),
        webhook: Ok(Some(webhook(ca))),
        policies: Ok(policies.into_iter().map(denying).collect()),
        pods: Ok(vec![pod("shop", "cart-1", &asking("cart"), &with_sidecar("1.18.3"))]),
        components: Ok(vec![json!({"metadata": {"namespace": "shop", "name": "store"}})]),
        events: Ok(Vec::new()),
    }
}

pub(super) fn own() -> NamespaceFacts {
    let services = [
        "dapr-api",
        "dapr-sentry",
        "dapr-webhook",
        "dapr-sidecar-injector",
        "dapr-placement-server",
        "dapr-scheduler-server-a",
    ];
    let named = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "ClusterIP"}});
    let slice = |name: &str| {
        json!({"metadata": {"labels": {"kubernetes.io/service-name": name}},
               "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]})
    };
    let none = json!([]);
    let workloads = vec![
        deployment("dapr-operator", &none, &json!([{"name": "webhook", "containerPort": 19443}])),
        deployment("dapr-sentry", &json!(["--trust-domain", "cluster.local"]), &none),
        deployment("dapr-sidecar-injector", &none, &none),
        deployment("dapr-placement-server", &none, &none),
        deployment(
            "dapr-scheduler-server",
            &none,
            &json!([{"name": "api", "containerPort": 50006}]),
        ),
    ];
    let lease = json!({"metadata": {"name": "operator.dapr.io"},
        "spec": {"holderIdentity": "dapr-operator-1", "renewTime": now().to_string()}});
    let configuration =
        json!({"spec": {"mtls": {"enabled": true, "controlPlaneTrustDomain": "cluster.local"}}});
    NamespaceFacts {
        workloads: Ok(workloads),
        services: Ok(services.map(named).to_vec()),
        endpoint_slices: Ok(services.map(slice).to_vec()),
        leases: Ok(vec![lease]),
        claims: Ok(Vec::new()),
        configuration: Ok(Some(configuration)),
    }
}

pub(super) fn scheduler_claim(pod: u32) -> Value {
    json!({"metadata": {"name": format!("dapr-scheduler-data-dir-dapr-scheduler-server-{pod}")}})
}

pub(super) fn workload<'a>(facts: &'a mut Facts, name: &str) -> &'a mut Value {
    let workloads = facts.own.workloads.as_mut().unwrap();
    workloads.iter_mut().find(|workload| workload["metadata"]["name"] == name).unwrap()
}

pub(super) fn scheduler(facts: &mut Facts) -> &mut Value {
    workload(facts, "dapr-scheduler-server")
}

/// The scheduler is gone, and the injector has the flag for it or not.
pub(super) fn without_scheduler(facts: &mut Facts, enabled: &str) {
    let is_it = |workload: &Value| workload["metadata"]["name"] == "dapr-scheduler-server";
    facts.own.workloads.as_mut().unwrap().retain(|workload| !is_it(workload));
    let injector = workload(facts, "dapr-sidecar-injector");
    injector["spec"]["template"]["spec"]["containers"][0]["args"] =
        json!([format!("--scheduler-enabled={enabled}")]);
}

/// A healthy installation of Trilby.
pub(super) fn healthy(ca: &Ca) -> Facts {
    let account = |(name, rights): &(&'static str, &[crate::facts::Right])| Account {
        name,
        rights: rights.iter().map(|right| (*right, Ok(true))).collect(),
    };
    let named = definitions::names().map(|name| (name.to_owned(), Ok(Some(definition(name, ca)))));
    Facts {
        namespace: "dapr-system".to_owned(),
        here: now(),
        version: json!({"gitVersion": "v1.34.4"}),
        there: Some(now()),
        cluster: cluster(ca),
        own: own(),
        trust: trust(ca),
        definitions: named.collect(),
        queries: Queries::Installed {
            accounts: rights::ACCOUNTS.iter().map(account).collect(),
            conversion: Ok(Ok(())),
            probe: Ok(Probe::Injected("ghcr.io/dapr/daprd:1.18.3".to_owned())),
        },
        answers: Some(answers(ca)),
    }
}

/// A cluster in which nothing is installed, and a caller who may do everything.
pub(super) fn empty(ca: &Ca) -> Facts {
    let permissions = rights::INSTALLER.iter().map(|right| (*right, Ok(true)));
    let mut facts = healthy(ca);
    facts.queries = Queries::PreInstall(permissions.collect());
    facts.answers = None;
    facts.own = NamespaceFacts { workloads: Ok(Vec::new()), ..own() };
    facts.cluster.pods = Ok(Vec::new());
    facts.cluster.webhook = Ok(None);
    facts.trust.stored = Ok(None);
    facts.definitions.values_mut().for_each(|fact| *fact = Ok(None));
    facts
}
