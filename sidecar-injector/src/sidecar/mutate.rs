//! The decision for one pod: which patch adds its sidecar.

use std::fmt;

use json_patch::Patch;
use resources::{annotations as key, labels, names};

use super::app;
use super::components::{self, ComponentContainers};
use super::container::Sidecar;
use super::context::InjectionContext;
use super::options::{Options, Position};
use super::validation::checked_options;
use crate::pod::{
    AppId, AppIdError, BadShape, Injection, NamespacePolicy, PatchWriter, PodList, PodView,
    UNKNOWN_ANNOTATION, Warning, unknown_annotations,
};

/// Subject of warnings that concern the whole pod.
const POD_AS_A_WHOLE: &str = "pod";
/// Subject of warnings about Components.
const COMPONENTS: &str = "component";

/// The result for a pod that is not rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// The change to the pod.
    pub change: Change,
    /// Messages for the user.
    pub warnings: Vec<Warning>,
}

/// The change to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Adds the sidecar.
    Inject {
        /// App id of the pod.
        app_id: String,
        /// The patch (RFC 6902).
        patch: Patch,
        /// The defaults in use, as value of `dapr.io/applied-defaults`.
        defaults: Option<String>,
    },
    /// The pod has its sidecar; adds variables and mounts to containers that other webhooks added
    /// later.
    Complete {
        /// App id of the pod.
        app_id: String,
        /// The patch (RFC 6902), never empty.
        patch: Patch,
    },
    /// Leaves the pod unchanged.
    Nothing(SkipReason),
}

/// Why a pod stays unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// `dapr.io/enabled` is absent or not truthy.
    NotEnabled,
    /// The pod requests a sidecar, but injection is disabled in its Namespace.
    NamespaceDisabled,
    /// The pod has a container `daprd`.
    AlreadyPresent,
}

/// A rejected pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// Why it is rejected.
    pub error: InjectError,
    /// Messages for the user besides the reason.
    pub warnings: Vec<Warning>,
}

impl From<BadShape> for Rejection {
    fn from(error: BadShape) -> Self {
        Self { error: error.into(), warnings: Vec::new() }
    }
}

/// The reason, and the unknown annotations if the app id is the reason. A controller that creates
/// the pod shows this text, but not the warnings.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if matches!(self.error, InjectError::AppId(_)) {
            let unknown = self.warnings.iter().filter(|w| w.about == UNKNOWN_ANNOTATION);
            for warning in unknown {
                write!(f, "; {warning}")?;
            }
        }
        Ok(())
    }
}

/// Why a pod is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// The object is not a pod.
    #[error("could not unmarshal raw object: {0}")]
    NotAPod(#[from] BadShape),
    /// No usable app id.
    #[error(transparent)]
    AppId(#[from] AppIdError),
    /// The pod requests the containers of Components, which are unknown.
    #[error(
        "Components of namespace {namespace} are unknown, but {} requests their containers: {why}",
        key::ANNOTATION_INJECT_PLUGGABLE_COMPONENTS
    )]
    Components {
        /// Namespace of the pod.
        namespace: String,
        /// Why they are unknown, in words for the user.
        why: String,
    },
    /// Strict mode: invalid annotation values.
    #[error("annotations of pod {pod} are invalid: {}", problems.join("; "))]
    Annotations {
        /// Namespace and name of the pod.
        pod: String,
        /// One message per annotation.
        problems: Vec<String>,
    },
}

/// The change that adds the sidecar of a pod. A pod that requests none, or has one, stays
/// unchanged. Idempotent: a patched pod needs no second patch.
///
/// # Errors
/// The pod is rejected: [`InjectError::AppId`], [`InjectError::Components`] and, in strict mode,
/// [`InjectError::Annotations`].
pub fn mutate(pod: &PodView<'_>, cx: &InjectionContext<'_>) -> Result<Mutation, Rejection> {
    let mut warnings = unknown_annotations(pod);
    match plan(pod, cx, &mut warnings) {
        Ok(change) => Ok(Mutation { change, warnings }),
        Err(error) => Err(Rejection { error, warnings }),
    }
}

