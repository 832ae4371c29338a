//! Both injectors with the same settings: as processes, and ours as a function.

use std::path::PathBuf;

use base64::Engine as _;
use blackbox::admission::{AdmissionClient, Decision};
use blackbox::injector_fixture::Injector;
use blackbox::{InjectorFixture, Tool, build_binary};
use clap::Parser as _;
use serde_json::{Value, json};
use sidecar_injector::{
    AllowedUsers, ComponentContainer, Config, Flags, HostEnvironment, InjectionContext,
    NamespacePolicy, Platform, Review,
};

use crate::generator::PLUGGABLE;

/// Placeholder for the PEM text of the trust anchors.
const ANCHORS: &str = "ANCHORS";

/// Flags and environment of an injector.
#[derive(Debug)]
pub(crate) struct Setting {
    name: &'static str,
    flags: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
}

/// All settings of the chart, and all others of the injector.
pub(crate) const SETTINGS: [Setting; 2] = [
    Setting {
        name: "chart",
        flags: &["--scheduler-enabled=true"],
        variables: &[
            ("ACTORS_SERVICE_NAME", "placement"),
            ("ACTORS_SERVICE_ADDRESS", "dapr-placement-server:50005"),
            ("ALLOWED_SERVICE_ACCOUNTS", "ci:*"),
        ],
    },
    Setting {
        name: "other",
        flags: &["--scheduler-enabled=false"],
        variables: &[
            ("ACTORS_SERVICE_NAME", "own"),
            ("ACTORS_SERVICE_ADDRESS", "own-actors:7000"),
            ("REMINDERS_SERVICE_NAME", "own"),
            ("REMINDERS_SERVICE_ADDRESS", "own-reminders:7001"),
            ("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES", "c?:dep*"),
            ("NATIVE_SIDECAR_ENABLED", "yes"),
            ("ENABLE_K8S_DOWNWARD_APIS", "true"),
            ("SIDECAR_DROP_ALL_CAPABILITIES", "true"),
            ("SIDECAR_READ_ONLY_ROOT_FILESYSTEM", "false"),
            ("SIDECAR_RUN_AS_USER", "1000"),
            ("SIDECAR_RUN_AS_GROUP", "2000"),
            ("DAPR_COMPONENT_SOCKETS_FOLDER", "/own/sockets"),
            (
                "IGNORE_ENTRYPOINT_TOLERATIONS",
                r#"[{"key":"aws","operator":"Exists","effect":"NoSchedule"}]"#,
            ),
        ],
    },
];

/// Both injectors with one setting.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) ours: AdmissionClient,
    reference: AdmissionClient,
    _injectors: [Injector; 2],
}

impl Processes {
    pub(crate) fn start(api: &InjectorFixture, setting: &Setting) -> Self {
        let start = |who: &str, program: PathBuf| {
            let name = format!("{who}-{}", setting.name);
            api.another(&name, program, setting.flags, setting.variables).unwrap()
        };
        let ours = start("ours", build_binary("injector").unwrap());
        let reference = start("reference", Tool::REFERENCE_INJECTOR.path().unwrap());
        Self {
            ours: api.admission_client(&ours).unwrap(),
            reference: api.admission_client(&reference).unwrap(),
            _injectors: [ours, reference],
        }
    }

    /// The decision of Dapr's injector. It asks the API server for each pod and does not answer at
    /// all when that is slow (seen once, for 30 s); kube-apiserver would send the request again too.
    pub(crate) fn reference_decides(&self, request: &Value) -> Decision {
        let again = |e| {
            eprintln!("Dapr's injector did not answer, it is asked again: {e:#}");
            self.reference.decide(request)
        };
        self.reference.decide(request).or_else(again).unwrap()
    }
}

/// Our injector as a function.
#[derive(Debug)]
pub(crate) struct Core {
    config: Config,
    components: Vec<ComponentContainer>,
}

