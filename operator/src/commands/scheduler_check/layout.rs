//! The scheduler of the cluster, read from its StatefulSet. The arguments are those of Dapr's
//! scheduler and ours.

use clap::ValueEnum as _;
use k8s_openapi::api::apps::v1::StatefulSet;

use super::Engine;

/// Helm's annotations of an object of a release, and of one that it does not delete.
const RELEASE: &str = "meta.helm.sh/release-name";
const POLICY: &str = "helm.sh/resource-policy";
const KEEP: &str = "keep";
const METRICS_PORT: u16 = 9090;

/// The scheduler of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveScheduler {
    pub(super) layout: Layout,
    /// The Helm release that deletes it when it is not rendered; `None` if Helm keeps it.
    pub(super) deleted_with: Option<String>,
    /// `None` if it serves no metrics.
    pub(super) metrics_port: Option<u16>,
}

impl LiveScheduler {
    pub(super) fn of(set: &StatefulSet) -> Self {
        let annotations = set.metadata.annotations.as_ref();
        let annotation = |name| annotations.and_then(|all| all.get(name));
        let kept = annotation(POLICY).is_some_and(|policy| policy == KEEP);
        let release = annotation(RELEASE).cloned();
        let args = args(set);
        let port = value(args, "--metrics-port").map_or(Ok(METRICS_PORT), str::parse);
        let serves = value(args, "--enable-metrics") != Some("false");
        Self {
            layout: Layout::of(set),
            deleted_with: release.filter(|_| !kept),
            metrics_port: port.ok().filter(|_| serves),
        }
    }
}

/// Where a scheduler stores jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) store: Store,
    /// Each restart of a pod empties the store.
    pub(super) in_memory: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// On the volumes of the pods.
    Volumes { members: u32, engine: Engine },
    /// In an etcd outside of the release.
    External { endpoints: Vec<String> },
}

impl Layout {
    pub(super) fn of(set: &StatefulSet) -> Self {
        let args = args(set);
        let claims = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref());
        let store = match value(args, "--etcd-embed") {
            Some("false") => Store::External { endpoints: list(args, "--etcd-client-endpoints") },
            _ => Store::Volumes { members: members(set, args), engine: engine(args) },
        };
        let in_memory =
            claims.unwrap_or_default().is_empty() && matches!(store, Store::Volumes { .. });
        Self { store, in_memory }
    }

    /// The engine that one scheduler chose itself, which its StatefulSet does not tell.
    pub(super) fn chosen_engine(&mut self) -> Option<&mut Engine> {
        match &mut self.store {
            Store::Volumes { members: 1, engine: engine @ Engine::Auto } => Some(engine),
            Store::Volumes { .. } | Store::External { .. } => None,
        }
    }
}

fn args(set: &StatefulSet) -> &[String] {
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let container = pod.and_then(|pod| pod.containers.first());
    container.and_then(|container| container.args.as_deref()).unwrap_or_default()
}

/// As many as the members list; the StatefulSet may be scaled.
fn members(set: &StatefulSet, args: &[String]) -> u32 {
    let known = list(args, "--etcd-initial-cluster").len();
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    match u32::try_from(known).unwrap_or(u32::MAX) {
        0 => replicas.and_then(|replicas| replicas.try_into().ok()).unwrap_or(1).max(1),
        known => known,
    }
}

fn engine(args: &[String]) -> Engine {
    let named = value(args, "--store-engine").map(|name| Engine::from_str(name, false));
    named.and_then(Result::ok).unwrap_or(Engine::Auto)
}

