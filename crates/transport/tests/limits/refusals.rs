//! Refused requests, over all connections of an address.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use transport::Limits;

use crate::{Fixture, SHORT, get, is_served, request_status};

/// A connection that has asked for what is not there.
async fn refused(fixture: &Fixture, ip: &str) -> TcpStream {
    let mut stream = fixture.connect_from(ip).await;
    stream.write_all(get("/unknown").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn refusals_of_an_address_wait_beyond_their_rate_and_others_are_served() {
    let limits = Limits { refusals_per_second: 1, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    for _ in 0..4 {
        assert_eq!(request_status(&mut refused(&fixture, "127.0.0.1").await, "").await, 404);
    }
    assert_eq!(fixture.hits("refusals"), 0, "as many as it may");

    let mut waits = refused(&fixture, "127.0.0.1").await;
    testkit::until("the hit to be counted", async || fixture.hits("refusals") == 1).await;
    assert!(is_served(&mut fixture.connect().await).await, "what is not refused");
    assert_eq!(request_status(&mut refused(&fixture, "127.0.0.2").await, "").await, 404);
    assert_eq!(fixture.hits("refusals"), 1);
    assert_eq!(request_status(&mut waits, "").await, 404);
}

#[tokio::test]
async fn a_refusal_waits_no_longer_than_a_request_may_take() {
    let limits = Limits { refusals_per_second: 1, request: SHORT, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(refused(&fixture, "127.0.0.1").await);
    }
    // The turn of the last is in a minute, later than the client waits.
    for stream in &mut all {
        assert_eq!(request_status(stream, "").await, 404);
    }
    assert_eq!(fixture.hits("refusals"), 60);
}
