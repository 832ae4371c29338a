//! The service over real connections, in this process.

use identity::SpiffeId;
use proto::placement::Host;
use proto::placement::placement_client::PlacementClient;
use rstest::rstest;
use testkit::ca::Ca;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};

use crate::client::{LIMIT, LOCK, REPORT, Server, Sidecar, UPDATE, config, host, svid};

#[tokio::test]
async fn two_hosts_get_one_table_step_by_step() {
    let server = Server::start(&[]).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    for order in ["lock1", "update1{a:A}", "unlock1"] {
        a.take(order).await;
    }
    let mut b = server.join("B", &["b"]).await.unwrap();
    for order in ["lock2", "update2{a:A b:B}", "unlock2"] {
        a.take(order).await;
        b.take(order).await;
    }
    drop(b);
    for order in ["lock3", "update3{a:A}", "unlock3"] {
        a.take(order).await;
    }
    let mut n = server.join("N", &[]).await.unwrap();
    for order in ["lock3", "update3{a:A}", "unlock3"] {
        n.take(order).await;
    }
    assert_eq!(server.metric("dapr_placement_runtimes_total"), 2);
    assert_eq!(server.metric("dapr_placement_actor_runtimes_total"), 1);
    assert_eq!(server.metric("dapr_placement_leader_status"), 1);
    drop((a, n));
    testkit::until("no sidecar is counted", async || {
        server.metric("dapr_placement_runtimes_total") == 0
    })
    .await;
}

/// Official sidecars of 1.15 and 1.18 accept gzip; a client that does not gets plain tables.
#[rstest]
#[case(true, Some("gzip"))]
#[case(false, None)]
#[tokio::test]
async fn tables_are_compressed_for_clients_that_take_it(
    #[case] takes: bool,
    #[case] want: Option<&str>,
) {
    let server = Server::start(&[]).await;
    let mut client = PlacementClient::new(server.channel());
    if takes {
        client = client.accept_compressed(CompressionEncoding::Gzip);
    }
    let (send, receive) = mpsc::channel(16);
    send.send(host("A", "ns", &["a"])).await.unwrap();
    let answer = client.report_dapr_status(ReceiverStream::new(receive)).await.unwrap();
    let encoding = answer.metadata().get("grpc-encoding").map(|name| name.to_str().unwrap());
    assert_eq!(encoding, want);
    let orders = answer.into_inner();
    let mut a = Sidecar { host: host("A", "ns", &["a"]), send, orders, version: 0 };
    for order in ["lock1", "update1{a:A}", "unlock1"] {
        a.take(order).await;
    }
}

#[rstest]
#[case::nothing(Host::default(), Code::InvalidArgument, "host ID and namespace must be provided")]
#[case::no_id(Host { id: String::new(), ..host("A", "ns", &[]) },
    Code::InvalidArgument, "host ID and namespace must be provided")]
#[case::no_namespace(host("A", "", &[]),
    Code::InvalidArgument, "host ID and namespace must be provided")]
#[case::version_alone(Host { operation: 0, version: Some(0), ..host("A", "ns", &[]) },
    Code::InvalidArgument, "both operation and version must be set or both must be unset")]
#[case::reserved(host("A", "ns", &["dapr.internal.ns.B.workflow"]), Code::PermissionDenied,
    "entity dapr.internal.ns.B.workflow is not allowed for app ID A in namespace ns")]
#[tokio::test]
async fn refuses_bad_input_first_and_later(
    #[case] bad: Host,
    #[case] code: Code,
    #[case] text: &str,
) {
    let server = Server::start(&[]).await;
    let refused = Sidecar::open(server.channel(), bad.clone()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (code, text));

    let mut other = server.join("other", &["t"]).await.unwrap();
    other.until_table("t", 1).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    tokio::join!(a.until_table("a", 1), other.until_table("a", 1));
    a.send(bad).await;
    assert_eq!(a.end().await, (code, text.to_owned()));
    other.until_table("a", 0).await; // other sidecars are not affected
}

#[rstest]
#[case(host("A", "other", &["a"]))]
#[case(host("B", "ns", &["a"]))]
#[tokio::test]
async fn a_stream_cannot_report_for_another_host(#[case] later: Host) {
    let server = Server::start(&[]).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    a.until_table("a", 1).await;
    a.send(later).await;
    let text = "namespace and app ID must not change on a stream".to_owned();
    assert_eq!(a.end().await, (Code::InvalidArgument, text));
}

