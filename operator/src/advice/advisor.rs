//! Runs the checks over all Components and the objects of the other kinds, and records the findings as
//! Events and, for Components, as status conditions if enabled. No response to a sidecar depends on it.
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::core::ObjectMeta;
use kubernetes::ObjectKey;
use resources::Component;
use runtime::{clock, random};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::advice::checks::{self, CheckContext, Finding, Reason};
use crate::advice::other_kinds;
use crate::advice::references::{self, References};
use crate::advice::status_writer::StatusWriter;
use crate::api::context::Context;
use crate::cache::objects::Entry;
use crate::cache::store::Store;
use crate::cluster::leader::while_leading;
use crate::cluster::pauses::Pauses;
use crate::secrets::resolution::{FetchError, Fetched, ServedKind};

/// Delay between a change and the checks: related objects are rarely applied at the same moment.
const SETTLE: Duration = Duration::from_secs(3);
/// Interval between checks without a change of a Component: pods start and stop. The next check is
/// sooner if a status could not be written.
const RESYNC: Duration = Duration::from_mins(1);
/// Interval after which Secrets without findings are read again.
const REREAD: Duration = Duration::from_mins(10);

/// Runs while this replica is the leader. With `status`, findings are also written to the status of
/// the Components. Cancel safe.
pub(crate) async fn run(context: Arc<Context>, status: bool, leading: watch::Receiver<bool>) {
    while_leading(leading, || run_term(&context, status)).await;
}

/// Runs the checks for one term of leadership.
async fn run_term(context: &Context, status: bool) {
    let components = &context.stores.components;
    let mut changes = components.changes();
    let mut writer =
        status.then(|| StatusWriter::new(context.cluster.clone(), context.metrics.clone()));
    let mut pauses = Pauses::new(RESYNC);
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
        let mut pass = Pass::new(context, &mut verified);
        pass.check_components(writer.as_mut()).await;
        let stores = &context.stores;
        pass.check_kind(&stores.configurations).await;
        pass.check_kind(&stores.subscriptions).await;
        pass.check_kind(&stores.resiliencies).await;
        pass.check_kind(&stores.http_endpoints).await;
        pass.check_kind(&stores.mcp_servers).await;
        pass.check_kind(&stores.workflow_access_policies).await;
        pass.end();
        check_references(context).await;
        let written = writer.as_ref().is_none_or(StatusWriter::succeeded);
        tokio::select! {
            ended = changes.changed() => if ended.is_err() { break },
            () = sleep(pauses.after(written)) => {}
        }
    }
    std::future::pending::<()>().await; // the process is ending
}

