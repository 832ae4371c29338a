//! Many streams, one of which is not read or belongs to an unreachable sidecar.
use std::time::Duration;

use proto::operator::ResourceEventType::{Created, Deleted, Updated};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use transport::Keepalive;

use crate::fixture::{Fixture, component, components_of};

/// Sidecars that read their streams.
const READERS: usize = 20;
/// Updates of one object.
const STATES: usize = 48;
/// Bytes of each state. All states together exceed what HTTP/2 buffers for a stream that is not read:
/// 2 MiB and the buffers of a connection.
const SIZE: usize = 128 * 1024;

#[tokio::test]
async fn stream_that_is_not_read_delays_no_other_and_receives_the_last_state() {
    let fixture = Fixture::start().await;
    fixture.synced();
    let state = |version: usize| {
        let filling = format!("{version} {}", "x".repeat(SIZE));
        let filling = json!([{"name": "filling", "value": filling}]);
        component("big", &version.to_string(), &filling, &[])
    };
    let mut unread = fixture.components("unread").await;
    let mut leader = fixture.components("leader").await;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let mut stream = fixture.components(&format!("reader-{reader}")).await;
        readers.spawn(async move {
            // A late reader may miss states, but never the last event.
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

    // The events that were buffered when the stream was no longer read, one event for all later
    // updates, and the events since then.
    let mut received = vec![unread.next().await];
    while received.last().is_some_and(|(_, name)| name == "big") {
        received.push(unread.next().await);
    }
    assert!(received.len() < STATES / 2, "{} events of {STATES}", received.len());
    let end = [(Deleted, "big".to_owned()), (Created, "last".to_owned())];
    assert_eq!(received.split_off(received.len() - 2), end);
}

/// Forwards one connection to `address`. After `cut` it carries no data but stays open, as when a node
/// loses power. Returns its own address.
async fn forward_to(address: String, cut: CancellationToken, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let carried = tokio::io::copy_bidirectional(&mut near, &mut far);
        if cut.run_until_cancelled(carried).await.is_none() {
            std::future::pending::<()>().await; // holds the sockets
        }
    });
    own
}

#[tokio::test]
async fn stream_of_an_unreachable_sidecar_is_closed_alone() {
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(5));
    let fixture = Fixture::start_with(Keepalive { interval, timeout }).await;
    fixture.synced();
    let (cut, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let forwarded = forward_to(fixture.address().to_owned(), cut.clone(), &mut tasks).await;
    let _gone = components_of(fixture.client_by(&forwarded, "gone")).await;
    let mut stays = fixture.components("stays").await;
    assert_eq!(fixture.open_streams(), 2);
    cut.cancel();
    fixture.put(&component("first", "1", &json!([]), &[]));
    assert_eq!(stays.next().await, (Created, "first".to_owned()));
    testkit::until("the dead stream is closed", async || fixture.open_streams() == 1).await;
    fixture.put(&component("last", "1", &json!([]), &[]));
    assert_eq!(stays.next().await, (Created, "last".to_owned()));
}
