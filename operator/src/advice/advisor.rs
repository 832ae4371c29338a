//! Runs the checks over all Components and the objects that refer to them, and records the findings as
//! Events and, for Components, as status conditions if enabled. No response to a sidecar depends on it.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource as _, core::ObjectMeta};
use resources::Component;
use runtime::{clock, random};
use tokio::{sync::watch, time::sleep};

use crate::{
    advice::{
        checks::{self, CheckContext, Finding, Reason},
        references::{self, References},
        status_writer::StatusWriter,
    },
    api::context::Context,
    cache::objects::Entry,
    key::ObjectKey,
    leader::while_leading,
    secrets::resolution::{FetchError, Fetched, ServedKind as _},
};

/// Delay between a change and the checks: related objects are rarely applied at the same moment.
const SETTLE: Duration = Duration::from_secs(3);
/// Interval between checks without a change of a Component: pods start and stop.
const RESYNC: Duration = Duration::from_mins(1);
/// Interval after which Secrets without findings are read again.
const REREAD: Duration = Duration::from_mins(10);

/// Runs while this replica is the leader. With `status`, findings are also written to the status of the
/// Components. Dropping the future is safe.
pub(crate) async fn run(context: Arc<Context>, status: bool, leading: watch::Receiver<bool>) {
    while_leading(leading, || run_term(&context, status)).await;
}

/// Runs the checks for one term of leadership.
async fn run_term(context: &Context, status: bool) {
    let components = &context.stores.components;
    let mut changes = components.changes();
    let mut writer =
        status.then(|| StatusWriter::new(context.cluster.clone(), context.metrics.clone()));
    let (mut verified, mut read) = (VerifiedSecrets::default(), clock::monotonic());
    components.wait_synced().await;
    context.stores.configurations.wait_synced().await;
    context.stores.subscriptions.wait_synced().await;
    context.stores.resiliencies.wait_synced().await;
    context.stores.assignments.wait_synced().await;
    loop {
        sleep(random::jittered(SETTLE, 0.1)).await;
        changes.mark_unchanged();
        if read.elapsed() > REREAD {
            (verified, read) = (VerifiedSecrets::default(), clock::monotonic());
        }
        if let Some(writer) = &mut writer {
            writer.prepare().await;
        }
        check_all(context, &mut verified, writer.as_mut()).await;
        check_references(context).await;
        tokio::select! {
            ended = changes.changed() => if ended.is_err() { break },
            () = sleep(RESYNC) => {}
        }
    }
    std::future::pending::<()>().await; // the process is ending
}

/// The generations of the Components whose Secrets had no findings. Secrets of other Components are
/// read at each check.
#[derive(Default)]
struct VerifiedSecrets(BTreeMap<ObjectKey, Generation>);

/// UID and generation; the generation is independent of labels and status (Kubernetes).
type Generation = (Option<String>, i64);

impl VerifiedSecrets {
    fn needs_check(&self, entry: &Entry<Component>) -> bool {
        let metadata = &entry.object.metadata;
        let current = generation(metadata);
        current.is_none() || self.0.get(&ObjectKey::of(metadata)) != current.as_ref()
    }

    fn record(&mut self, entry: &Entry<Component>, findings: &[Finding]) {
        let metadata = &entry.object.metadata;
        let secret =
            |f: &Finding| matches!(f.reason, Reason::SecretNotFound | Reason::SecretKeyNotFound);
        match generation(metadata) {
            Some(current) if !findings.iter().any(secret) => {
                self.0.insert(ObjectKey::of(metadata), current);
            }
            _ => self.remove(entry),
        }
    }

    fn remove(&mut self, entry: &Entry<Component>) {
        self.0.remove(&ObjectKey::of(&entry.object.metadata));
    }

    fn retain_seen(&mut self, seen: &BTreeSet<ObjectKey>) {
        self.0.retain(|key, _| seen.contains(key));
    }
}

fn generation(metadata: &ObjectMeta) -> Option<Generation> {
    Some((metadata.uid.clone(), metadata.generation?))
}

async fn check_all(
    context: &Context,
    verified: &mut VerifiedSecrets,
    mut writer: Option<&mut StatusWriter>,
) {
    let mut counts = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for namespace in context.stores.components.namespaces() {
        let entries = context.stores.components.list(&namespace);
        let unverified = entries.iter().filter(|entry| verified.needs_check(entry));
        let names: BTreeSet<String> =
            unverified.flat_map(|e| e.object.needed_secrets()).map(str::to_owned).collect();
        let secrets = if names.is_empty() {
            Fetched::new()
        } else {
            context.cluster.secrets(&namespace, names).await
        };
        let checks_context = CheckContext {
            components: entries.iter().map(|entry| &entry.object).collect(),
            apps: apps(context, &namespace, &entries).await,
            secrets: &secrets,
            now: clock::now(),
        };
        for entry in &entries {
            seen.insert(ObjectKey::of(&entry.object.metadata));
            let findings = checks::check(&entry.object, &checks_context);
            if has_unread_secret(&entry.object, &secrets) {
                verified.remove(entry); // a Secret could not be read: no result to write
            } else {
                verified.record(entry, &findings);
                if let Some(writer) = writer.as_deref_mut() {
                    writer.write(entry, &findings).await;
                }
            }
            for (reason, note) in by_reason(findings) {
                *counts.entry(reason.text()).or_insert(0) += 1;
                report(context, &entry.object.object_ref(&()), reason, note).await;
            }
        }
    }
    verified.retain_seen(&seen);
    context.metrics.component_findings(&counts);
}