/// The generations of the objects whose Secrets had no findings. Secrets of other objects are read at
/// each check.
#[derive(Default)]
struct VerifiedSecrets(BTreeMap<(&'static str, ObjectKey), Generation>);

/// UID and generation; the generation is independent of labels and status (Kubernetes).
type Generation = (Option<String>, i64);

impl VerifiedSecrets {
    fn needs_check<K: ServedKind>(&self, entry: &Entry<K>) -> bool {
        let current = generation(entry.object.meta());
        current.is_none() || self.0.get(&key(entry)) != current.as_ref()
    }

    fn record<K: ServedKind>(&mut self, entry: &Entry<K>, findings: &[Finding]) {
        let secret =
            |f: &Finding| matches!(f.reason, Reason::SecretNotFound | Reason::SecretKeyNotFound);
        match generation(entry.object.meta()) {
            Some(current) if !findings.iter().any(secret) => {
                self.0.insert(key(entry), current);
            }
            _ => self.remove(entry),
        }
    }

    fn remove<K: ServedKind>(&mut self, entry: &Entry<K>) {
        self.0.remove(&key(entry));
    }

    fn retain_seen(&mut self, seen: &ListedObjects) {
        self.0.retain(|key, _| seen.contains(key));
    }
}

fn key<K: ServedKind>(entry: &Entry<K>) -> (&'static str, ObjectKey) {
    (K::KIND, ObjectKey::of(entry.object.meta()))
}

fn generation(metadata: &ObjectMeta) -> Option<Generation> {
    Some((metadata.uid.clone(), metadata.generation?))
}

/// The objects that exist, by kind.
type ListedObjects = BTreeSet<(&'static str, ObjectKey)>;

/// One pass of the checks over all kinds.
struct Pass<'a> {
    context: &'a Context,
    verified: &'a mut VerifiedSecrets,
    seen: ListedObjects,
    workloads: WorkloadApps,
}

impl<'a> Pass<'a> {
    fn new(context: &'a Context, verified: &'a mut VerifiedSecrets) -> Self {
        Self { context, verified, seen: BTreeSet::new(), workloads: WorkloadApps::default() }
    }

    async fn check_components(&mut self, mut writer: Option<&mut StatusWriter>) {
        let context = self.context;
        let mut counts = BTreeMap::new();
        for namespace in context.stores.components.namespaces() {
            let entries = context.stores.components.list(&namespace);
            let secrets = secrets(context, &namespace, &entries, self.verified).await;
            let checks_context =
                self.checks_context(&namespace, &entries, &entries, &secrets).await;
            for entry in &entries {
                let findings = checks::check(&entry.object, &checks_context);
                let is_read = self.record(entry, &secrets, &findings);
                if let Some(writer) = writer.as_deref_mut().filter(|_| is_read) {
                    writer.write(entry, &findings).await;
                }
                for (reason, note) in by_reason(findings) {
                    *counts.entry(reason.text()).or_insert(0) += 1;
                    report(context, &entry.object.object_ref(&()), reason, note).await;
                }
            }
        }
        context.metrics.component_findings(&counts);
    }

    /// Checks the scopes and Secrets of the objects of another kind.
    async fn check_kind<K: ServedKind>(&mut self, store: &Store<K>) {
        let context = self.context;
        for namespace in store.namespaces() {
            let entries = store.list(&namespace);
            let components = context.stores.components.list(&namespace);
            let secrets = secrets(context, &namespace, &entries, self.verified).await;
            let checks_context =
                self.checks_context(&namespace, &entries, &components, &secrets).await;
            for entry in &entries {
                let findings = other_kinds::check(&entry.object, &checks_context);
                self.record(entry, &secrets, &findings);
                report_all(context, &entry.object.object_ref(&()), findings).await;
            }
        }
    }

    /// What the checks of these entries need from their namespace.
    async fn checks_context<'s, K: ServedKind>(
        &mut self,
        namespace: &str,
        entries: &[Arc<Entry<K>>],
        components: &'s [Arc<Entry<Component>>],
        secrets: &'s Fetched,
    ) -> CheckContext<'s> {
        CheckContext {
            components: components.iter().map(|entry| &entry.object).collect(),
            apps: self.apps(namespace, entries).await,
            secrets,
            now: clock::now(),
        }
    }

    /// Records what was found; returns whether all Secrets of the object could be read.
    fn record<K: ServedKind>(
        &mut self,
        entry: &Entry<K>,
        secrets: &Fetched,
        findings: &[Finding],
    ) -> bool {
        self.seen.insert(key(entry));
        let is_read = !has_unread_secret(&entry.object, secrets);
        if is_read {
            self.verified.record(entry, findings);
        } else {
            self.verified.remove(entry);
        }
        is_read
    }

    /// The app ids of a namespace. Workloads are read only if no pod has an app id of the scopes.
    async fn apps<K: ServedKind>(
        &mut self,
        namespace: &str,
        entries: &[Arc<Entry<K>>],
    ) -> Option<BTreeSet<String>> {
        let mut apps = self.context.stores.assignments.apps(namespace);
        let now = clock::now();
        let unknown =
            |entry: &Arc<Entry<K>>| !checks::unknown_scopes(&entry.object, &apps, now).is_empty();
        if entries.iter().any(unknown) {
            let read = || self.context.cluster.template_apps(namespace);
            apps.extend(self.workloads.of(namespace, read).await?.iter().cloned());
        }
        Some(apps)
    }

    /// Forgets the objects that no longer exist.
    fn end(self) {
        self.verified.retain_seen(&self.seen);
    }
}

/// The app ids of the workloads of namespaces, each read once; `None` for a failed read.
#[derive(Default)]
struct WorkloadApps(BTreeMap<String, Option<BTreeSet<String>>>);

impl WorkloadApps {
    async fn of<F>(
        &mut self,
        namespace: &str,
        read: impl FnOnce() -> F,
    ) -> Option<&BTreeSet<String>>
    where
        F: Future<Output = kube::Result<BTreeSet<String>>>,
    {
        let apps = match self.0.entry(namespace.to_owned()) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(place) => {
                let apps = read().await.inspect_err(|error| {
                    let text = kubernetes::api_text(error);
                    tracing::debug!(
                        target: "dapr.operator", namespace, "scopes are not checked: {text}"
                    );
                });
                place.insert(apps.ok())
            }
        };
        apps.as_ref()
    }
}

/// The Secrets of the objects whose Secrets must be read.
async fn secrets<K: ServedKind>(
    context: &Context,
    namespace: &str,
    entries: &[Arc<Entry<K>>],
    verified: &VerifiedSecrets,
) -> Fetched {
    let unverified = entries.iter().filter(|entry| verified.needs_check(entry));
    let names: BTreeSet<String> =
        unverified.flat_map(|e| e.object.needed_secrets()).map(str::to_owned).collect();
    if names.is_empty() { Fetched::new() } else { context.cluster.secrets(namespace, names).await }
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

/// Whether a Secret that the object references could not be read.
fn has_unread_secret<K: ServedKind>(object: &K, secrets: &Fetched) -> bool {
    object
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
        verified.retain_seen(&ListedObjects::new());
        assert!(verified.needs_check(&entry(1)), "a deleted Component is verified again");
    }

    #[tokio::test]
    async fn workloads_of_a_namespace_are_read_once() {
        let mut workloads = WorkloadApps::default();
        let apps: BTreeSet<String> = ["orders".to_owned()].into();
        let found = workloads.of("a", || std::future::ready(Ok(apps.clone()))).await;
        assert_eq!(found, Some(&apps));
        let failed = || std::future::ready(Err(kube::Error::TlsRequired));
        assert_eq!(workloads.of("b", failed).await, None);
        for (namespace, want) in [("a", Some(&apps)), ("b", None)] {
            let again = async || unreachable!("{namespace} is read again");
            assert_eq!(workloads.of(namespace, again).await, want);
        }
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
