//! Static checks of a Component.
//!
//! Pure. Findings are advisory: a Component with findings is served like any other. A check reports
//! only what a sidecar would reject or use differently than intended; where the data about official
//! components may be incomplete, it reports nothing.
use std::collections::BTreeSet;
use std::time::Duration;

use resources::annotations::ANNOTATION_COMPONENT_CONTAINER;
use resources::component_types::{self, ComponentType};
use resources::{
    Component, CustomResource, NameValuePair, SECRET_STORE_KUBERNETES, SecretKeyRef, go_duration,
    is_kubernetes_store, spelling,
};
use serde_json::Value;

use crate::secrets::resolution::{FetchError, Fetched, key_of};

/// Minimum age of a Component before an unknown app id in its scopes is reported: the app may be
/// deployed after its Components.
pub(crate) const SCOPE_GRACE: Duration = Duration::from_mins(2);
/// Metadata that daprd reads for every component type (Dapr 1.18).
const COMMON: [&str; 12] = [
    "actorStateStore",
    "keyPrefix",
    "primaryEncryptionKey",
    "secondaryEncryptionKey",
    "outboxPublishPubsub",
    "outboxPublishTopic",
    "outboxPubsub",
    "outboxDiscardWhenMissingState",
    "consumerID",
    "direction",
    "route",
    "ttlInSeconds",
];
/// Categories that daprd loads as Components (Dapr 1.18).
const CATEGORIES: [&str; 9] = [
    "bindings",
    "configuration",
    "conversation",
    "crypto",
    "lock",
    "middleware",
    "pubsub",
    "secretstores",
    "state",
];

/// The kind of a finding; the reason of its Event and of its status condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    SecretNotFound,
    SecretKeyNotFound,
    UnknownType,
    UnknownVersion,
    MissingMetadata,
    ConflictingMetadata,
    UnknownMetadata,
    SecretStoreNotFound,
    DuplicateActorStateStore,
    UnknownScope,
    NameClash,
    InvalidDuration,
    ConfigurationNotFound,
    ComponentNotFound,
    ApiRuleWithoutEffect,
}

impl Reason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretKeyNotFound => "SecretKeyNotFound",
            Self::UnknownType => "UnknownType",
            Self::UnknownVersion => "UnknownVersion",
            Self::MissingMetadata => "MissingMetadata",
            Self::ConflictingMetadata => "ConflictingMetadata",
            Self::UnknownMetadata => "UnknownMetadata",
            Self::SecretStoreNotFound => "SecretStoreNotFound",
            Self::DuplicateActorStateStore => "DuplicateActorStateStore",
            Self::UnknownScope => "UnknownScope",
            Self::NameClash => "NameClash",
            Self::InvalidDuration => "InvalidDuration",
            Self::ConfigurationNotFound => "ConfigurationNotFound",
            Self::ComponentNotFound => "ComponentNotFound",
            Self::ApiRuleWithoutEffect => "ApiRuleWithoutEffect",
        }
    }
}

/// A problem of a Component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) reason: Reason,
    /// Names the member, the problem and the remedy.
    pub(crate) note: String,
}

/// What the checks need from the namespace of an object.
pub(crate) struct CheckContext<'a> {
    /// All Components of the namespace, with the checked one.
    pub(crate) components: Vec<&'a Component>,
    /// The app ids of the namespace; `None` when they could not be read, and scopes are not checked.
    pub(crate) apps: Option<BTreeSet<String>>,
    /// The Secrets that were read; one that is absent here is not checked.
    pub(crate) secrets: &'a Fetched,
    pub(crate) now: jiff::Timestamp,
}

/// Runs all checks.
pub(crate) fn check(component: &Component, context: &CheckContext<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |reason, note: String| findings.push(Finding { reason, note });
    check_type(component, &mut report);
    check_name(component, &mut report);
    check_timeout(component, &mut report);
    check_secrets(component, context, &mut report);
    check_actor_store(component, context, &mut report);
    findings.extend(scope_findings(component, context));
    findings
}

type Report<'a> = dyn FnMut(Reason, String) + 'a;

fn check_type(component: &Component, report: &mut Report<'_>) {
    let spec = &component.spec;
    let container = component.metadata.annotations.as_ref();
    if container.is_some_and(|annotations| annotations.contains_key(ANNOTATION_COMPONENT_CONTAINER))
    {
        return; // a pluggable component: its metadata is defined by its own container
    }
    let versions = component_types::versions(&spec.type_);
    if versions.is_empty() {
        report(Reason::UnknownType, unknown_type(&spec.type_));
        return;
    }
    let Some(version) = versions.iter().find(|known| same_version(known.version, &spec.version))
    else {
        let known: Vec<_> = versions.iter().map(|known| known.version).collect();
        let (type_, version) = (&spec.type_, &spec.version);
        let note = format!("{type_} has no version {version:?}; available: {}", known.join(", "));
        report(Reason::UnknownVersion, note);
        return;
    };
    check_metadata(component, *version, report);
}

