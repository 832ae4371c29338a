//! Open requests of a peer, over all its connections.

use tokio::io::AsyncWriteExt as _;
use transport::Limits;
use transport::tls::ClientAuth;

use crate::{Fixture, get, is_served, request_status};

const LIMITS: fn() -> Limits =
    || Limits { requests_per_peer: 2, streaming_paths: &["/stream"], ..Limits::default() };

#[tokio::test]
async fn an_identity_has_as_many_open_requests_as_it_may() {
    let fixture = Fixture::tls(LIMITS(), ClientAuth::Spiffe).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = fixture.connect_as("cart").await.unwrap();
        assert!(is_served(&mut stream).await, "one is open at most");
        stream.write_all(get("/stream").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        open.push(stream);
    }
    let mut further = fixture.connect_as("cart").await.unwrap();
    testkit::until("both are open", async || request_status(&mut further, &get("/")).await == 429)
        .await;
    assert!(fixture.hits("requests_per_peer") >= 1);
    assert!(is_served(&mut fixture.connect_as("orders").await.unwrap()).await);
    open.pop();
    testkit::until("one may be open again", async || is_served(&mut further).await).await;
}

#[tokio::test]
async fn an_address_has_as_many_open_requests_of_unknown_peers_as_it_may() {
    let fixture = Fixture::plain(LIMITS()).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = fixture.connect().await;
        stream.write_all(get("/stream").as_bytes()).await.unwrap();
        open.push(stream);
    }
    let mut further = fixture.connect().await;
    testkit::until("both are open", async || request_status(&mut further, &get("/")).await == 429)
        .await;
    assert!(is_served(&mut fixture.connect_from("127.0.0.2").await).await);
    open.pop();
    testkit::until("one may be open again", async || is_served(&mut further).await).await;
}