fn list(args: &[String], flag: &str) -> Vec<String> {
    let parts = value(args, flag).into_iter().flat_map(|value| value.split(','));
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The value of a flag, as `--flag=value` or as two arguments. The last one counts.
fn value<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    args.iter().enumerate().rev().find_map(|(index, arg)| match arg.strip_prefix(flag)? {
        "" => args.get(index + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn live(
        args: &[&str],
        replicas: u32,
        has_volumes: bool,
        annotations: &[(&str, &str)],
    ) -> LiveScheduler {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let claims = if has_volumes { json!([{}]) } else { json!([]) };
        let set = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": replicas, "serviceName": "s", "selector": {},
            "volumeClaimTemplates": claims,
            "template": {"spec": {"containers": [{"name": "c", "args": args}]}}}});
        LiveScheduler::of(&serde_json::from_value::<StatefulSet>(set).unwrap())
    }

    fn layout(args: &[&str], replicas: u32, has_volumes: bool) -> Layout {
        live(args, replicas, has_volumes, &[]).layout
    }

    fn on_volumes(members: u32, engine: Engine) -> Layout {
        Layout { store: Store::Volumes { members, engine }, in_memory: false }
    }

    fn outside(endpoints: &[&str]) -> Layout {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        Layout { store: Store::External { endpoints }, in_memory: false }
    }

    const THREE: &str = "dapr-scheduler-server-0=https://a:2380,dapr-scheduler-server-1=https://b:2380,dapr-scheduler-server-2=https://c:2380";

    #[rstest]
    #[case::dapr(&["--etcd-initial-cluster", THREE, "--etcd-embed=true"], 3, on_volumes(3, Engine::Auto))]
    #[case::scaled(&["--etcd-initial-cluster", THREE], 0, on_volumes(3, Engine::Auto))]
    #[case::one(&["--etcd-initial-cluster=dapr-scheduler-server-0=https://a:2380"], 1, on_volumes(1, Engine::Auto))]
    #[case::engine(&["--store-engine=etcd"], 1, on_volumes(1, Engine::Etcd))]
    #[case::the_last(&["--store-engine=etcd", "--store-engine", "embedded"], 1, on_volumes(1, Engine::Embedded))]
    #[case::no_arguments(&[], 3, on_volumes(3, Engine::Auto))]
    #[case::external(&["--etcd-embed=false", "--etcd-client-endpoints", "a:1,b:2"], 3, outside(&["a:1", "b:2"]))]
    #[case::none(&[], 0, on_volumes(1, Engine::Auto))]
    #[case::another_flag(&["--store-engine-x=etcd", "--etcd-embed"], 1, on_volumes(1, Engine::Auto))]
    fn the_arguments_name_the_store(
        #[case] args: &[&str],
        #[case] replicas: u32,
        #[case] want: Layout,
    ) {
        assert_eq!(layout(args, replicas, true), want);
    }

    #[test]
    fn pods_without_volumes_store_in_memory() {
        assert!(layout(&[], 1, false).in_memory);
        assert!(!layout(&["--etcd-embed=false"], 1, false).in_memory);
    }

    #[rstest]
    #[case::dapr(&[(RELEASE, "dapr")], Some("dapr"))]
    #[case::kept(&[(RELEASE, "dapr"), (POLICY, "keep")], None)]
    #[case::another_policy(&[(RELEASE, "dapr"), (POLICY, "x")], Some("dapr"))]
    #[case::of_no_release(&[], None)]
    fn its_annotations_say_whether_helm_deletes_it(
        #[case] annotations: &[(&str, &str)],
        #[case] want: Option<&str>,
    ) {
        assert_eq!(live(&[], 1, true, annotations).deleted_with.as_deref(), want);
    }

    #[rstest]
    #[case::default(&[], Some(9090))]
    #[case::named(&["--enable-metrics", "--metrics-port", "7"], Some(7))]
    #[case::none(&["--enable-metrics=false"], None)]
    #[case::wrong(&["--metrics-port=x"], None)]
    fn its_arguments_name_the_metrics_port(#[case] args: &[&str], #[case] want: Option<u16>) {
        assert_eq!(live(args, 1, true, &[]).metrics_port, want);
    }

    #[rstest]
    #[case::chosen(on_volumes(1, Engine::Auto), true)]
    #[case::named(on_volumes(1, Engine::Etcd), false)]
    #[case::three(on_volumes(3, Engine::Auto), false)]
    #[case::external(outside(&["a:1"]), false)]
    fn only_one_scheduler_chooses_its_engine(#[case] mut layout: Layout, #[case] want: bool) {
        assert_eq!(layout.chosen_engine().is_some(), want);
    }
}
