//! Pods of many kinds, valid and invalid, the same ones for the same seed on every machine.

use serde_json::{Map, Value, json};
use testkit::Choice;

/// The namespace whose Components define containers.
pub(crate) const PLUGGABLE: &str = "plug";

/// The type of an annotation; determines the tested values.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Bool,
    Int,
    Text(&'static [&'static str]),
    Duration,
    Quantity,
    Resource,
}

const BOOLS: &[&str] =
    &["true", "false", "TRUE", "yes", "on", "1", "t", " true ", "0", "no", "", "ture", "2"];
const INTS: &[&str] = &[
    "0",
    "1",
    "5",
    "300",
    "3000",
    "50001",
    "65535",
    "65536",
    "-1",
    "-10",
    "+7",
    "007",
    "3.5",
    " 5",
    "1_000",
    "0x10",
    "many",
    "",
    "2147483647",
    "2147483648",
    "-2147483649",
    "99999999999",
    "9223372036854775808",
];
const DURATIONS: &[&str] = &["30s", "1m30s", "1.5h", "0", "100ms", "-5s", "5", "", "soon"];
const QUANTITIES: &[&str] =
    &["16Mi", "4Ki", "100", "1e3", "5.", ".5", "1E", "-1", "-16Mi", "16 Mi", "1gi", "abc", ""];
const RESOURCES: &[&str] =
    &["100m", "0.5", "1", "64Mi", "1G", "1e3", "100u", "-5", "+5", "1 Gi", "1gi", "a lot", ""];

/// Every annotation of the pod template except the switch and the id, with its tested values.
const ANNOTATIONS: &[(&str, Kind)] = &[
    ("config", Kind::Text(&["appconfig", "tracing", ""])),
    (
        "sidecar-image",
        Kind::Text(&["ghcr.io/dapr/daprd:1.18.3", "registry:5000/daprd:latest", "daprd", ""]),
    ),
    ("enable-native-sidecar", Kind::Bool),
    ("log-level", Kind::Text(&["debug", "info", "WARN", "verbose", ""])),
    ("log-as-json", Kind::Bool),
    ("enable-api-logging", Kind::Bool),
    ("enable-profiling", Kind::Bool),
    ("enable-debug", Kind::Bool),
    ("debug-port", Kind::Int),
    ("app-port", Kind::Int),
    (
        "app-protocol",
        Kind::Text(&["http", "https", "grpc", "grpcs", "h2c", "GRPC", "tcp", "http ", ""]),
    ),
    ("app-ssl", Kind::Bool),
    ("app-channel-address", Kind::Text(&["10.0.0.1", "localhost", ""])),
    ("app-max-concurrency", Kind::Int),
    ("app-token-secret", Kind::Text(&["app-token", ""])),
    ("enable-app-health-check", Kind::Bool),
    ("app-health-check-path", Kind::Text(&["/health", "health", ""])),
    ("app-health-probe-interval", Kind::Int),
    ("app-health-probe-timeout", Kind::Int),
    ("app-health-threshold", Kind::Int),
    ("app-binding-options-timeout", Kind::Duration),
    ("disable-init-endpoints", Kind::Text(&["config", "config,subscribe", "all", ""])),
    ("sidecar-listen-addresses", Kind::Text(&["0.0.0.0", "[::]", "127.0.0.1, [::1]", ""])),
    ("grpc-port", Kind::Int),
    ("internal-grpc-port", Kind::Int),
    ("unix-domain-socket-path", Kind::Text(&["/tmp/sockets", "/var/run/app", "relative", ""])),
    ("api-token-secret", Kind::Text(&["api-token", ""])),
    ("max-body-size", Kind::Quantity),
    ("http-max-request-size", Kind::Int),
    ("read-buffer-size", Kind::Quantity),
    ("http-read-buffer-size", Kind::Int),
    ("graceful-shutdown-seconds", Kind::Int),
    ("block-shutdown-duration", Kind::Duration),
    ("enable-metrics", Kind::Bool),
    ("metrics-port", Kind::Int),
    (
        "placement-host-address",
        Kind::Text(&["placement:50005", "\"placement:50005\"", " a:1,b:2 ", "''", "\"", ""]),
    ),
    (
        "scheduler-host-address",
        Kind::Text(&["scheduler:50006", "'scheduler:50006'", "a:1,b:2", "\"\"", ""]),
    ),
    ("actors-disseminate-timeout", Kind::Duration),
    ("sentry-request-jwt-audiences", Kind::Text(&["a", "spiffe://x,b", ""])),
    ("disable-builtin-k8s-secret-store", Kind::Bool),
    (
        "env",
        Kind::Text(&[
            "A=1",
            "A=1 , B=2",
            "NO_PROXY=\"localhost,127.0.0.1,.x.com\", B=2",
            "OTEL=service.namespace=prod,service.version=1,Z=2",
            "DSN=host=h;port=1,USER=x",
            "A=",
            "junk,A=1",
            "A =1",
            "A=1,\n\tB=2\r\n",
            "A=1,A=2",
            "NAMESPACE=other",
            "1A=2",
            "A=1,2B=3",
            "=x",
            "A=ä,B=ö",
            ",,",
            "SSL_CERT_DIR=/certs",
            "",
        ]),
    ),
    (
        "env-from-secret",
        Kind::Text(&["A=s:k", "A=both", "A= s : k ,B=x", "A=a:b:c,B=d", "A=:", "A=", "junk", ""]),
    ),
    (
        "volume-mounts",
        Kind::Text(&["data:/d", "data:/d, cache:/c", "data : /d", "data", "none:/n", "a:b:c", ""]),
    ),
    ("volume-mounts-rw", Kind::Text(&["cache:/rw", "data:/d,data:/e", ":", ""])),
    ("sidecar-cpu-request", Kind::Resource),
    ("sidecar-cpu-limit", Kind::Resource),
    ("sidecar-memory-request", Kind::Resource),
    ("sidecar-memory-limit", Kind::Resource),
    ("sidecar-liveness-probe-delay-seconds", Kind::Int),
    ("sidecar-liveness-probe-timeout-seconds", Kind::Int),
    ("sidecar-liveness-probe-period-seconds", Kind::Int),
    ("sidecar-liveness-probe-threshold", Kind::Int),
    ("sidecar-readiness-probe-delay-seconds", Kind::Int),
    ("sidecar-readiness-probe-timeout-seconds", Kind::Int),
    ("sidecar-readiness-probe-period-seconds", Kind::Int),
    ("sidecar-readiness-probe-threshold", Kind::Int),
    ("sidecar-seccomp-profile-type", Kind::Text(&["RuntimeDefault", "Localhost", "x", ""])),
    ("pluggable-components", Kind::Text(&["side", "app,side", "app, side", "none", ",", ""])),
    ("pluggable-components-sockets-folder", Kind::Text(&["/sockets", "relative", ""])),
    ("inject-pluggable-components", Kind::Bool),
    ("sidecar-svc-annotations", Kind::Text(&["a=b", ""])),
    ("http-stream-request-body", Kind::Bool),
    ("app-prot", Kind::Int),
    ("component-container", Kind::Text(&["{}"])),
];

