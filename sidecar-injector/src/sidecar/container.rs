//! The container of the sidecar. Source of members and order: Dapr 1.18.3, injector.

use resources::{annotations as key, names, ports};
use serde_json::{Map, Value, json};

use super::arguments::{SOCKET_DIRECTORY, arguments};
use super::context::InjectionContext;
use super::options::{Options, Position, ProbeOptions, ResourceOptions};
use super::ports::port_conflicts;
use super::security::security_context;
use crate::pod::{AppId, PodView, Problem};

/// Mount path of the identity token. Source: Dapr 1.18, security module.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/dapr.io/sentrytoken";
/// Variable with the directory of the sockets of pluggable components.
pub(crate) const SOCKETS_FOLDER_VARIABLE: &str = "DAPR_COMPONENT_SOCKETS_FOLDER";
/// Variable that adds certificate directories; on Windows it needs an administrator.
const CERTIFICATES_VARIABLE: &str = "SSL_CERT_DIR";

/// The inputs of the container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sidecar<'a> {
    pub pod: &'a PodView<'a>,
    pub options: &'a Options,
    pub id: &'a AppId,
    /// Whether the pod has, or the patch adds, a container of a pluggable component.
    pub with_components: bool,
}

impl Sidecar<'_> {
    /// The container as JSON, and the problems of its arguments.
    pub(crate) fn container(&self, cx: &InjectionContext<'_>) -> (Value, Vec<Problem>) {
        let (args, problems) = self.command_line(cx);
        let env = self.env(cx);
        let mut container = Map::new();
        let mut set = |member: &str, value: Value| container.insert(member.to_owned(), value);
        set("name", json!(names::SIDECAR_CONTAINER));
        set("image", json!(self.options.image));
        set("imagePullPolicy", json!(cx.settings.pull_policy));
        let entrypoint = cx
            .settings
            .entrypoint_tolerations
            .iter()
            .any(|toleration| toleration.is_among(self.pod.tolerations()));
        match args.split_first() {
            Some((program, rest)) if entrypoint => {
                set("command", json!([program]));
                set("args", json!(rest));
            }
            _ => {
                set("args", json!(args));
            }
        }
        let certificates = env.iter().any(|var| var["name"] == CERTIFICATES_VARIABLE);
        set("env", Value::Array(env));
        set("ports", self.ports());
        let health = json!({"httpGet": {"path": "/v1.0/healthz", "port": ports::SIDECAR_PUBLIC}});
        set("readinessProbe", probe(health, self.options.readiness));
        let alive = json!({"tcpSocket": {"port": ports::SIDECAR_PUBLIC}});
        set("livenessProbe", probe(alive, self.options.liveness));
        if self.options.native == Some(Position::First) {
            // The init containers of the pod start after this probe succeeds. /v1.0/healthz would
            // wait for the application, which starts after them.
            set(
                "startupProbe",
                json!({
                    "httpGet": {"path": "/v1.0/healthz/outbound", "port": ports::SIDECAR_PUBLIC},
                    "periodSeconds": 1,
                    "failureThreshold": 60,
                }),
            );
        }
        if let Some(resources) = resources(&self.options.resources) {
            set("resources", resources);
        }
        set("securityContext", security_context(self.pod, self.options, cx, certificates));
        let mounts = self.mounts(cx);
        if !mounts.is_empty() {
            set("volumeMounts", Value::Array(mounts));
        }
        if self.options.native.is_some() {
            set("restartPolicy", json!("Always"));
        }
        (Value::Object(container), problems)
    }

    fn command_line(&self, cx: &InjectionContext<'_>) -> (Vec<String>, Vec<Problem>) {
        let (args, problems) = arguments(self.options, self.id, cx);
        let mut line: Vec<String> = match self.options.debug_port {
            None => vec!["/daprd".to_owned()],
            Some(port) => {
                let listen = format!(":{port}");
                let words = [
                    "/dlv",
                    "--listen",
                    &listen,
                    "--accept-multiclient",
                    "--headless=true",
                    "--log",
                    "--api-version=2",
                    "exec",
                    "/daprd",
                    "--",
                ];
                words.map(str::to_owned).to_vec()
            }
        };
        line.extend(args);
        (line, problems)
    }

    fn env(&self, cx: &InjectionContext<'_>) -> Vec<Value> {
        let mut env = vec![
            json!({"name": "NAMESPACE", "value": cx.namespace}),
            json!({"name": "DAPR_TRUST_ANCHORS", "value": cx.trust_anchors}),
            field_variable("POD_NAME", "metadata.name"),
            json!({"name": "DAPR_CONTROLPLANE_NAMESPACE", "value": cx.settings.namespace}),
            json!({"name": "DAPR_CONTROLPLANE_TRUST_DOMAIN", "value": cx.settings.trust_domain}),
        ];
        if cx.settings.downward_api {
            env.push(field_variable("DAPR_HOST_IP", "status.podIP"));
        }
        let (plain, secret) = (&self.options.env, &self.options.env_from_secret);
        env.extend(plain.iter().map(|var| json!({"name": var.name, "value": var.value})));
        env.extend(secret.iter().map(|var| secret_variable(&var.name, &var.secret, &var.key)));
        let listed = plain.iter().map(|v| &v.name).chain(secret.iter().map(|v| &v.name));
        let listed: Vec<&str> = listed.map(String::as_str).collect();
        if !listed.is_empty() {
            // daprd lets components read only these variables; it compares whole words.
            env.push(json!({"name": "DAPR_ENV_KEYS", "value": listed.join(" ")}));
        }
        if self.with_components {
            let folder = &self.options.components.sockets_folder;
            env.push(json!({"name": SOCKETS_FOLDER_VARIABLE, "value": folder}));
        }
        let tokens = [
            ("DAPR_API_TOKEN", &self.options.api.token_secret),
            ("APP_API_TOKEN", &self.options.app.token_secret),
        ];
        for (name, secret) in tokens {
            env.extend(secret.iter().map(|secret| secret_variable(name, secret, "token")));
        }
        env
    }

    fn ports(&self) -> Value {
        let api = &self.options.api;
        let mut ports = vec![
            json!({"name": names::PORT_HTTP, "containerPort": ports::SIDECAR_HTTP}),
            json!({"name": names::PORT_GRPC, "containerPort": api.grpc_port}),
            json!({"name": names::PORT_INTERNAL_GRPC, "containerPort": api.internal_grpc_port}),
            json!({"name": names::PORT_METRICS, "containerPort": api.metrics_port}),
        ];
        let debug = self.options.debug_port;
        ports.extend(debug.map(|port| json!({"name": names::PORT_DEBUG, "containerPort": port})));
        Value::Array(ports)
    }

    fn mounts(&self, cx: &InjectionContext<'_>) -> Vec<Value> {
        let mut mounts: Vec<Value> = Vec::new();
        for mount in &self.options.mounts {
            let (name, path) = (&mount.volume, &mount.path);
            mounts.push(if mount.read_only {
                json!({"name": name, "mountPath": path, "readOnly": true})
            } else {
                json!({"name": name, "mountPath": path})
            });
        }
        if self.options.api.socket_path.is_some() {
            mounts.push(
                json!({"name": names::VOLUME_UNIX_DOMAIN_SOCKET, "mountPath": SOCKET_DIRECTORY}),
            );
        }
        if cx.settings.identity_token {
            let name = names::VOLUME_IDENTITY_TOKEN;
            mounts.push(json!({"name": name, "mountPath": TOKEN_DIRECTORY, "readOnly": true}));
        }
        if self.with_components {
            mounts.push(sockets_mount(&self.options.components.sockets_folder));
        }
        mounts
    }

    /// The volumes of the sidecar without those of pluggable components.
    pub(crate) fn volumes(&self, cx: &InjectionContext<'_>) -> Vec<Value> {
        let mut volumes = Vec::new();
        if self.options.api.socket_path.is_some() {
            let name = names::VOLUME_UNIX_DOMAIN_SOCKET;
            volumes.push(json!({"name": name, "emptyDir": {"medium": "Memory"}}));
        }
        if cx.settings.identity_token {
            let token = json!({
                "audience": cx.settings.sentry_id,
                "expirationSeconds": 7200,
                "path": "token",
            });
            volumes.push(json!({
                "name": names::VOLUME_IDENTITY_TOKEN,
                "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": token}]},
            }));
        }
        volumes
    }

    /// The labels of the pod, in order.
    pub(crate) fn labels(&self) -> [(&'static str, String); 3] {
        use resources::labels::{LABEL_APP_ID, LABEL_METRICS_ENABLED, LABEL_SIDECAR_INJECTED};
        [
            (LABEL_SIDECAR_INJECTED, "true".to_owned()),
            (LABEL_APP_ID, self.id.to_string()),
            (LABEL_METRICS_ENABLED, self.options.api.metrics.to_string()),
        ]
    }

    /// Problems of the pod as a whole.
    pub(crate) fn pod_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.pod.uses_node_dns() {
            problems.push(
                "hostNetwork without dnsPolicy ClusterFirstWithHostNet: daprd cannot resolve the names of \
                 the control plane and does not become ready"
                    .to_owned(),
            );
        }
        problems.extend(port_conflicts(self.pod, self.options));
        let api = &self.options.api;
        let configured =
            api.block_shutdown_duration.is_some() || api.graceful_shutdown_seconds >= 0;
        let block = api.block_shutdown_duration.as_deref().unwrap_or("0");
        let block = runtime::go_duration::parse(block).unwrap_or_default().as_secs();
        let graceful = u64::try_from(api.graceful_shutdown_seconds).unwrap_or(5);
        let grace = u64::try_from(self.pod.grace_period_seconds()).unwrap_or_default();
        let needed = block.saturating_add(graceful);
        if configured && needed >= grace {
            problems.push(format!(
                "{} and {} need {needed} s, but Kubernetes kills the pod after {grace} s: increase \
                 terminationGracePeriodSeconds",
                key::ANNOTATION_BLOCK_SHUTDOWN_DURATION,
                key::ANNOTATION_GRACEFUL_SHUTDOWN_SECONDS
            ));
        }
        problems
    }
}