fn unknown_type(type_: &str) -> String {
    let category = type_.split('.').next().unwrap_or_default();
    if let Some(near) = spelling::nearest(type_, component_types::names()) {
        return format!("unknown component type {type_:?}; did you mean {near}?");
    }
    if CATEGORIES.contains(&category) {
        return format!(
            "unknown component type {type_:?}; it is valid only for a pluggable component"
        );
    }
    format!(
        "unknown component category in type {type_:?}; known categories: {}",
        CATEGORIES.join(", ")
    )
}

/// An empty version and `v0` select the first version (Dapr 1.18).
fn same_version(known: &str, given: &str) -> bool {
    known.eq_ignore_ascii_case(given)
        || (known == "v1" && matches!(given.to_ascii_lowercase().as_str(), "" | "v0"))
}

fn check_metadata(component: &Component, version: ComponentType, report: &mut Report<'_>) {
    let Some(settings) = version.settings() else { return };
    let settings: Vec<_> = settings.collect();
    let items = component.spec.metadata.as_deref().unwrap_or_default();
    let known = || settings.iter().map(|setting| setting.name).chain(COMMON);
    let mut all_known = true;
    for item in items {
        let name = item.name.as_str();
        if known().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        all_known = false;
        // A name without a similar known one may be missing from the data.
        if let Some(near) = spelling::nearest(name, known()) {
            let type_ = &component.spec.type_;
            let note = format!("{type_} has no metadata field {name:?}; did you mean {near}?");
            report(Reason::UnknownMetadata, note);
        }
    }
    let given = |name: &str| {
        items.iter().any(|item| item.name.eq_ignore_ascii_case(name) && has_value(item))
    };
    let missing: Vec<_> = settings.iter().filter(|s| s.required && !given(s.name)).collect();
    let directed = component.spec.type_.starts_with("bindings.") && given("direction");
    check_alternatives(&component.spec.type_, all_known, given, report);
    // An unknown name may be a misspelling of the missing one.
    if all_known && !directed && !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|setting| setting.name).collect();
        let note = format!("{} requires metadata {}", component.spec.type_, names.join(", "));
        report(Reason::MissingMetadata, note);
    }
}

/// Pairs of settings of which daprd 1.18 needs exactly one.
const ONE_OF: [([&str; 2], [&str; 2]); 1] = [(
    ["secretstores.hashicorp.vault", "secretstores.vault"],
    ["vaultToken", "vaultTokenMountPath"],
)];

/// Whether both or neither of two settings are given, where daprd needs one.
fn check_alternatives(
    type_: &str,
    all_known: bool,
    given: impl Fn(&str) -> bool,
    report: &mut Report<'_>,
) {
    let applies = |to: &[&str; 2]| to.iter().any(|known| known.eq_ignore_ascii_case(type_));
    for (_, [one, other]) in ONE_OF.iter().filter(|(of, _)| applies(of)) {
        match (given(one), given(other)) {
            (true, true) => {
                let note = format!("{type_} accepts metadata {one} or {other}, not both");
                report(Reason::ConflictingMetadata, note);
            }
            (false, false) if all_known => {
                let note = format!("{type_} requires metadata {one} or {other}");
                report(Reason::MissingMetadata, note);
            }
            _ => {}
        }
    }
}

fn has_value(item: &NameValuePair) -> bool {
    let literal = match &item.value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    literal || !item.secret_key_ref.name.is_empty() || !item.env_ref.is_empty()
}

fn check_name(component: &Component, report: &mut Report<'_>) {
    let built_in = component.metadata.name.as_deref() == Some(SECRET_STORE_KUBERNETES);
    if built_in && component.spec.type_ != "secretstores.kubernetes" {
        let note = "the name \"kubernetes\" is reserved for the built-in secret store; rename the Component";
        report(Reason::NameClash, note.to_owned());
    }
}

fn check_timeout(component: &Component, report: &mut Report<'_>) {
    let text = &component.spec.init_timeout;
    if !text.is_empty() && go_duration::parse(text).is_err() {
        let note = format!(
            "initTimeout {text:?} is not a duration such as 30s; sidecars use the default of 5s"
        );
        report(Reason::InvalidDuration, note);
    }
}

