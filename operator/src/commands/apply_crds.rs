//! `operator apply-crds`: brings the custom resource definitions of a cluster to this version, which
//! Helm does not do. The chart runs it before an upgrade. A definition that a newer release or the
//! CLI installed keeps everything it has, see [`crd_merge`].
use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use kubernetes::{KubeFlags, Precedence, api_text};
use runtime::ProcessFlags;
use serde_json::{Value, json};

use crate::{
    commands::{
        crd_events::CrdEvents,
        crd_merge::{self, Plan},
    },
    subscriptions::crd_patch,
};

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
/// A definition is written by few: the CLI, another hook, the operator's conversion webhook.
const MERGE_ATTEMPTS: u32 = 5;
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

/// Merges each of our definitions into the cluster's and waits until all are served. Cancelling
/// leaves whole definitions of either version. A definition of a newer release, and one that cannot be
/// merged, are Warning Events on the operator's Deployment.
///
/// # Errors
/// There are no credentials, a definition cannot be read, merged or applied, or the API server does
/// not serve it in time.
pub async fn apply(kubeconfig: Option<PathBuf>, namespace: &str) -> anyhow::Result<()> {
    let client = kubernetes::client(kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let events = CrdEvents::new(&client, namespace);
    let api = definitions(client);
    let mut names = Vec::new();
    for text in DEFINITIONS {
        let ours = definition(text, namespace)?;
        let name = text_at(&ours, "/metadata/name")?.to_owned();
        match merge(&api, &name, &ours).await {
            Ok(Some(newer)) => events.kept(&name, &newer).await,
            Ok(None) => {}
            Err(error) => {
                events.failed(&error).await;
                return Err(error);
            }
        }
        names.push(name);
    }
    for name in &names {
        established(&api, name).await?;
    }
    Ok(())
}

/// Reads the cluster's definition and writes what [`crd_merge::plan`] says, again when it changed
/// in between. Returns something of the cluster's definition that ours lacks.
async fn merge(
    api: &Api<DynamicObject>,
    name: &str,
    ours: &Value,
) -> anyhow::Result<Option<String>> {
    for _ in 0..MERGE_ATTEMPTS {
        let live = read(api, name).await.with_context(|| format!("read {name}"))?;
        let (wanted, newer) = match &live {
            None => (ours.clone(), None),
            Some(live) => match crd_merge::plan(&serde_json::to_value(live)?, ours)
                .with_context(|| format!("merge {name}"))?
            {
                Plan::Apply(definition) => (definition, None),
                Plan::Union { definition, newer } => (definition, Some(newer)),
                Plan::Keep { newer } => {
                    log_kept(name, &newer);
                    return Ok(Some(newer));
                }
            },
        };
        if write(api, name, wanted, live.as_ref()).await.with_context(|| format!("apply {name}"))? {
            match &newer {
                Some(newer) => log_kept(name, newer),
                None => tracing::info!(target: "dapr.operator.crds", "applied {name}"),
            }
            return Ok(newer);
        }
    }
    anyhow::bail!("{name} changed {MERGE_ATTEMPTS} times while it was merged; run this again")
}

/// The cluster's definition; without it nothing is applied, for it may be a newer one.
async fn read(api: &Api<DynamicObject>, name: &str) -> anyhow::Result<Option<DynamicObject>> {
    let answer =
        tokio::time::timeout(CALL_LIMIT, api.get_opt(name)).await.with_context(no_answer)?;
    answer.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => anyhow::anyhow!(
            "{}; grant get on customresourcedefinitions.apiextensions.k8s.io: a definition that \
             cannot be read may be newer and is not written",
            status.message
        ),
        error => anyhow::anyhow!(api_text(&error)),
    })
}

fn log_kept(name: &str, newer: &str) {
    tracing::info!(
        target: "dapr.operator.crds", "kept {name}: newer than this release (e.g. {newer})"
    );
}

/// Applies a definition that was made from `live`; `false` when the cluster's is another by now.
async fn write(
    api: &Api<DynamicObject>,
    name: &str,
    mut wanted: Value,
    live: Option<&DynamicObject>,
) -> anyhow::Result<bool> {
    let metadata = wanted.pointer_mut("/metadata").and_then(Value::as_object_mut);
    if let (Some(version), Some(metadata)) =
        (live.and_then(ResourceExt::resource_version), metadata)
    {
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    let wanted: DynamicObject = serde_json::from_value(wanted).context("read a definition")?;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let wanted = Patch::Apply(&wanted);
    let answer = tokio::time::timeout(CALL_LIMIT, api.patch(name, &params, &wanted)).await;
    match answer.with_context(no_answer)? {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
        Err(error) => Err(anyhow::anyhow!(api_text(&error))),
    }
}

fn definitions(client: Client) -> Api<DynamicObject> {
    let kind = "CustomResourceDefinition";
    let kind = kube::core::GroupVersionKind::gvk("apiextensions.k8s.io", "v1", kind);
    Api::all_with(client, &ApiResource::from_gvk(&kind))
}

/// A definition whose conversion webhook is the one in `namespace`, so that conversion goes on
/// while an operator runs. The caBundle is the operator's and stays.
fn definition(text: &str, namespace: &str) -> anyhow::Result<Value> {
    let mut definition: Value = serde_saphyr::from_str(text).context("read a definition")?;
    if let Some(place) = definition.pointer_mut(crd_patch::SERVICE_NAMESPACE) {
        *place = json!(namespace);
    }
    Ok(definition)
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer}"))
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
    answer.with_context(no_answer)?.map_err(|error| anyhow::anyhow!(api_text(&error)))
}

fn no_answer() -> String {
    format!("no answer within {} s", CALL_LIMIT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_read_and_only_subscriptions_have_a_webhook() {
        let mut with_webhook = Vec::new();
        for text in DEFINITIONS {
            let definition = definition(text, "control").unwrap();
            if let Some(place) = definition.pointer(crd_patch::SERVICE_NAMESPACE) {
                assert_eq!(place, "control");
                with_webhook.push(text_at(&definition, "/metadata/name").unwrap().to_owned());
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
