//! Shared by the tests: an installation with the chart's defaults, and pods.

use serde_json::{Value, json};
use sidecar_injector::{
    Actors, Change, ComponentContainer, ControlPlane, Defaults, InjectionContext, Mutation,
    NamespacePolicy, NativeDefault, Platform, PodView, Rejection, Security, Settings, mutate,
};

pub(crate) const ANCHORS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

pub(crate) fn settings() -> Settings {
    let control_plane = ControlPlane::new("dapr-system", "cluster.local");
    Settings {
        image: "ghcr.io/dapr/daprd:1.18.3".to_owned(),
        pull_policy: "IfNotPresent",
        namespace: "dapr-system".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        sentry_id: "spiffe://cluster.local/ns/dapr-system/dapr-sentry".to_owned(),
        actors: Actors::from_settings(true, "", "", &control_plane).unwrap(),
        control_plane,
        reminders: None,
        scheduler: true,
        scheduler_replicas: 3,
        native: NativeDefault::Off,
        defaults: Defaults::new(),
        sockets_folder: "/tmp/dapr-components-sockets".to_owned(),
        downward_api: false,
        identity_token: true,
        entrypoint_tolerations: Vec::new(),
        security: Security::default(),
        strict_annotations: false,
    }
}

pub(crate) fn context(settings: &Settings) -> InjectionContext<'_> {
    with_components(settings, &[])
}

pub(crate) fn with_components<'a>(
    settings: &'a Settings,
    components: &'a [ComponentContainer],
) -> InjectionContext<'a> {
    InjectionContext {
        settings,
        namespace: "default",
        policy: NamespacePolicy::NONE,
        platform: Platform::default(),
        trust_anchors: ANCHORS,
        mtls_enabled: true,
        components: Ok(components),
    }
}

/// A pod with one container `app`, of a replica set, with these annotations besides the switch.
pub(crate) fn pod(annotations: &Value) -> Value {
    let mut all = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "app"});
    for (key, value) in annotations.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "app-5d-", "annotations": all, "labels": {"app": "app"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}], "volumes": [{"name": "data"}]},
    })
}

pub(crate) fn decide(pod: &Value, cx: &InjectionContext<'_>) -> Result<Mutation, Rejection> {
    mutate(&PodView::parse(pod)?, cx)
}

/// The patch and the warnings for a pod that is injected.
pub(crate) fn inject(pod: &Value, cx: &InjectionContext<'_>) -> (json_patch::Patch, Vec<String>) {
    match decide(pod, cx).unwrap() {
        Mutation { change: Change::Inject { patch, .. }, warnings } => {
            (patch, warnings.into_iter().map(|warning| warning.text).collect())
        }
        other => panic!("not injected: {other:?}"),
    }
}

/// The pod after its patch.
pub(crate) fn patched(pod: &Value, cx: &InjectionContext<'_>) -> Value {
    let mut pod = pod.clone();
    let (patch, _) = inject(&pod, cx);
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

/// The sidecar of a pod with these annotations.
pub(crate) fn sidecar(annotations: &Value, settings: &Settings) -> Value {
    let pod = patched(&pod(annotations), &context(settings));
    container(&pod, "daprd")
}

pub(crate) fn container(pod: &Value, name: &str) -> Value {
    let lists = ["containers", "initContainers"];
    let all = lists.iter().filter_map(|list| pod["spec"][*list].as_array()).flatten();
    all.into_iter().find(|c| c["name"] == name).cloned().unwrap_or_default()
}

/// The arguments of a sidecar, each flag joined with its value for readability.
pub(crate) fn arguments(sidecar: &Value) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for arg in sidecar["args"].as_array().unwrap() {
        let arg = arg.as_str().unwrap();
        match joined.last_mut() {
            Some(flag) if !arg.starts_with("--") && flag.starts_with("--") => {
                flag.push(' ');
                flag.push_str(arg);
            }
            _ => joined.push(arg.to_owned()),
        }
    }
    joined
}
