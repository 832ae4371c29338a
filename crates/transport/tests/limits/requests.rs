//! Open requests of a peer, over all its connections.

use tokio::io::AsyncWriteExt as _;
use transport::Limits;
use transport::tls::ClientAuth;

use crate::{Fixture, get, is_served, request_status};

fn limits() -> Limits {
    Limits { requests_per_peer: 2, streaming_paths: &["/stream"], ..Limits::default() }
}

#[tokio::test]
async fn an_identity_has_as_many_open_requests_as_it_may() {
    let fixture = Fixture::tls(limits(), ClientAuth::Spiffe).await;
    let connect = async |app| fixture.connect_as(app).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect("cart").await;
        stream.write_all(get("/stream").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        open.push(stream);
    }
    let refused = async || request_status(&mut connect("cart").await, &get("/")).await == 429;
    testkit::until("both are open", refused).await;
    assert!(fixture.hits("requests_per_peer") >= 1);
    assert!(is_served(&mut connect("orders").await).await, "another identity");
    open.pop();
    let served = async || is_served(&mut connect("cart").await).await;
    testkit::until("one may be open again", served).await;
}

#[tokio::test]
async fn an_address_has_as_many_open_requests_of_unknown_peers_as_it_may() {
    let fixture = Fixture::plain(limits()).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = fixture.connect().await;
        stream.write_all(get("/stream").as_bytes()).await.unwrap();
        open.push(stream);
    }
    let refused = async || request_status(&mut fixture.connect().await, &get("/")).await == 429;
    testkit::until("both are open", refused).await;
    assert!(is_served(&mut fixture.connect_from("127.0.0.2").await).await, "another address");
    open.pop();
    let served = async || is_served(&mut fixture.connect().await).await;
    testkit::until("one may be open again", served).await;
}