#[tokio::test]
async fn unknown_operations_are_ignored() {
    let server = Server::start(&[]).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    a.expect("lock1").await;
    a.ack(77, 1).await;
    a.ack(LOCK, 1).await;
    a.expect("update1{a:A}").await;
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let server = Server::start(&[]).await;
    let mut other = proto::sentry::ca_client::CaClient::new(server.channel());
    let answer = other.sign_certificate(proto::sentry::SignCertificateRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

/// A placement with mTLS and a connection of `app-1` in `shop` to it.
async fn with_tls() -> (Server, Channel) {
    let ca = Ca::new();
    let own = ca.svid("dapr-system", "dapr-placement");
    let id: SpiffeId = own.chain.leaf_id().unwrap();
    let server = Server::start_with(&[], Some(&svid(&ca, &own))).await;
    let app = svid(&ca, &ca.svid("shop", "app-1"));
    let channel = transport::channel(&app, &server.address.to_string(), id).unwrap();
    (server, channel)
}

#[rstest]
#[case::other_app("app-2", "shop", &[],
    "provided app ID app-2 doesn't match the one in the SPIFFE ID (app-1)")]
#[case::other_namespace("app-1", "bank", &[],
    "provided client namespace bank doesn't match the one in the SPIFFE ID (shop)")]
#[case::reserved("app-1", "shop", &["dapr.internal.shop.app-2.workflow"],
    "entity dapr.internal.shop.app-2.workflow is not allowed for app ID app-1 in namespace shop")]
#[tokio::test]
async fn the_certificate_decides_the_identity(
    #[case] id: &str,
    #[case] namespace: &str,
    #[case] types: &[&str],
    #[case] text: &str,
) {
    let (_server, channel) = with_tls().await;
    let bad = Host { id: id.to_owned(), ..host("10.0.0.1:50002", namespace, types) };
    let refused = Sidecar::open(channel.clone(), bad.clone()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, text));

    let good = Host { id: "app-1".to_owned(), ..host("10.0.0.1:50002", "shop", &["t"]) };
    let mut sidecar = Sidecar::open(channel, good).await.unwrap();
    sidecar.until_table("t", 1).await;
    sidecar.send(bad).await;
    assert_eq!(sidecar.end().await, (Code::PermissionDenied, text.to_owned()));
}

#[tokio::test]
async fn with_tls_clients_without_a_certificate_are_refused() {
    let (server, channel) = with_tls().await;
    let plain = server.join("A", &["a"]).await.unwrap_err();
    assert_ne!(plain.code(), Code::Ok);
    let good = Host { id: "app-1".to_owned(), ..host("10.0.0.1:50002", "shop", &["t"]) };
    Sidecar::open(channel, good).await.unwrap().until_table("t", 1).await;
}

#[rstest]
#[case(LOCK)]
#[case(UPDATE)]
#[tokio::test]
async fn a_silent_sidecar_is_removed_alone_and_gets_the_reason(#[case] silent_at: i32) {
    let server = Server::start(&["--disseminate-timeout=1s"]).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    a.until_table("a", 1).await;
    let mut b = server.join("B", &["b"]).await.unwrap();
    a.take("lock2").await;
    if silent_at == UPDATE {
        b.take("lock2").await;
        a.take("update2{a:A b:B}").await;
    }
    let text = "dissemination timeout after 1s for version 2".to_owned();
    assert_eq!(b.end().await, (Code::DeadlineExceeded, text));
    for order in ["lock3", "update3{a:A}", "unlock3"] {
        a.take(order).await;
    }
    assert_eq!(server.metric("trilby_placement_streams_timed_out_total"), 1);
}

