//! Several replicas in this process: elections, refusals, and the cost of a stop.

use std::net::SocketAddr;

use proto::placement::placement_client::PlacementClient;
use testkit::ca::Ca;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Endpoint;
use transport::Svid;

use crate::client::{LIMIT, Server, Sidecar, host, svid};

/// Replicas `p0`, `p1`, ..., each with its election port.
struct Replicas {
    servers: Vec<Server>,
    ports: Vec<u16>,
}

impl Replicas {
    async fn start(count: usize, svid: Option<&Svid>) -> Self {
        let ports = (0..count).map(|_| testkit::free_port().unwrap()).collect();
        let mut replicas = Self { servers: vec![], ports };
        for i in 0..count {
            let server = replicas.replica(i, svid).await;
            replicas.servers.push(server);
        }
        replicas
    }

    async fn replica(&self, number: usize, svid: Option<&Svid>) -> Server {
        let members = self.ports.iter().enumerate();
        let members: Vec<String> =
            members.map(|(i, port)| format!("p{i}=127.0.0.1:{port}")).collect();
        let cluster = format!("--initial-cluster={}", members.join(","));
        Server::start_with(&[&format!("--id=p{number}"), &cluster], svid).await
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |s: &Server| s.metric("dapr_placement_leader_status") == 1;
        (0..self.servers.len()).filter(|i| leads(&self.servers[*i])).collect()
    }

    /// Waits until exactly one leads and it is not `former`.
    async fn leader(&self, former: Option<usize>) -> usize {
        testkit::until(
            "one leader",
            async || matches!(self.leaders()[..], [one] if Some(one) != former),
        )
        .await;
        self.leaders()[0]
    }

    /// Opens a stream as a sidecar does: tries the replicas in turn until one serves it, and reads
    /// the table.
    async fn join(&self, name: &str, types: &[&str]) -> Sidecar {
        for server in self.servers.iter().cycle().take(100) {
            if let Ok(mut sidecar) = server.join(name, types).await
                && sidecar.try_table(types[0], 1).await.is_ok()
            {
                return sidecar;
            }
        }
        panic!("no replica serves {name}")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_leads_and_the_others_report_it() {
    let replicas = Replicas::start(3, None).await;
    let leader = replicas.leader(None).await;
    for (i, server) in replicas.servers.iter().enumerate().filter(|(i, _)| *i != leader) {
        let refused = server.join("A", &["a"]).await.unwrap_err();
        let text = format!("node id=p{i} is not a leader. Only the leader can serve requests");
        assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, text.as_str()));
    }
    replicas.join("A", &["a"]).await;
}

/// The probe of a scheduler of Dapr 1.19 is answered by followers too, and by replicas without a
/// known leader, whose other streams wait.
#[tokio::test(flavor = "multi_thread")]
async fn every_replica_answers_probes_before_and_after_the_election() {
    async fn probe(server: &Server) -> Code {
        let mut client = PlacementClient::new(server.channel());
        match client.report_dapr_status(tokio_stream::empty()).await {
            Ok(answer) => {
                answer.into_inner().message().await.map_or_else(|s| s.code(), |_| Code::Ok)
            }
            Err(status) => status.code(),
        }
    }
    let replicas = Replicas::start(3, None).await;
    let early = probe(&replicas.servers[0]).await;
    assert!(matches!(early, Code::Ok | Code::FailedPrecondition), "{early:?}");
    let leader = replicas.leader(None).await;
    assert_eq!(probe(&replicas.servers[leader]).await, Code::Ok);
    for (i, server) in replicas.servers.iter().enumerate().filter(|(i, _)| *i != leader) {
        // Until it hears from the leader it answers as at the start.
        testkit::until(&format!("replica {i} knows the leader"), async || {
            probe(server).await == Code::FailedPrecondition
        })
        .await;
    }
}

/// A replica that never reaches the others answers a probe while sidecars wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_not_kept_waiting_for_a_leader() {
    let others = "--initial-cluster=p0=127.0.0.1:0,p1=127.0.0.1:1,p2=127.0.0.1:1";
    let server = Server::start(&["--id=p0", others]).await;
    let mut client = PlacementClient::new(server.channel());
    let mut answer = client.report_dapr_status(tokio_stream::empty()).await.unwrap().into_inner();
    assert_eq!(answer.message().await.unwrap(), None, "answered before the wait for a leader ends");
}

/// Sidecars that connect during an election wait instead of being redirected repeatedly.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_while_no_leader_is_known() {
    let replicas = Replicas::start(3, None).await;
    let opened = futures_of(&replicas).await;
    let served: Vec<usize> = (0..3).filter(|i| opened[*i].is_ok()).collect();
    assert_eq!(served, [replicas.leader(None).await], "each was called once, before the election");
}