fn plan(
    pod: &PodView<'_>,
    cx: &InjectionContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Change, InjectError> {
    if let Some(skip) = skip_reason(pod, cx.policy) {
        return Ok(Change::Nothing(skip));
    }
    if pod.has_container(names::SIDECAR_CONTAINER) {
        // The call that injected the sidecar returned the warnings.
        warnings.clear();
        return Ok(completion(pod, cx).unwrap_or(Change::Nothing(SkipReason::AlreadyPresent)));
    }
    let (options, problems) = checked_options(pod, cx);
    let app_id = AppId::of(pod, cx.namespace)?;
    if cx.settings.strict_annotations && !problems.is_empty() {
        let pod = format!("{}/{}", cx.namespace, pod.display_name());
        let problems = problems.iter().map(ToString::to_string).collect();
        return Err(InjectError::Annotations { pod, problems });
    }
    warnings.extend(problems.iter().map(Warning::from));
    let defaults = cx.defaults().applied_to(pod);
    let mut patch = inject(pod, &options, &app_id, cx, warnings)?;
    if pod.annotation(key::ANNOTATION_ENABLED).is_none() {
        // Enabled by the Namespace. Operator, sentry and CLI read the annotation of the pod.
        patch.annotation(key::ANNOTATION_ENABLED, "true");
    }
    if let Some(defaults) = &defaults {
        patch.annotation(key::ANNOTATION_APPLIED_DEFAULTS, defaults);
    }
    Ok(Change::Inject { app_id: app_id.to_string(), patch: patch.finish(), defaults })
}

/// Why a pod gets no sidecar by its annotations and its Namespace alone.
pub(crate) fn skip_reason(pod: &PodView<'_>, policy: &NamespacePolicy) -> Option<SkipReason> {
    let has_id = || pod.annotation(key::ANNOTATION_APP_ID).is_some_and(|id| !id.is_empty());
    let requested = match pod.annotation(key::ANNOTATION_ENABLED) {
        Some(text) => key::is_truthy(text),
        None => policy.injection == Injection::Enabled && has_id(),
    };
    match (requested, policy.injection) {
        (false, _) => Some(SkipReason::NotEnabled),
        (true, Injection::Disabled) => Some(SkipReason::NamespaceDisabled),
        (true, Injection::AsAnnotated | Injection::Enabled) => None,
    }
}

fn inject(
    pod: &PodView<'_>,
    options: &Options,
    id: &AppId,
    cx: &InjectionContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<PatchWriter, InjectError> {
    let selected = if options.components.inject {
        let listed = cx.components.map_err(|why| InjectError::Components {
            namespace: cx.namespace.to_owned(),
            why: why.to_owned(),
        })?;
        components::select(listed, id)
    } else {
        ComponentContainers::default()
    };
    let with_components =
        !(options.components.containers.is_empty() && selected.containers.is_empty());
    let sidecar = Sidecar { pod, options, id, with_components };
    let (container, problems) = sidecar.container(cx);
    warnings.extend(problems.iter().map(Warning::from));
    let about = |about| move |text| Warning { about, text };
    warnings.extend(sidecar.pod_problems().into_iter().map(about(POD_AS_A_WHOLE)));
    warnings.extend(selected.problems.into_iter().map(about(COMPONENTS)));

    let mut patch = PatchWriter::new(pod);
    patch.ensure_list(PodList::Containers);
    patch.ensure_labels();
    patch.volumes(sidecar.volumes(cx));
    let list = if options.native.is_some() { PodList::InitContainers } else { PodList::Containers };
    patch.ensure_list(list);
    match options.native {
        Some(Position::First) => patch.push_first(list, container),
        Some(Position::Last) | None => patch.push(list, container),
    }
    for (label, value) in sidecar.labels() {
        patch.label(label, &value);
    }
    app::write(&mut patch, pod, options);
    if with_components {
        components::write(&mut patch, pod, &options.components, selected.containers);
    }
    replace_empty_annotations(&mut patch, pod, id, warnings);
    Ok(patch)
}

/// Replaces empty annotations that sentry reads literally: it refuses the certificate of a sidecar
/// whose app id or configuration is empty, while every other service reads empty as absent.
fn replace_empty_annotations(
    patch: &mut PatchWriter,
    pod: &PodView<'_>,
    id: &AppId,
    warnings: &mut Vec<Warning>,
) {
    if pod.annotation(key::ANNOTATION_APP_ID) == Some("") {
        patch.annotation(key::ANNOTATION_APP_ID, id.as_str());
        let about = key::ANNOTATION_APP_ID;
        warnings.push(Warning { about, text: format!("{about} is empty; the app id is {id}") });
    }
    if pod.annotation(key::ANNOTATION_CONFIG).is_some_and(|name| name.trim().is_empty()) {
        patch.remove_annotation(key::ANNOTATION_CONFIG);
        let about = key::ANNOTATION_CONFIG;
        warnings.push(Warning { about, text: format!("{about} is empty and was removed") });
    }
}

/// Completes a pod that already has its sidecar: adds variables and mounts to containers that
/// another webhook added later. A container `daprd` without the injector's label belongs to the
/// user.
fn completion(pod: &PodView<'_>, cx: &InjectionContext<'_>) -> Option<Change> {
    let label = |key: &str| pod.labels().and_then(|labels| labels.get(key)?.as_str());
    if label(labels::LABEL_SIDECAR_INJECTED) != Some("true") {
        return None;
    }
    let app_id = AppId::of(pod, cx.namespace).ok()?;
    let (options, _) = Options::read(pod, cx);
    let sidecar = Sidecar { pod, options: &options, id: &app_id, with_components: false };
    let mut patch = PatchWriter::new(pod);
    for (key, value) in sidecar.labels() {
        if label(key).is_none() {
            patch.label(key, &value);
        }
    }
    app::complete(&mut patch, pod, &options);
    let patch = patch.finish();
    (!patch.0.is_empty()).then_some(Change::Complete { app_id: app_id.to_string(), patch })
}
