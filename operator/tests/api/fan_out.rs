//! Many streams, one of a sidecar that does not read, or that vanishes without closing its
//! connection.
use std::time::Duration;

use operator::ApiLimits;
use proto::operator::ResourceEventType::{Created, Deleted, Updated};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport::Keepalive;

use crate::fixture::{Fixture, component, components_of};

/// Sidecars that read.
const READERS: usize = 20;
/// States of one object.
const STATES: usize = 48;
/// Bytes of each state. All states together are far more than HTTP/2 accepts for a stream without a
/// reader, which is 2 MiB and a connection's buffers.
const SIZE: usize = 128 * 1024;

#[tokio::test]
async fn a_stream_that_is_not_read_delays_no_other_and_gets_the_last_state() {
    let fixture = Fixture::start().await;
    fixture.synced();
    let state = |version: usize| {
        let filling = format!("{version} {}", "x".repeat(SIZE));
        let filling = json!([{"name": "filling", "value": filling}]);
        component("big", &version.to_string(), &filling, &[])
    };
    let mut stalled = fixture.components("stalled").await;
    let mut leader = fixture.components("leader").await;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let mut stream = fixture.components(&format!("reader-{reader}")).await;
        readers.spawn(async move {
            // Ends with the object: a late reader may have missed states, never the last event.
            loop {
                let (event, name) = stream.next().await;
                if event == Deleted && name == "big" {
                    break;
                }
            }
            stream.next().await
        });
    }
    for version in 1..=STATES {
        fixture.put(&state(version));
        let want = if version == 1 { Created } else { Updated };
        assert_eq!(leader.next().await, (want, "big".to_owned()));
    }
    fixture.delete(&state(STATES));
    assert_eq!(leader.next().await, (Deleted, "big".to_owned()));
    fixture.put(&component("last", "1", &json!([]), &[]));
    for received in readers.join_all().await {
        assert_eq!(received, (Created, "last".to_owned()));
    }

    // Events in flight when the reader stopped, one event for all that followed, and new ones.
    let mut received = vec![stalled.next().await];
    while received.last().is_some_and(|(_, name)| name == "big") {
        received.push(stalled.next().await);
    }
    assert!(received.len() < STATES / 2, "{} events of {STATES}", received.len());
    let end = [(Deleted, "big".to_owned()), (Created, "last".to_owned())];
    assert_eq!(received.split_off(received.len() - 2), end);
}

/// A relay to `address` for one connection. Once it is cut it forwards nothing and keeps both ends
/// open, as when a node loses power. Returns its address.
async fn way_to(address: String, cut: CancellationToken, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begin = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let carried = tokio::io::copy_bidirectional(&mut near, &mut far);
        if cut.run_until_cancelled(carried).await.is_none() {
            std::future::pending::<()>().await; // holds the sockets
        }
    });
    begin
}

#[tokio::test]
async fn a_sidecar_that_vanishes_is_dropped_alone() {
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(5));
    let fixture = Fixture::start_with(Keepalive { interval, timeout }, ApiLimits::DEFAULT).await;
    fixture.synced();
    let (cut, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let way = way_to(fixture.address().to_owned(), cut.clone(), &mut tasks).await;
    let _gone = components_of(fixture.client_by(&way, "gone")).await;
    let mut stays = fixture.components("stays").await;
    assert_eq!(fixture.open_streams(), 2);
    cut.cancel();
    fixture.put(&component("first", "1", &json!([]), &[]));
    assert_eq!(stays.next().await, (Created, "first".to_owned()));
    testkit::until("the dead stream is dropped", async || fixture.open_streams() == 1).await;
    fixture.put(&component("last", "1", &json!([]), &[]));
    assert_eq!(stays.next().await, (Created, "last".to_owned()));
}