/// One for each setting.
pub(crate) fn cores() -> Vec<Core> {
    let core = |setting: &Setting| {
        let flags = std::iter::once("injector").chain(setting.flags.iter().copied());
        let variables = blackbox::injector_fixture::SETTINGS.iter().chain(setting.variables);
        let find = |name: &str| {
            variables.clone().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let host = HostEnvironment::default();
        let config = Flags::parse_from(flags).into_config(find, &host).unwrap();
        let components = COMPONENTS.iter().map(|(name, scopes, container)| ComponentContainer {
            name: (*name).to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            container: (*container).to_owned(),
        });
        Core { config, components: components.collect() }
    };
    SETTINGS.iter().map(core).collect()
}

impl Core {
    pub(crate) fn answer(&self, request: &Value) -> Decision {
        let mut request = request.clone();
        request["uid"] = json!("u");
        self.answer_body(json!({"request": request}).to_string().as_bytes()).unwrap()
    }

    /// The answer to the body of a request; `None` if it is not a review.
    pub(crate) fn answer_body(&self, body: &[u8]) -> Option<Decision> {
        let review = Review::parse(body).ok()?;
        let components =
            if review.namespace() == PLUGGABLE { self.components.as_slice() } else { &[] };
        let cx = InjectionContext {
            settings: &self.config.settings,
            namespace: review.namespace(),
            policy: NamespacePolicy::NONE,
            platform: Platform::default(),
            trust_anchors: ANCHORS,
            mtls_enabled: true,
            components: Ok(components),
        };
        let users = AllowedUsers { allowed: &self.config.allowed, uids: &[], mark_skipped: false };
        let decision = review.decide(&cx, &users);
        let answer = serde_json::to_value(review.answer(&decision)).unwrap();
        let response = &answer["response"];
        let patch = response["patch"].as_str().map_or(json!([]), |patch| {
            let patch = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
            serde_json::from_slice(&patch).unwrap()
        });
        Some(Decision {
            allowed: response["allowed"].as_bool().unwrap(),
            patch,
            message: response["status"]["message"].as_str().unwrap_or_default().to_owned(),
            warnings: Vec::new(),
        })
    }
}

/// A decision with [`ANCHORS`] in place of the trust anchors.
pub(crate) fn without_anchors(decision: &Decision, anchors: &str) -> Decision {
    let pem = json!(anchors).to_string();
    let patch = decision.patch.to_string().replace(&pem, &json!(ANCHORS).to_string());
    Decision { patch: serde_json::from_str(&patch).unwrap(), ..decision.clone() }
}

/// Name, scopes and container of each Component in the namespace [`PLUGGABLE`].
const COMPONENTS: &[(&str, &[&str], &str)] = &[
    (
        "a-store",
        &[],
        r#"{"image":"store:1","env":[{"name":"X","value":"1"}],
            "volumeMounts":[{"name":"new","mountPath":"/n"},{"name":"data","mountPath":"/d"}]}"#,
    ),
    ("b-named", &["app", "other"], r#"{"name":"named","image":"named:1","resources":{}}"#),
    ("c-not-ours", &["other"], r#"{"image":"other:1"}"#),
    ("d-same-image", &[], r#"{"image":"store:1","args":["second"]}"#),
    ("e-no-json", &[], "image: store"),
    ("f-same-volume", &[], r#"{"image":"f:1","volumeMounts":[{"name":"new","mountPath":"/m"}]}"#),
    ("g-no-container", &[], ""),
];

/// Creates the Components on a test cluster.
pub(crate) fn create_components(api: &InjectorFixture) {
    api.api.kubectl(&["create", "namespace", PLUGGABLE]).unwrap();
    for (name, scopes, container) in COMPONENTS {
        let component = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": name, "namespace": PLUGGABLE, "annotations": {
                "dapr.io/component-container": container,
            }},
            "spec": {"type": "state.store", "version": "v1", "metadata": []},
            "scopes": scopes,
        });
        api.api.apply(&component.to_string()).unwrap();
    }
}
