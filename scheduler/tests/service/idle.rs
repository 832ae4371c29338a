//! Many idle streams, and a network that disappears.

use std::net::SocketAddr;

use futures::future::join_all;
use runtime::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::client::{Server, Sidecar, initial, of_app, once, schedule};

const CONNECTIONS: usize = 10;
/// On each connection.
const STREAMS: usize = 200;

/// The network to a server. Once it is cut nothing arrives at either end, not even the end of the
/// connection.
struct Cable {
    address: SocketAddr,
    pulled: CancellationToken,
}

impl Cable {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (scope, pulled) = (Scope::for_test(), CancellationToken::new());
        let watched = pulled.clone();
        scope.clone().spawn_detached("cable", async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(server).await.unwrap();
                let ((from_near, to_near), (from_far, to_far)) =
                    (near.into_split(), far.into_split());
                scope.spawn_detached("cable", forward(from_near, to_far, watched.clone()));
                scope.spawn_detached("cable", forward(from_far, to_near, watched.clone()));
            }
        });
        Self { address, pulled }
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, pulled: CancellationToken) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            () = pulled.cancelled() => std::future::pending().await,
        };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// The streams of one sidecar after the other, on one connection.
async fn open(address: SocketAddr, connection: usize) -> Vec<Sidecar> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut sidecars = Vec::new();
    for number in 0..STREAMS {
        let app = initial(&format!("app-{connection}-{number}"), &[]);
        sidecars.push(Sidecar::open(channel.clone(), app).await);
    }
    sidecars
}

#[tokio::test]
async fn idle_streams_are_served_and_gone_when_their_network_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let connected = || server.metric("dapr_scheduler_sidecars_connected");
    let cable = Cable::to(server.address).await;
    let opened = (0..CONNECTIONS).map(|connection| open(cable.address, connection));
    let mut sidecars: Vec<Sidecar> = join_all(opened).await.into_iter().flatten().collect();
    let all = i64::try_from(CONNECTIONS * STREAMS).unwrap();
    testkit::until("all are known", async || connected() == all).await;
    let last = format!("app-{}-{}", CONNECTIONS - 1, STREAMS - 1);
    schedule(&server, of_app(&last), "x", once("0s")).await;
    assert_eq!(sidecars.last_mut().unwrap().next().await.unwrap().name, "x");

    cable.pulled.cancel();
    testkit::until("all are gone", async || connected() == 0).await;
    server.stop().await;
}
