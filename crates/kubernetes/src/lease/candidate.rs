//! The calls of one candidate.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, Resource as _};
use runtime::{chain, clock, random};
use tokio_util::sync::CancellationToken;

use super::decision::{Observed, Step, decide, record, released};
use super::{LeaseOptions, LeaseState};
use crate::events::{Event, EventType, Recorder, Repeat};

const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Limit of releasing the lease, and of recording an Event.
const WRITE_LIMIT: Duration = Duration::from_secs(2);
/// Target of the log lines.
const LOG: &str = "dapr.leaderelection";

pub(super) struct Candidate {
    api: Api<Lease>,
    recorder: Recorder,
    options: LeaseOptions,
    observed: Observed,
    /// When the write was sent that last acquired or renewed the lease; `None` while another
    /// candidate holds it. Others count from when they see the write, which is later.
    renewed: Option<Instant>,
    /// The state that was logged last.
    leads: bool,
}

impl Candidate {
    pub(super) fn new(client: Client, options: LeaseOptions, recorder: Recorder) -> Self {
        Self {
            api: Api::namespaced(client, &options.namespace),
            recorder,
            options,
            observed: Observed::default(),
            renewed: None,
            leads: false,
        }
    }

    /// Acquires and renews the lease until `token` is cancelled, then releases it.
    pub(super) async fn run(mut self, token: &CancellationToken, publish: impl Fn(LeaseState)) {
        let election = async {
            loop {
                self.round().await;
                let state = self.state(clock::monotonic());
                publish(state);
                self.announce(state).await;
                let pause = random::jittered(self.options.timing.retry, 0.1);
                tokio::time::sleep(self.at_most(pause)).await;
                publish(self.state(clock::monotonic()));
            }
        };
        token.run_until_cancelled(election).await;
        publish(LeaseState::Unknown);
        self.release().await;
    }

    /// When leading ends unless the lease is renewed.
    fn deadline(&self) -> Option<Instant> {
        self.renewed.map(|at| at + self.options.timing.renew_deadline)
    }

    /// A time to wait that does not exceed the deadline: a call without an answer must not prolong
    /// leading.
    fn at_most(&self, time: Duration) -> Duration {
        let now = clock::monotonic();
        let left = self.deadline().map(|end| end.saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).map_or(time, |left| left.min(time))
    }

    fn state(&self, now: Instant) -> LeaseState {
        let spec = self.observed.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        if self.deadline().is_some_and(|end| now < end) {
            LeaseState::Leader { transitions: u64::try_from(transitions).unwrap_or_default() }
        } else if decide(&self.observed, &self.options.identity, now) == Step::Wait {
            LeaseState::Follower
        } else {
            LeaseState::Unknown
        }
    }

    /// Logs that leading started or ended, and records it on the Lease.
    async fn announce(&mut self, state: LeaseState) {
        let leads = state.is_leader();
        if std::mem::replace(&mut self.leads, leads) != leads {
            let text = if leads { "became leader" } else { "stopped leading" };
            tracing::info!(target: LOG, identity = self.options.identity, "{text}");
            self.record_event(text).await;
        }
    }

    /// The text is that of client-go.
    async fn record_event(&self, text: &str) {
        let Some(lease) = &self.observed.lease else { return };
        let (object, event) = event(lease, &self.options.identity, text);
        let write = self.recorder.record_event(&object, event);
        if tokio::time::timeout(self.at_most(WRITE_LIMIT), write).await.is_err() {
            tracing::debug!(target: LOG, "Event was not recorded: no answer");
        }
    }

    async fn round(&mut self) {
        let limit = self.at_most(CALL_LIMIT);
        match tokio::time::timeout(limit, self.attempt()).await {
            Ok(Ok(sent)) => self.renewed = sent,
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::warn!(target: LOG, "lease {}: {error}", self.options.name);
            }
            Err(_) => tracing::warn!(target: LOG, "lease {}: no answer", self.options.name),
        }
    }

    /// Tries to acquire or renew the lease; returns when the successful write was sent, `None`
    /// when another candidate holds it.
    async fn attempt(&mut self) -> kube::Result<Option<Instant>> {
        let seen = self.api.get_opt(&self.options.name).await?;
        if seen.as_ref().map(|lease| &lease.spec) != self.observed.lease.as_ref().map(|l| &l.spec) {
            self.observed.since = Some(clock::monotonic());
        }
        self.observed.lease = seen;
        let step = decide(&self.observed, &self.options.identity, clock::monotonic());
        let old = self.observed.lease.as_ref();
        let spec = self.record(old.and_then(|lease| lease.spec.as_ref()));
        let sent = clock::monotonic();
        let written = match (step, old) {
            (Step::Wait, _) => return Ok(None),
            (Step::Acquire, Some(old)) => {
                let lease = Lease { spec: Some(spec), ..old.clone() };
                self.api.replace(&self.options.name, &PostParams::default(), &lease).await
            }
            (Step::Create | Step::Acquire, _) => {
                let metadata =
                    ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.observed = Observed { lease: Some(lease), since: Some(clock::monotonic()) };
                Ok(Some(sent))
            }
            // Another candidate was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn record(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        record(old, &self.options.identity, self.options.timing.lease, clock::now())
    }

    async fn release(&mut self) {
        let Some(lease) = self.observed.lease.clone().filter(|_| self.renewed.is_some()) else {
            return;
        };
        let spec = released(self.record(lease.spec.as_ref()));
        let lease = Lease { spec: Some(spec), ..lease };
        let name = self.options.name.clone();
        let params = PostParams::default();
        let write = self.api.replace(&name, &params, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(WRITE_LIMIT, write).await {
            let error = chain(&error);
            tracing::debug!(target: LOG, "lease {name} was not released: {error}");
        }
        self.record_event("stopped leading").await;
    }
}

/// The Event about a new holder of the Lease.
fn event(lease: &Lease, identity: &str, text: &str) -> (ObjectReference, Event) {
    let event = Event {
        type_: EventType::Normal,
        reason: "LeaderElection",
        action: "LeaderElection",
        note: format!("{identity} {text}"),
        repeat: Repeat::Always,
    };
    (lease.object_ref(&()), event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_names_the_lease_and_the_holder() {
        let metadata = ObjectMeta {
            name: Some("operator.dapr.io".to_owned()),
            namespace: Some("dapr-system".to_owned()),
            ..ObjectMeta::default()
        };
        let (about, event) = event(&Lease { metadata, spec: None }, "me", "became leader");
        assert_eq!(event.note, "me became leader");
        assert_eq!(about.namespace.as_deref(), Some("dapr-system"));
        let about = [about.kind, about.api_version, about.name];
        let want = ["Lease", "coordination.k8s.io/v1", "operator.dapr.io"];
        assert_eq!(about, want.map(|text| Some(text.to_owned())));
    }
}
