//! Placement as a process, with official sidecars and actors that move between them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod crowd;
mod fixture;
mod lease;
mod replicas;

use std::collections::BTreeMap;
use std::time::Duration;

use actor_ring::Ring;
use blackbox::{Scratch, Spawn, Tool, build_binary, http, soon, until};
use proto::placement::Host;
use proto::placement::placement_client::PlacementClient;
use rustix::process::Signal;
use tonic::Code;
use tonic::transport::Endpoint;

use fixture::{Placement, Sentry, Sidecar};

/// Enough that each of a few hosts owns some.
const ACTORS: usize = 24;

/// Checks that every actor answers, through every sidecar, on the host that the ring gives.
fn assert_actors_are_where_the_ring_says(hosts: &[&Sidecar], callers: &[&Sidecar]) {
    let names: BTreeMap<String, &str> =
        hosts.iter().map(|s| (s.host(), s.daprd.app_id())).collect();
    let ring = Ring::new(names.keys().map(String::as_str), 100);
    let mut owners = BTreeMap::<&str, usize>::new();
    for i in 0..ACTORS {
        let id = format!("tom-{i}");
        let owner = names[ring.owner(&id).unwrap()];
        *owners.entry(owner).or_default() += 1;
        for caller in callers {
            assert_eq!(caller.call(&id).unwrap(), format!("{owner} {id}"));
        }
    }
    assert_eq!(owners.len(), hosts.len(), "each owns some: {owners:?}");
}

#[test]
fn actors_live_where_the_ring_says_and_move_when_their_host_leaves() {
    let placement = Placement::start(&[]);
    let a = Sidecar::start("a", &["cat"], &placement);
    let mut b = Sidecar::start("b", &["cat"], &placement);
    let caller = Sidecar::start("caller", &[], &placement);
    assert_eq!(placement.wait_for_hosts(2).len(), 2);
    assert_actors_are_where_the_ring_says(&[&a, &b], &[&a, &b, &caller]);
    let before = a.app.as_ref().unwrap().active();
    assert!(!before.is_empty() && before.len() < ACTORS, "{before:?}");

    b.daprd.process().terminate(soon()).unwrap();
    assert_eq!(placement.wait_for_hosts(1), [a.host()]);
    for i in 0..ACTORS {
        caller.wait_until(&format!("tom-{i}"), &format!("a tom-{i}"));
    }
    // The existing hosts stayed, so no actor was deactivated needlessly.
    assert!(a.app.as_ref().unwrap().active().is_superset(&before));
    until(soon(), "the gauge of sidecars", || {
        let gauge = r#"dapr_placement_runtimes_total{host_namespace="default"}"#;
        Ok(placement.metric(gauge).filter(|n| (1.9..2.1).contains(n)))
    })
    .unwrap();

    let c = Sidecar::start("c", &["cat"], &placement);
    placement.wait_for_hosts(2);
    until(soon(), "the new host to be used", || {
        Ok((0..ACTORS)
            .any(|i| caller.call(&format!("tom-{i}")).is_ok_and(|got| got.starts_with("c ")))
            .then_some(()))
    })
    .unwrap();
    assert_actors_are_where_the_ring_says(&[&a, &c], &[&a, &c, &caller]);
}

#[test]
fn actors_are_back_when_placement_is_back() {
    let mut placement = Placement::start(&[]);
    let a = Sidecar::start("a", &["cat"], &placement);
    let caller = Sidecar::start("caller", &[], &placement);
    caller.wait_until("tom", "a tom");
    placement.process.kill();
    placement.restart();
    caller.wait_until("tom", "a tom");
    assert_eq!(placement.wait_for_hosts(1), [a.host()]);
}

