//! `operator apply-crds`: brings the custom resource definitions of a cluster to this version, which
//! Helm does not do. The chart runs it before an upgrade.
use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use kubernetes::{KubeFlags, Precedence, api_text};
use runtime::ProcessFlags;
use serde_json::{Value, json};

use crate::subscriptions::crd_patch;

/// The definitions as they are installed, `crds/` of the source tree.
const DEFINITIONS: [&str; 7] = [
    include_str!("../../../crds/components.yaml"),
    include_str!("../../../crds/configuration.yaml"),
    include_str!("../../../crds/httpendpoints.yaml"),
    include_str!("../../../crds/mcpservers.yaml"),
    include_str!("../../../crds/resiliency.yaml"),
    include_str!("../../../crds/subscription.yaml"),
    include_str!("../../../crds/workflowaccesspolicy.yaml"),
];
/// Who owns the fields, as the API server records it.
const FIELD_MANAGER: &str = "dapr-crds";
/// Limit of one call.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long the API server may take to serve what it has accepted.
const SERVED_WITHIN: u32 = 60;
/// How often it is asked.
const POLL: Duration = Duration::from_millis(500);

/// What applying takes.
#[derive(Clone, Debug, Args)]
pub struct ApplyFlags {
    /// Flags of every service.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Flags of services that use the API server.
    #[command(flatten)]
    pub kube: KubeFlags,
}

/// Applies every definition and waits until all are served. Cancelling leaves whole definitions
/// of either version.
///
/// # Errors
/// There are no credentials, the API server refuses one, or does not serve it in time.
pub async fn apply(kubeconfig: Option<PathBuf>, namespace: &str) -> anyhow::Result<()> {
    let client = kubernetes::client(kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let api = definitions(client);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let mut names = Vec::new();
    for text in DEFINITIONS {
        let wanted = definition(text, namespace)?;
        let name = wanted.name_any();
        let patched = within(api.patch(&name, &params, &Patch::Apply(&wanted))).await;
        patched.with_context(|| format!("apply {name}"))?;
        tracing::info!(target: "dapr.operator.crds", "applied {name}");
        names.push(name);
    }
    for name in &names {
        established(&api, name).await?;
    }
    Ok(())
}

fn definitions(client: Client) -> Api<DynamicObject> {
    let kind = "CustomResourceDefinition";
    let kind = kube::core::GroupVersionKind::gvk("apiextensions.k8s.io", "v1", kind);
    Api::all_with(client, &ApiResource::from_gvk(&kind))
}

/// A definition whose conversion webhook is the one in `namespace`, so that conversion goes on
/// while an operator runs. The caBundle is the operator's and stays.
fn definition(text: &str, namespace: &str) -> anyhow::Result<DynamicObject> {
    let mut definition: Value = serde_saphyr::from_str(text).context("read a definition")?;
    if let Some(place) = definition.pointer_mut(crd_patch::SERVICE_NAMESPACE) {
        *place = json!(namespace);
    }
    serde_json::from_value(definition).context("read a definition")
}

async fn established(api: &Api<DynamicObject>, name: &str) -> anyhow::Result<()> {
    for _ in 0..SERVED_WITHIN * 2 {
        let now = within(api.get(name)).await.with_context(|| format!("read {name}"))?;
        if is_established(&now.data) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    anyhow::bail!("{name} is not served after {SERVED_WITHIN} s")
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type") == Some(&json!("Established"))
            && condition.get("status") == Some(&json!("True"))
    })
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(CALL_LIMIT, call).await;
    let answer = answer.with_context(|| format!("no answer within {} s", CALL_LIMIT.as_secs()))?;
    answer.map_err(|error| anyhow::anyhow!(api_text(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_read_and_only_subscriptions_have_a_webhook() {
        let mut with_webhook = Vec::new();
        for text in DEFINITIONS {
            let definition = definition(text, "control").unwrap();
            if let Some(place) =
                serde_json::to_value(&definition).unwrap().pointer(crd_patch::SERVICE_NAMESPACE)
            {
                assert_eq!(place, "control");
                with_webhook.push(definition.name_any());
            }
        }
        assert_eq!(with_webhook, ["subscriptions.dapr.io"]);
    }

    #[test]
    fn all_files_of_the_source_tree_are_applied() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(DEFINITIONS.contains(&text.as_str()), "{} is left out", path.display());
        }
    }

    #[rstest::rstest]
    #[case::yes(json!({"status": {"conditions": [{"type": "NamesAccepted", "status": "True"},
        {"type": "Established", "status": "True"}]}}), true)]
    #[case::not_yet(json!({"status": {"conditions": [{"type": "Established", "status": "False"}]}}), false)]
    #[case::new(json!({}), false)]
    fn a_definition_is_served_when_the_api_server_says_so(
        #[case] definition: Value,
        #[case] want: bool,
    ) {
        assert_eq!(is_established(&definition), want);
    }
}
