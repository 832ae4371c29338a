//! Every limit of a listener, from the client's side: requests within it are served, requests
//! beyond it are not.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

mod refusals;
mod requests;
mod unfinished;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{any, post};
use hyper::body::Frame;
use identity::{SpiffeId, TrustAnchors, TrustDomain};
use runtime::Scope;
use rustls::pki_types::ServerName;
use testkit::ca::{Ca, TestSvid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use transport::svid::CertifiedSvid;
use transport::tls::{self, Alpn, ClientAuth};
use transport::{Limits, Server, Svid};

/// Maximum time of what must happen.
const WAIT: Duration = Duration::from_secs(30);
/// A deadline that a test expects to pass.
const SHORT: Duration = Duration::from_millis(50);
/// Octets that begin HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The identifier of `SETTINGS_MAX_CONCURRENT_STREAMS`.
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// Larger than the buffers of both kernels together.
const HUGE: usize = 32 * 1024 * 1024;

fn router() -> Router {
    Router::new()
        .route("/", any(async || "served"))
        .route("/echo", post(async |body: Bytes| body.len().to_string()))
        .route("/never", any(std::future::pending::<StatusCode>))
        .route("/stream", any(std::future::pending::<StatusCode>))
        .route("/unending", post(async |_: Bytes| Body::new(Unending)))
        .route("/huge", any(async || vec![0; HUGE]))
        .route("/panic", any(async || panicking()))
}

/// An answer that begins and never ends.
struct Unending;

impl hyper::body::Body for Unending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn panicking() -> StatusCode {
    panic!("on purpose")
}

struct Fixture {
    scope: Scope,
    ca: Ca,
    address: SocketAddr,
}

impl Fixture {
    async fn plain(limits: Limits) -> Self {
        Self::start(limits, None).await
    }

    async fn tls(limits: Limits, clients: ClientAuth) -> Self {
        Self::start(limits, Some(clients)).await
    }

    async fn start(limits: Limits, clients: Option<ClientAuth>) -> Self {
        let (scope, ca) = (Scope::for_test(), Ca::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::new("test", listener, router()).limits(limits);
        if let Some(clients) = clients {
            let svid = fixed(&ca.svid("dapr-system", "dapr-operator"), ca.anchors());
            server = server.tls(tls::server(&svid, clients, Alpn::Https).unwrap());
        }
        scope.spawn("server", server.run(scope.clone()));
        Self { scope, ca, address }
    }

    async fn connect(&self) -> TcpStream {
        self.connect_from("127.0.0.1").await
    }

    async fn connect_from(&self, ip: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// A finished handshake of an application, or how the server refused it.
    async fn connect_as(&self, app: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector(app).connect(server_name(), self.connect().await).await
    }

    fn connector(&self, app: &str) -> TlsConnector {
        let svid = fixed(&self.ca.svid("shop", app), self.ca.anchors());
        let mut config = (*tls::client(&svid, id("dapr-system", "dapr-operator")).unwrap()).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// Number of hits of a limit.
    fn hits(&self, limit: &str) -> u64 {
        self.counted("trilby_server_limit_hits_total", limit)
    }

    /// The sum of a counter over the series with this label value.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    fn counted(&self, name: &str, label: &str) -> u64 {
        let mut count = 0.0;
        for family in self.scope.metrics().gather() {
            for series in family.get_metric().iter().filter(|_| family.name() == name) {
                if series.get_label().iter().any(|l| l.value() == label) {
                    count += series.get_counter().get_value();
                }
            }
        }
        count as u64
    }
}

/// Not checked by clients of the control plane.
fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn id(namespace: &str, app: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::parse("cluster.local").unwrap(), namespace, app).unwrap()
}

fn fixed(svid: &TestSvid, anchors: TrustAnchors) -> Svid {
    let certified = CertifiedSvid::new(svid.chain.clone(), &svid.key).unwrap();
    Svid::fixed(certified, watch::channel(Arc::new(anchors)).1)
}

/// Sends a request and reads the status of the answer; 0 if the connection ended without one.
async fn request_status(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> u16 {
    // The server may have closed the connection already.
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return 0,
            }
        }
        let head = String::from_utf8(head).unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    };
    tokio::time::timeout(WAIT, answer).await.unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

async fn is_served(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    request_status(stream, &get("/")).await == 200
}

/// Waits for the end of a connection on which the server sends nothing more.
async fn ended(stream: &mut (impl AsyncRead + Unpin)) {
    let end = async { while stream.read_u8().await.is_ok() {} };
    tokio::time::timeout(WAIT, end).await.expect("the connection is still open");
}

#[tokio::test]
async fn a_peer_without_a_handshake_is_disconnected() {
    let limits = Limits { handshake: SHORT, ..Limits::default() };
    let fixture = Fixture::tls(limits, ClientAuth::Spiffe).await;
    ended(&mut fixture.connect().await).await;
    assert_eq!(fixture.hits("handshake_deadline"), 1);
}

#[tokio::test]
async fn a_peer_that_sends_no_request_is_disconnected() {
    let limits = Limits { first_request: SHORT, ..Limits::default() };
    let fixture = Fixture::tls(limits, ClientAuth::Spiffe).await;
    ended(&mut fixture.connect_as("cart").await.unwrap()).await;

    let fixture = Fixture::plain(limits).await;
    for sent in [&b""[..], b"GET / HTT", PREFACE, &[PREFACE, SETTINGS].concat()] {
        let mut stream = fixture.connect().await;
        stream.write_all(sent).await.unwrap();
        ended(&mut stream).await;
    }
    assert_eq!(fixture.hits("first_request_deadline"), 4);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_an_open_stream_is_not() {
    let limits = Limits { idle: SHORT, streaming_paths: &["/stream"], ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut streaming = fixture.connect().await;
    streaming.write_all(get("/stream").as_bytes()).await.unwrap();
    let mut idle = fixture.connect().await;
    assert!(is_served(&mut idle).await);
    ended(&mut idle).await;
    assert_eq!(fixture.hits("idle_deadline"), 1);
    let none = streaming.try_read(&mut [0]).unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock, "the stream stays open");
}

#[tokio::test]
async fn an_address_has_as_many_connections_as_it_may() {
    let limits = Limits { connections_per_address: 3, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(fixture.connect().await);
        assert!(is_served(open.last_mut().unwrap()).await);
    }
    assert!(!is_served(&mut fixture.connect().await).await);
    assert_eq!(fixture.hits("connections_per_address"), 1);
    assert!(is_served(&mut fixture.connect_from("127.0.0.2").await).await);
    open.pop();
    testkit::until("a connection is free again", async || {
        is_served(&mut fixture.connect().await).await
    })
    .await;
}

#[tokio::test]
async fn an_identity_has_as_many_connections_as_it_may() {
    let limits = Limits { connections_per_identity: 2, ..Limits::default() };
    let fixture = Fixture::tls(limits, ClientAuth::Spiffe).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(fixture.connect_as("cart").await.unwrap());
        assert!(is_served(open.last_mut().unwrap()).await);
    }
    let mut third = fixture.connect_as("cart").await.unwrap();
    assert!(!is_served(&mut third).await);
    assert_eq!(fixture.hits("connections_per_identity"), 1);
    assert!(is_served(&mut fixture.connect_as("other").await.unwrap()).await);
}

#[tokio::test]
async fn a_flood_from_one_address_does_not_keep_others_out() {
    let limits = Limits { connections: 4, handshakes: 4, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut flood = Vec::new();
    for _ in 0..4 {
        flood.push(fixture.connect().await);
    }
    // The slots are taken before the next connection is accepted.
    assert!(is_served(&mut fixture.connect_from("127.0.0.2").await).await);
    ended(&mut flood[0]).await;
    assert!(is_served(&mut flood[1]).await, "only the oldest made room");
    assert_eq!(fixture.hits("connections"), 1);
}

#[tokio::test]
async fn handshakes_under_way_are_limited_and_a_flood_of_them_does_not_keep_others_out() {
    let limits = Limits { handshakes: 3, handshakes_per_address: 2, ..Limits::default() };
    let fixture = Fixture::tls(limits, ClientAuth::Spiffe).await;
    let mut waiting = [fixture.connect().await, fixture.connect().await];
    ended(&mut fixture.connect().await).await;
    assert_eq!(fixture.hits("handshakes_per_address"), 1);
    let _other = fixture.connect_from("127.0.0.2").await;
    let _newcomer = fixture.connect_from("127.0.0.3").await;
    ended(&mut waiting[0]).await;
    assert_eq!(fixture.hits("handshakes"), 1);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_in_the_clients_terms() {
    let limits = Limits { request: SHORT, streaming_paths: &["/stream"], ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    assert_eq!(request_status(&mut fixture.connect().await, &get("/never")).await, 408);
    let grpc = "POST /never HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    let mut stream = fixture.connect().await;
    stream.write_all(grpc.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer.push(char::from(stream.read_u8().await.unwrap()));
    }
    assert!(answer.contains("grpc-status: 4\r\n"), "{answer}");
    assert_eq!(fixture.hits("request_deadline"), 2);
}

#[tokio::test]
async fn a_request_whose_answer_stays_open_has_the_limits_of_others_until_then() {
    let limits = Limits {
        body_bytes: 10,
        request: SHORT,
        idle: SHORT,
        streaming_answers: &["/unending"],
        ..Limits::default()
    };
    let fixture = Fixture::plain(limits).await;
    let head =
        |length| format!("POST /unending HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let too_large = head(11) + "01234567890";
    assert_eq!(request_status(&mut fixture.connect().await, &too_large).await, 413);
    let unfinished = head(10) + "012345678";
    assert_eq!(request_status(&mut fixture.connect().await, &unfinished).await, 408);

    let mut open = fixture.connect().await;
    assert_eq!(request_status(&mut open, &(head(10) + "0123456789")).await, 200);
    // A request and an idle connection that come later are ended.
    assert_eq!(request_status(&mut fixture.connect().await, &get("/never")).await, 408);
    let mut idle = fixture.connect().await;
    assert!(is_served(&mut idle).await);
    ended(&mut idle).await;
    let none = open.try_read(&mut [0]).unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock, "the answer stays open");
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit() {
    let limits = Limits { body_bytes: 10, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    for (length, want) in [(10, 200), (11, 413)] {
        let body = "x".repeat(length);
        let sized =
            format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        assert_eq!(request_status(&mut fixture.connect().await, &sized).await, want, "{length}");
        let chunked = format!(
            "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        assert_eq!(
            request_status(&mut fixture.connect().await, &chunked).await,
            want,
            "{length} chunked"
        );
    }
    assert_eq!(fixture.hits("body_bytes"), 2);
}

#[tokio::test]
async fn headers_larger_than_the_limit_are_refused() {
    let fixture = Fixture::plain(Limits::default()).await;
    let padded =
        |bytes: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    let limit = Limits::default().header_bytes as usize;
    let overhead = padded(0).len();
    assert_eq!(request_status(&mut fixture.connect().await, &padded(limit - overhead)).await, 200);
    assert_eq!(fixture.hits("header_bytes"), 0);
    assert_eq!(
        request_status(&mut fixture.connect().await, &padded(limit - overhead + 1)).await,
        431
    );
    testkit::until("the hit to be counted", async || fixture.hits("header_bytes") == 1).await;
}

/// The value of a setting in the server's SETTINGS frame.
async fn setting(mut stream: impl AsyncRead + AsyncWrite + Unpin, wanted: u16) -> u32 {
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame of a server is SETTINGS");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    for _ in 0..length / 6 {
        let (identifier, value) =
            (stream.read_u16().await.unwrap(), stream.read_u32().await.unwrap());
        if identifier == wanted {
            return value;
        }
    }
    panic!("the server does not set {wanted}")
}

#[tokio::test]
async fn a_peer_without_certificate_gets_fewer_streams() {
    let limits = Limits { streams: 7, streams_unauthenticated: 5, ..Limits::default() };
    let plain = Fixture::plain(limits).await;
    assert_eq!(setting(plain.connect().await, MAX_CONCURRENT_STREAMS).await, 5);
    for (clients, want) in [(ClientAuth::None, 5), (ClientAuth::Spiffe, 7)] {
        let fixture = Fixture::tls(limits, clients).await;
        let stream = fixture.connect_as("cart").await.unwrap();
        assert_eq!(setting(stream, MAX_CONCURRENT_STREAMS).await, want);
    }
    assert_eq!(Limits::default().streams_unauthenticated, 16);
}

#[tokio::test]
async fn a_connection_has_as_many_streams_as_it_may() {
    let limits = Limits { streams_unauthenticated: 3, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut stream = fixture.connect().await;
    // HEADERS of a stream that is never answered: GET, http, path "/never", authority "h".
    let headers = |id: u8| {
        let head = [0, 0, 13, 1, 5, 0, 0, 0, id];
        [&head[..], &b"\x82\x86\x44\x06/never\x41\x01h"[..]].concat()
    };
    let open = [PREFACE, SETTINGS, &headers(1), &headers(3)].concat();
    stream.write_all(&open).await.unwrap();
    assert_eq!(fixture.hits("streams"), 0);
    stream.write_all(&headers(5)).await.unwrap();
    testkit::until("the third stream to be counted", async || fixture.hits("streams") == 1).await;
    stream.write_all(&headers(7)).await.unwrap();
    // RST_STREAM of stream 7: REFUSED_STREAM.
    let refused = [0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 7];
    let mut received = Vec::new();
    while !received.windows(refused.len()).any(|window| window == refused) {
        let read = tokio::time::timeout(WAIT, stream.read_buf(&mut received)).await;
        assert!(read.expect("stream 7 is not refused").unwrap() > 0, "{received:?}");
    }
    let reset = |id: u8| [0, 0, 4, 3, 0, 0, 0, 0, id];
    assert!([1, 3, 5].iter().all(|id| !received.windows(9).any(|window| window == reset(*id))));
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_is_disconnected() {
    let limits = Limits { request: SHORT, write_stall: WAIT, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut stream = fixture.connect().await;
    // HTTP/2: the window of every stream is 0, so that the server may not send a byte of the body.
    let no_window: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    // HEADERS of stream 1: GET, http, path "/huge", authority "h".
    let headers: &[u8] = b"\x00\x00\x0c\x01\x05\x00\x00\x00\x01\x82\x86\x44\x05/huge\x41\x01h";
    stream.write_all(&[PREFACE, no_window, headers].concat()).await.unwrap();
    ended(&mut stream).await;
    assert_eq!(fixture.hits("request_deadline"), 1);
}

#[tokio::test]
async fn a_peer_that_stops_reading_from_its_socket_is_disconnected() {
    let limits = Limits { write_stall: SHORT, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut stream = fixture.connect().await;
    stream.write_all(get("/huge").as_bytes()).await.unwrap();
    testkit::until("the server disconnects", async || fixture.hits("write_stall") > 0).await;
}

#[tokio::test]
async fn another_identity_than_the_expected_one_is_refused_in_the_handshake() {
    let fixture = Fixture::tls(Limits::default(), ClientAuth::Only(id("shop", "cart"))).await;
    assert!(is_served(&mut fixture.connect_as("cart").await.unwrap()).await);
    let mut other = fixture.connect_as("other").await.unwrap();
    let refusal = other.read_u8().await.unwrap_err().to_string();
    assert!(refusal.contains("received fatal alert"), "{refusal}");
}

#[tokio::test]
async fn a_panic_ends_one_request_and_is_counted() {
    let fixture = Fixture::plain(Limits::default()).await;
    assert_eq!(request_status(&mut fixture.connect().await, &get("/panic")).await, 0);
    assert_eq!(fixture.counted("trilby_server_panics_total", "test"), 1);
    assert!(is_served(&mut fixture.connect().await).await);
}

/// The deadlines are those of a machine that does not also run the client: only numbers count here.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_sidecars_that_start_at_once_behind_one_address_are_served() {
    const SIDECARS: usize = 2_000;
    let patient = Duration::from_mins(10);
    let limits = Limits { handshake: patient, first_request: patient, ..Limits::default() };
    runtime::descriptors::raise();
    let fixture = Fixture::tls(limits, ClientAuth::Spiffe).await;
    let connector = fixture.connector("cart");
    let mut starting = Vec::new();
    for _ in 0..SIDECARS {
        starting.push(fixture.connect().await);
    }
    // All handshakes are under way; those of every twentieth are finished here.
    let mut served = Vec::new();
    for tcp in starting.iter_mut().step_by(20) {
        let mut stream = connector.connect(server_name(), tcp).await.unwrap();
        assert!(is_served(&mut stream).await);
        served.push(stream);
    }
    assert_eq!(served.len(), SIDECARS / 20);
    let hit = fixture.scope.metrics().gather();
    assert!(hit.iter().all(|family| family.name() != "trilby_server_limit_hits_total"));
}
