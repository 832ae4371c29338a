//! Many streams, one of them of a sidecar that does not read, or is gone without a word.
use std::time::Duration;

use operator::BudgetLimits;
use proto::operator::ResourceEventType::{Created, Deleted, Updated};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use transport::Keepalive;

use crate::fixture::{Fixture, component, components_of};

/// Sidecars that read.
const READERS: usize = 20;
/// States that one object goes through.
const STATES: usize = 48;
/// Bytes of each state. All states together are far more than HTTP/2 takes off the operator's hands
/// for a stream that nobody reads, which is 2 MiB and a connection's buffers.
const SIZE: usize = 128 * 1024;

#[tokio::test]
async fn a_stream_that_is_not_read_holds_nobody_up_and_gets_the_last_state() {
    let fixture = Fixture::start().await;
    fixture.synced();
    let state = |version: usize| {
        let filling = format!("{version} {}", "x".repeat(SIZE));
        let filling = json!([{"name": "filling", "value": filling}]);
        component("big", &version.to_string(), &filling, &[])
    };
    let mut deaf = fixture.components("deaf").await;
    let mut leader = fixture.components("leader").await;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let mut stream = fixture.components(&format!("reader-{reader}")).await;
        readers.spawn(async move {
            // Ends with the object: whoever is late may have missed states, never the last event.
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
    for heard in readers.join_all().await {
        assert_eq!(heard, (Created, "last".to_owned()));
    }

    // What was under way when the deaf one stopped reading, one event for all that came after it,
    // and what is new since.
    let mut heard = vec![deaf.next().await];
    while heard.last().is_some_and(|(_, name)| name == "big") {
        heard.push(deaf.next().await);
    }
    assert!(heard.len() < STATES / 2, "{} events of {STATES}", heard.len());
    let end = [(Deleted, "big".to_owned()), (Created, "last".to_owned())];
    assert_eq!(heard.split_off(heard.len() - 2), end);
}

/// A way to `address` for one connection, which carries nothing any more once it is cut, and keeps
/// both ends open: as when a node loses its power. Returns where it begins.
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
async fn a_sidecar_that_is_gone_without_a_word_is_dropped_alone() {
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(5));
    let fixture =
        Fixture::start_with(Keepalive { interval, timeout }, BudgetLimits::default()).await;
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
