//! Stored jobs as people see them. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::Message as _;
use proto::cron;
use proto::scheduler::JobMetadata;
use proto::scheduler::job_target_metadata::Type;
use serde::Serialize;

use super::flags::Kind;

/// An entry of the scheduler. Members are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job {
    /// Its key without the prefix of the store.
    pub(super) key: String,
    /// Number of the record, which its counter repeats; `None` if it cannot be decoded.
    #[serde(skip)]
    partition_id: Option<u64>,
    pub(super) kind: Kind,
    pub(super) namespace: String,
    /// The app that scheduled it.
    pub(super) app_id: String,
    /// App id, or type of the actor.
    pub(super) target: String,
    /// Id of the actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actor_id: Option<String>,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repeats: Option<u32>,
    /// Creation, or the first trigger of a job with a due time.
    pub(super) begin: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure_policy: Option<String>,
    /// Triggers that are finished.
    pub(super) count: u32,
    pub(super) last_trigger: Option<Timestamp>,
    /// Failed deliveries of the current trigger.
    pub(super) attempts: u32,
    pub(super) payload: Option<Payload>,
    /// Why the record cannot be decoded; the scheduler does not run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// What is known of a payload without showing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payload {
    #[serde(rename = "type")]
    type_url: String,
    bytes: usize,
    /// Base64; only if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Job {
    /// Decodes a record. One that cannot be decoded is an entry with an error.
    pub(super) fn read(key: &str, record: &[u8], show_payload: bool) -> Self {
        let record = cron::Job::decode(record).map_err(|error| error.to_string());
        let job = record.and_then(|record| Self::of(key, record, show_payload));
        job.unwrap_or_else(|error| Self { error: Some(error), ..Self::empty(key) })
    }

    fn of(key: &str, record: cron::Job, show_payload: bool) -> Result<Self, String> {
        let spec = record.job.ok_or("the record has no job")?;
        let metadata = spec.metadata.as_ref().ok_or("the record has no metadata")?;
        let metadata = JobMetadata::decode(metadata.value.as_slice());
        let metadata = metadata.map_err(|error| format!("metadata: {error}"))?;
        let known = metadata.known();
        let target = known.target.as_ref().and_then(|target| target.r#type.as_ref());
        let namespace = known.namespace.clone();
        let (kind, target, actor_id, prefix) = match target.ok_or("the record has no target")? {
            Type::Job(_) => {
                let prefix = format!("app||{namespace}||{}||", known.app_id);
                (Kind::Job, known.app_id.clone(), None, prefix)
            }
            Type::Actor(actor) => {
                let prefix =
                    format!("actorreminder||{namespace}||{}||{}||", actor.r#type, actor.id);
                (actor_kind(&actor.r#type), actor.r#type.clone(), Some(actor.id.clone()), prefix)
            }
        };
        let begin = record.begin.map(|begin| match begin {
            cron::job::Begin::Start(at) | cron::job::Begin::DueTime(at) => at,
        });
        let payload = spec.payload.map(|payload| Payload {
            type_url: payload.type_url,
            bytes: payload.value.len(),
            value: show_payload.then(|| STANDARD.encode(&payload.value)),
        });
        Ok(Self {
            partition_id: Some(record.partition_id),
            kind,
            namespace,
            app_id: known.app_id.clone(),
            target,
            actor_id,
            name: key.strip_prefix(&prefix).unwrap_or(key).to_owned(),
            schedule: spec.schedule,
            due_time: spec.due_time,
            ttl: spec.ttl,
            repeats: spec.repeats,
            begin: begin.and_then(instant),
            expires: record.expiration.and_then(instant),
            failure_policy: spec.failure_policy.and_then(policy),
            payload,
            ..Self::empty(key)
        })
    }

    fn empty(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            partition_id: None,
            kind: Kind::Unreadable,
            namespace: String::new(),
            app_id: String::new(),
            target: String::new(),
            actor_id: None,
            name: key.to_owned(),
            schedule: None,
            due_time: None,
            ttl: None,
            repeats: None,
            begin: None,
            expires: None,
            failure_policy: None,
            count: 0,
            last_trigger: None,
            attempts: 0,
            payload: None,
            error: None,
        }
    }

    /// Adds what the counter of the job says. One of an earlier job of the same name counts nothing.
    pub(super) fn apply(&mut self, counter: &cron::Counter) {
        if self.partition_id == Some(counter.job_partition_id) {
            self.count = counter.count;
            self.last_trigger = counter.last_trigger.and_then(instant);
            self.attempts = counter.attempts;
        }
    }
}

/// Workflows are actors of reserved types (Dapr 1.18).
fn actor_kind(actor_type: &str) -> Kind {
    match (actor_type.starts_with("dapr.internal."), actor_type.rsplit('.').next()) {
        (true, Some("workflow")) => Kind::Workflow,
        (true, Some("activity")) => Kind::Activity,
        _ => Kind::Reminder,
    }
}

fn policy(policy: cron::FailurePolicy) -> Option<String> {
    use cron::failure_policy::Policy;
    Some(match policy.policy? {
        Policy::Drop(_) => "drop".to_owned(),
        Policy::Constant(constant) => {
            let interval = constant.interval.unwrap_or_default();
            let (seconds, millis) = (interval.seconds, interval.nanos / 1_000_000);
            let every =
                if millis == 0 { format!("{seconds}s") } else { format!("{seconds}.{millis:03}s") };
            match constant.max_retries {
                Some(1) => format!("1 retry after {every}"),
                Some(retries) => format!("{retries} retries, {every} apart"),
                None => format!("retries without end, {every} apart"),
            }
        }
    })
}

/// A point in time that cannot be represented is not shown.
fn instant(at: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// Upper limit of a key, that of the scheduler.
const MAX_KEY_BYTES: usize = 512;

/// The stored key that a person's key means.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn stored_key(text: &str, namespace: &str) -> Result<String, String> {
    let mut parts = text.splitn(2, '/');
    let key = match (parts.next(), parts.next()) {
        (_, None) => text.to_owned(),
        (Some("app"), Some(rest)) => {
            let (app, name) = rest.split_once('/').ok_or_else(|| malformed(text))?;
            format!("app||{namespace}||{app}||{name}")
        }
        (Some("actor"), Some(rest)) => {
            let mut parts = rest.splitn(3, '/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(kind), Some(id), Some(name)) => {
                    format!("actorreminder||{namespace}||{kind}||{id}||{name}")
                }
                _ => return Err(malformed(text)),
            }
        }
        _ => return Err(malformed(text)),
    };
    if key.is_empty() || key.contains('/') {
        return Err(malformed(text));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(format!("a key has at most {MAX_KEY_BYTES} bytes"));
    }
    Ok(key)
}

fn malformed(text: &str) -> String {
    format!(
        "{text:?} is no key: use one of `daprctl jobs list`, app/APP-ID/NAME or actor/TYPE/ID/NAME"
    )
}
