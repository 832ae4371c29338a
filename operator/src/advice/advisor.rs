//! Runs the checks over all Components and records the findings as Events and, if enabled, as status
//! conditions. No response to a sidecar depends on it.
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
            apps: context.stores.assignments.apps(&namespace),
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
                report(context, &entry.object, reason, note).await;
            }
        }
    }
    verified.retain_seen(&seen);
    context.metrics.component_findings(&counts);
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

async fn report(context: &Context, component: &Component, reason: Reason, note: String) {
    let about: ObjectReference = component.object_ref(&());
    let (namespace, name) = (about.namespace.clone(), about.name.clone());
    if context.reports.record_event(&about, reason.text(), note.clone()).await {
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
