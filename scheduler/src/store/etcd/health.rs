//! Whether etcd answers and takes puts.

use std::sync::Arc;
use std::time::Duration;

use proto::etcd::etcdserverpb::AlarmType;
use runtime::clock;
use tokio::sync::watch;

use super::client::Client;
use super::requests;
use crate::store::{State, StoreError, keys};

/// Interval between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Time without an answer after which the store counts as lost. A change of etcd's leader takes
/// less.
const LOST: Duration = Duration::from_secs(8);

/// Probes until it is dropped.
pub(super) async fn watch(client: Arc<Client>, state: Arc<watch::Sender<State>>) {
    let mut answered = clock::monotonic();
    loop {
        match probe(&client).await {
            Ok(found) => {
                answered = clock::monotonic();
                publish(&state, found);
            }
            Err(error) if answered.elapsed() >= LOST => {
                publish(&state, State::Reopening(error.to_string()));
            }
            Err(_) => {}
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn probe(client: &Client) -> Result<State, StoreError> {
    let mut read = requests::prefix(keys::LEADERSHIP.as_bytes());
    read.count_only = true;
    client.probe(read).await?;
    // Without the right to list alarms none counts as raised.
    let alarms = client.alarms().await.map(|answer| answer.alarms).unwrap_or_default();
    let full = alarms.iter().any(|alarm| alarm.alarm() == AlarmType::Nospace);
    Ok(if full { State::NoSpace } else { State::Serving })
}

fn publish(state: &watch::Sender<State>, now: State) {
    state.send_if_modified(|before| {
        let changed = *before != now;
        if changed {
            match &now {
                State::Serving => tracing::info!(target: LOG, "etcd serves"),
                State::NoSpace => tracing::error!(target: LOG,
                    "etcd has reached its quota: new jobs are refused. Delete jobs, compact, \
                     defragment, then clear the alarm: etcdctl alarm disarm"),
                State::Reopening(why) => tracing::error!(target: LOG, "{why}"),
                State::DiskFull => {}
            }
            *before = now;
        }
        changed
    });
}

const LOG: &str = "dapr.scheduler.store";