/// One sidecar is frozen, as on a node that swaps: the others may lose at most one round.
#[test]
fn a_frozen_sidecar_is_dropped_and_delays_no_other() {
    let placement = Placement::start(&["--keepalive-time=1s", "--keepalive-timeout=1s"]);
    let a = Sidecar::start("a", &["cat"], &placement);
    let mut b = Sidecar::start("b", &["cat"], &placement);
    let caller = Sidecar::start("caller", &[], &placement);
    placement.wait_for_hosts(2);
    caller.wait_until("warm", &caller.call("warm").unwrap());

    b.daprd.process().signal(Signal::STOP).unwrap();
    assert_eq!(placement.wait_for_hosts(1), [a.host()]);
    for i in 0..ACTORS {
        caller.wait_until(&format!("tom-{i}"), &format!("a tom-{i}"));
    }
    let timed_out = r#"trilby_placement_rounds_total{outcome="timeout"}"#;
    assert!(placement.metric(timed_out).unwrap_or_default() < 1.5, "rounds waited for it");

    b.daprd.process().signal(Signal::CONT).unwrap();
    placement.wait_for_hosts(2);
    until(soon(), "it to be used again", || {
        Ok((0..ACTORS)
            .any(|i| caller.call(&format!("tom-{i}")).is_ok_and(|got| got.starts_with("b ")))
            .then_some(()))
    })
    .unwrap();
    assert_actors_are_where_the_ring_says(&[&a, &b], &[&a, &b, &caller]);
}

/// Sidecars of 1.14 to 1.16 acknowledge nothing and need each lock paired; new ones share the ring.
#[test]
fn sidecars_of_all_versions_share_one_ring_and_survive_the_loss_of_placement() {
    let mut placement = Placement::start(&[]);
    let hosts: Vec<Sidecar> = Tool::sidecars()
        .into_iter()
        .map(|tool| {
            let name = tool.version().replace('.', "-");
            Sidecar::start_version(tool, &name, &["cat"], &placement.address(), &[])
        })
        .collect();
    let hosts: Vec<&Sidecar> = hosts.iter().collect();
    let mut passing = Sidecar::start("passing", &["cat"], &placement);
    placement.wait_for_hosts(hosts.len() + 1);
    passing.daprd.process().terminate(soon()).unwrap();
    placement.wait_for_hosts(hosts.len());
    wait_for_answers(&hosts);
    assert_actors_are_where_the_ring_says(&hosts, &hosts);

    placement.process.kill();
    placement.restart();
    placement.wait_for_hosts(hosts.len());
    wait_for_answers(&hosts);
    assert_actors_are_where_the_ring_says(&hosts, &hosts);
}

/// Older sidecars refuse calls while they wait for a table.
fn wait_for_answers(callers: &[&Sidecar]) {
    for caller in callers {
        for i in 0..ACTORS {
            let id = format!("tom-{i}");
            until(soon(), "an answer", || Ok(caller.call(&id).ok())).unwrap();
        }
    }
}

