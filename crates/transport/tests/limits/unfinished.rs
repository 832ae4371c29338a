//! Bodies that have not ended, over all connections of an address.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use transport::Limits;

use crate::{Fixture, is_served, request_status};

/// A request whose body lacks its last byte, and takes so many steps of 16 KiB.
async fn unfinished(fixture: &Fixture, ip: &str, steps: usize) -> TcpStream {
    let length = steps * 16 * 1024;
    let head = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let mut stream = fixture.connect_from(ip).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; length - 1]).await.unwrap();
    stream
}

#[tokio::test]
async fn unfinished_bodies_of_an_address_wait_at_its_share_and_others_are_served() {
    let share = 4 * 16 * 1024;
    let limits = Limits { unfinished_bytes_per_address: share, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(unfinished(&fixture, "127.0.0.1", 1).await);
    }
    let mut other = fixture.connect_from("127.0.0.2").await;
    assert!(is_served(&mut other).await);
    assert_eq!(fixture.hits("unfinished_bytes"), 0, "as much as it may");

    let mut waits = unfinished(&fixture, "127.0.0.1", 1).await;
    testkit::until("the hit to be counted", async || fixture.hits("unfinished_bytes") == 1).await;
    let mut other = unfinished(&fixture, "127.0.0.2", 1).await;
    assert_eq!(request_status(&mut other, "x").await, 200);
    assert!(
        is_served(&mut fixture.connect().await).await,
        "a request without a body needs no room"
    );

    assert_eq!(request_status(&mut held.remove(2), "x").await, 200);
    assert_eq!(request_status(&mut waits, "x").await, 200);
    assert_eq!(request_status(&mut held.remove(0), "x").await, 200);
}

#[tokio::test]
async fn a_flood_of_unfinished_bodies_makes_room_for_other_addresses() {
    let total = 4 * 16 * 1024;
    let limits = Limits { unfinished_bytes: total, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    let oldest = &mut unfinished(&fixture, "127.0.0.1", 2).await;
    let second = &mut unfinished(&fixture, "127.0.0.1", 2).await;
    let third = &mut unfinished(&fixture, "127.0.0.1", 1).await;
    testkit::until("the last to wait", async || fixture.hits("unfinished_bytes") == 1).await;

    let mut other = unfinished(&fixture, "127.0.0.2", 1).await;
    assert_eq!(request_status(&mut other, "x").await, 200);
    assert_eq!(request_status(oldest, "").await, 503, "it made room");
    assert_eq!(request_status(second, "x").await, 200);
    assert_eq!(request_status(third, "x").await, 200);
    assert_eq!(fixture.hits("unfinished_bytes"), 2);
}

#[tokio::test]
async fn a_body_larger_than_the_share_is_served_while_it_is_the_only_one() {
    let limits =
        Limits { unfinished_bytes: 1, unfinished_bytes_per_address: 1, ..Limits::default() };
    let fixture = Fixture::plain(limits).await;
    for _ in 0..2 {
        assert_eq!(request_status(&mut unfinished(&fixture, "127.0.0.1", 9).await, "x").await, 200);
    }
    assert_eq!(fixture.hits("unfinished_bytes"), 0);
}
