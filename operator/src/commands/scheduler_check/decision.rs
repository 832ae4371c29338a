//! Whether the scheduler that a release is to have finds the jobs of the one that is there.

use super::Engine;
use super::layout::{Layout, LiveScheduler, Store};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Go,
    Warn(String),
    Refuse(String),
}

/// The scheduler that sidecars are to use after the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One of this chart.
    Own(Layout),
    /// That of the cluster, without this release of Helm.
    Kept {
        release: String,
    },
    Nothing,
}

/// `live` is the scheduler of the cluster; `None`: there is none.
pub(super) fn decide(live: Option<&LiveScheduler>, wanted: &Wanted) -> Decision {
    let Some(live) = live else { return Decision::Go };
    match wanted {
        Wanted::Kept { release } => kept(live, release),
        Wanted::Own(_) | Wanted::Nothing if live.layout.in_memory => warn(
            "the scheduler stores jobs in memory: they are lost with this upgrade, as with each restart",
        ),
        Wanted::Nothing => {
            warn("the release has no scheduler: nothing fires, and stored jobs are not deleted")
        }
        Wanted::Own(wanted) => replaced(&live.layout.store, wanted),
    }
}

fn kept(live: &LiveScheduler, release: &str) -> Decision {
    if live.deleted_with.as_deref() != Some(release) {
        return Decision::Go;
    }
    Decision::Refuse(
        "global.scheduler.external=true, and Helm would delete the scheduler that sidecars are to use. Annotate statefulset/dapr-scheduler-server and its other objects with helm.sh/resource-policy=keep (docs/upgrade.md has the command), or set global.scheduler.external=false"
            .to_owned(),
    )
}

fn replaced(live: &Store, wanted: &Layout) -> Decision {
    match (live, &wanted.store) {
        (Store::External { endpoints }, Store::External { endpoints: new }) => {
            external(endpoints, new)
        }
        (Store::External { endpoints }, Store::Volumes { .. }) => refuse(
            "jobs are in an external etcd",
            &format!(
                "dapr_scheduler.etcdEmbed=false and dapr_scheduler.etcdClientEndpoints={{{}}}",
                endpoints.join(",")
            ),
        ),
        (Store::Volumes { members, .. }, Store::External { .. }) => refuse_volumes(
            *members,
            ", dapr_scheduler.etcdEmbed=true and dapr_scheduler.etcdClientEndpoints=null",
        ),
        (Store::Volumes { members, .. }, Store::Volumes { .. }) if wanted.in_memory => {
            refuse_volumes(*members, " and dapr_scheduler.cluster.inMemoryStorage=false")
        }
        (
            Store::Volumes { members, engine },
            Store::Volumes { members: new_members, engine: new_engine },
        ) => volumes((*members, *engine), (*new_members, *new_engine)),
    }
}

fn external(live: &[String], wanted: &[String]) -> Decision {
    let sorted = |endpoints: &[String]| {
        let mut sorted = endpoints.to_vec();
        sorted.sort_unstable();
        sorted
    };
    if sorted(live) == sorted(wanted) {
        return Decision::Go;
    }
    warn(&format!(
        "the endpoints of the external etcd change from {} to {}: jobs are kept only if both are the same cluster",
        live.join(","),
        wanted.join(",")
    ))
}

fn volumes(live: (u32, Engine), wanted: (u32, Engine)) -> Decision {
    match (live, wanted) {
        // Several members have an etcd.
        ((members @ 2.., _), (new, Engine::Auto | Engine::Etcd)) if new == members => Decision::Go,
        ((1, Engine::Auto), (1, Engine::Embedded)) => warn(
            "if the volume has jobs of an etcd, the scheduler is not ready until dapr_scheduler.storeEngine=auto",
        ),
        ((1, engine), (1, new)) if new == Engine::Auto || new == engine => Decision::Go,
        ((members, _), _) => refuse_volumes(members, ""),
    }
}

