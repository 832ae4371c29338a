//! Checks the first message of a sidecar's stream.

use std::sync::Arc;

use proto::scheduler::concurrency_limit::Target;
use proto::scheduler::{JobTargetType, WatchJobsRequestInitial};

use crate::engine::event::{ConcurrencyLimit, Registration, StreamId};
use crate::error::Refusal;

use super::access::{self, Caller};

/// Checks the first message.
///
/// # Errors
/// Another app's identity or actor type, an accepted type that is unknown or given twice.
pub(crate) fn check(
    caller: Caller<'_>,
    initial: &WatchJobsRequestInitial,
    stream: StreamId,
) -> Result<Registration, Refusal> {
    let WatchJobsRequestInitial { app_id, namespace, .. } = initial;
    access::check_identity(caller, namespace, app_id)?;
    let [jobs, reminders] = accepted(&initial.accept_job_types)?;
    for actor_type in &initial.actor_types {
        access::check_type(namespace, app_id, actor_type)?;
    }
    let actor_types = initial.actor_types.iter().filter(|_| reminders);
    Ok(Registration {
        stream,
        namespace: namespace.as_str().into(),
        app_id: jobs.then(|| app_id.as_str().into()),
        actor_types: actor_types.map(|name| Arc::from(name.as_str())).collect(),
        limits: initial.concurrency_limits.iter().filter_map(limit).collect(),
    })
}

/// Whether jobs and whether reminders are accepted. An empty list accepts both.
fn accepted(types: &[i32]) -> Result<[bool; 2], Refusal> {
    let mut accepted = [types.is_empty(); 2];
    for number in types {
        let kind = JobTargetType::try_from(*number).map_err(|_| Refusal::UnknownType(*number))?;
        let [jobs, reminders] = &mut accepted;
        let one = match kind {
            JobTargetType::Job => jobs,
            JobTargetType::ActorReminder => reminders,
        };
        if std::mem::replace(one, true) {
            return Err(Refusal::DuplicateType(kind.as_str_name()));
        }
    }
    Ok(accepted)
}

/// Limits without a value or an actor type limit nothing.
fn limit(sent: &proto::scheduler::ConcurrencyLimit) -> Option<ConcurrencyLimit> {
    let Target::Actor(actor) = sent.target.as_ref()?;
    let max_concurrent = u32::try_from(sent.max_concurrent).ok().filter(|max| *max > 0)?;
    Some(ConcurrencyLimit {
        actor_type: actor.r#type.as_str().into(),
        name: sent.name.as_deref().map(Into::into),
        max_concurrent,
    })
}

/// The registered prefixes, for the log.
pub(crate) fn prefixes(registration: &Registration) -> Vec<String> {
    let Registration { namespace, app_id, actor_types, .. } = registration;
    let app = app_id.iter().map(|app_id| format!("app||{namespace}||{app_id}||"));
    let types = actor_types.iter().map(|name| format!("actorreminder||{namespace}||{name}||"));
    app.chain(types).collect()
}

#[cfg(test)]
mod tests {
    use proto::scheduler::ConcurrencyLimitActor;
    use rstest::rstest;

    use super::*;

    fn initial(accept: &[i32]) -> WatchJobsRequestInitial {
        WatchJobsRequestInitial {
            app_id: "app".into(),
            namespace: "ns".into(),
            actor_types: vec!["cat".into()],
            accept_job_types: accept.to_vec(),
            concurrency_limits: vec![],
        }
    }

    #[rstest]
    #[case(&[], &["app||ns||app||", "actorreminder||ns||cat||"])]
    #[case(&[0], &["app||ns||app||"])]
    #[case(&[1], &["actorreminder||ns||cat||"])]
    #[case(&[1, 0], &["app||ns||app||", "actorreminder||ns||cat||"])]
    fn a_stream_gets_what_it_accepts_and_lists(#[case] accept: &[i32], #[case] want: &[&str]) {
        let got = check(Caller::Unproven, &initial(accept), StreamId(1)).unwrap();
        assert_eq!(prefixes(&got), want);
    }

    #[rstest]
    #[case(&[0, 0], "duplicate target type specified: JOB_TARGET_TYPE_JOB")]
    #[case(&[1, 0, 1], "duplicate target type specified: JOB_TARGET_TYPE_ACTOR_REMINDER")]
    #[case(&[7], "7 is not a target type")]
    fn refuses_lists(#[case] accept: &[i32], #[case] want: &str) {
        let error = check(Caller::Unproven, &initial(accept), StreamId(1)).unwrap_err();
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn only_reminders_without_types_is_idle() {
        let only = WatchJobsRequestInitial { actor_types: vec![], ..initial(&[1]) };
        let got = check(Caller::Unproven, &only, StreamId(1)).unwrap();
        assert!(prefixes(&got).is_empty());
    }

    #[test]
    fn types_of_other_apps_are_refused() {
        let name = "dapr.internal.ns.other.workflow".to_owned();
        let other = WatchJobsRequestInitial { actor_types: vec![name], ..initial(&[]) };
        let error = check(Caller::Unproven, &other, StreamId(1)).unwrap_err();
        assert!(matches!(error, Refusal::ReservedType(_)));
    }

    #[test]
    fn limits_without_value_or_target_are_left_out() {
        let actor = || Some(Target::Actor(ConcurrencyLimitActor { r#type: "cat".into() }));
        let limit = |max_concurrent, target| proto::scheduler::ConcurrencyLimit {
            max_concurrent,
            name: Some("key".into()),
            target,
        };
        let limits = vec![limit(0, actor()), limit(-1, actor()), limit(2, None), limit(3, actor())];
        let sent = WatchJobsRequestInitial { concurrency_limits: limits, ..initial(&[]) };
        let got = check(Caller::Unproven, &sent, StreamId(1)).unwrap().limits;
        let want = ConcurrencyLimit {
            actor_type: "cat".into(),
            name: Some("key".into()),
            max_concurrent: 3,
        };
        assert_eq!(got, [want]);
    }
}