async fn futures_of(replicas: &Replicas) -> Vec<Result<Sidecar, tonic::Status>> {
    let [a, b, c] = [0, 1, 2].map(|i| replicas.servers[i].join("A", &["a"]));
    let (a, b, c) = tokio::join!(a, b, c);
    vec![a, b, c]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_over_and_versions_grow() {
    let mut replicas = Replicas::start(3, None).await;
    let mut version = 0;
    for _ in 0..2 {
        let leader = replicas.leader(None).await;
        let mut a = replicas.join("A", &["a"]).await;
        let before = std::mem::replace(&mut version, a.version);
        assert!(version > before, "{version} after {before}");

        let stopped = &replicas.servers[leader];
        stopped.scope.token().cancel();
        assert_eq!(a.end().await.0, Code::Unavailable);
        // It led until another did, so that the first address may be the right one.
        replicas.leader(Some(leader)).await;
        stopped.scope.shutdown().await.unwrap();
        let server = replicas.replica(leader, None).await;
        replicas.servers[leader] = server;
    }
    let a = replicas.join("A", &["a"]).await;
    assert!(a.version > version);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_bytes_on_the_election_port_are_harmless() {
    let replicas = Replicas::start(3, None).await;
    let leader = replicas.leader(None).await;
    for port in &replicas.ports {
        for bytes in [&b"\x00\x01\x02\x03"[..], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut connection =
                tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.unwrap();
            // It may close the connection while we write.
            let _ = connection.write_all(bytes).await;
            let _ = connection.shutdown().await;
            let mut answer = Vec::new();
            let _ = connection.read_to_end(&mut answer).await;
        }
    }
    assert_eq!(replicas.leaders(), [leader]);
    replicas.join("A", &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_only_replicas_are_accepted() {
    let ca = Ca::new();
    let fixed = |app_id: &str| svid(&ca, &ca.svid("dapr-system", app_id));
    let own = fixed("dapr-placement");
    let replicas = Replicas::start(3, Some(&own)).await;
    let leader = replicas.leader(None).await;

    let id = own.current().id().clone();
    let address = format!("127.0.0.1:{}", replicas.ports[leader]);
    // The handshake fails for any other id than that of the replicas.
    for (app_id, want) in [("app-1", None), ("dapr-placement", Some(200))] {
        let mut channel = transport::channel(&fixed(app_id), &address, id.clone()).unwrap();
        let body = tonic::body::Body::new("null".to_owned());
        let request = axum::http::Request::post("/standing")
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let answer = match tower::ServiceExt::ready(&mut channel).await {
            Ok(ready) => tower::Service::call(ready, request).await.ok(),
            Err(_) => None,
        };
        assert_eq!(answer.map(|answer| answer.status().as_u16()), want, "{app_id}");
    }

    // The same certificate serves sidecars.
    let server = &replicas.servers[leader];
    let app = fixed("A");
    let channel = transport::channel(&app, &server.address.to_string(), id).unwrap();
    let mut a = Sidecar::open(channel, host("A", "dapr-system", &["a"])).await.unwrap();
    a.until_table("a", 1).await;
}

/// A replica without the others cannot lead, and reports that.
#[tokio::test(flavor = "multi_thread")]
async fn a_minority_serves_no_sidecar() {
    let mut replicas = Replicas::start(3, None).await;
    let leader = replicas.leader(None).await;
    let mut a = replicas.join("A", &["a"]).await;
    let followers: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    for follower in followers.into_iter().rev() {
        let stopped = replicas.servers.remove(follower);
        stopped.scope.shutdown().await.unwrap();
    }
    assert_eq!(a.end().await, (Code::Unavailable, "lost leadership".to_owned()));
    let refused = replicas.servers[0].join("A", &["a"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(replicas.leaders(), [0_usize; 0]);
}

/// A refused sidecar leaves its connection open; the server must close it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_closed_by_the_server() {
    const REFUSED: usize = 50;
    let replicas = Replicas::start(3, None).await;
    let leader = replicas.leader(None).await;
    let follower = &replicas.servers[(leader + 1) % 3];
    let mut relays = JoinSet::new();
    for _ in 0..REFUSED {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        relays.spawn(relay(listener, follower.address));
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        let refused = Sidecar::open(channel, host("A", "ns", &["a"])).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
    }
    tokio::time::timeout(LIMIT, relays.join_all()).await.expect("the server closes them all");
}

/// Forwards one connection, but not its end: a client that never closes. Returns when the server
/// has closed it.
async fn relay(listener: tokio::net::TcpListener, server: SocketAddr) {
    let (client, _) = listener.accept().await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) =
        tokio::net::TcpStream::connect(server).await.unwrap().into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            // The client may have ended before the last frames arrive.
            let _ = to_client.write_all(&buffer[..length]).await;
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
}