#[tokio::test]
async fn a_half_close_ends_the_call_on_every_kind_of_stream() {
    let server = Server::start(&[]).await;
    let (silent, receive) = mpsc::channel::<Host>(1);
    let mut client = PlacementClient::new(server.channel());
    let mut call = JoinSet::new();
    call.spawn(async move {
        client.report_dapr_status(ReceiverStream::new(receive)).await?.into_inner().message().await
    });
    let mut member = server.join("A", &["a"]).await.unwrap();
    member.expect("lock1").await;
    let mut waiting = server.join("B", &["b"]).await.unwrap();

    drop(silent);
    let ended = tokio::time::timeout(LIMIT, call.join_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    for sidecar in [&mut waiting, &mut member] {
        sidecar.send = mpsc::channel(1).0;
        assert_eq!(sidecar.end().await, (Code::Ok, String::new()));
    }
}

#[tokio::test]
async fn a_stop_ends_every_stream_whatever_clients_do() {
    let server = Server::start(&[]).await;
    let (_silent, receive) = mpsc::channel::<Host>(1);
    let mut client = PlacementClient::new(server.channel());
    let mut silent = JoinSet::new();
    silent.spawn(
        async move { client.report_dapr_status(ReceiverStream::new(receive)).await.map(drop) },
    );
    let mut member = server.join("A", &["a"]).await.unwrap();
    member.expect("lock1").await;
    let mut waiting = server.join("B", &["b"]).await.unwrap();
    let blocked = blocked_sidecar(&server).await;

    server.scope.token().cancel();
    let text = "cancelling context, received signal terminated".to_owned();
    assert_eq!(member.end().await, (Code::Unavailable, text.clone()));
    assert_eq!(waiting.end().await, (Code::Unavailable, text.clone()));
    let silent = tokio::time::timeout(LIMIT, silent.join_next()).await.unwrap();
    let silent = silent.unwrap().unwrap().unwrap_err();
    assert_eq!(silent.code(), Code::Unavailable);
    tokio::time::timeout(LIMIT, server.scope.shutdown()).await.expect("an end").unwrap();
    assert_eq!(server.metric("dapr_placement_runtimes_total"), 0);
    assert_eq!(server.metric("dapr_placement_leader_status"), 0);
    drop(blocked);
}

/// A sidecar whose window has room for a few bytes and which reads nothing.
async fn blocked_sidecar(server: &Server) -> Sidecar {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.initial_stream_window_size(4).connect().await.unwrap();
    Sidecar::open(channel, host("blocked", "ns", &["x"])).await.unwrap()
}

#[tokio::test]
async fn a_sidecar_that_does_not_read_is_cut_and_delays_no_other() {
    let server = Server::start(&["--disseminate-timeout=1s"]).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    a.until_table("a", 1).await;
    let mut blocked = blocked_sidecar(&server).await;
    a.expect("lock2").await;
    // A second order does not fit into the connection without room in the window.
    a.send(Host { operation: REPORT, ..host("A", "ns", &["a", "b"]) }).await;
    a.until_table("b", 1).await;
    let mut free = Sidecar::open(server.channel(), host("C", "free", &["c"])).await.unwrap();
    free.until_table("c", 1).await;
    // Its end does not fit either: the connection is closed a second later.
    tokio::time::timeout(LIMIT, blocked.send.closed()).await.expect("the connection is cut");
    let (code, text) = blocked.end().await;
    assert_ne!(code, Code::Ok, "{text}");
}

#[tokio::test]
async fn a_storm_of_joins_ends_in_one_table_with_all() {
    const SIDECARS: usize = 100;
    let server = Server::start(&[]).await;
    let mut tasks = JoinSet::new();
    let mut channel = server.channel();
    for i in 0..SIDECARS {
        if i % 10 == 0 {
            channel = server.channel();
        }
        let channel = channel.clone();
        tasks.spawn(async move {
            let host = host(&format!("10.0.0.{i}:50002"), "ns", &["t", "u"]);
            let mut sidecar = Sidecar::open(channel, host).await.unwrap();
            let rounds = sidecar.until_table("t", SIDECARS).await;
            (sidecar, rounds)
        });
    }
    let done = tokio::time::timeout(LIMIT, tasks.join_all()).await.expect("the storm settles");
    assert_eq!(server.metric("trilby_placement_streams_timed_out_total"), 0);
    let most = done.iter().map(|(_, rounds)| *rounds).max().unwrap();
    assert!(most < SIDECARS / 2, "joins share rounds, but there were {most}");
}

/// A sidecar of 1.14 to 1.16: no operations, a full report every second.
#[tokio::test]
async fn a_legacy_sidecar_delays_no_other() {
    let server = Server::start(&[]).await;
    let mut legacy = Host { operation: 0, ..host("L", "ns", &["l"]) };
    let mut old = Sidecar::open(server.channel(), legacy.clone()).await.unwrap();
    for order in ["lock1", "update1{l:L}", "unlock1"] {
        old.expect(order).await; // without a message from it
    }
    let mut new = server.join("A", &["a"]).await.unwrap();
    for order in ["lock2", "update2{a:A l:L}", "unlock2"] {
        new.take(order).await;
        old.expect(order).await;
    }
    legacy.entities.push("m".to_owned());
    old.send(legacy).await;
    new.take("lock3").await;
    old.expect("lock3").await;
}

#[tokio::test]
async fn a_report_with_new_types_starts_a_round() {
    let server = Server::start(&[]).await;
    let mut a = server.join("A", &[]).await.unwrap();
    for order in ["lock0", "update0{}", "unlock0"] {
        a.take(order).await;
    }
    a.send(Host { operation: REPORT, ..host("A", "ns", &["workflow"]) }).await;
    for order in ["lock1", "update1{workflow:A}", "unlock1"] {
        a.take(order).await;
    }
    assert_eq!(server.metric("dapr_placement_actor_runtimes_total"), 1);
}

#[tokio::test]
async fn two_servers_cannot_share_a_port() {
    let server = Server::start(&[]).await;
    let taken = config(&[&format!("--port={}", server.address.port())]);
    let error = placement::serve(&taken, None, &runtime::Scope::for_test()).await.unwrap_err();
    assert!(error.to_string().contains(&server.address.port().to_string()), "{error:#}");
}

/// A report whose message has this many bytes.
fn report_of(bytes: usize) -> Host {
    let report = |padding: usize| Host { pod: "x".repeat(padding), ..host("A", "ns", &["a"]) };
    let padding = 2 * bytes - prost::Message::encoded_len(&report(bytes));
    report(padding)
}

#[tokio::test]
async fn a_message_is_as_large_as_it_may_be() {
    const LIMIT_BYTES: usize = 256 * 1024;
    let server = Server::start(&[]).await;
    for (bytes, want) in [(LIMIT_BYTES, Code::InvalidArgument), (LIMIT_BYTES + 1, Code::OutOfRange)]
    {
        let report = report_of(bytes);
        assert_eq!(prost::Message::encoded_len(&report), bytes);
        // Within the limit it is read, and refused for its long name.
        let refused = Sidecar::open(server.channel(), report).await.unwrap_err();
        assert_eq!(refused.code(), want, "{bytes}: {refused:?}");
    }
}

#[tokio::test]
async fn a_large_table_is_encoded_beside_the_streams() {
    let server = Server::start(&[]).await;
    let names: Vec<String> = (0..1_000).map(|i| format!("type{i:04}")).collect();
    let types: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut a = server.join("A", &types).await.unwrap();
    assert_eq!(a.until_table("type0999", 1).await, 1);
    let too_many: Vec<&str> = types.iter().copied().chain(["one more"]).collect();
    let refused = server.join("B", &too_many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

/// A scheduler of Dapr 1.19 looks for placement like this: it opens a stream, half-closes it without
/// a message and reads. Any status but UNIMPLEMENTED means that placement is there.
#[tokio::test]
async fn probes_of_a_scheduler_are_answered_and_leave_no_trace() {
    const PROBES: usize = 1_000;
    let server = Server::start(&[]).await;
    let mut a = server.join("A", &["a"]).await.unwrap();
    a.until_table("a", 1).await;
    testkit::until("the round of the sidecar is counted", async || {
        server.metric("trilby_placement_rounds_total") == 1
    })
    .await;
    let before = service_metrics(&server);
    for _ in 0..PROBES {
        let mut client = PlacementClient::new(server.channel());
        let answer = client.report_dapr_status(tokio_stream::empty()).await;
        let end = match answer {
            Ok(answer) => answer.into_inner().message().await.map(|order| order.is_none()),
            Err(status) => Err(status),
        };
        assert!(matches!(end, Ok(true)), "{end:?}");
    }
    assert_eq!(service_metrics(&server), before);
    let mut b = server.join("B", &["b"]).await.unwrap();
    tokio::join!(a.until_table("b", 1), b.until_table("b", 1));
    assert_eq!(b.version, 2, "the next change is the next version");
}

/// All series of placement itself; those of listeners count connections.
fn service_metrics(server: &Server) -> Vec<String> {
    let families = server.scope.metrics().gather();
    let own = families.iter().filter(|family| family.name().contains("_placement_"));
    own.map(|family| format!("{family:?}")).collect()
}
