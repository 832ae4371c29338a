//! Three replicas that elect by a Lease instead of votes.

use blackbox::ApiCluster;
use rustix::process::Signal;

use crate::fixture::Sidecar;
use crate::replicas::Replicas;

#[test]
fn a_lease_makes_one_leader_who_is_replaced_when_it_is_gone() {
    let api = ApiCluster::common().unwrap();
    let namespace = api.namespace("placement").unwrap();
    let kubeconfig = api.kubeconfig().to_string_lossy().into_owned();
    let env = [("KUBECONFIG", kubeconfig.as_str()), ("NAMESPACE", namespace.as_str())];
    let mut replicas = Replicas::start_with(&["--leader-election=lease"], &env);
    let host = Sidecar::start_with("a", &["cat"], &replicas.addresses(), &[]);
    let mut versions = vec![version(&replicas)];
    for (changes, signal) in [(1, Signal::KILL), (2, Signal::TERM)] {
        replicas.lose(signal);
        replicas.0[replicas.leader()].wait_for_hosts(1);
        versions.push(version(&replicas));
        let lease = api.get(&["lease", "placement.dapr.io", "-n", &namespace]).unwrap();
        assert_eq!(lease["spec"]["leaseTransitions"], changes, "{lease}");
        replicas.restart_all();
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "versions grow over leaders: {versions:?}");
    host.wait_until("tom", "a tom");
}

/// The version of the leader's table that contains the host.
fn version(replicas: &Replicas) -> u64 {
    let leader = &replicas.0[replicas.leader()];
    leader.wait_for_hosts(1);
    leader.version()
}
