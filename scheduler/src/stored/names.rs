//! Names of jobs as they are stored. Source: Dapr 1.18.
//!
//! A composed name is never split: names and ids may contain the delimiter.

use proto::scheduler::KnownMetadata;
use proto::scheduler::job_target_metadata::Type;

/// Why a name is invalid. Source of the texts: Dapr 1.18.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("unknown job type: the metadata has no target")]
    NoTarget,
    #[error("job name cannot be empty")]
    Empty,
    #[error("job name is invalid \"{name}\": {rule}")]
    Invalid { name: String, rule: &'static str },
}

/// Bytes of a composed name.
const MAX_NAME_BYTES: usize = 512;

/// The target of a request's or a record's metadata.
pub(crate) fn target(metadata: &KnownMetadata) -> Option<&Type> {
    metadata.target.as_ref()?.r#type.as_ref()
}

/// A composed name without the short name.
///
/// # Errors
/// The metadata has no target.
pub(crate) fn prefix(metadata: &KnownMetadata) -> Result<String, NameError> {
    let KnownMetadata { namespace, app_id, .. } = metadata;
    match target(metadata) {
        Some(Type::Job(_)) => Ok(format!("app||{namespace}||{app_id}||")),
        Some(Type::Actor(actor)) => {
            Ok(format!("actorreminder||{namespace}||{}||{}||", actor.r#type, actor.id))
        }
        None => Err(NameError::NoTarget),
    }
}

/// The prefix of the listed jobs: of an app, an actor, or all actors of a type.
///
/// # Errors
/// The metadata has no target.
pub(crate) fn list_prefix(metadata: &KnownMetadata) -> Result<String, NameError> {
    match target(metadata) {
        Some(Type::Actor(actor)) if actor.id.is_empty() => {
            Ok(format!("actorreminder||{}||{}||", metadata.namespace, actor.r#type))
        }
        _ => prefix(metadata),
    }
}

/// The composed name of a job.
///
/// # Errors
/// The metadata has no target, or the name breaks a rule.
pub(crate) fn composed(metadata: &KnownMetadata, name: &str) -> Result<String, NameError> {
    let composed = prefix(metadata)? + name;
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    check(&composed)?;
    Ok(composed)
}

/// Checks a composed name, or a prefix followed by any letter.
///
/// # Errors
/// The rule that the name breaks.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    let invalid = |rule| Err(NameError::Invalid { name: name.to_owned(), rule });
    if name.len() > MAX_NAME_BYTES {
        invalid("must be at most 512 characters")
    } else if name.contains(['/', '\\', '#', '?']) {
        invalid("must not contain '/', '\\', '#' or '?'")
    } else if name.chars().any(char::is_control) {
        invalid("must not contain control characters")
    } else {
        // `.` and `..` are refused as short names of nothing: a composed name has a prefix.
        Ok(())
    }
}

/// The short name of a stored job, by the metadata that is stored with it.
pub(crate) fn short<'a>(metadata: &KnownMetadata, composed: &'a str) -> &'a str {
    prefix(metadata).ok().and_then(|prefix| composed.strip_prefix(&prefix)).unwrap_or(composed)
}

#[cfg(test)]
mod tests {
    use proto::scheduler::{JobTargetMetadata, TargetActorReminder, TargetJob};
    use rstest::rstest;

    use super::*;

    fn of_app() -> KnownMetadata {
        KnownMetadata {
            app_id: "app".into(),
            namespace: "ns".into(),
            target: Some(JobTargetMetadata { r#type: Some(Type::Job(TargetJob {})) }),
            concurrency_key: None,
        }
    }

    fn of_actor(id: &str) -> KnownMetadata {
        let actor = TargetActorReminder { id: id.into(), r#type: "cat".into() };
        let target = JobTargetMetadata { r#type: Some(Type::Actor(actor)) };
        KnownMetadata { target: Some(target), ..of_app() }
    }

    #[rstest]
    #[case(of_app(), "a", "app||ns||app||a")]
    #[case(of_app(), "a||b| @Ä", "app||ns||app||a||b| @Ä")]
    #[case(of_actor("1||2"), "a", "actorreminder||ns||cat||1||2||a")]
    fn composes_and_shortens(#[case] of: KnownMetadata, #[case] name: &str, #[case] want: &str) {
        assert_eq!(composed(&of, name).unwrap(), want);
        assert_eq!(short(&of, want), name);
    }

    #[rstest]
    #[case("", "job name cannot be empty")]
    #[case(
        "a/b",
        r#"job name is invalid "app||ns||app||a/b": must not contain '/', '\', '#' or '?'"#
    )]
    #[case("a\u{85}", "must not contain control characters")]
    #[case("a\n", "must not contain control characters")]
    #[case("\u{7f}", "must not contain control characters")]
    fn refuses(#[case] name: &str, #[case] want: &str) {
        let text = composed(&of_app(), name).unwrap_err().to_string();
        assert!(text.ends_with(want), "{text}");
    }

    #[test]
    fn names_are_512_bytes_at_most() {
        let longest = "x".repeat(MAX_NAME_BYTES - "app||ns||app||".len());
        assert!(composed(&of_app(), &longest).is_ok());
        let text = composed(&of_app(), &(longest + "x")).unwrap_err().to_string();
        assert!(text.ends_with("must be at most 512 characters"), "{text}");
    }

    #[test]
    fn lists_are_of_an_app_an_actor_or_a_type() {
        assert_eq!(list_prefix(&of_app()).unwrap(), "app||ns||app||");
        assert_eq!(list_prefix(&of_actor("1")).unwrap(), "actorreminder||ns||cat||1||");
        assert_eq!(list_prefix(&of_actor("")).unwrap(), "actorreminder||ns||cat||");
        let none = KnownMetadata { target: None, ..of_app() };
        assert!(matches!(list_prefix(&none), Err(NameError::NoTarget)));
    }
}