/// All three with identities from our sentry.
#[test]
fn serves_sidecars_over_mtls() {
    let sentry = Sentry::start();
    let anchors = sentry.folder.path().join("ca.crt");
    let address = format!("127.0.0.1:{}", sentry.port);
    let placement = Placement::start(&[
        "--tls-enabled",
        &format!("--trust-anchors-file={}", anchors.display()),
        &format!("--sentry-address={address}"),
    ]);
    let anchors = std::fs::read_to_string(anchors).unwrap();
    let mtls = [
        ("--enable-mtls", ""),
        ("--sentry-address", address.as_str()),
        ("DAPR_TRUST_ANCHORS", anchors.as_str()),
    ];
    let start =
        |name, types: &[&str]| Sidecar::start_with(name, types, &placement.address(), &mtls);
    let (a, b) = (start("a", &["cat"]), start("b", &["cat"]));
    let caller = start("caller", &[]);
    placement.wait_for_hosts(2);
    assert_actors_are_where_the_ring_says(&[&a, &b], &[&a, &b, &caller]);

    let host = Host { id: "a".into(), namespace: "default".into(), ..Host::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (code, _) = runtime.block_on(refusal(&placement.address(), &host));
    assert_ne!(code, Code::Ok, "without a certificate");
    assert_eq!(placement.hosts().len(), 2);
}

#[test]
fn ports_answer_as_tools_expect() {
    let closed = Placement::start(&["--metadata-enabled=false"]);
    assert_eq!(http::get(closed.health, "/placement/state").unwrap().status, 404);
    let open = Placement::start(&[]);
    assert_eq!(http::get(open.health, "/placement/state").unwrap().body, "{}");
    for path in ["/", "/metrics"] {
        let text = http::get(open.metrics, path).unwrap().body;
        for line in ["dapr_placement_leader_status 1", "dapr_placement_raft_leader_status 1"] {
            assert!(text.lines().any(|l| l == line), "{line} at {path}:\n{text}");
        }
    }
    // Probes of the election port can connect.
    std::net::TcpStream::connect(("127.0.0.1", open.peers)).unwrap();
}

#[test]
fn stops_on_request_and_says_so() {
    let mut placement = Placement::start(&[]);
    let _a = Sidecar::start("a", &["cat"], &placement);
    placement.wait_for_hosts(1);
    let status = placement.process.terminate(soon()).unwrap();
    assert_eq!(status.code(), Some(0));
    let log = placement.process.log();
    for line in ["Starting Dapr Placement Service -- version ", "Placement GRPC server stopped"] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
}

#[test]
fn refuses_flags_that_it_cannot_serve() {
    let program = build_binary("placement").unwrap();
    let cases = [
        (
            vec!["--keepalive-time=20s", "--healthz-port=0", "--metrics-port=0"],
            1,
            "invalid value for keepalive-time: value should be between 1s and 10s, got 20s",
        ),
        (vec!["--no-such-flag"], 2, "--no-such-flag"),
    ];
    for (args, code, text) in cases {
        let folder = Scratch::new("placement").unwrap();
        let mut process =
            Spawn::new("placement", &program, folder.path()).args(&args).start().unwrap();
        let status = until(soon(), "its end", || Ok(process.exit_status())).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}: {}", process.log());
        assert!(process.log().contains(text), "{args:?}: {}", process.log());
    }
}

/// Invalid input gets the same code and text from us and from the reference.
#[test]
fn refuses_with_the_texts_of_the_reference() {
    let good = Host {
        name: "127.0.0.1:1".into(),
        id: "a".into(),
        namespace: "ns".into(),
        operation: 1,
        ..Host::default()
    };
    let with = |change: &dyn Fn(&mut Host)| {
        let mut host = good.clone();
        change(&mut host);
        host
    };
    let bad = [
        Host::default(),
        with(&|h| h.id.clear()),
        with(&|h| h.namespace.clear()),
        with(&|h| (h.operation, h.version) = (0, Some(1))),
        with(&|h| h.entities = vec!["dapr.internal".into()]),
        with(&|h| h.entities = vec!["free".into(), "dapr.internal.ns.b.workflow".into()]),
        with(&|h| h.entities = vec!["dapr.internal.other.a.workflow".into()]),
    ];
    let ours = Placement::start(&[]);
    let reference = Tool::REFERENCE_PLACEMENT.path().unwrap();
    let reference = Placement::start_program(&reference, &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for host in bad {
        let answers = [&ours, &reference].map(|p| runtime.block_on(refusal(&p.address(), &host)));
        assert_eq!(answers[0], answers[1], "{host:?}");
        assert_ne!(answers[0].0, Code::Ok, "{host:?}");
    }
}

/// The status of a stream with that first message.
async fn refusal(address: &str, host: &Host) -> (Code, String) {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let messages = tokio_stream::iter([host.clone()]);
    let messages = futures::StreamExt::chain(messages, tokio_stream::pending());
    let ended = async {
        let mut orders = PlacementClient::new(channel).report_dapr_status(messages).await?;
        while orders.get_mut().message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    match tokio::time::timeout(Duration::from_secs(20), ended).await.expect("an end") {
        Ok(()) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}
