//! The decision for one pod: which patch gives it its sidecar.

use json_patch::Patch;
use resources::annotations as key;
use resources::{labels, names};

use crate::app_id::{AppId, AppIdError};
use crate::components::{self, ComponentContainer};
use crate::defaults::Layers;
use crate::namespace::{Injection, NamespacePolicy};
use crate::options::{Options, Position};
use crate::patch::{PatchWriter, PodList};
use crate::platform::Platform;
use crate::pod::{BadShape, PodView};
use crate::reader::Problem;
use crate::settings::Settings;
use crate::sidecar::Sidecar;
use crate::warnings::Warning;
use crate::{app, spelling};

/// What warnings are about that no single annotation causes.
const POD_AS_A_WHOLE: &str = "pod";
/// What warnings are about that a Component causes.
const COMPONENTS: &str = "component";

/// Everything but the pod that a sidecar depends on: settings, and snapshots of what is watched.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Settings of the cluster.
    pub settings: &'a Settings,
    /// Namespace of the request.
    pub namespace: &'a str,
    /// What that Namespace decides.
    pub policy: &'a NamespacePolicy,
    /// Versions of the cluster.
    pub platform: Platform,
    /// PEM bundle that sidecars trust.
    pub trust_anchors: &'a str,
    /// mTLS between sidecars.
    pub mtls_enabled: bool,
    /// Components of the namespace that bring containers; `Err` says why they are not known.
    pub components: Result<&'a [ComponentContainer], &'a str>,
}

impl<'a> Situation<'a> {
    /// The defaults for annotations of pods.
    pub fn defaults(&self) -> Layers<'a> {
        Layers { cluster: &self.settings.defaults, namespace: &self.policy.defaults }
    }
}

/// What to do with a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The change.
    pub change: Change,
    /// Sentences for the user.
    pub warnings: Vec<Warning>,
}

/// The change to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The pod gets its sidecar.
    Inject {
        /// The application.
        app_id: AppId,
        /// RFC 6902.
        patch: Patch,
        /// The defaults that the sidecar follows, see [`Layers::applied_to`].
        defaults: Option<String>,
    },
    /// The pod has its sidecar; containers that came after it get what they miss.
    Complete {
        /// The application.
        app_id: AppId,
        /// RFC 6902, never empty.
        patch: Patch,
    },
    /// Nothing to do.
    Nothing(Skip),
}

/// Why a pod is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// `dapr.io/enabled` is absent or not truthy.
    NotEnabled,
    /// The pod asks, but its Namespace is switched off.
    NamespaceDisabled,
    /// There is a container `daprd`.
    AlreadyPresent,
}

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// The object is no pod.
    #[error("could not unmarshal raw object: {0}")]
    NotAPod(#[from] BadShape),
    /// No usable app id.
    #[error(transparent)]
    AppId(#[from] AppIdError),
    /// The pod wants the containers of Components, and these are not known.
    #[error(
        "components of namespace {namespace} are not known, and {} asks for their containers: {why}",
        key::ANNOTATION_INJECT_PLUGGABLE_COMPONENTS
    )]
    Components {
        /// The pod's namespace.
        namespace: String,
        /// What went wrong.
        why: String,
    },
    /// Strict mode: values that will not do.
    #[error("annotations of pod {pod} are refused: {}", join(.problems))]
    Annotations {
        /// The pod.
        pod: String,
        /// All of them.
        problems: Vec<Problem>,
    },
}

/// The change that gives this pod its sidecar; nothing for pods that do not ask or have one.
///
/// A second call for a pod that got the patch changes nothing.
///
/// # Errors
/// [`InjectError::AppId`], [`InjectError::Components`] and, in strict mode,
/// [`InjectError::Annotations`].
pub fn mutate(pod: &PodView<'_>, at: &Situation<'_>) -> Result<Outcome, InjectError> {
    let mut warnings = spelling::warnings(pod);
    if let Some(skip) = declined(pod, at.policy) {
        return Ok(Outcome { change: Change::Nothing(skip), warnings });
    }
    if pod.has_container(names::SIDECAR_CONTAINER) {
        // The user was warned when the sidecar came.
        let change = completion(pod, at).unwrap_or(Change::Nothing(Skip::AlreadyPresent));
        return Ok(Outcome { change, warnings: Vec::new() });
    }
    let (options, problems) = Options::parse(pod, at);
    let app_id = AppId::of(pod, at.namespace)?;
    if at.settings.strict_annotations && !problems.is_empty() {
        let pod = format!("{}/{}", at.namespace, pod.display_name());
        return Err(InjectError::Annotations { pod, problems });
    }
    warnings.extend(problems.iter().map(Warning::from));
    let defaults = at.defaults().applied_to(pod);
    let mut patch = inject(pod, &options, &app_id, at, &mut warnings)?;
    if pod.annotation(key::ANNOTATION_ENABLED).is_none() {
        // Switched on by the Namespace: everybody who looks at the pod later must see it.
        patch.annotation(key::ANNOTATION_ENABLED, "true");
    }
    if let Some(defaults) = &defaults {
        patch.annotation(key::ANNOTATION_APPLIED_DEFAULTS, defaults);
    }
    Ok(Outcome { change: Change::Inject { app_id, patch: patch.finish(), defaults }, warnings })
}