/// The app ids of a namespace. Workloads are read only if no pod has an app id of the scopes.
async fn apps(
    context: &Context,
    namespace: &str,
    components: &[Arc<Entry<Component>>],
) -> Option<BTreeSet<String>> {
    let apps = context.stores.assignments.apps(namespace);
    let now = clock::now();
    let unknown = |entry: &Arc<Entry<Component>>| {
        !checks::unknown_scopes(&entry.object, &apps, now).is_empty()
    };
    if !components.iter().any(unknown) {
        return Some(apps);
    }
    match context.cluster.template_apps(namespace).await {
        Ok(more) => Some(apps.into_iter().chain(more).collect()),
        Err(error) => {
            let text = kubernetes::api_text(&error);
            tracing::debug!(target: "dapr.operator", namespace, "scopes are not checked: {text}");
            None
        }
    }
}

/// Checks the names by which other kinds refer to Components, and the Configurations of pods.
async fn check_references(context: &Context) {
    let stores = &context.stores;
    let mut namespaces: BTreeSet<String> = stores.assignments.namespaces();
    namespaces.extend(stores.configurations.namespaces());
    namespaces.extend(stores.subscriptions.namespaces());
    namespaces.extend(stores.resiliencies.namespaces());
    for namespace in namespaces {
        let entries = stores.components.list(&namespace);
        let components: Vec<_> = entries.iter().map(|entry| &entry.object).collect();
        let references = References { components: &components, now: clock::now() };
        let configurations = stores.configurations.list(&namespace);
        for entry in &configurations {
            let findings = references.check_configuration(&entry.object);
            report_all(context, &entry.object.object_ref(&()), findings).await;
        }
        for entry in stores.subscriptions.list(&namespace) {
            let findings = references.check_subscription(&entry.object);
            report_all(context, &entry.object.object_ref(&()), findings).await;
        }
        for entry in stores.resiliencies.list(&namespace) {
            let findings = references.check_resiliency(&entry.object);
            report_all(context, &entry.object.object_ref(&()), findings).await;
        }
        let known = || configurations.iter().map(|entry| entry.name());
        for (name, pod) in stores.assignments.configurations(&namespace) {
            if !known().any(|known| known == name) {
                let finding = references::missing_configuration(&namespace, &name, known());
                report_all(context, &pod, vec![finding]).await;
            }
        }
    }
}

async fn report_all(context: &Context, about: &ObjectReference, findings: Vec<Finding>) {
    for (reason, note) in by_reason(findings) {
        report(context, about, reason, note).await;
    }
}

/// Whether a Secret that the Component references could not be read.
fn has_unread_secret(component: &Component, secrets: &Fetched) -> bool {
    component
        .needed_secrets()
        .into_iter()
        .any(|name| matches!(secrets.get(name), Some(Err(FetchError::Failed { .. }))))
}

/// Joins the notes of each reason: an Event has one reason.
fn by_reason(findings: Vec<Finding>) -> BTreeMap<Reason, String> {
    let mut notes = BTreeMap::<Reason, String>::new();
    for Finding { reason, note } in findings {
        let all = notes.entry(reason).or_default();
        if !all.is_empty() {
            all.push_str("; ");
        }
        all.push_str(&note);
    }
    notes
}

async fn report(context: &Context, about: &ObjectReference, reason: Reason, note: String) {
    let (namespace, name) = (about.namespace.as_deref(), about.name.as_deref());
    if context.reports.record_event(about, reason.text(), note.clone()).await {
        tracing::warn!(target: "dapr.operator", namespace, name, reason = reason.text(), "{note}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(generation: i64) -> Entry<Component> {
        let metadata = json!({"name": "a", "namespace": "n", "generation": generation});
        Entry::new(serde_json::from_value(json!({ "metadata": metadata })).unwrap())
    }

    fn finding(reason: Reason, note: &str) -> Finding {
        Finding { reason, note: note.to_owned() }
    }

    #[test]
    fn secrets_are_read_again_only_after_a_finding() {
        let mut verified = VerifiedSecrets::default();
        assert!(verified.needs_check(&entry(1)));
        verified.record(&entry(1), &[finding(Reason::SecretNotFound, "x")]);
        assert!(verified.needs_check(&entry(1)));
        verified.record(&entry(1), &[finding(Reason::UnknownType, "x")]);
        assert!(!verified.needs_check(&entry(1)));
        assert!(verified.needs_check(&entry(2)));
        verified.retain_seen(&BTreeSet::new());
        assert!(verified.needs_check(&entry(1)), "a deleted Component is verified again");
    }

    #[test]
    fn findings_of_one_reason_are_joined() {
        let findings = vec![
            finding(Reason::UnknownScope, "first"),
            finding(Reason::UnknownType, "other"),
            finding(Reason::UnknownScope, "second"),
        ];
        let notes = by_reason(findings);
        assert_eq!(notes[&Reason::UnknownScope], "first; second");
        assert_eq!(notes.len(), 2);
    }
}