/// The volume mount of the sockets of pluggable components.
pub(crate) fn sockets_mount(folder: &str) -> Value {
    json!({"name": names::VOLUME_COMPONENTS_SOCKET, "mountPath": folder})
}

fn field_variable(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn secret_variable(name: &str, secret: &str, key: &str) -> Value {
    json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
}

fn probe(mut handler: Value, timing: ProbeOptions) -> Value {
    if let Some(probe) = handler.as_object_mut() {
        probe.insert("initialDelaySeconds".to_owned(), json!(timing.delay_seconds));
        probe.insert("timeoutSeconds".to_owned(), json!(timing.timeout_seconds));
        probe.insert("periodSeconds".to_owned(), json!(timing.period_seconds));
        probe.insert("failureThreshold".to_owned(), json!(timing.threshold));
    }
    handler
}

fn resources(options: &ResourceOptions) -> Option<Value> {
    let list = |cpu: &Option<String>, memory: &Option<String>| {
        let pairs = [("cpu", cpu), ("memory", memory)];
        let pairs =
            pairs.into_iter().filter_map(|(name, q)| Some((name.to_owned(), json!(q.as_ref()?))));
        Some(pairs.collect::<Map<_, _>>()).filter(|map| !map.is_empty())
    };
    let lists = [
        ("limits", list(&options.cpu_limit, &options.memory_limit)),
        ("requests", list(&options.cpu_request, &options.memory_request)),
    ];
    let lists =
        lists.into_iter().filter_map(|(name, map)| Some((name.to_owned(), Value::Object(map?))));
    Some(lists.collect::<Map<_, _>>()).filter(|map| !map.is_empty()).map(Value::Object)
}
