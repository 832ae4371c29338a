//! `operator apply-crds`: upgrades the custom resource definitions of a cluster to this version,
//! which Helm does not do. The chart runs it before an upgrade. Members that a newer release or the
//! CLI added to a definition remain, see `crd_merge`.
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kubernetes::{ClientError, KubeFlags, Precedence};
use runtime::{BoxError, ProcessFlags};
use serde_json::{Value, json};

use crate::commands::cluster::crd_events::CrdEvents;
use crate::commands::cluster::{CallError, Definitions};
use crate::commands::crd_merge::{self, Plan};
use crate::definitions::subscriptions::crd_patch;

/// The definitions as they are installed, `crds/` of the source tree.
pub(crate) const DEFINITIONS: [&str; 7] = [
    include_str!("../../../crds/components.yaml"),
    include_str!("../../../crds/configuration.yaml"),
    include_str!("../../../crds/httpendpoints.yaml"),
    include_str!("../../../crds/mcpservers.yaml"),
    include_str!("../../../crds/resiliency.yaml"),
    include_str!("../../../crds/subscription.yaml"),
    include_str!("../../../crds/workflowaccesspolicy.yaml"),
];
/// How long the API server may take to serve what it has accepted.
const SERVED_WITHIN: u32 = 60;
/// Attempts to write a definition that others write too: the CLI, another hook, the operator's
/// conversion webhook.
const MERGE_ATTEMPTS: u32 = 5;
/// Interval between reads while a definition is not served yet.
const POLL: Duration = Duration::from_millis(500);

/// The flags of `apply-crds`.
#[derive(Clone, Debug, Args)]
pub struct ApplyFlags {
    /// Flags of every service.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Flags of services that use the API server.
    #[command(flatten)]
    pub kube: KubeFlags,
}

/// Why definitions were not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A definition of this release is not valid.
    #[error("read a definition")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// A definition of this release is not valid.
    #[error("read a definition")]
    Json(#[source] serde_json::Error),
    /// A definition of this release has no name.
    #[error("no {0}")]
    Missing(&'static str),
    /// The cluster's definition could not be read.
    #[error("read {name}")]
    Read {
        /// Name of the definition.
        name: String,
        /// The error of the API server.
        #[source]
        cause: CallError,
    },
    /// The cluster's definition cannot be merged.
    #[error("merge {name}")]
    Merge {
        /// Name of the definition.
        name: String,
        /// Why it cannot be merged.
        #[source]
        cause: BoxError,
    },
    /// The definition was not written.
    #[error("apply {name}")]
    Write {
        /// Name of the definition.
        name: String,
        /// The error of the API server.
        #[source]
        cause: CallError,
    },
    /// Other clients write it at the same time.
    #[error("{0} changed {MERGE_ATTEMPTS} times while it was merged; run this again")]
    Changed(String),
    /// The API server accepted the definition but does not serve it.
    #[error("{0} is not served after {SERVED_WITHIN} s")]
    NotServed(String),
}

/// Merges each of our definitions into the cluster's and waits until all are served. If it is
/// cancelled, each definition is complete in one of the versions. A definition of a newer release,
/// or one that cannot be merged, causes a Warning Event on the operator's Deployment.
///
/// # Errors
/// [`ApplyError`]: there are no credentials, a definition cannot be read, merged or applied, or the
/// API server does not serve it in time.
pub async fn apply(kubeconfig: Option<PathBuf>, namespace: &str) -> Result<(), ApplyError> {
    let client = kubernetes::client(kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let events = CrdEvents::new(&client, namespace);
    let definitions = Definitions::new(client);
    let mut names = Vec::new();
    for text in DEFINITIONS {
        let ours = definition(text, namespace)?;
        let name = text_at(&ours, "/metadata/name")?.to_owned();
        match merge(&definitions, &name, &ours).await {
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
        established(&definitions, name).await?;
    }
    Ok(())
}

/// Reads the cluster's definition and writes the plan of [`crd_merge::plan`]; retries when it has
/// changed in between. Returns a part of the cluster's definition that ours lacks.
async fn merge(
    definitions: &Definitions,
    name: &str,
    ours: &Value,
) -> Result<Option<String>, ApplyError> {
    for _ in 0..MERGE_ATTEMPTS {
        let live = definitions.read(name).await.map_err(|cause| failed_read(name, cause))?;
        let (wanted, newer) = match &live {
            None => (ours.clone(), None),
            Some(live) => match plan(live, ours)
                .map_err(|cause| ApplyError::Merge { name: name.to_owned(), cause })?
            {
                Plan::Apply(definition) => (definition, None),
                Plan::Union { definition, newer } => (definition, Some(newer)),
                Plan::Keep { newer } => {
                    log_kept(name, &newer);
                    return Ok(Some(newer));
                }
            },
        };
        if write(definitions, name, wanted, live.as_ref()).await? {
            if let Some(newer) = &newer {
                log_kept(name, newer);
            } else {
                tracing::info!(target: "dapr.operator.crds", "applied {name}");
            }
            return Ok(newer);
        }
    }
    Err(ApplyError::Changed(name.to_owned()))
}

fn plan(live: &DynamicObject, ours: &Value) -> Result<Plan, BoxError> {
    Ok(crd_merge::plan(&serde_json::to_value(live)?, ours)?)
}

fn failed_read(name: &str, cause: CallError) -> ApplyError {
    ApplyError::Read { name: name.to_owned(), cause }
}

fn log_kept(name: &str, newer: &str) {
    tracing::info!(
        target: "dapr.operator.crds", "kept {name}: newer than this release (e.g. {newer})"
    );
}

/// Applies a definition that was made from `live`; returns `false` when the cluster's has changed.
async fn write(
    definitions: &Definitions,
    name: &str,
    mut wanted: Value,
    live: Option<&DynamicObject>,
) -> Result<bool, ApplyError> {
    let metadata = wanted.pointer_mut("/metadata").and_then(Value::as_object_mut);
    if let (Some(version), Some(metadata)) =
        (live.and_then(ResourceExt::resource_version), metadata)
    {
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    let wanted = serde_json::from_value(wanted).map_err(ApplyError::Json)?;
    let written = definitions.write(name, &wanted).await;
    written.map_err(|cause| ApplyError::Write { name: name.to_owned(), cause })
}

/// A definition whose conversion webhook is the one in `namespace`, so that conversion works while
/// an operator runs. The caBundle is the operator's and remains.
fn definition(text: &str, namespace: &str) -> Result<Value, ApplyError> {
    let mut definition: Value =
        serde_saphyr::from_str(text).map_err(|cause| ApplyError::Yaml(Box::new(cause)))?;
    if let Some(place) = definition.pointer_mut(crd_patch::SERVICE_NAMESPACE) {
        *place = json!(namespace);
    }
    Ok(definition)
}

fn text_at<'a>(value: &'a Value, pointer: &'static str) -> Result<&'a str, ApplyError> {
    value.pointer(pointer).and_then(Value::as_str).ok_or(ApplyError::Missing(pointer))
}

async fn established(definitions: &Definitions, name: &str) -> Result<(), ApplyError> {
    for _ in 0..SERVED_WITHIN * 2 {
        let now = definitions.get(name).await.map_err(|cause| failed_read(name, cause))?;
        if is_established(&now.data) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(ApplyError::NotServed(name.to_owned()))
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type") == Some(&json!("Established"))
            && condition.get("status") == Some(&json!("True"))
    })
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
