//! Leader election by a Lease (`coordination.k8s.io/v1`), so that one replica writes at a time.
//!
//! The rules are those of client-go's leader election: a holder that has not renewed for the
//! lease's duration, counted from when *we* last saw it change, has lost it. Clocks of different
//! machines are never compared. [`decide`] is pure; [`elect`] does the calls.
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Resource as _;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use crate::{Scope, clock, random};

/// How long the parts of an election take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A holder that does not renew for this long has lost the lease. Whole seconds.
    pub lease: Duration,
    /// A holder that could not renew for this long stops leading, before anybody else may start.
    pub renew_deadline: Duration,
    /// Time between two tries or renewals.
    pub retry: Duration,
}

impl Timing {
    /// For work that may pause: a third of a minute after a holder is gone the next one has it.
    /// Source: Dapr 1.18, operator.
    pub const PATIENT: Self = Self {
        lease: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };
    /// For work that others wait for: five seconds after a holder is gone, at two writes a second.
    pub const BRISK: Self = Self {
        lease: Duration::from_secs(4),
        renew_deadline: Duration::from_secs(3),
        retry: Duration::from_millis(500),
    };
}

/// Limit of one call.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Limit of giving the lease back, and of recording an Event.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// Which lease, and who we are.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Unique among the candidates; see [`identity`].
    pub identity: String,
    /// The same for all candidates.
    pub timing: Timing,
}

/// Who holds a lease, as one candidate knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody, as far as it knows.
    Unknown,
    /// Another candidate.
    Follows,
    /// This one.
    Leads {
        /// How often the holder changed since the Lease was made.
        transitions: u64,
    },
}

/// `<hostname>_<random>`, as candidates call themselves.
pub fn identity() -> String {
    format!("{}_{:016x}{:016x}", crate::environment::hostname(), random::bits(), random::bits())
}

/// The namespace of this pod, where its leases are.
///
/// # Errors
/// The process is in no pod.
pub fn pod_namespace() -> anyhow::Result<String> {
    const FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
    let text = std::fs::read_to_string(FILE).map_err(|_| {
        anyhow::anyhow!("unable to find leader election namespace: not running in-cluster")
    })?;
    Ok(text.trim().to_owned())
}

/// What a candidate knows.
#[derive(Debug, Clone, Default)]
struct Observed {
    lease: Option<Lease>,
    /// When this state of the lease was first seen.
    since: Option<Instant>,
}

/// What a candidate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is no Lease: make it.
    Create,
    /// It is free, expired, or ours: write our name.
    Take,
    /// Somebody else leads.
    Wait,
}

fn decide(observed: &Observed, identity: &str, now: Instant) -> Step {
    let Some(lease) = &observed.lease else { return Step::Create };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let age = observed.since.map(|since| now.saturating_duration_since(since));
    let expired = age.is_some_and(|age| age > duration);
    if holder.is_empty() || holder == identity || expired { Step::Take } else { Step::Wait }
}

