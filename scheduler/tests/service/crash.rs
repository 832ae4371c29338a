//! The process under random load and `kill -9` at random moments: acknowledged data is
//! stored, and revisions grow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::{DeleteJobRequest, Job, ScheduleJobRequest};
use testkit::Choice;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::process::{Process, metadata};

/// Callers that schedule and delete at once.
const CALLERS: usize = 8;
/// Names of each caller: few, so that names are deleted and scheduled again.
const NAMES: usize = 40;
/// Largest number of acknowledged calls before a crash.
const LONGEST_LIFE: usize = 600;

/// The state of the store according to the answers.
#[derive(Default)]
struct Known {
    /// Acknowledged as stored.
    stored: BTreeSet<String>,
    /// Calls without an answer: their jobs may or may not be stored.
    uncertain: BTreeSet<String>,
    /// Acknowledged calls since the last start.
    calls: usize,
}

/// Rounds, for a long run: `TRILBY_CRASH_ROUNDS=200 cargo nextest run -p scheduler crashes` takes
/// more than ten minutes.
const ROUNDS: &str = "TRILBY_CRASH_ROUNDS";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_crashes() {
    let rounds = runtime::environment::var(ROUNDS);
    run(rounds.map_or(20, |rounds| rounds.parse().unwrap()), 19).await;
}

async fn run(rounds: u64, seed: u64) {
    let mut choice = Choice::new(seed);
    let mut scheduler = Process::start(&["--log-level=error"], &[]).await;
    let mut revision = 0;
    let known = Arc::new(Mutex::new(Known::default()));
    for round in 0..rounds {
        let channel = scheduler.channel();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let client = SchedulerClient::new(channel.clone());
            callers.spawn(load(client, caller, choice.number(), known.clone()));
        }
        let life = choice.below(LONGEST_LIFE);
        testkit::until("enough calls", async || known.lock().unwrap().calls >= life).await;
        scheduler.crash().await;
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        let header = scheduler.range("none").await.header.unwrap();
        assert!(header.revision > revision, "round {round}, seed {seed}: {header:?}");
        revision = header.revision;
        let found = scheduler.names().await.unwrap();
        let mut known = known.lock().unwrap();
        let lost: Vec<_> = known.stored.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}, seed {seed}: lost {lost:?}");
        let new = found.difference(&known.stored);
        let unasked: Vec<_> = new.filter(|name| !known.uncertain.contains(*name)).collect();
        assert!(unasked.is_empty(), "round {round}, seed {seed}: came back {unasked:?}");
        *known = Known { stored: found, ..Known::default() };
    }
    assert!(!known.lock().unwrap().stored.is_empty());
}

/// Schedules and deletes until a call fails, which is the crash.
async fn load(
    mut client: SchedulerClient<Channel>,
    caller: usize,
    seed: u64,
    known: Arc<Mutex<Known>>,
) {
    let mut choice = Choice::new(seed);
    loop {
        let name = format!("{caller}-{}", choice.below(NAMES));
        let puts = choice.below(3) > 0;
        {
            let mut known = known.lock().unwrap();
            known.stored.remove(&name);
            known.uncertain.insert(name.clone());
        }
        let done = if puts {
            let job = Some(Job { due_time: Some("24h".to_owned()), ..Job::default() });
            let (name, metadata) = (name.clone(), Some(metadata()));
            let request = ScheduleJobRequest { name, job, metadata, overwrite: true };
            client.schedule_job(request).await.map(drop)
        } else {
            let request = DeleteJobRequest { name: name.clone(), metadata: Some(metadata()) };
            client.delete_job(request).await.map(drop)
        };
        if done.is_err() {
            return;
        }
        let mut known = known.lock().unwrap();
        known.calls += 1;
        known.uncertain.remove(&name);
        if puts {
            known.stored.insert(name);
        }
    }
}
