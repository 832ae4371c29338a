//! Many streams, one of them of a sidecar that does not read.
use proto::operator::ResourceEventType::{Created, Deleted, Updated};
use serde_json::json;
use tokio::task::JoinSet;

use crate::world::{World, component};

/// Sidecars that read.
const READERS: usize = 20;
/// States that one object goes through.
const STATES: usize = 48;
/// Bytes of each state. All states together are far more than HTTP/2 takes off the operator's hands
/// for a stream that nobody reads, which is 2 MiB and a connection's buffers.
const SIZE: usize = 128 * 1024;

#[tokio::test]
async fn a_stream_that_is_not_read_holds_nobody_up_and_gets_the_last_state() {
    let world = World::start().await;
    world.synced();
    let state = |version: usize| {
        let filling = format!("{version} {}", "x".repeat(SIZE));
        let filling = json!([{"name": "filling", "value": filling}]);
        component("big", &version.to_string(), &filling, &[])
    };
    let mut deaf = world.components("deaf").await;
    let mut leader = world.components("leader").await;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let mut stream = world.components(&format!("reader-{reader}")).await;
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
        world.put(&state(version));
        let want = if version == 1 { Created } else { Updated };
        assert_eq!(leader.next().await, (want, "big".to_owned()));
    }
    world.delete(&state(STATES));
    assert_eq!(leader.next().await, (Deleted, "big".to_owned()));
    world.put(&component("last", "1", &json!([]), &[]));
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
