//! What is wrong with a Component, as far as can be told without starting it.
//!
//! Pure. The findings are advice for people: nothing is withheld from a sidecar because of one. A
//! finding is made only where a sidecar would refuse the Component or use it otherwise than its
//! author means; where the data could be incomplete, silence is better than a false alarm.
use std::{collections::BTreeSet, time::Duration};

use resources::{
    Component, CustomResource as _, NameValuePair, SECRET_STORE_KUBERNETES,
    annotations::ANNOTATION_COMPONENT_CONTAINER, go_duration, is_kubernetes_store, spelling,
};
use serde_json::Value;

use crate::{
    component_types::{self, ComponentType},
    report::Reason,
    secrets::{FetchError, Fetched},
};

/// An app may be deployed after its Components; only then is a scope without app worth a word.
pub const SCOPE_GRACE: Duration = Duration::from_mins(2);
/// Metadata that daprd takes for every component of a category, whatever its type (Dapr 1.18).
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

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub reason: Reason,
    /// What exactly and what to do about it.
    pub note: String,
}

/// What stands around a Component in its namespace.
pub struct Surroundings<'a> {
    /// All Components of the namespace, the one that is checked among them.
    pub components: Vec<&'a Component>,
    /// The app ids of the pods of the namespace.
    pub apps: BTreeSet<String>,
    /// The Secrets that the Component names; one that is absent here is not judged.
    pub secrets: &'a Fetched,
    /// Now.
    pub now: jiff::Timestamp,
}

/// Everything that is wrong with a Component.
pub fn check(component: &Component, around: &Surroundings<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |reason, note: String| findings.push(Finding { reason, note });
    check_type(component, &mut say);
    check_name(component, &mut say);
    check_timeout(component, &mut say);
    check_secrets(component, around, &mut say);
    check_actor_store(component, around, &mut say);
    check_scopes(component, around, &mut say);
    findings
}

type Say<'a> = dyn FnMut(Reason, String) + 'a;

fn check_type(component: &Component, say: &mut Say<'_>) {
    let spec = &component.spec;
    let container = component.metadata.annotations.as_ref();
    if container.is_some_and(|annotations| annotations.contains_key(ANNOTATION_COMPONENT_CONTAINER))
    {
        return; // a pluggable component: only its own container knows what it takes
    }
    let versions = component_types::versions(&spec.type_);
    if versions.is_empty() {
        say(Reason::UnknownType, unknown_type(&spec.type_));
        return;
    }
    let Some(version) = versions.iter().find(|known| same_version(known.version, &spec.version))
    else {
        let known: Vec<_> = versions.iter().map(|known| known.version).collect();
        let (type_, version) = (&spec.type_, &spec.version);
        let note = format!("{type_} has no version {version:?}; there is {}", known.join(", "));
        say(Reason::UnknownVersion, note);
        return;
    };
    check_metadata(component, *version, say);
}

fn unknown_type(type_: &str) -> String {
    let category = type_.split('.').next().unwrap_or_default();
    if let Some(near) = spelling::nearest(type_, component_types::names()) {
        return format!("there is no official component {type_:?}; did you mean {near}?");
    }
    if CATEGORIES.contains(&category) {
        return format!(
            "there is no official component {type_:?}; it works only if it is a pluggable component"
        );
    }
    format!("{type_:?} begins with none of the categories {}", CATEGORIES.join(", "))
}

/// An empty version and `v0` mean the first one (Dapr 1.18).
fn same_version(known: &str, given: &str) -> bool {
    known.eq_ignore_ascii_case(given)
        || (known == "v1" && matches!(given.to_ascii_lowercase().as_str(), "" | "v0"))
}

