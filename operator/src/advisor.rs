//! Tells the authors of Components what is wrong with them: looks at the caches, reads the Secrets
//! that are named, and puts what [`checks`] finds on the objects, as Events and, where that is
//! switched on, as status. Nothing waits for it.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource as _, core::ObjectMeta};
use resources::Component;
use runtime::{Scope, clock, random};
use tokio::{sync::watch, time::sleep};

use crate::{
    api::Shared,
    cache::{Entry, Key},
    checks::{self, Finding, Surroundings},
    leader::while_leading,
    report::Reason,
    secrets::{FetchError, Fetched, Served as _},
    statuses::Statuses,
};

/// From a change to the look at it: what belongs together is rarely applied in one moment.
const SETTLE: Duration = Duration::from_secs(3);
/// Everything is looked at once in this time, whatever changed: pods come and go.
const LOOK: Duration = Duration::from_mins(1);
/// Secrets that were found in order are read again in this time.
const REREAD: Duration = Duration::from_mins(10);

/// Advises while this replica leads, for as long as the scope lives; with `status` also in the
/// status of the Components.
///
/// # Errors
/// None today; the type is what [`Scope::spawn`] takes.
pub async fn run(
    shared: Arc<Shared>,
    status: bool,
    leading: watch::Receiver<bool>,
    scope: Scope,
) -> anyhow::Result<()> {
    let terms = while_leading(leading, || term(&shared, status));
    scope.token().run_until_cancelled(terms).await;
    Ok(())
}

/// Advises for ever.
async fn term(shared: &Shared, status: bool) {
    let components = &shared.stores.components;
    let mut changes = components.changes();
    let mut statuses =
        status.then(|| Statuses::new(shared.cluster.clone(), shared.metrics.clone()));
    let (mut looked, mut read) = (Looked::default(), clock::monotonic());
    components.known_at_last().await;
    loop {
        sleep(random::jittered(SETTLE, 0.1)).await;
        changes.mark_unchanged();
        if read.elapsed() > REREAD {
            (looked, read) = (Looked::default(), clock::monotonic());
        }
        if let Some(statuses) = &mut statuses {
            statuses.prepare().await;
        }
        look(shared, &mut looked, statuses.as_mut()).await;
        tokio::select! {
            ended = changes.changed() => if ended.is_err() { break },
            () = sleep(LOOK) => {}
        }
    }
    std::future::pending::<()>().await; // the process is about to end
}

/// The generations of the Components whose Secrets were found in order. The Secrets of others are
/// read at every look, until they are.
#[derive(Default)]
struct Looked(BTreeMap<Key, Generation>);

/// Unique id and generation, which labels and the status do not change (Kubernetes).
type Generation = (Option<String>, i64);

impl Looked {
    fn is_new(&self, entry: &Entry<Component>) -> bool {
        let metadata = &entry.object.metadata;
        let current = generation(metadata);
        current.is_none() || self.0.get(&Key::of(metadata)) != current.as_ref()
    }

    fn note(&mut self, entry: &Entry<Component>, findings: &[Finding]) {
        let metadata = &entry.object.metadata;
        let secret =
            |f: &Finding| matches!(f.reason, Reason::SecretNotFound | Reason::SecretKeyNotFound);
        match generation(metadata) {
            Some(current) if !findings.iter().any(secret) => {
                self.0.insert(Key::of(metadata), current);
            }
            _ => self.forget(entry),
        }
    }

    fn forget(&mut self, entry: &Entry<Component>) {
        self.0.remove(&Key::of(&entry.object.metadata));
    }

    fn forget_others(&mut self, seen: &BTreeSet<Key>) {
        self.0.retain(|key, _| seen.contains(key));
    }
}

fn generation(metadata: &ObjectMeta) -> Option<Generation> {
    Some((metadata.uid.clone(), metadata.generation?))
}

async fn look(shared: &Shared, looked: &mut Looked, mut statuses: Option<&mut Statuses>) {
    let mut counts = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for namespace in shared.stores.components.namespaces() {
        let entries = shared.stores.components.list(&namespace);
        let unsure = entries.iter().filter(|entry| looked.is_new(entry));
        let names: BTreeSet<String> =
            unsure.flat_map(|e| e.object.needed_secrets()).map(str::to_owned).collect();
        let secrets = if names.is_empty() {
            Fetched::new()
        } else {
            shared.cluster.secrets(&namespace, names).await
        };
        let around = Surroundings {
            components: entries.iter().map(|entry| &entry.object).collect(),
            apps: shared.stores.assignments.apps(&namespace),
            secrets: &secrets,
            now: clock::now(),
        };
        for entry in &entries {
            seen.insert(Key::of(&entry.object.metadata));
            let findings = checks::check(&entry.object, &around);
            if unread(&entry.object, &secrets) {
                looked.forget(entry); // and nothing is known about it that could be written
            } else {
                looked.note(entry, &findings);
                if let Some(statuses) = statuses.as_deref_mut() {
                    statuses.write(entry, &findings).await;
                }
            }
            for (reason, note) in by_reason(findings) {
                *counts.entry(reason.text()).or_insert(0) += 1;
                tell(shared, &entry.object, reason, note).await;
            }
        }
    }
    looked.forget_others(&seen);
    shared.metrics.component_findings(&counts);
}

/// Whether the API server would not tell of a Secret that the Component needs.
fn unread(component: &Component, secrets: &Fetched) -> bool {
    component
        .needed_secrets()
        .into_iter()
        .any(|name| matches!(secrets.get(name), Some(Err(FetchError::Failed { .. }))))
}

/// One note for each reason: an Event has one.
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

async fn tell(shared: &Shared, component: &Component, reason: Reason, note: String) {
    let about: ObjectReference = component.object_ref(&());
    let (namespace, name) = (about.namespace.clone(), about.name.clone());
    if shared.reports.tell(about, reason, note.clone()).await {
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
    fn secrets_are_read_again_only_while_they_are_not_in_order() {
        let mut looked = Looked::default();
        assert!(looked.is_new(&entry(1)));
        looked.note(&entry(1), &[finding(Reason::SecretNotFound, "x")]);
        assert!(looked.is_new(&entry(1)));
        looked.note(&entry(1), &[finding(Reason::UnknownType, "x")]);
        assert!(!looked.is_new(&entry(1)));
        assert!(looked.is_new(&entry(2)));
        looked.forget_others(&BTreeSet::new());
        assert!(looked.is_new(&entry(1)), "a Component that was gone is new");
    }

    #[test]
    fn findings_of_one_reason_become_one_note() {
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
