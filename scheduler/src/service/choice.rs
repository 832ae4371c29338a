//! The choice of the engine that stores the jobs: that of the flags, unless jobs of another engine
//! are on disk. They are never left behind.

use std::path::PathBuf;

use crate::config::StoreEngine;
use crate::service::child::data::EtcdData;

/// The data on disk.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Directory of Dapr's own scheduler and of the engine etcd.
    pub(super) etcd_dir: PathBuf,
    pub(super) etcd: EtcdData,
    /// Whether the marker file exists: without it Dapr's own scheduler deletes the data of etcd.
    pub(super) marked: bool,
    /// Directory of the embedded engine.
    pub(super) own_dir: PathBuf,
    pub(super) own: OwnData,
}

/// Jobs are counted up to this number, which is enough to refuse and takes no long start.
pub(super) const MAX_COUNTED: usize = 10_000;

/// A number of jobs in a sentence.
pub(super) fn counted(jobs: usize) -> String {
    if jobs < MAX_COUNTED { jobs.to_string() } else { format!("{MAX_COUNTED} or more") }
}

/// The data of the embedded engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OwnData {
    /// So many, counted up to [`MAX_COUNTED`].
    Jobs(usize),
    /// The files cannot be read, with the reason.
    Unreadable(String),
}

/// The chosen engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Embedded,
    Etcd,
}

/// Why no engine is chosen: the process stays up, not ready, and answers each call with this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "{} holds a member of an etcd with {members} members, and --etcd-initial-cluster has one. \
         {UNTOUCHED}. To keep the jobs, run as many replicas: in the chart \
         dapr_scheduler.replicaCount={members}. {MOVE}", .path.display()
    )]
    LargerCluster { path: PathBuf, members: usize },
    #[error(
        "{} holds the only member of an etcd, and --etcd-initial-cluster has {wanted}; members join \
         an etcd by hand. {UNTOUCHED}. To keep the jobs, run one replica: in the chart \
         dapr_scheduler.replicaCount=1. {MOVE}", .path.display()
    )]
    SmallerCluster { path: PathBuf, wanted: usize },
    #[error(
        "{} holds jobs of an etcd, and {} holds {} jobs of the embedded engine. {UNTOUCHED}. \
         Delete the directory whose jobs are not needed, after an export of its jobs if in doubt",
        .etcd.display(), .own.display(), counted(*.jobs)
    )]
    TwoStores { etcd: PathBuf, own: PathBuf, jobs: usize },
    #[error(
        "{} holds jobs of an etcd, which --store-engine=embedded does not read. {UNTOUCHED}. To \
         keep the jobs, use --store-engine=auto: in the chart dapr_scheduler.storeEngine=auto. \
         {MOVE}", .0.display()
    )]
    EtcdJobs(PathBuf),
    #[error(
        "{} holds {} jobs of the embedded engine, which the engine etcd does not read. \
         {UNTOUCHED}. To keep the jobs, use one replica and --store-engine=auto: in the chart \
         dapr_scheduler.replicaCount=1 and dapr_scheduler.storeEngine=auto. {MOVE}", .path.display(), counted(*.jobs)
    )]
    OwnJobs { path: PathBuf, jobs: usize },
    #[error(
        "{} holds a job store that cannot be read ({why}), and the engine etcd is to take its \
         place. {UNTOUCHED}. Use one replica and --store-engine=auto, or move the directory away",
        .path.display()
    )]
    OwnUnreadable { path: PathBuf, why: String },
    #[error(
        "{} holds data of an etcd of Dapr 1.14, which no later version reads. {UNTOUCHED}. To begin \
         without its jobs, move the directory away", .0.display()
    )]
    Unmarked(PathBuf),
}

const UNTOUCHED: &str = "No job is written, fired or deleted";
const MOVE: &str = "To move them, export them there and import them here (daprctl jobs export, \
                    daprctl jobs import). To give them up, delete the directory, in Kubernetes the \
                    volume claims";

/// The engine for this many members.
///
/// # Errors
/// [`Refusal`]: jobs would be left behind.
pub(super) fn choose(asked: StoreEngine, members: usize, found: &Found) -> Result<Engine, Refusal> {
    let etcd_dir = || found.etcd_dir.clone();
    let EtcdData::Member(count) = found.etcd else {
        return if members == 1 && asked != StoreEngine::Etcd {
            Ok(Engine::Embedded)
        } else {
            without_own_jobs(found).map(|()| Engine::Etcd)
        };
    };
    if !found.marked {
        return Err(Refusal::Unmarked(etcd_dir()));
    }
    match (count, members) {
        (Some(count), 1) if count > 1 => {
            return Err(Refusal::LargerCluster { path: etcd_dir(), members: count });
        }
        (Some(1), wanted) if wanted > 1 => {
            return Err(Refusal::SmallerCluster { path: etcd_dir(), wanted });
        }
        _ => {}
    }
    if let OwnData::Jobs(jobs @ 1..) = found.own {
        return Err(Refusal::TwoStores { etcd: etcd_dir(), own: found.own_dir.clone(), jobs });
    }
    without_own_jobs(found)?;
    if asked == StoreEngine::Embedded {
        return Err(Refusal::EtcdJobs(etcd_dir()));
    }
    Ok(Engine::Etcd)
}