impl Kind {
    fn values(self) -> &'static [&'static str] {
        match self {
            Self::Bool => BOOLS,
            Self::Int => INTS,
            Self::Duration => DURATIONS,
            Self::Quantity => QUANTITIES,
            Self::Resource => RESOURCES,
            Self::Text(values) => values,
        }
    }
}

/// One admission request. With ascending numbers they contain every value of every annotation once,
/// with random others beside it.
pub(crate) fn request(number: usize, choice: &mut Choice) -> Value {
    let (subject, value) = turn(number);
    let mut annotations = Map::new();
    annotations.insert("dapr.io/enabled".to_owned(), enabled(choice).into());
    if let Some(id) = app_id(choice) {
        annotations.insert("dapr.io/app-id".to_owned(), id.into());
    }
    // Few other annotations in most pods, very many in some.
    let percent = if choice.chance(10) { 40 } else { 6 };
    for (key, kind) in ANNOTATIONS {
        if *key == subject {
            annotations.insert(format!("dapr.io/{key}"), value.into());
        } else if choice.chance(percent) {
            annotations.insert(format!("dapr.io/{key}"), choice.of(kind.values()).into());
        }
    }
    let namespace = if choice.chance(20) { PLUGGABLE } else { "default" };
    json!({
        "kind": {"group": "", "version": "v1", "kind": if choice.chance(1) { "Deployment" } else { "Pod" }},
        "namespace": namespace,
        "operation": "CREATE",
        "userInfo": user(choice),
        "object": object(choice, annotations),
    })
}

/// The number of requests until each value of each annotation has been used.
pub(crate) fn turns() -> usize {
    ANNOTATIONS.iter().map(|(_, kind)| kind.values().len()).sum()
}

fn turn(number: usize) -> (&'static str, &'static str) {
    let mut left = number % turns();
    for (key, kind) in ANNOTATIONS {
        match kind.values().get(left) {
            Some(value) => return (key, value),
            None => left -= kind.values().len(),
        }
    }
    unreachable!("the remainder is below the sum")
}

fn enabled(choice: &mut Choice) -> &'static str {
    if choice.chance(94) { "true" } else { choice.of(BOOLS) }
}

