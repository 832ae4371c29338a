//! Two replicas and the lease: both serve, the leader writes, and sidecars do not notice a change of
//! the leader.
use std::collections::BTreeSet;

use blackbox::{ApiCluster, soon, until};
use proto::operator::ComponentUpdateEvent;
use proto::operator::ResourceEventType::Created;
use serde_json::Value;
use tonic::Streaming;

use crate::fixture::proxy::{Fault, Proxy};
use crate::fixture::{Fixture, Operator, Sidecar};
use crate::{deployment, name, timeout};

const LEASE: &str = "operator.dapr.io";
const LEADER: &str = "dapr_operator_leader";
const WRITTEN: &str = "dapr_operator_service_created_total{app_id=\"orders\"}";
const PASSES: &str = "dapr_operator_watchdog_passes_total{result=\"complete\"}";

/// An operator as in a pod of `namespace`, and a sidecar with an open stream to it.
struct Replica {
    proxy: Proxy,
    operator: Operator,
    sidecar: Sidecar,
    stream: Streaming<ComponentUpdateEvent>,
}

impl Replica {
    fn start(fixture: &Fixture, api: &ApiCluster, namespace: &str, name: &str) -> Self {
        let proxy = Proxy::start(api.kubeconfig()).unwrap();
        let mut spawn = fixture
            .spawn(name)
            .args(["--kubeconfig", proxy.kubeconfig().to_str().unwrap()])
            .args(["--watch-namespace", namespace, "--watch-interval", "1s"])
            .arg("--disable-leader-election=false");
        spawn.spawn = spawn.spawn.in_pod_of(namespace);
        let mut operator = spawn.start_operator().unwrap();
        operator.wait_ready().unwrap();
        let mut sidecar = fixture.sidecar(namespace, "orders", operator.port);
        let stream = sidecar.open_components();
        sidecar.components().unwrap();
        Self { proxy, operator, sidecar, stream }
    }

    fn leads(&self) -> bool {
        self.operator.metric(LEADER) > 0.0
    }

    fn wait_until_it_leads(&self) {
        until(timeout(), "the lease", || Ok(self.leads().then_some(()))).unwrap();
    }

    fn wait_for_a_pass_of_the_watchdog(&self) {
        let before = self.operator.metric(PASSES);
        let passed = || Ok((self.operator.metric(PASSES) > before).then_some(()));
        until(timeout(), "a pass of the watchdog", passed).unwrap();
    }

    /// The kinds that only the leader watches.
    fn asked_for_what_writers_need(&self) -> bool {
        let paths = self.proxy.paths();
        paths.iter().any(|path| path.ends_with("/deployments") || path.ends_with("/services"))
    }

    /// The next event of the stream is the creation of this Component.
    fn hears_of(&mut self, component: &str) {
        let (event, body) = self.sidecar.next(&mut self.stream);
        assert_eq!((event, name(&body)), (Created, component));
    }
}

/// The holder of the lease and the number of its transitions.
fn lease(api: &ApiCluster, namespace: &str) -> (String, Value) {
    let lease = api.get(&["lease", LEASE, "-n", namespace]).unwrap();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    (holder.to_owned(), lease["spec"]["leaseTransitions"].clone())
}

/// The number of Events on the lease, by message.
fn lease_events(api: &ApiCluster, namespace: &str) -> [usize; 2] {
    let lease = api.get(&["lease", LEASE, "-n", namespace]).unwrap();
    let events = api.get(&["events", "-n", namespace]).unwrap();
    let events = events["items"].as_array().unwrap().iter();
    let about: Vec<_> = events
        .filter(|event| event["involvedObject"]["uid"] == lease["metadata"]["uid"])
        .filter(|event| event["reason"] == "LeaderElection")
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    [" became leader", " stopped leading"]
        .map(|what| about.iter().filter(|request| request.ends_with(what)).count())
}

#[test]
fn one_replica_writes_and_all_serve() {
    let fixture = Fixture::shared();
    let (api, _) = fixture.of_old();
    let namespace = &api.namespace("replicas").unwrap();
    let service = || {
        let service = api.get(&["service", "orders-dapr", "-n", namespace]).ok();
        service.map(|service| service["metadata"]["uid"].to_string())
    };
    let made_anew = || {
        let before = service();
        api.kubectl(&["delete", "service", "orders-dapr", "-n", namespace]).unwrap();
        until(timeout(), "the Service again", || Ok(service().filter(|_| service() != before)))
            .unwrap();
    };
    let announce =
        |component: &str| fixture.apply_on(api, namespace, &crate::component(component, ""));
    fixture.apply_on(api, namespace, &deployment("orders", "orders"));
    let mut first = Replica::start(fixture, api, namespace, "first-replica");
    first.wait_until_it_leads();
    until(timeout(), "the Service", || Ok(service())).unwrap();
    first.wait_for_a_pass_of_the_watchdog();
    let mut second = Replica::start(fixture, api, namespace, "second-replica");
    made_anew();
    announce("one");
    first.hears_of("one");
    second.hears_of("one");
    let written = |replica: &Replica| replica.operator.metric(WRITTEN).to_string();
    assert_eq!([written(&first), written(&second)], ["2", "0"]);
    assert!(first.leads() && !second.leads());
    assert!(first.asked_for_what_writers_need() && !second.asked_for_what_writers_need());
    assert_eq!(second.operator.metric(PASSES).to_string(), "0");

    // The leader cannot renew the lease. It stops writing before another replica may acquire it, and
    // continues to serve.
    first.proxy.rule(|request| {
        if request.path.contains("/leases") { Fault::Refused(500) } else { Fault::Pass }
    });
    until(timeout(), "the end of its term", || Ok((!first.leads()).then_some(()))).unwrap();
    assert!(!second.leads(), "no replica may, for a while");
    announce("two");
    first.hears_of("two");
    second.hears_of("two");
    second.wait_until_it_leads();
    made_anew();
    second.wait_for_a_pass_of_the_watchdog();
    assert_eq!([written(&first), written(&second)], ["2", "1"]);
    announce("three");
    first.hears_of("three");
    second.hears_of("three");
    assert!(first.operator.process.is_running());

    // The leader is stopped: its streams end without error and it releases the lease.
    first.proxy.rule(|_| Fault::Pass);
    let (holder, _) = lease(api, namespace);
    let status = second.operator.process.terminate(soon()).unwrap();
    assert!(status.success(), "{status}: {}", second.operator.process.log());
    assert_ne!(lease(api, namespace).0, holder);
    let end = second.sidecar.runtime.block_on(second.stream.message());
    assert!(matches!(end, Ok(None)), "{end:?}");
    first.wait_until_it_leads();
    made_anew();
    assert_eq!(written(&first), "3");
    announce("four");
    first.hears_of("four");

    assert_eq!(lease(api, namespace).1, 2, "of the lease's holder changes");
    until(timeout(), "the Events", || Ok((lease_events(api, namespace) == [3, 2]).then_some(())))
        .unwrap();
    let names: BTreeSet<_> = first.sidecar.component_names().into_iter().collect();
    assert_eq!(names, ["four", "one", "three", "two"].map(str::to_owned).into());
}