fn refuse_volumes(members: u32, more: &str) -> Decision {
    let found = match members {
        1 => "jobs are on the volume of one scheduler".to_owned(),
        _ => format!("jobs are in the etcd of {members} schedulers"),
    };
    let and = if more.is_empty() { " and" } else { "," };
    refuse(
        &found,
        &format!(
            "dapr_scheduler.replicaCount={members}{and} dapr_scheduler.storeEngine=auto{more}"
        ),
    )
}

fn warn(sentence: &str) -> Decision {
    Decision::Warn(sentence.to_owned())
}

fn refuse(found: &str, values: &str) -> Decision {
    Decision::Refuse(format!(
        "{found}, and the new scheduler would not have them. Set {values} to keep them. To move them, see docs/upgrade.md; after daprctl jobs export, dapr_scheduler.upgradeCheck.enabled=false lets the upgrade go on"
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn on_volumes(members: u32, engine: Engine) -> Layout {
        Layout { store: Store::Volumes { members, engine }, in_memory: false }
    }

    fn outside(endpoints: &str) -> Layout {
        let endpoints = endpoints.split(',').map(str::to_owned).collect();
        Layout { store: Store::External { endpoints }, in_memory: false }
    }

    fn in_memory(members: u32) -> Layout {
        Layout { in_memory: true, ..on_volumes(members, Engine::Auto) }
    }

    fn of_release(layout: Layout, release: Option<&str>) -> LiveScheduler {
        let deleted_with = release.map(str::to_owned);
        LiveScheduler { layout, deleted_with, metrics_port: None }
    }

    fn live(layout: Layout) -> LiveScheduler {
        of_release(layout, Some("dapr"))
    }

    fn kept() -> Wanted {
        Wanted::Kept { release: "dapr".to_owned() }
    }

    /// The rows of the table of decision D23: what keeps the jobs goes on, all else names the values.
    #[rstest]
    #[case::three(on_volumes(3, Engine::Auto), on_volumes(3, Engine::Auto), "")]
    #[case::three_named(on_volumes(3, Engine::Auto), on_volumes(3, Engine::Etcd), "")]
    #[case::three_to_one(
        on_volumes(3, Engine::Auto),
        on_volumes(1, Engine::Auto),
        "dapr_scheduler.replicaCount=3"
    )]
    #[case::three_embedded(
        on_volumes(3, Engine::Etcd),
        on_volumes(3, Engine::Embedded),
        "dapr_scheduler.replicaCount=3"
    )]
    #[case::one(on_volumes(1, Engine::Auto), on_volumes(1, Engine::Auto), "")]
    #[case::one_etcd(on_volumes(1, Engine::Etcd), on_volumes(1, Engine::Etcd), "")]
    #[case::one_etcd_auto(on_volumes(1, Engine::Etcd), on_volumes(1, Engine::Auto), "")]
    #[case::one_to_etcd(
        on_volumes(1, Engine::Auto),
        on_volumes(1, Engine::Etcd),
        "dapr_scheduler.storeEngine=auto"
    )]
    #[case::one_from_etcd(
        on_volumes(1, Engine::Etcd),
        on_volumes(1, Engine::Embedded),
        "dapr_scheduler.storeEngine=auto"
    )]
    #[case::one_to_three(
        on_volumes(1, Engine::Auto),
        on_volumes(3, Engine::Auto),
        "dapr_scheduler.replicaCount=1"
    )]
    #[case::to_external(
        on_volumes(3, Engine::Auto),
        outside("a:1"),
        "dapr_scheduler.etcdEmbed=true"
    )]
    #[case::one_to_external(
        on_volumes(1, Engine::Embedded),
        outside("a:1"),
        "dapr_scheduler.etcdEmbed=true"
    )]
    #[case::from_external(
        outside("a:1,b:2"),
        on_volumes(3, Engine::Auto),
        "dapr_scheduler.etcdClientEndpoints={a:1,b:2}"
    )]
    #[case::endpoints_are_unset(
        on_volumes(1, Engine::Auto),
        outside("a:1"),
        "dapr_scheduler.replicaCount=1, dapr_scheduler.storeEngine=auto, dapr_scheduler.etcdEmbed=true and dapr_scheduler.etcdClientEndpoints=null"
    )]
    #[case::external(outside("a:1,b:2"), outside("b:2,a:1"), "")]
    #[case::to_memory(
        on_volumes(1, Engine::Auto),
        in_memory(1),
        "dapr_scheduler.cluster.inMemoryStorage=false"
    )]
    #[case::three_to_memory(
        on_volumes(3, Engine::Auto),
        in_memory(1),
        "dapr_scheduler.replicaCount=3, dapr_scheduler.storeEngine=auto and dapr_scheduler.cluster.inMemoryStorage=false"
    )]
    #[case::external_to_memory(outside("a:1"), in_memory(1), "dapr_scheduler.etcdEmbed=false")]
    #[case::embedded_confirmed(
        on_volumes(1, Engine::Embedded),
        on_volumes(1, Engine::Embedded),
        ""
    )]
    fn jobs_are_not_left_behind(
        #[case] layout: Layout,
        #[case] wanted: Layout,
        #[case] keeps: &str,
    ) {
        match decide(Some(&live(layout)), &Wanted::Own(wanted)) {
            Decision::Go => assert_eq!(keeps, ""),
            Decision::Refuse(sentence) => {
                assert!(!keeps.is_empty() && sentence.contains(keeps), "{sentence}");
            }
            warning @ Decision::Warn(_) => panic!("{warning:?}"),
        }
    }

    #[rstest]
    #[case::in_memory(in_memory(3), Wanted::Own(on_volumes(1, Engine::Auto)), "in memory")]
    #[case::still_in_memory(in_memory(1), Wanted::Own(in_memory(1)), "in memory")]
    #[case::removed_from_memory(in_memory(3), Wanted::Nothing, "in memory")]
    #[case::removed(on_volumes(1, Engine::Auto), Wanted::Nothing, "nothing fires")]
    #[case::other_endpoints(outside("a:1"), Wanted::Own(outside("a:1,c:3")), "from a:1 to a:1,c:3")]
    #[case::unknown_engine(
        on_volumes(1, Engine::Auto),
        Wanted::Own(on_volumes(1, Engine::Embedded)),
        "storeEngine=auto"
    )]
    fn what_may_lose_jobs_is_said(
        #[case] layout: Layout,
        #[case] wanted: Wanted,
        #[case] said: &str,
    ) {
        let warning = decide(Some(&live(layout)), &wanted);
        assert!(matches!(&warning, Decision::Warn(text) if text.contains(said)), "{warning:?}");
    }

    #[rstest]
    #[case::of_this_release(Some("dapr"), false)]
    #[case::of_another(Some("other"), true)]
    #[case::annotated(None, true)]
    fn helm_deletes_no_scheduler_that_is_to_be_kept(
        #[case] release: Option<&str>,
        #[case] goes_on: bool,
    ) {
        for layout in [on_volumes(3, Engine::Auto), in_memory(3), outside("a:1")] {
            let decision = decide(Some(&of_release(layout, release)), &kept());
            if goes_on {
                assert_eq!(decision, Decision::Go);
            } else {
                let names = |text: &str| text.contains("helm.sh/resource-policy=keep");
                assert!(matches!(&decision, Decision::Refuse(text) if names(text)), "{decision:?}");
            }
        }
    }

    #[test]
    fn a_first_scheduler_has_nothing_to_lose() {
        for wanted in [Wanted::Own(on_volumes(1, Engine::Auto)), kept(), Wanted::Nothing] {
            assert_eq!(decide(None, &wanted), Decision::Go);
        }
    }
}
