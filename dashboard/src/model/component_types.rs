//! Which metadata of official components is public: the operator's table, with what its origin does
//! not mark as secret.

const TABLE: &str = include_str!("../../../operator/data/component-types.txt");

/// Metadata that daprd reads for every component type and that is no secret (Dapr 1.18).
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
/// unknown type has no public field but the common ones.
pub(crate) fn is_public(type_: &str, field: &str) -> bool {
    if COMMON.iter().any(|common| common.eq_ignore_ascii_case(field)) {
        return true;
    }
    let mut known = false;
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let Some((head, metadata)) = line.split_once(':') else { continue };
        let names = head.split_whitespace().next().unwrap_or_default();
        if !names.split(',').any(|name| name.eq_ignore_ascii_case(type_)) {
            continue;
        }
        for word in metadata.split_whitespace() {
            if word.trim_end_matches(['!', '*']).eq_ignore_ascii_case(field) {
                if word.ends_with('*') {
                    return false;
                }
                known = true;
            }
        }
    }
    known
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