fn check_metadata(component: &Component, version: ComponentType, say: &mut Say<'_>) {
    let Some(settings) = version.settings() else { return };
    let settings: Vec<_> = settings.collect();
    let items = component.spec.metadata.as_deref().unwrap_or_default();
    let known = || settings.iter().map(|setting| setting.name).chain(COMMON);
    let mut all_understood = true;
    for item in items {
        let name = item.name.as_str();
        if known().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        all_understood = false;
        // A name that resembles none may be one that the data does not list.
        if let Some(near) = spelling::nearest(name, known()) {
            let type_ = &component.spec.type_;
            let note = format!("{type_} knows no metadata {name:?}; did you mean {near}?");
            say(Reason::UnknownMetadata, note);
        }
    }
    let given = |name: &str| {
        items.iter().any(|item| item.name.eq_ignore_ascii_case(name) && has_value(item))
    };
    let missing: Vec<_> = settings.iter().filter(|s| s.required && !given(s.name)).collect();
    // A name that is not understood may stand for the one that is missing.
    if all_understood && !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|setting| setting.name).collect();
        let note = format!("{} needs metadata {}", component.spec.type_, names.join(", "));
        say(Reason::MissingMetadata, note);
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

fn check_name(component: &Component, say: &mut Say<'_>) {
    let built_in = component.metadata.name.as_deref() == Some(SECRET_STORE_KUBERNETES);
    if built_in && component.spec.type_ != "secretstores.kubernetes" {
        let note = "the name \"kubernetes\" belongs to the built-in secret store of every sidecar; \
                    choose another one";
        say(Reason::NameClash, note.to_owned());
    }
}

fn check_timeout(component: &Component, say: &mut Say<'_>) {
    let text = &component.spec.init_timeout;
    if !text.is_empty() && go_duration::parse(text).is_err() {
        let note =
            format!("initTimeout {text:?} is no duration such as 30s; the default 5s is used");
        say(Reason::InvalidDuration, note);
    }
}

fn check_secrets(component: &Component, around: &Surroundings<'_>, say: &mut Say<'_>) {
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
        let exists = around.components.iter().any(|other| {
            other.metadata.name.as_ref() == Some(store)
                && other.spec.type_.starts_with("secretstores.")
        });
        if !exists {
            let note = format!("there is no secret store {store:?} in this namespace");
            say(Reason::SecretStoreNotFound, note);
        }
        return;
    }
    for item in references {
        let reference = &item.secret_key_ref;
        let key = if reference.key.is_empty() { &reference.name } else { &reference.key };
        match around.secrets.get(&reference.name) {
            Some(Err(error @ FetchError::NotFound(_))) => {
                say(Reason::SecretNotFound, error.to_string());
            }
            Some(Ok(data)) if !data.contains_key(key) => {
                let (name, secret) = (&item.name, &reference.name);
                let note = format!("Secret {secret:?} has no key {key:?}, which {name} refers to");
                say(Reason::SecretKeyNotFound, note);
            }
            // Trouble with the API server says nothing about the Component.
            Some(Ok(_) | Err(FetchError::Failed { .. })) | None => {}
        }
    }
}

fn check_actor_store(component: &Component, around: &Surroundings<'_>, say: &mut Say<'_>) {
    if !is_actor_store(component) {
        return;
    }
    let own = component.metadata.name.as_deref();
    let others: Vec<_> = around
        .components
        .iter()
        .filter(|other| other.metadata.name.as_deref() != own && is_actor_store(other))
        .filter(|other| share_an_app(component.scopes(), other.scopes()))
        .filter_map(|other| other.metadata.name.as_deref())
        .collect();
    if !others.is_empty() {
        let note = format!(
            "an app may have one actor state store; {} is another one of the same apps",
            others.join(", ")
        );
        say(Reason::DuplicateActorStateStore, note);
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

/// Whether some app is in both scopes; empty means every app.
fn share_an_app(a: &[String], b: &[String]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|app| b.contains(app))
}

fn check_scopes(component: &Component, around: &Surroundings<'_>, say: &mut Say<'_>) {
    let created = component.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let old = created.is_some_and(|created| {
        around.now.duration_since(created)
            >= jiff::SignedDuration::try_from(SCOPE_GRACE).unwrap_or(jiff::SignedDuration::ZERO)
    });
    let absent: Vec<_> =
        component.scopes().iter().filter(|app| old && !around.apps.contains(*app)).collect();
    for app in absent {
        let near = spelling::nearest(app, around.apps.iter().map(String::as_str));
        let guess = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        say(Reason::UnknownScope, format!("no pod of this namespace has app id {app:?}{guess}"));
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