/// Why a pod gets no sidecar before anything else is looked at, if so.
pub fn declined(pod: &PodView<'_>, policy: &NamespacePolicy) -> Option<Skip> {
    let has_id = || pod.annotation(key::ANNOTATION_APP_ID).is_some_and(|id| !id.is_empty());
    let wanted = match pod.annotation(key::ANNOTATION_ENABLED) {
        Some(text) => key::is_truthy(text),
        None => policy.injection == Injection::Enabled && has_id(),
    };
    match (wanted, policy.injection) {
        (false, _) => Some(Skip::NotEnabled),
        (true, Injection::Disabled) => Some(Skip::NamespaceDisabled),
        (true, Injection::AsAnnotated | Injection::Enabled) => None,
    }
}

fn inject(
    pod: &PodView<'_>,
    options: &Options,
    id: &AppId,
    at: &Situation<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<PatchWriter, InjectError> {
    let chosen = if options.components.inject {
        let listed = at.components.map_err(|why| InjectError::Components {
            namespace: at.namespace.to_owned(),
            why: why.to_owned(),
        })?;
        components::choose(listed, id)
    } else {
        components::Chosen::default()
    };
    let with_components =
        !(options.components.containers.is_empty() && chosen.containers.is_empty());
    let sidecar = Sidecar { pod, options, id, with_components };
    let (container, problems) = sidecar.container(at);
    warnings.extend(problems.iter().map(Warning::from));
    let about = |about| move |text| Warning { about, text };
    warnings.extend(sidecar.pod_problems().into_iter().map(about(POD_AS_A_WHOLE)));
    warnings.extend(chosen.problems.into_iter().map(about(COMPONENTS)));

    let mut patch = PatchWriter::new(pod);
    patch.ensure_list(PodList::Containers);
    patch.ensure_labels();
    patch.volumes(sidecar.volumes(at));
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
        components::write(&mut patch, pod, &options.components, chosen.containers);
    }
    mend_empty_annotations(&mut patch, pod, id, warnings);
    Ok(patch)
}

/// Sentry takes a present key at its word, even an empty one, and then refuses the sidecar its
/// certificate; the injector and everybody else read empty as absent.
fn mend_empty_annotations(
    patch: &mut PatchWriter,
    pod: &PodView<'_>,
    id: &AppId,
    warnings: &mut Vec<Warning>,
) {
    if pod.annotation(key::ANNOTATION_APP_ID) == Some("") {
        patch.annotation(key::ANNOTATION_APP_ID, id.as_str());
        let about = key::ANNOTATION_APP_ID;
        warnings.push(Warning { about, text: format!("{about}: is empty, {id} is used") });
    }
    if pod.annotation(key::ANNOTATION_CONFIG) == Some("") {
        patch.remove_annotation(key::ANNOTATION_CONFIG);
        let about = key::ANNOTATION_CONFIG;
        warnings.push(Warning { about, text: format!("{about}: is empty and was removed") });
    }
}

/// A pod that was injected before: containers that another webhook added since get their
/// variables and mounts. A `daprd` container without our label is the user's own.
fn completion(pod: &PodView<'_>, at: &Situation<'_>) -> Option<Change> {
    let label = |key: &str| pod.labels().and_then(|labels| labels.get(key)?.as_str());
    if label(labels::LABEL_SIDECAR_INJECTED) != Some("true") {
        return None;
    }
    let app_id = AppId::of(pod, at.namespace).ok()?;
    let (options, _) = Options::parse(pod, at);
    let sidecar = Sidecar { pod, options: &options, id: &app_id, with_components: false };
    let mut patch = PatchWriter::new(pod);
    for (key, value) in sidecar.labels() {
        if label(key).is_none() {
            patch.label(key, &value);
        }
    }
    app::complete(&mut patch, pod, &options);
    let patch = patch.finish();
    (!patch.0.is_empty()).then_some(Change::Complete { app_id, patch })
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