fn app_id(choice: &mut Choice) -> Option<String> {
    const ODD: &[&str] =
        &["", "Node", "a.b", "a b", "-a", "dash-", "9", "a--b", "my_app", "ünal", "app\n"];
    match choice.number() % 100 {
        0..86 => Some("app".to_owned()),
        86..88 => Some("a".repeat(58)),
        88..90 => Some("a".repeat(59)),
        90..93 => None,
        _ => Some(choice.of(ODD).to_owned()),
    }
}

fn user(choice: &mut Choice) -> Value {
    let controller = "system:serviceaccount:kube-system:replicaset-controller";
    match choice.number() % 100 {
        0..88 => json!({"username": controller, "groups": ["system:serviceaccounts"]}),
        88..92 => json!({"username": "admin", "groups": ["system:masters"]}),
        92..95 => json!({"username": "system:serviceaccount:ci:deployer", "groups": []}),
        95..97 => json!({"username": "system:serviceaccount:other:deployer", "groups": []}),
        97..98 => json!({"username": "system:serviceaccount:ci", "groups": []}),
        _ => json!({"username": "jane", "groups": ["dev"]}),
    }
}

fn object(choice: &mut Choice, annotations: Map<String, Value>) -> Value {
    let mut metadata = if choice.chance(30) {
        json!({"name": "web-0"})
    } else {
        json!({"generateName": "app-5d-"})
    };
    match choice.number() % 4 {
        0 => {}
        1 => metadata["labels"] = json!({}),
        2 => metadata["labels"] = json!({"app": "app"}),
        _ => metadata["labels"] = json!({"app": "app", "dapr.io/app-id": "mine"}),
    }
    let certificates = annotations.get("dapr.io/env") == Some(&json!("SSL_CERT_DIR=/certs"));
    metadata["annotations"] = Value::Object(annotations);
    let mut spec = spec(choice);
    if certificates && choice.chance(50) {
        spec["os"] = json!({"name": "linux"});
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn spec(choice: &mut Choice) -> Value {
    let mut containers = vec![container("app", choice)];
    for name in ["side", "db", "daprd"] {
        let percent = if name == "daprd" { 2 } else { 25 };
        if choice.chance(percent) {
            containers.push(container(name, choice));
        }
    }
    let mut spec = json!({"containers": containers});
    if choice.chance(15) {
        let name = if choice.chance(90) { "init" } else { "daprd" };
        spec["initContainers"] = json!([container(name, choice)]);
    }
    if choice.chance(75) {
        let known = [
            ("data", 60),
            ("cache", 60),
            ("dapr-unix-domain-socket", 5),
            ("dapr-identity-token", 5),
            ("dapr-components-unix-domain-socket", 5),
        ];
        let volumes = known.iter().filter(|(_, percent)| choice.chance(*percent));
        spec["volumes"] = volumes.map(|(name, _)| json!({"name": name, "emptyDir": {}})).collect();
    }
    if choice.chance(10) {
        let taint = json!({"key": "aws", "operator": "Exists", "effect": "NoSchedule"});
        let other = json!({"key": "aws", "operator": "Exists", "effect": "NoExecute"});
        let seconds = json!({"key": "gone", "operator": "Exists", "tolerationSeconds": 5});
        spec["tolerations"] = json!([choice.of(&[&taint, &other, &seconds])]);
    }
    if choice.chance(10) {
        spec["nodeSelector"] = json!({"kubernetes.io/os": choice.of(&["linux", "windows"])});
    }
    if choice.chance(5) {
        spec["os"] = json!({"name": choice.of(&["linux", "windows"])});
    }
    if choice.chance(5) {
        spec["hostNetwork"] = json!(true);
    }
    spec
}

fn container(name: &str, choice: &mut Choice) -> Value {
    let mut container = json!({"name": name, "image": format!("{name}:1")});
    if choice.chance(40) {
        let known = ["PORT", "DAPR_HTTP_PORT", "DAPR_GRPC_PORT", "APP_PROTOCOL"];
        let env = known.iter().filter(|name| choice.chance(if **name == "PORT" { 70 } else { 15 }));
        let mut env: Vec<Value> = env.map(|name| json!({"name": name, "value": "1"})).collect();
        if choice.chance(5) {
            env.push(json!({"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": "/own"}));
        }
        container["env"] = env.into();
    }
    if choice.chance(40) {
        let known = [
            ("data", "/data", 70),
            ("cache", "/tmp/sockets", 10),
            ("dapr-unix-domain-socket", "/own", 10),
            ("data", "/sockets", 10),
        ];
        let mounts = known.iter().filter(|(_, _, percent)| choice.chance(*percent));
        container["volumeMounts"] =
            mounts.map(|(name, path, _)| json!({"name": name, "mountPath": path})).collect();
    }
    if choice.chance(10) {
        container["securityContext"] = json!({"runAsUser": 1000});
        container["somethingNew"] = json!({"kept": [1, null]});
    }
    container
}
