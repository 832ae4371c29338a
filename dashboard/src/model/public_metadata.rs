//! The public metadata of official components: fields that the table of component types contains
//! and does not mark as secret.

use resources::component_types::{ComponentType, versions};

/// Metadata without secrets that daprd reads for every component type (Dapr 1.18).
const COMMON: [&str; 9] = [
    "actorStateStore",
    "keyPrefix",
    "outboxPublishPubsub",
    "outboxPublishTopic",
    "outboxPubsub",
    "outboxDiscardWhenMissingState",
    "consumerID",
    "direction",
    "ttlInSeconds",
];

/// Whether a metadata field of a component type is known, and no version marks it as a secret. An
/// unknown type has no public field except the common ones.
pub(crate) fn is_public(type_: &str, field: &str) -> bool {
    if COMMON.iter().any(|common| common.eq_ignore_ascii_case(field)) {
        return true;
    }
    let versions = versions(type_);
    let mut settings = versions
        .iter()
        .filter_map(ComponentType::settings)
        .flatten()
        .filter(|setting| setting.name.eq_ignore_ascii_case(field))
        .peekable();
    settings.peek().is_some() && settings.all(|setting| !setting.sensitive)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("state.redis", "redisHost", true)]
    #[case("STATE.REDIS", "REDISHOST", true)]
    #[case("state.redis", "redisPassword", false)]
    #[case("state.redis", "noSuchField", false)]
    #[case("state.no-such-type", "redisHost", false)]
    #[case("state.no-such-type", "actorStateStore", true)]
    fn only_known_fields_without_mark_are_public(
        #[case] type_: &str,
        #[case] field: &str,
        #[case] want: bool,
    ) {
        assert_eq!(is_public(type_, field), want);
    }
}
