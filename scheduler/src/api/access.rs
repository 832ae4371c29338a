//! Authorisation: a caller acts for its own app only. Source: Dapr 1.18; reserved actor types Dapr
//! 1.19.

use identity::SpiffeId;
use proto::scheduler::KnownMetadata;
use proto::scheduler::job_target_metadata::Type;

use crate::error::Refusal;
use crate::stored::names::target;

/// Actor types of the workflow engine, followed by `<namespace>.<app id>.<kind>`.
const RESERVED: &str = "dapr.internal.";
/// Reminders with these names carry the result of an activity to the workflow of another app.
const ACTIVITY_RESULT: &str = "activity-result-";
/// Suffix of the types that they are sent to.
const WORKFLOW: &str = ".workflow";

/// The identity of the caller.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Caller<'a> {
    /// mTLS is off: the request is trusted.
    Unproven,
    /// mTLS is on; the id of the certificate, when it names a workload.
    Proven(Option<&'a SpiffeId>),
}

/// Checks that the request is the caller's own.
///
/// # Errors
/// No namespace or app id, or those of another app.
pub(crate) fn check_identity(
    caller: Caller<'_>,
    namespace: &str,
    app_id: &str,
) -> Result<(), Refusal> {
    if namespace.is_empty() || app_id.is_empty() {
        return Err(Refusal::Incomplete);
    }
    let Caller::Proven(id) = caller else { return Ok(()) };
    let proven = id.and_then(|id| Some((id.namespace()?, id.app_id()?)));
    match proven.ok_or(Refusal::NoIdentity)? {
        proven if proven == (namespace, app_id) => Ok(()),
        _ => Err(Refusal::OtherIdentity),
    }
}

/// Checks that the job belongs to the caller. `scheduled` is its name where it is being scheduled:
/// results of activities go to workflows of other apps.
///
/// # Errors
/// As [`check_identity`], or the actor type is reserved for another app.
pub(crate) fn check(
    caller: Caller<'_>,
    metadata: &KnownMetadata,
    scheduled: Option<&str>,
) -> Result<(), Refusal> {
    let KnownMetadata { namespace, app_id, .. } = metadata;
    check_identity(caller, namespace, app_id)?;
    let Some(Type::Actor(actor)) = target(metadata) else { return Ok(()) };
    let result = scheduled.is_some_and(|name| name.starts_with(ACTIVITY_RESULT))
        && actor.r#type.starts_with(&format!("{RESERVED}{namespace}."))
        && actor.r#type.ends_with(WORKFLOW);
    if result { Ok(()) } else { check_type(namespace, app_id, &actor.r#type) }
}

/// Checks that a sidecar may host this actor type.
///
/// # Errors
/// It is reserved for another app.
pub(crate) fn check_type(namespace: &str, app_id: &str, actor_type: &str) -> Result<(), Refusal> {
    if !actor_type.starts_with(RESERVED) {
        return Ok(());
    }
    // Compared by prefix: app ids may contain dots.
    let own = format!("{RESERVED}{namespace}.{app_id}.");
    match actor_type.strip_prefix(&own) {
        Some(kind) if !kind.is_empty() && !kind.contains('.') => Ok(()),
        _ => Err(Refusal::ReservedType(actor_type.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proto::scheduler::{JobTargetMetadata, TargetActorReminder};
    use rstest::rstest;
    use tonic::{Code, Status};

    use super::*;

    fn metadata(actor_type: &str) -> KnownMetadata {
        let actor = TargetActorReminder { id: "1".into(), r#type: actor_type.into() };
        KnownMetadata {
            app_id: "cart".into(),
            namespace: "shop".into(),
            target: Some(JobTargetMetadata { r#type: Some(Type::Actor(actor)) }),
            concurrency_key: None,
        }
    }

    #[rstest]
    #[case("spiffe://public/ns/shop/cart", None)]
    #[case("spiffe://other.domain/ns/shop/cart", None)]
    #[case("spiffe://public/ns/shop/other", Some(Code::PermissionDenied))]
    #[case("spiffe://public/ns/other/cart", Some(Code::PermissionDenied))]
    #[case("spiffe://public/else", Some(Code::Unauthenticated))]
    fn a_caller_speaks_for_itself(#[case] id: &str, #[case] want: Option<Code>) {
        let id = SpiffeId::parse(id).unwrap();
        let got = check(Caller::Proven(Some(&id)), &metadata("cat"), None);
        assert_eq!(got.err().map(|refusal| Status::from(refusal).code()), want);
    }

    #[test]
    fn without_mtls_only_emptiness_is_refused() {
        assert!(check(Caller::Unproven, &metadata("cat"), None).is_ok());
        assert!(matches!(check_identity(Caller::Unproven, "", "a"), Err(Refusal::Incomplete)));
        assert!(matches!(check_identity(Caller::Unproven, "n", ""), Err(Refusal::Incomplete)));
        assert!(matches!(check_identity(Caller::Proven(None), "n", "a"), Err(Refusal::NoIdentity)));
    }

    #[rstest]
    #[case("cat", None, true)]
    #[case("dapr.internal.shop.cart.workflow", None, true)]
    #[case("dapr.internal.shop.cart.activity", Some("run-activity"), true)]
    #[case("dapr.internal.shop.cart.", None, false)]
    #[case("dapr.internal.shop.cart.a.b", None, false)]
    #[case("dapr.internal.shop.other.workflow", None, false)]
    #[case("dapr.internal.shop.other.workflow", Some("activity-result-1"), true)]
    #[case("dapr.internal.shop.other.workflow", Some("timer-1"), false)]
    #[case("dapr.internal.shop.other.activity", Some("activity-result-1"), false)]
    #[case("dapr.internal.else.cart.workflow", Some("activity-result-1"), false)]
    fn types_of_the_workflow_engine_are_reserved(
        #[case] actor_type: &str,
        #[case] scheduled: Option<&str>,
        #[case] allowed: bool,
    ) {
        let got = check(Caller::Unproven, &metadata(actor_type), scheduled);
        assert_eq!(got.is_ok(), allowed, "{got:?}");
    }
}