fn check_secrets(component: &Component, context: &CheckContext<'_>, report: &mut Report<'_>) {
    let store = &component.auth.secret_store;
    let references: Vec<_> = component
        .spec
        .metadata
        .iter()
        .flatten()
        .filter(|item| !item.secret_key_ref.name.is_empty())
        .collect();
    if references.is_empty() {
        return;
    }
    if !is_kubernetes_store(store) {
        if let Some(Finding { reason, note }) = missing_secret_store(store, context) {
            report(reason, note);
        }
        return;
    }
    for item in references {
        let user = format!("metadata {} references", item.name);
        let finding = secret_finding(&item.secret_key_ref, &user, context);
        if let Some(Finding { reason, note }) = finding {
            report(reason, note);
        }
    }
}

/// A finding if no Component of the namespace is a secret store of this name.
pub(crate) fn missing_secret_store(store: &str, context: &CheckContext<'_>) -> Option<Finding> {
    let exists = context.components.iter().any(|other| {
        other.metadata.name.as_deref() == Some(store)
            && other.spec.type_.starts_with("secretstores.")
    });
    let note = || format!("secret store {store:?} does not exist in this namespace");
    (!exists).then(|| Finding { reason: Reason::SecretStoreNotFound, note: note() })
}

/// A finding if the Secret of a reference, or its key, does not exist; `user` completes "which ...".
pub(crate) fn secret_finding(
    reference: &SecretKeyRef,
    user: &str,
    context: &CheckContext<'_>,
) -> Option<Finding> {
    let (secret, key) = (&reference.name, key_of(reference));
    let (reason, note) = match context.secrets.get(secret)? {
        Err(error @ (FetchError::NotFound(_) | FetchError::Reserved(_))) => {
            (Reason::SecretNotFound, error.to_string())
        }
        Ok(data) if !data.contains_key(key) => {
            let note = format!("Secret {secret:?} has no key {key:?}, which {user}");
            (Reason::SecretKeyNotFound, note)
        }
        // A failed read is not a problem of the object.
        Ok(_) | Err(FetchError::Failed { .. }) => return None,
    };
    Some(Finding { reason, note })
}

fn check_actor_store(component: &Component, context: &CheckContext<'_>, report: &mut Report<'_>) {
    if !is_actor_store(component) {
        return;
    }
    let own = component.metadata.name.as_deref();
    let others: Vec<_> = context
        .components
        .iter()
        .filter(|other| other.metadata.name.as_deref() != own && is_actor_store(other))
        .filter(|other| share_an_app(component.scopes(), other.scopes()))
        .filter_map(|other| other.metadata.name.as_deref())
        .collect();
    if !others.is_empty() {
        let note = format!(
            "an app can use one actor state store; {} is also one for the same apps",
            others.join(", ")
        );
        report(Reason::DuplicateActorStateStore, note);
    }
}

fn is_actor_store(component: &Component) -> bool {
    let marked = |item: &NameValuePair| {
        let truthy = match &item.value {
            Value::Bool(value) => *value,
            Value::String(text) => resources::annotations::is_truthy(text),
            _ => false,
        };
        item.name.eq_ignore_ascii_case("actorStateStore") && truthy
    };
    component.spec.type_.starts_with("state.")
        && component.spec.metadata.iter().flatten().any(marked)
}

/// Whether an app is in both scopes; empty scopes contain every app.
fn share_an_app(a: &[String], b: &[String]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|app| b.contains(app))
}

/// The scopes of an object of any kind that lead nowhere.
pub(crate) fn scope_findings<K: CustomResource>(
    object: &K,
    context: &CheckContext<'_>,
) -> Vec<Finding> {
    let Some(apps) = &context.apps else { return Vec::new() };
    let unknown = unknown_scopes(object, apps, context.now).into_iter();
    let finding = |app: &str| {
        let near = spelling::nearest(app, apps.iter().map(String::as_str));
        let guess = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let note = format!("no pod or workload in this namespace has app id {app:?}{guess}");
        Finding { reason: Reason::UnknownScope, note }
    };
    unknown.map(finding).collect()
}

/// The app ids in the scopes of an object of at least [`SCOPE_GRACE`] that are not among `apps`.
pub(crate) fn unknown_scopes<'a, K: CustomResource>(
    object: &'a K,
    apps: &BTreeSet<String>,
    now: jiff::Timestamp,
) -> Vec<&'a str> {
    let old = is_old(object.meta().creation_timestamp.as_ref().map(|time| time.0), now);
    let absent = object.scopes().iter().filter(|app| old && !apps.contains(*app));
    absent.map(String::as_str).collect()
}

/// Whether an object is older than [`SCOPE_GRACE`].
pub(crate) fn is_old(created: Option<jiff::Timestamp>, now: jiff::Timestamp) -> bool {
    let grace = jiff::SignedDuration::try_from(SCOPE_GRACE).unwrap_or(jiff::SignedDuration::ZERO);
    created.is_some_and(|created| now.duration_since(created) >= grace)
}

#[cfg(test)]
mod tests;