/// The record that makes `identity` the holder from `now` on, for `lease`.
fn record(
    old: Option<&LeaseSpec>,
    identity: &str,
    lease: Duration,
    now: jiff::Timestamp,
) -> LeaseSpec {
    let same = old.is_some_and(|old| old.holder_identity.as_deref() == Some(identity));
    let transitions = old.and_then(|old| old.lease_transitions).unwrap_or_default();
    let acquired = old.filter(|_| same).and_then(|old| old.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(lease.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: acquired.or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if same || old.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

/// What is said on the Lease when its holder changes (client-go, reason and words).
fn event(about: ObjectReference, identity: &str, text: &str, now: jiff::Timestamp) -> Event {
    let namespace = about.namespace.clone();
    let name = about.name.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(format!("{name}.{:016x}", random::bits())),
        namespace,
        ..ObjectMeta::default()
    };
    let component = identity.to_owned();
    Event {
        metadata,
        involved_object: about,
        reason: Some("LeaderElection".to_owned()),
        message: Some(format!("{identity} {text}")),
        type_: Some("Normal".to_owned()),
        source: Some(EventSource { component: Some(component), host: None }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

/// Stands for election until the scope ends, then gives the lease back. The answer says whether
/// this process leads; what needs the lease runs while it is true.
pub fn elect(client: kube::Client, options: LeaseOptions, scope: &Scope) -> watch::Receiver<bool> {
    let (leading, answer) = watch::channel(false);
    campaign(client, options, scope, move |standing| {
        let leads = matches!(standing, Standing::Leads { .. });
        leading.send_if_modified(|was| std::mem::replace(was, leads) != leads);
    });
    answer
}

/// As [`elect`], for candidates that also do something while another leads.
pub fn stand(
    client: kube::Client,
    options: LeaseOptions,
    scope: &Scope,
) -> watch::Receiver<Standing> {
    let (known, answer) = watch::channel(Standing::Unknown);
    campaign(client, options, scope, move |standing| {
        known.send_if_modified(|was| std::mem::replace(was, standing) != standing);
    });
    answer
}

fn campaign(
    client: kube::Client,
    options: LeaseOptions,
    scope: &Scope,
    tell: impl Fn(Standing) + Send + Sync + 'static,
) {
    let mut candidate = Candidate {
        events: Api::namespaced(client.clone(), &options.namespace),
        api: Api::namespaced(client, &options.namespace),
        options,
        observed: Observed::default(),
        renewed: None,
        leads: false,
    };
    let token = scope.token().clone();
    scope.spawn("leader-election", async move {
        let campaign = async {
            loop {
                candidate.round().await;
                let standing = candidate.standing(clock::monotonic());
                tell(standing);
                candidate.announce(standing).await;
                let pause = random::jittered(candidate.options.timing.retry, 0.1);
                tokio::time::sleep(candidate.at_most(pause)).await;
                tell(candidate.standing(clock::monotonic()));
            }
        };
        token.run_until_cancelled(campaign).await;
        tell(Standing::Unknown);
        candidate.release().await;
        Ok(())
    });
}

struct Candidate {
    api: Api<Lease>,
    events: Api<Event>,
    options: LeaseOptions,
    observed: Observed,
    /// When the write was sent that last made or kept us the holder; `None` while somebody else
    /// leads. Others count from when they see it, which is later.
    renewed: Option<Instant>,
    /// What was announced last.
    leads: bool,
}

impl Candidate {
    /// When leading ends unless the lease is renewed.
    fn deadline(&self) -> Option<Instant> {
        self.renewed.map(|at| at + self.options.timing.renew_deadline)
    }

    /// A time to wait, no longer than leading lasts: a call that hangs must not prolong it.
    fn at_most(&self, time: Duration) -> Duration {
        let now = clock::monotonic();
        let left = self.deadline().map(|end| end.saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).map_or(time, |left| left.min(time))
    }

    fn standing(&self, now: Instant) -> Standing {
        let spec = self.observed.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        if self.deadline().is_some_and(|end| now < end) {
            Standing::Leads { transitions: u64::try_from(transitions).unwrap_or_default() }
        } else if decide(&self.observed, &self.options.identity, now) == Step::Wait {
            Standing::Follows
        } else {
            Standing::Unknown
        }
    }

    /// Logs that leading began or ended, and says it on the Lease.
    async fn announce(&mut self, standing: Standing) {
        let leads = matches!(standing, Standing::Leads { .. });
        if std::mem::replace(&mut self.leads, leads) != leads {
            let text = if leads { "became leader" } else { "stopped leading" };
            tracing::info!(target: "dapr.leaderelection", identity = self.options.identity, "{text}");
            self.record_event(text).await;
        }
    }

    /// Records an Event on the Lease; nothing depends on it.
    async fn record_event(&self, text: &str) {
        let Some(lease) = &self.observed.lease else { return };
        let event = event(lease.object_ref(&()), &self.options.identity, text, clock::now());
        let params = PostParams::default();
        let write = self.events.create(&params, &event);
        match tokio::time::timeout(self.at_most(WRITE_LIMIT), write).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let error = crate::chain(&error);
                tracing::debug!(target: "dapr.leaderelection", "event was not recorded: {error}");
            }
            Err(_) => tracing::debug!(target: "dapr.leaderelection", "event was not recorded"),
        }
    }

    async fn round(&mut self) {
        let limit = self.at_most(CALL_LIMIT);
        match tokio::time::timeout(limit, self.attempt()).await {
            Ok(Ok(sent)) => self.renewed = sent,
            Ok(Err(error)) => {
                let error = crate::chain(&error);
                tracing::warn!(target: "dapr.leaderelection", "lease {}: {error}", self.options.name);
            }
            Err(_) => {
                tracing::warn!(target: "dapr.leaderelection", "lease {}: no answer", self.options.name);
            }
        }
    }

    /// Tries to get or keep the lease; when what made it ours was sent, if it is ours now.
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
            (Step::Take, Some(old)) => {
                let lease = Lease { spec: Some(spec), ..old.clone() };
                self.api.replace(&self.options.name, &PostParams::default(), &lease).await
            }
            (Step::Create | Step::Take, _) => {
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

    /// The record that makes us the holder from now on.
    fn record(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        record(old, &self.options.identity, self.options.timing.lease, clock::now())
    }

    /// Lets the next candidate start at once.
    async fn release(&mut self) {
        let Some(lease) = self.observed.lease.clone().filter(|_| self.renewed.is_some()) else {
            return;
        };
        let mut spec = self.record(lease.spec.as_ref());
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let lease = Lease { spec: Some(spec), ..lease };
        let name = self.options.name.clone();
        let params = PostParams::default();
        let write = self.api.replace(&name, &params, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(WRITE_LIMIT, write).await {
            let error = crate::chain(&error);
            tracing::debug!(target: "dapr.leaderelection", "lease {name} was not released: {error}");
        }
        self.record_event("stopped leading").await;
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LEASE: Duration = Timing::PATIENT.lease;

    fn observed(holder: &str, seconds: i32, since: Instant) -> Observed {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        let lease = Lease { metadata: ObjectMeta::default(), spec: Some(spec) };
        Observed { lease: Some(lease), since: Some(since) }
    }

    #[rstest]
    #[case::free("", 0, Step::Take)]
    #[case::ours("me", 0, Step::Take)]
    #[case::held("other", 0, Step::Wait)]
    #[case::held_to_the_last("other", 15, Step::Wait)]
    #[case::expired("other", 16, Step::Take)]
    fn lease_is_taken_when_its_holder_is_silent(
        #[case] holder: &str,
        #[case] age: u64,
        #[case] want: Step,
    ) {
        let start = clock::monotonic();
        let seen = observed(holder, 15, start);
        assert_eq!(decide(&seen, "me", start + Duration::from_secs(age)), want);
    }

    #[test]
    fn absent_lease_is_created() {
        assert_eq!(decide(&Observed::default(), "me", clock::monotonic()), Step::Create);
    }

    #[test]
    fn released_lease_is_free() {
        let start = clock::monotonic();
        assert_eq!(decide(&observed("", 1, start), "me", start), Step::Take);
    }

    #[test]
    fn event_names_the_lease_and_the_holder() {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some("operator.dapr.io".to_owned()),
                namespace: Some("dapr-system".to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        let at = jiff::Timestamp::UNIX_EPOCH;
        let event = event(lease.object_ref(&()), "me", "became leader", at);
        assert_eq!(event.message.as_deref(), Some("me became leader"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("dapr-system"));
        let about = event.involved_object;
        let about = (about.kind, about.api_version, about.name);
        let want = ["Lease", "coordination.k8s.io/v1", "operator.dapr.io"];
        let want = want.map(|text| Some(text.to_owned()));
        assert_eq!([about.0, about.1, about.2], want);
    }

    #[test]
    fn takeover_counts_and_renewal_does_not() {
        let old = observed("other", 15, clock::monotonic()).lease.and_then(|l| l.spec);
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let taken = record(old.as_ref(), "me", LEASE, at(1));
        assert_eq!(taken.lease_transitions, Some(4));
        let renewed = record(Some(&taken), "me", LEASE, at(5));
        assert_eq!(renewed.lease_transitions, Some(4));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(5))));
        assert_eq!(record(None, "me", LEASE, at(1)).lease_transitions, Some(0));
    }
}
