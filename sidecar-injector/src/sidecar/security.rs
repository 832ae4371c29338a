//! The security context of the sidecar. Source of members and order: Dapr 1.18.3, injector.

use serde_json::{Map, Value, json};

use super::context::InjectionContext;
use super::options::Options;
use crate::pod::PodView;

/// The security context. `certificates` is whether the sidecar reads `SSL_CERT_DIR`, which on Windows
/// needs an administrator.
pub(crate) fn security_context(
    pod: &PodView<'_>,
    options: &Options,
    cx: &InjectionContext<'_>,
    certificates: bool,
) -> Value {
    if pod.is_windows() {
        return windows(cx, certificates);
    }
    // Without `spec.os` the operating system of the node is unknown. A pod that selects Linux keeps the
    // strict context, as does one in a restricted namespace, which rejects any other.
    let restricted = cx.policy.restricted;
    let administrator = certificates && !pod.is_linux() && !restricted;
    let security = &cx.settings.security;
    let mut context = Map::new();
    let mut set = |member: &str, value: Value| context.insert(member.to_owned(), value);
    set("allowPrivilegeEscalation", json!(false));
    set("runAsNonRoot", json!(security.run_as_non_root && !administrator));
    set("readOnlyRootFilesystem", json!(security.read_only_root && !administrator));
    if !administrator {
        let ids = [("runAsUser", security.run_as_user), ("runAsGroup", security.run_as_group)];
        for (member, id) in ids {
            if let Some(id) = id {
                set(member, json!(id));
            }
        }
    }
    if security.drop_all || restricted {
        set("capabilities", json!({"drop": ["ALL"]}));
    }
    let profile = options.seccomp.as_deref();
    if let Some(profile) = profile.or(restricted.then_some("RuntimeDefault")) {
        set("seccompProfile", json!({"type": profile}));
    }
    if administrator {
        set("windowsOptions", administrator_options());
    }
    Value::Object(context)
}

/// The context of a pod whose `spec.os` is Windows: the API server rejects all members that only
/// Linux has. Source: Kubernetes 1.34, validation of pods.
fn windows(cx: &InjectionContext<'_>, certificates: bool) -> Value {
    let administrator = certificates && !cx.policy.restricted;
    let non_root = cx.settings.security.run_as_non_root && !administrator;
    if administrator {
        json!({"runAsNonRoot": non_root, "windowsOptions": administrator_options()})
    } else {
        json!({ "runAsNonRoot": non_root })
    }
}

fn administrator_options() -> Value {
    json!({"runAsUserName": "ContainerAdministrator"})
}