fn without_own_jobs(found: &Found) -> Result<(), Refusal> {
    let path = found.own_dir.clone();
    match &found.own {
        OwnData::Jobs(0) => Ok(()),
        OwnData::Jobs(jobs) => Err(Refusal::OwnJobs { path, jobs: *jobs }),
        OwnData::Unreadable(why) => Err(Refusal::OwnUnreadable { path, why: why.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ABSENT: EtcdData = EtcdData::Absent;
    const UNKNOWN: EtcdData = EtcdData::Member(None);
    const ONE: EtcdData = EtcdData::Member(Some(1));
    const TWO: EtcdData = EtcdData::Member(Some(2));
    const THREE: EtcdData = EtcdData::Member(Some(3));

    fn choose_with(
        asked: StoreEngine,
        members: usize,
        etcd: EtcdData,
        own: OwnData,
        marked: bool,
    ) -> Result<Engine, Refusal> {
        let (etcd_dir, own_dir) = ("/data/dapr-0.1".into(), "/data/trilby".into());
        choose(asked, members, &Found { etcd_dir, etcd, marked, own_dir, own })
    }

    #[rstest]
    #[case::empty(StoreEngine::Auto, 1, ABSENT, 0, Engine::Embedded)]
    #[case::own(StoreEngine::Auto, 1, ABSENT, 7, Engine::Embedded)]
    #[case::own_confirmed(StoreEngine::Embedded, 1, ABSENT, 7, Engine::Embedded)]
    #[case::asked(StoreEngine::Etcd, 1, ABSENT, 0, Engine::Etcd)]
    #[case::reference(StoreEngine::Auto, 1, ONE, 0, Engine::Etcd)]
    #[case::reference_confirmed(StoreEngine::Etcd, 1, ONE, 0, Engine::Etcd)]
    #[case::young(StoreEngine::Auto, 1, UNKNOWN, 0, Engine::Etcd)]
    #[case::three_empty(StoreEngine::Auto, 3, ABSENT, 0, Engine::Etcd)]
    #[case::three(StoreEngine::Auto, 3, THREE, 0, Engine::Etcd)]
    #[case::three_young(StoreEngine::Etcd, 3, UNKNOWN, 0, Engine::Etcd)]
    #[case::member_removed(StoreEngine::Auto, 3, TWO, 0, Engine::Etcd)]
    fn engines(
        #[case] asked: StoreEngine,
        #[case] members: usize,
        #[case] etcd: EtcdData,
        #[case] jobs: usize,
        #[case] want: Engine,
    ) {
        assert_eq!(choose_with(asked, members, etcd, OwnData::Jobs(jobs), true), Ok(want));
    }

    #[rstest]
    #[case::larger(StoreEngine::Auto, 1, THREE, 0, "dapr_scheduler.replicaCount=3")]
    #[case::larger_than_all(StoreEngine::Embedded, 1, TWO, 7, "an etcd with 2 members")]
    #[case::smaller(StoreEngine::Auto, 3, ONE, 0, "dapr_scheduler.replicaCount=1")]
    #[case::two_stores(StoreEngine::Auto, 1, ONE, 7, "/data/trilby holds 7 jobs")]
    #[case::two_stores_of_three(StoreEngine::Auto, 3, THREE, 7, "/data/trilby holds 7 jobs")]
    #[case::embedded(StoreEngine::Embedded, 1, ONE, 0, "dapr_scheduler.storeEngine=auto")]
    #[case::own_jobs(StoreEngine::Etcd, 1, ABSENT, 1, "dapr_scheduler.storeEngine=auto")]
    #[case::own_jobs_of_three(StoreEngine::Auto, 3, ABSENT, 1, "dapr_scheduler.replicaCount=1")]
    fn jobs_are_never_left_behind(
        #[case] asked: StoreEngine,
        #[case] members: usize,
        #[case] etcd: EtcdData,
        #[case] jobs: usize,
        #[case] want: &str,
    ) {
        let refusal = choose_with(asked, members, etcd, OwnData::Jobs(jobs), true).unwrap_err();
        let sentence = refusal.to_string();
        assert!(sentence.contains(want) && sentence.contains(UNTOUCHED), "{sentence}");
    }

    #[rstest]
    #[case(MAX_COUNTED - 1, "9999")]
    #[case(MAX_COUNTED, "10000 or more")]
    fn numbers_of_jobs(#[case] jobs: usize, #[case] want: &str) {
        assert_eq!(counted(jobs), want);
    }

    #[test]
    fn data_without_the_marker_are_of_a_version_that_nothing_reads() {
        let refusal = choose_with(StoreEngine::Auto, 3, THREE, OwnData::Jobs(0), false);
        assert_eq!(refusal, Err(Refusal::Unmarked("/data/dapr-0.1".into())));
    }

    #[rstest]
    #[case(ABSENT)]
    #[case(THREE)]
    fn a_store_that_cannot_be_read_is_not_replaced(#[case] etcd: EtcdData) {
        let own = OwnData::Unreadable("damaged".to_owned());
        let refusal = choose_with(StoreEngine::Auto, 3, etcd, own, true).unwrap_err();
        assert!(refusal.to_string().contains("/data/trilby holds a job store"), "{refusal}");
    }
}
